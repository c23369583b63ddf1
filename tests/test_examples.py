"""The examples: notebooks and scripts, run as they are."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.name for path in EXAMPLES.glob("*.ipynb")])
def test_notebook_runs(name: str, tmp_path: Path) -> None:
    for path in EXAMPLES.glob("*.jpg"):
        os.symlink(path, tmp_path / path.name)
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert not [output for output in outputs if output.get("name") == "stderr"]


@pytest.mark.slow
def test_feed_forward_network_learns(tmp_path: Path) -> None:
    inputs = EXAMPLES / "swirls.jpg", EXAMPLES / "coffee.jpg", tmp_path / "out.png"
    command = [sys.executable, EXAMPLES / "train_feed_forward.py", *inputs, "--steps", "100"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    first, last = (float(word) for word in shown.stdout.splitlines()[0].split("loss ")[1].split(" -> "))
    assert last < 0.7 * first
    assert Image.open(tmp_path / "out.png").size == (600, 400)
