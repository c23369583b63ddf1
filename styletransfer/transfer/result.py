"""The result of a run: the output image, its losses, and how it was made."""

import base64
import dataclasses
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..images import check_output, fit_size, to_pil, write_picture
from ..losses import Losses
from ..options import Options
from ..version import __version__

#: The longer side in pixels of images in a notebook.
SHOWN = 640
_BOTH = """<div style="position:relative;width:{width}px;max-width:100%;line-height:0">
<img alt="Output image" style="width:100%" src="data:image/jpeg;base64,{after}">
<div title="Drag the lower right corner" style="position:absolute;top:0;bottom:0;left:0;width:50%;max-width:100%;\
overflow:hidden;resize:horizontal;border-right:2px solid #fff">
<img alt="Content image" style="width:{width}px;max-width:none" src="data:image/jpeg;base64,{before}">
</div></div>"""


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        tensor: the output image, float32 1×3×H×W on the CPU, RGB in [0, 1].
        losses: of the start of the last scale worked on, and of each of its iterations, in order.
        best: those of the output image (in gray with color="luminance"), with the lowest total of all.
        best_iteration: where they were reached; earlier than the last if the loss rose again.
        scales: width, height and iterations of every scale, the coarsest first.
        options: the settings of the run.
        model: name of the network, or of the file it came from.
        device: "cpu", "cuda:0", …
        stopped: why it ended: "iterations" (all done), "converged" (no visible change any more), "interrupted"
            (`Run.stop`), "diverged" (the loss was no longer finite; the image is the best before that), "time" (the
            time limit), or "memory" (there was no longer enough for a finer scale). With the last two the image may be
            upsampled from the last of `scales`.
        seconds: wall time of the run, including that before an interruption.
        peak_memory_bytes: of the process on a CPU (resident), of torch's allocations on a GPU.
        alpha: the content's opacity, Pillow mode L, or None.
        inputs: file names of content and styles, without folders; a list of them for a folder of styles.
        digest: SHA-256 of the input files together, if all inputs are files.
        content: the content image, at most `SHOWN` pixels, to be shown beside the output.
        checkpoint: the path of the run's checkpoint, written or not; None for a run without checkpoints.
    """

    tensor: Tensor
    losses: list[Losses]
    best: Losses
    best_iteration: int
    scales: list[tuple[int, int, int]]
    options: Options
    model: str
    device: str
    stopped: str
    seconds: float
    peak_memory_bytes: int
    alpha: Image.Image | None = None
    inputs: Sequence[str | list[str]] = ("image", "image")
    digest: str | None = None
    content: Image.Image | None = None
    checkpoint: Path | None = None

    @property
    def iterations(self) -> int:
        """The number of iterations done on all scales."""
        return sum(iterations for *_, iterations in self.scales)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.tensor.shape[3], self.tensor.shape[2]

    @property
    def image(self) -> Image.Image:
        """The output image for Pillow: mode RGB, or RGBA if the content has transparent parts."""
        image = to_pil(self.tensor)
        if self.alpha is not None:
            image.putalpha(self.alpha)
        return image

    def _repr_png_(self) -> bytes:
        """Return the output image for Jupyter, at most `SHOWN` pixels."""
        return _encode(self.image, "PNG")

    def _repr_html_(self) -> str | None:
        """Return content and output on the same spot for Jupyter; drag the border between them."""
        if self.content is None:
            return None
        width, height = fit_size(self.size, SHOWN)
        both = {"before": self.content.resize((width, height)), "after": self.image.convert("RGB")}
        data = {name: base64.b64encode(_encode(image, "JPEG")).decode() for name, image in both.items()}
        return _BOTH.format(width=width, **data)

    def settings(self) -> dict[str, Any]:
        """Return how the image was made, to embed in it for `again`; without folders, so that it can be shared."""
        settings = self.options.map_files(lambda name: Path(name).name).to_settings()
        content, *styles = self.inputs
        style = styles[0] if len(styles) == 1 and isinstance(styles[0], str) else styles
        if not self.options.weights:
            settings["model"] = self.model  # which "auto" selected
        outcome = {"iterations": self.iterations, "stopped": self.stopped, "loss": dataclasses.asdict(self.best)}
        origin = {"version": __version__, "content": content, "style": style, "inputs": self.digest}
        return {**settings, **origin, "result": outcome}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the image as PNG, JPEG, WebP or TIFF, by the extension, and return the path.

        The checkpoint of a run that was not interrupted is then removed.

        Raises:
            UsageError: unknown extension, or no such folder.
            StyleTransferError: the file cannot be written.
        """
        target = Path(path)
        check_output(target, self.options.bit_depth)
        depth, settings = self.options.bit_depth, self.settings()
        write_picture(self.tensor, target, alpha=self.alpha, bit_depth=depth, settings=settings)
        if self.checkpoint and self.stopped != "interrupted":
            self.checkpoint.unlink(missing_ok=True)
        return target


def _encode(image: Image.Image, file_format: str) -> bytes:
    """Return an image of at most `SHOWN` pixels as a file."""
    image.thumbnail((SHOWN, SHOWN))
    file = io.BytesIO()
    image.save(file, file_format, quality=92)
    return file.getvalue()
