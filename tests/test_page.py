"""The web page without a browser: its controls, drawn masks, and runs with previews."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from PIL import Image
from test_cli import here, run

from styletransfer import Options, StyleTransferError, UsageError, images, stylize
from styletransfer.transfer import stage
from styletransfer.web import server, watching
from styletransfer.web.watching import Watched, choose_target, keep_input

gr = pytest.importorskip("gradio", reason="the page needs Gradio")
from styletransfer.web import form, masks  # noqa: E402

__all__ = ["here"]
QUICK = Options(iterations=3, weights=str(TINY), device="cpu")
LONG = dataclasses.replace(QUICK, iterations=100_000, scales="1", time="60s")
SHOWN = {
    "style_scale": 0.5,
    "size": 300,
    "color": "luminance",
    "model": "vgg19-lite",
    "enlarge": True,
    "tv": 3.0,
    "style_layers": ("conv1_1", "conv2_1=2"),
    "style_weight": (1.0, 2.5),
    "optimizer": "adam",
    "learning_rate": 0.01,
    "iterations": 7,
    "time": "90s",
    "init": "noise",
    "deterministic": True,
}


@pytest.fixture(scope="module")
def controls() -> form.Form:
    with gr.Blocks():
        return form.Form()


def test_controls_show_the_defaults_of_every_option_not_set_elsewhere(controls: form.Form) -> None:
    assert controls.read([control.value for control in controls.inputs]) == {}
    help_texts = {control.elem_id: control.info for control in controls.controls.values()}
    for field in dataclasses.fields(Options):
        assert field.name in form._ELSEWHERE or help_texts[field.name] == field.metadata["help"]


def test_options_that_are_filled_in_are_read_back(controls: form.Form) -> None:
    for changes in ({name: value} for name, value in SHOWN.items() if name != "learning_rate"):
        assert controls.read(controls.fill(Options(**changes))) == changes
    assert controls.read(controls.fill(Options(**SHOWN))) == SHOWN


@pytest.mark.parametrize("mark", form.MARKS)
def test_slider_marks_are_the_lectures_ratios(controls: form.Form, mark: int) -> None:
    _, *rest = controls.fill(Options())
    options = Options(**controls.read([mark, *rest]))
    assert options.alpha / options.beta == pytest.approx(10**mark)
    assert controls.fill(options)[0] == pytest.approx(mark)


def test_style_weight_that_is_not_a_number_is_rejected(controls: form.Form) -> None:
    values = dict(zip(["balance", *controls.controls], controls.fill(Options()), strict=True))
    with pytest.raises(UsageError, match="style_weight is '1, two'"):
        controls.read(list((values | {"style_weight": "1, two"}).values()))


def test_command_line_arguments_reproduce_the_options(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself parses options of every kind."""
    Image.new("L", (8, 8), 255).save("white.png")
    options = Options(
        **{**SHOWN, "time": "off", "size": 64, "style_weight": (), "iterations": 1, "tv": 0.1 + 0.2},
        mask=(("white.png", "-"),),
        keep="white.png",
    )
    arguments = ["-q", content_path, style_path, *options.to_arguments(), "-o", "out.png"]
    assert run(*arguments, capsys=capsys)[0] == 0
    assert Options.from_settings(images.read_settings(Path("out.png"))) == options
    assert Options().to_arguments() == []


def make_drawing(*parts: tuple[slice, tuple[int, int, int]]) -> dict[str, Any]:
    layer = np.zeros((20, 40, 4), np.uint8)
    for columns, color in parts:
        layer[:, columns] = *color, 255
    return {"layers": [Image.fromarray(layer)]}


WHITE, RED, GREEN, BLUE = (255, 255, 255), (230, 25, 75), (60, 180, 75), (67, 99, 216)


def find_white_columns(path: str) -> list[int]:
    """Return the white columns of a mask; each column must be all white or all black."""
    values = np.asarray(Image.open(path))
    assert values.shape == (20, 40) and set(np.unique(values)) <= {0, 255} and (values == values[0]).all()
    return np.flatnonzero(values[0]).tolist()


def test_drawn_masks_are_written_to_files_named_by_the_options(tmp_path: Path, content_path: Path) -> None:
    drawn = make_drawing((slice(0, 10), WHITE), (slice(10, 15), GREEN), (slice(15, 20), RED))
    settings = masks.draw_masks(drawn, 2, content_path, tmp_path)
    first, second = (content_mask for content_mask, style_mask in settings["mask"] if style_mask == "-")
    assert find_white_columns(settings["keep"]) == list(range(10))
    assert find_white_columns(second) == list(range(10, 15))
    assert find_white_columns(first) == [*range(10), *range(15, 40)]
    assert masks.draw_masks(drawn, 2, content_path, tmp_path) == settings  # the same files again
    assert len(list(tmp_path.iterdir())) == 3
    for nothing in (None, {"layers": []}, make_drawing()):
        assert masks.draw_masks(nothing, 2, content_path, tmp_path) == {}
    assert masks.draw_masks(make_drawing((slice(0, 9), RED)), 1, content_path, tmp_path) == {}


def test_masks_of_earlier_options_can_be_edited_again(tmp_path: Path, content_path: Path) -> None:
    drawn = make_drawing((slice(0, 10), WHITE), (slice(10, 15), GREEN), (slice(15, 20), RED))
    settings = masks.draw_masks(drawn, 2, content_path, tmp_path)
    layer = masks.read_masks(Options(**settings), tmp_path)
    assert layer is not None
    assert masks.draw_masks({"layers": [layer]}, 2, content_path, tmp_path) == settings
    assert masks.read_masks(Options(), tmp_path) is None
    first, second = settings["mask"]
    for other in ({"mask": (first, (second[0], first[0]))}, {"keep": "elsewhere.png"}, {"mask": (first,) * 6}):
        assert masks.read_masks(Options(**{**settings, **other}), tmp_path) is None


