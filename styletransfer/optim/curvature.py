"""L-BFGS's inverse Hessian, with a diagonal one in the Fourier domain to start from.

Everything stays on the image's device, and the host never waits for a GPU: it reads no value.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

#: Number of pairs of steps and gradient differences that are kept. Within the default iterations 20 do as well, in
#: longer runs they do not (docs/explanation/performance.md).
HISTORY = 50
#: Edges of the bands of spatial frequency in cycles per pixel; the highest frequency of an image is √½.
BANDS = (0.0, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 1.0)
#: Decay factor of a band's squared norms whenever a pair is measured.
MEMORY = 0.9
#: The spectrum is measured on every so many-th pair.
MEASURE_EVERY = 10
#: Number of pieces that vectors in bfloat16 are cut into for products.
PIECES = 512
#: Luminance, red against blue, green against magenta, orthonormal: the axes along which colors of photographs vary.
OPPONENT = ((3**-0.5, 3**-0.5, 3**-0.5), (2**-0.5, 0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))


class Spectrum:
    """A diagonal inverse Hessian in the Fourier domain of opponent colors, one value for each band of frequencies.

    The curvature of the style transfer loss differs sixtyfold between coarse luminance and fine color. In runs of
    several hundred iterations L-BFGS alone, which starts from a multiple of the identity, needed a quarter more; within
    the default iterations it makes no difference (docs/explanation/performance.md). The value of a band is the ratio of
    the norms of steps and gradient differences in it: the spectral form of Barzilai and Borwein, *Two-Point Step Size
    Gradient Methods*, IMA J. Numer. Anal. 1988.
    """

    def __init__(self, image: Tensor) -> None:
        self.size = image.shape[2], image.shape[3]
        fy, fx = torch.fft.fftfreq(self.size[0]), torch.fft.rfftfreq(self.size[1])
        radius = (fy[:, None] ** 2 + fx**2).sqrt()
        self.band = (torch.bucketize(radius, torch.tensor(BANDS), right=True, out_int32=True) - 1).to(image.device)
        # A real transform leaves out half of the columns, which repeat these.
        self.twice = ((fx > 0) & (fx < 0.5)).to(image) + 1
        self.colors = torch.tensor(OPPONENT, dtype=image.dtype, device=image.device)
        self.steps = image.new_zeros(3, len(BANDS) - 1)
        self.slopes = self.steps.clone()
        self.gain = torch.ones_like(self.steps)

    def _transform(self, image: Tensor, color: Tensor) -> Tensor:
        plane = (color @ image[0].flatten(1)).view(self.size)
        return cast(Tensor, torch.fft.rfft2(plane, norm="ortho"))

    def apply(self, gradient: Tensor) -> Tensor:
        """Return the product with an image-shaped tensor 1×3×H×W."""
        result = torch.zeros_like(gradient)
        for color, gain in zip(self.colors, self.gain, strict=True):  # one by one, to save memory
            spectrum = self._transform(gradient, color).mul_(gain[self.band])
            result[0].addcmul_(color[:, None, None], torch.fft.irfft2(spectrum, s=self.size, norm="ortho"))
        return result

    def _square_transform(self, image: Tensor, color: Tensor) -> Tensor:
        return torch.view_as_real(self._transform(image, color)).square_().sum(-1).mul_(self.twice)

    def energy(self, image: Tensor) -> Tensor:
        """Return the squared norm of an image 1×3×H×W by color and band: 3×bands."""
        result = torch.zeros_like(self.steps)
        for color, norms in zip(self.colors, result, strict=True):
            norms.index_add_(0, self.band.flatten(), self._square_transform(image, color).flatten())
        return result

    def norm(self, image: Tensor) -> Tensor:
        """Return xᵀPx of an image x, 1×3×H×W: its squared coefficients times their gains, summed without sorting."""
        result = self.steps.new_zeros(())
        for color, gain in zip(self.colors, self.gain, strict=True):
            result += self._square_transform(image, color).mul_(gain[self.band]).sum()
        return result

    def learn(self, step: Tensor, slope: Tensor) -> None:
        """Update the gains by the squared norms, 3×bands, of a step and of its gradient difference."""
        tiny = torch.finfo(step.dtype).tiny
        self.steps = MEMORY * self.steps + step / step.sum().clamp(min=tiny)
        self.slopes = MEMORY * self.slopes + slope / slope.sum().clamp(min=tiny)
        known = (self.steps > 0) & (self.slopes > 0)
        self.gain = torch.where(known, (self.steps / self.slopes).sqrt(), 1.0)


class InverseHessian:
    """The inverse Hessian of limited-memory BFGS (Nocedal and Wright, *Numerical Optimization*, section 7.2).

    It holds the last `history` pairs of a step s and its gradient difference y, and starts from a `Spectrum` instead of
    the identity. The two-loop recursion (algorithm 7.4) is written as two triangular systems in the products sᵢᵀyⱼ, so
    that only four matrix-vector products involve vectors as long as the image.
    """

    def __init__(self, image: Tensor, history: int = HISTORY, dtype: torch.dtype | None = None) -> None:
        """Create an empty history for images like this one. `dtype` is of the pairs; bfloat16 halves their memory."""
        self.spectrum = Spectrum(image)
        self.history = history
        self.steps, self.slopes = (_Rows(history, image, dtype or image.dtype) for _ in range(2))
        # products[i, j] = sᵢᵀyⱼ where i is no younger than j. Small systems are solved in float64, which MPS lacks.
        exact = torch.float32 if image.device.type == "mps" else torch.float64
        self.products = torch.eye(history, dtype=exact, device=image.device)
        self.alive = torch.zeros(history, dtype=torch.bool, device=image.device)
        self.scale = image.new_ones(())
        self.pairs = 0

    def state(self) -> dict[str, Tensor]:
        """Return all that was learned, for `load`; later calls of `learn` change these tensors."""
        return {
            "pairs": torch.tensor(self.pairs),
            "pair_steps": self.steps.table,
            "pair_slopes": self.slopes.table,
            "products": self.products,
            "alive": self.alive,
            "scale": self.scale,
            "spectrum_steps": self.spectrum.steps,
            "spectrum_slopes": self.spectrum.slopes,
            "spectrum_gain": self.spectrum.gain,
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of an instance with the same history, dtype and image size."""
        self.pairs = int(state["pairs"])
        for name, tensor in self.state().items():
            if name != "pairs":
                tensor.copy_(state[name])

    def inherit(self, state: Mapping[str, Tensor]) -> None:
        """Load the spectrum of a state, if it has one; the state may be of images of another size.

        The spectrum stems from the network's kernels, which are equally many pixels wide at every size; its bands are
        in cycles per pixel.
        """
        own = self.state()
        for name, tensor in spectrum_of(state).items():
            own[name].copy_(tensor)

    def forget(self, really: Tensor) -> None:
        """Drop all pairs if the 0-dimensional boolean tensor is true."""
        self.alive = self.alive & ~really

    def learn(self, step: Tensor, slope: Tensor) -> None:
        """Add a pair, images 1×3×H×W. One without positive curvature only displaces the oldest."""
        s, y = step.flatten(), slope.flatten()
        new = self.pairs % self.history
        self.pairs += 1
        self.steps.set(new, s)
        self.slopes.set(new, y)
        products = self.steps.products(y)
        self.products[:, new] = products.to(self.products.dtype)
        self.alive[new] = products[new] > 1e-10 * s.norm() * y.norm()
        if new % MEASURE_EVERY == 0:
            self.spectrum.learn(self.spectrum.energy(step), self.spectrum.energy(slope))
        # sᵀy / yᵀPy, with the spectrum P (Nocedal and Wright, eq. 7.20).
        self.scale = torch.where(self.alive[new], products[new] / self.spectrum.norm(slope), self.scale)

    def apply(self, gradient: Tensor) -> Tensor:
        """Return H·g, an image 1×3×H×W. Without any pair it is the gradient scaled by the spectrum."""
        oldest, g = self.pairs % self.history, gradient.flatten()
        alive = self.alive.roll(-oldest)
        triangle = self.products.roll((-oldest, -oldest), (0, 1)).triu() * (alive[:, None] & alive)
        triangle = triangle + torch.diag((~alive).to(triangle.dtype))

        def solve(matrix: Tensor, values: Tensor, upper: bool) -> Tensor:
            solution: Tensor = torch.linalg.solve_triangular(matrix, (values * alive)[:, None], upper=upper)
            return solution[:, 0]

        def sort_by_age(values: Tensor) -> Tensor:
            return values.roll(-oldest).to(triangle.dtype)

        def sort_by_slot(values: Tensor) -> Tensor:
            return values.roll(oldest).to(g.dtype)

        # The recursion's αᵢ = sᵢᵀq / sᵢᵀyᵢ with q = g − Σ_{j>i} αⱼyⱼ, then its αᵢ − βᵢ.
        first = solve(triangle, sort_by_age(self.steps.products(g)), upper=True)
        q = self.slopes.add_rows(g, sort_by_slot(-first))
        r = self.spectrum.apply(q.view_as(gradient)).mul_(self.scale).flatten()
        del q
        second = solve(triangle.T, triangle.diagonal() * first - sort_by_age(self.slopes.products(r)), upper=False)
        return self.steps.add_rows(r, sort_by_slot(second)).view_as(gradient)


