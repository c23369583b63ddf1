"""How every file of ours comes to be, whole or not at all, and what tells one from another."""

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


def describe_missing(path: str | os.PathLike[str]) -> str:
    """Return "PATH: no such file", and the name of a similar file in its folder if there is one."""
    folder, name = os.path.split(os.fspath(path))
    if folder and not os.path.isdir(folder):
        return f"{path}: no such file: the folder {folder} does not exist"
    try:
        names = {name.lower(): name for name in os.listdir(folder or ".") if not name.startswith(".")}
    except OSError:
        names = {}
    near = get_close_matches(name.lower(), names, n=1, cutoff=0.7)
    return f"{path}: no such file" + (f"; did you mean {os.path.join(folder, names[near[0]])}?" if near else "")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The file's SHA-256 in hexadecimal. Raises `OSError` if it can't be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file as `atomic_write` does."""
    with atomic_write(path) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Gives a temporary file to write to, which takes the name when the block ends; what had the name is then replaced.

    It is on the disk before it has the name, so that even after a power failure there is either the old one or the new
    one. When the block fails nothing is left behind, and what had the name stays; where the system has nameless files
    (Linux, most file systems), not even a killed process leaves anything. A symbolic link is followed: the file appears
    at its target.

    Raises `StyleTransferError` when it can't be written.
    """
    name: Path | None = None
    try:
        target = follow_links(path)
        if target.exists() and not target.is_file():  # a device, say, which the rename would replace
            raise OSError("it is not a regular file")
        handle, name = _open_temporary(target.parent)
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
            if name is None:
                name = target.parent / f".styletransfer-{secrets.token_hex(8)}"
                # With a directory given, Python calls linkat, which follows the link to the nameless file.
                os.link(f"/proc/self/fd/{handle}", name, src_dir_fd=handle)
        name.replace(target)
    except OSError as error:
        raise StyleTransferError(f"{path}: can't be written: {error.strerror or error}") from error
    finally:
        if name is not None:
            name.unlink(missing_ok=True)


def follow_links(path: Path) -> Path:
    """Return the path at the end of all symbolic links, whether a file is there or not.

    Raises `OSError` if the links lead back to themselves.
    """
    target = os.path.realpath(path)
    if os.path.islink(target):  # only a loop leaves one
        raise OSError(errno.ELOOP, "its symbolic links form a loop")
    return Path(target)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it where there is none. Raises `UsageError` if it can't be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: can't be made: {error.strerror or error}") from error


def is_writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, found out by making one: rights alone don't tell."""
    try:
        handle, name = _open_temporary(folder)
    except OSError:
        return False
    os.close(handle)
    if name is not None:
        name.unlink()
    return True


def _open_temporary(folder: Path) -> tuple[int, Path | None]:
    """The handle of a new file in a folder, and its name if it has one."""
    with contextlib.suppress(OSError, AttributeError):  # another system, or a file system without nameless files
        if os.path.isdir("/proc/self/fd"):
            return os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666), None
    # Made by mkstemp and not by the file's name: two runs with the same output must not write into one file.
    handle, name = tempfile.mkstemp(dir=folder, prefix=".styletransfer-")
    os.chmod(name, 0o666 & ~_umask())
    return handle, Path(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
