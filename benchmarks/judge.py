"""How close finished pictures are to photograph and painting, as VGG-19 sees them, whatever they were made by.

A loss at one size can't compare a run from coarse to fine with one at a single size, and is different in each program.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from styletransfer import Options
from styletransfer.encoder import Encoder, weights
from styletransfer.images import Picture
from styletransfer.losses.gram import gram_matrix

#: Sides relative to the picture's own at which its style is compared.
SIZES = (1.0, 0.5, 0.25)
#: A picture is as good as another when neither of its distances is more times the other's.
AS_GOOD = 1.02
CONTENT, STYLE = tuple(Options().content_weights), tuple(Options().style_weights)


@dataclass(frozen=True)
class Verdict:
    """Distances of a picture; 0 for the same.

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
    """Compares pictures of one size with a photograph and a painting, whose longer side is taken as long as theirs.

    The network is VGG-19 with its original weights and average pooling, not normalized.
    """

    def __init__(self, content: Path, style: Path, size: tuple[int, int]) -> None:
        self.size = size
        self.encoder = Encoder(weights.load_weights("vgg19-8bit").convolutions, {*CONTENT, *STYLE})
        self.content = self._features(Image.open(content), size)
        painting = Image.open(style)
        scale = max(size) / max(painting.size)
        longest = painting.width * scale, painting.height * scale
        self.grams = [self._grams(self._features(painting, longest, part)) for part in SIZES]

    def _features(self, image: Image.Image, size: tuple[float, float], part: float = 1.0) -> dict[str, Tensor]:
        sides = [max(self.encoder.minimum_size, round(side * part)) for side in size]
        return self.encoder(Picture(image.convert("RGB")).resize((sides[0], sides[1])).tensor())

    @staticmethod
    def _grams(features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {layer: gram_matrix(features[layer]) for layer in STYLE}

    @torch.no_grad()
    def __call__(self, picture: Image.Image) -> Verdict:
        seen = [self._features(picture, self.size, part) for part in SIZES]
        distances = [
            float((self.content[layer] - seen[0][layer]).square().sum() / self.content[layer].square().sum())
            for layer in CONTENT
        ]
        away = torch.tensor(
            [
                [float((mine[layer] - wanted[layer]).norm() / wanted[layer].norm()) for layer in STYLE]
                for mine, wanted in zip(map(self._grams, seen), self.grams, strict=True)
            ]
        )
        return Verdict(sum(distances) / len(distances), float(away.mean()), float(away[0].mean()))
