"""The loss terms against plain numpy in float64."""

import numpy as np
import torch

from styletransfer.losses import content_loss, gamut_loss, gram_matrix, style_loss, total_variation

RNG = np.random.default_rng(1)


def test_gram_matrix_is_the_mean_product_over_positions() -> None:
    f = RNG.normal(size=(1, 3, 4, 5))
    expected = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            expected[i, j] = sum(f[0, i, y, x] * f[0, j, y, x] for y in range(4) for x in range(5)) / 20
    np.testing.assert_allclose(gram_matrix(torch.tensor(f)).numpy(), expected, rtol=1e-12)


def test_content_and_style_loss_are_mean_squares() -> None:
    a, b = RNG.normal(size=(2, 1, 3, 4, 5))
    np.testing.assert_allclose(content_loss(torch.tensor(a), torch.tensor(b)).item(), ((a - b) ** 2).sum() / 60)
    g, h = RNG.normal(size=(2, 7, 7))
    np.testing.assert_allclose(style_loss(torch.tensor(g), torch.tensor(h)).item(), ((g - h) ** 2).sum() / 49)


def test_total_variation_of_a_ramp() -> None:
    ramp = torch.arange(6.0).repeat(1, 3, 4, 1)  # rises by 1 per column, by 0 per row
    assert total_variation(ramp).item() == 1.0
    assert total_variation(2 * ramp.mT).item() == 4.0


def test_gamut_loss_counts_only_what_lies_outside() -> None:
    assert gamut_loss(torch.tensor([0.0, 0.5, 1.0])).item() == 0
    np.testing.assert_allclose(gamut_loss(torch.tensor([-0.5, 0.5, 1.25, 1.0])).item(), (0.25 + 0.0625) / 4)
