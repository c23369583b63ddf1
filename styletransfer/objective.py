"""The objective: evaluate(image) -> loss terms and gradient. The optimiser sees nothing else.

Gatys, Ecker, Bethge, CVPR 2016, eq. 7: total = α · content + β · style. Two deviations: a total variation term on
request, and a term that keeps the values within what a file can hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .losses import content_loss, gamut_loss, gram_matrix, style_loss, total_variation
from .vgg import Encoder

#: Weight of the gamut loss as a multiple of α + β. From 10 to 1000 the losses are the same within 3 %.
GAMUT_WEIGHT = 100.0


@dataclass(frozen=True)
class Losses:
    """The loss terms of one image: total = α · content + β · style + tv_weight · tv + the gamut term."""

    total: float
    content: float
    style: float
    tv: float = 0.0


class Objective:
    """What the generated picture is to minimise.

    Args:
        encoder: returns at least the layers named in the weights.
        content, style: image tensors 1×3×H×W in [0, 1], which may differ in size. The image to evaluate has the
            content's.
        content_weights, style_weights: shares of the layers in the content and in the style loss, each of sum 1.
        alpha, beta, tv: weights of the content loss, the style loss and the total variation.
    """

    def __init__(
        self,
        encoder: Encoder,
        content: Tensor,
        style: Tensor,
        content_weights: Mapping[str, float],
        style_weights: Mapping[str, float],
        alpha: float,
        beta: float,
        tv: float = 0.0,
    ) -> None:
        self.encoder, self.alpha, self.beta, self.tv = encoder, alpha, beta, tv
        self.content_weights, self.style_weights = dict(content_weights), dict(style_weights)
        with torch.no_grad():
            features = encoder(content)
            self.content_targets = {layer: features[layer] for layer in content_weights}
            features = encoder(style)
            self.style_targets = {layer: gram_matrix(features[layer]) for layer in style_weights}

    def terms(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Total, content, style and total variation as scalars with a graph."""
        features = self.encoder(image)
        content = torch.stack(
            [
                w * content_loss(features[layer], self.content_targets[layer])
                for layer, w in self.content_weights.items()
            ]
        ).sum()
        style = torch.stack(
            [
                w * style_loss(gram_matrix(features[layer]), self.style_targets[layer])
                for layer, w in self.style_weights.items()
            ]
        ).sum()
        tv = total_variation(image) if self.tv else image.new_zeros(())
        gamut = GAMUT_WEIGHT * (self.alpha + self.beta) * gamut_loss(image)
        return self.alpha * content + self.beta * style + self.tv * tv + gamut, content, style, tv

    def evaluate(self, image: Tensor) -> tuple[Losses, Tensor]:
        """The loss terms of an image 1×3×H×W and the gradient of the total, of the image's shape."""
        image = image.detach().requires_grad_()
        terms = self.terms(image)
        (gradient,) = torch.autograd.grad(terms[0], image)
        return Losses(*torch.stack(terms).tolist()), gradient
