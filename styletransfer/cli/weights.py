"""The commands for network weights: list, fetch, path, verify."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import StyleTransferError, UsageError
from .arguments import SETUP, app
from .console import show_notices

weights_app = typer.Typer(help="Network weights: list, fetch, verify, path.", no_args_is_help=True)
app.add_typer(weights_app, name="weights", rich_help_panel=SETUP)

_Name = Annotated[str, typer.Argument(help="vgg19, vgg19-8bit or vgg19-lite.")]


def _check_name(name: str) -> str:
    from ..encoder.weights import NETWORKS

    if name not in NETWORKS:
        raise UsageError(f"there is no network {name!r}; choose one of {', '.join(NETWORKS)}")
    return name


@weights_app.command("list")
def list_command() -> None:
    """List the networks and the paths of their files."""
    from ..encoder import weights

    for network in weights.NETWORKS.values():
        path = weights.find(network.name)
        print(f"{network.name:12}{network.size:8}{network.about:51}{path or 'not found; ' + network.remedy}")


@weights_app.command("fetch")
def fetch_command(
    name: _Name = "vgg19",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Download a network's weights if they are missing; print their path."""
    from ..encoder import weights

    show_notices(quiet)
    print(weights.fetch(_check_name(name)))


@weights_app.command("path")
def path_command(name: _Name = "vgg19") -> None:
    """Print the path of a network's weights."""
    from ..encoder import weights

    path = weights.find(_check_name(name))
    if path is None:
        raise StyleTransferError(f"{name}: weights not found; to download them: styletransfer weights fetch {name}")
    print(path)


@weights_app.command("verify")
def verify_command(
    file: Annotated[str, typer.Argument(help="vgg19, vgg19-lite, or a file.")] = "vgg19-lite",
) -> None:
    """Check a weights file's hash and contents; print its SHA-256."""
    from ..encoder import weights

    path = weights.find(file) if file in weights.NETWORKS else Path(file)
    if path is None or not path.is_file():
        raise UsageError(f"{file}: weights file not found")
    print(f"{weights.verify(path)}  {path}")
