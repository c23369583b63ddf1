"""Hardware: device, precision, threads, memory."""

import contextlib
import ctypes
import functools
import itertools
import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from ..encoder.backward import BackwardPass
from ..encoder.convolution import Convolution
from ..encoder.vgg import Encoder
from ..errors import StyleTransferError, UsageError
from ..measurements import load_or_measure
from . import distributed

log = logging.getLogger(__name__)

# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 * 1024, 65536
#: Filters and map side of the convolutions that `bf16_is_fast` times; of equal work each, as VGG-19's layers.
_CONVOLUTIONS = ((64, 96), (256, 24), (512, 12))
#: bfloat16 is fast if it takes less than this share of float32's time: half and twice on the two processors measured.
_BF16_SHARE = 0.8
#: Seconds between measurements of the load, and the share of a core that other programs may use of an idle one.
_LOAD_INTERVAL, _LOAD_TOLERANCE = 1.0, 0.6
#: Other load does not count in a thread's own time. Windows counts that only in steps of 16 ms.
_processor_time = time.perf_counter if sys.platform == "win32" else time.thread_time


@dataclass(frozen=True)
class Precision:
    """The dtypes of features and of gradients; `tf32` lets CUDA round float32 to TF32 in products."""

    forward: torch.dtype
    backward: torch.dtype
    tf32: bool = False


def select_device(name: str) -> torch.device:
    """Return the device of a name: auto, cpu, cuda, cuda:N or mps. Raises `UsageError` if it is not available.

    auto takes CUDA, or else an Apple GPU if the encoder runs on it. Apple GPUs are untested: there was none to try.
    """
    if name == "auto":
        apple = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if apple and _encoder_runs_on("mps") else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type == "cpu":
        return chosen
    if chosen.type == "cuda" and torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count():
        return torch.device("cuda", chosen.index or 0)
    if chosen.type == "mps" and torch.backends.mps.is_available():
        return chosen
    if chosen.type in ("cuda", "mps"):
        raise UsageError(f"device {name} is not available; use cpu or auto")
    raise UsageError(f"device {name!r} is invalid; use auto, cpu, cuda, cuda:N or mps")


@functools.cache
def _encoder_runs_on(device: str) -> bool:
    """Return whether forward and backward pass run there in float32; if not, say why."""
    layers = {
        name: Convolution(torch.randn(8, channels, 3, 3), torch.zeros(8))
        for name, channels in (("conv1_1", 3), ("conv1_2", 8), ("conv2_1", 8))
    }
    try:
        encoder, image = Encoder(layers, ["conv2_1"]).to(device), torch.rand(1, 3, 32, 32, device=device)
        trace = BackwardPass(encoder, image)
        trace.forward(lambda *_: None)
        trace.backward(lambda layer, top, features: features, lambda *_: None, torch.zeros_like(image))
        float(image[0, 0, 0, 0])  # waits for the device
    except (RuntimeError, TypeError, AssertionError) as error:
        log.warning("device %s is not used: %s", device, " ".join(str(error).split())[:120])
        return False
    return True


def select_precision(name: str, on: torch.device) -> Precision:
    """Return the precision of a name: auto, fp32, bf16 or tf32.

    auto does not change the image visibly: features are in float32 (on CUDA in TF32), and only the backward pass is in
    bfloat16, where that is faster; the gradient is then off by about 1 %. With features in bfloat16 the Gram matrices
    are too inexact for long runs (docs/explanation/performance.md).

    Raises `UsageError` for tf32 where it is not supported.
    """
    ampere = on.type == "cuda" and torch.cuda.get_device_capability(on) >= (8, 0)
    if name == "tf32" and not ampere:
        raise UsageError(f"precision tf32 needs an NVIDIA GPU, Ampere or later; on {on} use auto, fp32 or bf16")
    if name == "auto":
        fast = ampere or (on.type == "cpu" and bf16_is_fast())
        return Precision(torch.float32, torch.bfloat16 if fast else torch.float32, tf32=ampere)
    if name == "bf16":
        return Precision(torch.bfloat16, torch.bfloat16)
    return Precision(torch.float32, torch.float32, tf32=name == "tf32")


