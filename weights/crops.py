"""What `distill.py` trains on: crops of photographs and paintings, and of what is between."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

CROP, OWN_CROP = 128, 192
SCALES = (1.0, 1.5, 2.0, 3.0)  # crops are taken from the pictures reduced by these
LONGEST = 1024  # pictures are reduced to this first
BATCHES = ((CROP, 3), (OWN_CROP, 1))  # how large, and how often a photograph, a painting and what is between

#: Of a folder: the scales of each picture, uint8 3×H×W.
Pictures = list[list[Tensor]]
#: A photograph, a painting, and what was made of them, uint8 3×OWN_CROP×OWN_CROP.
Triple = tuple[Tensor, Tensor, Tensor]


def load_pictures(folder: Path) -> Pictures:
    """Each picture of a folder as uint8 tensors 3×H×W at the scales that leave room for a crop."""
    pictures = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")):
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        sizes = [(round(image.width / s), round(image.height / s)) for s in SCALES]
        scales = [pil_to_tensor(image.resize(s, Image.Resampling.LANCZOS)) for s in sizes if min(s) >= CROP]
        if min(image.size) >= OWN_CROP:
            pictures.append(scales)
    return pictures


def split(pictures: Pictures) -> tuple[Pictures, Pictures]:
    """Nine tenths to train on, one tenth held out."""
    return [p for i, p in enumerate(pictures) if i % 10], pictures[::10]


def below(n: int, rng: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=rng))


def crop(pictures: Pictures, size: int, rng: torch.Generator) -> Tensor:
    """A random crop 3×size×size in [0, 1], flipped half of the time, with its channels in any order a quarter of it."""
    scales = [scale for scale in pictures[below(len(pictures), rng)] if min(scale.shape[1:]) >= size]
    picture = scales[below(len(scales), rng)]
    top, left = below(picture.shape[1] - size + 1, rng), below(picture.shape[2] - size + 1, rng)
    patch = picture[:, top : top + size, left : left + size] / 255
    if below(2, rng):
        patch = patch.flip(2)
    return patch if below(4, rng) else patch[torch.randperm(3, generator=rng)]


def make_batch(photos: Pictures, paintings: Pictures, own: Sequence[Triple], rng: torch.Generator) -> Tensor:
    """B×3×size×size: photographs, paintings, and blends of them or pictures that were made of them, in turn.

    Several small ones, or a few large ones, in which less is near a border. Two thirds are from `own`, once there are
    some; blends are noisy half of the time.
    """
    batch: list[Tensor] = []
    size, triples = BATCHES[below(len(BATCHES), rng)]
    for _ in range(triples):
        if own and below(3, rng):
            triple = own[below(len(own), rng)]
            top, left = below(OWN_CROP - size + 1, rng), below(OWN_CROP - size + 1, rng)
            batch += [picture[:, top : top + size, left : left + size] / 255 for picture in triple]
            continue
        photo, painting = crop(photos, size, rng), crop(paintings, size, rng)
        blend = torch.lerp(photo, painting, torch.rand((), generator=rng))
        if below(2, rng):
            blend += torch.randn(blend.shape, generator=rng) * 0.2 * torch.rand((), generator=rng)
        batch += [photo, painting, blend]
    return torch.stack(batch)
