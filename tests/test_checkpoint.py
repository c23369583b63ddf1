"""Runs that are interrupted, killed and resumed, compared with uninterrupted ones."""

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
from styletransfer.encoder import tuning
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
        {"style_loss": "gram", "scales": "2"},
    ],
)
def test_run_resumed_from_any_checkpoint_gives_the_same_image(
    content_path: Path, style_path: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    """The checkpoint of an uninterrupted run is copied after some steps, as if the run had been killed there."""
    path, iterations, snapshots = tmp_path / "state", [], list[Path]()

    def copy(step: Step) -> None:
        if len(iterations) in (1, 9, 17, 21, 27):  # 21: between two scales
            snapshots.append(Path(shutil.copy(path, tmp_path / f"{len(iterations)}")))  # state of the previous step
        iterations.append(step.iteration)

    expected = stylize_and_listen(content_path, style_path, SMALL, copy, checkpoint=path, **changes)
    assert len(snapshots) >= 3
    for snapshot in snapshots:
        resumed = stylize(content_path, style_path, SMALL, checkpoint=snapshot, resume=True, **changes)
        assert torch.equal(resumed.tensor, expected.tensor)
        assert resumed.losses == expected.losses and resumed.scales == expected.scales
        assert (resumed.stopped, resumed.best_iteration) == (expected.stopped, expected.best_iteration)
        resumed.save(tmp_path / "a.png")
        assert not snapshot.exists()


def stop_and_resume(content: Path, style: Path, options: Options, path: Path, stop: int) -> Result:
    """Stop a run at a step, counted from 1 over all scales; resume it and return its result."""
    steps = itertools.count(1)
    stylize_and_listen(content, style, options, lambda _: next(steps) >= stop, checkpoint=path)
    return stylize(content, style, options, checkpoint=path, resume=True)


@pytest.mark.slow
def test_run_resumed_where_it_was_stopped_gives_the_same_image(
    content_path: Path, style_path: Path, tmp_path: Path
) -> None:
    expected = stylize(content_path, style_path, SMALL, scales="2")
    for stop in (4, 21, 24):  # within a scale, at its end, and in the next one
        options = dataclasses.replace(SMALL, scales="2")
        resumed = stop_and_resume(content_path, style_path, options, tmp_path / "state", stop)
        assert torch.equal(resumed.tensor, expected.tensor) and resumed.losses == expected.losses


def stop_after_12(content: Path, style: Path, path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Stop a run after 12 iterations; return the header and the tensors of its checkpoint."""
    stylize_and_listen(content, style, SMALL, lambda step: step.iteration == 12, checkpoint=path)
    with safe_open(path, "pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("warm_start", ["off", "auto"])
def test_checkpoint_of_a_version_with_warm_starts_resumes(
    content_path: Path, style_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, warm_start: str
) -> None:
    """Format 4, as the previous version wrote it; a run with a warm start starts over, and logs that."""
    path = tmp_path / "state"
    expected = stylize(content_path, style_path, SMALL)
    header, tensors = stop_after_12(content_path, style_path, path)
    progress = json.loads(header["progress"])
    for scale in progress["runs"]:
        scale["network"] = "vgg19-8bit"
    settings = {**json.loads(header["run"]), "warm_start": warm_start}
    save_file(tensors, path, {**header, "format": "4", "run": json.dumps(settings), "progress": json.dumps(progress)})
    with caplog.at_level(logging.INFO):
        resumed = stylize(content_path, style_path, SMALL, checkpoint=path, resume=True)
    assert torch.equal(resumed.tensor, expected.tensor) and resumed.losses == expected.losses
    assert ("resuming after 12 iterations" in caplog.text) == (warm_start == "off")
    assert ("a warm start, which no longer exists" in caplog.text) == (warm_start == "auto")


def test_checkpoint_without_later_options_resumes_if_they_have_their_defaults(
    content_path: Path, style_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    expected = stylize(content_path, style_path, SMALL)
    header, tensors = stop_after_12(content_path, style_path, path)
    settings = json.loads(header["run"])
    for name in ("faces", "content_mask", "nearest_share"):
        del settings[name]
    save_file(tensors, path, {**header, "run": json.dumps(settings)})
    with pytest.raises(UsageError, match=r"faces was 1\.0 and is now 2\.0"):
        stylize(content_path, style_path, SMALL, checkpoint=path, resume=True, faces=2.0)
    resumed = stylize(content_path, style_path, SMALL, checkpoint=path, resume=True)
    assert torch.equal(resumed.tensor, expected.tensor) and resumed.losses == expected.losses


def test_run_resumes_in_its_original_precision(
    content_path: Path, style_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the measurement now has another outcome, as on another machine."""
    steps, path = itertools.count(1), tmp_path / "state"
    monkeypatch.setattr(hardware, "bf16_is_fast", lambda: True)
    expected = stylize(content_path, style_path, SMALL)
    stylize_and_listen(content_path, style_path, SMALL, lambda _: next(steps) >= 9, checkpoint=path)
    monkeypatch.setattr(hardware, "bf16_is_fast", lambda: False)
    other = stylize(content_path, style_path, SMALL)
    resumed = stylize(content_path, style_path, SMALL, checkpoint=path, resume=True)
    assert torch.equal(resumed.tensor, expected.tensor) and not torch.equal(other.tensor, expected.tensor)


def test_run_resumes_with_its_original_algorithms(
    content_path: Path, style_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if other convolutions are faster now, as on another machine."""
    steps, path = itertools.count(1), tmp_path / "state"
    monkeypatch.setattr(tuning, "_NARROW", 0)
    fast = {"direct": [(144, 2.0), (2304, 2.0)], "winograd6": [(144, 1.0), (2304, 1.0)]}
    monkeypatch.setattr(tuning, "convolution_costs", lambda _: fast)
    expected = stylize(content_path, style_path, SMALL)
    stylize_and_listen(content_path, style_path, SMALL, lambda _: next(steps) >= 9, checkpoint=path)
    monkeypatch.setattr(tuning, "convolution_costs", lambda _: {"direct": fast["direct"]})
    other = stylize(content_path, style_path, SMALL)
    resumed = stylize(content_path, style_path, SMALL, checkpoint=path, resume=True)
    assert torch.equal(resumed.tensor, expected.tensor) and not torch.equal(other.tensor, expected.tensor)


def test_run_resumes_without_the_optimizer_history(
    content_path: Path, style_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("styletransfer.transfer.run.HISTORY_BYTES", 0)
    path = tmp_path / "state"
    stopped = stylize_and_listen(content_path, style_path, SMALL, lambda step: step.iteration == 12, checkpoint=path)
    assert path.stat().st_size < 2 * 4 * 3 * (64 + 8) * (80 + 8) + 10_000
    resumed = stylize(content_path, style_path, SMALL, checkpoint=path, resume=True)
    assert resumed.losses[:13] == stopped.losses and resumed.iterations == 20
    assert resumed.best.total < stopped.best.total


def test_resume_names_the_changed_setting_or_input(content_path: Path, style_path: Path, tmp_path: Path) -> None:
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


def test_earlier_checkpoint_is_kept_until_the_first_save(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"of an earlier run")
    options = {"checkpoint": path, "listen": lambda step: step.iteration == 2}
    stylize_and_listen(content_path, style_path, SMALL, checkpoint_every="60", **options)
    assert path.read_bytes() == b"of an earlier run"
    stylize_and_listen(content_path, style_path, SMALL, **options)
    assert path.stat().st_size > 10_000


def test_run_continues_if_no_checkpoint_can_be_written(
    content_path: Path, style_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    result = stylize(content_path, style_path, SMALL, checkpoint=tmp_path / "missing" / "state")
    assert result.stopped == "iterations"
    assert len(caplog.records) == 1 and "continues without" in caplog.text


def command(content: Path, style: Path, output: Path) -> list[str]:
    options = f"--size 128 --enlarge --iterations 40 --weights {TINY} --checkpoint-every 0 --device cpu"
    return [str(content), str(style), *shlex.split(options), "-o", str(output)]


@pytest.fixture(scope="module")
def uninterrupted(content_path: Path, style_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output image of an uninterrupted run of the command."""
    path = tmp_path_factory.mktemp("alone") / "picture.png"
    with pytest.raises(SystemExit):
        cli.main(command(content_path, style_path, path))
    return path


@pytest.mark.parametrize(
    ("signal_name", "code"), [("SIGKILL", -9), pytest.param("SIGTERM", 143, marks=pytest.mark.slow), ("SIGINT", 130)]
)
def test_stopped_process_can_be_resumed(
    content_path: Path,
    style_path: Path,
    here: Path,
    uninterrupted: Path,
    capsys: pytest.CaptureFixture[str],
    signal_name: str,
    code: int,
) -> None:
    output = here / "picture.png"
    arguments = [*COMMAND, *command(content_path, style_path, output)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        wait_until(checkpoint_path(output).exists, process)
        process.send_signal(getattr(signal, signal_name))
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert sorted(p.name for p in here.iterdir() if p != output) == [".picture.png.checkpoint"]
    if code > 0:
        assert f"the image so far is {output}; to resume: styletransfer resume {output}" in err
        assert Image.open(output).size == Image.open(uninterrupted).size
    os.chdir("/")  # works from any folder
    assert run("resume", output, capsys=capsys)[0] == 0
    assert output.read_bytes() == uninterrupted.read_bytes()
    assert not checkpoint_path(output).exists()
    code, _, err = run("resume", output, capsys=capsys)
    assert code == 2 and "there is no checkpoint" in err


def test_failed_atomic_write_keeps_the_old_file(tmp_path: Path) -> None:
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


def run_on_tmpfs(folder: Path, options: str, command: list[str], where: Path) -> tuple[int, str, list[str]]:
    """Run a command with a tmpfs mounted on the folder; return exit code, stderr and the names of the files there."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this system does not allow private mounts (unshare -rm)")
    script = f'mount -t tmpfs -o {options} tmpfs "$0" && "$@"; code=$?; echo; ls -A "$0"; exit $code'
    process = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, str(folder), *command], capture_output=True, text=True, cwd=where
    )
    return process.returncode, process.stderr, process.stdout.split("\n\n")[-1].split()


def test_image_is_saved_elsewhere_if_the_disk_is_full(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    folder, here = tmp_path / "full", tmp_path / "here"
    here.mkdir()
    (here / "out.png").write_bytes(b"another picture")
    target = folder / "out.png"
    code, err, files = run_on_tmpfs(folder, "size=16k", [*COMMAND, *command(content_path, style_path, target)], here)
    assert code == 1 and files == []
    warning, error = [line for line in err.splitlines() if "No space left" in line]
    assert "the run continues without a checkpoint" in warning
    assert error.endswith(f"saved as {here / 'out-1.png'}")
    assert Image.open(here / "out-1.png").size == (128, 102)
    assert (here / "out.png").read_bytes() == b"another picture"


def test_read_only_disk_is_reported_at_the_start(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "readonly"
    arguments = [*COMMAND, *command(content_path, style_path, folder / "out.png")]
    code, err, files = run_on_tmpfs(folder, "ro", arguments, tmp_path)
    assert code == 2 and files == []
    assert len(err.splitlines()) == 1 and "is not writable" in err


def test_image_is_saved_elsewhere_if_its_folder_vanishes(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    folder, here = tmp_path / "gone", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    arguments = [*COMMAND, *command(content_path, style_path, folder / "out.png")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=here) as process:
        wait_until(checkpoint_path(folder / "out.png").exists, process)
        while folder.exists():  # the run may be writing into it
            shutil.rmtree(folder, ignore_errors=True)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and out == f"{here / 'out.png'}\n"
    assert f"saved as {here / 'out.png'}" in err and "Traceback" not in err
    assert Image.open(here / "out.png").size == (128, 102)