def spectrum_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of a state that `InverseHessian.inherit` needs; the rest is large."""
    return {name: tensor for name, tensor in state.items() if name.startswith("spectrum")}


class _Rows:
    """A table of vectors, each cut into pieces: pieces × rows × length.

    Rows in bfloat16 take half the memory and time, but a product rounded to bfloat16 is too inexact for the triangular
    systems: the products of the pieces are rounded one by one and added in float32.
    """

    def __init__(self, count: int, image: Tensor, dtype: torch.dtype) -> None:
        self.size, pieces = image.numel(), PIECES if dtype == torch.bfloat16 else 1
        self.table = image.new_zeros(pieces, count, -(-self.size // pieces), dtype=dtype)
        # In float32 torch's BLAS takes two to four times as long for a matrix of such long rows as row by row.
        self._by_row = image.device.type == "cpu" and pieces == 1

    def _cut(self, vector: Tensor) -> Tensor:
        pieces, _, length = self.table.shape
        cut = self.table.new_zeros(pieces * length)
        cut[: self.size] = vector
        return cut.view(pieces, length)

    def set(self, row: int, vector: Tensor) -> None:
        self.table[:, row] = self._cut(vector)

    def products(self, vector: Tensor) -> Tensor:
        """Return the product of each row with a vector."""
        if self._by_row:
            return torch.stack([torch.dot(row, vector) for row in self.table[0]])
        return torch.bmm(self.table, self._cut(vector)[:, :, None]).to(vector.dtype).sum(0)[:, 0]

    def add_rows(self, vector: Tensor, factors: Tensor) -> Tensor:
        """Return a vector plus Σ factorᵢ · rowᵢ."""
        if self._by_row:
            total = vector.clone()
            for factor, row in zip(factors.tolist(), self.table[0], strict=True):
                total.add_(row, alpha=factor)
            return total
        weights = factors.to(self.table.dtype).expand(len(self.table), 1, -1)
        return vector + torch.bmm(weights, self.table).flatten()[: self.size]
