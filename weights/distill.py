"""Train `vgg19-lite.safetensors`, the bundled encoder: a trunk distilled to a fifth of VGG-19's multiply-adds.

    python weights/distill.py --photos FOLDER --paintings FOLDER [--steps 5000] [-o FILE]

**Architecture.** From conv3_1 on it has all of VGG-19's filters, each on few directions of the layer before
(`Convolution.projection`); the first two blocks, whose maps are large, have fewer filters (README.md lists what else
was tried).

**Initialization.** Layer by layer: the directions of the student's previous layer that matter most to VGG-19's
kernels, and for narrow layers the filters of VGG-19 that together explain most of all its filters' activations. Each
filter gets the least-squares weights that predict its pre-activation from the student's previous layer (as Zhang, Zou,
He and Sun, *Accelerating Very Deep Convolutional Networks*, 2015, fit their layers to the errors of those before).

**Training.** The loss of a layer is the share of the variance of VGG-19's features F that the student leaves
unexplained, plus the relative error of the Gram matrices at the paper's style layers. The features f of a narrow layer
are compared through a linear 1×1 head H. It is not trained, but the least-squares solution for the second moments of
the last batches.

**Own images.** Optimized images show a network what no photo does: the optimization finds whatever lowers the student's
loss but not VGG-19's, which is visible as grain. So every few hundred steps, images are optimized with the current
student, and it learns VGG-19's features of them. Some are optimized with VGG-19, so that it also learns good iterates.

**Gradients.** An optimizer follows the gradient with respect to the image, on which two networks can disagree even if
their features are alike. So in the last part the loss also has the distance between the two networks' gradients of
content and style losses, weighted at random around the defaults (*Sobolev Training for Neural Networks*, Czarnecki,
Osindero, Jaderberg, Swirszcz, Pascanu, 2017). A step then takes more than twice as long.

**Metric.** Of H, only T, n×n, is saved, with TᵀT = HᵀH·n/N: distances of T·f are those of H·f (`Convolution.metric`).

The same command resumes an interrupted run; --start trains a finished network further. A tenth of the images is held
out; the report at the end is on these, and on images that the student has made of them.
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
from styletransfer.encoder import weights
from styletransfer.encoder.convolution import Convolution
from styletransfer.encoder.formats import Convolutions
from styletransfer.encoder.layers import VGG19_WIDTHS
from styletransfer.encoder.vgg import Encoder
from styletransfer.files import sha256_of
from styletransfer.images import to_pil
from styletransfer.losses.gram import gram_matrix
from styletransfer.options import LAYERS
from styletransfer.runtime.hardware import select_precision
from styletransfer.transfer import open_session

TRUNK = LAYERS[: LAYERS.index("conv5_1") + 1]
#: Filters of each layer, and the number of directions of the layer before that they see, if not all: chosen for the
#: least error at a quarter of VGG-19's time (README.md).
WIDTHS = dict(zip(TRUNK, (24, 32, 64, 72, 256, 256, 256, 256, 512, 512, 512, 512, 512), strict=True))
RANKS = {layer: {"3": 32, "4": 64, "5": 128}[layer[4]] for layer in TRUNK if layer[4] > "2"}
#: Layers with fewer filters than in VGG-19: their features are compared through heads.
NARROW = tuple(layer for layer in TRUNK if WIDTHS[layer] < VGG19_WIDTHS[layer])
OPTIONS = Options()
STYLE_LAYERS = tuple(OPTIONS.style_weights)
#: Weights of the layers in the loss: those of the default losses have more than the others.
SHARES = {layer: 1.0 if layer in OPTIONS.style_weights or layer in OPTIONS.content_weights else 0.3 for layer in TRUNK}
GRAM_SHARE, GRADIENT_SHARE = 1.0, 1.0
#: The share of the steps after which gradients count too, and the mean weights of the layers in them.
GRADIENTS_FROM = 0.35
DEFAULT_SHARES = {
    **{layer: OPTIONS.alpha * share for layer, share in OPTIONS.content_weights.items()},
    **{layer: OPTIONS.beta * share for layer, share in OPTIONS.style_weights.items()},
}
START_BATCHES, START_POSITIONS = 8, 4096
#: Relative to the initial size of each tensor: these differ by a factor of two hundred.
LEARNING_RATE, WARM_UP, LAST = 1e-3, 50, 0.02
MEMORY = 0.98  # share of the moments for the heads that is kept in each step
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
        """Return the parameters of a layer, as `Encoder.convolution`."""
        weight = self.weights[name].contiguous(memory_format=torch.channels_last)
        return Convolution(weight, self.biases[name], self.projections.get(name))

    @torch.no_grad()
    def take(self, convolutions: Convolutions) -> None:
        """Copy the weights of a finished network."""
        for name, layer in convolutions.items():
            self.weights[name].copy_(layer.weight)
            self.biases[name].copy_(layer.bias)
            if layer.projection is not None:
                self.projections[name].copy_(layer.projection)

    @torch.no_grad()
    def finished(self, heads: "Heads") -> Convolutions:
        """Return the convolutions as the package loads them, with the metrics of narrow layers."""
        metrics = {layer: heads.metric(layer) for layer in NARROW}
        return {layer: self.convolution(layer)._replace(metric=metrics.get(layer)) for layer in TRUNK}


def pooled(name: str, x: Tensor) -> Tensor:
    """Return the input of a layer, from the features of the layer before."""
    return F.avg_pool2d(x, 2) if name.endswith("_1") and name != "conv1_1" else x


def padded(name: str, x: Tensor, projection: Tensor | None) -> Tensor:
    """Return the input of a layer's 3×3 convolution, from the features of the layer before."""
    x = pooled(name, x)
    if projection is not None:
        x = F.conv2d(x, projection[:, :, None, None])
    return F.pad(x, (1, 1, 1, 1), mode="replicate")


