"""Trains `vgg19-lite.safetensors`, the bundled encoder: a trunk of a fifth of VGG-19's multiply-adds, distilled.

    python weights/distill.py --photos FOLDER --paintings FOLDER [--steps 5000] [-o FILE]

**Architecture.** From conv3_1 on all of VGG-19's filters, each of which looks at few directions of the layer before
(`Convolution.projection`); fewer filters in the first two blocks, whose maps are large (README.md has what else was
tried).

**Start.** Layer by layer: the directions of the student's layer before that matter most to VGG-19's kernels, and for
narrow layers the filters of VGG-19 that between them tell most of all its filters' activations; each filter with the
least-squares weights that give its pre-activation from the student's layer before (as Zhang, Zou, He and Sun,
*Accelerating Very Deep Convolutional Networks*, 2015, fit their layers to the errors of those before).

**Training.** Of every layer the share of the variance of VGG-19's features F that the student leaves
unexplained, plus the relative error of the Gram matrices at the paper's style layers. A narrow layer's features f are
compared through a linear 1×1 head H. It is never trained: it is the least-squares one for the last batches' second
moments.

**Its own pictures.** An optimized picture shows a network what no photograph does: it finds whatever lowers the
student's loss and not VGG-19's, which is seen as grain. So every few hundred steps pictures are made with the student
as it is, and it learns what VGG-19 sees in them. Some are made with VGG-19, so that it knows the way to the end.

**Gradients.** What an optimizer follows is the gradient with respect to the picture, which two networks can disagree on
though their features are alike. So in the last part the loss also holds the distance of the two networks' gradients of
content and style losses, weighted at random around the defaults (*Sobolev Training for Neural Networks*, Czarnecki,
Osindero, Jaderberg, Swirszcz, Pascanu, 2017). A step then takes more than twice as long.

**Metric.** What is kept of H is T, n×n, with TᵀT = HᵀH·n/N: distances of T·f are those of H·f (`Convolution.metric`).

A run that was interrupted goes on where it was when the same command is given again; --start trains a finished network
further. A tenth of the pictures is held out; the report at the end is about those, and about pictures that the student
has made of them.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from crops import OWN_CROP, Pictures, Triple, below, crop, load_pictures, make_batch, split
from torch import Tensor, nn

from styletransfer import Options
from styletransfer.encoder import Encoder, weights
from styletransfer.encoder.convolution import Convolution
from styletransfer.encoder.formats import Convolutions
from styletransfer.encoder.layers import VGG19_WIDTHS
from styletransfer.files import sha256_of
from styletransfer.images import to_pil
from styletransfer.losses.gram import gram_matrix
from styletransfer.options import LAYERS
from styletransfer.runtime.hardware import select_precision
from styletransfer.transfer import open_session

TRUNK = LAYERS[: LAYERS.index("conv5_1") + 1]
#: Filters of each layer, and how many directions of the layer before they look at if not all: chosen for the least
#: error at a quarter of VGG-19's time (README.md).
WIDTHS = dict(zip(TRUNK, (24, 32, 64, 72, 256, 256, 256, 256, 512, 512, 512, 512, 512), strict=True))
RANKS = {layer: {"3": 32, "4": 64, "5": 128}[layer[4]] for layer in TRUNK if layer[4] > "2"}
#: Layers with fewer filters than VGG-19 has: their features are compared through heads.
NARROW = tuple(layer for layer in TRUNK if WIDTHS[layer] < VGG19_WIDTHS[layer])
OPTIONS = Options()
STYLE_LAYERS = tuple(OPTIONS.style_weights)
#: What a layer counts in the loss: those of the default losses more than the others.
SHARES = {layer: 1.0 if layer in OPTIONS.style_weights or layer in OPTIONS.content_weights else 0.3 for layer in TRUNK}
GRAM_SHARE, GRADIENT_SHARE = 1.0, 1.0
#: The last part of the steps, in which gradients count too, and what layers count in them on average.
GRADIENTS_FROM = 0.35
DEFAULT_SHARES = {
    **{layer: OPTIONS.alpha * share for layer, share in OPTIONS.content_weights.items()},
    **{layer: OPTIONS.beta * share for layer, share in OPTIONS.style_weights.items()},
}
START_BATCHES, START_POSITIONS = 8, 4096
#: Relative to the size of each tensor at the start: they differ by a factor of two hundred.
LEARNING_RATE, WARM_UP, LAST = 1e-3, 50, 0.02
MEMORY = 0.98  # of the moments that the heads follow from, in each step
OWN_EVERY, OWN_PICTURES, OWN_KEPT = 300, 8, 400
BY_TEACHER = 2  # of these
SAVE_EVERY, SETTLING = 250, 60


# --- networks ------------------------------------------------------------------------------------------------------


class Student(nn.Module):
    """The trunk: projection where there is one, 3×3 convolution, ReLU; average pooling between blocks, replicated
    borders."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.biases, self.projections = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        channels = 3
        for layer, width in WIDTHS.items():
            if layer in RANKS:
                self.projections[layer] = torch.zeros(RANKS[layer], channels)
            self.weights[layer] = torch.zeros(width, RANKS.get(layer, channels), 3, 3)
            self.biases[layer] = torch.zeros(width)
            channels = width

    def convolution(self, name: str) -> Convolution:
        """As `Encoder.convolution`."""
        weight = self.weights[name].contiguous(memory_format=torch.channels_last)
        return Convolution(weight, self.biases[name], self.projections.get(name))

    @torch.no_grad()
    def take(self, convolutions: Convolutions) -> None:
        """Takes over the weights of a finished network."""
        for name, layer in convolutions.items():
            self.weights[name].copy_(layer.weight)
            self.biases[name].copy_(layer.bias)
            if layer.projection is not None:
                self.projections[name].copy_(layer.projection)

    @torch.no_grad()
    def finished(self, heads: "Heads") -> Convolutions:
        """As the package loads them, with the metrics of narrow layers."""
        metrics = {layer: heads.metric(layer) for layer in NARROW}
        return {layer: self.convolution(layer)._replace(metric=metrics.get(layer)) for layer in TRUNK}


