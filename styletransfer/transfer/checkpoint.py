"""Checkpoint files: the state of a run on disk, to resume it after an interruption.

One safetensors file: tensors, and the rest of `Run.state_dict` as JSON in its header. It is written atomically next to
the output image under a hidden name, and removed once the output is saved.
"""

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import StyleTransferError, UsageError
from ..files import atomic_write
from ..options import Options

log = logging.getLogger(__name__)

#: Changes with the content of the file. Format 4 also named the network of each scale; a warm start had two.
FORMAT, READABLE = "5", ("4", "5")
#: Largest share of a run's time that writing checkpoints takes, however often they are wanted: so a slow disk does not
#: slow the run.
SHARE = 0.02
_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL"}


class DamagedError(StyleTransferError):
    """A checkpoint that is damaged, or of another version of the program."""


class DifferentError(UsageError):
    """A state of a run with other settings or inputs."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        state: of the run, as returned by `Run.state_dict`.
        sources: absolute paths of content and styles, None for an input that is no file, and the options.
    """

    state: dict[str, Any]
    sources: dict[str, Any]


def checkpoint_path(picture: Path) -> Path:
    """Return the path of the checkpoint of an output image."""
    name = f".{picture.name}.checkpoint"
    if len(os.fsencode(name)) > 255:  # longer than file systems allow, although the image's name is not
        name = f".{hashlib.sha256(os.fsencode(picture.name)).hexdigest()}.checkpoint"
    return picture.with_name(name)


def load_checkpoint(path: Path, *, header_only: bool = False) -> Checkpoint:
    """Read a checkpoint; with `header_only`, all but its tensors.

    Raises:
        UsageError: the file does not exist.
        DamagedError: it is damaged, or of another version of the program.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no checkpoint: the run was finished, or ended before the first one")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if header.get("format") not in READABLE:
                raise DamagedError(f"{path}: not a checkpoint of this version of styletransfer")
            tensors = {} if header_only else {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        run, sources, progress = (json.loads(header[name]) for name in ("run", "sources", "progress"))
        return Checkpoint({"run": run, "progress": progress, "tensors": tensors}, sources)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DamagedError(f"{path}: the checkpoint is damaged: remove it and start again") from error


def check_same_run(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `DifferentError`, with their names, if settings or inputs differ from those that a run began with."""
    before = Options.add_defaults(before)
    changed = [
        f"{name} was {_shorten(before.get(name))} and is now {_shorten(now.get(name))}"
        for name in {**before, **now}
        if json.dumps(before.get(name)) != json.dumps(now.get(name))
    ]
    if changed:
        raise DifferentError(
            "cannot resume from the checkpoint: " + "; ".join(changed) + ". Without resume the run starts over"
        )


def _shorten(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else text[:12] + "…"


class CheckpointWriter:
    """A writer of a run's checkpoints.

    Args:
        path: of the file.
        every: seconds between checkpoints, ∞ for none.
        sources: as in `Checkpoint`.
        resumed: whether the run resumes from the existing file. Otherwise an existing file is of an earlier run, and is
            spared until the first checkpoint is due, in case this run was started by mistake.
    """

    def __init__(self, path: Path, every: float, sources: dict[str, Any], resumed: bool) -> None:
        self.path, self.every, self.sources = path, every, sources
        self.spares, self.failed = path.exists() and not resumed, False
        self.next = time.monotonic() + every

    def is_due(self, *, last: bool = False) -> bool:
        """Return whether a checkpoint is due; an interrupted run's last one is, unless another run's file is spared."""
        return time.monotonic() >= self.next or (last and not self.spares and math.isfinite(self.every))

    def write(self, state: Mapping[str, Any]) -> None:
        """Write the state of the run. If that fails, a warning is logged and the run continues."""
        start = time.monotonic()
        parts = {"run": state["run"], "sources": self.sources, "progress": state["progress"]}
        header = {"format": FORMAT} | {name: json.dumps(part) for name, part in parts.items()}
        try:
            with atomic_write(self.path) as file:
                _save(file, state["tensors"], header)
            self.spares = self.failed = False
        except StyleTransferError as error:
            if not self.failed:
                log.warning("%s; the run continues without a checkpoint", error)
            self.failed = True
        now = time.monotonic()
        self.next = now + max(self.every, (now - start) / SHARE)


def _save(file: BinaryIO, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors as safetensors; the library's own function leaves a temporary file if the process is killed."""
    entries: dict[str, Any] = {"__metadata__": header}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        raw: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        file.write(raw)
