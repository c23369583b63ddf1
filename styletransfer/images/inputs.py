"""The images of a run: the content, its styles by region, masks, and the start."""

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

from ..errors import UsageError, plural
from ..files import sha256_of
from ..options import STARTS, WHOLE, Options
from ..version import __version__
from .faces import find_faces
from .folders import list_pictures
from .images import UNNAMED, Picture, fit_size
from .reading import read_own_settings, read_picture, read_size
from .writing import FORMATS, LONGEST_SIDES

log = logging.getLogger(__name__)

Source = str | os.PathLike[str] | Image.Image | Tensor | Picture
_ONE = str, os.PathLike, Image.Image, Tensor, Picture
#: An image, a folder of images, or a list of these, in which a list of images stands for a folder.
Styles = Source | Sequence[Source | Sequence[Source]]
#: Settings that belong to the value of another one, and are dropped when it changes.
_DEPENDENT = {
    "optimizer": ("learning_rate",),
    "model": ("weights", "preprocessing"),
    "style_loss": ("nearest_share",),
}


@dataclass(frozen=True)
class StyleInput:
    """A style image, its share of its region's style, and a mask of the part that counts; None for all of it."""

    picture: Picture
    share: float
    mask: Picture | None = None


@dataclass(frozen=True)
class RegionInput:
    """A region of the content, white in its mask, and its styles; without a mask the whole image."""

    styles: list[StyleInput]
    mask: Picture | None = None


