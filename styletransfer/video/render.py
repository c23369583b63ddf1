"""Style transfer of a shot: each frame starts from the previous result, warped along the optical flow.

Ruder, Dosovitskiy, Brox, *Artistic Style Transfer for Videos*, GCPR 2016. Deviations: every frame is optimized from
coarse to fine, as images are; earlier results are merged into one image, where each adds what nearer ones do not show
(their eq. 10, with trusts of 0 or 1); and recently disoccluded regions have a smaller temporal weight, since the few
iterations of one frame do not finish them.
"""

import base64
import contextlib
import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.ImageChops import multiply

from ..errors import UsageError
from ..images import Picture, RegionInput, color, digest, read_picture, read_settings, write_picture
from ..options import WHOLE, Options, TemporalOptions
from ..transfer import Run, keep_model
from ..transfer.problem import Prior, Problem, parse_tuning, prepared_problem, serialize_tuning
from ..version import __version__
from . import clips
from .clips import is_clip
from .flow import Array, find_motion
from .frames import read_frames, read_masks

#: Iterations within which the loss must fall: fewer than for an image, since a frame starts close to its result.
WINDOW = 5
#: Age in frames from which on a region has the full temporal weight.
SETTLED = 8
#: Share of a frame from which on regions younger than `SETTLED` have a style loss of their own.
NEW = 0.01
#: Options that clips do not support, and why.
_REFUSED = {
    "time": "each frame ends when its loss has converged",
    "seamless": "what leaves at one border would have to enter at the opposite one",
    "bit_depth": "clips are written with 8 bits",
    "faces": "they are found anew in each frame, and strokes would jump",
}


@dataclass(frozen=True)
class Shot:
    """The frames between two cuts, and how to render them.

    Attributes:
        clip, digest: path of the clip, and its `Clip.digest`.
        styles: paths.
        folder: to write the frames to, as PNG.
        first, last: range of frames in the clip, without `last`.
    """

    clip: str
    digest: str
    styles: tuple[str, ...]
    options: Options
    following: TemporalOptions
    folder: str
    first: int
    last: int

    @property
    def numbers(self) -> range:
        """The numbers of the frames to render."""
        return range(self.first, self.last, self.following.every)

    def path(self, number: int) -> Path:
        """Return the path of a rendered frame."""
        return Path(self.folder) / f"{number + 1:06}.png"

    def check_folder(self) -> None:
        """Raise `UsageError` if a frame would replace a file that styletransfer did not write."""
        for number in self.numbers:
            _read_metadata(self.path(number), "")

    def finished(self) -> list[int]:
        """Return the numbers of the frames rendered with these settings. Raises as `render`."""
        identity = _compute_identity(self)
        return [number for number in self.numbers if _read_metadata(self.path(number), identity)]


def check_options(options: Options) -> None:
    """Raise `UsageError` if an option is set that clips do not support."""
    for name, why in _REFUSED.items():
        if getattr(options, name) != getattr(Options, name):
            raise UsageError(f"--{name.replace('_', '-')} is for single images: {why}")


@dataclass(frozen=True)
class _Frame:
    """Content and result of a frame, H×W×3, and in how many frames each pixel was optimized, up to `SETTLED`, H×W."""

    content: Array
    result: Array
    age: Array


@dataclass(frozen=True)
class _WarpedResults:
    """Earlier results warped to a frame: image, H×W×3; temporal weight, 0…1, H×W; and age, as in `_Frame`."""

    image: Array
    weight: Array
    age: Array


