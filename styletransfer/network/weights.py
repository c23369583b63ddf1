"""Which weights there are; find, fetch, verify, convert and load them.

Whatever a file's convention, what is loaded takes RGB in [0, 1]: the preprocessing that goes with the weights is folded
into conv1_1, which is exact because the encoder pads by replication.
"""

import contextlib
import hashlib
import json
import logging
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from safetensors import safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from ..errors import StyleTransferError, UsageError
from ..files import sha256_of, write_atomically
from ..options import LAYERS
from .download import download

log = logging.getLogger(__name__)

Convolutions = dict[str, tuple[Tensor, Tensor]]

_PACKAGE = Path(__file__).resolve().parent.parent
#: Files larger than this hold a classifier too; their convolutions are kept apart so that the next start is quick.
_CONVERT_ABOVE = 100 << 20
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_WIDEST = 4096  # filters; VGG-19's widest layers have 512
#: What a pickle of plain tensors names (torchvision's oldest files hold Parameters). torch.load allows more, such as
#: bytearray, with which a few bytes of pickle fill any memory.
_NAMED_BY_TENSORS = re.compile(
    r"collections OrderedDict|torch \w+Storage|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter)"
)


@dataclass(frozen=True)
class Network:
    """One known set of weights. `sha256` is its beginning; `url` is called when the file must be fetched."""

    name: str
    files: tuple[str, ...]
    sha256: str
    size: str
    about: str
    url: Callable[[], str] | None = None


def _torchvision_url() -> str:
    from torchvision.models import VGG19_Weights  # slow to import, needed once in a lifetime

    return str(VGG19_Weights.IMAGENET1K_V1.url)


#: The bundled encoder's hash is replaced whenever it is trained anew (weights/README.md).
NETWORKS = {
    "vgg19": Network(
        "vgg19",
        ("vgg19-dcbb9e9d.pth", "vgg19-d01eb7cb.pth", "vgg_conv.pth"),
        "dcbb9e9d",
        "548 MB",
        "VGG-19 trained on ImageNet (torchvision)",
        _torchvision_url,
    ),
    "vgg19-lite": Network(
        "vgg19-lite",
        ("vgg19-lite.safetensors",),
        "8ec87076c62bc114f23a4dde64704bd28693b7dbae0f8c60907023a6a61a77bd",
        "4 MB",
        "distilled, bundled with the package",
    ),
}

# --- finding -------------------------------------------------------------------------------------------------------


def hub_directory() -> Path:
    """Where torch hub keeps checkpoints, shared with other PyTorch programs; fetched files go there."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def cache_directory() -> Path:
    """Where converted files are kept: ``$XDG_CACHE_HOME/styletransfer`` or ``~/.cache/styletransfer``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "styletransfer"


def find(name: str) -> Path | None:
    """The file of a known network: in ``$STYLETRANSFER_WEIGHTS`` (a folder, or VGG-19's file itself), the package, the
    repository's ``weights/``, torch hub's cache. None when it is in none of them.

    Raises `UsageError` when ``$STYLETRANSFER_WEIGHTS`` names nothing.
    """
    told = os.environ.get("STYLETRANSFER_WEIGHTS")
    if told and not os.path.exists(told):
        raise UsageError(f"$STYLETRANSFER_WEIGHTS is {told!r}: no such file or folder")
    if told and name == "vgg19" and Path(told).is_file():
        return Path(told)
    folders = [Path(told)] if told else []
    folders += [_PACKAGE, _PACKAGE.parent / "weights", hub_directory()]
    candidates = (folder / file for folder in folders for file in NETWORKS[name].files)
    return next((path for path in candidates if path.is_file()), None)


def load_model(model: str, weights: str | None = None, preprocessing: str = "auto") -> tuple[str, Convolutions]:
    """The network of a run: its name (or its file's, if given) and its convolutions.

    Only ``model="vgg19"`` downloads. Raises `StyleTransferError` when the weights can't be had or read.
    """
    if weights is not None:
        return Path(weights).name, load(Path(weights), preprocessing)
    if model != "auto":
        return model, load(fetch(model), preprocessing)
    here = find("vgg19")
    if here:
        log.info("using %s", here)
        return "vgg19", load(here, preprocessing)
    size = NETWORKS["vgg19"].size
    log.info("using the bundled vgg19-lite; for VGG-19 itself (%s once): styletransfer weights fetch", size)
    return "vgg19-lite", load(fetch("vgg19-lite"), preprocessing)


# --- fetching ------------------------------------------------------------------------------------------------------


def fetch(name: str = "vgg19") -> Path:
    """Downloads a network unless it is at hand; returns its path.

    A partial file is resumed, also after a connection that breaks; the hash is checked before the file gets its name;
    of several processes at once one downloads while the others wait. Raises `StyleTransferError` when the server can't
    be reached, refuses or is too slow, on a wrong hash, or when the file can't be written.
    """
    found = find(name)
    if found:
        return found
    network = NETWORKS[name]
    if network.url is None:
        raise StyleTransferError(f"{network.files[0]} is missing from the installation: reinstall styletransfer")
    return download(network.url(), hub_directory() / network.files[0], network.sha256)


def verify(path: Path) -> str:
    """Checks a weights file: the hash that its name or `NETWORKS` promises, and that it can be loaded.

    Returns its SHA-256; raises `StyleTransferError` when something is wrong.
    """
    digest = _check_promise(path)
    _convolutions(path, "auto")
    return digest


def _check_promise(path: Path) -> str:
    """The file's SHA-256, once it is seen to be what the name promises, if it promises anything."""
    promised = _promised_hash(path)
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise StyleTransferError(f"{path}: can't be read: {error.strerror}") from error
    if not digest.startswith(promised):
        raise StyleTransferError(
            f"{path}: not the file that its name promises: its SHA-256 begins with {digest[: len(promised)]}, "
            f"not {promised}; remove it and run: styletransfer weights fetch"
        )
    return digest