def bf16_is_fast() -> bool:
    """Return whether convolutions on this CPU are clearly faster in bfloat16.

    Measured once, in a fifth of a second. The CPU's flags do not decide it: with AVX512-BF16 convolutions take half the
    time on AMD's, and twice the time on some of Intel's. Without AVX-512 oneDNN has no such convolutions, and measuring
    torch's own took a second.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return load_or_measure("bfloat16's share of the time", _measure_bf16_share, float) < _BF16_SHARE


@torch.no_grad()
def _measure_bf16_share() -> float:
    """Return the time of some convolutions in bfloat16, relative to that in float32, independent of other load."""
    fastest: dict[tuple[int, torch.dtype], float] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the caller's own
    try:
        # In turn, so that other load affects both.
        for _, (filters, side), dtype in itertools.product(range(5), _CONVOLUTIONS, (torch.float32, torch.bfloat16)):
            x, kernel = torch.ones(1, filters, side, side), torch.ones(filters, filters, 3, 3)
            x, kernel = (t.to(dtype, memory_format=torch.channels_last) for t in (x, kernel))
            start = _processor_time()
            F.conv2d(x, kernel, padding=1)
            seconds = _processor_time() - start
            fastest[filters, dtype] = min(seconds, fastest.get((filters, dtype), math.inf))
    finally:
        torch.set_num_threads(threads)
    total = {dtype: sum(t for (_, d), t in fastest.items() if d == dtype) for dtype in (torch.float32, torch.bfloat16)}
    return total[torch.bfloat16] / total[torch.float32]


@contextlib.contextmanager
def runtime_settings(on: torch.device, tf32: bool = False, deterministic: bool = False) -> Iterator[None]:
    """Set up torch and the C library for the optimization; restore the previous settings afterwards.

    Args:
        deterministic: use only what gives the same bits every time, instead of the fastest: on a GPU algorithms, on a
            CPU the same number of threads whatever other programs do (`adapt_thread_count`).
    """
    global _load_monitor
    threads, was_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    try:
        if on.type == "cpu":
            # torchrun sets every process to one thread.
            processes, cpus = distributed.processes_here(), available_cpus()
            torch.set_num_threads(min(threads, cpus) if processes == 1 else cpus // processes or 1)
            _load_monitor = (
                None if deterministic or torch.get_num_threads() == 1 else _LoadMonitor(torch.get_num_threads())
            )
            _keep_memory(True)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        # The benchmark takes seconds and, for workspaces, tens of gigabytes; on an H100 it found nothing faster than
        # cuDNN's own choice.
        torch.backends.cudnn.benchmark = False
        if deterministic and on.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in any order
            # Only warn about max pooling: windows of 2×2 do not overlap, so it sums nothing.
            torch.use_deterministic_algorithms(True, warn_only=True)
        yield
    finally:
        _load_monitor = None
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = flags
        if torch.are_deterministic_algorithms_enabled() != was_deterministic:  # the call imports the compiler: slow
            torch.use_deterministic_algorithms(was_deterministic)
        if on.type == "cpu":
            _keep_memory(False)
            release_memory(on)


class _LoadMonitor:
    """Monitor of the load that other programs put on this process's cores.

    Args:
        most: the number of threads without any load.
        stat: the file with the cores' times (proc(5)); where there is none, nothing is known.
    """

    def __init__(self, most: int, stat: Path = Path("/proc/stat")) -> None:
        self.most, self._stat = most, stat
        self._before = self._read()

    def choose_thread_count(self) -> int | None:
        """Return how many threads the idle cores allow; None before the interval is over, or if unknown."""
        if not self._before or time.monotonic() - self._before[0] < _LOAD_INTERVAL:
            return None
        before, self._before = self._before, self._read()
        if not self._before:
            return None
        seconds, all_programs, own = (now - then for now, then in zip(self._before, before, strict=True))
        cores = len(os.sched_getaffinity(0)) - (all_programs - own) / seconds
        return max(1, min(self.most, int(cores + _LOAD_TOLERANCE)))

    def _read(self) -> tuple[float, float, float] | None:
        """Return the time, and the seconds for which all programs and this process have used the cores."""
        try:
            cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
            rows = [line.split() for line in self._stat.read_text().splitlines()]
        except (OSError, AttributeError):
            return None
        # After the name: user, nice, system, idle, iowait, irq, softirq. What follows, such as the time of the host's
        # other guests, is no load here.
        ticks = sum(int(row[i]) for row in rows if row[0] in cores for i in (1, 2, 3, 6, 7))
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time()


_load_monitor: _LoadMonitor | None = None


def adapt_thread_count() -> None:
    """Set the number of threads to the number of idle cores. Call it in every iteration; it acts once a second.

    With more threads than idle cores every parallel operation waits for the preempted thread: beside one busy program
    two threads on two cores took more than ten times as long as alone (docs/explanation/performance.md).
    """
    threads = _load_monitor and _load_monitor.choose_thread_count()
    if threads and threads != torch.get_num_threads():
        log.debug("other programs use the CPU: using %d threads", threads)
        torch.set_num_threads(threads)


def _keep_memory(keep: bool) -> None:
    """Make glibc keep freed memory for the next allocation, or return it to the system again.

    By default every large feature map is mapped and unmapped in each evaluation, and the system clears its pages: up to
    two thirds of the time of an evaluation.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0 if keep else _DEFAULT_MMAP_MAX)
        libc.mallopt(_M_TRIM_THRESHOLD, -1 if keep else _DEFAULT_TRIM_THRESHOLD)  # −1: never


