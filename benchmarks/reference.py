"""A plain version of the popular tools: the same objective in float32 through autograd on contiguous tensors, and
`torch.optim.LBFGS` with fixed steps and a history of 100, from the content image; or Adam at 0.02."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from styletransfer import Options
from styletransfer.encoder.vgg import Encoder
from styletransfer.losses import GAMUT_WEIGHT

HISTORY = 100


class Reference:
    """Loss by autograd, from the convolutions of an encoder and images 1×3×H×W."""

    def __init__(self, encoder: Encoder, content: Tensor, style: Tensor, options: Options) -> None:
        self.names, self.options = encoder.names, options
        self.weights = {
            name: [tensor.contiguous() for tensor in encoder.convolution(name)[:2]] for name in encoder.names
        }
        with torch.no_grad():
            self.content = {layer: self.features(content)[layer] for layer in options.content_weights}
            self.style = {layer: self.gram(self.features(style)[layer]) for layer in options.style_weights}

    def features(self, x: Tensor) -> dict[str, Tensor]:
        features, block = {}, "1"
        for name in self.names:
            if name[4] != block:
                x, block = F.avg_pool2d(x, 2), name[4]
            x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), *self.weights[name]))
            features[name] = x
        return features

    @staticmethod
    def gram(features: Tensor) -> Tensor:
        flat = features.flatten(2)[0]
        return flat @ flat.T / flat.shape[1]

    @staticmethod
    def distance(values: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(values, target) / target.square().mean().clamp(min=1)

    def loss(self, image: Tensor) -> Tensor:
        features, total = self.features(image), image.new_zeros(())
        for layer, weight in self.options.content_weights.items():
            total = total + self.options.alpha * weight * self.distance(features[layer], self.content[layer])
        for layer, weight in self.options.style_weights.items():
            total = total + self.options.beta * weight * self.distance(self.gram(features[layer]), self.style[layer])
        outside = (image - image.clamp(0, 1)).square().mean()
        return total + GAMUT_WEIGHT * (self.options.alpha + self.options.beta) * outside

    def optimize(
        self, image: Tensor, optimizer: str, iterations: int, listen: Callable[[int, float, float, Tensor], object]
    ) -> Tensor:
        """Return the image after `iterations`; `listen` gets iteration, loss, seconds and image of each."""
        x, count, start = image.clone().contiguous().requires_grad_(), 0, time.perf_counter()

        def closure() -> Tensor:
            nonlocal count
            driver.zero_grad()
            loss = self.loss(x)
            loss.backward()
            listen(count, loss.item(), time.perf_counter() - start, x.detach())
            count += 1
            return loss

        if optimizer == "lbfgs":
            driver: torch.optim.Optimizer = torch.optim.LBFGS(
                [x],
                lr=1,
                max_iter=iterations,
                max_eval=10 * iterations,
                history_size=HISTORY,
                tolerance_grad=0,
                tolerance_change=0,
            )
            driver.step(closure)
        else:
            driver = torch.optim.Adam([x], lr=0.02)
            for _ in range(iterations):
                driver.step(closure)
        return x.detach()
