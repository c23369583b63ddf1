"""Distributed evaluation of one image: `torchrun --nproc-per-node 4 -m styletransfer …` splits its bands.

Each process evaluates some of the bands; torch.distributed sums the results. Every process runs the same optimizer, so
nothing else is exchanged. In a single process these functions do nothing.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import StyleTransferError

T = TypeVar("T")
#: The environment variable with the number of workers of a batch.
WORKERS = "STYLETRANSFER_WORKERS"


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number; 0 writes the files and prints."""
    return dist.get_rank() if world_size() > 1 else 0


def processes_here() -> int:
    """Return how many of the processes, or of the workers of a batch, share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE" if world_size() > 1 else WORKERS, 1))


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the process group if torchrun started this process: over NCCL between GPUs, else over Gloo."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or not dist.is_available():
        yield
        return
    # torch.optim imports this at its first use. Imported while there is a group, it keeps the group and its threads
    # beyond destroy_process_group, and such a process was once seen to abort as it exited.
    import torch._dynamo

    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def take_share(items: Sequence[T]) -> Sequence[T]:
    """Return this process's share of the items."""
    return items[rank() :: world_size()]


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes. They are sent as one, since every exchange has latency.

    Raises `StyleTransferError` if another process has ended.
    """
    if world_size() == 1:
        return
    flat = tensors[0].view(-1) if len(tensors) == 1 else torch.cat([tensor.flatten() for tensor in tensors])
    with _readable_errors():
        dist.all_reduce(flat)
    if len(tensors) > 1:
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def any_process(answer: bool) -> bool:
    """Return whether the answer is true in any process, so that all of them stop in the same iteration."""
    if world_size() == 1:
        return answer
    with _readable_errors():
        answers = torch.tensor([int(answer)])
        dist.all_reduce(answers)
    return bool(answers)


@contextlib.contextmanager
def _readable_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise StyleTransferError("another process of this run has ended or cannot be reached") from error
