"""The commands that draw figures: features, dream, sweep, reconstruct; and layers, which prints a table."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import plural
from ..options import Options
from .arguments import (
    FIGURES,
    ContentPath,
    Quiet,
    StylePaths,
    SweepCommand,
    app,
    files_among,
    from_options,
    given_options,
)
from .console import interruptible, print_error, save_somewhere, show_notices

if TYPE_CHECKING:
    from ..figures.activations import Drawing
    from ..figures.sheets import Cell
    from ..images import Source


_Image = Annotated[Path, typer.Argument(metavar="IMAGE", help="Input image.")]
_Layer = Annotated[str, typer.Option("--layer", help="Layer: conv1_1 … conv5_4, with vgg19-lite up to conv5_1.")]
_with_figure_options = partial(from_options, names=("size", "model", "device", "max_pixels"))


@app.command("layers", rich_help_panel=FIGURES)
def layers_command(
    size: Annotated[int, typer.Option(help="Side of a square input image, in pixels.")] = Options.size,
    model: Annotated[Literal["vgg19", "vgg19-lite"], typer.Option(help="Network; vgg19-lite is small.")] = "vgg19",
) -> None:
    """Print the network's layers: sizes, receptive fields, costs.

    An output has 1 + (input + 2·padding − kernel) / stride positions per side. The receptive field is the part of the
    image that one position depends on. Operations are multiply-adds.
    """
    from ..encoder import layers

    widths, ranks = layers.VGG19_WIDTHS, dict[str, int]()
    if model != "vgg19":
        from ..encoder import weights

        convolutions = weights.load_weights(model).convolutions
        widths = {name: len(layer.bias) for name, layer in convolutions.items()}
        ranks = {name: len(p) for name, layer in convolutions.items() if (p := layer.projection) is not None}
    rows = layers.table(Options(size=size).size, widths, ranks)
    print("layer    kernel  stride  padding       output  field  channels  parameters          operations")
    for row in rows:
        kernel, output = f"{row.kernel}×{row.kernel}", f"{row.size}×{row.size}"
        print(
            f"{row.name:9}{kernel:>6}{row.stride:>8}{row.padding:>9}{output:>13}{row.receptive_field:>7}"
            f"{row.channels:>10}{row.parameters:>12,}{row.operations:>20,}"
        )
    print(f"{'sum':63}{sum(row.parameters for row in rows):>12,}{sum(row.operations for row in rows):>20,}")


@app.command("features", rich_help_panel=FIGURES)
@_with_figure_options
def features_command(
    given: dict[str, Any],
    image: _Image,
    layer: _Layer = "conv3_1",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output image.", show_default="IMAGE_LAYER.png")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Draw a layer's feature maps of IMAGE and their Gram matrix.

    The matrix has a row and a column for each map, in reading order. Black is 0 and white the maximum, of each map and
    of the matrix; gray levels are square roots.
    """
    target = output or Path(f"{image.stem}_{layer}.png")
    show_notices(quiet)
    from ..figures.activations import draw_features

    _draw_one(lambda: draw_features(image, layer, Options(**given)), image, target)


