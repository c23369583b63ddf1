"""The HTML page of a batch, in one file: thumbnails, settings and links."""

import base64
import html
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from ..errors import StyleTransferError, plural
from ..files import write_atomically
from ..images import fit_size, read_picture
from ..options import Options
from .jobs import Job

#: Longer side of a thumbnail in pixels.
THUMBNAIL = 320

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2em; background: #fafafa; color: #222 }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax({width}px, 1fr)); gap: 1.5em }}
figure {{ margin: 0; background: #fff; padding: .6em; border: 1px solid #ddd; border-radius: 4px }}
img {{ max-width: 100%; display: block; margin: 0 auto .5em }}
figcaption {{ overflow-wrap: anywhere }}
small, .failed {{ color: #666 }} .failed {{ color: #b00020 }}
</style></head><body>
<h1>{title}</h1><p>{summary}</p>
<main>
{figures}
</main></body></html>
"""


def write_gallery(jobs: Sequence[Job], rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write the page of these jobs and their rows of the report, by output.

    Links are relative to the page. Raises `StyleTransferError` if it cannot be written.
    """
    figures = "\n".join(_render_figure(job, rows.get(job.output, {}), path) for job in jobs)
    counts: dict[str, int] = {}
    for job in jobs:
        status = str(rows.get(job.output, {}).get("status", "not begun"))
        counts[status] = counts.get(status, 0) + 1
    summary = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    page = _PAGE.format(title=plural(len(jobs), "image"), summary=summary, figures=figures, width=THUMBNAIL)
    write_atomically(path, page.encode("utf-8", "surrogateescape"))


def _render_figure(job: Job, row: Mapping[str, Any], page: Path) -> str:
    name, error = html.escape(Path(job.output).name), row.get("error")
    inputs = f"{Path(job.content).name} × {', '.join(Path(style).name for style in job.style)}"
    changed = {k: v for k, v in job.options.to_settings().items() if v != getattr(Options(), k)}
    settings = html.escape(" ".join(f"{k}={json.dumps(v)}" for k, v in changed.items()))
    body = f'<p class="failed">{html.escape(str(error or row.get("status", "not begun")))}</p>'
    is_current = row.get("status") in ("done", "skipped") or "seconds" in row  # else the file may have other settings
    if is_current and (thumbnail := _make_thumbnail(Path(job.output))):
        link = html.escape(quote(os.fsencode(os.path.relpath(job.output, page.parent))))
        image = f'<a href="{link}"><img src="data:image/jpeg;base64,{thumbnail}" alt="{name}"></a>'
        body = image + body if error else image
    outcome = f"{row['seconds']} s, {row['iterations']} iterations" if "seconds" in row else str(row.get("status", ""))
    small = "<br>".join(filter(None, (html.escape(inputs), settings, html.escape(outcome))))
    return f"<figure>{body}<figcaption>{name}<br><small>{small}</small></figcaption></figure>"


def _make_thumbnail(path: Path) -> str:
    """Return a small JPEG in base64; "" if the image cannot be read."""
    try:
        image = read_picture(path).rgb
    except StyleTransferError:
        return ""
    file = io.BytesIO()
    small = image.resize(fit_size(image.size, THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=2.0)
    small.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()
