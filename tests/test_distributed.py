"""Several real processes for one picture, joined by torchrun over the loopback."""

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

from styletransfer.losses import LOSSES
from styletransfer.transfer import checkpoint_path

OTHERS = [name for name in LOSSES if name != "gram"]
torchrun = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
OPTIONS = shlex.split(
    f"--size 160 --enlarge --iterations 3 --beta 100 --scales 1 --weights {TINY} --device cpu --precision fp32 --json"
)


def command(processes: int, *arguments: object) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    return [sys.executable, *run, "-m", "styletransfer", *map(str, arguments)]


@torchrun
@pytest.mark.parametrize("style_loss", ["gram", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_they_make_the_same_picture_as_one(
    content_path: Path, style_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], style_loss: str
) -> None:
    options = [*OPTIONS, "--style-loss", style_loss]
    code, alone, _ = run(content_path, style_path, *options, "-o", tmp_path / "one.png", capsys=capsys)
    assert code == 0
    many = command(3, content_path, style_path, *options, "-o", tmp_path / "many.png")
    done = subprocess.run(many, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected, result = json.loads(alone), json.loads(done.stdout)  # one of them speaks
    assert result["loss"]["total"] == pytest.approx(expected["loss"]["total"], rel=1e-4)
    pictures = [np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("one.png", "many.png")]
    assert abs(pictures[0] - pictures[1]).max() <= 2


@torchrun
def test_when_one_is_killed_all_end_with_a_line_that_says_so_and_one_can_go_on(
    content_path: Path, style_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = shlex.split(f"--size 200 --enlarge --iterations 40 --scales 1 --weights {TINY} --checkpoint-every 0")
    process = subprocess.Popen(
        command(2, content_path, style_path, *options, "--device", "cpu", "-o", tmp_path / "out.png"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("only Linux tells the children of a process in /proc")
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
