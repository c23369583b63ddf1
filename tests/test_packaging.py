"""What is distributed: built, checked, installed into an empty environment, and run from another folder."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import styletransfer

ROOT = Path(__file__).parents[1]
#: Pythons that are supported.
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def find_python(version: str) -> str | None:
    """Return a Python of this version, among those of pyenv too."""
    of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    return str(of_pyenv[0]) if of_pyenv else shutil.which(f"python{version}")  # a shim of pyenv may lead nowhere


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, stdout=subprocess.DEVNULL)
    return folder


def test_version_is_the_same_everywhere() -> None:
    version = styletransfer.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.fullmatch(r"\d+\.\d+\.\d+(rc\d+)?", version)


@pytest.mark.slow
def test_distributions_are_complete_and_valid(dist: Path) -> None:
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir()], check=True)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    needed = {"py.typed", "vgg19-lite.safetensors", "web/static/index.html", "web/examples/swirls.jpg"}
    assert {f"styletransfer/{name}" for name in needed} <= names
    assert all(name.startswith(("styletransfer/", "styletransfer_torch-")) for name in names)
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "tests/test_cli.py", "weights/vgg19-lite.safetensors"} <= inside


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_wheel_runs_in_an_empty_environment(dist: Path, tmp_path: Path, version: str) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"there is no Python {version}")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    binaries, (wheel,) = tmp_path / "venv" / "bin", dist.glob("*.whl")
    subprocess.run([binaries / "pip", "install", "--quiet", wheel], check=True)
    here = tmp_path / "elsewhere"
    here.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    inputs = ROOT / "examples" / "coffee.jpg", ROOT / "examples" / "swirls.jpg"
    command = [binaries / "styletransfer", *inputs, "--size", "96", "--iterations", "5", "-q"]
    for options in ([], ["--preset", "fast", "--iterations", "5", "-o", "fast.png"]):
        subprocess.run([*command, *options], check=True, cwd=here, env=environment)
    assert {Image.open(here / name).size for name in ("coffee_swirls.png", "fast.png")} == {(96, 64)}
    shown = subprocess.run([binaries / "styletransfer", "--version"], capture_output=True, text=True, check=True).stdout
    assert shown == f"styletransfer {styletransfer.__version__}\n"
