"""Pictures and weights that the tests share; everything is made here or ships with the project."""

import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from styletransfer import Options, Result
from styletransfer.encoder import weights
from styletransfer.encoder.convolution import Convolution
from styletransfer.encoder.formats import Convolutions
from styletransfer.images import Source, Styles
from styletransfer.options import LAYERS
from styletransfer.transfer import Step, open_session

# Tiny convolutions on several threads of a busy machine wait for each other most of the time. Processes that tests
# start keep to it too. `OMP_NUM_THREADS=4 make test` is another number.
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
# With more threads than cores those that wait must not keep the others from working: half the time with two.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Random inputs may take any time on a busy machine; what fails is printed so that it can be run again.
settings.register_profile("default", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("default")

#: Seconds until a test takes what it waits for as hanging, on however busy a machine. Nothing is measured against it.
PATIENCE = 600

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def pytest_configure(config: pytest.Config) -> None:
    """The device auto is the CPU wherever the tests run; what is about a GPU says so (`make test-gpu`)."""
    if config.option.markexpr != "gpu":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the user's weights or leaves anything in their caches; the log is as it was."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.delenv("STYLETRANSFER_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    loggers = [logging.getLogger(name) for name in ("styletransfer", "styletransfer.transfer")]
    before = [(log.handlers[:], log.level) for log in loggers]
    yield
    for log, (handlers, level) in zip(loggers, before, strict=True):
        log.handlers[:] = handlers
        log.setLevel(level)


def stylize_and_listen(
    content: Source,
    style: Styles,
    options: Options,
    listen: Callable[[Step], object],
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    **changes: object,
) -> Result:
    """As `stylize`, showing each step to `listen`; a true answer interrupts the run."""
    with open_session(content, style, options.with_changes(changes), checkpoint, resume=resume) as session:
        for step in session:
            if listen(step):
                session.run.stop()
        return session.result()


def wait_until(is_true: Callable[[], object], process: "subprocess.Popen[Any] | None" = None) -> None:
    """Wait for an event, at which the process, if there is one, must still be running."""
    end = time.monotonic() + PATIENCE
    while not is_true():
        assert process is None or process.poll() is None, "the process ended before"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def content_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small photograph, 80×64."""
    path = tmp_path_factory.mktemp("pictures") / "cat.png"
    Image.open(EXAMPLES / "chelsea.jpg").resize((80, 64)).save(path)
    return path


@pytest.fixture(scope="session")
def style_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small painting, 64×64."""
    path = tmp_path_factory.mktemp("pictures") / "paint.png"
    Image.open(EXAMPLES / "swirls.jpg").crop((200, 200, 456, 456)).resize((64, 64)).save(path)
    return path


def random_convolutions(widths: dict[str, int], seed: int = 0, rank: int | None = None) -> Convolutions:
    """Convolutions of the whole trunk with He-scaled random values, by the paper's layer names.

    With a rank all but the first look at so many directions of the layer before.
    """
    rng, channels, result = np.random.default_rng(seed), 3, {}
    for layer in LAYERS:
        width, projection = widths[layer[4]], None
        if rank and result:
            projection = torch.tensor(rng.normal(0, channels**-0.5, (rank, channels))).float()
            channels = rank
        weight = rng.normal(0, (2 / (9 * channels)) ** 0.5, (width, channels, 3, 3))
        bias = rng.normal(0, 0.1, width)
        result[layer] = Convolution(torch.tensor(weight).float(), torch.tensor(bias).float(), projection)
        channels = width
    return result


def kernel_of(convolution: Convolution) -> torch.Tensor:
    """Weight and projection in one, N×C×3×3, double."""
    weight, _, projection, _ = convolution
    if projection is None:
        return weight.double()
    return torch.einsum("nrij,rc->ncij", weight.double(), projection.double())


SMALL = {"1": 4, "2": 6, "3": 8, "4": 10, "5": 12}
_folder = tempfile.TemporaryDirectory(prefix="styletransfer-tests-")  # deleted when the process ends
#: A weights file of random convolutions so few that a run takes a third of the time it takes with the bundled network:
#: for tests in which any network will do.
TINY = Path(_folder.name) / "tiny.safetensors"
weights.save(random_convolutions(SMALL), TINY)