def pooled(name: str, x: Tensor) -> Tensor:
    """What a layer gets, from the features of the layer before."""
    return F.avg_pool2d(x, 2) if name.endswith("_1") and name != "conv1_1" else x


def padded(name: str, x: Tensor, projection: Tensor | None) -> Tensor:
    """What a layer's 3×3 convolution gets, from the features of the layer before."""
    x = pooled(name, x)
    if projection is not None:
        x = F.conv2d(x, projection[:, :, None, None])
    return F.pad(x, (1, 1, 1, 1), mode="replicate")


def look(network: Student | Encoder, x: Tensor) -> dict[str, Tensor]:
    """``{layer: B×N×H×W}`` of either network, float32, for autograd."""
    features, x = {}, x.contiguous(memory_format=torch.channels_last)
    for name in TRUNK:
        layer = network.convolution(name)
        x = F.conv2d(padded(name, x.to(layer.weight.dtype), layer.projection), layer.weight, layer.bias).relu()
        features[name] = x.float()
    return features


def load_teacher() -> Encoder:
    """VGG-19, all of the trunk's layers."""
    return Encoder(weights.load_weights("vgg19-8bit").convolutions, TRUNK)


# --- the start -----------------------------------------------------------------------------------------------------


def choose_filters(gram: Tensor, count: int) -> list[int]:
    """The filters that between them tell most of all others' activations, chosen greedily from their Gram matrix."""
    left, chosen = gram.double().clone(), list[int]()
    for _ in range(count):
        energy = left.diagonal().clamp(min=0)
        gain = left.square().sum(0) / energy.clamp(min=1e-12 * float(energy.max()))
        gain[energy < 1e-9 * gram.diagonal().max()] = -1
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        column = left[:, best].clone()
        left -= torch.outer(column, column) / column[best].clamp(min=1e-12)
    return chosen


