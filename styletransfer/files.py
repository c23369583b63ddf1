"""Atomic writing of files, hashes of them, and messages about missing ones."""

import contextlib
import errno
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO

from .errors import StyleTransferError, UsageError


def cache_directory() -> Path:
    """Return the folder of what can be made again: ``$XDG_CACHE_HOME/styletransfer`` or ``~/.cache/styletransfer``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "styletransfer"


def describe_missing(path: str | os.PathLike[str]) -> str:
    """Return "PATH: no such file", and the name of a similar file in its folder if there is one."""
    folder, name = os.path.split(os.fspath(path))
    if folder and not os.path.isdir(folder):
        return f"{path}: no such file: the folder {folder} does not exist"
    try:
        names = {name.lower(): name for name in os.listdir(folder or ".") if not name.startswith(".")}
    except OSError:
        names = {}
    similar = get_close_matches(name.lower(), names, n=1, cutoff=0.7)
    return f"{path}: no such file" + (f"; did you mean {os.path.join(folder, names[similar[0]])}?" if similar else "")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the file's SHA-256 in hexadecimal. Raises `OSError` if it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file as `atomic_write` does."""
    with atomic_write(path) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file to write to, which replaces the file at the path when the block ends.

    It is synced to the disk before it is renamed, so that even after a power failure either the old or the new file is
    there. If the block fails, the old file stays and the temporary one is removed; where the system has nameless files
    (Linux, most file systems), not even a killed process leaves one. A symbolic link is followed to its target.

    Raises `StyleTransferError` if the file cannot be written.
    """
    name: Path | None = None
    try:
        target = follow_links(path)
        if target.exists() and not target.is_file():  # the rename would replace a device
            raise OSError("it is not a regular file")
        handle, name = _open_temporary(target.parent)
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
            if name is None:
                name = target.parent / f".styletransfer-{secrets.token_hex(8)}"
                # With src_dir_fd, Python calls linkat, which follows the link to the nameless file.
                os.link(f"/proc/self/fd/{handle}", name, src_dir_fd=handle)
        name.replace(target)
    except OSError as error:
        raise StyleTransferError(f"{path}: cannot write file: {error.strerror or error}") from error
    finally:
        if name is not None:
            name.unlink(missing_ok=True)


def follow_links(path: Path) -> Path:
    """Return the path at the end of all symbolic links, whether a file is there or not.

    Raises `OSError` if the links form a loop.
    """
    target = os.path.realpath(path)
    if os.path.islink(target):  # only a loop leaves one
        raise OSError(errno.ELOOP, "its symbolic links form a loop")
    return Path(target)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents. Raises `UsageError` if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot create folder: {error.strerror or error}") from error


def is_writable(folder: Path) -> bool:
    """Return whether a file can be created in a folder, by creating one: permissions alone do not say."""
    try:
        handle, name = _open_temporary(folder)
    except OSError:
        return False
    os.close(handle)
    if name is not None:
        name.unlink()
    return True


def _open_temporary(folder: Path) -> tuple[int, Path | None]:
    """Create a file in a folder; return its descriptor, and its name if it has one."""
    with contextlib.suppress(OSError, AttributeError):  # another system, or a file system without nameless files
        if os.path.isdir("/proc/self/fd"):
            return os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666), None
    # The name is random, because two runs with the same output must not write into one file.
    handle, name = tempfile.mkstemp(dir=folder, prefix=".styletransfer-")
    os.chmod(name, 0o666 & ~_read_umask())
    return handle, Path(name)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
