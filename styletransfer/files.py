"""How every file of ours comes to be: whole, or not at all."""

import os
import tempfile
from pathlib import Path

from .errors import StyleTransferError


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that appears under its name by rename, when it is complete; what had the name is then replaced.

    Raises `StyleTransferError` when it can't be written; nothing is left behind, and what had the name stays.
    """
    temporary: Path | None = None
    try:
        # Made by mkstemp and not by name: two runs with the same output must not write into one file.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".styletransfer-")
        temporary = Path(name)
        with open(handle, "wb") as file:
            file.write(data)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise StyleTransferError(f"{path}: can't be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
