"""Hardware detection: precision, CPUs, memory and runtime settings."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from styletransfer import UsageError, measurements
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
def test_auto_precision_has_the_faster_convolutions(
    slow: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one dtype a convolution is 2 ms of work, in the other a sleep of 20 ms; it is measured once.

    No convolution is computed, since its speed depends on the processor.
    """
    calls = []

    def fake_conv2d(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        calls.append(x.dtype)
        if x.dtype == slow:
            end = time.thread_time() + 0.002
            while time.thread_time() < end:
                pass
        elif sys.platform != "win32":  # which measures a thread's own time less exactly
            time.sleep(0.02)
        return x

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.nn.functional, "conv2d", fake_conv2d)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fast = ({torch.float32, torch.bfloat16} - {slow}).pop()
    for _ in range(2):
        monkeypatch.setattr(measurements, "_cache", {})  # as in another process
        assert hardware.select_precision("auto", CPU) == hardware.Precision(torch.float32, fast)
        assert len(calls) == 5 * 3 * 2


def test_auto_precision_measures_nothing_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    monkeypatch.setattr(measurements, "_cache", {})
    assert hardware.select_precision("auto", CPU) == hardware.Precision(torch.float32, torch.float32)


@pytest.mark.parametrize(("content", "expected"), [("50000 100000", 1), ("150000 100000", 2), ("max 100000", None)])
def test_available_cpus_follow_the_container_quota(tmp_path: Path, content: str, expected: int | None) -> None:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    file = tmp_path / "cpu.max"
    file.write_text(content)
    assert hardware.available_cpus(file) == min(expected or available, available)
    assert hardware.available_cpus(tmp_path / "none") == available


def test_runtime_settings_are_restored() -> None:
    def settings() -> tuple[object, ...]:
        cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        return torch.get_num_threads(), cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark

    before = settings()
    with hardware.runtime_settings(CPU, tf32=True):
        assert torch.backends.cudnn.allow_tf32
    assert settings() == before


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell which cores there are")
@pytest.mark.parametrize(("own", "others", "expected"), [(2.0, 0.0, 2), (1.9, 0.2, 2), (1.3, 0.7, 1), (0.2, 1.9, 1)])
def test_threads_are_those_that_other_programs_leave_cores_for(
    own: float, others: float, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four cores may be used; the others are busy all the time, and so is another guest of the host."""
    stat, ticks = tmp_path / "stat", os.sysconf("SC_CLK_TCK")

    def write(seconds: float) -> None:
        user, system = (round(share * seconds * ticks / 2) for share in (0.75, 0.25))
        mine = f"{user} 0 {system} 12345 67 0 0 {round(seconds * ticks)} 0 0"
        full = f"{round(10 * seconds * ticks)} 0 0 0 0 0 0 0 0 0"
        rows = [f"cpu0 {mine}", f"cpu1 {full}", f"cpu2 {mine}", f"cpu3 {full}"]
        stat.write_text("\n".join([f"cpu  {full}", *rows, "intr 1 2 3", ""]))

    now = [1000.0]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "process_time", lambda: (now[0] - 1000.0) * own)
    write(0)
    load = hardware._LoadMonitor(2, stat)
    now[0] += 0.5
    assert load.choose_thread_count() is None
    for _ in range(2):
        now[0] += 2.0
        write((now[0] - 1000.0) * (own + others))
        assert load.choose_thread_count() == expected
    stat.unlink()
    now[0] += 2.0
    assert load.choose_thread_count() is None and load.choose_thread_count() is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="about Linux")
@pytest.mark.parametrize("deterministic", [False, True])
def test_threads_make_room_for_busy_programs(deterministic: bool) -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with hardware.runtime_settings(CPU, deterministic=deterministic):
            end, most = time.monotonic() + (1.5 if deterministic else 60), torch.get_num_threads()
            while time.monotonic() < end and torch.get_num_threads() == most > 1:
                hardware.adapt_thread_count()
            assert torch.get_num_threads() == (most if deterministic else 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
        for process in busy:
            process.kill()
            process.wait()


COUNT_FAULTS = """
import resource, sys, torch
from styletransfer.runtime import hardware

def count_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_pages():
    return int(open("/proc/self/statm").read().split()[1])

torch.set_num_threads(1)
default, before = count_faults(), resident_pages()
with hardware.runtime_settings(torch.device("cpu")):
    count_faults()
    reused, resident = count_faults(), resident_pages()
print(default, reused, resident - before, resident_pages() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="about glibc")
def test_freed_memory_is_reused_between_evaluations() -> None:
    """Ten allocations of 64 MiB cause almost no page faults; the memory is returned to the system at the end.

    By default glibc maps blocks above 32 MiB anew each time; for smaller ones it adapts its threshold (mallopt(3)).
    """
    pages = (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    process = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    default, reused, resident, after = map(int, process.stdout.split())
    assert reused < default / 20
    assert resident > 0.9 * pages and after < 0.2 * pages


def test_evaluations_on_a_cpu_are_not_captured() -> None:
    def evaluate(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x,)

    assert evaluation.capture_graph(evaluate, torch.zeros(1, 3, 4, 4)) is evaluate


def test_apple_gpu_that_lacks_an_operation_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where there is no Apple GPU, every operation is missing."""
    if torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    hardware._encoder_runs_on.cache_clear()
    assert [hardware.select_device("auto").type for _ in range(2)] == ["cpu", "cpu"]
    assert [record.message.startswith("device mps is not used: ") for record in caplog.records] == [True]
    assert hardware._encoder_runs_on("cpu")
    hardware._encoder_runs_on.cache_clear()
