"""Atomic writes: they follow symbolic links and leave no partial file."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from styletransfer import StyleTransferError, UsageError
from styletransfer.files import atomic_write, write_atomically
from styletransfer.images import check_folder


def link_absolute(folder: Path) -> None:
    (folder / "link.png").symlink_to(folder / "real" / "file.png")


def link_relative(folder: Path) -> None:
    (folder / "link.png").symlink_to("real/file.png")


def link_chain(folder: Path) -> None:
    (folder / "link.png").symlink_to("real/second.png")
    (folder / "real" / "second.png").symlink_to("../third.png")
    (folder / "third.png").symlink_to("real/file.png")


def link_folder(folder: Path) -> None:
    (folder / "alias").symlink_to("real")
    (folder / "link.png").symlink_to("alias/file.png")


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("make_links", [link_absolute, link_relative, link_chain, link_folder])
def test_symbolic_links_are_followed_and_kept(tmp_path: Path, make_links: Callable[[Path], None], exists: bool) -> None:
    (tmp_path / "real").mkdir()
    make_links(tmp_path)
    target = tmp_path / "real" / "file.png"
    if exists:
        target.write_bytes(b"old")
    links = {path: os.readlink(path) for path in tmp_path.rglob("*") if path.is_symlink()}
    check_folder(tmp_path / "link.png")
    with atomic_write(tmp_path / "link.png") as file:
        file.write(b"new")
        file.flush()
        assert (target.read_bytes() == b"old") if exists else not target.exists()
    assert target.read_bytes() == b"new" and not target.is_symlink()
    assert {path: os.readlink(path) for path in tmp_path.rglob("*") if path.is_symlink()} == links
    assert [path.name for path in tmp_path.rglob(".*")] == []


def test_failed_write_leaves_the_link_target_unchanged(tmp_path: Path) -> None:
    (tmp_path / "file.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("file.png")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "link.png") as file:
        file.write(b"%d" % (1 / 0))
    assert (tmp_path / "file.png").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["file.png", "link.png"]


def test_loop_of_links_is_refused_with_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    with pytest.raises(StyleTransferError, match=r"a\.png: cannot write file: its symbolic links form a loop$"):
        write_atomically(tmp_path / "a.png", b"new")
    with pytest.raises(UsageError, match=r"a\.png: its symbolic links form a loop$"):
        check_folder(tmp_path / "a.png")
    assert os.readlink(tmp_path / "a.png") == "b.png"


def test_link_into_a_missing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to("gone/file.png")
    with pytest.raises(UsageError, match=r"link\.png: the folder .*gone does not exist"):
        check_folder(tmp_path / "link.png")
    with pytest.raises(StyleTransferError, match=r"link\.png: cannot write file"):
        write_atomically(tmp_path / "link.png", b"new")


def test_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.png").symlink_to("folder")
    with pytest.raises(UsageError, match=r"link\.png is a folder"):
        check_folder(tmp_path / "link.png")


@pytest.mark.parametrize("through_link", [True, False])
def test_pipe_is_never_replaced_by_a_file(tmp_path: Path, through_link: bool) -> None:
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    if through_link:
        path = tmp_path / "link.png"
        path.symlink_to("pipe.png")
    with pytest.raises(UsageError, match="is a pipe or a device"):
        check_folder(path)
    with pytest.raises(StyleTransferError, match="not a regular file"):
        write_atomically(path, b"new")
    assert (tmp_path / "pipe.png").is_fifo()
