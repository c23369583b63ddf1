"""The page: its components and event handlers."""

import contextlib
import itertools
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ..errors import StyleTransferError, UsageError, describe_error
from ..files import sha256_of
from ..images import list_pictures, read_own_settings, read_picture
from ..options import PRESETS, Options
from .drawing import draw_error, draw_notice, draw_view
from .form import Form
from .masks import COLORS, draw_masks, read_masks
from .watching import Watched, choose_target, keep_input

#: Folders of the example photographs and paintings, in an installed package and in a checkout.
_PLACES = (Path(__file__).parent / "examples", Path(__file__).parents[2] / "examples")
PHOTOGRAPHS, PAINTINGS = ("astronaut", "chelsea", "coffee"), ("swirls", "mosaic", "woodblock")
_HIDDEN: dict[str, Any] = {"api_visibility": "private"}
#: Longer side in pixels of the canvas that masks are drawn on.
CANVAS = 1024
#: Number of earlier images in the gallery.
SHOWN = 24
#: The gallery's value in Gradio: files and captions.
_Paintings = Sequence[tuple[str, Any]] | None
CSS = """
.view { margin: 0; text-align: center }
.view img { width: 100%; max-height: 75vh; object-fit: contain }
.view figcaption { padding: .4em; font-variant-numeric: tabular-nums }
.view svg { width: 100%; height: 5em; display: block }
.or, .min_value, .max_value { color: var(--body-text-color) !important }
.error { color: var(--error-text-color, #b91c1c); font-weight: 600 }
"""


#: Accessibility fixes for Gradio: its examples have no names, empty elements have one, and buttons are nested.
SCRIPT = """() => {
    const mend = () => {
        for (const button of document.querySelectorAll("button.gallery-item:not([aria-label])")) {
            const file = button.querySelector("img")?.src.split("/").pop().split(".")[0];
            button.setAttribute("aria-label", "Example " + (file ?? ""));
        }
        for (const empty of document.querySelectorAll("div.empty[aria-label]")) empty.removeAttribute("aria-label");
        for (const button of document.querySelectorAll("button:not([role]):has(button)")) {
            button.setAttribute("role", "link");
            button.tabIndex = -1;
        }
    };
    mend();
    new MutationObserver(mend).observe(document.body, {childList: true, subtree: true});
}"""