@pytest.mark.parametrize(
    ("drawn", "styles", "message"),
    [
        (make_drawing((slice(0, 9), BLUE)), 2, "blue is for painting 3, but there are 2"),
        (make_drawing((slice(0, 9), BLUE)), 3, "no region is left for painting 2"),
        (make_drawing((slice(0, 40), GREEN)), 2, "no region is left for painting 1"),
    ],
)
def test_invalid_drawing_is_rejected(
    tmp_path: Path, content_path: Path, drawn: dict[str, Any], styles: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        masks.draw_masks(drawn, styles, content_path, tmp_path)


def start_run(watched: Watched) -> threading.Thread:
    thread = threading.Thread(target=watched.paint)
    thread.start()
    return thread


def test_run_with_previews_saves_the_same_image_as_stylize(
    content_path: Path, style_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "EVERY", 0.02)
    watched = Watched(content_path, [style_path], QUICK, tmp_path / "out.png")
    thread = start_run(watched)
    views = list(watched.views())
    thread.join()
    *previews, last = filter(None, views)
    assert previews and all(view.path is None for view in previews)
    assert [view.iteration for view in previews] == sorted(view.iteration for view in previews)
    assert (last.path, last.iteration, last.size) == (tmp_path / "out.png", 3, (80, 64))
    stylize(content_path, style_path, QUICK).save(tmp_path / "alone.png")
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "alone.png").read_bytes()


@pytest.mark.parametrize("how", ["stopped", "closed", "forgotten", "ended"])
def test_run_ends_promptly_and_saves_its_image(
    content_path: Path, style_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(watching, "PATIENCE", 2.0)
    monkeypatch.setattr(stage, "SETTLED", -1.0)  # a fast processor would converge before
    watched, done = Watched(content_path, [style_path], LONG, tmp_path / "out.png"), threading.Event()
    thread = threading.Thread(target=watched.paint, args=[done.is_set])
    thread.start()
    views = watched.views()
    while not next(views):
        pass
    if how == "closed":
        views.close()
    elif how == "stopped":
        watched.stop()
        assert [view for view in views if view][-1].path == tmp_path / "out.png"
    elif how == "ended":
        done.set()
    thread.join(20)
    assert not thread.is_alive()
    settings = images.read_settings(tmp_path / "out.png")
    assert settings["result"]["stopped"] == "interrupted" and settings["result"]["iterations"] < LONG.iterations


@pytest.mark.parametrize("how", ["stopped", "closed"])
def test_run_canceled_before_it_starts_writes_nothing(
    content_path: Path, style_path: Path, tmp_path: Path, how: str
) -> None:
    watched = Watched(content_path, [style_path], LONG, tmp_path / "out.png")
    views = watched.views()
    assert next(views) is None
    if how == "stopped":
        watched.stop()
    else:
        views.close()
    watched.paint()
    assert list(views) == [] and list(tmp_path.iterdir()) == []


def test_error_of_a_run_is_raised_by_its_views(content_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(content_path.read_bytes()[:200])
    watched = Watched(content_path, [broken], QUICK, tmp_path / "out.png")
    thread = start_run(watched)
    with pytest.raises(StyleTransferError, match=r"broken\.png"):
        list(watched.views())
    thread.join()


def test_inputs_are_stored_once_and_output_names_are_unique(
    content_path: Path, style_path: Path, tmp_path: Path
) -> None:
    stored = keep_input(content_path, tmp_path)
    assert stored == tmp_path / "cat.png" and stored.read_bytes() == content_path.read_bytes()
    assert keep_input(content_path, tmp_path) == keep_input(stored, tmp_path) == stored
    other = tmp_path / "elsewhere" / "cat.png"
    other.parent.mkdir()
    other.write_bytes(style_path.read_bytes())
    assert keep_input(other, tmp_path) == tmp_path / "cat-2.png" == keep_input(other, tmp_path)
    with pytest.raises(StyleTransferError, match=r"none\.png"):
        keep_input(tmp_path / "elsewhere" / "none.png", tmp_path)

    names = [choose_target(tmp_path, stored, [style_path])]
    assert names == [tmp_path / "cat_paint.png"]
    names[0].touch()
    names.append(choose_target(tmp_path, stored, [style_path]))
    names.append(choose_target(tmp_path, stored, [style_path], taken=names))
    assert [path.name for path in names] == ["cat_paint.png", "cat_paint-2.png", "cat_paint-3.png"]


def test_other_hosts_than_localhost_require_a_password() -> None:
    assert server.choose_login("127.0.0.1", None) is server.choose_login("localhost", None) is None
    assert server.choose_login("::1", None) is None
    logins = [server.choose_login(host, None) for host in ("0.0.0.0", "192.168.0.2", "myhost", "::")]
    assert all(login and len(login[1]) >= 12 for login in logins) and len(set(logins)) == len(logins)
    assert server.choose_login("127.0.0.1", "me:a:b") == ("me", "a:b")
    for wrong in ("me", ":secret", "me:"):
        with pytest.raises(UsageError, match="USER:PASSWORD"):
            server.choose_login("127.0.0.1", wrong)