def look(network: Student | Encoder, x: Tensor) -> dict[str, Tensor]:
    """Return the features ``{layer: B×N×H×W}`` of either network, float32, for autograd."""
    features, x = {}, x.contiguous(memory_format=torch.channels_last)
    for name in TRUNK:
        layer = network.convolution(name)
        x = F.conv2d(padded(name, x.to(layer.weight.dtype), layer.projection), layer.weight, layer.bias).relu()
        features[name] = x.float()
    return features


def load_teacher() -> Encoder:
    """Return VGG-19 with all layers of the trunk."""
    return Encoder(weights.load_weights("vgg19-8bit").convolutions, TRUNK)


# --- initialization ------------------------------------------------------------------------------------------------


def choose_filters(gram: Tensor, count: int) -> list[int]:
    """Return filters that together explain most of all activations, chosen greedily from the Gram matrix."""
    residual, chosen = gram.double().clone(), list[int]()
    for _ in range(count):
        squared_norms = residual.diagonal().clamp(min=0)
        explained = residual.square().sum(0) / squared_norms.clamp(min=1e-12 * float(squared_norms.max()))
        explained[squared_norms < 1e-9 * gram.diagonal().max()] = -1
        explained[chosen] = -1
        best = int(explained.argmax())
        chosen.append(best)
        column = residual[:, best].clone()
        residual -= torch.outer(column, column) / column[best].clamp(min=1e-12)
    return chosen


