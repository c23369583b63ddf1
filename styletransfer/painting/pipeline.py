"""stylize(): the whole way of one picture, from its inputs to its `Result`."""

import dataclasses
import hashlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..machine import hardware, ranks
from ..network.formats import Convolutions
from ..options import STARTS, Options
from ..pictures import Source, Styles, as_list
from ..version import __version__
from .checkpoint import Checkpoint, CheckpointWriter, check_same_run, load_checkpoint
from .job import Callback, Job, prepared_job
from .loop import Painting
from .result import Result

log = logging.getLogger(__name__)


def stylize(
    content: Source,
    style: Styles,
    options: Options | None = None,
    *,
    callback: Callback | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **changes: Any,
) -> Result:
    """Renders the content picture in the style of the other.

    Args:
        content: a path, a Pillow image, or an image tensor 1×3×H×W in [0, 1].
        style: likewise, or a folder of pictures, or several of these (`Options.style_weight`, `Options.mask`).
        options: the settings; the defaults if not given.
        callback: called with every `Step`; a true return value ends the run with the best picture so far, on a GPU
            within ten iterations. Reading `Step.losses` makes a GPU wait for the host.
        checkpoint: a file in which the run's state is kept while it lasts; none if not given.
        resume: go on from the checkpoint, if it is there. On a CPU the picture is then, byte for byte, what it would
            have been, unless the optimiser's memory was too large to be kept (`HISTORY_BYTES`).
        changes: single settings by name, as ``stylize(a, b, size=1024, beta=20)``.

    Raises:
        UsageError: a setting or an input that can't be meant, or that differs from the checkpoint's.
        StyleTransferError: an input, the weights or the checkpoint can't be read, or memory doesn't suffice.
    """
    start = time.monotonic()
    options = (options or Options()).with_changes(changes)
    keeps = options.checkpoint_every != "off"
    path = Path(checkpoint) if checkpoint is not None and (keeps or resume) else None
    with prepared_job(content, style, options) as (job, convolutions):
        job = dataclasses.replace(job, callback=callback, start=start)
        saved = None
        if path:
            asked = _describe_run(job, convolutions)
            saved = _load_same_run(path, asked) if resume else None
            writer = _make_writer(path, job, asked, content, style, saved is not None) if keeps else None
            job = dataclasses.replace(job, writer=writer)
        painting = Painting(job, saved)
        painting.paint()
        return _make_result(painting, job, path)


def _make_result(painting: Painting, job: Job, checkpoint: Path | None) -> Result:
    runs, size = painting.runs, job.scales[-1].content
    content, last = job.inputs.content, runs[-1]
    if last.stopped == "callback" and job.writer and job.writer.spares:
        checkpoint = None  # it is another run's
    return Result(
        tensor=painting.finish(),
        losses=last.losses,
        best=last.losses[last.best],
        best_iteration=last.best,
        scales=[(*run.scale.content, run.iterations) for run in runs],
        options=job.options,
        model=job.model,
        device=str(job.device),
        stopped=last.stopped,
        seconds=time.monotonic() - job.start,
        peak_memory_bytes=hardware.peak_memory(job.device),
        alpha=content.resize(size).alpha,
        inputs=job.inputs.names,
        digest=job.originals.digest,
        checkpoint=checkpoint,
    )


# --- checkpoints --------------------------------------------------------------------------------------------------


def _describe_run(job: Job, convolutions: Convolutions) -> dict[str, Any]:
    """What must be the same when a run is resumed."""
    digest, hashes = hashlib.sha256(), job.originals.hashes()
    for layer in convolutions.values():
        for tensor in layer:
            if tensor is not None:
                digest.update(tensor.contiguous().numpy().data)  # not copied
    if job.options.init in STARTS:
        hashes["init"] = job.options.init
    # Of several GPUs another one may go on.
    rest = {"weights": digest.hexdigest(), "device": job.device.type, "version": __version__}
    return {**job.options.to_settings(), **hashes, **rest}


def _load_same_run(path: Path, asked: dict[str, Any]) -> Checkpoint | None:
    """The checkpoint to resume from, if there is one."""
    if not path.exists():
        log.info("there is no checkpoint %s: starting from the beginning", path)
        return None
    saved = load_checkpoint(path)
    if saved.run.pop("warm_start", "off") != "off":
        log.warning("%s: the run began with a warm start, which no longer exists: starting from the beginning", path)
        return None
    check_same_run(saved.run, asked)
    log.info("resuming after %d iterations", sum(len(run["losses"]) - 1 for run in saved.progress["runs"]))
    return saved


def _make_writer(
    path: Path,
    job: Job,
    asked: dict[str, Any],
    content: Source,
    style: Styles,
    resumed: bool,
) -> CheckpointWriter | None:
    """What writes the checkpoints, in the process that does."""
    if path.exists() and not resumed:
        log.info("starting over, although there is a checkpoint; it is kept for now: --resume continues from it")
    if ranks.rank():
        return None
    files = [_absolute_paths(source) for source in (content, *as_list(style))]
    options = dataclasses.asdict(job.options.map_files(os.path.abspath))  # understood in any folder
    again = {"content": files[0], "styles": files[1:], "options": options}
    return CheckpointWriter(path, float(job.options.checkpoint_every), asked, again, resumed)


def _absolute_paths(source: Source | Sequence[Source]) -> Any:
    """A path, or several, that can be understood in any folder; None for what is no file."""
    if isinstance(source, str | os.PathLike):
        return os.path.abspath(source)
    return [_absolute_paths(one) for one in source] if isinstance(source, list | tuple) else None
