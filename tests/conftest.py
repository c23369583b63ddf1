"""Images, weights and helpers that the tests share; all data is generated here or ships with the project."""

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

# On a busy machine the threads of tiny convolutions mostly wait for each other. Processes that tests start inherit
# the setting. `OMP_NUM_THREADS=4 make test` overrides it.
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
# With more threads than cores, waiting threads must not spin: this halves the time with two.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# No deadline: random inputs may take any time on a busy machine. Failing inputs are printed, to be run again.
settings.register_profile("default", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("default")

#: Seconds after which a test fails as hung, however busy the machine.
PATIENCE = 600

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests but those of `make test-gpu`, so that the device auto is the CPU."""
    if config.option.markexpr != "gpu":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session", autouse=True)
def _shared_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hide the user's cache; all tests and the processes that they start share one.

    Convolution algorithms that were measured twice may differ, and so would the images' last bits.
    """
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the user's weights from each test, and restore the loggers after it."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.delenv("STYLETRANSFER_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    loggers = [logging.getLogger(name) for name in ("styletransfer", "styletransfer.transfer")]
    saved = [(log.handlers[:], log.level) for log in loggers]
    yield
    for log, (handlers, level) in zip(loggers, saved, strict=True):
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
    """Stylize as `stylize` does, calling `listen` with each step; a true return value interrupts the run."""
    with open_session(content, style, options.with_changes(changes), checkpoint, resume=resume) as session:
        for step in session:
            if listen(step):
                session.run.stop()
        return session.result()


def wait_until(is_true: Callable[[], object], process: "subprocess.Popen[Any] | None" = None) -> None:
    """Wait for an event; fail if it takes `PATIENCE` seconds or if the process, where given, ends first."""
    end = time.monotonic() + PATIENCE
    while not is_true():
        assert process is None or process.poll() is None, "the process ended first"
        assert time.monotonic() < end, f"no event within {PATIENCE} s"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def content_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small content image, 80×64."""
    path = tmp_path_factory.mktemp("pictures") / "cat.png"
    Image.open(EXAMPLES / "chelsea.jpg").resize((80, 64)).save(path)
    return path


@pytest.fixture(scope="session")
def style_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small style image, 64×64."""
    path = tmp_path_factory.mktemp("pictures") / "paint.png"
    Image.open(EXAMPLES / "swirls.jpg").crop((200, 200, 456, 456)).resize((64, 64)).save(path)
    return path


def random_convolutions(widths: dict[str, int], seed: int = 0, rank: int | None = None) -> Convolutions:
    """Return convolutions of the whole network with He-scaled random values, by the paper's layer names.

    With a rank, each but the first reads a random projection of its input to so many channels.
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
    """Return weight and projection as one kernel, N×C×3×3, double."""
    weight, _, projection, _ = convolution
    if projection is None:
        return weight.double()
    return torch.einsum("nrij,rc->ncij", weight.double(), projection.double())


SMALL = {"1": 4, "2": 6, "3": 8, "4": 10, "5": 12}
_folder = tempfile.TemporaryDirectory(prefix="styletransfer-tests-")  # deleted when the process ends
#: A weights file of random convolutions, for tests in which any network will do: a run takes a third of the time that
#: it takes with the bundled network.
TINY = Path(_folder.name) / "tiny.safetensors"
weights.save(random_convolutions(SMALL), TINY)