def choose_directions(inputs: Sequence[Tensor], kernel: Tensor, count: int) -> Tensor:
    """Return the whitened projection r×C onto the directions of a layer's inputs B×C×H×W that matter most to kernels.

    Args:
        kernel: N×C×3×3 of the teacher, if it has the same channels; with another shape all channels count alike.
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
    """Set the student to chosen filters and directions of the teacher, fitted to its own features layer by layer."""
    student_features, teacher_features = list(pictures), list(pictures)
    for name in TRUNK:
        kernel, bias = teacher.convolution(name)[:2]
        before = [F.conv2d(padded(name, x, None), kernel, bias) for x in teacher_features]
        teacher_features = [x.relu() for x in before]
        gram = torch.stack([gram_matrix(x[None]) for batch in teacher_features for x in batch]).sum(0)
        chosen = choose_filters(gram, WIDTHS[name]) if name in NARROW else list(range(len(bias)))
        if name in RANKS:
            inputs = [pooled(name, x) for x in student_features]
            student.projections[name].copy_(choose_directions(inputs, kernel, RANKS[name]))
        projection = student.convolution(name).projection
        normal, cross = torch.zeros(()), torch.zeros(())
        for x, wanted in zip(student_features, before, strict=True):
            patches = F.unfold(padded(name, x, projection), 3)
            some = torch.randperm(patches.shape[2], generator=rng)[:START_POSITIONS]
            patches = F.pad(patches[:, :, some], (0, 0, 0, 1), value=1.0).transpose(0, 1).flatten(1)
            wanted = wanted[:, chosen].flatten(2)[:, :, some].transpose(0, 1).flatten(1)
            normal, cross = normal + (patches @ patches.T).double(), cross + (wanted @ patches.T).double()
        solution = solve(normal, cross, 1e-4).float()
        student.weights[name].copy_(solution[:, :-1].view_as(student.weights[name]))
        student.biases[name].copy_(solution[:, -1])
        layer = student.convolution(name)
        student_features = [
            F.conv2d(padded(name, x, projection), layer.weight, layer.bias).relu() for x in student_features
        ]


def solve(normal: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """Return the matrix X with X·normal = cross, regularized by a share of the mean diagonal."""
    ridge = ridge * float(normal.diagonal().mean())
    return torch.linalg.solve(normal + ridge * torch.eye(len(normal), dtype=normal.dtype), cross, left=False)


# --- training ------------------------------------------------------------------------------------------------------


class Heads:
    """Linear maps N×n from the features of narrow layers to the teacher's, by the second moments of both.

    Args:
        memory: the largest share of the earlier moments that a batch keeps; with 1, all batches count alike.
    """

    def __init__(self, memory: float) -> None:
        self.memory, self.batches = memory, 0
        self.own: dict[str, Tensor] = {}
        self.cross: dict[str, Tensor] = {}

    def learn(self, features: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Add a batch; return its `moments`."""
        batch = {layer: moments(features[layer], targets[layer]) for layer in NARROW}
        share = min(self.memory, self.batches / (self.batches + 1))
        for layer, (own, cross) in batch.items():
            own, cross = own.detach().mean(0), cross.detach().mean(0)
            self.own[layer] = torch.lerp(own, self.own.get(layer, own), share)
            self.cross[layer] = torch.lerp(cross, self.cross.get(layer, cross), share)
        self.batches += 1
        return batch

    def head(self, layer: str) -> Tensor:
        """Return H, N×n."""
        return solve(self.own[layer], self.cross[layer], 1e-3)

    def metric(self, layer: str) -> Tensor:
        """Return T, n×n, upper triangular: TᵀT = HᵀH·n/N, which preserves ratios to a sum over filters."""
        head = self.head(layer).double()
        square = head.T @ head * (head.shape[1] / head.shape[0])
        square += 1e-9 * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
        return torch.linalg.cholesky(square, upper=True).float()


