"""Trains `vgg19-lite.safetensors`, the bundled encoder: VGG-19's trunk at a quarter of its widths, distilled.

    python weights/distill.py --teacher VGG19_WEIGHTS --photos FOLDER --paintings FOLDER [--steps 4000] [-o FILE]

Every layer of the student is mapped by a linear 1×1 head to the teacher's normalised feature maps; the loss is the
share of the teacher's variance left unexplained, plus the relative error of the Gram matrices at the paper's style
layers. Batch normalisation makes it train in minutes and keeps every filter firing; at the end it is folded into the
convolutions and the heads are thrown away. A tenth of the pictures is held out; the report at the end is about those.

The teacher is any file that the package can load. If it holds 1×1 maps ``convBI_aux`` into the features of a larger
network (as the encoders of Wang et al., *Collaborative Distillation*, CVPR 2020, do), those are the target there.
"""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from styletransfer.files import sha256_of
from styletransfer.network import Encoder, formats, weights
from styletransfer.objective.losses import gram_matrix
from styletransfer.options import LAYERS, Options

WIDTHS = {"1": 16, "2": 32, "3": 64, "4": 128, "5": 128}
TRUNK = LAYERS[: LAYERS.index("conv5_1") + 1]
STYLE_LAYERS = tuple(Options().style_weights)
CROP = 128
SCALES = (1.0, 1.5, 2.0, 3.0)  # crops are taken from the pictures reduced by these
GRAM_WEIGHT = 0.5
BATCH = 16
LEARNING_RATE, DECAY = 3e-3, 1e-4
OWN_STATISTICS = 0.3


class Student(nn.Module):
    """The trunk in its training form: 3×3 convolution, batch normalisation, ReLU; average pooling between blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions, self.norms = nn.ModuleDict(), nn.ModuleDict()
        channels = 3
        for layer in TRUNK:
            width = WIDTHS[layer[4]]
            self.convolutions[layer] = nn.Conv2d(channels, width, 3, bias=False, padding=1, padding_mode="replicate")
            self.norms[layer] = nn.BatchNorm2d(width)
            channels = width

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features, block = {}, "1"
        for layer in TRUNK:
            if layer[4] != block:
                x, block = F.avg_pool2d(x, 2), layer[4]
            x = features[layer] = F.relu(self.norms[layer](self.convolutions[layer](x)))
        return features

    def folded(self) -> weights.Convolutions:
        """The same function without batch normalisation, as the package loads it."""
        result = {}
        for layer in TRUNK:
            norm = self.norms[layer]
            gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            weight = self.convolutions[layer].weight.double() * gain[:, None, None, None]
            bias = norm.bias.double() - norm.running_mean.double() * gain
            result[layer] = (weight.float().detach(), bias.float().detach())
        return result


class Teacher:
    """The features to match: B×N×H×W per layer of the trunk, normalised to a mean activation of 1 per filter."""

    def __init__(self, path: Path, pictures: list[Tensor]) -> None:
        self.encoder = Encoder(weights.load(path), TRUNK)
        tensors, _ = formats.read_tensors(path)
        self.maps = {
            layer: (tensors[f"{key}.weight"], tensors[f"{key}.bias"])
            for layer in TRUNK
            if f"{(key := layer.replace('_', '') + '_aux')}.weight" in tensors
        }
        self.scale: dict[str, Tensor] = {}
        means = [{layer: f.mean((0, 2, 3)) for layer, f in self(picture).items()} for picture in pictures]
        for layer in TRUNK:
            mean = torch.stack([m[layer] for m in means]).mean(0)
            self.scale[layer] = 1 / mean.clamp(min=0.05 * mean[mean > 0].mean())[:, None, None]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        features = self.encoder(x)
        for layer, (weight, bias) in self.maps.items():
            features[layer] = F.conv2d(features[layer], weight, bias)
        return {layer: f * self.scale[layer] if self.scale else f for layer, f in features.items()}


def load_pictures(folder: Path) -> list[list[Tensor]]:
    """Each picture of a folder as uint8 tensors 3×H×W at the scales that leave room for a crop."""
    pictures = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")):
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        sizes = [(round(image.width / s), round(image.height / s)) for s in SCALES]
        pictures.append(
            [pil_to_tensor(image.resize(size, Image.Resampling.LANCZOS)) for size in sizes if min(size) > CROP]
        )
    return pictures


def split(pictures: list[list[Tensor]]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Nine tenths to train on, one tenth held out."""
    return [p for i, p in enumerate(pictures) if i % 10], pictures[::10]


def crop(pictures: list[list[Tensor]], rng: torch.Generator) -> Tensor:
    """A random crop 3×CROP×CROP in [0, 1], flipped and with its channels in any order half of the time."""

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=rng))

    scales = pictures[below(len(pictures))]
    picture = scales[below(len(scales))]
    top, left = below(picture.shape[1] - CROP), below(picture.shape[2] - CROP)
    patch = picture[:, top : top + CROP, left : left + CROP] / 255
    if below(2):
        patch = patch.flip(2)
    return patch[torch.randperm(3, generator=rng)] if below(2) else patch


