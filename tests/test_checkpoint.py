"""Runs that are interrupted, killed and resumed, against the same runs left alone."""

import dataclasses
import itertools
import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import PATIENCE, TINY, stylize_and_listen, wait_until
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from test_cli import COMMAND, here, run

from styletransfer import Options, Result, StyleTransferError, UsageError, cli, stylize
from styletransfer.files import atomic_write
from styletransfer.runtime import hardware
from styletransfer.transfer import Step, checkpoint_path

__all__ = ["here"]
SMALL = Options(iterations=20, weights=str(TINY), checkpoint_every="0")


@pytest.mark.parametrize(
    "changes",
    [
        *({}, {"optimizer": "adam"}, {"scales": "2", "precision": "fp32"}),
        *({"optimizer": "sgd"}, {"optimizer": "rmsprop", "jitter": 0.1}, {"optimizer": "adagrad", "l2": 1.0}),
    ],
)
def test_gone_on_with_from_any_checkpoint_a_run_gives_the_same_picture(
    content_path: Path, style_path: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    """One run left alone, whose checkpoint is copied after some of its steps, as if it had been killed there."""
    path, seen, copies = tmp_path / "state", [], list[Path]()

    def copy(step: Step) -> None:
        if len(seen) in (1, 9, 17, 21, 27):  # 21: between two scales
            copies.append(Path(shutil.copy(path, tmp_path / f"{len(seen)}")))  # of the step before
        seen.append(step.iteration)

    alone = stylize_and_listen(content_path, style_path, SMALL, copy, checkpoint=path, **changes)
    assert len(copies) >= 3
    for copied in copies:
        resumed = stylize(content_path, style_path, SMALL, checkpoint=copied, resume=True, **changes)
        assert torch.equal(resumed.tensor, alone.tensor)
        assert resumed.losses == alone.losses and resumed.scales == alone.scales
        assert (resumed.stopped, resumed.best_iteration) == (alone.stopped, alone.best_iteration)
        resumed.save(tmp_path / "a.png")
        assert not copied.exists()


def stop_and_resume(content: Path, style: Path, options: Options, path: Path, stop: int) -> Result:
    """What becomes of a run that is stopped at its so many-th step and gone on with."""
    steps = itertools.count(1)
    stylize_and_listen(content, style, options, lambda _: next(steps) >= stop, checkpoint=path)
    return stylize(content, style, options, checkpoint=path, resume=True)


@pytest.mark.slow
def test_gone_on_with_where_it_was_stopped_a_run_gives_the_same_picture(
    content_path: Path, style_path: Path, tmp_path: Path
) -> None:
    alone = stylize(content_path, style_path, SMALL, scales="2")
    for stop in (4, 21, 24):  # within a scale, at its end, and in the next one
        options = dataclasses.replace(SMALL, scales="2")
        resumed = stop_and_resume(content_path, style_path, options, tmp_path / "state", stop)
        assert torch.equal(resumed.tensor, alone.tensor) and resumed.losses == alone.losses


@pytest.mark.parametrize("warm_start", ["off", "auto"])
def test_a_checkpoint_from_before_the_warm_start_was_removed_resumes(
    content_path: Path, style_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, warm_start: str
) -> None:
    """Format 4 as the version before wrote it; one made with a warm start starts over, and says so."""
    path = tmp_path / "state"
    alone = stylize(content_path, style_path, SMALL)
    stylize_and_listen(content_path, style_path, SMALL, lambda step: step.iteration == 12, checkpoint=path)
    with safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    progress = json.loads(header["progress"])
    for scale in progress["runs"]:
        scale["network"] = "vgg19-8bit"
    asked = {**json.loads(header["run"]), "warm_start": warm_start}
    save_file(tensors, path, {**header, "format": "4", "run": json.dumps(asked), "progress": json.dumps(progress)})
    with caplog.at_level(logging.INFO):
        resumed = stylize(content_path, style_path, SMALL, checkpoint=path, resume=True)
    assert torch.equal(resumed.tensor, alone.tensor) and resumed.losses == alone.losses
    assert ("resuming after 12 iterations" in caplog.text) == (warm_start == "off")
    assert ("a warm start, which no longer exists" in caplog.text) == (warm_start == "auto")


def test_it_goes_on_in_the_precision_it_began_with(
    content_path: Path, style_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the measurement has another outcome now, as on another machine."""
    steps, path = itertools.count(1), tmp_path / "state"
    monkeypatch.setattr(hardware, "bf16_is_fast", lambda: True)
    alone = stylize(content_path, style_path, SMALL)
    stylize_and_listen(content_path, style_path, SMALL, lambda _: next(steps) >= 9, checkpoint=path)
    monkeypatch.setattr(hardware, "bf16_is_fast", lambda: False)
    other = stylize(content_path, style_path, SMALL)
    resumed = stylize(content_path, style_path, SMALL, checkpoint=path, resume=True)
    assert torch.equal(resumed.tensor, alone.tensor) and not torch.equal(other.tensor, alone.tensor)


def test_without_the_optimizers_memory_it_goes_on_all_the_same(
    content_path: Path, style_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("styletransfer.transfer.run.HISTORY_BYTES", 0)
    path = tmp_path / "state"
    stopped = stylize_and_listen(content_path, style_path, SMALL, lambda step: step.iteration == 12, checkpoint=path)
    assert path.stat().st_size < 2 * 4 * 3 * (64 + 8) * (80 + 8) + 10_000
    resumed = stylize(content_path, style_path, SMALL, checkpoint=path, resume=True)
    assert resumed.losses[:13] == stopped.losses and resumed.iterations == 20
    assert resumed.best.total < stopped.best.total


def test_what_changed_is_named(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "state"
    stylize_and_listen(content_path, style_path, SMALL, lambda step: step.iteration == 3, checkpoint=path)
    with pytest.raises(UsageError, match=r"beta was 10\.0 and is now 7\.0"):
        stylize(content_path, style_path, SMALL, beta=7.0, checkpoint=path, resume=True)
    other = Image.open(content_path).rotate(180)
    with pytest.raises(UsageError, match=r"content was [0-9a-f]{12}… and is now [0-9a-f]{12}…\. Without"):
        stylize(other, style_path, SMALL, checkpoint=path, resume=True)
    for damage in (b"", path.read_bytes()[:5000], b"x" * 5000):
        path.write_bytes(damage)
        with pytest.raises(StyleTransferError, match="damaged"):
            stylize(content_path, style_path, SMALL, checkpoint=path, resume=True)


def test_an_earlier_checkpoint_is_spared_for_a_while(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"of an earlier run")
    options = {"checkpoint": path, "listen": lambda step: step.iteration == 2}
    stylize_and_listen(content_path, style_path, SMALL, checkpoint_every="60", **options)
    assert path.read_bytes() == b"of an earlier run"
    stylize_and_listen(content_path, style_path, SMALL, **options)
    assert path.stat().st_size > 10_000


def test_where_no_checkpoint_can_be_written_the_run_goes_on(
    content_path: Path, style_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    result = stylize(content_path, style_path, SMALL, checkpoint=tmp_path / "missing" / "state")
    assert result.stopped == "iterations"
    assert len(caplog.records) == 1 and "continues without" in caplog.text


def command(content: Path, style: Path, output: Path) -> list[str]:
    fixed = f"--size 128 --enlarge --iterations 40 --weights {TINY} --checkpoint-every 0 --device cpu"
    return [str(content), str(style), *shlex.split(fixed), "-o", str(output)]


@pytest.fixture(scope="module")
def left_alone(content_path: Path, style_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The picture of the command, whose run nobody disturbed."""
    picture = tmp_path_factory.mktemp("alone") / "picture.png"
    with pytest.raises(SystemExit):
        cli.main(command(content_path, style_path, picture))
    return picture


@pytest.mark.parametrize(
    ("number", "code"), [("SIGKILL", -9), pytest.param("SIGTERM", 143, marks=pytest.mark.slow), ("SIGINT", 130)]
)
def test_a_process_that_is_stopped_can_be_resumed(
    content_path: Path,
    style_path: Path,
    here: Path,
    left_alone: Path,
    capsys: pytest.CaptureFixture[str],
    number: str,
    code: int,
) -> None:
    picture = here / "picture.png"
    made = [*COMMAND, *command(content_path, style_path, picture)]
    with subprocess.Popen(made, stderr=subprocess.PIPE, text=True) as process:
        wait_until(checkpoint_path(picture).exists, process)
        process.send_signal(getattr(signal, number))
        _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert sorted(p.name for p in here.iterdir() if p != picture) == [".picture.png.checkpoint"]
    if code > 0:
        assert f"the image so far is {picture}; to resume: styletransfer resume {picture}" in told
        assert Image.open(picture).size == Image.open(left_alone).size
    os.chdir("/")  # from anywhere
    assert run("resume", picture, capsys=capsys)[0] == 0
    assert picture.read_bytes() == left_alone.read_bytes()
    assert not checkpoint_path(picture).exists()
    code, _, told = run("resume", picture, capsys=capsys)
    assert code == 2 and "there is no checkpoint" in told


def test_a_file_that_fails_leaves_nothing_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
    with atomic_write(path) as file:
        file.write(b"after")
    assert path.read_bytes() == b"after" and list(tmp_path.iterdir()) == [path]


def in_a_small_file_system(folder: Path, options: str, command: list[str], where: Path) -> tuple[int, str, list[str]]:
    """Exit code, stderr and what lies in the folder, after a command that saw a file system of its own there."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody have a file system of their own (unshare -rm)")
    script = f'mount -t tmpfs -o {options} tmpfs "$0" && "$@"; code=$?; echo; ls -A "$0"; exit $code'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, str(folder), *command], capture_output=True, text=True, cwd=where
    )
    return done.returncode, done.stderr, done.stdout.split("\n\n")[-1].split()


def test_what_a_full_disk_doesnt_take_is_saved_elsewhere(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    folder, here = tmp_path / "full", tmp_path / "here"
    here.mkdir()
    (here / "out.png").write_bytes(b"another picture")
    target = folder / "out.png"
    code, told, left = in_a_small_file_system(
        folder, "size=16k", [*COMMAND, *command(content_path, style_path, target)], here
    )
    assert code == 1 and left == []
    warning, error = [line for line in told.splitlines() if "No space left" in line]
    assert "the run continues without a checkpoint" in warning
    assert error.endswith(f"saved as {here / 'out-1.png'}")
    assert Image.open(here / "out-1.png").size == (128, 102)
    assert (here / "out.png").read_bytes() == b"another picture"


def test_a_read_only_disk_is_told_at_once(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "readonly"
    made = [*COMMAND, *command(content_path, style_path, folder / "out.png")]
    code, told, left = in_a_small_file_system(folder, "ro", made, tmp_path)
    assert code == 2 and left == []
    assert len(told.splitlines()) == 1 and "is not writable" in told


def test_a_folder_that_goes_away_takes_no_picture_with_it(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    folder, here = tmp_path / "gone", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    made = [*COMMAND, *command(content_path, style_path, folder / "out.png")]
    with subprocess.Popen(made, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=here) as process:
        wait_until(checkpoint_path(folder / "out.png").exists, process)
        while folder.exists():  # the run may be writing into it
            shutil.rmtree(folder, ignore_errors=True)
        out, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and out == f"{here / 'out.png'}\n"
    assert f"saved as {here / 'out.png'}" in told and "Traceback" not in told
    assert Image.open(here / "out.png").size == (128, 102)
