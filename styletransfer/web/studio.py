"""What the page works with: open tabs, images to choose from, and the jobs that are made for the tabs."""

import io
import secrets
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from ..errors import StyleTransferError, UsageError, without_folder
from ..images import Picture, list_pictures, read_own_settings, read_picture, read_size
from ..options import PRESETS, Options
from ..transfer.timing import estimate_cost
from .form import SETTINGS, format_setting, read_settings
from .jobs import ClipJob, ImageJob, Job, Queue, is_clip, read_first_frame, to_jpeg
from .masks import read_masks, write_masks
from .paths import keep_input, number_names

_T = TypeVar("_T")
#: Previews and variations are made while others wait, so they have at most this size and so many iterations.
SMALLER = {"preview": {"size": 384, "iterations": 50}, "variation": {"size": 224, "iterations": 40}}
#: Sizes of which the time can be asked for at once.
MOST_SIZES = 16
#: Seconds without a connection after which a tab counts as closed.
PATIENCE = 5.0
#: Seconds that an image takes besides its iterations.
SETUP = 2.0
#: Folders of the example images, in an installed package and in a checkout.
_EXAMPLES = (Path(__file__).parent / "examples", Path(__file__).parents[2] / "examples")
_CONTENTS, _STYLES = ("astronaut", "chelsea", "coffee"), ("swirls", "mosaic", "woodblock")

#: `init` and `scales` with which a preview may continue from another one.
_DEFAULT_START = (Options.init, Options.scales)


@dataclass(frozen=True)
class Limits:
    """What may be used.

    Attributes:
        file, files: bytes of an upload, and of all uploads of a tab.
        size: pixels of an image's longer side.
        tabs: that are open.
        jobs: that a tab may ask for within a minute.
    """

    file: int = 200_000_000
    files: int = 2_000_000_000
    size: int = 100_000
    tabs: int = 50
    jobs: int = 600


#: Where others can reach the page.
PUBLIC = Limits(file=50_000_000, files=300_000_000, size=2048, tabs=20, jobs=60)


@dataclass(frozen=True)
class Source:
    """An image or a clip to choose: an upload, or one of the gallery.

    Attributes:
        id: a name that cannot be guessed.
        size: width and height in pixels.
        metadata: settings and inputs, if styletransfer made it.
    """

    id: str
    path: Path
    size: tuple[int, int]
    is_clip: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Return what the page shows of it."""
        settings = {name: format_setting(value) for name, value in self.metadata.items() if name in SETTINGS}
        name = self.path.name
        return {"id": self.id, "name": name, "size": self.size, "clip": self.is_clip, "settings": settings}


class Tab:
    """A browser tab. Its uploads and previews are in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.id, self.folder = secrets.token_urlsafe(12), folder
        self.jobs, self.sources, self.request_times = dict[str, Job](), dict[str, Source](), list[float]()
        self.last_seen = time.monotonic()

    @property
    def is_open(self) -> bool:
        """Whether the tab has, or just had, a connection."""
        return time.monotonic() - self.last_seen < PATIENCE

    @property
    def is_busy(self) -> bool:
        """Whether a job of the tab has not ended."""
        return any(not job.is_over for job in list(self.jobs.values()))