@app.command("dream", rich_help_panel=FIGURES)
@_with_figure_options
def dream_command(
    given: dict[str, Any],
    image: _Image,
    layer: _Layer = "conv4_3",
    octaves: Annotated[int, typer.Option(min=1, max=16, help="Number of scales, from small to full size.")] = 4,
    iterations: Annotated[int, typer.Option(min=1, help="Steps at each scale.")] = 20,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output image.", show_default="IMAGE_dream.png")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Amplify what a layer responds to in IMAGE.

    By gradient ascent on its activations, after Mordvintsev, Olah and Tyka, Inceptionism, 2015.
    """
    target = output or Path(f"{image.stem}_dream.png")
    show_notices(quiet)
    from ..figures.activations import draw_dream

    _draw_one(lambda: draw_dream(image, layer, Options(**given), octaves, iterations, quiet=quiet), image, target)


def _draw_one(draw: "Callable[[], Drawing]", image: Path, target: Path) -> None:
    from ..images import check_output

    check_output(target, 8, (image,))
    saved = save_somewhere(draw().save, target)
    print(saved)
    if saved != target:
        raise typer.Exit(1)


@app.command("sweep", rich_help_panel=FIGURES, cls=SweepCommand)
@from_options
def sweep_command(
    given: dict[str, Any],
    context: typer.Context,
    content: ContentPath,
    style: StylePaths,
    ratio: Annotated[float | None, typer.Option(help="Ratio alpha/beta, instead of both.", min=1e-12)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output image.", show_default="CONTENT_STYLE_sweep.png")
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plot the loss curves too, as .svg, .png or .pdf.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Compare values of one or two options in a sheet of images.

    styletransfer sweep photo.jpg painting.jpg --ratio 1e-4 1e-3 1e-2 1e-1 --content-layer conv2_2 conv4_2

    The values of the first option are the columns, those of the second one the rows.
    """
    from ..figures.sheets import Cell

    cells = [Cell(row, column, content, style, Options(**given_options(sub))) for row, column, sub in context.obj]
    target = output or Path(f"{content.stem}_{style[0].stem}_sweep.png")
    one_row = all(not cell.row for cell in cells) and len(style) == 1 and style[0].is_file()
    first = [("content", content), ("style", style[0])] if one_row else []
    files = [name for cell in cells for name in cell.options.files]
    _draw_sheet(cells, target, (content, *style, *files), quiet, first=first, curves=curves)


@app.command("reconstruct", rich_help_panel=FIGURES)
@partial(
    from_options,
    names=("size", "iterations", "pooling", "seed", "model", "weights", "preprocessing", "device", "max_pixels"),
)
def reconstruct_command(
    given: dict[str, Any],
    image: _Image,
    kind: Annotated[
        bool, typer.Option("--content/--style", help="Reconstruct from feature maps or from Gram matrices.")
    ] = True,
    layers: Annotated[str, typer.Option("--layers", metavar="LAYER...", help="Layers, in order.")] = ",".join(
        Options.style_layers
    ),
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Output image.", show_default="IMAGE_content.png or _style.png"),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Reconstruct IMAGE from each layer, starting from noise.

    Gatys, Ecker, Bethge, 2016, figure 1. A style reconstruction uses a layer and all layers before it.
    """
    from ..figures.sheets import reconstruction

    name = "content" if kind else "style"
    names = tuple(filter(None, layers.replace(",", " ").split()))
    cells = reconstruction(image, names, name, Options(**given))
    _draw_sheet(cells, output or Path(f"{image.stem}_{name}.png"), (image,), quiet, first=[("image", image)])


def _draw_sheet(
    cells: "Sequence[Cell]",
    target: Path,
    inputs: Sequence[str | Path],
    quiet: bool,
    first: "Sequence[tuple[str, Source]]",
    curves: Path | None = None,
) -> None:
    with interruptible() as interrupted:
        from ..figures.curves import check_plot, plot_curves
        from ..figures.sheets import draw_sheet
        from ..images import check_distinct, check_output

        show_notices(quiet)
        input_files = files_among(list(inputs))
        check_output(target, 8, input_files)
        if curves:
            check_distinct(curves, (target, *input_files), "--curves")
            check_plot(curves)
        sheet = draw_sheet(cells, interrupted, first=first, quiet=quiet)
        if sheet is None:
            raise typer.Exit(print_error("interrupted", 128 + interrupted()))
        saved = save_somewhere(sheet.save, target)
        if curves:
            plot_curves(sheet.curves, curves)
        number = interrupted()
    print(saved)
    if (count := len(sheet.made)) < len(cells):
        finished = plural(count, "image")
        raise typer.Exit(print_error(f"interrupted; {saved} has the {finished} finished so far", 128 + number))
    if saved != target:
        raise typer.Exit(1)
