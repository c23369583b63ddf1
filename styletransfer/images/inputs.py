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

from ..errors import UsageError
from ..files import sha256_of
from ..options import STARTS, WHOLE, Options
from ..version import __version__
from .folders import list_pictures
from .images import UNNAMED, Picture, fit_size
from .reading import read_own_settings, read_picture, read_size
from .writing import FORMATS, LONGEST_SIDES

log = logging.getLogger(__name__)

Source = str | os.PathLike[str] | Image.Image | Tensor
#: A picture or a folder of pictures; several of them, where a list within the list stands for a folder.
Styles = Source | Sequence[Source | Sequence[Source]]
#: Settings that belong to the value of another one, and go with it.
_TOGETHER = {"optimizer": ("learning_rate",), "model": ("weights", "preprocessing")}


@dataclass(frozen=True)
class StyleInput:
    """A style picture, its share of its region's style, and which part of it counts: all of it without a mask."""

    picture: Picture
    share: float
    mask: Picture | None = None


@dataclass(frozen=True)
class RegionInput:
    """A region of the content, white in its mask, and its styles; the whole picture without a mask."""

    styles: list[StyleInput]
    mask: Picture | None = None


@dataclass(frozen=True)
class Inputs:
    """All pictures of a run.

    Attributes:
        content: the photograph.
        regions: its regions with their styles.
        start: what the canvas is filled with at first, if not by the content.
        keep: white where the photograph stays; None if nowhere.
        names: file names of the content and the styles, without folders; a list of them for a folder.
        digest: of the files, as `digest` gives it.
    """

    content: Picture
    regions: list[RegionInput]
    start: Picture | None
    keep: Picture | None
    names: list[str | list[str]]
    digest: str | None = None

    @property
    def styles(self) -> list[Picture]:
        """The style pictures, each once."""
        styles = [style.picture for region in self.regions for style in region.styles]
        return list({id(picture): picture for picture in styles}.values())

    def hashes(self) -> dict[str, str]:
        """What must be the same for the result to be: SHA-256 of the pixels of each kind of input."""
        masks = [mask for region in self.regions for mask in (region.mask, *(s.mask for s in region.styles))]
        kinds: dict[str, Sequence[Picture | None]] = {
            "content": [self.content],
            "style": self.styles,
            "init": [self.start],
            "mask": masks,
            "keep": [self.keep],
        }
        return {kind: _hash(pictures) for kind, pictures in kinds.items()}


def read_inputs(content: Source, style: Styles, options: Options) -> Inputs:
    """Reads every picture that a run needs.

    Raises:
        UsageError: no such file, an empty folder, or weights and masks that don't match the styles.
        StyleTransferError: a picture can't be read.
    """

    def picture(source: Source) -> Picture:
        return read_picture(source, options.max_pixels)

    first = picture(content)
    sources = [_expand_folder(source) for source in as_list(style)]
    groups = [[picture(one) for one in (found if isinstance(found, list) else [found])] for found in sources]
    if options.mask:
        regions = _make_regions(groups, options, picture)
    else:
        regions = [RegionInput(_blend(groups, options.style_weight))]
    start = None if options.init in STARTS else picture(options.init)
    if options.init == "style":
        start = regions[0].styles[0].picture
    keep = _mask(picture(options.keep), options.keep) if options.keep else None
    names: list[str | list[str]] = [first.name]
    for found, group in zip(sources, groups, strict=True):
        names.append([one.name for one in group] if isinstance(found, list) else group[0].name)
    return Inputs(first, regions, start, keep, names, _digest(content, sources, options))


def digest(content: Source, style: Styles, options: Options) -> str | None:
    """SHA-256 of all files of pictures of a run together; None if one is no file. Raises `OSError` as `open`."""
    return _digest(content, [_expand_folder(source) for source in as_list(style)], options)


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
    settings = read_own_settings(path)
    if not settings:
        raise UsageError(f"{path} has no embedded settings: only unedited pictures made by styletransfer have them")

    def find_file(name: Any) -> Any:
        if isinstance(name, list):
            return [find_file(one) for one in name]
        plain = Path(str(name)).name
        for place in (path.parent / plain, Path(plain)):
            if place.is_file() and not place.samefile(path):
                return str(place)
        raise UsageError(f"{path} was made from {plain}, which is neither beside it nor in the current folder")

    content, style = (changes.pop(name, None) for name in ("content", "style"))
    named = content is not None or style is not None
    if content is None and settings["content"] != UNNAMED:
        content = find_file(settings["content"])
    style = find_file(settings["style"]) if style is None else style
    for setting, others in _TOGETHER.items():
        if setting in changes and changes[setting] != settings.get(setting):
            settings = {name: value for name, value in settings.items() if name not in others}
    if changes.get("optimizer") == "lbfgs":
        settings.pop("jitter", None)
    replaced = changes.keys() & {"init", "weights", "keep", "mask"}  # need not be found
    options = Options.from_settings({name: value for name, value in settings.items() if name not in replaced})
    options = options.map_files(find_file)
    options = replace(options, **changes)
    if content is None and options.alpha:
        raise UsageError(f"{path} was made from a picture that wasn't a file: name the content")
    if content is None:  # as `figures.texture` makes it
        size = fit_size(read_size(path), options.size, enlarge=True)
        content = read_inputs(Image.new("RGB", (1, 1)), style, options).styles[0].mean_color_image(size)
    elif not (named or replaced) and settings.get("inputs") not in (None, digest(content, style, options)):
        log.warning("%s: the pictures that it was made from have changed since", path)
    if settings.get("warm_start", "off") != "off":
        log.warning("%s was made with a warm start, which no longer exists", path)
    if settings["version"] != __version__:
        message = "%s was made by styletransfer %s: version %s makes another image with the same settings"
        log.warning(message, path, settings["version"], __version__)
    return content, style, options