def render(shot: Shot, stopped: Callable[[], object] = lambda: False) -> Iterator[Path]:
    """Render the frames of a shot, and yield the path of each as soon as it is written.

    Existing frames of the same shot and settings are kept; the others are the same, byte for byte, as in one go.

    Args:
        stopped: called after each iteration; if it returns true, the current frame is discarded.

    Raises:
        UsageError, StyleTransferError: as `stylize`, or the clip can't be read.
    """
    identity, earlier, previous = _compute_identity(shot), dict[int, _Frame](), dict[str, Any]()
    with contextlib.ExitStack() as stack:
        options, masks = _open_masks(shot, Path(stack.enter_context(TemporaryDirectory())))
        problem: Problem | None = None
        for number, picture in read_frames(Path(shot.clip), shot.first, shot.last, shot.options.max_pixels):
            frame_masks = {name: _read_next_mask(name, frames) for name, frames in masks.items()}
            if number not in shot.numbers:
                continue
            if problem is None:
                problem = stack.enter_context(
                    prepared_problem(picture.rgb, shot.styles, options, keep_model(options).weights)
                )
            content, path = picture.resize(problem.scales[-1].content), shot.path(number)
            now = np.asarray(content.rgb)
            if not (metadata := _read_metadata(path, identity)):
                warped = _warp_results(shot, now, earlier)
                frame_problem = _set_masks(problem, shot.options, frame_masks)
                if earlier:
                    frame_problem = _add_prior(frame_problem, content, warped, shot.following.weight, previous)
                metadata = {"frame": number, "shot": identity, "age": _pack(warped.age)}
                metadata = _render_frame(frame_problem, path, metadata, stopped)
            if not metadata:
                return
            yield path
            previous = metadata
            earlier[number] = _Frame(
                now, np.asarray(read_picture(path, sys.maxsize).rgb), _unpack(metadata["age"], now.shape[:2])
            )
            earlier.pop(number - max(shot.following.look_back) * shot.following.every, None)


def _open_masks(shot: Shot, folder: Path) -> tuple[Options, dict[str, Iterator[Picture]]]:
    """Return the options with a white image for every mask that is a clip, and these clips' frames."""
    mask_clips = [name for name in shot.options.files if is_clip(Path(name))]
    masks = {name: read_masks(Path(name), shot.first, shot.last, shot.options.max_pixels) for name in mask_clips}
    white = folder / "white.png"
    Image.new("L", (1, 1), 255).save(white)
    return shot.options.map_files(lambda name: str(white) if name in masks else name), masks


def _read_next_mask(name: str, frames: Iterator[Picture]) -> Picture:
    try:
        return next(frames)
    except StopIteration:
        raise UsageError(f"{name}: mask has fewer frames than the clip; it needs one for each") from None


def _set_masks(problem: Problem, options: Options, masks: dict[str, Picture]) -> Problem:
    """Return the problem with the masks of a frame, which are keyed by their names in the options."""
    if not masks:
        return problem
    keep = masks.get(options.keep or "", problem.inputs.keep)
    content_mask = masks.get(options.content_mask or "", problem.inputs.content_mask)
    pairs = zip(problem.inputs.regions, options.mask or ((WHOLE, WHOLE),), strict=True)
    regions = [replace(region, mask=masks.get(here, region.mask)) for region, (here, _) in pairs]
    originals = replace(problem.originals, keep=keep)
    inputs = replace(problem.inputs, keep=keep, content_mask=content_mask, regions=regions)
    return replace(problem, originals=originals, inputs=inputs)


def _pack(age: Array) -> str:
    return base64.b64encode(zlib.compress(age.tobytes())).decode()


def _unpack(packed: str, shape: tuple[int, ...]) -> Array:
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8).reshape(shape)


def _warp_results(shot: Shot, now: Array, earlier: dict[int, _Frame]) -> _WarpedResults:
    """Return the earlier results warped to a frame; the first frame of a shot is finished at once: age `SETTLED`."""
    trusted, image = np.zeros(now.shape[:2], np.float32), now.astype(np.float32)
    filled, weight, age = trusted.copy(), trusted.copy(), np.full(now.shape[:2], 1 if earlier else SETTLED, np.uint8)
    newest = max(earlier, default=0)
    for back in shot.following.look_back:
        frame = earlier.get(newest + shot.following.every - back * shot.following.every)
        if frame is not None:
            motion = find_motion(frame.content, now)
            new = np.clip(motion.trust - trusted, 0, 1)
            # Where nothing is trusted, a result that looks alike is a better start than the content.
            better = np.maximum(new, np.clip(motion.alike - filled, 0, 1))
            image += better[..., None] * (motion.move(frame.result) - image)
            old_age = motion.take(frame.age)
            age = np.where(new > 0, np.minimum(old_age + 1, SETTLED), age).astype(np.uint8)
            weight += new * (old_age / np.float32(SETTLED))
            trusted, filled = trusted + new, np.maximum(filled, better)
    return _WarpedResults(image.round().clip(0, 255).astype(np.uint8), weight, age)


