"""The pictures of a run: the content, its styles by region, masks, and where to start."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from . import images
from .errors import UsageError
from .images import Picture
from .options import STARTS, WHOLE, Options

Source = str | os.PathLike[str] | Image.Image | Tensor
#: A picture or a folder of pictures; several of them, where a list within the list stands for a folder.
Styles = Source | Sequence[Source | Sequence[Source]]


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
    """

    content: Picture
    parts: list[Part]
    start: Picture
    keep: Picture | None
    names: list[str | list[str]]

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
    return Inputs(first, parts, start, keep, names)


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
        for folder in (path.parent, Path()):
            if (folder / plain).is_file():
                return str(folder / plain)
        raise UsageError(f"{path} was made from {plain}, which is neither beside it nor in the current folder")

    content, style = (changes.pop(name, None) for name in ("content", "style"))
    style = style or found(told["style"])
    options = Options.told({name: value for name, value in told.items() if name not in changes}).with_files(found)
    options = replace(options, **changes)
    if not content and told["content"] == images.UNNAMED and not options.alpha:  # as `figures.texture` makes it
        size = images.fitted(images.read(path, options.max_pixels).rgb.size, options.size, enlarge=True)
        content = read(Image.new("RGB", size), style, options).styles[0].flat(size)
    return content or found(told["content"]), style, options


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
    if grey.getextrema() == (0, 0):
        raise UsageError(f"{path}: the mask is black all over: white is what counts")
    return Picture(grey.convert("RGB"), None, picture.name)


def _hash(pictures: Sequence[Picture | None]) -> str:
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(b"none" if picture is None else picture.rgb.tobytes())
        digest.update(picture.alpha.tobytes() if picture and picture.alpha else b"")
    return digest.hexdigest()