def moments(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return second moments per image of features f, B×n×H×W, and a target t: f fᵀ / M, B×n×n, and t fᵀ / M.

    A linear head on f needs no more than these: its prediction, N filters wide, is never computed.
    """
    f = features.flatten(2)
    return gram_matrices(features), target.flatten(2) @ f.mT / f.shape[2]


def gram_matrices(features: Tensor) -> Tensor:
    """Return the Gram matrices per image, B×N×N, for autograd."""
    f = features.flatten(2)
    return f @ f.mT / f.shape[2]


def compare(
    features: dict[str, Tensor], targets: dict[str, Tensor], narrow: dict[str, tuple[Tensor, Tensor]], heads: Heads
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return per layer the unexplained share of the target's variance, and ‖G − A‖² / ‖A‖² of the Gram matrices.

    The variance is over batch and positions, summed over filters; the Gram matrices are per image.

    Args:
        narrow: the `moments` of narrow layers.
    """
    result = {}
    for layer, target in targets.items():
        power, wanted = target.square().mean((2, 3)).sum(), gram_matrices(target)
        if layer in narrow:
            (own, cross), head = narrow[layer], heads.head(layer)
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
    """Return the loss of the features, and the share of each layer that the student leaves unexplained."""
    total, unexplained = torch.zeros(()), {}
    for layer, (missed, gram_error) in compare(features, targets, heads.learn(features, targets), heads).items():
        unexplained[layer] = float(missed.detach())
        total = total + SHARES[layer] * missed
        if layer in STYLE_LAYERS:
            total = total + GRAM_SHARE * gram_error.mean()
    return total, unexplained


def image_gradient(
    features: dict[str, Tensor], targets: dict[str, Tensor], image: Tensor, shares: dict[str, Tensor]
) -> Tensor:
    """Return the gradient with respect to each image of its losses toward content and style image of its triple.

    Args:
        features: of the images, differentiable with respect to them.
        targets: the same features, not differentiable with respect to them.
        shares: weights of the layers in the loss of each image, B each.
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


def gradient_mismatch(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over images of ‖g − h‖² / (‖g‖² + ‖h‖²): 0 for equal gradients, 1 for orthogonal ones.

    Near the optimum of one network its gradient is small: a cosine, or ‖h‖² alone as the denominator, would blow up.
    """
    norms = student.detach().flatten(1).square().sum(1) + teacher.flatten(1).square().sum(1)
    return ((student - teacher).flatten(1).square().sum(1) / norms).mean()


def loss_of(
    training: "Training", teacher: Encoder, x: Tensor, gradients: bool
) -> tuple[Tensor, dict[str, float], float]:
    """Return the loss of a batch of triples, the unexplained share of each layer, and the mismatch of gradients."""
    student, heads = training.student, training.heads
    image = x.clone().requires_grad_(gradients)
    with torch.set_grad_enabled(gradients):
        teacher_features = look(teacher, image)
    targets = {layer: features.detach() for layer, features in teacher_features.items()}
    features = look(student, image)
    total, unexplained = feature_loss(features, targets, heads)
    if not gradients:
        return total, unexplained, 1.0
    shares = {
        layer: share * torch.randn(len(x), generator=training.rng).exp() for layer, share in DEFAULT_SHARES.items()
    }
    wanted = image_gradient(teacher_features, targets, image, shares).detach()
    metrics = {layer: heads.metric(layer)[:, :, None, None] for layer in NARROW}
    # The student's targets are its own features, and change as it learns. With fixed ones, its gradient at its own
    # optimum would seem to depend on every weight.
    own, fixed = (
        {n: F.conv2d(f[n], metrics[n]) if n in metrics else f[n] for n in shares} for f in (features, look(student, x))
    )
    mismatch = gradient_mismatch(image_gradient(own, fixed, image, shares), wanted)
    return total + GRADIENT_SHARE * mismatch, unexplained, float(mismatch.detach())


class Training:
    """State of a run, to resume from: networks, optimizer, the student's own images, random numbers."""

    def __init__(self, path: Path) -> None:
        self.path, self.step = path, 0
        self.student, self.heads, self.own = Student(), Heads(MEMORY), list[Triple]()
        self.rng = torch.Generator().manual_seed(0)
        self.optimizer = torch.optim.Adam([{"params": [p]} for p in self.student.parameters()], betas=(0.9, 0.98))

    def begin(self) -> None:
        """Take the sizes of the initial tensors, to which learning rates are relative."""
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
    """Return content images, style images and iterates of the student or, for some, of VGG-19.

    All are uint8 3×OWN_CROP×OWN_CROP.
    """
    triples: list[Triple] = []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "student.safetensors"
        weights.save(student.finished(heads), file)
        for index in range(OWN_PICTURES):
            photo, painting = (crop(pictures, OWN_CROP, rng) for pictures in (photos, paintings))
            scales, iterations = (("1", (30, 100)), ("2", (15, 40)))[below(2, rng)]
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
                    if step.iteration in iterations and step.scale.content[0] == OWN_CROP:
                        frames.append(step.image[0].clamp(0, 1))
            bytes_of = [[(255 * x).round().byte() for x in (photo, painting, frame)] for frame in frames]
            triples += [(a, b, c) for a, b, c in bytes_of]
    return triples


def train(
    training: Training, teacher: Encoder, photos: Pictures, paintings: Pictures, steps: int, plain_steps: int
) -> None:
    """Train with a learning rate that warms up, then follows a cosine; after `plain_steps`, gradients count too."""
    start, first_step = time.monotonic(), training.step
    while training.step < steps:
        step, rng, student, heads = training.step, training.rng, training.student, training.heads
        if step % OWN_EVERY == OWN_EVERY // 4:
            training.own += make_own_pictures(student, heads, photos, paintings, rng, BY_TEACHER)
            del training.own[:-OWN_KEPT]
        x = make_batch(photos, paintings, training.own, rng)
        loss, unexplained, mismatch = loss_of(training, teacher, x, gradients=step >= plain_steps)
        rate = min(1, (step + 1) / WARM_UP) * max(LAST, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in training.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * group["size"] * rate
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()
        training.step += 1
        if training.step % 50 == 0:
            parts = "  ".join(f"{layer} {unexplained[layer]:.3f}" for layer in TRUNK if SHARES[layer] == 1)
            seconds = (time.monotonic() - start) / (training.step - first_step)
            print(
                f"step {training.step:5d}  {seconds:.2f} s each  loss {float(loss.detach()):.3f}  "
                f"gradients {mismatch:.3f}  left: {parts}",
                flush=True,
            )
        if training.step % SAVE_EVERY == 0 or training.step == steps:
            training.save()


# --- report and output ---------------------------------------------------------------------------------------------


@torch.no_grad()
def settled_heads(training: Training, teacher: Encoder, photos: Pictures, paintings: Pictures) -> Heads:
    """Return the heads of the current student, from many batches that all count alike."""
    heads = Heads(memory=1)
    for _ in range(SETTLING):
        x = make_batch(photos, paintings, training.own, training.rng)
        heads.learn(look(training.student, x), look(teacher, x))
    return heads


@torch.no_grad()
def report(student: Student, heads: Heads, teacher: Encoder, held_out: dict[str, Pictures]) -> str:
    """Return per layer the explained share of the variance and the Gram error on whole held-out images, as text."""
    lines = ["layer     " + "".join(f"{kind + ': explained':>24}{'Gram error':>12}" for kind in held_out)]
    sums: dict[tuple[str, str], Tensor] = {}
    for kind, pictures in held_out.items():
        for scales in pictures:
            x = scales[min(1, len(scales) - 1)][None] / 255
            features, targets = look(student, x), look(teacher, x)
            narrow = {layer: moments(features[layer], targets[layer]) for layer in NARROW}
            for layer, (missed, gram_error) in compare(features, targets, narrow, heads).items():
                values = torch.stack([missed, gram_error[0].sqrt()])
                sums[kind, layer] = sums.get((kind, layer), torch.zeros(2)) + values / len(pictures)
    for layer in TRUNK:
        cells = [sums[kind, layer].tolist() for kind in held_out]
        lines.append(f"{layer:10}" + "".join(f"{1 - missed:24.1%}{error:12.1%}" for missed, error in cells))
    return "\n".join(lines)


def write(student: Student, heads: Heads, path: Path) -> None:
    """Write the file that the package loads, in float16."""
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
    dtype = select_precision("auto", torch.device("cpu")).backward  # exact enough for training
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
    held_out = {"photos": photos_out, "paintings": paintings_out, "own": [[image] for *_, image in own]}
    print(report(training.student, heads, teacher, held_out))
    print(f"{args.output}  SHA-256 {sha256_of(args.output)}")


if __name__ == "__main__":
    main()