def available_cpus(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many CPUs the container may use (cgroup v2). More threads than that wait for each other."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        limit, period = quota.read_text().split()
        return max(1, min(available, math.ceil(int(limit) / int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        return available


def free_memory(on: torch.device) -> int | None:
    """Return the bytes available within the system, the container and the process's own limit; None if unknown."""
    if on.type == "cuda":
        unused = torch.cuda.memory_reserved(on) - torch.cuda.memory_allocated(on)
        return int(torch.cuda.mem_get_info(on)[0]) + unused
    if not sys.platform.startswith("linux"):
        try:  # macOS reports the total, not what is free
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (AttributeError, ValueError, OSError):
            return None
    import resource

    free = [1024 * _kilobytes("/proc/meminfo", "MemAvailable")]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        # It limits addresses, many of which lie in unused gaps between pieces of memory.
        free.append(2 * (limit - 1024 * _kilobytes("/proc/self/status", "VmSize")) // 3)
    return min([*free, *_cgroup_memory()])


def _kilobytes(file: str, name: str) -> int:
    return next(int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(name + ":"))


def _cgroup_memory(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Yield the bytes left of the memory limits of the process's control groups."""
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            base, limit, used = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no group, or no limit ("max")
                cached = next(
                    line for line in (folder / "memory.stat").read_text().splitlines() if "inactive_file" in line
                )
                left = int((folder / limit).read_text()) - int((folder / used).read_text())
                yield left + int(cached.split()[1])  # the file cache can be evicted


def release_memory(on: torch.device) -> None:
    """Return cached free memory to the system."""
    if on.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory was insufficient."""
    messages = ("allocate memory", "could not create a primitive")  # of torch and of oneDNN
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in messages)


@contextlib.contextmanager
def readable_memory_errors(on: torch.device) -> Iterator[None]:
    """Turn out-of-memory errors into a `StyleTransferError` that says what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise StyleTransferError(f"not enough memory on {on}: use a smaller size") from error


def peak_memory(on: torch.device) -> int:
    """Return the peak memory in bytes: resident on a CPU, of torch's allocations on a GPU; 0 if unknown."""
    if on.type == "cuda":
        return torch.cuda.max_memory_allocated(on)
    if sys.platform == "win32":  # the standard library has no such count
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
