"""What README.md and docs/ say: the parser accepts every command; those of README and tutorials run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import styletransfer.cli  # noqa: F401  adds the commands to the parser
from styletransfer.cli.arguments import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = ROOT / "examples"


def find_commands(page: Path) -> Iterator[str]:
    """Yield the commands in the code blocks of a page, continued lines joined, without those that have placeholders."""
    text = page.read_text().replace("\\\n", " ")
    fenced = "\n".join(re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```", text, re.M | re.S))
    lines = re.findall(r"^ {4}(styletransfer .*)$", text, re.M) + re.findall(
        r"^(?:\$ )?(styletransfer .*)$", fenced, re.M
    )
    for line in lines:
        if not any(mark in line for mark in ("…", "...", "⇥")):
            yield re.split(r"  #|(?<= )[|<>&](?= )|;", line)[0].strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_accepted_by_the_parser(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    group = typer.main.get_command(app)
    for command in find_commands(page):
        _, *words = shlex.split(command)
        for word in words:  # the first argument must be a file, if it is no command
            if re.fullmatch(r"[\w./-]+\.\w{2,4}", word) and not word.startswith("/"):
                Path(word).parent.mkdir(parents=True, exist_ok=True)
                Path(word).touch()
        if words[0] in ("--help", "--version", "--install-completion", "--show-completion"):  # they exit
            continue
        context = group.make_context("styletransfer", words)
        name, subcommand, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        if not {"--help"} & set(rest):
            subcommand.make_context(name, rest, parent=context)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, which has the files that the README names."""
    monkeypatch.chdir(tmp_path)
    os.symlink(EXAMPLES, "examples")
    for name, source in (("content.jpg", "coffee.jpg"), ("style.jpg", "swirls.jpg"), ("photo.jpg", "astronaut.jpg")):
        shutil.copy(EXAMPLES / source, name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.mark.slow
def test_readme_runs_as_written(folder: Path) -> None:
    text = (ROOT / "README.md").read_text()
    commands = [line.strip() for line in re.findall(r"^ {4}(styletransfer .*)$", text, re.M)]
    assert len(commands) >= 10
    for command in commands:
        subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        subprocess.run([sys.executable, "-c", block], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_python_tutorial_runs_as_written(folder: Path) -> None:
    text = (ROOT / "docs/tutorials/python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) >= 4
    subprocess.run([sys.executable, "-c", "\n".join(blocks)], check=True, stdout=subprocess.DEVNULL)