def batches(photos: list[list[Tensor]], paintings: list[list[Tensor]], seed: int = 0) -> Iterator[Tensor]:
    """Batches of crops, half from paintings; some blended or noisy, as pictures are on the way of the optimisation."""
    rng = torch.Generator().manual_seed(seed)
    while True:
        x = torch.stack([crop(paintings if i % 2 else photos, rng) for i in range(BATCH)])
        share = torch.rand(BATCH // 4, 1, 1, 1, generator=rng)
        x[: BATCH // 4] = share * x[: BATCH // 4] + (1 - share) * x[BATCH // 4 : BATCH // 2]
        noise = torch.randn(BATCH // 8, 3, CROP, CROP, generator=rng)
        x[-BATCH // 8 :] += noise * 0.2 * torch.rand(BATCH // 8, 1, 1, 1, generator=rng)
        yield x


def moments(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Second moments per picture of features f (B×n×H×W) with a 1 appended, and of a target t with f.

    Returns f fᵀ / M, B×(n + 1)×(n + 1), and t fᵀ / M, B×N×(n + 1). All that a linear head on f does follows from them:
    its prediction, N filters wide, is never made, which saves most of a step's time.
    """
    f = F.pad(features.flatten(2), (0, 0, 0, 1), value=1.0)
    return f @ f.mT / f.shape[2], target.flatten(2) @ f.mT / f.shape[2]


def unexplained(head: Tensor, own: Tensor, cross: Tensor, target: Tensor) -> Tensor:
    """Share of the target's variance over batch and positions, all filters together, that a head N×(n + 1) misses."""
    power = target.square().mean((2, 3)).sum()
    missed = (head @ own * head).sum() - 2 * (head * cross).sum() + power
    return missed / (power - len(target) * target.mean((0, 2, 3)).square().sum())


def gram_errors(head: Tensor, own: Tensor, target: Tensor) -> Tensor:
    """Per picture ‖G − A‖² / ‖A‖² of the Gram matrices of prediction and target."""
    wanted = torch.stack([gram_matrix(t[None]) for t in target])
    return (head @ own @ head.T - wanted).square().sum((1, 2)) / wanted.square().sum((1, 2))


def best_head(features: Tensor, target: Tensor) -> nn.Parameter:
    """The head N×(n + 1) that predicts this batch's target with the least squared error, slightly regularised."""
    own, cross = (m.mean(0) for m in moments(features, target))
    return nn.Parameter(torch.linalg.solve(own + 1e-3 * torch.eye(len(own)), cross, left=False))


def train(teacher: Teacher, data: Iterator[Tensor], steps: int) -> tuple[Student, nn.ParameterDict]:
    """Trains a student and its heads, with a learning rate that falls along a cosine.

    In the first part the batch normalisation uses each batch's own statistics, which makes training quick but blurs
    what a linear head can tell; then it keeps to the running statistics, as the finished encoder does.
    """
    student, x = Student(), next(data)
    targets, features = teacher(x), student(x)
    heads = nn.ParameterDict({layer: best_head(features[layer].detach(), targets[layer]) for layer in TRUNK})
    parameters = [*student.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=DECAY)
    start = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, step / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        student.train(step < OWN_STATISTICS * steps)
        x = next(data)
        targets, features = teacher(x), student(x)
        left, grams = {}, []
        for layer in TRUNK:
            own, cross = moments(features[layer], targets[layer])
            left[layer] = unexplained(heads[layer], own, cross, targets[layer])
            if layer in STYLE_LAYERS:
                grams.append(gram_errors(heads[layer], own, targets[layer]).mean())
        loss = sum(left.values()) / len(TRUNK) + GRAM_WEIGHT * sum(grams) / len(grams)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            parts = "  ".join(f"{layer} {left[layer].item():.3f}" for layer in STYLE_LAYERS)
            print(
                f"{time.monotonic() - start:6.0f} s  step {step:5d}  loss {loss.item():.4f}  left: {parts}", flush=True
            )
    return student.eval(), heads


@torch.no_grad()
def report(encoder: Encoder, heads: nn.ParameterDict, teacher: Teacher, held_out: dict[str, list[list[Tensor]]]) -> str:
    """Per layer the share of variance explained and the Gram matrices' relative error on whole held-out pictures."""
    lines = ["layer     " + "".join(f"{kind + ': explained':>24}{'Gram error':>12}" for kind in held_out)]
    sums: dict[tuple[str, str], Tensor] = {}
    for kind, pictures in held_out.items():
        for scales in pictures:
            x = scales[min(1, len(scales) - 1)][None] / 255
            targets, features = teacher(x), encoder(x)
            for layer in TRUNK:
                own, cross = moments(features[layer], targets[layer])
                left = unexplained(heads[layer], own, cross, targets[layer])
                values = torch.stack([left, gram_errors(heads[layer], own, targets[layer])[0].sqrt()])
                sums[kind, layer] = sums.get((kind, layer), torch.zeros(2)) + values / len(pictures)
    for layer in TRUNK:
        cells = [sums[kind, layer].tolist() for kind in held_out]
        lines.append(f"{layer:10}" + "".join(f"{1 - missed:24.1%}{error:12.1%}" for missed, error in cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--paintings", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "vgg19-lite.safetensors")
    args = parser.parse_args()

    torch.manual_seed(0)
    photos, photos_out = split(load_pictures(args.photos))
    paintings, paintings_out = split(load_pictures(args.paintings))
    data = batches(photos, paintings)
    teacher = Teacher(args.teacher, [next(data) for _ in range(8)])
    student, heads = train(teacher, data, args.steps)
    weights.save(student.folded(), args.output)
    print(
        report(
            Encoder(weights.load(args.output), TRUNK),
            heads,
            teacher,
            {"photos": photos_out, "paintings": paintings_out},
        )
    )
    print(f"{args.output}  SHA-256 {sha256_of(args.output)}")


if __name__ == "__main__":
    main()
