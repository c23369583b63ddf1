"""A model that is loaded once, compared with loading it for each image."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY

from styletransfer import Options, UsageError, load_model, stylize
from styletransfer.runtime import hardware
from styletransfer.transfer import keep_model

SMALL = Options(iterations=8, weights=str(TINY))


def test_reused_model_gives_the_same_images_as_a_fresh_one(content_path: Path, style_path: Path) -> None:
    """Successive runs leave their state in the model: precision, layers, transformed kernels."""
    model = load_model("vgg19-lite")
    changes: list[dict[str, object]] = [
        *({"size": 128, "enlarge": True, "precision": "fp32"}, {"precision": "bf16"}, {"pooling": "max"}),
        *({"content_layers": ("conv2_2",)}, {"size": 128, "enlarge": True, "precision": "fp32"}),
    ]
    for change in changes:
        reused = model.stylize(content_path, style_path, iterations=3, **change)
        fresh = stylize(content_path, style_path, Options(model="vgg19-lite", iterations=3), **change)
        assert torch.equal(reused.tensor, fresh.tensor) and reused.losses == fresh.losses
        assert reused.settings() == fresh.settings()


def test_interleaved_runs_of_a_model_are_independent(content_path: Path, style_path: Path) -> None:
    model = load_model(weights=str(TINY))
    options = [{"precision": "bf16", "pooling": "max"}, {"precision": "fp32", "scales": "2"}]
    with (
        model.start(content_path, style_path, iterations=8, **options[0]) as first,
        model.start(content_path, style_path, iterations=8, **options[1]) as second,
    ):
        steps = [iter(first), iter(second)]
        while [step for step in steps if next(step, None)]:
            pass
        results = first.result(), second.result()
    for change, result in zip(options, results, strict=True):
        assert torch.equal(stylize(content_path, style_path, SMALL, **change).tensor, result.tensor)


def test_state_resumes_only_in_a_model_of_the_same_weights(content_path: Path, style_path: Path) -> None:
    uninterrupted = stylize(content_path, style_path, SMALL)
    with load_model(weights=str(TINY)).start(content_path, style_path, iterations=8) as run:
        for step in run:
            if step.iteration == 5:
                break
    state = run.state_dict()
    with load_model(weights=str(TINY)).start(content_path, style_path, iterations=8, state=state) as run:
        assert [step.iteration for step in run] == [6, 7, 8]
    assert torch.equal(run.result().tensor, uninterrupted.tensor)
    with (
        pytest.raises(UsageError, match=r"weights was [0-9a-f]{12}… and is now"),
        load_model("vgg19-lite").start(content_path, style_path, iterations=8, state=state),
    ):
        pass


def test_runtime_settings_are_restored_after_a_run(content_path: Path, style_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(hardware.available_cpus() + 3)
    try:
        with load_model(weights=str(TINY)).start(content_path, style_path) as run:
            for _ in run:
                assert torch.get_num_threads() == hardware.available_cpus()
                break
        assert torch.get_num_threads() == hardware.available_cpus() + 3
    finally:
        torch.set_num_threads(threads)


def test_options_that_name_another_model_are_refused(content_path: Path, style_path: Path) -> None:
    model = load_model("vgg19-lite", device="cpu")
    for change in ({"model": "vgg19"}, {"weights": str(TINY)}, {"device": "cuda"}, {"preprocessing": "caffe"}):
        (name,) = change
        with pytest.raises(UsageError, match=f"{name} is .*, but the model was loaded with"):
            model.stylize(content_path, style_path, **change)
    assert model.complete(Options()) == Options(model="vgg19-lite", device="cpu")


def test_last_model_is_cached_until_its_file_changes(tmp_path: Path) -> None:
    path = Path(shutil.copy(TINY, tmp_path / "own.safetensors"))
    options = Options(weights=str(path))
    model = keep_model(options)
    assert keep_model(dataclasses.replace(options, beta=3.0, pooling="max")) is model
    os.utime(path, ns=(1, 1))
    assert keep_model(options) is not model
    model = keep_model(options)
    assert keep_model(Options(model="vgg19-lite")) is not model
    assert keep_model(options) is not model