@dataclass(frozen=True)
class Inputs:
    """All images of a run.

    Attributes:
        content: the content image.
        regions: its regions with their styles.
        start: the image that the run starts from, if it is neither the content nor noise.
        keep: white where the content stays as it is; None if nowhere.
        names: file names of the content and the styles, without folders; a list of them for a folder.
        digest: of the files, as `digest` returns it.
        content_mask: how much the content counts at each place; None for equal weights.
        faces: white where faces are; None if they do not count more.
    """

    content: Picture
    regions: list[RegionInput]
    start: Picture | None
    keep: Picture | None
    names: list[str | list[str]]
    digest: str | None = None
    content_mask: Picture | None = None
    faces: Picture | None = None

    @property
    def styles(self) -> list[Picture]:
        """The style images, each once."""
        styles = [style.picture for region in self.regions for style in region.styles]
        return list({id(picture): picture for picture in styles}.values())

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the pixels of each kind of input, which decide the result.

        That of a content mask only if there is one: earlier checkpoints have none.
        """
        masks = [mask for region in self.regions for mask in (region.mask, *(s.mask for s in region.styles))]
        kinds: dict[str, Sequence[Picture | None]] = {
            "content": [self.content],
            "style": self.styles,
            "init": [self.start],
            "mask": masks,
            "keep": [self.keep],
        }
        if self.content_mask:
            kinds["content_mask"] = [self.content_mask]
        return {kind: _hash_pixels(pictures) for kind, pictures in kinds.items()}


def read_inputs(content: Source, style: Styles, options: Options) -> Inputs:
    """Read every image that a run needs.

    Raises:
        UsageError: no such file, an empty folder, or weights or masks that do not match the styles.
        StyleTransferError: an image cannot be read.
    """

    def read(source: Source) -> Picture:
        return read_picture(source, options.max_pixels)

    def read_mask(path: str | None) -> Picture | None:
        return _make_mask(read(path), path) if path else None

    content_picture = read(content)
    sources = [_expand_folder(source) for source in as_list(style)]
    groups = [[read(image) for image in (source if isinstance(source, list) else [source])] for source in sources]
    if options.mask:
        regions = _make_regions(groups, options, read)
    else:
        regions = [RegionInput(_blend(groups, options.style_weight))]
    start = None if options.init in STARTS else read(options.init)
    if options.init == "style":
        start = regions[0].styles[0].picture
    names: list[str | list[str]] = [content_picture.name]
    for source, group in zip(sources, groups, strict=True):
        names.append([picture.name for picture in group] if isinstance(source, list) else group[0].name)
    return Inputs(
        content_picture,
        regions,
        start,
        read_mask(options.keep),
        names,
        _compute_digest(content, sources, options),
        content_mask=read_mask(options.content_mask),
        faces=find_faces(content_picture) if options.faces != 1 else None,
    )


def digest(content: Source, style: Styles, options: Options) -> str | None:
    """Return one SHA-256 of all image files of a run; None if an image is no file. Raises `OSError` as `open`."""
    return _compute_digest(content, [_expand_folder(source) for source in as_list(style)], options)


def _compute_digest(content: Source, styles: Sequence[Source | list[Source]], options: Options) -> str | None:
    sources: list[Source] = [content]
    for source in styles:
        sources += source if isinstance(source, list) else [source]
    sources += [name for name in options.files if name != options.weights]
    paths = [source for source in sources if isinstance(source, str | os.PathLike)]
    if len(paths) < len(sources):
        return None
    return hashlib.sha256("".join(map(_hash_file, paths)).encode()).hexdigest()


def _hash_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, cached because a batch needs that of the same files many times."""
    status = os.stat(path)
    return _hash_unchanged_file(os.fspath(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=10_000)
def _hash_unchanged_file(path: str, _changed: int, _size: int) -> str:
    return sha256_of(path)


def again(image: str | os.PathLike[str], **changes: Any) -> tuple[Source, Styles, Options]:
    """Return content, styles and options for `stylize` as they are embedded in an output image, with changes.

    ``stylize(*again("out.png", size=2048))`` makes it again, larger. Images hold the names of their inputs without
    folders; the files are searched next to the image and in the current folder. A texture needs its style only.

    Args:
        image: path of an output.
        changes: other settings, and ``content`` or ``style`` if their files are elsewhere.

    Raises:
        UsageError: the image has no embedded settings, or an input is not found.
        StyleTransferError: the image cannot be read.
    """
    path = Path(image)
    settings = read_own_settings(path)
    if not settings:
        raise UsageError(f"{path} has no embedded settings: only unedited images made by styletransfer have them")

    def find_file(name: Any) -> Any:
        if isinstance(name, list):
            return [find_file(part) for part in name]
        filename = Path(str(name)).name
        for candidate in (path.parent / filename, Path(filename)):
            if candidate.is_file() and not candidate.samefile(path):
                return str(candidate)
        raise UsageError(f"{path} was made from {filename}, which is neither next to it nor in the current folder")

    content, style = (changes.pop(name, None) for name in ("content", "style"))
    has_new_inputs = content is not None or style is not None
    if content is None and settings["content"] != UNNAMED:
        content = find_file(settings["content"])
    style = find_file(settings["style"]) if style is None else style
    for setting, others in _DEPENDENT.items():
        if setting in changes and changes[setting] != settings.get(setting):
            settings = {name: value for name, value in settings.items() if name not in others}
    if changes.get("optimizer") == "lbfgs":
        settings.pop("jitter", None)
    replaced = changes.keys() & {"init", "weights", "keep", "content_mask", "mask"}  # need not be found
    options = Options.from_settings({name: value for name, value in settings.items() if name not in replaced})
    options = options.map_files(find_file)
    options = replace(options, **changes)
    if content is None and options.alpha:
        raise UsageError(f"{path} was made from an image that was not a file: give the content image")
    if content is None:  # as `figures.texture` makes it
        size = fit_size(read_size(path), options.size, enlarge=True)
        content = read_inputs(Image.new("RGB", (1, 1)), style, options).styles[0].mean_color_image(size)
    elif not (has_new_inputs or replaced) and settings.get("inputs") not in (None, digest(content, style, options)):
        log.warning("%s: the images that it was made from have changed since", path)
    if settings.get("warm_start", "off") != "off":
        log.warning("%s was made with a warm start, which no longer exists", path)
    if settings["version"] != __version__:
        message = "%s was made by styletransfer %s: version %s makes another image with the same settings"
        log.warning(message, path, settings["version"], __version__)
    return content, style, options


def check_fits(path: Path, content: Source, options: Options) -> None:
    """Raise `UsageError` if the output image of this content will be larger than its file format can hold.

    Raises:
        UsageError, StyleTransferError: as `read_picture`; a content is read only if `options.size` exceeds the limit.
    """
    kind = FORMATS[path.suffix.lower()]
    limit = LONGEST_SIDES.get(kind, options.size)
    if options.size <= limit:
        return
    size = read_size(Path(content)) if isinstance(content, str | os.PathLike) else read_picture(content).rgb.size
    longer = max(fit_size(size, options.size, enlarge=options.enlarge))
    if longer > limit:
        raise UsageError(f"{path}: {kind} can hold {limit} pixels a side, this would have {longer}: use .png or .tif")


def as_list(style: Styles) -> list[Source | Sequence[Source]]:
    """Return the styles as a list. Raises `UsageError` if there is none."""
    if isinstance(style, _ONE):
        return [style]
    if not style:
        raise UsageError("there is no style image")
    return list(style)


def _expand_folder(source: Source | Sequence[Source]) -> Source | list[Source]:
    """Return an image as it is, and a folder or a sequence of images as a list."""
    if isinstance(source, str | os.PathLike) and os.path.isdir(source):
        return list(list_pictures(Path(source)))
    return source if isinstance(source, _ONE) else list(source)


def _blend(groups: list[list[Picture]], weights: Sequence[float]) -> list[StyleInput]:
    """Return the styles with shares that add up to 1; a folder's images have equal shares of its weight."""
    weights = weights or [1.0] * len(groups)
    if len(weights) != len(groups):
        raise UsageError(f"{len(groups)} styles, but {len(weights)} style weights: give one for each")
    if not sum(weights):
        raise UsageError("the style weights are all 0")
    shares = [weight / sum(weights) for weight in weights]
    used = [(group, share) for group, share in zip(groups, shares, strict=True) if share]
    return [StyleInput(picture, share / len(group)) for group, share in used for picture in group]


def _make_regions(groups: list[list[Picture]], options: Options, read: Any) -> list[RegionInput]:
    """Return a region for every pair of masks, with the style at the same index, or the only one."""
    if len(groups) not in (1, len(options.mask)):
        counts = f"{plural(len(options.mask), 'mask')}, but {plural(len(groups), 'style')}"
        raise UsageError(f"{counts}: give one style, or one for each mask")
    if options.style_weight:
        raise UsageError("style_weight cannot be used with masks, where each style has its own region")
    regions = []
    for number, (content_path, style_path) in enumerate(options.mask):
        mask = None if style_path == WHOLE else _make_mask(read(style_path), style_path)
        group = groups[number % len(groups)]
        styles = [StyleInput(picture, 1 / len(group), mask) for picture in group]
        regions.append(RegionInput(styles, _make_mask(read(content_path), content_path)))
    return regions


def to_mask(picture: Picture) -> Picture:
    """Return a mask as an image in shades of gray."""
    gray = picture.rgb.convert("L")
    if picture.alpha:  # transparent pixels are not selected, whatever their color
        gray = ImageChops.multiply(gray, picture.alpha)
    return Picture(gray.convert("RGB"), None, picture.name)


def _make_mask(picture: Picture, path: str) -> Picture:
    mask = to_mask(picture)
    if mask.rgb.getbbox() is None:
        raise UsageError(f"{path}: the mask is all black: white marks the region")
    return mask


def _hash_pixels(pictures: Sequence[Picture | None]) -> str:
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(b"none" if picture is None else picture.rgb.tobytes())
        digest.update(picture.alpha.tobytes() if picture and picture.alpha else b"")
    return digest.hexdigest()
