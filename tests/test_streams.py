"""Standard streams that are closed, full, or in an encoding that lacks characters, in real processes."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import TINY
from PIL import Image
from test_cli import COMMAND, here

__all__ = ["here"]
QUICK = f"--weights {TINY} --iterations 0 --size 64"


def run_shell(command: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a shell command; ``styletransfer`` in it is the command under test."""
    line = command.replace("styletransfer", shlex.join(COMMAND), 1)
    return subprocess.run(["sh", "-c", line], capture_output=True, env={**os.environ, **environment})


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing(content_path: Path, style_path: Path, here: Path, closed: str) -> None:
    process = run_shell(f"styletransfer {content_path} {style_path} {QUICK} -o out.png {closed}")
    assert process.returncode == 0
    assert process.stdout == (b"" if ">&- 2" in closed else b"out.png\n")
    assert Image.open("out.png").size == (64, 51)
    assert os.listdir(here) == ["out.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("batch {content} --styles {style} {quick} -o out", "out/cat_paint.png"),
        ("dream {content} --model vgg19-lite --size 64 --iterations 1 --octaves 1 --layer conv2_1", "cat_dream.png"),
        ("video {folder} {style} {quick} -o out.mkv", "out.mkv"),
    ],
)
def test_closed_streams_change_nothing_in_other_commands(
    content_path: Path, style_path: Path, here: Path, command: str, output: str
) -> None:
    names = {"content": content_path, "style": style_path, "folder": content_path.parent, "quick": QUICK}
    process = run_shell(f"styletransfer {command.format(**names)} <&- 2>&-")
    assert (process.returncode, process.stdout) == (0, f"{output}\n".encode())
    assert Path(output).stat().st_size > 0


def test_error_with_stderr_closed_keeps_its_exit_code(here: Path) -> None:
    assert run_shell("styletransfer no-such-file.jpg style.jpg 2>&-").returncode == 2


@pytest.mark.parametrize("command", ["layers", "--help", "--version"])
def test_full_disk_behind_stdout_gives_a_one_line_error(command: str) -> None:
    process = run_shell(f"styletransfer {command} > /dev/full")
    assert process.returncode == 1
    assert process.stderr == b"styletransfer: cannot write to standard output: No space left on device\n"


def test_full_disk_behind_stdout_does_not_lose_the_image(content_path: Path, style_path: Path, here: Path) -> None:
    process = run_shell(f"styletransfer {content_path} {style_path} {QUICK} -q -o out.png > /dev/full")
    assert (process.returncode, process.stderr.count(b"\n")) == (1, 1) and b"No space left" in process.stderr
    assert Image.open("out.png").size == (64, 51)


def test_broken_pipe_prints_no_error() -> None:
    for command in ("layers", "--help"):
        assert run_shell(f"styletransfer {command} | true").stderr == b""


@pytest.mark.parametrize(
    ("encoding", "times"), [("cp1252", b"\xd7"), ("utf-8", b"\xc3\x97"), ("ascii", b"?"), ("cp437", b"?")]
)
def test_characters_missing_from_the_encoding_are_replaced(encoding: str, times: bytes) -> None:
    """The × of a size is D7 in code page 1252; ASCII and code page 437 have none."""
    process = run_shell("styletransfer layers", PYTHONIOENCODING=encoding)
    assert (process.returncode, process.stderr) == (0, b"")
    assert b"512" + times + b"512" in process.stdout
    assert run_shell("styletransfer --help", PYTHONIOENCODING=encoding).returncode == 0


def test_printed_path_keeps_undecodable_bytes_and_replaces_missing_characters(
    content_path: Path, style_path: Path, here: Path
) -> None:
    target = os.fsdecode("夜 é".encode() + b"\xff.png")
    command = shlex.join([str(content_path), str(style_path), "-o", target])
    process = run_shell(f"styletransfer {command} {QUICK} -q", PYTHONIOENCODING="cp1252:strict")
    assert (process.returncode, process.stdout, process.stderr) == (0, b"? \xe9\xff.png\n", b"")
    assert os.listdir(here) == [target]
