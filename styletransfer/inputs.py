"""The pictures of a run: the content, its styles by region, masks, and where to start."""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops
from torch import Tensor

from . import images
from .errors import UsageError
from .files import sha256_of
from .images import Picture
from .options import STARTS, WHOLE, Options

log = logging.getLogger(__name__)

Source = str | os.PathLike[str] | Image.Image | Tensor
#: A picture or a folder of pictures; several of them, where a list within the list stands for a folder.
Styles = Source | Sequence[Source | Sequence[Source]]
#: Settings that belong to the value of another one, and go with it.
_TOGETHER = {"optimizer": ("learning_rate",), "model": ("weights", "preprocessing")}


@dataclass(frozen=True)
class Styled:
    """A style picture, its share of its region's style, and which part of it counts: all of it without a mask."""

    picture: Picture
    share: float
    mask: Picture | None = None


@dataclass(frozen=True)
class Part:
    """A region of the content, white in its mask, and its styles; the whole picture without a mask."""

    styles: list[Styled]
    mask: Picture | None = None


@dataclass(frozen=True)
class Inputs:
    """All pictures of a run.

    Attributes:
        content: the photograph.
        parts: its regions with their styles.
        start: what the canvas is filled with at first, if by a picture.
        keep: white where the photograph stays; None if nowhere.
        names: file names of the content and the styles, without folders; a list of them for a folder.
        digest: of the files, as `digest` gives it.
    """

    content: Picture
    parts: list[Part]
    start: Picture
    keep: Picture | None
    names: list[str | list[str]]
    digest: str | None = None

    @property
    def styles(self) -> list[Picture]:
        """The style pictures, each once."""
        return list({id(styled.picture): styled.picture for part in self.parts for styled in part.styles}.values())

    def hashes(self) -> dict[str, str]:
        """What must be the same for the result to be: SHA-256 of the pixels of each kind of input."""
        masks = [mask for part in self.parts for mask in (part.mask, *(s.mask for s in part.styles))]
        kinds: dict[str, Sequence[Picture | None]] = {
            "content": [self.content],
            "style": self.styles,
            "init": [self.start],
            "mask": masks,
            "keep": [self.keep],
        }
        return {kind: _hash(pictures) for kind, pictures in kinds.items()}


def read(content: Source, style: Styles, options: Options) -> Inputs:
    """Reads every picture that a run needs.

    Raises:
        UsageError: no such file, an empty folder, or weights and masks that don't match the styles.
        StyleTransferError: a picture can't be read.
    """

    def picture(source: Source) -> Picture:
        return images.read(source, options.max_pixels)

    first = picture(content)
    sources = [_pictures_of(source) for source in several(style)]
    groups = [[picture(one) for one in (found if isinstance(found, list) else [found])] for found in sources]
    parts = _regions(groups, options, picture) if options.mask else [Part(_blend(groups, options.style_weight))]
    start = parts[0].styles[0].picture if options.init in STARTS else picture(options.init)
    keep = _mask(picture(options.keep), options.keep) if options.keep else None
    names: list[str | list[str]] = [first.name]
    for found, group in zip(sources, groups, strict=True):
        names.append([one.name for one in group] if isinstance(found, list) else group[0].name)
    return Inputs(first, parts, start, keep, names, _digest(content, sources, options))


def digest(content: Source, style: Styles, options: Options) -> str | None:
    """SHA-256 of all files of pictures of a run together; None if one is no file. Raises `OSError` as `open`."""
    return _digest(content, [_pictures_of(source) for source in several(style)], options)


def _digest(content: Source, styles: Sequence[Source | list[Source]], options: Options) -> str | None:
    sources: list[Source] = [content]
    for found in styles:
        sources += found if isinstance(found, list) else [found]
    sources += [name for name in options.files if name != options.weights]
    paths = [source for source in sources if isinstance(source, str | os.PathLike)]
    if len(paths) < len(sources):
        return None
    return hashlib.sha256("".join(map(_sha256_now, paths)).encode()).hexdigest()


def _sha256_now(path: str | os.PathLike[str]) -> str:
    """Of a file; a batch asks for the same ones again and again."""
    found = os.stat(path)
    return _sha256_then(os.fspath(path), found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=10_000)
def _sha256_then(path: str, _changed: int, _size: int) -> str:
    return sha256_of(path)


