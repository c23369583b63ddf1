"""The encoder: VGG-19's trunk of 3×3 convolutions at any width, cut after the last layer used.

Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, ICLR 2015.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import UsageError
from .options import LAYERS

#: A filter that hardly fires on the job's pictures is scaled as if its mean activation were this share of its layer's
#: average. Without the floor such filters get thousandfold weights and ruin the conditioning of the optimisation.
ACTIVATION_FLOOR = 0.05


def _l2_pool(x: Tensor) -> Tensor:
    # The gradient of a square root is infinite at 0, and ReLU features are often exactly 0 in a whole window.
    return (F.avg_pool2d(x.square(), 2) * 4).clamp(min=1e-30).sqrt()


POOLINGS = {"avg": lambda x: F.avg_pool2d(x, 2), "max": lambda x: F.max_pool2d(x, 2), "l2": _l2_pool}


class Encoder(nn.Module):
    """Maps an image to the feature maps of chosen layers.

    Args:
        weights: ``{"conv1_1": (weight Cout×Cin×3×3, bias Cout), …}`` that take RGB in [0, 1], in the order of `LAYERS`
            (`weights.load` gives them so).
        layers: names of the layers to return; the network ends after the deepest.
        pooling: "avg" (as in the paper, where VGG-19 was trained with max), "max" or "l2".

    Borders are padded by replication. Deviation: VGG-19 pads with zeros, which the optimisation paints as a frame.

    Raises:
        UsageError: the weights don't reach one of the layers.
    """

    def __init__(self, weights: Mapping[str, tuple[Tensor, Tensor]], layers: Iterable[str], pooling: str = "avg"):
        super().__init__()
        self.layers = sorted(set(layers), key=LAYERS.index)
        missing = [layer for layer in self.layers if layer not in weights]
        if missing:
            raise UsageError(f"the network ends at {list(weights)[-1]}: it has no {', '.join(missing)}")
        self.pool = POOLINGS[pooling]
        self.names = LAYERS[: LAYERS.index(self.layers[-1]) + 1]
        for name in self.names:
            weight, bias = weights[name]
            self.register_buffer(f"{name}_weight", weight.detach().clone())
            self.register_buffer(f"{name}_bias", bias.detach().clone())

    def convolution(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of one layer."""
        return self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")

    @property
    def minimum_size(self) -> int:
        """The least side of an image, in pixels, that leaves one position at the deepest layer."""
        return int(2 ** (int(self.names[-1][4]) - 1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Image B×3×H×W, RGB in [0, 1] -> ``{layer: B×N×H'×W'}`` after ReLU; H' = H // 2^(block − 1)."""
        features, x = {}, image
        for previous, name in zip((None, *self.names), self.names, strict=False):
            if previous and previous[4] != name[4]:
                x = self.pool(x)
            x = F.relu_(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), *self.convolution(name)))
            if name in self.layers:
                features[name] = x
        return features

    @torch.no_grad()
    def normalize(self, images: Sequence[Tensor]) -> None:
        """Rescales the filters so that each one's mean activation over images and positions is 1 (paper, section 2).

        ReLU and the poolings are positively homogeneous, so dividing a filter by its mean m_c and multiplying the next
        layer's weights on it by m_c changes nothing but the scale of each map. It makes α and β mean the same for
        every set of weights. Two deviations: m_c is never below `ACTIVATION_FLOOR` of its layer's average, and filters
        that never fire on these images don't dilute the means over filters in the losses.

        Args:
            images: tensors 1×3×H×W, RGB in [0, 1]; the job's own pictures at a fixed small size.
        """
        means = self._mean_activations(images)
        previous = torch.ones_like(self.convolution("conv1_1")[0][0, :, 0, 0])
        for name in self.names:
            weight, bias = self.convolution(name)
            firing = means[name] > 0
            average = means[name][firing].mean() if firing.any() else torch.ones_like(previous[0])
            # Losses are means over all N filters; this factor turns them into means over the N₊ that fire: features
            # times √(N/N₊) multiply the content loss by N/N₊ and the Gram loss by (N/N₊)².
            share = firing.sum().clamp(min=1) / firing.numel()
            scale = means[name].clamp(min=ACTIVATION_FLOOR * average) * share.sqrt()
            weight.mul_(previous[None, :, None, None] / scale[:, None, None, None])
            bias.div_(scale)
            previous = scale

    def _mean_activations(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        """Mean over images and positions of each filter of each layer: ``{layer: N}``, each image counting equally."""
        every_layer = Encoder({name: self.convolution(name) for name in self.names}, self.names)
        every_layer.pool = self.pool
        maps = [every_layer(image) for image in images]
        return {name: torch.stack([m[name].mean((0, 2, 3)) for m in maps]).mean(0) for name in self.names}
