"""The objective: evaluate(image) -> loss terms and gradient. The optimiser sees nothing else.

Gatys, Ecker, Bethge, CVPR 2016, eq. 7: total = α · content + β · style. Two deviations: a total variation term on
request, and a term that keeps the values within what a file can hold.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .losses import content_loss, gamut_loss, gram_matrix, style_loss, total_variation
from .vgg import Encoder

#: Image 1×3×H×W -> (terms in the order of `Losses`, gradient of the total), on the image's device.
Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]

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
        self.content_targets = {layer: f for layer, f in encoder.features(content) if layer in content_weights}
        self.style_targets = {layer: gram_matrix(f) for layer, f in encoder.features(style) if layer in style_weights}

    @torch.no_grad()
    def evaluate(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The loss terms of an image 1×3×H×W in the order of `Losses`, and the gradient of the total, of its shape.

        Nothing here waits for the device: the terms are a tensor, to be read when somebody wants to know.
        """
        content, style = [], []

        def tap(layer: str, features: Tensor) -> tuple[Tensor | None, Tensor | None]:
            pull = mixing = None
            if weight := self.content_weights.get(layer):
                loss, slope = content_loss(features, self.content_targets[layer])
                content.append(weight * loss)
                pull = slope * (self.alpha * weight)
            if weight := self.style_weights.get(layer):
                loss, slope = style_loss(gram_matrix(features), self.style_targets[layer])
                style.append(weight * loss)
                mixing = slope * (self.beta * weight * 2 / (features.shape[2] * features.shape[3]))
            return pull, mixing

        gradient = self.encoder.gradient(image, tap)
        variation = image.new_zeros(())
        if self.tv:
            variation, slope = total_variation(image)
            gradient += self.tv * slope
        gamut, slope = gamut_loss(image)
        weights = [self.alpha, self.beta, self.tv, GAMUT_WEIGHT * (self.alpha + self.beta)]
        gradient += weights[3] * slope
        losses = [torch.stack(content).sum(), torch.stack(style).sum(), variation, gamut]
        total = torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()
        return torch.stack([total, *losses[:3]]), gradient
