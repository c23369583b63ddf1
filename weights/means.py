"""Makes `means.safetensors`: the mean activation of each of VGG-19's filters over photographs.

    python weights/means.py --photos FOLDER [--paintings FOLDER] [-o FILE]

Gatys, Ecker, Bethge, CVPR 2016, section 2, normalise by those over images of ImageNet. For each pooling the file holds
``vgg19.POOLING.LAYER``, N values for N filters. With --paintings it also prints how much they would differ over
paintings, and nothing of those goes into the file.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageOps
from safetensors.torch import save as safetensors_bytes
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from tqdm import tqdm

from styletransfer.files import sha256_of, write_atomically
from styletransfer.network import Encoder, weights
from styletransfer.network.vgg import ACTIVATION_FLOOR, POOLINGS

SIZE = 224  # the shorter side of a picture: what VGG-19 was trained on


def load_pictures(folder: Path) -> list[Tensor]:
    """The pictures of a folder as tensors uint8 1×3×H×W."""
    tensors = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")):
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        width, height = (round(side * SIZE / min(image.size)) for side in image.size)
        tensors.append(pil_to_tensor(image.resize((width, height), Image.Resampling.LANCZOS))[None])
    return tensors


def mean_activations(pooling: str, pictures: list[Tensor]) -> dict[str, Tensor]:
    """``{layer: N}`` over pictures and positions, each picture counting equally."""
    convolutions = weights.load_model("vgg19-8bit").convolutions
    encoder = Encoder(convolutions, convolutions, pooling)
    total: dict[str, Tensor] = {}
    for picture in tqdm(pictures, desc=pooling):
        for layer, mean in encoder.mean_activations([picture / 255]).items():
            total[layer] = total.get(layer, torch.zeros_like(mean)) + mean / len(pictures)
    return total


def compare(means: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    """Prints for each layer how often single filters fire more over other pictures: quartiles and extremes."""
    for layer, mean in means.items():
        share = mean / mean[mean > 0].mean()
        ratio = (others[layer] / mean).nan_to_num(1.0)
        quantiles = ", ".join(f"{q:.2f}" for q in torch.quantile(ratio, torch.tensor([0, 0.25, 0.5, 0.75, 1])))
        print(
            f"{layer}: least {share.min():.4f} of the average, {(share < ACTIVATION_FLOOR).sum()} under the floor; "
            f"over paintings × {quantiles}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--paintings", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "means.safetensors")
    args = parser.parse_args()

    photos = load_pictures(args.photos)
    tensors = {}
    for pooling in POOLINGS:
        means = mean_activations(pooling, photos)
        tensors |= {f"vgg19.{pooling}.{layer}": mean for layer, mean in means.items()}
        if args.paintings and pooling == "avg":
            compare(means, mean_activations(pooling, load_pictures(args.paintings)))
    write_atomically(args.output, safetensors_bytes(tensors))
    print(f"{args.output}  SHA-256 {sha256_of(args.output)}")


if __name__ == "__main__":
    main()
