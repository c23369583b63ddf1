"""What the machine offers, told by the machine itself."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from styletransfer import UsageError
from styletransfer.runtime import hardware
from styletransfer.transfer import evaluation

CPU = torch.device("cpu")


def test_precisions_on_a_cpu() -> None:
    fp32, bf16 = torch.float32, torch.bfloat16
    assert hardware.select_precision("fp32", CPU) == hardware.Precision(fp32, fp32)
    assert hardware.select_precision("bf16", CPU) == hardware.Precision(bf16, bf16)
    with pytest.raises(UsageError, match="tf32"):
        hardware.select_precision("tf32", CPU)


@pytest.mark.parametrize("slow", [torch.float32, torch.bfloat16])
def test_auto_is_what_convolutions_are_faster_in(slow: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one of the two takes the thread 2 ms of work, and the other, which does none, waits for 20 ms.

    No convolution is computed: how fast those are differs from processor to processor. It is measured once.
    """
    calls = []

    def laborious(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        calls.append(x.dtype)
        if x.dtype == slow:
            end = time.thread_time() + 0.002
            while time.thread_time() < end:
                pass
        elif sys.platform != "win32":  # where no thread's own time is known as exactly
            time.sleep(0.02)
        return x

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.nn.functional, "conv2d", laborious)
    hardware.bf16_is_fast.cache_clear()
    fast = ({torch.float32, torch.bfloat16} - {slow}).pop()
    try:
        assert hardware.select_precision("auto", CPU) == hardware.Precision(torch.float32, fast)
        measured = len(calls)
        assert hardware.select_precision("auto", CPU).backward == fast and len(calls) == measured > 0
    finally:
        hardware.bf16_is_fast.cache_clear()


def test_auto_measures_nothing_where_there_is_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    hardware.bf16_is_fast.cache_clear()
    try:
        assert hardware.select_precision("auto", CPU) == hardware.Precision(torch.float32, torch.float32)
    finally:
        hardware.bf16_is_fast.cache_clear()


@pytest.mark.parametrize(("content", "expected"), [("50000 100000", 1), ("150000 100000", 2), ("max 100000", None)])
def test_threads_follow_the_containers_quota(tmp_path: Path, content: str, expected: int | None) -> None:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    file = tmp_path / "cpu.max"
    file.write_text(content)
    assert hardware.available_cpus(file) == min(expected or available, available)
    assert hardware.available_cpus(tmp_path / "none") == available


def test_settings_are_as_before_afterwards() -> None:
    def settings() -> tuple[object, ...]:
        cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        return torch.get_num_threads(), cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    before = settings()
    with hardware.runtime_settings(CPU, tf32=True):
        assert torch.backends.cudnn.allow_tf32
    assert settings() == before


COUNT_FAULTS = """
import resource, sys, torch
from styletransfer.runtime import hardware

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

torch.set_num_threads(1)
plain, before = faults(), resident()
with hardware.runtime_settings(torch.device("cpu")):
    faults()
    kept, held = faults(), resident()
print(plain, kept, held - before, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="about glibc")
def test_memory_is_kept_from_one_evaluation_to_the_next() -> None:
    """Counted by the kernel: ten times 64 MiB are cleared anew page by page, or not at all; and given back at the end.

    What is larger than 32 MiB glibc always maps anew; of smaller sizes it learns to keep some (mallopt(3)).
    """
    pages = (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    plain, kept, held, after = map(int, done.stdout.split())
    assert kept < plain / 20
    assert held > 0.9 * pages and after < 0.2 * pages


def test_evaluations_on_a_cpu_are_not_captured() -> None:
    def evaluate(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x,)

    assert evaluation.capture_graph(evaluate, torch.zeros(1, 3, 4, 4)) is evaluate
