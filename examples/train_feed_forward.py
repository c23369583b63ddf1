"""Train a small network that restyles any photo in one pass, for about a minute, with the losses of styletransfer.

    python examples/train_feed_forward.py examples/swirls.jpg examples/coffee.jpg out.png --steps 100

Johnson, Alahi and Fei-Fei, *Perceptual Losses for Real-Time Style Transfer and Super-Resolution*, ECCV 2016, in small:
the photos are crops of a single one, and the network has a tenth of their weights. For good results train it for hours,
on thousands of photos.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import styletransfer as st
from styletransfer.images import read_picture, to_pil
from styletransfer.losses import ContentLoss, FeatureExtractor, GramLoss, TotalVariationLoss

CROP, BATCH = 96, 4


class Residual(nn.Module):
    """x + two convolutions of x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
                nn.InstanceNorm2d(channels, affine=True),
            ),
            *(nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def make_network(channels: int = 32) -> nn.Sequential:
    """Return a network that maps images B×3×H×W to images of the same size, for sides that are multiples of 2."""
    return nn.Sequential(
        *(nn.Conv2d(3, channels, 5, stride=2, padding=2, padding_mode="reflect"), nn.ReLU()),
        *(Residual(channels) for _ in range(3)),
        *(nn.Upsample(scale_factor=2), nn.Conv2d(channels, 3, 5, padding=2, padding_mode="reflect"), nn.Sigmoid()),
    )


def train(
    network: nn.Module, features: FeatureExtractor, style_image: Tensor, photo: Tensor, steps: int
) -> list[float]:
    """Train on random crops of a photo; return the losses."""
    style, content, smooth = GramLoss(features(style_image)), ContentLoss(), TotalVariationLoss()
    optimizer, losses = torch.optim.Adam(network.parameters(), 3e-3), list[float]()
    for _ in range(steps):
        corners = [(int(torch.randint(side - CROP + 1, ()))) for side in photo.shape[2:] for _ in range(BATCH)]
        crops = torch.cat(
            [photo[..., y : y + CROP, x : x + CROP] for y, x in zip(corners[:BATCH], corners[BATCH:], strict=True)]
        )
        optimizer.zero_grad()
        output = network(crops)
        maps = features(output)
        with torch.no_grad():
            target = features(crops)
        loss = content(maps, target) + 5 * style(maps) + smooth(output)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("style", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    torch.manual_seed(0)
    features = st.load_model("vgg19").feature_extractor()
    style_image, photo = read_picture(args.style).resize((256, 204)).tensor(), read_picture(args.photo).tensor()
    photo = photo[..., : photo.shape[2] // 2 * 2, : photo.shape[3] // 2 * 2]
    network = make_network()
    losses = train(network, features, style_image, photo, args.steps)
    print(f"{len(losses)} steps, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    start = time.perf_counter()
    with torch.no_grad():
        to_pil(network(photo)).save(args.output)
    print(f"{args.output}: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
