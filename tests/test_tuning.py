"""Which algorithm computes a convolution: the choice, and what is remembered of the measurement."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from styletransfer import measurements
from styletransfer.encoder import convolution, tuning
from styletransfer.encoder.tuning import VARIANTS, choose_algorithm, convolution_costs
from styletransfer.encoder.winograd import TransformedKernel

KERNEL = torch.zeros(6, 5, 3, 3)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache folder; what this process has measured is forgotten."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measurements, "_cache", {})
    return tmp_path / "styletransfer"


@pytest.fixture
def convolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a convolution by F(4×4, 3×3) with torch's BLAS sleep for 0.3 ms, by others for 3 ms; return them as called.

    No convolution is computed, since its speed depends on the processor.
    """
    calls = []

    def convolve(x: torch.Tensor, *arguments: Any) -> torch.Tensor:
        kernel: TransformedKernel | None = arguments[-1]
        calls.append(next(name for name in ("direct", *VARIANTS) if VARIANTS.get(name) == (kernel and kernel.variant)))
        time.sleep(0.0003 if calls[-1] == "winograd4" else 0.003)
        return x

    monkeypatch.setattr(convolution, "convolve", convolve)
    return calls


def list_costs(home: Path) -> list[Path]:
    return list(home.glob("*.json"))


def test_choice_follows_from_the_costs() -> None:
    """direct: 1 + 0.1 per position; winograd4: 10 + 0.02; winograd6: 31 at most up to 1000 positions, then 0.031."""
    costs: tuning.Costs = {
        "direct": [(100, 11.0), (1000, 101.0)],
        "winograd4": [(100, 12.0), (1000, 30.0)],
        "winograd6": [(100, 31.0), (1000, 31.0)],
    }
    assert choose_algorithm(costs, 100) is None
    assert choose_algorithm(costs, 120) is None  # 13.0 and 12.4: not worth the memory
    assert choose_algorithm(costs, 150) == VARIANTS["winograd4"]
    assert choose_algorithm(costs, 1000) == VARIANTS["winograd4"]
    costs["winograd6"] = [(100, 31.0), (1000, 26.0)]
    assert choose_algorithm(costs, 1000) == choose_algorithm(costs, 10**6) == VARIANTS["winograd6"]
    assert choose_algorithm(costs, 500) == VARIANTS["winograd4"]


def test_fastest_algorithm_is_measured_once(home: Path, convolved: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    costs = convolution_costs(KERNEL)
    assert set(convolved) == {"direct", *VARIANTS}
    assert choose_algorithm(costs, 40) == choose_algorithm(costs, 10**6) == VARIANTS["winograd4"]
    count = len(convolved)
    assert convolution_costs(KERNEL) == costs
    monkeypatch.setattr(measurements, "_cache", {})  # as in another process
    assert convolution_costs(KERNEL) == costs and len(convolved) == count
    convolution_costs(torch.zeros(5, 6, 3, 3))
    assert len(convolved) > count
    (path,) = list_costs(home)
    assert json.loads(path.read_text()).keys() == {"convolution 6x5", "convolution 5x6"}


def test_measuring_draws_none_of_the_callers_random_numbers(home: Path) -> None:
    before = torch.get_rng_state()
    convolution_costs(KERNEL)
    assert torch.equal(torch.get_rng_state(), before)


def test_costs_are_those_of_the_number_of_threads(home: Path, convolved: list[str]) -> None:
    threads = torch.get_num_threads()
    try:
        for count in (threads, threads + 1):
            torch.set_num_threads(count)
            convolution_costs(KERNEL)
    finally:
        torch.set_num_threads(threads)
    assert len(list_costs(home)) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"convolution 6x5": null}',
        b'{"convolution 6x5": {}}',
        b'{"convolution 6x5": {"direct": [[144, 1], [2304, "x"]]}}',
        b'{"convolution 6x5": {"direct": [[144, 1]]}}',
        b'{"convolution 6x5": {"direct": [[144, 1], [2304, NaN]]}}',
        b'{"convolution 6x5": {"direct": [[144, -1], [2304, 1]]}}',
        b'{"convolution 6x5": {"winograd4": [[144, 1], [2304, 1]]}}',
    ],
)
def test_damaged_costs_are_measured_again(
    home: Path, convolved: list[str], content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    convolution_costs(KERNEL)
    (path,) = list_costs(home)
    path.write_bytes(content)
    monkeypatch.setattr(measurements, "_cache", {})
    convolved.clear()
    costs = convolution_costs(KERNEL)
    assert convolved and choose_algorithm(costs, 1000) == VARIANTS["winograd4"]
    assert "direct" in json.loads(path.read_text())["convolution 6x5"]


def test_costs_are_measured_without_a_writable_cache(
    tmp_path: Path, convolved: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(measurements, "_cache", {})
    costs = convolution_costs(KERNEL)
    assert choose_algorithm(costs, 1000) == VARIANTS["winograd4"]


def test_processes_at_once_use_the_same_costs(home: Path) -> None:
    code = (
        "import torch; torch.set_num_threads(1); from styletransfer.encoder.tuning import convolution_costs; "
        "print(convolution_costs(torch.zeros(64, 64, 3, 3)))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]
    outputs = {process.communicate()[0] for process in processes}
    assert not any(process.returncode for process in processes)
    assert len(outputs) == 1 and b"direct" in outputs.pop()
