"""The page: what is on it, and what happens when something on it is used."""

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

#: Photographs and paintings to try, in a checkout and in an installed package.
_PLACES = (Path(__file__).parent / "examples", Path(__file__).parents[2] / "examples")
PHOTOGRAPHS, PAINTINGS = ("astronaut", "chelsea", "coffee"), ("swirls", "mosaic", "woodblock")
_HIDDEN: dict[str, Any] = {"api_visibility": "private"}
#: Longer side in pixels of what masks are drawn on.
CANVAS = 1024
#: Pictures that were made before, which are shown.
SHOWN = 24
#: What Gradio gives of the gallery: files and captions.
_Paintings = Sequence[tuple[str, Any]] | None
CSS = """
.view { margin: 0; text-align: center }
.view img { width: 100%; max-height: 75vh; object-fit: contain }
.view figcaption { padding: .4em; font-variant-numeric: tabular-nums }
.view svg { width: 100%; height: 5em; display: block }
.or, .min_value, .max_value { color: var(--body-text-color) !important }
.error { color: var(--error-text-color, #b91c1c); font-weight: 600 }
"""


#: Mends for who can't see the page: examples have no names, what is empty has one, a button is within a button.
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
    """The page, whose pictures go into a folder. `blocks` is what Gradio serves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Runs with the sessions that asked for them; the first is the one that is painted.
        self._runs, self._lock = list[tuple[str, Watched]](), threading.Lock()
        with gr.Blocks(title="styletransfer", analytics_enabled=False, delete_cache=(600, 3600)) as self.blocks:
            gr.Markdown("# styletransfer\nOne picture painted in the style of another.")
            with gr.Row():
                with gr.Column(scale=2, min_width=320):
                    self._add_inputs()
                with gr.Column(scale=3, min_width=320):
                    self._add_results()
            self._add_events()

    def work(self, stopped: Callable[[], object]) -> None:
        """Paints in its caller's thread what the pages ask for, one after the other, until `stopped` tells true."""
        while not stopped():
            if not self._runs:
                time.sleep(0.1)
                continue
            self._runs[0][1].paint(stopped)
            with self._lock:
                del self._runs[0]

    # --- what is on it ---

    def _add_inputs(self) -> None:
        ways: Any = ["upload", "webcam", "clipboard"]
        given: dict[str, Any] = {"type": "filepath", "sources": ways}
        self.photo = gr.Image(label="Photograph", height=240, buttons=[], elem_id="photo", **given)
        # The file as it is: Gradio's own reading knows neither our limits nor our errors.
        self.photo.preprocess = lambda payload: payload.path if payload else None  # type: ignore[method-assign]
        self.paintings = gr.Gallery(
            label="Paintings: one, or several to be blended",
            file_types=["image"],
            interactive=True,
            columns=3,
            height=240,
            buttons=[],
            elem_id="paintings",
            **given,
        )
        photographs, paintings = (_examples(names) for names in (PHOTOGRAPHS, PAINTINGS))
        if photographs and paintings:
            gr.Examples([[path] for path in photographs], [self.photo], label="Photographs to try", **_HIDDEN)
            gr.Examples([[[path]] for path in paintings], [self.paintings], label="Paintings to try", **_HIDDEN)
        self.brought = gr.State(None)
        self.form = Form()
        with gr.Accordion("Masks", open=False, elem_id="masks-shown"):
            gr.Markdown(
                "Paint on the photograph: white stays as it is; with several paintings red, green, blue and yellow "
                "get the style of the first, second, third and fourth, and what is unpainted that of the first."
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
            self.going_on = gr.Checkbox(
                True,
                label="Go on from the picture there is",
                info="Go makes a draft with the small network; a change shows within seconds.",
                elem_id="going_on",
            )
            self.finished_size = gr.Number(
                PRESETS["quality"]["size"],
                label="Finished size",
                info="Finish makes the picture anew in this size, with VGG-19 if it is here.",
                precision=0,
                elem_id="finished_size",
            )
        self.view = gr.HTML(draw_notice("Choose a photograph and a painting, and press Go."), elem_id="view")
        self.last = gr.State(None)
        self.download = gr.DownloadButton("Download the picture", interactive=False, elem_id="download")
        self.command = gr.Textbox(
            label="The command that makes the same picture", interactive=False, buttons=["copy"], elem_id="command"
        )
        self.compare = gr.ImageSlider(label="Before and after", buttons=[], interactive=False, elem_id="compare")
        self.gallery = gr.Gallery(
            label="Pictures made here", columns=4, interactive=False, buttons=[], elem_id="gallery"
        )

    def _add_events(self) -> None:
        inputs = [self.photo, self.paintings, self.editor, self.going_on, self.finished_size, self.last]
        outputs = [self.view, self.last, self.download, self.command, self.compare, self.gallery]
        for button, paint in ((self.go, self._draft), (self.finish, self._finished)):
            button.click(
                paint,
                [*inputs, *self.form.inputs],
                outputs,
                show_progress="hidden",  # its moving border takes a core from the painting
                concurrency_limit=None,  # one at a time is painted: `work`
                **_HIDDEN,
            )
        self.stop.click(self._stop, None, None, queue=False, **_HIDDEN)
        brought = [self.view, self.brought, self.photo, self.paintings, *self.form.inputs]
        self.photo.upload(self._read_back, [self.photo], brought, **_HIDDEN)
        self.photo.change(_canvas, [self.photo, self.brought], [self.editor], show_progress="hidden", **_HIDDEN)
        self.blocks.load(self._list, None, [self.gallery], show_progress="hidden", **_HIDDEN)
        self.blocks.unload(self._stop)

    # --- what happens ---

    def _draft(
        self,
        request: gr.Request,
        photo: str | None,
        paintings: _Paintings,
        drawn: Any,
        going_on: bool,
        _: Any,
        last: tuple[str, str] | None,
        *values: Any,
    ) -> Iterator[Any]:
        last = last if going_on else None
        yield from self._paint(
            request, lambda: self._prepare(photo, paintings, drawn, {**PRESETS["fast"], **self.form.read(values)}, last)
        )

    def _finished(
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
        """What the outputs show while a picture is made; a mistake is told in the picture's place."""
        losses, unchanged, view = list[float](), [gr.skip()] * 5, None
        try:
            content, styles, options = prepare()
            run = self._ask_for(str(request.session_hash), content, styles, options)
            for view in run.views():
                if view:
                    losses.append(view.loss)
                shown = draw_view(view, losses) if view else draw_notice(self._place(run))
                if not (view and view.path):
                    yield [shown, *unchanged]
            if not (view and view.path):
                yield [draw_notice("Stopped before it began."), *unchanged]
                return
            path = str(view.path)
            command = shlex.join(["styletransfer", *map(str, (content, *styles)), *options.to_arguments(), "-o", path])
            there, download = (path, str(content)), gr.DownloadButton(value=path, interactive=True)
            yield [shown, there, download, command, (str(content), path), self._list()]
        except Exception as error:  # whatever it is, who waits for a picture is to be told
            yield [draw_error(describe_error(error)), *unchanged]

    def _prepare(
        self,
        photo: str | None,
        paintings: _Paintings,
        drawn: Any,
        settings: dict[str, Any],
        last: tuple[str, str] | None = None,
    ) -> tuple[Path, list[Path], Options]:
        """The inputs, which are copied into the folder, and the options of a run.

        Args:
            drawn: what the editor of masks gives.
            last: a picture to go on from, and the photograph that it is of.
        """
        if not photo:
            raise UsageError("there is no photograph yet")
        if not paintings:
            raise UsageError("there is no painting yet")
        options, given = Options(**settings), [Path(photo), *(Path(path) for path, _ in paintings)]
        for path in given:
            read_picture(path, options.max_pixels)  # what is no picture is not copied
        content, *styles = (keep_input(path, self.folder) for path in given)
        changes = draw_masks(drawn, len(styles), content, self.folder)
        if last and last[1] == str(content) and Path(last[0]).exists():
            # Coarse scales would begin anew what is there.
            changes |= {"init": last[0], "scales": "1"}
        return content, styles, options.with_changes(changes)

    def _ask_for(self, session: str, content: Path, styles: list[Path], options: Options) -> Watched:
        """Puts a run at the end of those that wait, in place of what the session asked for before."""
        self._stop_runs(session)
        with self._lock:
            target = choose_target(self.folder, content, styles, [run.target for _, run in self._runs])
            run = Watched(content, styles, options, target)
            self._runs.append((session, run))
            return run

    def _place(self, run: Watched) -> str:
        """What is told to who waits for a run to begin."""
        with self._lock:
            before = next((place for place, (_, other) in enumerate(self._runs) if other is run), 0)
        return f"Waiting for {before} other{'s' if before > 1 else ''} to be done …" if before else "Beginning …"

    def _stop(self, request: gr.Request) -> None:
        self._stop_runs(str(request.session_hash))

    def _stop_runs(self, session: str) -> None:
        with self._lock:
            for asker, run in self._runs:
                if asker == session:
                    run.stop()

    def _read_back(self, photo: str | None) -> list[Any]:
        """The settings of a picture that was made here, and its inputs and masks if they are in the folder."""
        unchanged = [gr.skip()] * (4 + len(self.form.inputs))
        try:
            told = read_own_settings(Path(photo)) if photo else {}
            options = Options.from_settings(told)
            drawn = read_masks(options, self.folder)
        except StyleTransferError as error:
            return [draw_error(str(error)), *unchanged[1:]]
        if not told:
            return unchanged
        names = [told["content"], *([told["style"]] if isinstance(told["style"], str) else told["style"])]
        found = [self.folder / Path(name).name for name in names if isinstance(name, str)]
        if len(found) < len(names) or not all(path.is_file() for path in found):
            notice = "These are the settings that the picture was made with; its photograph and paintings aren't here."
            return [draw_notice(notice), *unchanged[1:4], *self.form.fill(options)]
        notice = "These are the settings and the inputs that the picture was made with."
        content, *styles = map(str, found)
        brought = (sha256_of(content), drawn) if drawn else None
        return [draw_notice(notice), brought, content, styles, *self.form.fill(options)]

    def _list(self) -> list[str]:
        """The newest pictures in the folder that were made here."""
        with contextlib.suppress(UsageError):  # there is none
            newest = sorted(list_pictures(self.folder), key=lambda path: path.stat().st_mtime, reverse=True)
            return [str(path) for path in itertools.islice(filter(_was_made_here, newest), SHOWN)]
        return []


def _was_made_here(path: Path) -> bool:
    with contextlib.suppress(StyleTransferError):
        return bool(read_own_settings(path))
    return False


def _canvas(photo: str | None, brought: tuple[str, Image.Image] | None) -> Any:
    """The photograph to draw on, with the masks that came with it; nothing if it can't be read, which is told when it
    is to be painted.

    Args:
        brought: SHA-256 of a photograph, and what is drawn on it.
    """
    with contextlib.suppress(StyleTransferError):
        if photo:
            image, layers = read_picture(photo).rgb.copy(), []
            image.thumbnail((CANVAS, CANVAS))
            if brought and sha256_of(photo) == brought[0]:
                layers.append(brought[1].resize(image.size, Image.Resampling.NEAREST))
            return {"background": image, "layers": layers, "composite": None}
    return None


def _examples(names: Sequence[str]) -> list[str]:
    found = (folder / f"{name}.jpg" for name in names for folder in _PLACES)
    return [str(path) for path in found if path.is_file()]