def choose_directions(inputs: Sequence[Tensor], kernel: Tensor, count: int) -> Tensor:
    """The projection r×C onto directions of a layer's inputs B×C×H×W that matter most to kernels on them, whitened.

    Args:
        kernel: N×C×3×3 of the teacher if it has the same channels, otherwise of another shape: then each channel
            counts alike.
    """
    covariance = torch.cat([x.transpose(0, 1).flatten(1) for x in inputs], 1).double().cov()
    covariance += 1e-6 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
    if kernel.shape[1] == len(covariance):
        importance = torch.einsum("ocij,odij->cd", kernel.double(), kernel.double())
    else:
        importance = (1 / covariance.diagonal()).diag()
    values, vectors = torch.linalg.eigh(covariance)
    root, inverse = vectors * values.sqrt() @ vectors.T, vectors / values.sqrt() @ vectors.T
    return (torch.linalg.eigh(root @ importance @ root)[1][:, -count:].T @ inverse).float()


@torch.no_grad()
def initialize(student: Student, teacher: Encoder, pictures: Sequence[Tensor], rng: torch.Generator) -> None:
    """Gives the student chosen filters and directions of the teacher, fitted to its own features layer by layer."""
    own, theirs = list(pictures), list(pictures)
    for name in TRUNK:
        kernel, bias = teacher.convolution(name)[:2]
        before = [F.conv2d(padded(name, x, None), kernel, bias) for x in theirs]
        theirs = [x.relu() for x in before]
        gram = torch.stack([gram_matrix(x[None]) for batch in theirs for x in batch]).sum(0)
        chosen = choose_filters(gram, WIDTHS[name]) if name in NARROW else list(range(len(bias)))
        if name in RANKS:
            inputs = [pooled(name, x) for x in own]
            student.projections[name].copy_(choose_directions(inputs, kernel, RANKS[name]))
        projection = student.convolution(name).projection
        normal, cross = torch.zeros(()), torch.zeros(())
        for x, wanted in zip(own, before, strict=True):
            patches = F.unfold(padded(name, x, projection), 3)
            some = torch.randperm(patches.shape[2], generator=rng)[:START_POSITIONS]
            patches = F.pad(patches[:, :, some], (0, 0, 0, 1), value=1.0).transpose(0, 1).flatten(1)
            wanted = wanted[:, chosen].flatten(2)[:, :, some].transpose(0, 1).flatten(1)
            normal, cross = normal + (patches @ patches.T).double(), cross + (wanted @ patches.T).double()
        solution = solve(normal, cross, 1e-4).float()
        student.weights[name].copy_(solution[:, :-1].view_as(student.weights[name]))
        student.biases[name].copy_(solution[:, -1])
        layer = student.convolution(name)
        own = [F.conv2d(padded(name, x, projection), layer.weight, layer.bias).relu() for x in own]


