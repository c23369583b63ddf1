"""Compare finished images of any program with their content and style by the features of VGG-19.

The loss at one size cannot compare a coarse-to-fine run with one at a single size, and differs between programs.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from styletransfer import Options
from styletransfer.encoder import weights
from styletransfer.encoder.vgg import Encoder
from styletransfer.images import Picture
from styletransfer.losses.gram import gram_matrix

#: Sides, relative to those of the image, at which its style is compared.
SIZES = (1.0, 0.5, 0.25)
#: An image is as good as another if neither of its distances is larger than the other's by more than this factor.
AS_GOOD = 1.02
CONTENT, STYLE = tuple(Options().content_weights), tuple(Options().style_weights)


@dataclass(frozen=True)
class Verdict:
    """Distances of an image from content and style, 0 for identical ones.

    Attributes:
        content: ‖F − P‖² / ‖P‖² at conv4_2.
        style: mean of ‖G − A‖ / ‖A‖ over the five style layers and over full, half and quarter size.
        fine: the same at full size alone.
    """

    content: float
    style: float
    fine: float

    def is_as_good_as(self, other: "Verdict") -> bool:
        return self.content <= AS_GOOD * other.content and self.style <= AS_GOOD * other.style


class Judge:
    """A comparison of images of one size with a content and a style image, resized to the same longer side.

    The network is VGG-19 with its original weights and average pooling, not normalized.
    """

    def __init__(self, content: Path, style: Path, size: tuple[int, int]) -> None:
        self.size = size
        self.encoder = Encoder(weights.load_weights("vgg19-8bit").convolutions, {*CONTENT, *STYLE})
        self.content = self._features(Image.open(content), size)
        style_image = Image.open(style)
        scale = max(size) / max(style_image.size)
        longest = style_image.width * scale, style_image.height * scale
        self.grams = [self._grams(self._features(style_image, longest, part)) for part in SIZES]

    def _features(self, image: Image.Image, size: tuple[float, float], part: float = 1.0) -> dict[str, Tensor]:
        sides = [max(self.encoder.minimum_size, round(side * part)) for side in size]
        return self.encoder(Picture(image.convert("RGB")).resize((sides[0], sides[1])).tensor())

    @staticmethod
    def _grams(features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {layer: gram_matrix(features[layer]) for layer in STYLE}

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> Verdict:
        features = [self._features(image, self.size, part) for part in SIZES]
        content = [
            float((self.content[layer] - features[0][layer]).square().sum() / self.content[layer].square().sum())
            for layer in CONTENT
        ]
        style = torch.tensor(
            [
                [float((grams[layer] - targets[layer]).norm() / targets[layer].norm()) for layer in STYLE]
                for grams, targets in zip(map(self._grams, features), self.grams, strict=True)
            ]
        )
        return Verdict(sum(content) / len(content), float(style.mean()), float(style[0].mean()))
