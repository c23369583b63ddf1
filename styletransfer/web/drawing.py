"""What the page shows of a run, as HTML that needs no file: the picture, how far it is, and the curve of its loss."""

import base64
import html
import io
import math
from collections.abc import Sequence

from PIL import Image

from .watching import View

#: Longer side in pixels, and JPEG's quality, of a picture that is shown while it changes.
PREVIEW, QUALITY = 900, 90
_WIDTH, _HEIGHT = 300, 80  # of the curve, in its own units


def draw_view(view: View, losses: Sequence[float]) -> str:
    """The picture with what is known of it, and the loss of every view so far."""
    width, height = view.size
    if view.path:
        state = f"Done after {view.iteration} iterations"
    else:
        left = view.seconds_left
        state = f"Iteration {view.iteration} of {view.iterations}"
        state += f", about {left:.0f} s left" if left is not None else ""
    told = f"{state} · {width}×{height} px · loss {view.loss:.3g} · {view.seconds:.0f} s"
    picture = f'<img src="{_data_url(view.image)}" alt="The picture. {html.escape(state)}">'
    return f'<figure class="view">{picture}<figcaption>{html.escape(told)}</figcaption>{draw_curve(losses)}</figure>'


def draw_error(message: str) -> str:
    """One line that says what was wrong."""
    return f'<p role="alert" class="error">{html.escape(message)}</p>'


def draw_notice(message: str) -> str:
    """One line that says what is going on."""
    return f'<p role="status">{html.escape(message)}</p>'


def draw_curve(losses: Sequence[float]) -> str:
    """An SVG of losses, on a logarithmic scale, in order; empty of fewer than two."""
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


def _data_url(image: Image.Image) -> str:
    if max(image.size) > PREVIEW:
        image = image.copy()
        image.thumbnail((PREVIEW, PREVIEW), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
