"""Standard streams that are closed, full, or of an encoding that lacks a character; real processes."""

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


def shell(command: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a command line with redirections; ``styletransfer`` is ours."""
    line = command.replace("styletransfer", shlex.join(COMMAND), 1)
    return subprocess.run(["sh", "-c", line], capture_output=True, env={**os.environ, **environment})


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing(content_path: Path, style_path: Path, here: Path, closed: str) -> None:
    done = shell(f"styletransfer {content_path} {style_path} {QUICK} -o out.png {closed}")
    assert done.returncode == 0
    assert done.stdout == (b"" if ">&- 2" in closed else b"out.png\n")
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
    done = shell(f"styletransfer {command.format(**names)} <&- 2>&-")
    assert (done.returncode, done.stdout) == (0, f"{output}\n".encode())
    assert Path(output).stat().st_size > 0


def test_an_error_with_stderr_closed_keeps_its_exit_code(here: Path) -> None:
    assert shell("styletransfer no-such-file.jpg style.jpg 2>&-").returncode == 2


@pytest.mark.parametrize("command", ["layers", "--help", "--version"])
def test_a_full_disk_behind_stdout_is_one_line(command: str) -> None:
    done = shell(f"styletransfer {command} > /dev/full")
    assert done.returncode == 1
    assert done.stderr == b"styletransfer: cannot write to standard output: No space left on device\n"


def test_a_full_disk_behind_stdout_loses_no_image(content_path: Path, style_path: Path, here: Path) -> None:
    done = shell(f"styletransfer {content_path} {style_path} {QUICK} -q -o out.png > /dev/full")
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1) and b"No space left" in done.stderr
    assert Image.open("out.png").size == (64, 51)


def test_a_reader_that_has_gone_is_no_error_message() -> None:
    for command in ("layers", "--help"):
        assert shell(f"styletransfer {command} | true").stderr == b""


@pytest.mark.parametrize(
    ("encoding", "times"), [("cp1252", b"\xd7"), ("utf-8", b"\xc3\x97"), ("ascii", b"?"), ("cp437", b"?")]
)
def test_characters_that_stdout_lacks_are_replaced(encoding: str, times: bytes) -> None:
    """The × of a size: ISO 8859-1's D7 in code page 1252; code page 437 has none."""
    done = shell("styletransfer layers", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"512" + times + b"512" in done.stdout
    assert shell("styletransfer --help", PYTHONIOENCODING=encoding).returncode == 0


def test_a_path_keeps_its_undecodable_bytes_and_loses_what_the_encoding_lacks(
    content_path: Path, style_path: Path, here: Path
) -> None:
    target = os.fsdecode("夜 é".encode() + b"\xff.png")
    command = shlex.join([str(content_path), str(style_path), "-o", target])
    done = shell(f"styletransfer {command} {QUICK} -q", PYTHONIOENCODING="cp1252:strict")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"? \xe9\xff.png\n", b"")
    assert os.listdir(here) == [target]
