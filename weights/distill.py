"""Trains `vgg19-lite.safetensors`, the bundled encoder: a trunk of an eighth of VGG-19's multiply-adds, distilled.

    python weights/distill.py --photos FOLDER --paintings FOLDER [--steps 3200] [-o FILE]

**Start.** Layer by layer: the filters of VGG-19 that between them tell most of all its filters' activations, each with
the least-squares weights that give its pre-activation from the student's layer before (as Zhang, Zou, He and Sun,
*Accelerating Very Deep Convolutional Networks*, 2015, fit their layers to the errors of those before).

**Training.** A linear 1×1 head H maps each layer's features f to VGG-19's normalised features F. It is never trained:
it is the least-squares one for the last batches' second moments. The loss is the share of the variance of F that H·f
leaves unexplained, plus the relative error of the Gram matrices at the paper's style layers.

**Its own pictures.** An optimised picture shows a network what no photograph does: it finds whatever lowers the
student's loss and not VGG-19's, which is seen as grain. So every few hundred steps pictures are made with the student
as it is, and it learns what VGG-19 sees in them.

**Gradients.** What an optimiser follows is the gradient with respect to the picture, which two networks can disagree on
though their features are alike. So in the last part the loss also holds the distance of the two networks' gradients of
content and style losses, weighted at random around the defaults (*Sobolev Training for Neural Networks*, Czarnecki,
Osindero, Jaderberg, Swirszcz, Pascanu, 2017). A step then takes more than twice as long.

**Metric.** What is kept of H is T, n×n, with TᵀT = HᵀH·n/N: distances of T·f are those of H·f (`Encoder.metric`).

A run that was interrupted goes on where it was when the same command is given again; --start trains a finished network
further. A tenth of the pictures is held out; the report at the end is about those.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from crops import OWN_CROP, Pictures, Triple, below, crop, load_pictures, make_batch, split
from torch import Tensor, nn

from styletransfer import Options, stylize
from styletransfer.files import sha256_of
from styletransfer.machine.hardware import select_precision
from styletransfer.network import Encoder, weights
from styletransfer.objective.losses import gram_matrix
from styletransfer.options import LAYERS
from styletransfer.pictures import to_pil

TRUNK = LAYERS[: LAYERS.index("conv5_1") + 1]
#: Filters of each layer: chosen for the least error at a sixth of VGG-19's time (README.md).
WIDTHS = dict(zip(TRUNK, (16, 24, 48, 64, 96, 96, 80, 80, 176, 176, 176, 176, 256), strict=True))
OPTIONS = Options()
STYLE_LAYERS = tuple(OPTIONS.style_weights)
#: What a layer counts in the loss: those of the default losses more than the others.
SHARES = {layer: 1.0 if layer in OPTIONS.style_weights or layer in OPTIONS.content_weights else 0.3 for layer in TRUNK}
GRAM_SHARE, GRADIENT_SHARE = 0.25, 1.0
#: The last part of the steps, in which gradients count too, and what layers count in them on average.
GRADIENTS_FROM = 0.35
DEFAULT_SHARES = {
    **{layer: OPTIONS.alpha * share for layer, share in OPTIONS.content_weights.items()},
    **{layer: OPTIONS.beta * share for layer, share in OPTIONS.style_weights.items()},
}
START_BATCHES, START_POSITIONS = 8, 4096
LEARNING_RATE, WARM_UP, LAST = 1e-3, 50, 0.02
MEMORY = 0.98  # of the moments that the heads follow from, in each step
OWN_EVERY, OWN_PICTURES, OWN_KEPT = 250, 8, 400
SAVE_EVERY, SETTLING = 250, 60


# --- networks ------------------------------------------------------------------------------------------------------


class Student(nn.Module):
    """The trunk: 3×3 convolution and ReLU; average pooling between blocks, replicated borders."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *WIDTHS.values())
        shapes = {layer: (WIDTHS[layer], c, 3, 3) for layer, c in zip(TRUNK, inputs, strict=False)}
        self.weights = nn.ParameterDict({layer: torch.zeros(shape) for layer, shape in shapes.items()})
        self.biases = nn.ParameterDict({layer: torch.zeros(shape[0]) for layer, shape in shapes.items()})

    def convolution(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of one layer, as `Encoder.convolution`."""
        return self.weights[name].contiguous(memory_format=torch.channels_last), self.biases[name]

    @torch.no_grad()
    def take(self, convolutions: weights.Convolutions) -> None:
        """Takes over the weights of a finished network."""
        for name, (weight, bias) in convolutions.items():
            self.weights[name].copy_(weight)
            self.biases[name].copy_(bias)

    def convolutions(self) -> weights.Convolutions:
        """As the package loads them."""
        return {layer: (self.weights[layer].detach(), self.biases[layer].detach()) for layer in TRUNK}


def padded(name: str, x: Tensor) -> Tensor:
    """What a layer's convolution gets, from the features of the layer before."""
    if name.endswith("_1") and name != "conv1_1":
        x = F.avg_pool2d(x, 2)
    return F.pad(x, (1, 1, 1, 1), mode="replicate")


def look(network: Student | Encoder, x: Tensor) -> dict[str, Tensor]:
    """``{layer: B×N×H×W}`` of either network, float32, for autograd."""
    features, x = {}, x.contiguous(memory_format=torch.channels_last)
    for name in TRUNK:
        kernel, bias = network.convolution(name)
        x = F.conv2d(padded(name, x.to(kernel.dtype)), kernel, bias).relu()
        features[name] = x.float()
    return features


def load_teacher() -> Encoder:
    """VGG-19, normalised over photographs, all of the trunk's layers."""
    loaded = weights.load_model("vgg19-8bit")
    teacher, means = Encoder(loaded.convolutions, TRUNK), loaded.means("avg")
    assert means is not None
    teacher.normalize(means)
    return teacher


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


@torch.no_grad()
def initialize(student: Student, teacher: Encoder, pictures: Sequence[Tensor], rng: torch.Generator) -> None:
    """Gives the student chosen filters of the teacher, fitted to its own features layer by layer."""
    own, theirs = list(pictures), list(pictures)
    for name in TRUNK:
        kernel, bias = teacher.convolution(name)
        before = [F.conv2d(padded(name, x), kernel, bias) for x in theirs]
        theirs = [x.relu() for x in before]
        gram = torch.stack([gram_matrix(x[None]) for batch in theirs for x in batch]).sum(0)
        chosen = choose_filters(gram, WIDTHS[name]) if WIDTHS[name] < len(bias) else list(range(len(bias)))
        normal, cross = torch.zeros(()), torch.zeros(())
        for x, wanted in zip(own, before, strict=True):
            patches = F.unfold(padded(name, x), 3)
            some = torch.randperm(patches.shape[2], generator=rng)[:START_POSITIONS]
            patches = F.pad(patches[:, :, some], (0, 0, 0, 1), value=1.0).transpose(0, 1).flatten(1)
            wanted = wanted[:, chosen].flatten(2)[:, :, some].transpose(0, 1).flatten(1)
            normal, cross = normal + (patches @ patches.T).double(), cross + (wanted @ patches.T).double()
        solution = solve(normal, cross, 1e-4).float()
        student.weights[name].copy_(solution[:, :-1].view_as(student.weights[name]))
        student.biases[name].copy_(solution[:, -1])
        own = [F.conv2d(padded(name, x), *student.convolution(name)).relu() for x in own]


def solve(normal: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """The matrix X with X·normal = cross, regularised by a share of the mean diagonal."""
    ridge = ridge * float(normal.diagonal().mean())
    return torch.linalg.solve(normal + ridge * torch.eye(len(normal), dtype=normal.dtype), cross, left=False)


# --- training ------------------------------------------------------------------------------------------------------


class Heads:
    """The linear maps N×n from the student's features to the teacher's, from second moments of both.

    Args:
        memory: the share of the past that a batch leaves at most; with 1 all batches count alike.
    """

    def __init__(self, memory: float) -> None:
        self.memory, self.batches = memory, 0
        self.own: dict[str, Tensor] = {}
        self.cross: dict[str, Tensor] = {}

    def learn(self, features: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Takes in a batch; returns its moments, as `moments` gives them."""
        seen = {layer: moments(features[layer], targets[layer]) for layer in TRUNK}
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


def unexplained(head: Tensor, own: Tensor, cross: Tensor, target: Tensor) -> Tensor:
    """Share of the target's variance over batch and positions, all filters together, that a head misses."""
    power = target.square().mean((2, 3)).sum()
    missed = (head @ own * head).sum() - 2 * (head * cross).sum() + power
    return missed / (power - len(target) * target.mean((0, 2, 3)).square().sum())


def gram_errors(head: Tensor, own: Tensor, target: Tensor) -> Tensor:
    """Per picture ‖G − A‖² / ‖A‖² of the Gram matrices of prediction and target."""
    wanted = gram_matrices(target)
    return (head @ own @ head.T - wanted).square().sum((1, 2)) / wanted.square().sum((1, 2))


def feature_loss(
    features: dict[str, Tensor], targets: dict[str, Tensor], heads: Heads
) -> tuple[Tensor, dict[str, float]]:
    """How far heads are from explaining the targets, and the share that each layer leaves unexplained."""
    total, left = torch.zeros(()), {}
    for layer, (own, cross) in heads.learn(features, targets).items():
        head = heads.head(layer)
        missed = unexplained(head, own, cross, targets[layer])
        left[layer] = float(missed.detach())
        total = total + SHARES[layer] * missed
        if layer in STYLE_LAYERS:
            total = total + GRAM_SHARE * gram_errors(head, own, targets[layer]).mean()
    return total, left


def image_gradient(
    features: dict[str, Tensor], targets: dict[str, Tensor], image: Tensor, shares: dict[str, Tensor]
) -> Tensor:
    """Of each picture's losses towards the photograph and the painting of its triple, with respect to the picture.

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
    metrics = {layer: heads.metric(layer)[:, :, None, None] for layer in shares}
    # The student's targets are its own, and move when it learns; without that, what it sees in its own optimum would
    # seem to depend on every weight.
    own, fixed = ({n: F.conv2d(f[n], t) for n, t in metrics.items()} for f in (features, look(student, x)))
    mismatch = gradient_mismatch(image_gradient(own, fixed, image, shares), theirs)
    return total + GRADIENT_SHARE * mismatch, left, float(mismatch.detach())


class Training:
    """All that a run needs to go on: the networks, the optimiser, the student's own pictures, the random numbers."""

    def __init__(self, path: Path) -> None:
        self.path, self.step = path, 0
        self.student, self.heads, self.own = Student(), Heads(MEMORY), list[Triple]()
        self.rng = torch.Generator().manual_seed(0)
        self.optimizer = torch.optim.Adam(self.student.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))

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
    student: Student, heads: Heads, photos: Pictures, paintings: Pictures, rng: torch.Generator
) -> list[Triple]:
    """Photographs, paintings and what the student makes of them on the way, uint8 3×OWN_CROP×OWN_CROP."""
    made: list[Triple] = []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "student.safetensors"
        weights.save(student.convolutions(), file, {layer: heads.metric(layer) for layer in TRUNK})
        for _ in range(OWN_PICTURES):
            photo, painting = (crop(pictures, OWN_CROP, rng) for pictures in (photos, paintings))
            frames, wanted = list[Tensor](), ((15, 60), (30, 100))[below(2, rng)]
            beta = 10 ** (0.5 + 2 * float(torch.rand((), generator=rng)))
            options = Options(size=OWN_CROP, weights=str(file), iterations=max(wanted), scales="1", beta=beta)

            def keep(step: Any, frames: list[Tensor] = frames, wanted: tuple[int, ...] = wanted) -> None:
                if step.iteration in wanted:
                    frames.append(step.image[0].clamp(0, 1))

            stylize(to_pil(photo[None]), to_pil(painting[None]), options, callback=keep)
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
            training.own += make_own_pictures(student, heads, photos, paintings, rng)
            del training.own[:-OWN_KEPT]
        x = make_batch(photos, paintings, training.own, rng)
        loss, left, mismatch = loss_of(training, teacher, x, gradients=step >= plain_steps)
        rate = min(1, (step + 1) / WARM_UP) * max(LAST, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in training.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
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
    linear = {layer: heads.head(layer) for layer in TRUNK}
    for kind, pictures in held_out.items():
        for scales in pictures:
            x = scales[min(1, len(scales) - 1)][None] / 255
            targets = look(teacher, x)
            for layer, features in look(student, x).items():
                own, cross = moments(features, targets[layer])
                left = unexplained(linear[layer], own, cross, targets[layer])
                values = torch.stack([left, gram_errors(linear[layer], own, targets[layer])[0].sqrt()])
                sums[kind, layer] = sums.get((kind, layer), torch.zeros(2)) + values / len(pictures)
    for layer in TRUNK:
        cells = [sums[kind, layer].tolist() for kind in held_out]
        lines.append(f"{layer:10}" + "".join(f"{1 - missed:24.1%}{error:12.1%}" for missed, error in cells))
    return "\n".join(lines)


def write(student: Student, heads: Heads, path: Path) -> None:
    """Writes the file that the package loads, in float16."""
    half = {layer: (w.half(), b.half()) for layer, (w, b) in student.convolutions().items()}
    weights.save(half, path, {layer: heads.metric(layer).half() for layer in TRUNK})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--paintings", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3200)
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
        training.heads = settled_heads(training, teacher, photos, paintings)
        training.heads.memory = MEMORY
    plain_steps = 0 if args.start else round(GRADIENTS_FROM * args.steps)
    train(training, teacher, photos, paintings, args.steps, plain_steps)
    heads = settled_heads(training, teacher, photos, paintings)
    write(training.student, heads, args.output)
    teacher.cast(torch.float32, torch.float32)
    print(report(training.student, heads, teacher, {"photos": photos_out, "paintings": paintings_out}))
    print(f"{args.output}  SHA-256 {sha256_of(args.output)}")


if __name__ == "__main__":
    main()