def _add_prior(
    problem: Problem, content: Picture, warped: _WarpedResults, weight: float, metadata: dict[str, Any]
) -> Problem:
    """Return the problem of a frame that starts from the warped results and stays close to them."""
    gray, start = problem.options.color == "luminance", Picture(Image.fromarray(warped.image))
    recolored, start = (color.to_luminance(picture) if gray else picture for picture in (content, start))
    # A narrow strip hardly changes the style loss of the whole image, which would leave the strip as in the content.
    recent = warped.age < SETTLED
    regions = _split_regions(problem.inputs.regions, recent) if recent.mean() >= NEW else problem.inputs.regions
    spectrum = {name: torch.tensor(values) for name, values in metadata["spectrum"].items()}
    precision, costs = parse_tuning(metadata, problem.precision)
    return replace(
        problem,
        originals=replace(problem.originals, content=content),
        inputs=replace(problem.inputs, content=recolored, regions=regions),
        precision=precision,
        costs=costs,
        prior=Prior(start, torch.from_numpy(warped.weight)[None, None] * weight, WINDOW, spectrum),
    )


def _split_regions(regions: list[RegionInput], part: Array) -> list[RegionInput]:
    """Return each region as two, inside and outside of a part of the image (H×W, bool)."""
    masks = [Image.fromarray(np.uint8(255) * within).convert("RGB") for within in (part, ~part)]
    return [
        replace(region, mask=Picture(multiply(region.mask.resize(mask.size).rgb, mask) if region.mask else mask))
        for region in regions
        for mask in masks
    ]


def _render_frame(
    problem: Problem, path: Path, metadata: dict[str, Any], stopped: Callable[[], object]
) -> dict[str, Any]:
    """Render and write a frame; return the metadata with what the next frame needs, as embedded; empty if stopped."""
    run = Run(problem)
    for _ in run:
        if stopped():
            return {}
    result = run.result()
    spectrum = {name: tensor.tolist() for name, tensor in run.spectrum.items()}
    state = {"spectrum": spectrum, **serialize_tuning(run.precision, problem.costs)}
    summary = {"iterations": result.iterations, "stopped": result.stopped}
    metadata = {"version": __version__, **metadata, **state, "result": summary}
    write_picture(result.tensor, path, alpha=None, bit_depth=8, settings=metadata)
    return metadata


def _read_metadata(path: Path, identity: str) -> dict[str, Any]:
    """Return the metadata of a rendered frame; empty if there is none, or one of another shot or other settings.

    Raises `UsageError` if styletransfer did not write it.
    """
    if not path.exists():
        return {}
    metadata = read_settings(path)
    if "shot" not in metadata:
        raise UsageError(
            f"{path} was not written by styletransfer and would be lost; name another folder with --frames"
        )
    return metadata if metadata["shot"] == identity else {}


def _compute_identity(shot: Shot) -> str:
    """Return a hash of all that determines the frames."""
    mask_clips = [name for name in shot.options.files if is_clip(Path(name))]
    rest = shot.options.map_files(lambda name: shot.styles[0] if name in mask_clips else name)
    inputs = shot.digest, digest(shot.styles[0], shot.styles, rest), [clips.digest(Path(name)) for name in mask_clips]
    settings = [shot.first, shot.options.to_settings(), asdict(shot.following), SETTLED, NEW, inputs, __version__]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()
