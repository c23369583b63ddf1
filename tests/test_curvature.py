"""L-BFGS's memory against the dense BFGS formula, and its spectrum against numpy's Fourier transform."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from styletransfer.optim.curvature import BANDS, InverseHessian, Spectrum

SHAPE = (1, 3, 6, 7)
SIZE = 3 * 6 * 7


def image(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values).reshape(SHAPE)


def dense(hessian: InverseHessian) -> np.ndarray:
    """The matrix whose products `apply` gives."""
    return np.stack([hessian.apply(image(e)).flatten().numpy() for e in np.eye(SIZE)], axis=1)


def dense_spectrum(spectrum: Spectrum) -> np.ndarray:
    return np.stack([spectrum.apply(image(e)).flatten().numpy() for e in np.eye(SIZE)], axis=1)


@pytest.mark.parametrize("pairs", [1, 3, 8, 21])
def test_it_is_the_bfgs_update_of_its_last_pairs(pairs: int) -> None:
    """Nocedal and Wright, eq. 7.16, in dense float64: H ← (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ."""
    rng, history = np.random.default_rng(0), 5
    root = rng.normal(size=(SIZE, SIZE))
    truth = root @ root.T / SIZE + np.eye(SIZE)
    hessian = InverseHessian(torch.zeros(SHAPE, dtype=torch.float64), history)
    seen = []
    for _ in range(pairs):
        s = rng.normal(size=SIZE)
        seen.append((s, truth @ s))
        hessian.learn(image(s), image(truth @ s))
    s, y = seen[-1]
    p = dense_spectrum(hessian.spectrum)
    expected = p * (s @ y) / (y @ p @ y)
    for s, y in seen[-history:]:
        v = np.eye(SIZE) - np.outer(y, s) / (s @ y)
        expected = v.T @ expected @ v + np.outer(s, s) / (s @ y)
    np.testing.assert_allclose(dense(hessian), expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(hessian.apply(image(y)).flatten().numpy(), s, rtol=1e-8)  # the secant equation


def test_pairs_without_curvature_and_forgotten_ones_have_no_say() -> None:
    rng = np.random.default_rng(1)
    s, t = rng.normal(size=(2, SIZE))
    plain, other = (InverseHessian(torch.zeros(SHAPE, dtype=torch.float64), 4) for _ in range(2))
    for hessian in (plain, other):
        hessian.learn(image(s), image(2 * s))
    other.learn(image(t), image(-t))
    other.learn(image(0 * t), image(0 * t))
    np.testing.assert_allclose(dense(other), dense(plain), rtol=1e-12)
    other.forget(torch.tensor(False))
    assert other.alive.any()
    other.forget(torch.tensor(True))
    other.learn(image(t), image(-t))
    matrix, start = dense(other), dense_spectrum(other.spectrum)
    np.testing.assert_allclose(matrix, start * matrix[0, 0] / start[0, 0], atol=1e-12)


def test_energies_are_those_of_the_whole_transform() -> None:
    """numpy's full transform, band by band; together they are the squared norm (Parseval)."""
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


def test_the_spectrum_of_a_function_that_is_diagonal_there_is_its_inverse_hessian() -> None:
    """A quadratic that weighs fine detail a hundred times more than coarse: after one pair its inverse is known."""
    x = torch.tensor(np.random.default_rng(3).normal(size=(1, 3, 16, 16)))
    spectrum, curved = Spectrum(x), Spectrum(x)
    curved.gain = torch.logspace(0, 2, len(BANDS) - 1, dtype=torch.float64).repeat(3, 1)
    spectrum.learn(spectrum.energy(x), spectrum.energy(curved.apply(x)))
    back = spectrum.apply(curved.apply(x))
    np.testing.assert_allclose((back / x).numpy(), (back / x).mean().item(), rtol=1e-9)


def test_a_finer_scale_starts_with_the_spectrum_of_the_coarser() -> None:
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
            picture = torch.tensor(np.cos(2 * np.pi * (wave[0] * y + wave[1] * x) / 32))[:side, :side]
            picture = picture.expand(1, 3, side, side)
            result = hessian.apply(picture) / hessian.scale
            if side == 16:
                expected = float(result[0, 0, 0, 0] / picture[0, 0, 0, 0])
        np.testing.assert_allclose(result.numpy(), expected * picture.numpy(), rtol=1e-9, atol=1e-9)
    fine.inherit({})


def test_the_spectrum_is_symmetric_and_positive() -> None:
    spectrum = Spectrum(torch.zeros(SHAPE, dtype=torch.float64))
    spectrum.gain = torch.tensor(np.random.default_rng(4).uniform(0.1, 10, (3, len(BANDS) - 1)))
    matrix = dense_spectrum(spectrum)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    assert np.linalg.eigvalsh(matrix).min() > 0.09
