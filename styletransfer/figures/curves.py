"""The losses of several runs as curves (extra `plots`)."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..files import write_atomically
from ..images import check_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """The total losses of iterations on the last scale of a run, and seconds since the run's first."""

    label: str
    iterations: list[int]
    losses: list[float]
    seconds: list[float]


def check_plot(path: Path) -> None:
    """Raises `UsageError` when a plot can't be written there: format, folder, rights, or matplotlib isn't installed."""
    if path.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise UsageError(f"{path}: a plot's name must end in .svg, .png or .pdf")
    check_folder(path)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{path}: a plot needs matplotlib: pip install 'styletransfer[plots]'") from error


def plot_curves(curves: Sequence[Curve], path: Path) -> None:
    """Writes the total losses as curves, over evaluations on the left and over seconds on the right.

    An iteration is one evaluation of loss and gradient; the start is one too.

    Raises:
        UsageError: unknown ending, or matplotlib isn't installed.
        StyleTransferError: it can't be written.
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
    """Writes a figure as the path's ending says, the same file every time.

    Raises `StyleTransferError` when it can't be written.
    """
    import matplotlib

    file = io.BytesIO()
    kind = path.suffix.lower()[1:]
    with matplotlib.rc_context({"svg.hashsalt": "styletransfer"}):
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    write_atomically(path, file.getvalue())
