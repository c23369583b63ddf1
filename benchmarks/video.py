"""Measure clips: flicker, drift, seconds per frame, memory.

    python benchmarks/video.py                          everything, about an hour
    python benchmarks/video.py --part flicker --seconds 1

Flicker is the warping error of Lai et al., *Learning Blind Video Temporal Consistency*, ECCV 2018: the mean squared
difference, values in 0…1, of each frame from the previous one, warped along the optical flow of the content where that
is reliable. Compared with each frame by itself, with the same settings, and with another program's clips.
"""

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from judge import Judge
from measuring import EXAMPLES, isolated, processor
from PIL import Image

from styletransfer import PRESETS, Options, stylize
from styletransfer.video.clips import survey, write_clip
from styletransfer.video.flow import Array, find_motion
from styletransfer.video.frames import read_frames

STYLE = EXAMPLES / "swirls.jpg"
SIZE = (480, 270)
#: Frames per second of the clips that `examples/draw_clips.py` draws.
RATE = 25
#: One in so many frames is judged.
JUDGED = 6
COMMAND = [sys.executable, "-m", "styletransfer", "video"]


def frames_of(path: Path) -> Iterator[Array]:
    return (np.asarray(image.rgb) for _, image in read_frames(path, 0, sys.maxsize))


def draw(name: str, folder: Path, size: tuple[int, int], count: int) -> Path:
    """Draw a clip of examples/draw_clips.py, lossless, in a folder for its size and length; return its path."""
    folder /= "{}x{}-{}".format(*size, count)
    options = ["--size", "{}x{}".format(*size), "--frames", str(count), "--ending", ".mkv"]
    command = [sys.executable, EXAMPLES / "draw_clips.py", folder, "--clips", name, *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / f"{name}.mkv"


def warping_error(clip: Path, painted: Path) -> float:
    """Return the warping error of an output clip, by the motion of its source."""
    errors = []
    pairs = itertools.pairwise(zip(frames_of(clip), frames_of(painted), strict=True))
    for (before, old), (now, new) in pairs:
        height, width = new.shape[:2]
        pair = [np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.LANCZOS)) for x in (before, now)]
        motion = find_motion(*pair)
        change = np.square((motion.move(old).astype(float) - new) / 255).mean(2)
        errors.append((motion.trust * change).sum() / motion.trust.sum())
    return float(np.mean(errors))


def style_of(clip: Path, painted: Path) -> tuple[float, float]:
    """Return the mean content and style distance of some frames."""
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        pairs = zip(frames_of(clip), frames_of(painted), strict=True)
        for source, output in itertools.islice(pairs, JUDGED - 1, None, JUDGED):
            content = Path(folder) / "frame.png"
            Image.fromarray(source).save(content)
            verdicts.append(Judge(content, STYLE, (output.shape[1], output.shape[0]))(Image.fromarray(output)))
    return statistics.mean(v.content for v in verdicts), statistics.mean(v.style for v in verdicts)


def one_by_one(clip: Path, target: Path, options: Options) -> None:
    """Write a clip with every frame stylized by itself."""
    source = survey(clip)

    def frames() -> Iterator[tuple[int, Image.Image]]:
        for number, image in read_frames(clip, 0, len(source.times)):
            yield source.times[number], stylize(image.rgb, STYLE, options).image

    write_clip(target, frames(), source.base, source.rate)


def flicker(folder: Path, seconds: float, arguments: list[str], other: list[str]) -> None:
    print(f"{'':28}{'warping error':>15}{'content':>10}{'style':>8}{'s a frame':>11}")
    for name in ("pan", "move", "zoom"):
        count = round(seconds * RATE)
        clip = draw(name, folder, SIZE, count)
        makers = {
            "ours": [*COMMAND, clip, STYLE, *arguments, "-q", "-o"],
        }
        if other:
            makers |= {"the other": [*other, clip, "-o"], "smoothed": [*other, clip, "--smooth", "0.5", "-o"]}
        outputs = {}
        for program, command in makers.items():
            target = folder / f"{name}-{program.replace(' ', '')}.{'mkv' if program == 'ours' else 'mp4'}"
            start = time.perf_counter()
            subprocess.run([*command, target], check=True, stdout=subprocess.DEVNULL)
            outputs[program] = target, (time.perf_counter() - start) / count
        target, start = folder / f"{name}-onebyone.mkv", time.perf_counter()
        isolated(one_by_one, clip, target, Options(**{**PRESETS["fast"], "size": max(SIZE)}))
        outputs["one by one"] = target, (time.perf_counter() - start) / count
        for program, (path, each) in outputs.items():
            error, (content, style) = warping_error(clip, path), isolated(style_of, clip, path)
            print(f"{name + ', ' + program:28}{error:15.6f}{content:10.3f}{style:8.3f}{each:11.2f}", flush=True)


def drift(folder: Path, frames: int, arguments: list[str]) -> None:
    """Print how far the mean of each channel drifts in a still clip."""
    clip, out = draw("still", folder, (240, 134), frames), folder / "still-ours.mkv"
    subprocess.run([*COMMAND, clip, STYLE, *arguments, "-q", "-o", out], check=True, stdout=subprocess.DEVNULL)
    means = np.array([frame.mean((0, 1)) for frame in frames_of(out)])
    drifts = np.abs(means - means[0]).max(0)
    print(f"{frames} frames that stand still: red, green, blue at most {np.round(drifts, 2)} of 255 from the first's")


def pace(folder: Path, arguments: list[str]) -> None:
    """Print the seconds until the first frame, of each other frame, and the share of the two flows that it needs."""
    for size in (SIZE, (960, 540)):
        times = list[float]()
        for count in (2, 8):
            clip, start = draw("pan", folder, size, count), time.perf_counter()
            rest = ["--size", str(size[0]), *arguments, "-q", "-o", folder / "out.mkv"]
            subprocess.run([*COMMAND, clip, STYLE, *rest], check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - start)
        before, now, *_ = frames_of(clip)
        start = time.perf_counter()
        find_motion(before, now)
        flow, each = 2 * (time.perf_counter() - start), (times[1] - times[0]) / 6
        first = f"{size[0]}×{size[1]}: {times[0] - each:.1f} s until the first frame"
        print(f"{first}, {each:.2f} s for each other, {flow / each:.0%} of it flow", flush=True)


def memory(folder: Path) -> None:
    """Print the peak resident memory of the command at 50 and at 500 frames."""
    for count in (50, 500):
        clip = draw("pan", folder, (160, 90), count)
        peak = isolated(_peak_of, [*COMMAND, clip, STYLE, "--iterations", "2", "-q", "-o", folder / "out.mkv"])
        print(f"{count} frames of 160×90: {peak / 1024:.0f} MiB", flush=True)


def _peak_of(command: list[str]) -> int:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("flicker", "drift", "pace", "memory"))
    parser.add_argument("--folder", type=Path, default=Path("out/video"))
    parser.add_argument("--seconds", type=float, default=1.0, help="of each clip")
    parser.add_argument("--frames", type=int, default=200, help="that stand still")
    parser.add_argument("--other", nargs="+", default=[], help="another program's command")
    args, arguments = parser.parse_known_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    print(processor())
    if args.part in (None, "flicker"):
        flicker(args.folder, args.seconds, arguments, args.other)
    if args.part in (None, "drift"):
        drift(args.folder, args.frames, arguments)
    if args.part in (None, "pace"):
        pace(args.folder, arguments)
    if args.part in (None, "memory"):
        memory(args.folder)


if __name__ == "__main__":
    main()
