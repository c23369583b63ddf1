"""The frames of a shot in the style of paintings, each begun from the one before.

Ruder, Dosovitskiy, Brox, *Artistic Style Transfer for Videos*, GCPR 2016. Deviations: every frame is worked through
from coarse to fine, as pictures are; what earlier frames tell is one picture, since each tells what nearer ones
can't (their eq. 10, with trusts that are 0 or 1); and what has come into sight lately is held less firmly, since one
frame's few iterations don't paint it to the end.
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
from ..transfer.problem import Prior, Problem, prepared_problem
from ..version import __version__
from . import clips
from .clips import is_clip
from .flow import Array, find_motion
from .frames import read_frames, read_masks

#: A frame that begins where it should end has settled sooner than one that begins from the photograph.
WINDOW = 5
#: What was painted in so many frames stays as it is.
SETTLED = 8
#: Share of a frame from which on what hasn't settled has a style loss of its own.
NEW = 0.01
#: What a clip can't have, and why.
_REFUSED = {
    "time": "each frame ends when it has settled",
    "seamless": "what moves on at one border would have to come in at the other",
    "bit_depth": "clips are written with 8 bits",
}


@dataclass(frozen=True)
class Shot:
    """What is asked for of the frames between two cuts.

    Attributes:
        clip, digest: the clip, and its `Clip.digest`.
        styles: paths.
        folder: where the frames go, as PNG.
        first, last: frames of the clip, the last one not counted.
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
        """Of the frames that are painted."""
        return range(self.first, self.last, self.following.every)

    def path(self, number: int) -> Path:
        """Where a frame is when it is done."""
        return Path(self.folder) / f"{number + 1:06}.png"

    def check_folder(self) -> None:
        """Raise `UsageError` if a frame would replace a file that styletransfer did not paint."""
        for number in self.numbers:
            _told(self.path(number), "")

    def finished(self) -> list[int]:
        """The numbers of the frames that are there, made as is asked for now. Raises as `render`."""
        identity = _identity(self)
        return [number for number in self.numbers if _told(self.path(number), identity)]


def check_options(options: Options) -> None:
    """Raises `UsageError` for what makes no sense for a clip."""
    for name, why in _REFUSED.items():
        if getattr(options, name) != getattr(Options, name):
            raise UsageError(f"--{name.replace('_', '-')} is for single pictures: {why}")


@dataclass(frozen=True)
class _Frame:
    """A frame and what was made of it, H×W×3, and in how many frames each place was painted, up to `SETTLED`, H×W."""

    content: Array
    painted: Array
    age: Array


@dataclass(frozen=True)
class _Memory:
    """What earlier frames tell of one: what it begins from, H×W×3; how firmly it is to stay so, 0…1, H×W; and its age,
    as in `_Frame`."""

    image: Array
    firm: Array
    age: Array


def render(shot: Shot, stopped: Callable[[], object] = lambda: False) -> Iterator[Path]:
    """Paints the frames, and yields each one's path as soon as it is there.

    Frames that are there already, of the same shot with the same settings, are gone on from: the others come out, byte
    for byte, as they would have.

    Args:
        stopped: asked after each iteration; when it tells true, what is begun is left.

    Raises:
        UsageError, StyleTransferError: as `stylize`, or the clip can't be read.
    """
    identity, earlier, before = _identity(shot), dict[int, _Frame](), dict[str, Any]()
    with contextlib.ExitStack() as stack:
        still, masks = _still_masks(shot, Path(stack.enter_context(TemporaryDirectory())))
        problem: Problem | None = None
        for number, picture in read_frames(Path(shot.clip), shot.first, shot.last, shot.options.max_pixels):
            seen = {name: _next_mask(name, frames) for name, frames in masks.items()}
            if number not in shot.numbers:
                continue
            if problem is None:
                problem = stack.enter_context(
                    prepared_problem(picture.rgb, shot.styles, still, keep_model(still).weights)
                )
            content, path = picture.resize(problem.scales[-1].content), shot.path(number)
            now = np.asarray(content.rgb)
            if not (state := _told(path, identity)):
                memory, following = _remember(shot, now, earlier), _with_masks(problem, shot.options, seen)
                if earlier:
                    following = _follow(following, content, memory, shot.following.weight, before)
                state = _paint(following, path, {"frame": number, "shot": identity, "age": _pack(memory.age)}, stopped)
            if not state:
                return
            yield path
            before = state
            earlier[number] = _Frame(
                now, np.asarray(read_picture(path, sys.maxsize).rgb), _unpack(state["age"], now.shape[:2])
            )
            earlier.pop(number - max(shot.following.look_back) * shot.following.every, None)


def _still_masks(shot: Shot, folder: Path) -> tuple[Options, dict[str, Iterator[Picture]]]:
    """Return the options with a white image for every mask that is a clip, and these clips' frames."""
    moving = [name for name in shot.options.files if is_clip(Path(name))]
    masks = {name: read_masks(Path(name), shot.first, shot.last, shot.options.max_pixels) for name in moving}
    white = folder / "white.png"
    Image.new("L", (1, 1), 255).save(white)
    return shot.options.map_files(lambda name: str(white) if name in masks else name), masks


def _next_mask(name: str, frames: Iterator[Picture]) -> Picture:
    try:
        return next(frames)
    except StopIteration:
        raise UsageError(f"{name} has fewer frames than the clip that it is to mask") from None