def again(picture: str | os.PathLike[str], **changes: Any) -> tuple[Source, Styles, Options]:
    """Content, styles and options of a picture, for `stylize`, as they are embedded in it, with changes.

    ``stylize(*again("picture.png", size=2048))`` makes it anew, larger. Pictures hold their inputs' names without
    folders; the files are looked for beside the picture and in the current folder. A texture needs its style only.

    Args:
        changes: other settings, and ``content`` or ``style`` if their files are elsewhere.

    Raises:
        UsageError: the picture tells no settings, or an input isn't found.
        StyleTransferError: the picture can't be read.
    """
    path = Path(picture)
    told = images.read_settings(path)
    if not {"content", "style", "version"} <= told.keys():
        raise UsageError(f"{path} doesn't tell how it was made: only pictures that are as styletransfer wrote them do")

    def found(name: Any) -> Any:
        if isinstance(name, list):
            return [found(one) for one in name]
        plain = Path(str(name)).name
        for place in (path.parent / plain, Path(plain)):
            if place.is_file() and not place.samefile(path):
                return str(place)
        raise UsageError(f"{path} was made from {plain}, which is neither beside it nor in the current folder")

    content, style = (changes.pop(name, None) for name in ("content", "style"))
    named = content is not None or style is not None
    if content is None and told["content"] != images.UNNAMED:
        content = found(told["content"])
    style = found(told["style"]) if style is None else style
    for setting, others in _TOGETHER.items():
        if setting in changes and changes[setting] != told.get(setting):
            told = {name: value for name, value in told.items() if name not in others}
    if changes.get("optimizer") == "lbfgs":
        told.pop("jitter", None)
    replaced = changes.keys() & {"init", "weights", "keep", "mask"}  # need not be found
    options = Options.told({name: value for name, value in told.items() if name not in replaced}).with_files(found)
    options = replace(options, **changes)
    if content is None and options.alpha:
        raise UsageError(f"{path} was made from a picture that was no file: name the content")
    if content is None:  # as `figures.texture` makes it
        size = images.fitted(images.size(path), options.size, enlarge=True)
        content = read(Image.new("RGB", (1, 1)), style, options).styles[0].flat(size)
    elif not (named or replaced) and told.get("inputs") not in (None, digest(content, style, options)):
        log.warning("%s: the pictures that it was made from have changed since", path)
    return content, style, options


def several(style: Styles) -> list[Source | Sequence[Source]]:
    """The styles as a list. Raises `UsageError` if there is none."""
    if isinstance(style, str | os.PathLike | Image.Image | Tensor):
        return [style]
    if not style:
        raise UsageError("there is no style picture")
    return list(style)


def _pictures_of(source: Source | Sequence[Source]) -> Source | list[Source]:
    """A picture, or a list of those in a folder, by name."""
    if isinstance(source, str | os.PathLike) and os.path.isdir(source):
        return list(images.in_folder(Path(source)))
    return source if isinstance(source, str | os.PathLike | Image.Image | Tensor) else list(source)


def _blend(groups: list[list[Picture]], weights: Sequence[float]) -> list[Styled]:
    """The styles with shares that add up to 1; a folder's pictures have equal parts of its weight."""
    weights = weights or [1.0] * len(groups)
    if len(weights) != len(groups):
        raise UsageError(f"{len(groups)} styles, but {len(weights)} style weights: give one for each")
    if not sum(weights):
        raise UsageError("the style weights are all 0")
    shares = [weight / sum(weights) for weight in weights]
    return [Styled(p, share / len(group)) for group, share in zip(groups, shares, strict=True) if share for p in group]


def _regions(groups: list[list[Picture]], options: Options, picture: Any) -> list[Part]:
    """A region for every pair of masks, with the style of the same place, or the only one."""
    if len(groups) not in (1, len(options.mask)):
        raise UsageError(f"{len(options.mask)} masks, but {len(groups)} styles: give one style, or one for each mask")
    if options.style_weight:
        raise UsageError("style_weight is for several styles in one place; with masks every style has its own")
    parts = []
    for number, (here, there) in enumerate(options.mask):
        mask = None if there == WHOLE else _mask(picture(there), there)
        group = groups[number % len(groups)]
        parts.append(Part([Styled(p, 1 / len(group), mask) for p in group], _mask(picture(here), here)))
    return parts


def _mask(picture: Picture, path: str) -> Picture:
    """A mask as a picture in shades of grey."""
    grey = picture.rgb.convert("L")
    if picture.alpha:  # what doesn't show is not selected, whatever its colour
        grey = ImageChops.multiply(grey, picture.alpha)
    if grey.getextrema() == (0, 0):
        raise UsageError(f"{path}: the mask is black all over: white is what counts")
    return Picture(grey.convert("RGB"), None, picture.name)


def _hash(pictures: Sequence[Picture | None]) -> str:
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(b"none" if picture is None else picture.rgb.tobytes())
        digest.update(picture.alpha.tobytes() if picture and picture.alpha else b"")
    return digest.hexdigest()
