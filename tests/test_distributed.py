"""One image optimized by several real processes, which torchrun joins over loopback."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PATIENCE, TINY, wait_until
from PIL import Image
from test_cli import run

from styletransfer import Options
from styletransfer.losses import LOSSES
from styletransfer.transfer import checkpoint_path, stage

OTHERS = [name for name in LOSSES if name != Options.style_loss]
torchrun = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
OPTIONS = shlex.split(
    f"--size 160 --enlarge --iterations 3 --beta 100 --scales 1 --weights {TINY} --device cpu --precision fp32 --json"
)


def torchrun_command(processes: int, *arguments: object) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    return [sys.executable, *launcher, "-m", "styletransfer", *map(str, arguments)]


@torchrun
@pytest.mark.parametrize(
    "style_loss", [Options.style_loss, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_several_processes_give_the_same_image_as_one(
    content_path: Path, style_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], style_loss: str
) -> None:
    options = [*OPTIONS, "--style-loss", style_loss]
    code, alone, _ = run(content_path, style_path, *options, "-o", tmp_path / "one.png", capsys=capsys)
    assert code == 0
    many = torchrun_command(3, content_path, style_path, *options, "-o", tmp_path / "many.png")
    process = subprocess.run(many, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    expected, result = json.loads(alone), json.loads(process.stdout)  # only one process prints
    assert result["loss"]["total"] == pytest.approx(expected["loss"]["total"], rel=1e-4)
    outputs = [np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("one.png", "many.png")]
    assert abs(outputs[0] - outputs[1]).max() <= 2


@torchrun
def test_checkpoints_of_one_process_do_not_part_it_from_the_others(
    content_path: Path,
    style_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Losses are read after every tenth iteration, as on GPUs, and checkpoints due after every iteration.

    No thread of the process group is left when a process exits.
    """
    script = tmp_path / "read_rarely.py"
    script.write_text(
        "import atexit, sys\nfrom pathlib import Path\n"
        "from styletransfer import cli\nfrom styletransfer.transfer import checkpoint, stage\n"
        "stage.READ_EVERY, checkpoint.SHARE = {'cpu': 10}, 1e9\n"
        "threads = lambda: [path.read_text() for path in Path('/proc/self/task').glob('*/comm')]\n"
        "atexit.register(lambda: print('threads:', *threads(), file=sys.stderr))\n"
        "cli.main(sys.argv[1:])\n"
    )
    options = [*OPTIONS, "--style-loss", "gram", "--iterations", 25, "--optimizer", "adam", "--checkpoint-every", 0]
    command = torchrun_command(2, content_path, style_path, *options, "-o", tmp_path / "many.png")
    at = command.index("-m", 4)  # torchrun is the first module
    process = subprocess.run([*command[:at], script, *command[at + 2 :]], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stderr.count("threads:") == 2 and "gloo" not in process.stderr
    monkeypatch.setattr(stage, "READ_EVERY", {"cpu": 10})
    code, alone, _ = run(content_path, style_path, *options, "-o", tmp_path / "one.png", capsys=capsys)
    expected, result = json.loads(alone), json.loads(process.stdout)
    assert code == 0 and result["iterations"] == expected["iterations"] == 25
    assert result["loss"]["total"] == pytest.approx(expected["loss"]["total"], rel=0.01)


@torchrun
def test_killed_process_ends_all_with_an_error_and_the_run_resumes(
    content_path: Path, style_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = shlex.split(f"--size 200 --enlarge --iterations 40 --scales 1 --weights {TINY} --checkpoint-every 0")
    process = subprocess.Popen(
        torchrun_command(2, content_path, style_path, *options, "--device", "cpu", "-o", tmp_path / "out.png"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("only Linux lists the children of a process in /proc")
    wait_until(checkpoint_path(tmp_path / "out.png").exists, process)
    os.kill(int(children.read_text().split()[-1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "another process of this run has ended" in errors
    assert "styletransfer/transfer/" not in errors  # no traceback of ours
    assert not (tmp_path / "out.png").exists()

    code, out, errors = run("resume", tmp_path / "out.png", "--json", capsys=capsys)
    assert code == 0 and json.loads(out)["iterations"] == 40 and "resuming after" in errors
    assert Image.open(tmp_path / "out.png").size == (200, 160)