def solve(normal: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """The matrix X with X·normal = cross, regularized by a share of the mean diagonal."""
    ridge = ridge * float(normal.diagonal().mean())
    return torch.linalg.solve(normal + ridge * torch.eye(len(normal), dtype=normal.dtype), cross, left=False)


# --- training ------------------------------------------------------------------------------------------------------


class Heads:
    """The linear maps N×n from a narrow layer's features to the teacher's, from second moments of both.

    Args:
        memory: the share of the past that a batch leaves at most; with 1 all batches count alike.
    """

    def __init__(self, memory: float) -> None:
        self.memory, self.batches = memory, 0
        self.own: dict[str, Tensor] = {}
        self.cross: dict[str, Tensor] = {}

    def learn(self, features: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Takes in a batch; returns its moments, as `moments` gives them."""
        seen = {layer: moments(features[layer], targets[layer]) for layer in NARROW}
        past = min(self.memory, self.batches / (self.batches + 1))
        for layer, (own, cross) in seen.items():
            own, cross = own.detach().mean(0), cross.detach().mean(0)
            self.own[layer] = torch.lerp(own, self.own.get(layer, own), past)
            self.cross[layer] = torch.lerp(cross, self.cross.get(layer, cross), past)
        self.batches += 1
        return seen

    def head(self, layer: str) -> Tensor:
        """H, N×n."""
        return solve(self.own[layer], self.cross[layer], 1e-3)

    def metric(self, layer: str) -> Tensor:
        """T, n×n, upper triangular: TᵀT = HᵀH·n/N, so that what is relative to a sum over filters stays as it was."""
        head = self.head(layer).double()
        square = head.T @ head * (head.shape[1] / head.shape[0])
        square += 1e-9 * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
        return torch.linalg.cholesky(square, upper=True).float()


def moments(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Second moments per picture of features f, B×n×H×W, and of a target t with f: f fᵀ / M, B×n×n, and t fᵀ / M.

    All that a linear head on f does follows from them: its prediction, N filters wide, is never made.
    """
    f = features.flatten(2)
    return gram_matrices(features), target.flatten(2) @ f.mT / f.shape[2]


def gram_matrices(features: Tensor) -> Tensor:
    """Per picture, B×N×N, for autograd."""
    f = features.flatten(2)
    return f @ f.mT / f.shape[2]


def compare(
    features: dict[str, Tensor], targets: dict[str, Tensor], seen: dict[str, tuple[Tensor, Tensor]], heads: Heads
) -> dict[str, tuple[Tensor, Tensor]]:
    """Of every layer the share of the target's variance over batch and positions, all filters together, that the
    student misses, and per picture ‖G − A‖² / ‖A‖² of the Gram matrices.

    Args:
        seen: of narrow layers, their `moments`.
    """
    result = {}
    for layer, target in targets.items():
        power, wanted = target.square().mean((2, 3)).sum(), gram_matrices(target)
        if layer in seen:
            (own, cross), head = seen[layer], heads.head(layer)
            missed, gram = (head @ own * head).sum() - 2 * (head * cross).sum() + power, head @ own @ head.T
        else:
            missed = (features[layer] - target).square().mean((2, 3)).sum()
            gram = gram_matrices(features[layer])
        variance = power - len(target) * target.mean((0, 2, 3)).square().sum()
        result[layer] = missed / variance, (gram - wanted).square().sum((1, 2)) / wanted.square().sum((1, 2))
    return result


def feature_loss(
    features: dict[str, Tensor], targets: dict[str, Tensor], heads: Heads
) -> tuple[Tensor, dict[str, float]]:
    """How far the student is from explaining the targets, and the share that it leaves unexplained in each layer."""
    total, left = torch.zeros(()), {}
    for layer, (missed, gram_error) in compare(features, targets, heads.learn(features, targets), heads).items():
        left[layer] = float(missed.detach())
        total = total + SHARES[layer] * missed
        if layer in STYLE_LAYERS:
            total = total + GRAM_SHARE * gram_error.mean()
    return total, left


def image_gradient(
    features: dict[str, Tensor], targets: dict[str, Tensor], image: Tensor, shares: dict[str, Tensor]
) -> Tensor:
    """Of each picture's losses toward the photograph and the painting of its triple, with respect to the picture.

    Args:
        features: of the image, with respect to which they can be differentiated.
        targets: the same features, with respect to which they can't.
        shares: of every layer in the loss of every picture, B each.
    """
    photos = torch.arange(len(image)) // 3 * 3
    total = torch.zeros(())
    for layer, share in shares.items():
        f, target = features[layer], targets[layer]
        if layer in STYLE_LAYERS:
            f, target = gram_matrices(f), gram_matrices(target)
        target = target[photos + (layer in STYLE_LAYERS)].flatten(1)
        total = total + (share * (f.flatten(1) - target).square().sum(1) / target.square().sum(1)).sum()
    return torch.autograd.grad(total, image, create_graph=True)[0]


def gradient_mismatch(mine: Tensor, theirs: Tensor) -> Tensor:
    """Mean over pictures of ‖g − h‖² / (‖g‖² + ‖h‖²): 0 for the same gradients, 1 for orthogonal ones.

    Near the student's own optimum g is small; ‖h‖² alone below, or a cosine, would blow up here or there.
    """
    norms = mine.detach().flatten(1).square().sum(1) + theirs.flatten(1).square().sum(1)
    return ((mine - theirs).flatten(1).square().sum(1) / norms).mean()


def loss_of(
    training: "Training", teacher: Encoder, x: Tensor, gradients: bool
) -> tuple[Tensor, dict[str, float], float]:
    """The loss of a batch of triples, the share that each layer leaves unexplained, and the gradients' mismatch."""
    student, heads = training.student, training.heads
    image = x.clone().requires_grad_(gradients)
    with torch.set_grad_enabled(gradients):
        seen = look(teacher, image)
    targets = {layer: features.detach() for layer, features in seen.items()}
    features = look(student, image)
    total, left = feature_loss(features, targets, heads)
    if not gradients:
        return total, left, 1.0
    shares = {
        layer: share * torch.randn(len(x), generator=training.rng).exp() for layer, share in DEFAULT_SHARES.items()
    }
    theirs = image_gradient(seen, targets, image, shares).detach()
    metrics = {layer: heads.metric(layer)[:, :, None, None] for layer in NARROW}
    # The student's targets are its own, and move when it learns; without that, what it sees in its own optimum would
    # seem to depend on every weight.
    own, fixed = (
        {n: F.conv2d(f[n], metrics[n]) if n in metrics else f[n] for n in shares} for f in (features, look(student, x))
    )
    mismatch = gradient_mismatch(image_gradient(own, fixed, image, shares), theirs)
    return total + GRADIENT_SHARE * mismatch, left, float(mismatch.detach())


class Training:
    """All that a run needs to go on: the networks, the optimizer, the student's own pictures, the random numbers."""

    def __init__(self, path: Path) -> None:
        self.path, self.step = path, 0
        self.student, self.heads, self.own = Student(), Heads(MEMORY), list[Triple]()
        self.rng = torch.Generator().manual_seed(0)
        self.optimizer = torch.optim.Adam([{"params": [p]} for p in self.student.parameters()], betas=(0.9, 0.98))

    def begin(self) -> None:
        """Takes the student as it is for the start."""
        for group in self.optimizer.param_groups:
            group["size"] = float(group["params"][0].detach().square().mean().sqrt())

    def save(self) -> None:
        state = {
            "step": self.step,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "heads": (self.heads.batches, self.heads.own, self.heads.cross),
            "own": self.own,
            "rng": self.rng.get_state(),
        }
        torch.save(state, partial := self.path.with_suffix(".partial"))
        partial.replace(self.path)

    def load(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.step, self.own = state["step"], state["own"]
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.heads.batches, self.heads.own, self.heads.cross = state["heads"]
        self.rng.set_state(state["rng"])


def make_own_pictures(
    student: Student, heads: Heads, photos: Pictures, paintings: Pictures, rng: torch.Generator, by_teacher: int = 0
) -> list[Triple]:
    """Photographs, paintings and what the student, or VGG-19 for some, makes of them on the way.

    As uint8 3×OWN_CROP×OWN_CROP.
    """
    made: list[Triple] = []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "student.safetensors"
        weights.save(student.finished(heads), file)
        for index in range(OWN_PICTURES):
            photo, painting = (crop(pictures, OWN_CROP, rng) for pictures in (photos, paintings))
            scales, wanted = (("1", (30, 100)), ("2", (15, 40)))[below(2, rng)]
            options = Options(
                size=OWN_CROP,
                model="vgg19-8bit",
                weights=None if index < by_teacher else str(file),
                iterations=100,
                scales=scales,
                beta=10 ** (0.5 + 2 * float(torch.rand((), generator=rng))),
            )
            frames = list[Tensor]()
            with open_session(to_pil(photo[None]), to_pil(painting[None]), options) as session:
                for step in session:
                    if step.iteration in wanted and step.scale.content[0] == OWN_CROP:
                        frames.append(step.image[0].clamp(0, 1))
            bytes_of = [[(255 * x).round().byte() for x in (photo, painting, frame)] for frame in frames]
            made += [(a, b, c) for a, b, c in bytes_of]
    return made


def train(
    training: Training, teacher: Encoder, photos: Pictures, paintings: Pictures, steps: int, plain_steps: int
) -> None:
    """Trains with a learning rate that rises at first and then falls along a cosine; gradients count after a while."""
    start, begun = time.monotonic(), training.step
    while training.step < steps:
        step, rng, student, heads = training.step, training.rng, training.student, training.heads
        if step % OWN_EVERY == OWN_EVERY // 4:
            training.own += make_own_pictures(student, heads, photos, paintings, rng, BY_TEACHER)
            del training.own[:-OWN_KEPT]
        x = make_batch(photos, paintings, training.own, rng)
        loss, left, mismatch = loss_of(training, teacher, x, gradients=step >= plain_steps)
        rate = min(1, (step + 1) / WARM_UP) * max(LAST, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in training.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * group["size"] * rate
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()
        training.step += 1
        if training.step % 50 == 0:
            parts = "  ".join(f"{layer} {left[layer]:.3f}" for layer in TRUNK if SHARES[layer] == 1)
            seconds = (time.monotonic() - start) / (training.step - begun)
            print(
                f"step {training.step:5d}  {seconds:.2f} s each  loss {float(loss.detach()):.3f}  "
                f"gradients {mismatch:.3f}  left: {parts}",
                flush=True,
            )
        if training.step % SAVE_EVERY == 0 or training.step == steps:
            training.save()


# --- the end -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def settled_heads(training: Training, teacher: Encoder, photos: Pictures, paintings: Pictures) -> Heads:
    """The heads of the student as it is: of many batches, all counting alike."""
    heads = Heads(memory=1)
    for _ in range(SETTLING):
        x = make_batch(photos, paintings, training.own, training.rng)
        heads.learn(look(training.student, x), look(teacher, x))
    return heads


@torch.no_grad()
def report(student: Student, heads: Heads, teacher: Encoder, held_out: dict[str, Pictures]) -> str:
    """Per layer the share of variance explained and the Gram matrices' relative error on whole held-out pictures."""
    lines = ["layer     " + "".join(f"{kind + ': explained':>24}{'Gram error':>12}" for kind in held_out)]
    sums: dict[tuple[str, str], Tensor] = {}
    for kind, pictures in held_out.items():
        for scales in pictures:
            x = scales[min(1, len(scales) - 1)][None] / 255
            features, targets = look(student, x), look(teacher, x)
            seen = {layer: moments(features[layer], targets[layer]) for layer in NARROW}
            for layer, (missed, gram_error) in compare(features, targets, seen, heads).items():
                values = torch.stack([missed, gram_error[0].sqrt()])
                sums[kind, layer] = sums.get((kind, layer), torch.zeros(2)) + values / len(pictures)
    for layer in TRUNK:
        cells = [sums[kind, layer].tolist() for kind in held_out]
        lines.append(f"{layer:10}" + "".join(f"{1 - missed:24.1%}{error:12.1%}" for missed, error in cells))
    return "\n".join(lines)


def write(student: Student, heads: Heads, path: Path) -> None:
    """Writes the file that the package loads, in float16."""
    weights.save({name: layer.to(torch.float16) for name, layer in student.finished(heads).items()}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--paintings", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--start", type=Path, help="a file made before, instead of VGG-19's filters")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "vgg19-lite.safetensors")
    args = parser.parse_args()

    photos, photos_out = split(load_pictures(args.photos))
    paintings, paintings_out = split(load_pictures(args.paintings))
    teacher, training = load_teacher(), Training(args.output.with_suffix(".training"))
    if training.path.exists():
        training.load()
    elif args.start:
        training.student.take(weights.load(args.start))
    else:
        start = [make_batch(photos, paintings, [], training.rng) for _ in range(START_BATCHES)]
        initialize(training.student, teacher, start, training.rng)
    dtype = select_precision("auto", torch.device("cpu")).backward  # exact enough to learn from
    teacher.cast(dtype, dtype)
    if not training.step:
        training.begin()
        training.heads = settled_heads(training, teacher, photos, paintings)
        training.heads.memory = MEMORY
    plain_steps = 0 if args.start else round(GRADIENTS_FROM * args.steps)
    train(training, teacher, photos, paintings, args.steps, plain_steps)
    heads = settled_heads(training, teacher, photos, paintings)
    write(training.student, heads, args.output)
    teacher.cast(torch.float32, torch.float32)
    own = make_own_pictures(training.student, heads, photos_out, paintings_out, training.rng)
    held_out = {"photos": photos_out, "paintings": paintings_out, "own": [[picture] for *_, picture in own]}
    print(report(training.student, heads, teacher, held_out))
    print(f"{args.output}  SHA-256 {sha256_of(args.output)}")


if __name__ == "__main__":
    main()
