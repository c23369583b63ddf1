"""Measurements of this processor, cached on disk, so that later runs start sooner and make the same choices."""

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from .errors import StyleTransferError
from .files import cache_directory, write_atomically

T = TypeVar("T")
_cache: dict[tuple[str, str], Any] = {}


def load_or_measure(name: str, measure: Callable[[], T], parse: Callable[[Any], T]) -> T:
    """Return a cached measurement of this processor; measure it if there is none.

    A measurement is valid for one processor, version of torch and number of threads. While one process measures, others
    wait for its result.

    Args:
        name: of the measurement.
        measure: returns a result that can be written as JSON.
        parse: converts the result read from JSON. If it raises `ValueError`, `TypeError`, `KeyError` or
            `AttributeError`, the result is damaged and measured again.
    """
    conditions = _describe_conditions()
    if (conditions, name) not in _cache:
        path = cache_directory() / f"measured-{hashlib.sha256(conditions.encode()).hexdigest()[:12]}.json"
        with _lock(path):
            stored = _read(path)
            try:
                result = parse(stored[name])
            except (ValueError, TypeError, KeyError, AttributeError):
                result = stored[name] = measure()
                with contextlib.suppress(StyleTransferError):  # without the file, the next run measures again
                    write_atomically(path, json.dumps(stored, indent=1).encode())
        _cache[conditions, name] = result
    known: T = _cache[conditions, name]
    return known


def _describe_conditions() -> str:
    """Return what a measurement depends on: processor, torch, threads, disabled instruction sets."""
    limits = [f"{name}={os.environ.get(name)}" for name in ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")]
    software = [torch.__version__, torch.backends.cpu.get_cpu_capability(), str(torch.get_num_threads())]
    return "\n".join([*_describe_processor(), *software, *limits])


@cache
def _describe_processor() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        wanted = ("vendor_id", "cpu family", "model", "stepping", "cache size", "flags", "Features", "CPU part")
        return [platform.machine(), *(line for line in lines if line.startswith(wanted))]
    except OSError:
        return [platform.machine(), platform.processor()]


def _read(path: Path) -> dict[str, Any]:
    """Return the content of the cache file; empty if it does not exist or is damaged."""
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let only one process at a time measure, where the system has locks and the folder can be written."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path.with_suffix(".lock"), "w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
