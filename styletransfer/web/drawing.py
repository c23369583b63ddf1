"""HTML of a run that needs no other file: the image, the progress, and the loss curve."""

import base64
import html
import io
import math
from collections.abc import Sequence

from PIL import Image

from .watching import View

#: Longer side in pixels, and JPEG quality, of a preview.
PREVIEW, QUALITY = 900, 90
_WIDTH, _HEIGHT = 300, 80  # of the loss curve, in SVG units


def draw_view(view: View, losses: Sequence[float]) -> str:
    """Return the image with its caption, and the curve of the losses so far."""
    width, height = view.size
    if view.path:
        state = f"Done after {view.iteration} iterations"
    else:
        left = view.seconds_left
        state = f"Iteration {view.iteration} of {view.iterations}"
        state += f", about {left:.0f} s left" if left is not None else ""
    caption = f"{state} · {width}×{height} px · loss {view.loss:.3g} · {view.seconds:.0f} s"
    image = f'<img src="{_to_data_url(view.image)}" alt="Output image. {html.escape(state)}">'
    return f'<figure class="view">{image}<figcaption>{html.escape(caption)}</figcaption>{draw_curve(losses)}</figure>'


def draw_error(message: str) -> str:
    """Return an error message as one line."""
    return f'<p role="alert" class="error">{html.escape(message)}</p>'


def draw_notice(message: str) -> str:
    """Return a status message as one line."""
    return f'<p role="status">{html.escape(message)}</p>'


def draw_curve(losses: Sequence[float]) -> str:
    """Return an SVG curve of losses, in order, on a logarithmic scale; "" for fewer than two."""
    logs = [math.log(loss) for loss in losses if 0 < loss < math.inf]
    if len(logs) < 2:
        return ""
    low, range_ = min(logs), max(max(logs) - min(logs), 1e-9)
    points = " ".join(
        f"{i * _WIDTH / (len(logs) - 1):.1f},{(1 - (value - low) / range_) * _HEIGHT:.1f}"
        for i, value in enumerate(logs)
    )
    title = f"Loss from {math.exp(logs[0]):.3g} to {math.exp(logs[-1]):.3g}"
    line = f'<polyline points="{points}" fill="none" stroke="currentColor" vector-effect="non-scaling-stroke"/>'
    box = f'viewBox="-2 -2 {_WIDTH + 4} {_HEIGHT + 4}" preserveAspectRatio="none"'
    return f'<svg role="img" aria-label="{title}" {box}><title>{title}</title>{line}</svg>'


def _to_data_url(image: Image.Image) -> str:
    if max(image.size) > PREVIEW:
        image = image.copy()
        image.thumbnail((PREVIEW, PREVIEW), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
