"""The losses of several runs as curves (extra `plots`)."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError, install_hint
from ..files import write_atomically
from ..images import check_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """Total losses of the iterations on a run's last scale, and their times in seconds since the run began."""

    label: str
    iterations: list[int]
    losses: list[float]
    seconds: list[float]


def check_plot(path: Path) -> None:
    """Raise `UsageError` if a plot cannot be written: format, folder, permissions, or matplotlib is not installed."""
    if path.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise UsageError(f"{path}: unknown plot format; the name must end in .svg, .png or .pdf")
    check_folder(path)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{path}: plots need matplotlib: {install_hint('plots')}") from error


def plot_curves(curves: Sequence[Curve], path: Path) -> None:
    """Write a plot of the total losses, over evaluations on the left and over seconds on the right.

    An iteration is one evaluation of loss and gradient; the start is one too.

    Raises:
        UsageError: as `check_plot`.
        StyleTransferError: the file can't be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for curve in curves:
        left.plot([1 + iteration for iteration in curve.iterations], curve.losses, label=curve.label)
        right.plot(curve.seconds, curve.losses, label=curve.label)
    left.set(xlabel="evaluations", ylabel="total loss", xscale="log", yscale="log")
    right.set(xlabel="seconds", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
    left.legend()
    write_figure(figure, path)


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of its file extension; .svg and .png files are reproducible.

    Raises `StyleTransferError` if the file can't be written.
    """
    import matplotlib

    file = io.BytesIO()
    kind = path.suffix.lower()[1:]
    with matplotlib.rc_context({"svg.hashsalt": "styletransfer"}):
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    write_atomically(path, file.getvalue())