class Studio:
    """All tabs, the gallery, and the queue of jobs.

    Args:
        folder: of the finished images.
        temporary: a folder for uploads and previews.
        styles: a folder of images for the gallery, besides the examples.

    Attributes:
        is_closed: set it to end the streams of events; the server waits for them.

    Raises `UsageError` if the folder of styles has no images.
    """

    def __init__(self, folder: Path, temporary: Path, styles: Path | None = None, limits: Limits | None = None) -> None:
        self.folder, self.limits, self.queue = folder, limits or Limits(), Queue()
        self._temporary, self._tabs, self._lock = temporary, dict[str, Tab](), threading.Lock()
        self.is_closed = False
        own_styles = list_pictures(styles) if styles else []
        self.contents = [_make_source(path) for path in _find_examples(_CONTENTS)]
        self.styles = [_make_source(path) for path in (*_find_examples(_STYLES), *own_styles)]
        self._gallery = {source.id: source for source in (*self.contents, *self.styles)}

    # --- tabs ---

    def open_tab(self, name: str = "") -> Tab:
        """Return the tab of this name if it is there, or else a new one, and forget closed ones.

        Raises `UsageError` if there are too many.
        """
        with self._lock:
            if name in self._tabs:  # it was reloaded
                self._tabs[name].last_seen = time.monotonic()
                return self._tabs[name]
            for tab in [tab for tab in self._tabs.values() if not (tab.is_open or tab.is_busy)]:
                del self._tabs[tab.id]
                shutil.rmtree(tab.folder, ignore_errors=True)
            if len(self._tabs) >= self.limits.tabs:
                raise UsageError(f"{self.limits.tabs} others use this page; try again later")
            tab = Tab(Path(tempfile.mkdtemp(dir=self._temporary)))
            self._tabs[tab.id] = tab
            return tab

    def tab(self, name: str) -> Tab:
        """Return an open tab. Raises `KeyError` if there is none of this name."""
        return self._tabs[name]

    def job(self, name: str) -> Job:
        """Return a job of any tab. Raises `KeyError` if there is none."""
        return _find(name, (tab.jobs for tab in list(self._tabs.values())))

    # --- images to choose ---

    def source(self, name: str) -> Source:
        """Return an image of the gallery, or an upload of any tab. Raises `KeyError` if there is none."""
        return _find(name, [self._gallery, *(tab.sources for tab in list(self._tabs.values()))])

    def largest_upload(self, tab: Tab) -> int:
        """Return how many bytes a tab's next upload may have."""
        paths = (source.path for source in list(tab.sources.values()))
        used = sum(path.stat().st_size for path in paths if path.is_relative_to(tab.folder))
        return max(0, min(self.limits.file, self.limits.files - used))

    def new_upload_path(self, tab: Tab, name: str) -> Path:
        """Return a new path in the tab's folder for an upload with this file name."""
        safe = "".join(c for c in name.replace("\\", "/").rsplit("/", 1)[-1] if c.isprintable()).lstrip(".")[-100:]
        return Path(tempfile.mkdtemp(dir=tab.folder)) / (safe or "image")

    def add_upload(self, tab: Tab, path: Path) -> Source:
        """Let a tab choose a file. An upload that is no image or clip is deleted.

        Raises `StyleTransferError` if it cannot be read.
        """
        try:
            with without_folder(path):
                source = self._read_upload(path)
        except StyleTransferError:
            if path.is_relative_to(tab.folder):
                path.unlink()
            raise
        tab.sources[source.id] = source
        return source

    def restore(self, tab: Tab, source: Source) -> dict[str, Any] | None:
        """Return the inputs of an image that was made here, described, if they are in the folder; None if not.

        They are content, styles, and masks, None if there are none that can be drawn.
        """
        metadata = source.metadata
        style = metadata.get("style")
        names = [metadata.get("content"), *(style if isinstance(style, list) else [style])]
        paths = [self.folder / Path(name).name for name in names if isinstance(name, str)]
        if not metadata or len(paths) < len(names) or not all(path.is_file() for path in paths):
            return None
        content, *styles = (self.add_upload(tab, path) for path in paths)
        masks = None
        if (drawing := read_masks(Options.from_settings(metadata), self.folder)) is not None:
            path = self.new_upload_path(tab, "masks.png")
            drawing.save(path)
            masks = self.add_upload(tab, path).id
        return {"content": content.describe(), "styles": [style.describe() for style in styles], "masks": masks}

    def _read_upload(self, path: Path) -> Source:
        if is_clip(path):
            return _make_source(path, read_first_frame(path).size, is_clip=True)
        return _make_source(path, read_picture(path).rgb.size, metadata=read_own_settings(path))

    def thumbnail(self, source: Source, longest: int) -> tuple[bytes, str]:
        """Return an image, or a clip's first frame, as a file and its media type: PNG if transparent, else JPEG.

        Args:
            longest: the maximum of its longer side in pixels.

        Raises `StyleTransferError` if it cannot be read.
        """
        picture = Picture(read_first_frame(source.path)) if source.is_clip else read_picture(source.path)
        rgb, alpha = picture.rgb, picture.alpha
        image = Image.merge("RGBA", (*rgb.split(), alpha)) if alpha else rgb.copy()
        image.thumbnail((longest, longest))
        if not alpha:
            return to_jpeg(image), "image/jpeg"
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue(), "image/png"

    # --- jobs ---

    def add_job(self, tab: Tab, request: Mapping[str, Any]) -> Job:
        """Append what a tab asks for to the queue. All but a variation end the tab's earlier jobs.

        Args:
            request: kind ("preview", "variation", "full" or "clip"), content and styles (names of sources), settings,
                and perhaps masks (the name of a source) and previous (the name of a job to continue).

        Raises:
            UsageError: something is missing or invalid, or more than the limits allow.
            StyleTransferError: a file cannot be read or written.
            KeyError: there is no such source.
        """
        self._check_rate(tab)
        kind, options = str(request.get("kind")), self._read_options(request)
        if kind in SMALLER:
            options = options.with_changes(
                {name: min(most, getattr(options, name)) for name, most in SMALLER[kind].items()}
            )
        elif kind not in ("full", "clip"):
            raise UsageError(f"there is no job {kind!r}")
        content, styles = self._find_inputs(request)
        folder, (path, *paths) = self._prepare_files(tab, kind, content, styles)
        if masks := request.get("masks"):
            options = options.with_changes(write_masks(self.source(masks).path, len(paths), path, folder))
        if kind != "variation":
            for other in list(tab.jobs.values()):
                other.stop()
        arguments = kind, path, paths, options, self._choose_target(tab, kind, path, paths), lambda: tab.is_open
        job = ClipJob(*arguments) if kind == "clip" else ImageJob(*arguments)
        previous = tab.jobs.get(str(request.get("previous")))
        is_default_start = (options.init, options.scales) == _DEFAULT_START
        if kind == "preview" and is_default_start and isinstance(job, ImageJob) and isinstance(previous, ImageJob):
            job.continue_from(previous)
        job.input_sizes = [source.size for source in (content, *styles)]
        job.request = {
            "settings": request.get("settings") or {},
            "content": content.describe(),
            "styles": [style.describe() for style in styles],
            "masks": masks,
        }
        tab.jobs[job.id] = job
        self.queue.add(job)
        return job

    def _prepare_files(self, tab: Tab, kind: str, content: Source, styles: Sequence[Source]) -> tuple[Path, list[Path]]:
        """Return the folder for a job's files, and its inputs, content first, copied there if they must be kept."""
        paths = [source.path for source in (content, *styles)]
        if kind in SMALLER:
            return tab.folder, [self._first_frame_of(content, tab) if content.is_clip else paths[0], *paths[1:]]
        if content.is_clip != (kind == "clip"):
            raise UsageError(f"{paths[0].name} is {'a clip' if content.is_clip else 'an image'}")
        return self.folder, [keep_input(path, self.folder) for path in paths]

    def _check_rate(self, tab: Tab) -> None:
        now = time.monotonic()
        tab.request_times = [*(then for then in tab.request_times if now - then < 60), now]
        if len(tab.request_times) > self.limits.jobs:
            raise UsageError("too many changes within a minute; wait a little")

    def _read_options(self, request: Mapping[str, Any]) -> Options:
        settings = request.get("settings") or {}
        if not isinstance(settings, dict):
            raise UsageError("settings must be names with values")
        options = read_settings({**(PRESETS["fast"] if request.get("kind") == "clip" else {}), **settings})
        if options.size > self.limits.size:
            raise UsageError(f"size is {options.size}; the largest here is {self.limits.size}")
        return options

    def _find_inputs(self, request: Mapping[str, Any]) -> tuple[Source, list[Source]]:
        content, styles = request.get("content"), request.get("styles")
        if not content:
            raise UsageError("choose a content image first")
        if not styles:
            raise UsageError("choose a style first")
        if not isinstance(styles, list) or not all(isinstance(name, str) for name in (content, *styles)):
            raise UsageError("content and styles must be names")
        return self.source(content), [self.source(name) for name in styles]

    def _first_frame_of(self, clip: Source, tab: Tab) -> Path:
        path = tab.folder / f"{clip.id}.png"
        if not path.exists():
            read_first_frame(clip.path).save(path)
        return path

    def _choose_target(self, tab: Tab, kind: str, content: Path, styles: Sequence[Path]) -> Path:
        if kind in SMALLER:
            return Path(tempfile.mkdtemp(dir=tab.folder)) / f"{content.stem}_{styles[0].stem}.png"
        taken = {job.target for other in list(self._tabs.values()) for job in list(other.jobs.values())}
        name = f"{content.stem}_{styles[0].stem}{'.mp4' if kind == 'clip' else '.png'}"
        return next(path for path in number_names(self.folder / name) if not path.exists() and path not in taken)

    def describe(self, job: Job) -> dict[str, Any]:
        """Return what the page shows of a job."""
        before = self.queue.jobs_before(job) if job.state == "waiting" else []
        is_kept = job.kind not in SMALLER  # the inputs of others are deleted with their tab
        return {
            "id": job.id,
            "kind": job.kind,
            "state": job.state,
            "version": job.version,
            "progress": job.progress,
            "error": job.error,
            "size": job.size,
            "preview": job.previews,
            "fraction": job.fraction,
            "complete": job.is_complete,
            "place": len(before),
            "starts_in": self._seconds_of(before) if before else None,
            "output": str(job.target) if is_kept else None,
            "command": _command_of(job) if is_kept else None,
            **job.request,
        }

    def _seconds_of(self, jobs: Iterable[Job]) -> float | None:
        """Return the seconds that jobs still take; None while that is unknown."""
        total = 0.0
        for job in jobs:
            is_estimated = job.state == "waiting" and isinstance(job, ImageJob)
            seconds = self._estimate(job.input_sizes, job.options) if is_estimated else job.seconds_left
            if seconds is None:
                return None
            total += seconds
        return total

    def estimate_sizes(self, request: Mapping[str, Any]) -> dict[int, float | None]:
        """Return the seconds of a full image of each size, by how long the newest job took; None while unknown.

        Args:
            request: as for `add_job`, and sizes, a list of pixels.

        Raises as `add_job`.
        """
        options, (content, styles) = self._read_options(request), self._find_inputs(request)
        sizes = request.get("sizes")
        sizes = sizes[:MOST_SIZES] if isinstance(sizes, list) else [None]
        if not all(isinstance(size, int) for size in sizes):
            raise UsageError("sizes must be a list of pixels")
        pixels = [source.size for source in (content, *styles)]
        return {size: self._estimate(pixels, options.with_changes({"size": size})) for size in sizes}

    def _estimate(self, sizes: Sequence[tuple[int, int]], options: Options) -> float | None:
        if not self.queue.rate:
            return None
        return SETUP + self.queue.rate * estimate_cost(sizes[0], sizes[1:], options)


def _command_of(job: Job) -> str:
    """Return the command that makes the same image or clip."""
    words = ["styletransfer", *(["video"] if isinstance(job, ClipJob) else [])]
    words += [*map(str, (job.content, *job.styles)), *job.options.to_arguments(), "-o", job.target.name]
    return shlex.join(words)


def _find(name: str, places: Iterable[Mapping[str, _T]]) -> _T:
    for place in places:
        if name in place:
            return place[name]
    raise KeyError(name)


def _make_source(path: Path, size: tuple[int, int] | None = None, **others: Any) -> Source:
    """Return a source with a new id; raises `StyleTransferError` if its size is not given and cannot be read."""
    return Source(secrets.token_urlsafe(12), path, size or read_size(path), **others)


def _find_examples(names: Sequence[str]) -> list[Path]:
    paths = (folder / f"{name}.jpg" for name in names for folder in _EXAMPLES)
    return [path for path in paths if path.is_file()]