def check_fits(path: Path, content: Source, options: Options) -> None:
    """Raises `UsageError` when the picture of this content will be larger than the format of its file can hold.

    Raises:
        UsageError, StyleTransferError: as `read_picture`, if it is so large that the content's size must be known.
    """
    kind = FORMATS[path.suffix.lower()]
    most = LONGEST_SIDES.get(kind, options.size)
    if options.size <= most:
        return
    own = read_size(Path(content)) if isinstance(content, str | os.PathLike) else read_picture(content).rgb.size
    longer = max(fit_size(own, options.size, enlarge=options.enlarge))
    if longer > most:
        raise UsageError(f"{path}: {kind} can hold {most} pixels a side, this would have {longer}: use .png or .tif")


def as_list(style: Styles) -> list[Source | Sequence[Source]]:
    """The styles as a list. Raises `UsageError` if there is none."""
    if isinstance(style, str | os.PathLike | Image.Image | Tensor):
        return [style]
    if not style:
        raise UsageError("there is no style picture")
    return list(style)


def _expand_folder(source: Source | Sequence[Source]) -> Source | list[Source]:
    """A picture, or a list of those in a folder, by name."""
    if isinstance(source, str | os.PathLike) and os.path.isdir(source):
        return list(list_pictures(Path(source)))
    return source if isinstance(source, str | os.PathLike | Image.Image | Tensor) else list(source)


def _blend(groups: list[list[Picture]], weights: Sequence[float]) -> list[StyleInput]:
    """The styles with shares that add up to 1; a folder's pictures have equal regions of its weight."""
    weights = weights or [1.0] * len(groups)
    if len(weights) != len(groups):
        raise UsageError(f"{len(groups)} styles, but {len(weights)} style weights: give one for each")
    if not sum(weights):
        raise UsageError("the style weights are all 0")
    shares = [weight / sum(weights) for weight in weights]
    shown = [(group, share) for group, share in zip(groups, shares, strict=True) if share]
    return [StyleInput(picture, share / len(group)) for group, share in shown for picture in group]


def _make_regions(groups: list[list[Picture]], options: Options, picture: Any) -> list[RegionInput]:
    """A region for every pair of masks, with the style of the same place, or the only one."""
    if len(groups) not in (1, len(options.mask)):
        raise UsageError(f"{len(options.mask)} masks, but {len(groups)} styles: give one style, or one for each mask")
    if options.style_weight:
        raise UsageError("style_weight is for several styles in one place; with masks every style has its own")
    regions = []
    for number, (here, there) in enumerate(options.mask):
        mask = None if there == WHOLE else _mask(picture(there), there)
        group = groups[number % len(groups)]
        regions.append(RegionInput([StyleInput(p, 1 / len(group), mask) for p in group], _mask(picture(here), here)))
    return regions


def to_mask(picture: Picture) -> Picture:
    """A mask as a picture in shades of gray."""
    gray = picture.rgb.convert("L")
    if picture.alpha:  # what doesn't show is not selected, whatever its color
        gray = ImageChops.multiply(gray, picture.alpha)
    return Picture(gray.convert("RGB"), None, picture.name)


def _mask(picture: Picture, path: str) -> Picture:
    mask = to_mask(picture)
    if mask.rgb.getbbox() is None:
        raise UsageError(f"{path}: the mask is all black: white marks the region")
    return mask


def _hash(pictures: Sequence[Picture | None]) -> str:
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(b"none" if picture is None else picture.rgb.tobytes())
        digest.update(picture.alpha.tobytes() if picture and picture.alpha else b"")
    return digest.hexdigest()