def _with_masks(problem: Problem, options: Options, masks: dict[str, Picture]) -> Problem:
    """The problem with the masks of a frame, by the names that the options have for them."""
    if not masks:
        return problem
    keep = masks.get(options.keep or "", problem.inputs.keep)
    pairs = zip(problem.inputs.regions, options.mask or ((WHOLE, WHOLE),), strict=True)
    regions = [replace(region, mask=masks.get(here, region.mask)) for region, (here, _) in pairs]
    originals = replace(problem.originals, keep=keep)
    return replace(problem, originals=originals, inputs=replace(problem.inputs, keep=keep, regions=regions))


def _pack(age: Array) -> str:
    return base64.b64encode(zlib.compress(age.tobytes())).decode()


def _unpack(packed: str, shape: tuple[int, ...]) -> Array:
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8).reshape(shape)


def _remember(shot: Shot, now: Array, earlier: dict[int, _Frame]) -> _Memory:
    """What earlier frames tell of one; of the first one of a shot, that it is to be painted to the end at once."""
    told, image = np.zeros(now.shape[:2], np.float32), now.astype(np.float32)
    filled, firm, age = told.copy(), told.copy(), np.full(now.shape[:2], 1 if earlier else SETTLED, np.uint8)
    newest = max(earlier, default=0)
    for back in shot.following.look_back:
        frame = earlier.get(newest + shot.following.every - back * shot.following.every)
        if frame is not None:
            motion = find_motion(frame.content, now)
            new = np.clip(motion.trust - told, 0, 1)
            # Where nothing is known, what looks alike is a better start than the photograph: it is painted.
            better = np.maximum(new, np.clip(motion.alike - filled, 0, 1))
            image += better[..., None] * (motion.move(frame.painted) - image)
            before = motion.take(frame.age)
            age = np.where(new > 0, np.minimum(before + 1, SETTLED), age).astype(np.uint8)
            firm += new * (before / np.float32(SETTLED))
            told, filled = told + new, np.maximum(filled, better)
    return _Memory(image.round().clip(0, 255).astype(np.uint8), firm, age)


def _follow(problem: Problem, content: Picture, memory: _Memory, weight: float, state: dict[str, Any]) -> Problem:
    """Return the problem of a frame that starts from what earlier ones show of it, and stays near to that."""
    gray, start = problem.options.color == "luminance", Picture(Image.fromarray(memory.image))
    seen, start = (color.to_luminance(picture) if gray else picture for picture in (content, start))
    # To the style of the whole picture it hardly matters how a narrow strip looks: it would stay a photograph.
    recent = memory.age < SETTLED
    regions = _apart(problem.inputs.regions, recent) if recent.mean() >= NEW else problem.inputs.regions
    spectrum = {name: torch.tensor(values) for name, values in state["spectrum"].items()}
    return replace(
        problem,
        originals=replace(problem.originals, content=content),
        inputs=replace(problem.inputs, content=seen, regions=regions),
        precision=replace(problem.precision, backward=getattr(torch, state["backward"])),
        prior=Prior(start, torch.from_numpy(memory.firm)[None, None] * weight, WINDOW, spectrum),
    )


def _apart(regions: list[RegionInput], part: Array) -> list[RegionInput]:
    """Each region in two, within a part of the picture (H×W, truth values) and outside."""
    masks = [Image.fromarray(np.uint8(255) * within).convert("RGB") for within in (part, ~part)]
    return [
        replace(region, mask=Picture(multiply(region.mask.resize(mask.size).rgb, mask) if region.mask else mask))
        for region in regions
        for mask in masks
    ]


def _paint(problem: Problem, path: Path, given: dict[str, Any], stopped: Callable[[], object]) -> dict[str, Any]:
    """Make a frame and write it; return what is embedded: what is given, and what the next frame needs to know.
    Empty if it was stopped."""
    run = Run(problem)
    for _ in run:
        if stopped():
            return {}
    result = run.result()
    spectrum = {name: tensor.tolist() for name, tensor in run.spectrum.items()}
    state = {"spectrum": spectrum, "backward": str(run.precision.backward).removeprefix("torch.")}
    made = {"iterations": result.iterations, "stopped": result.stopped}
    told = {"version": __version__, **given, **state, "result": made}
    write_picture(result.tensor, path, alpha=None, bit_depth=8, settings=told)
    return told


def _told(path: Path, identity: str) -> dict[str, Any]:
    """What is embedded in a frame that is there; nothing if it isn't, or is of another shot or settings.

    Raises `UsageError` if it isn't ours.
    """
    if not path.exists():
        return {}
    told = read_settings(path)
    if "shot" not in told:
        raise UsageError(
            f"{path} was not painted by styletransfer and would be lost; name another folder with --frames"
        )
    return told if told["shot"] == identity else {}


def _identity(shot: Shot) -> str:
    """What must be the same for a frame to be the same."""
    moving = [name for name in shot.options.files if is_clip(Path(name))]
    rest = shot.options.map_files(lambda name: shot.styles[0] if name in moving else name)
    inputs = shot.digest, digest(shot.styles[0], shot.styles, rest), [clips.digest(Path(name)) for name in moving]
    told = [shot.first, shot.options.to_settings(), asdict(shot.following), SETTLED, NEW, inputs, __version__]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