def _promised_hash(path: Path) -> str:
    """The beginning of the hash that a name promises: torch hub's ``name-0123abcd.pth``, or a bundled file."""
    bundled = [n.sha256 for n in NETWORKS.values() if n.url is None and path.name in n.files]
    in_name = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    return bundled[0] if bundled else in_name[1] if in_name else ""


# --- loading -------------------------------------------------------------------------------------------------------


def load(path: Path, preprocessing: str = "auto") -> Convolutions:
    """Loads a weights file as ``{"conv1_1": (weight Cout×Cin×3×3, bias Cout), …}``, float32, for RGB in [0, 1].

    Reads safetensors and PyTorch state dicts (tensors only: no other pickled object is ever built) with torchvision's
    keys (``features.0.weight``), caffe's layer names (``conv1_1.weight``), or the same without the underscore.

    Args:
        path: the file.
        preprocessing: what the weights expect: "torchvision", "caffe", "rgb", or "auto", which tells by keys and name.

    Raises:
        StyleTransferError: no such file, not weights, not VGG-19's shape, not finite, or the hash in its name is wrong.
    """
    if not os.path.isfile(path):  # os.path and not Path, whose method raises for names too long
        raise UsageError(f"{path}: no such weights file")
    kept = _kept_conversion(path, preprocessing)
    if kept is not None and kept.is_file():
        with contextlib.suppress(StyleTransferError):  # a spoilt conversion is made again
            return _convolutions(kept, "auto")
    if _promised_hash(path):
        _check_promise(path)
    convolutions = _convolutions(path, preprocessing)
    if kept is not None:
        with contextlib.suppress(OSError, StyleTransferError):  # a read-only home only costs time
            kept.parent.mkdir(parents=True, exist_ok=True)
            save(convolutions, kept)
    return convolutions


def save(convolutions: Convolutions, path: Path) -> None:
    """Writes convolutions for RGB in [0, 1] as safetensors. Raises `StyleTransferError` when they can't be written."""
    tensors = {}
    for name, (weight, bias) in convolutions.items():
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = weight.contiguous(), bias.contiguous()
    write_atomically(path, safetensors_bytes(tensors, metadata={"preprocessing": "rgb"}))


def _kept_conversion(path: Path, preprocessing: str) -> Path | None:
    """Where the convolutions of a large file are kept; a file that changes gets another place."""
    status = path.stat()
    if status.st_size < _CONVERT_ABOVE:
        return None
    identity = json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns, preprocessing])
    return cache_directory() / f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.safetensors"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of floating-point numbers in a weights file under its own keys, and its metadata (safetensors only).

    Raises `StyleTransferError` when the file is not one of weights, or holds more than plain tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
        else:
            _check_pickles(path)
            tensors, metadata = torch.load(path, map_location="cpu", weights_only=True), None
            for key in ("state_dict", "model"):
                if isinstance(tensors, Mapping) and isinstance(tensors.get(key), Mapping):
                    tensors = tensors[key]
        named = {k: v.detach() for k, v in tensors.items() if isinstance(k, str) and isinstance(v, Tensor)}
        return {k: v for k, v in named.items() if v.dtype in _FLOATS}, metadata or {}
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


def _convolutions(path: Path, preprocessing: str) -> Convolutions:
    tensors, metadata = read_tensors(path)
    found: Convolutions = {}
    for key, weight in tensors.items():
        layer, bias = _layer_of(key), tensors.get(key.removesuffix("weight") + "bias")
        if layer and bias is not None:
            found[layer] = (weight, bias)
    found = {layer: found[layer] for layer in LAYERS if layer in found}
    _check_shapes(path, found)
    matrix, offset = _input_transform(path, tensors, metadata, preprocessing)
    convolutions = {layer: (weight.float(), bias.float()) for layer, (weight, bias) in found.items()}
    weight, bias = convolutions["conv1_1"]
    bias = bias.double() + torch.einsum("oikl,i->o", weight.double(), offset)
    weight = torch.einsum("oikl,ij->ojkl", weight.double(), matrix)
    convolutions["conv1_1"] = (weight.float(), bias.float())
    for layer, pair in convolutions.items():
        if not all(tensor.isfinite().all() for tensor in pair):
            raise StyleTransferError(f"{path}: {layer} holds values that are not finite")
    return convolutions


def _layer_of(key: str) -> str | None:
    """The paper's name of the layer whose weight stands under this key."""
    named = re.fullmatch(r"(?:module\.)?conv(\d)_?(\d)\.weight", key)
    if named:
        return f"conv{named[1]}_{named[2]}"
    indexed = re.fullmatch(r"(?:module\.)?features\.(\d{1,2})\.weight", key)
    return _torchvision_indices().get(int(indexed[1])) if indexed else None


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
    for layer, (weight, bias) in convolutions.items():
        shape = tuple(weight.shape)
        if shape[1:] != (channels, 3, 3) or bias.shape != shape[:1]:
            raise StyleTransferError(f"{path}: {layer} has shape {shape}, not N×{channels}×3×3")
        channels = shape[0]
        if not 0 < channels <= _WIDEST:
            raise StyleTransferError(f"{path}: {layer} has {channels} filters, not 1 to {_WIDEST}")
    size = sum(tensor.nbytes for pair in convolutions.values() for tensor in pair)
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
    keys_of_caffe = any(key.removeprefix("module.").startswith("conv") for key in tensors)
    return "caffe" if keys_of_caffe or re.search("caffe|d01eb7cb", path.name) else "torchvision"
