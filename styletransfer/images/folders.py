"""The images in a folder, in natural order."""

import logging
import re
from functools import lru_cache
from pathlib import Path

from PIL import Image, features

from ..errors import UsageError
from .opening import NEEDS_AVIF, NEEDS_HEIF, READABLE, register_heif

log = logging.getLogger(__name__)

_HEIF = (".heic", ".heics", ".heif", ".heifs", ".hif")
_RAW = (
    ".3fr .arw .cr2 .cr3 .crw .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .rw2 .rwl .sr2 .srf "
    ".srw .x3f"
)
_OTHERS = (
    ".ai .bpg .cdr .emf .eps .exr .fit .fits .flif .hdr .jng .jxl .jxr .kra .mng .ora .pdf .ps .psb .svg .svgz .wdp "
    ".wmf .xcf"
)
#: Reasons to skip files that look like images, by their endings.
_SKIPPED = {
    **dict.fromkeys(_HEIF, NEEDS_HEIF),
    **dict.fromkeys((".avif", ".avifs"), NEEDS_AVIF),
    **dict.fromkeys(_RAW.split(), "raw files are not supported"),
    **{ending: f"{ending[1:].upper()} is not supported" for ending in _OTHERS.split()},
}
#: The most names in a warning, for each reason.
_MAX_NAMES = 5


def list_pictures(folder: Path) -> list[Path]:
    """Return the images in a folder by their endings, without hidden files, in natural order: 2 before 10.

    Files that look like images but cannot be read are named in a warning.

    Raises `UsageError` if there are none, or the folder cannot be read.
    """
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise UsageError(f"{folder}: cannot read folder: {error.strerror or error}") from error
    if any(path.suffix.lower() in _HEIF for path in paths):
        register_heif()
    kinds = {ending: kind for ending, kind in Image.registered_extensions().items() if kind in READABLE}
    if not features.check("avif"):
        kinds = {ending: kind for ending, kind in kinds.items() if kind != "AVIF"}
    paths = sorted((path for path in paths if path.is_file()), key=lambda path: natural_order(path.name))
    images = [path for path in paths if path.suffix.lower() in kinds]
    skipped = [path for path in paths if path.suffix.lower() in _SKIPPED.keys() - kinds.keys()]
    reasons = _describe([(path.name, _SKIPPED[path.suffix.lower()]) for path in skipped])
    if not images:
        raise UsageError(f"{folder}: there is no image in this folder" + (f"; skipped: {reasons}" if skipped else ""))
    if skipped:
        _warn_once(f"{folder}: skipped {len(skipped)} of {len(skipped) + len(images)} images: {reasons}")
    return images


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Return a sort key in which runs of digits count as numbers; the name itself decides between 1 and 01."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def _describe(skipped: list[tuple[str, str]]) -> str:
    """Return the reasons, each with some of its files."""
    reasons: dict[str, list[str]] = {}
    for name, reason in skipped:
        reasons.setdefault(reason, []).append(name)
    parts = []
    for reason, names in reasons.items():
        rest = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        parts.append(f"{', '.join(names[:_MAX_NAMES])}{rest} ({reason})")
    return "; ".join(parts)


@lru_cache(maxsize=1000)
def _warn_once(message: str) -> None:
    """Log a warning about a folder once: a run lists the same one several times."""
    log.warning("%s", message)