class Page:
    """The page. Its images go into a folder; Gradio serves `blocks`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: The queue: sessions with their runs. The first run is in progress.
        self._runs, self._lock = list[tuple[str, Watched]](), threading.Lock()
        with gr.Blocks(title="styletransfer", analytics_enabled=False, delete_cache=(600, 3600)) as self.blocks:
            gr.Markdown("# styletransfer\nOne image painted in the style of another.")
            with gr.Row():
                with gr.Column(scale=2, min_width=320):
                    self._add_inputs()
                with gr.Column(scale=3, min_width=320):
                    self._add_results()
            self._add_events()

    def work(self, stopped: Callable[[], object]) -> None:
        """Do the runs of the queue in the caller's thread, one after the other, until `stopped` returns true."""
        while not stopped():
            if not self._runs:
                time.sleep(0.1)
                continue
            self._runs[0][1].paint(stopped)
            with self._lock:
                del self._runs[0]

    # --- components ---

    def _add_inputs(self) -> None:
        sources: Any = ["upload", "webcam", "clipboard"]
        arguments: dict[str, Any] = {"type": "filepath", "sources": sources}
        self.photo = gr.Image(label="Photograph", height=240, buttons=[], elem_id="photo", **arguments)
        # Take the file as it is: Gradio would read it without our limits and error messages.
        self.photo.preprocess = lambda payload: payload.path if payload else None  # type: ignore[method-assign]
        self.paintings = gr.Gallery(
            label="Paintings: one, or several to blend",
            file_types=["image"],
            interactive=True,
            columns=3,
            height=240,
            buttons=[],
            elem_id="paintings",
            **arguments,
        )
        photographs, paintings = (_find_examples(names) for names in (PHOTOGRAPHS, PAINTINGS))
        if photographs and paintings:
            gr.Examples([[path] for path in photographs], [self.photo], label="Photographs to try", **_HIDDEN)
            gr.Examples([[[path]] for path in paintings], [self.paintings], label="Paintings to try", **_HIDDEN)
        self.masks = gr.State(None)
        self.form = Form()
        with gr.Accordion("Masks", open=False, elem_id="masks-shown"):
            gr.Markdown(
                "Paint on the photograph: white areas stay as they are. With several paintings, red, green, blue and "
                "yellow areas get the style of the first, second, third and fourth; the rest gets that of the first."
            )
            self.editor = gr.ImageEditor(
                label="Masks",
                type="pil",
                sources=[],
                transforms=[],
                layers=False,
                brush=gr.Brush(default_size=30, colors=list(COLORS), color_mode="fixed"),
                buttons=[],
                elem_id="masks",
            )

    def _add_results(self) -> None:
        with gr.Row():
            self.go = gr.Button("Go", variant="primary", elem_id="go", min_width=80)
            self.finish = gr.Button("Finish", elem_id="finish", min_width=80)
            self.stop = gr.Button("Stop", variant="stop", elem_id="stop", min_width=80)
        with gr.Row():
            self.continue_last = gr.Checkbox(
                True,
                label="Continue from the current image",
                info="Go makes a draft with the small network; changes show within seconds.",
                elem_id="going_on",
            )
            self.finished_size = gr.Number(
                PRESETS["quality"]["size"],
                label="Final size",
                info="Finish starts over at this size, with VGG-19 if available.",
                precision=0,
                elem_id="finished_size",
            )
        self.view = gr.HTML(draw_notice("Choose a photograph and a painting, and press Go."), elem_id="view")
        self.last = gr.State(None)
        self.download = gr.DownloadButton("Download the image", interactive=False, elem_id="download")
        self.command = gr.Textbox(
            label="The command that makes the same image", interactive=False, buttons=["copy"], elem_id="command"
        )
        self.compare = gr.ImageSlider(label="Before and after", buttons=[], interactive=False, elem_id="compare")
        self.gallery = gr.Gallery(label="Images made here", columns=4, interactive=False, buttons=[], elem_id="gallery")

    def _add_events(self) -> None:
        inputs = [self.photo, self.paintings, self.editor, self.continue_last, self.finished_size, self.last]
        outputs = [self.view, self.last, self.download, self.command, self.compare, self.gallery]
        for button, paint in ((self.go, self._make_draft), (self.finish, self._make_final)):
            button.click(
                paint,
                [*inputs, *self.form.inputs],
                outputs,
                show_progress="hidden",  # its animation takes a core from the run
                concurrency_limit=None,  # `work` does one run at a time
                **_HIDDEN,
            )
        self.stop.click(self._stop, None, None, queue=False, **_HIDDEN)
        fields = [self.view, self.masks, self.photo, self.paintings, *self.form.inputs]
        self.photo.upload(self._restore_settings, [self.photo], fields, **_HIDDEN)
        self.photo.change(_make_canvas, [self.photo, self.masks], [self.editor], show_progress="hidden", **_HIDDEN)
        self.blocks.load(self._list_images, None, [self.gallery], show_progress="hidden", **_HIDDEN)
        self.blocks.unload(self._stop)

    # --- event handlers ---

    def _make_draft(
        self,
        request: gr.Request,
        photo: str | None,
        paintings: _Paintings,
        drawn: Any,
        continue_last: bool,
        _: Any,
        last: tuple[str, str] | None,
        *values: Any,
    ) -> Iterator[Any]:
        last = last if continue_last else None
        yield from self._paint(
            request, lambda: self._prepare(photo, paintings, drawn, {**PRESETS["fast"], **self.form.read(values)}, last)
        )

    def _make_final(
        self,
        request: gr.Request,
        photo: str | None,
        paintings: _Paintings,
        drawn: Any,
        _: bool,
        size: float | None,
        __: Any,
        *values: Any,
    ) -> Iterator[Any]:
        yield from self._paint(
            request, lambda: self._prepare(photo, paintings, drawn, {**self.form.read(values), "size": int(size or 0)})
        )

    def _paint(self, request: gr.Request, prepare: Callable[[], tuple[Path, list[Path], Options]]) -> Iterator[Any]:
        """Yield the outputs while an image is made; an error is shown in its place."""
        losses, unchanged, view = list[float](), [gr.skip()] * 5, None
        try:
            content, styles, options = prepare()
            run = self._enqueue(str(request.session_hash), content, styles, options)
            for view in run.views():
                if view:
                    losses.append(view.loss)
                preview = draw_view(view, losses) if view else draw_notice(self._describe_place(run))
                if not (view and view.path):
                    yield [preview, *unchanged]
            if not (view and view.path):
                yield [draw_notice("Stopped before it started."), *unchanged]
                return
            path = str(view.path)
            command = shlex.join(["styletransfer", *map(str, (content, *styles)), *options.to_arguments(), "-o", path])
            last, download = (path, str(content)), gr.DownloadButton(value=path, interactive=True)
            yield [preview, last, download, command, (str(content), path), self._list_images()]
        except Exception as error:  # any error must be shown to the user
            yield [draw_error(describe_error(error)), *unchanged]

    def _prepare(
        self,
        photo: str | None,
        paintings: _Paintings,
        drawn: Any,
        settings: dict[str, Any],
        last: tuple[str, str] | None = None,
    ) -> tuple[Path, list[Path], Options]:
        """Copy the inputs into the folder; return them and the options of a run.

        Args:
            drawn: the value of the mask editor.
            last: an image to continue from, and its photograph.
        """
        if not photo:
            raise UsageError("choose a photograph first")
        if not paintings:
            raise UsageError("choose a painting first")
        options, paths = Options(**settings), [Path(photo), *(Path(path) for path, _ in paintings)]
        for path in paths:
            read_picture(path, options.max_pixels)  # only images are copied
        content, *styles = (keep_input(path, self.folder) for path in paths)
        changes = draw_masks(drawn, len(styles), content, self.folder)
        if last and last[1] == str(content) and Path(last[0]).exists():
            # Coarse scales would start over.
            changes |= {"init": last[0], "scales": "1"}
        return content, styles, options.with_changes(changes)

    def _enqueue(self, session: str, content: Path, styles: list[Path], options: Options) -> Watched:
        """Stop the session's earlier runs, and append a new one to the queue; return it."""
        self._stop_runs(session)
        with self._lock:
            target = choose_target(self.folder, content, styles, [run.target for _, run in self._runs])
            run = Watched(content, styles, options, target)
            self._runs.append((session, run))
            return run

    def _describe_place(self, run: Watched) -> str:
        """Return the message for a run that has not started."""
        with self._lock:
            before = next((place for place, (_, other) in enumerate(self._runs) if other is run), 0)
        return f"Waiting for {before} other image{'s' if before > 1 else ''} …" if before else "Starting …"

    def _stop(self, request: gr.Request) -> None:
        self._stop_runs(str(request.session_hash))

    def _stop_runs(self, session: str) -> None:
        with self._lock:
            for owner, run in self._runs:
                if owner == session:
                    run.stop()

    def _restore_settings(self, photo: str | None) -> list[Any]:
        """Return the settings of an image made here, and its inputs and masks if they are in the folder."""
        unchanged = [gr.skip()] * (4 + len(self.form.inputs))
        try:
            metadata = read_own_settings(Path(photo)) if photo else {}
            options = Options.from_settings(metadata)
            drawn = read_masks(options, self.folder)
        except StyleTransferError as error:
            return [draw_error(str(error)), *unchanged[1:]]
        if not metadata:
            return unchanged
        content, style = metadata["content"], metadata["style"]
        names = [content, *([style] if isinstance(style, str) else style)]
        paths = [self.folder / Path(name).name for name in names if isinstance(name, str)]
        if len(paths) < len(names) or not all(path.is_file() for path in paths):
            notice = "Restored the settings of this image; its photograph and paintings are not in the folder."
            return [draw_notice(notice), *unchanged[1:4], *self.form.fill(options)]
        notice = "Restored the settings and the inputs of this image."
        content, *styles = map(str, paths)
        masks = (sha256_of(content), drawn) if drawn else None
        return [draw_notice(notice), masks, content, styles, *self.form.fill(options)]

    def _list_images(self) -> list[str]:
        """Return the newest images in the folder that were made here."""
        with contextlib.suppress(UsageError):  # the folder has no images
            newest = sorted(list_pictures(self.folder), key=lambda path: path.stat().st_mtime, reverse=True)
            return [str(path) for path in itertools.islice(filter(_was_made_here, newest), SHOWN)]
        return []


def _was_made_here(path: Path) -> bool:
    with contextlib.suppress(StyleTransferError):
        return bool(read_own_settings(path))
    return False


def _make_canvas(photo: str | None, masks: tuple[str, Image.Image] | None) -> Any:
    """Return the photograph to draw on, with its masks; None if it cannot be read, which `_prepare` reports.

    Args:
        masks: SHA-256 of a photograph, and what is drawn on it.
    """
    with contextlib.suppress(StyleTransferError):
        if photo:
            image, layers = read_picture(photo).rgb.copy(), []
            image.thumbnail((CANVAS, CANVAS))
            if masks and sha256_of(photo) == masks[0]:
                layers.append(masks[1].resize(image.size, Image.Resampling.NEAREST))
            return {"background": image, "layers": layers, "composite": None}
    return None


def _find_examples(names: Sequence[str]) -> list[str]:
    paths = (folder / f"{name}.jpg" for name in names for folder in _PLACES)
    return [str(path) for path in paths if path.is_file()]
