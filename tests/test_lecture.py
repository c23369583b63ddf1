"""The lecture's worked examples, by hand and by the package, and the commands of docs/explanation/lecture.md."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from test_cli import run

from styletransfer.encoder.layers import output_size
from styletransfer.encoder.vgg import Encoder

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = [
    line.strip()
    for line in (ROOT / "docs/explanation/lecture.md").read_text().splitlines()
    if line.startswith("    styletransfer ")
]
LAPLACE = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
# The lecture's four patches overlap in this image; values it does not give are 0.
IMAGE = np.array([[52, 59, 78, 101], [59, 64, 79, 112], [138, 142, 153, 184], [226, 227, 235, 0], [240, 239, 242, 0]])


def test_convolution_by_hand_is_correct() -> None:
    """All four of the lecture's numbers are right: the sum of the four neighbors minus four times the center."""
    for row, column, by_hand in (
        (0, 0, 59 + 59 + 79 + 142 - 4 * 64),
        (1, 0, 64 + 138 + 153 + 227 - 4 * 142),
        (2, 0, 142 + 226 + 235 + 239 - 4 * 227),
        (0, 1, 78 + 64 + 112 + 153 - 4 * 79),
    ):
        patch = IMAGE[row : row + 3, column : column + 3]
        assert (LAPLACE * patch).sum() == by_hand == {(0, 0): 83, (1, 0): 14, (2, 0): -66, (0, 1): 91}[row, column]


def test_encoder_matches_the_convolution_by_hand() -> None:
    """ReLU sets negative values to 0; a second filter with the negated kernel shows them."""
    red = torch.zeros(2, 3, 3, 3)
    red[0, 0], red[1, 0] = torch.tensor(LAPLACE), -torch.tensor(LAPLACE)
    image = torch.zeros(1, 3, *IMAGE.shape)
    image[0, 0] = torch.tensor(IMAGE)
    positive, negative = Encoder({"conv1_1": (red, torch.zeros(2))}, ["conv1_1"])(image)["conv1_1"][0]
    assert positive[1:4, 1].tolist() == [83, 14, 0] and positive[1, 2] == 91
    assert negative[1:4, 1].tolist() == [0, 0, 66] and negative[1, 2] == 0


def test_backpropagation_by_the_chain_rule_matches_autograd() -> None:
    """Two inputs, two hidden and two output neurons, all sigmoid, and the squared error ½ Σ (y − t)²."""

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    x, t = np.array([0.05, 0.10]), np.array([0.01, 0.99])
    w1, b1 = np.array([[0.15, 0.20], [0.25, 0.30]]), np.array([0.35, 0.35])
    w2, b2 = np.array([[0.40, 0.45], [0.50, 0.55]]), np.array([0.60, 0.60])

    h = sigmoid(w1 @ x + b1)
    y = sigmoid(w2 @ h + b2)
    error = 0.5 * np.sum((y - t) ** 2)
    # δ = ∂E/∂z of each neuron: ∂E/∂(its output) times the derivative of the sigmoid, σ' = σ (1 − σ).
    delta2 = (y - t) * y * (1 - y)
    delta1 = np.array([sum(delta2[k] * w2[k, j] for k in range(2)) * h[j] * (1 - h[j]) for j in range(2)])
    by_hand = {
        "w1": [[delta1[j] * x[i] for i in range(2)] for j in range(2)],
        "b1": delta1,
        "w2": [[delta2[k] * h[j] for j in range(2)] for k in range(2)],
        "b2": delta2,
    }

    leaves = {name: torch.tensor(value).requires_grad_() for name, value in zip(by_hand, (w1, b1, w2, b2), strict=True)}
    hidden = torch.sigmoid(leaves["w1"] @ torch.tensor(x) + leaves["b1"])
    output = torch.sigmoid(leaves["w2"] @ hidden + leaves["b2"])
    loss = 0.5 * (output - torch.tensor(t)).square().sum()
    loss.backward()
    np.testing.assert_allclose(loss.item(), error, rtol=1e-12)
    for name, gradient in by_hand.items():
        np.testing.assert_allclose(leaves[name].grad.numpy(), gradient, rtol=1e-12, err_msg=name)

    # A small step against the gradient lowers the error by the step times the squared gradient.
    rate, slope = 1e-4, sum(np.square(gradient).sum() for gradient in by_hand.values())
    w1, b1, w2, b2 = (w - rate * np.asarray(g) for w, g in zip((w1, b1, w2, b2), by_hand.values(), strict=True))
    after = 0.5 * np.sum((sigmoid(w2 @ sigmoid(w1 @ x + b1) + b2) - t) ** 2)
    np.testing.assert_allclose(error - after, rate * slope, rtol=1e-3)


@given(size=st.integers(1, 60), kernel=st.integers(1, 9), stride=st.integers(1, 6), padding=st.integers(0, 5))
def test_output_size_formula_matches_torch(size: int, kernel: int, stride: int, padding: int) -> None:
    assume(size + 2 * padding >= kernel)
    image, weights = torch.zeros(1, 1, size, size), torch.zeros(1, 1, kernel, kernel)
    convolved = F.conv2d(image, weights, stride=stride, padding=padding)
    assert convolved.shape[2:] == (output_size(size, kernel, stride, padding),) * 2


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_lecture_commands_run_as_written(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")
    Path("out").mkdir()
    _, *arguments = shlex.split(command)
    code, out, err = run(*arguments, capsys=capsys)
    notices = [line for line in err.splitlines() if "this takes up to about" not in line]  # on slow processors
    assert (code, notices) == (0, []) and out
    if "-o" in arguments:
        output = Path(arguments[-1])
        images = sorted(output.glob("*.png")) if output.is_dir() else [output]
        assert images and all(image.stat().st_size > 10_000 for image in images)
