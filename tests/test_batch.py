"""Batches: manifests, errors reported before any job, workers that die, and resuming after a kill."""

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE, TINY, wait_until
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_cli import COMMAND, here, run

from styletransfer import Options, UsageError, images, stylize
from styletransfer.batch import cluster, gallery, jobs, manifest, workers
from styletransfer.batch.jobs import Job
from styletransfer.batch.report import run_jobs
from styletransfer.transfer import checkpoint_path

__all__ = ["here"]
QUICK = f"--jobs 1 --iterations 3 --weights {TINY} --device cpu --size 64"
OPTIONS = Options(iterations=3, weights=str(TINY), device="cpu", size=64)


@pytest.fixture
def albums(here: Path, content_path: Path, style_path: Path) -> Path:
    """Return the current folder, with three images in photos/ and two in paintings/."""
    rng = np.random.default_rng(3)
    for folder, source, names in (("photos", content_path, "abc"), ("paintings", style_path, "xy")):
        (here / folder).mkdir()
        for name in names:
            values = np.asarray(Image.open(source).convert("RGB")).astype(int)
            noisy = (values + rng.integers(-9, 10, values.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(here / folder / f"{name}.png")
    (here / "photos/notes.txt").write_text("not a picture")
    return here


def read_report(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()]


def test_batch_of_all_combinations_matches_single_runs(albums: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"batch photos --styles paintings -o out --gallery -q {QUICK} --jobs 2"
    code, out, err = run(*shlex.split(command), capsys=capsys)
    assert (code, err) == (0, "")
    outputs = [f"out/{content}_{style}.png" for content in "abc" for style in "xy"]
    assert sorted(out.split()) == outputs
    assert sorted(map(str, Path("out").iterdir())) == sorted([*outputs, "out/gallery.html", "out/report.jsonl"])
    assert {row["status"] for row in read_report(Path("out"))} == {"done"}
    for content, style in (("a", "x"), ("c", "y")):
        alone = stylize(f"photos/{content}.png", f"paintings/{style}.png", OPTIONS)
        difference = np.asarray(alone.image).astype(int) - np.asarray(Image.open(f"out/{content}_{style}.png"))
        assert abs(difference).max() <= 1  # other threads round differently

    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("*.png")}
    code, out, err = run(*shlex.split(command), capsys=capsys)
    assert (code, out, err) == (0, "", "")
    assert before == {path: path.stat().st_mtime_ns for path in Path("out").glob("*.png")}
    assert all(row["status"] == "skipped" and row["loss"] for row in read_report(Path("out")))
    Path("photos/b.png").write_bytes(Path("photos/c.png").read_bytes())
    code, out, err = run(*shlex.split(command), capsys=capsys)
    assert (code, sorted(out.split()), err) == (0, ["out/b_x.png", "out/b_y.png"], "")


def test_job_is_unfinished_after_its_inputs_or_options_change(albums: Path) -> None:
    (job,) = make_jobs(albums, 1)
    assert jobs.make_picture(job)["status"] == "done" and jobs.is_finished(job)
    for options in ({"beta": 50.0}, {"iterations": 4}, {"keep": "photos/b.png"}, {"content_mask": "photos/b.png"}):
        assert not jobs.is_finished(dataclasses.replace(job, options=dataclasses.replace(job.options, **options)))
    assert not jobs.is_finished(dataclasses.replace(job, style=("paintings/y.png",)))
    assert not jobs.is_finished(dataclasses.replace(job, content="photos/b.png"))
    status = os.stat(job.content)
    shutil.copy("photos/c.png", job.content)  # other content, same modification time
    os.utime(job.content, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not jobs.is_finished(job)


def test_job_finished_before_an_option_existed_is_finished(albums: Path) -> None:
    (job,) = make_jobs(albums, 1)
    jobs.make_picture(job)
    output = Image.open(job.output)
    settings = json.loads(output.text["styletransfer"])
    assert settings.pop("faces") == 1
    info = PngInfo()
    info.add_text("styletransfer", json.dumps(settings))
    output.save(job.output, pnginfo=info)
    assert jobs.is_finished(job)
    assert not jobs.is_finished(dataclasses.replace(job, options=dataclasses.replace(job.options, faces=2.0)))


@pytest.mark.parametrize("stopped", ["interrupted", "diverged", "memory"])
def test_job_is_unfinished_if_its_run_stopped_early(albums: Path, stopped: str) -> None:
    (job,) = make_jobs(albums, 1)
    result = stylize(job.content, job.style[0], job.options)
    result.save(job.output)
    assert jobs.is_finished(job)
    dataclasses.replace(result, stopped=stopped).save(job.output)
    assert not jobs.is_finished(job)


def test_checkpoint_survives_unrelated_errors(albums: Path) -> None:
    (job,) = make_jobs(albums, 1, iterations=50)
    assert jobs.make_picture(job, stop=lambda: True)["status"] == "stopped"
    state = checkpoint_path(Path(job.output))
    before = state.read_bytes()
    Path("paintings/x.png").rename("x.png")
    assert jobs.make_picture(job)["status"] == "failed" and state.read_bytes() == before
    Path("x.png").rename("paintings/x.png")
    row = jobs.make_picture(job)
    assert (row["status"], row["iterations"], state.exists()) == ("done", 50, False)


def test_pairs_glob_patterns_and_output_names(albums: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "batch 'photos/[ab].png' --styles paintings/x.png paintings/y.png --pairs -o out -q --tv 2"
    command += " --name '{number:02}-{content}-{style}-{tv}.jpg'"
    code, out, err = run(*shlex.split(f"{command} {QUICK}"), capsys=capsys)
    assert (code, sorted(out.split()), err) == (0, ["out/01-a-x-2.0.jpg", "out/02-b-y-2.0.jpg"], "")


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("ph[1]", ["ph[1]/a.png"]),
        ("ph[1]/*.png", ["ph[1]/a.png"]),
        ("ph[1]/a.png", ["ph[1]/a.png"]),
        ("ph[1]/[x]/*.png", ["ph[1]/[x]/c.png"]),
        ("ph[1]/*/c.png", ["ph[1]/[x]/c.png"]),
        ("./ph[1]/[ab].png", ["ph[1]/a.png"]),
        ("p*/?.png", ["ph[1]/a.png", "ph1/b.png"]),
        ("ph[12]/*.png", ["ph1/b.png"]),
        ("{here}/ph[1]/*.png", ["{here}/ph[1]/a.png"]),
        ("{here}/ph[12]/*.png", ["{here}/ph1/b.png"]),
    ],
)
def test_brackets_in_existing_folder_names_are_literal(here: Path, pattern: str, matches: list[str]) -> None:
    """Where both exist, ph[1] is the literal folder; only other patterns, such as ph[12], match ph1."""
    for name in ("ph[1]/a.png", "ph1/b.png", "ph[1]/[x]/c.png"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(here / name)
    Image.new("RGB", (8, 8)).save("style.png")
    contents, styles = [Path(pattern.format(here=here))], [Path("style.png")]
    jobs = manifest.combine(contents, styles, OPTIONS, here, "{number}.png", pairs=False)
    assert sorted(job.content for job in jobs) == sorted(match.format(here=here) for match in matches)


@pytest.mark.parametrize("pattern", ["in", "in/*.png", "in/a?*.png"])
def test_file_names_are_sorted_numerically(here: Path, pattern: str) -> None:
    (here / "in").mkdir()
    for number in (1, 2, 10, 11, 20, 100):
        Image.new("RGB", (8, 8)).save(here / f"in/a{number}.png")
    Image.new("RGB", (8, 8)).save("style.png")
    jobs = manifest.combine([Path(pattern)], [Path("style.png")], OPTIONS, here, "{number}.png", pairs=False)
    assert [job.content for job in jobs] == [f"in/a{number}.png" for number in (1, 2, 10, 11, 20, 100)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("photos", "--styles"),
        ("", "--styles"),
        ("photos --styles paintings --manifest jobs.csv", "already names contents and styles"),
        ("photos --styles nowhere.png", "nowhere.png: no such file"),
        ("'photos/*.tiff' --styles paintings", "photos/*.tiff: no file matches"),
        ("photos/A.jpg --styles paintings", "photos/A.jpg: no such file; did you mean photos/a.png?"),
        ("photos --styles paintings --pairs", "there are 2 and 3"),
        (
            "photos --styles paintings --name out.png",
            "out/out.png is also the output of photos/a.png with paintings/x.png",
        ),
        ("photos --styles paintings --name {nothing}.png", "nothing"),
        ("photos --styles paintings --name {content", "is invalid"),
        ("photos --styles paintings --name {content}_{style}", "must end in"),
        ("photos/a.png --styles paintings -o photos --name a.png", "would be lost"),
        ("photos --styles paintings --beta -1", "beta"),
        ("photos --styles paintings -o photos/a.png", "cannot create folder"),
        ("--manifest nowhere.csv", "nowhere.csv"),
        ("photos --styles paintings -o photos", "as inputs too"),
        ("'photos/*.png' --styles paintings -o photos", "as inputs too"),
        ("photos --styles paintings --keep nowhere.png", "nowhere.png: no such file"),
        (f"photos --styles {'x' * 5000}", "no such file"),
    ],
)
def test_invalid_arguments_are_reported_before_any_job(
    albums: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    words = shlex.split(arguments)
    code, out, err = run("batch", *(["-o", "out"] if "-o" not in words else []), *words, capsys=capsys)
    assert (code, out) == (2, "") and message in err
    assert not list(Path().glob("out/*"))


def test_csv_and_jsonl_manifests(albums: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (8, 8), 255).save("photos/white.png")
    Path("photos/jobs.csv").write_text(
        "content,style,output,beta,style-layer,enlarge,init\n"
        "a.png,../paintings/x.png,first.png,50,conv1_1;conv2_1=2,yes,\n"
        "b.png,../paintings/x.png;../paintings/y.png,,,,,../paintings/x.png\n\n"
    )
    code, out, err = run(*shlex.split(f"batch --manifest photos/jobs.csv -o out -q {QUICK}"), capsys=capsys)
    assert (code, sorted(out.split()), err) == (0, ["out/b_x_y.png", "out/first.png"], "")
    first, second = (images.read_settings(Path(name)) for name in ("out/first.png", "out/b_x_y.png"))
    assert (first["beta"], first["style_layers"], first["enlarge"]) == (50, ["conv1_1", "conv2_1=2"], True)
    assert (second["beta"], second["style"], second["init"]) == (10, ["x.png", "y.png"], "x.png")
    job = {"content": "a.png", "style": "../paintings/x.png", "mask": [["white.png", "-"]], "keep": "white.png"}
    Path("photos/jobs.jsonl").write_text(json.dumps(job) + "\n")
    code, out, err = run(*shlex.split(f"batch --manifest photos/jobs.jsonl -o out -q {QUICK}"), capsys=capsys)
    assert (code, out, err) == (0, "out/a_x.png\n", "")
    assert images.read_settings(Path("out/a_x.png"))["mask"] == [["white.png", "-"]]


def test_all_manifest_errors_are_reported_before_any_job(albums: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = "photos/a.png,paintings/x.png"
    table = [
        ("content,style,output,size,beta,pooling,iterations,enlarge,style_layers,learning_rate,tint,mask", ""),
        (f"{good},1.png", ""),
        (",paintings/x.png,2.png", "content: missing"),
        ("photos/a.png,,3.png", "style: missing"),
        ("photos/no.png,paintings/x.png,4.png", "photos/no.png: no such file"),
        ("photos/a.png,paintings/no.png,5.png", "paintings/no.png: no such file"),
        ("photos/a.png,paintings,6.png", "paintings: no such file"),
        ("photos/a.png;photos/b.png,paintings/x.png,7.png", "only one"),
        (f"{good},1.png", "1.png is also the output of"),
        (f"{good},9.bmp", "must end in"),
        (f"{good},no/10.png", "does not exist"),
        (f"{good},../photos/a.png", "would be lost"),
        (f"{good},12.png,large", "size: size is 'large'; it must be a whole number"),
        (f"{good},13.png,0", "size"),
        (f"{good},14.png,12.5", "size is '12.5'; it must be a whole number"),
        (f"{good},15.png,,-1", "beta"),
        (f"{good},16.png,,nan", "beta"),
        (f"{good},17.png,,,median", "pooling"),
        (f"{good},18.png,,,,-3", "iterations"),
        (f"{good},19.png,,,,,perhaps", "enlarge is 'perhaps'; it must be true or false"),
        (f"{good},20.png,,,,,,conv9_1", "conv9_1"),
        (f"{good},21.png,,,,,,,0.1", "learning_rate"),
        (f"{good},22.png,,,,,,,,blue", "tint: no such option"),
        (f"{good},23.png,,,,,,,,,a.png -", "it must be pairs of files"),
        (f"{good},24.png,,,,,,,,,,,,,", "cells, but 12 columns"),
    ]
    Path("jobs.csv").write_text("".join(line + "\n" for line, _ in table))
    code, out, err = run("batch", "--manifest", "jobs.csv", "-o", "out", "-q", capsys=capsys)
    lines = err.splitlines()
    assert (code, out) == (2, "")
    assert not list(Path("out").iterdir())
    errors = [(number, message) for number, (_, message) in enumerate(table, 1) if message]
    assert len(lines) == len(errors) + 1 and f"{len(errors)} errors; nothing was started" in lines[-1]
    for number, message in errors:
        (line,) = [line for line in lines if f"jobs.csv, row {number}," in line or f"row {number}:" in line]
        assert message in line

    texts = {"twice.csv": "content,style,style\n", "empty.csv": "content,style\n", "none.jsonl": "", "jobs.txt": "a"}
    for name, text in texts.items():
        Path(name).write_text(text)
        code, out, err = run("batch", "--manifest", name, "-o", "out", capsys=capsys)
        assert (code, out) == (2, "") and name in err
    Path("latin.csv").write_bytes(b"content,style\n\xe9.png,x.png\n")
    assert "UTF-8" in run("batch", "--manifest", "latin.csv", "-o", "out", capsys=capsys)[2]
    Path("bad.jsonl").write_text(
        '{"content": 5, "style": []}\n[1]\n{broken\n{"content": "photos/a.png", "style": ["x"]}\n'
        '{"content": "photos/a.png", "style": "paintings/x.png", "mask": [5]}\n'
        '{"content": "photos/a.png", "style": "paintings/x.png", "output": "a\\u0000.png"}\n'
    )
    code, out, err = run("batch", "--manifest", "bad.jsonl", "-o", "out", capsys=capsys)
    assert (code, out) == (2, "") and all(f"row {n}" in err for n in (1, 2, 3, 4, 5))
    Path("nul.jsonl").write_text('{"content": "photos/a.png", "style": "paintings/x.png", "output": "a\\u0000.png"}\n')
    code, out, err = run("batch", "--manifest", "nul.jsonl", "-o", "out", capsys=capsys)
    assert (code, out) == (2, "") and "row 1" in err
    Path("open.csv").write_text('content,style\n"' + "x" * 200_000)
    code, out, err = run("batch", "--manifest", "open.csv", "-o", "out", capsys=capsys)
    assert (code, out) == (2, "") and "open.csv: cannot read file" in err


def test_broken_images_are_reported_and_the_others_stylized(
    albums: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("photos/bad.png").write_bytes(b"no picture")
    Path("photos/cut.png").write_bytes(Path("photos/a.png").read_bytes()[:900])
    command = shlex.split(f"batch photos --styles paintings/x.png -o out -q {QUICK}")
    code, out, err = run(*command, capsys=capsys)
    assert (code, sorted(out.split())) == (1, [f"out/{name}_x.png" for name in "abc"])
    assert err.count("\n") == 3 and "out/bad_x.png: photos/bad.png: not an image" in err and "2 of 5" in err
    assert [row["status"] for row in read_report(Path("out"))].count("failed") == 2
    with monkeypatch.context() as patch:  # starting a worker would fail
        patch.setattr(sys, "executable", str(albums / "no-python"))
        code, out, again = run(*command, capsys=capsys)
    assert (code, out) == (1, "") and sorted(again.splitlines()) == sorted(err.splitlines())
    shutil.copy("photos/a.png", "photos/bad.png")  # repaired
    code, out, err = run(*command, capsys=capsys)
    assert (code, out) == (1, "out/bad_x.png\n")
    monkeypatch.setattr(sys, "executable", str(albums / "no-python"))
    assert "no-python" in run(*command, "--retry-failed", capsys=capsys)[2]


def make_jobs(folder: Path, count: int, **options: object) -> list[Job]:
    settings = Options(**{"iterations": 3, "weights": str(TINY), "device": "cpu", "size": 64, **options})  # type: ignore[arg-type]
    return [Job("photos/a.png", ("paintings/x.png",), settings, str(folder / f"{n}.png"), str(n)) for n in range(count)]


def test_report_keeps_the_rows_of_jobs_that_were_not_retried(albums: Path) -> None:
    """As when a batch is interrupted before it comes to them."""
    first, second = make_jobs(albums, 2)
    path = albums / "report.jsonl"
    path.write_text("".join(json.dumps(job.row("failed", error="no reason")) + "\n" for job in (first, second)))
    ended = list(run_jobs([first, second], lambda todo: iter([(todo[0], first.row("done"))]), path, again=True))
    assert [job for job, _ in ended] == [first]
    rows = {row["output"]: row["status"] for row in map(json.loads, path.read_text().splitlines())}
    assert rows == {first.output: "done", second.output: "failed"}


def child_pids(pid: int) -> list[int]:
    return [int(p) for task in Path(f"/proc/{pid}/task").iterdir() for p in (task / "children").read_text().split()]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_killed_worker_is_replaced_and_no_image_is_lost(albums: Path, signal_number: int) -> None:
    queue = make_jobs(albums, 2, iterations=40, checkpoint_every="0")
    killed: list[int] = []

    def send() -> None:
        wait_until(checkpoint_path(Path(queue[0].output)).exists)
        for child in child_pids(os.getpid()):
            if b"styletransfer.batch" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, signal_number)
                killed.append(child)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    statuses = {job.where: row["status"] for job, row in workers.run_locally(queue, 1, lambda: False)}
    assert statuses == {"0": "done", "1": "done"} and len(killed) == 1
    assert all(Path(job.output).exists() for job in queue)


def test_worker_that_cannot_start_is_reported(albums: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(albums / "no-python"))
    report = [row for _, row in workers.run_locally(make_jobs(albums, 2), 2, lambda: False)]
    assert [row["status"] for row in report] == ["failed", "failed"]
    assert "no-python" in str(report[0]["error"])


@pytest.fixture
def poison(albums: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an image that kills any Python process started from now on that opens it."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(albums), *os.environ.get("PYTHONPATH", "").split(":")]))
    # Python imports it at startup.
    (albums / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def watch(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('poison.png'):\n"
        "        os.kill(os.getpid(), 9)\n"
        "sys.addaudithook(watch)\n"
    )
    return Path(shutil.copy("photos/a.png", "photos/poison.png"))


def test_job_that_always_kills_its_worker_fails(poison: Path, albums: Path) -> None:
    good, bad = make_jobs(albums, 2)
    bad = Job(str(poison), bad.style, bad.options, bad.output, "bad")
    report = {job.where: row for job, row in workers.run_locally([bad, good], 1, lambda: False)}
    assert report["bad"]["status"] == "failed" and "died 3 times (SIGKILL)" in str(report["bad"]["error"])
    assert report["0"]["status"] == "done"


def test_batch_resumes_after_all_its_processes_are_killed(albums: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = shlex.split("batch photos --styles paintings -o out -q --jobs 2")
    command += shlex.split(f"--iterations 40 --weights {TINY} --device cpu --size 64")
    process = subprocess.Popen([*COMMAND, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    first = process.stdout.readline().strip()
    pids = child_pids(process.pid)
    process.kill()
    process.wait()
    assert len(pids) == 2 and Path(first).is_file()
    wait_until(lambda: not any(is_alive(pid) for pid in pids))
    before = {str(path): path.stat().st_mtime_ns for path in Path("out").glob("*.png")}
    code, out, err = run(*command, "--jobs", "1", capsys=capsys)
    assert (code, err) == (0, "")
    assert sorted([*before, *out.split()]) == [f"out/{c}_{s}.png" for c in "abc" for s in "xy"]
    assert all(Path(path).stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert sorted(p.suffix for p in Path("out").iterdir()) == [".jsonl"] + [".png"] * 6


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_ctrl_c_ends_a_batch_cleanly(albums: Path) -> None:
    command = [*COMMAND, "batch", "photos", "--styles", "paintings", "-o", "out", "--jobs", "1"]
    command += shlex.split(f"--iterations 60 --weights {TINY} --device cpu --size 64 --preset fast --tv 3")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "left; run the same command to continue" in err and "Traceback" not in err


def test_gallery_is_one_self_contained_page(albums: Path) -> None:
    jobs = make_jobs(albums / "out", 2, beta=50.0)
    Path("out").mkdir()
    shutil.copy("photos/a.png", jobs[0].output)
    failed = {"status": "failed", "error": "<script>alert(1)</script>"}
    gallery.write_gallery(jobs, {jobs[0].output: {"status": "done"}, jobs[1].output: failed}, Path("out/gallery.html"))
    page = Path("out/gallery.html").read_text()
    assert 'href="0.png"' in page and "data:image/jpeg;base64," in page and "beta=50.0" in page
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "http" not in page.replace('http-equiv="', "")
    non_unicode = dataclasses.replace(jobs[0], output="out/caf\udce9.png")
    shutil.copy("photos/a.png", non_unicode.output)
    gallery.write_gallery([non_unicode], {non_unicode.output: {"status": "done"}}, Path("out/gallery.html"))
    assert b'href="caf%E9.png"' in Path("out/gallery.html").read_bytes()
    gallery.write_gallery([non_unicode], {}, Path("out/gallery.html"))  # not in the report: of another batch
    assert b"data:image" not in Path("out/gallery.html").read_bytes()


@pytest.fixture(name="dask")
def start_dask(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list["subprocess.Popen[bytes]"]]]:
    """Start a scheduler and the nannies of two workers; yield the scheduler's address and both processes."""
    pytest.importorskip("distributed", reason="needs the extra 'cluster'")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in the workers
    settings = {"WORKER_TTL": "10s", "ALLOWED_FAILURES": "2"}
    environment = {**os.environ, **{f"DASK_DISTRIBUTED__SCHEDULER__{name}": value for name, value in settings.items()}}
    file = here / "scheduler.json"

    def start(role: str, *options: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "dask", role, "--scheduler-file", str(file), "--host", "127.0.0.1"]
        output: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        return subprocess.Popen([*command, "--no-dashboard", *options], env=environment, **output)

    processes = [start("scheduler", "--port", "0")]
    processes += [start("worker", "--nworkers", "2", "--nthreads", "1", "--local-directory", str(here / "scratch"))]
    wait_until(lambda: file.exists() and file.read_text())
    try:
        yield json.loads(file.read_text())["address"], processes
    finally:
        for process in reversed(processes):  # including the workers
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_cluster_gives_the_same_images_after_a_worker_dies_and_fails_without_scheduler(
    dask: tuple[str, list["subprocess.Popen[bytes]"]], albums: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, processes = dask
    command = shlex.split(f"batch photos --styles paintings/x.png -q --iterations 30 --weights {TINY} --size 64")
    command += ["--device", "cpu"]
    Path("here").mkdir()
    options = Options(iterations=30, weights=str(TINY), device="cpu", size=64)
    queue = manifest.combine([Path("photos")], [Path("paintings/x.png")], options, Path("here"), pairs=False)
    assert [jobs.make_picture(job)["status"] for job in queue] == ["done"] * 3
    process = subprocess.Popen(
        [*COMMAND, *command, "-o", "there", "--scheduler", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.readline()
    one, _ = [pid for pid in child_pids(processes[1].pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(one, signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    code, _, err = run(*command, "-o", "sent", "--scheduler", address, "--send-files", capsys=capsys)
    assert (code, err) == (0, "")
    for path in Path("here").glob("*.png"):
        for other in ("there", "sent"):
            assert (Path(other) / path.name).read_bytes() == path.read_bytes()

    # A lost scheduler is an error, and the finished images are in the report.
    command = [*COMMAND, "batch", "photos", "--styles", "paintings", "-q", "-o", "out", "--scheduler", address]
    command += shlex.split(f"--iterations 60 --weights {TINY} --device cpu --size 64")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    processes[0].kill()
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "Traceback" not in err
    assert err.splitlines()[-1].startswith(f"styletransfer: the Dask scheduler at {address} is gone")
    assert {row["status"] for row in read_report(Path("out"))} == {"done"}


@pytest.mark.slow
def test_job_that_always_kills_its_dask_worker_fails(
    poison: Path, dask: tuple[str, list["subprocess.Popen[bytes]"]], capsys: pytest.CaptureFixture[str]
) -> None:
    address, _ = dask
    command = ("batch", "photos", "--styles", "paintings/x.png", "-o", "out", "-q", "--scheduler", address)
    code, out, err = run(*command, *shlex.split(QUICK), capsys=capsys)
    assert (code, sorted(out.split())) == (1, [f"out/{name}_x.png" for name in "abc"])
    failed = [line for line in err.splitlines() if "out/poison_x.png: " in line]
    assert len(failed) == 1 and "KilledWorker" in failed[0]
    statuses = {str(row["output"]): row["status"] for row in read_report(Path("out"))}
    assert statuses == {**{f"out/{name}_x.png": "done" for name in "abc"}, "out/poison_x.png": "failed"}


def test_unreachable_scheduler_is_reported_in_one_line(
    albums: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed", reason="needs the extra 'cluster'")
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    command = ["batch", "photos", "--styles", "paintings", "-o", "out", "-q", "--scheduler"]
    code, out, err = run(*command, "tcp://127.0.0.1:9", capsys=capsys)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("styletransfer: cannot connect to the Dask scheduler at tcp://127.0.0.1:9")
    code, out, err = run(*command, "tls://127.0.0.1:9", capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1) and "TLS__CA_FILE" in err


def test_pairs_of_different_counts_are_rejected(albums: Path) -> None:
    with pytest.raises(UsageError, match="there are 2 and 3"):
        manifest.combine([Path("photos")], [Path("paintings")], OPTIONS, Path(), pairs=True)
