"""Training data of `distill.py`: crops of photos, of paintings, and of images between the two."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

CROP, OWN_CROP = 128, 192
SCALES = (1.0, 1.5, 2.0, 3.0)  # crops are taken from images downsampled by these factors
LONGEST = 1024  # images are downsampled to this longer side first
BATCHES = ((CROP, 3), (OWN_CROP, 1))  # size of the crops, number of triples

#: The images of a folder, each at several scales, uint8 3×H×W.
Pictures = list[list[Tensor]]
#: Content, style and output image, uint8 3×OWN_CROP×OWN_CROP.
Triple = tuple[Tensor, Tensor, Tensor]


def load_pictures(folder: Path) -> Pictures:
    """Return the images of a folder as uint8 tensors 3×H×W, at the scales large enough for a crop."""
    images = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")):
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        sizes = [(round(image.width / s), round(image.height / s)) for s in SCALES]
        scales = [pil_to_tensor(image.resize(s, Image.Resampling.LANCZOS)) for s in sizes if min(s) >= CROP]
        if min(image.size) >= OWN_CROP:
            images.append(scales)
    return images


def split(pictures: Pictures) -> tuple[Pictures, Pictures]:
    """Return nine tenths to train on, and one tenth held out."""
    return [p for i, p in enumerate(pictures) if i % 10], pictures[::10]


def below(n: int, rng: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=rng))


def crop(pictures: Pictures, size: int, rng: torch.Generator) -> Tensor:
    """Return a random crop 3×size×size in [0, 1], with probability ½ flipped and ¼ with its channels permuted."""
    scales = [scale for scale in pictures[below(len(pictures), rng)] if min(scale.shape[1:]) >= size]
    image = scales[below(len(scales), rng)]
    top, left = below(image.shape[1] - size + 1, rng), below(image.shape[2] - size + 1, rng)
    patch = image[:, top : top + size, left : left + size] / 255
    if below(2, rng):
        patch = patch.flip(2)
    return patch if below(4, rng) else patch[torch.randperm(3, generator=rng)]


def make_batch(photos: Pictures, paintings: Pictures, own: Sequence[Triple], rng: torch.Generator) -> Tensor:
    """Return B×3×size×size: photos, paintings, and blends or output images of them, in turn.

    Several small ones, or a few large ones, in which less is near a border. Two thirds are from `own`, once it has
    any; half of the blends are noisy.
    """
    batch: list[Tensor] = []
    size, triples = BATCHES[below(len(BATCHES), rng)]
    for _ in range(triples):
        if own and below(3, rng):
            triple = own[below(len(own), rng)]
            top, left = below(OWN_CROP - size + 1, rng), below(OWN_CROP - size + 1, rng)
            batch += [image[:, top : top + size, left : left + size] / 255 for image in triple]
            continue
        photo, painting = crop(photos, size, rng), crop(paintings, size, rng)
        blend = torch.lerp(photo, painting, torch.rand((), generator=rng))
        if below(2, rng):
            blend += torch.randn(blend.shape, generator=rng) * 0.2 * torch.rand((), generator=rng)
        batch += [photo, painting, blend]
    return torch.stack(batch)
