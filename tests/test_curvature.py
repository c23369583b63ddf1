"""L-BFGS's history compared with the dense BFGS formula, and its spectrum with numpy's Fourier transform."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from styletransfer.optim.curvature import BANDS, InverseHessian, Spectrum

SHAPE = (1, 3, 6, 7)
SIZE = 3 * 6 * 7


def image(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values).reshape(SHAPE)


def hessian_matrix(hessian: InverseHessian) -> np.ndarray:
    """Return the matrix that `apply` multiplies by."""
    return np.stack([hessian.apply(image(e)).flatten().numpy() for e in np.eye(SIZE)], axis=1)


def spectrum_matrix(spectrum: Spectrum) -> np.ndarray:
    return np.stack([spectrum.apply(image(e)).flatten().numpy() for e in np.eye(SIZE)], axis=1)


@pytest.mark.parametrize("pairs", [1, 3, 8, 21])
def test_inverse_hessian_is_the_bfgs_update_of_its_last_pairs(pairs: int) -> None:
    """Nocedal and Wright, eq. 7.16, in dense float64: H ← (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ."""
    rng, history = np.random.default_rng(0), 5
    root = rng.normal(size=(SIZE, SIZE))
    truth = root @ root.T / SIZE + np.eye(SIZE)
    hessian = InverseHessian(torch.zeros(SHAPE, dtype=torch.float64), history)
    learned = []
    for _ in range(pairs):
        s = rng.normal(size=SIZE)
        learned.append((s, truth @ s))
        hessian.learn(image(s), image(truth @ s))
    s, y = learned[-1]
    p = spectrum_matrix(hessian.spectrum)
    expected = p * (s @ y) / (y @ p @ y)
    for s, y in learned[-history:]:
        v = np.eye(SIZE) - np.outer(y, s) / (s @ y)
        expected = v.T @ expected @ v + np.outer(s, s) / (s @ y)
    np.testing.assert_allclose(hessian_matrix(hessian), expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(hessian.apply(image(y)).flatten().numpy(), s, rtol=1e-8)  # the secant equation


def test_pairs_without_curvature_and_forgotten_pairs_are_ignored() -> None:
    rng = np.random.default_rng(1)
    s, t = rng.normal(size=(2, SIZE))
    plain, other = (InverseHessian(torch.zeros(SHAPE, dtype=torch.float64), 4) for _ in range(2))
    for hessian in (plain, other):
        hessian.learn(image(s), image(2 * s))
    other.learn(image(t), image(-t))
    other.learn(image(0 * t), image(0 * t))
    np.testing.assert_allclose(hessian_matrix(other), hessian_matrix(plain), rtol=1e-12)
    other.forget(torch.tensor(False))
    assert other.alive.any()
    other.forget(torch.tensor(True))
    other.learn(image(t), image(-t))
    matrix, start = hessian_matrix(other), spectrum_matrix(other.spectrum)
    np.testing.assert_allclose(matrix, start * matrix[0, 0] / start[0, 0], atol=1e-12)


def test_band_energies_match_the_full_fourier_transform() -> None:
    """Computed with numpy's transform, band by band; the bands sum to the squared norm (Parseval)."""
    for height, width in ((8, 10), (9, 7), (1, 2)):
        rng = np.random.default_rng(2)
        x = rng.normal(size=(1, 3, height, width))
        spectrum = Spectrum(torch.tensor(x))
        energy = spectrum.energy(torch.tensor(x)).numpy()
        np.testing.assert_allclose(energy.sum(), (x**2).sum())
        luminance = np.abs(np.fft.fft2(x[0].sum(0) / 3**0.5, norm="ortho")) ** 2
        radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
        expected = [luminance[(radius >= a) & (radius < b)].sum() for a, b in pairwise(BANDS)]
        np.testing.assert_allclose(energy[0], expected, atol=1e-12)
        spectrum.gain = torch.tensor(rng.uniform(0.1, 10, spectrum.gain.shape))
        product = (spectrum.apply(torch.tensor(x)).numpy() * x).sum()
        np.testing.assert_allclose(spectrum.norm(torch.tensor(x)).item(), product)


def test_spectrum_learns_the_inverse_hessian_of_a_function_diagonal_in_frequency() -> None:
    """A quadratic that weights fine detail a hundred times more than coarse: one pair determines its inverse."""
    x = torch.tensor(np.random.default_rng(3).normal(size=(1, 3, 16, 16)))
    spectrum, curved = Spectrum(x), Spectrum(x)
    curved.gain = torch.logspace(0, 2, len(BANDS) - 1, dtype=torch.float64).repeat(3, 1)
    spectrum.learn(spectrum.energy(x), spectrum.energy(curved.apply(x)))
    back = spectrum.apply(curved.apply(x))
    np.testing.assert_allclose((back / x).numpy(), (back / x).mean().item(), rtol=1e-9)


def test_finer_scale_starts_with_the_spectrum_of_the_coarser() -> None:
    """The same gain for the same cycles per pixel, and no pairs."""
    rng = np.random.default_rng(6)
    coarse, fine = (InverseHessian(torch.zeros(1, 3, side, side, dtype=torch.float64), 4) for side in (16, 32))
    for _ in range(3):
        coarse.learn(*torch.tensor(rng.normal(size=(2, 1, 3, 16, 16))))
    assert len(coarse.spectrum.gain.unique()) > 3
    fine.inherit(coarse.state())
    y, x = np.mgrid[:32, :32]
    for wave in ((0, 4), (6, 2), (14, 14)):
        for hessian, side in ((coarse, 16), (fine, 32)):
            hessian.forget(torch.tensor(True))
            pattern = torch.tensor(np.cos(2 * np.pi * (wave[0] * y + wave[1] * x) / 32))[:side, :side]
            pattern = pattern.expand(1, 3, side, side)
            result = hessian.apply(pattern) / hessian.scale
            if side == 16:
                expected = float(result[0, 0, 0, 0] / pattern[0, 0, 0, 0])
        np.testing.assert_allclose(result.numpy(), expected * pattern.numpy(), rtol=1e-9, atol=1e-9)
    fine.inherit({})


def test_spectrum_is_symmetric_and_positive_definite() -> None:
    spectrum = Spectrum(torch.zeros(SHAPE, dtype=torch.float64))
    spectrum.gain = torch.tensor(np.random.default_rng(4).uniform(0.1, 10, (3, len(BANDS) - 1)))
    matrix = spectrum_matrix(spectrum)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    assert np.linalg.eigvalsh(matrix).min() > 0.09
