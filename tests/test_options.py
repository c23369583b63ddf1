import dataclasses
import json
from pathlib import Path

import pytest

from styletransfer import PRESETS, Options, UsageError
from styletransfer.options import LAYERS, layer_weights


def test_layers_are_vgg19s_sixteen_convolutions() -> None:
    from torchvision.models import vgg19

    convolutions = [m for m in vgg19().features if type(m).__name__ == "Conv2d"]
    assert len(LAYERS) == len(convolutions) == 16
    widths = {"1": 64, "2": 128, "3": 256, "4": 512, "5": 512}
    assert [m.out_channels for m in convolutions] == [widths[layer[4]] for layer in LAYERS]


def test_layer_weights_are_relative_and_sum_to_one() -> None:
    assert layer_weights(["conv1_1", "relu2_1=2", "conv5_1=5"]) == {
        "conv1_1": 1 / 8,
        "conv2_1": 2 / 8,
        "conv5_1": 5 / 8,
    }
    assert (
        layer_weights("conv1_1,relu2_1=3")
        == layer_weights(("conv1_1", "conv2_1=3"))
        == {
            "conv1_1": 1 / 4,
            "conv2_1": 3 / 4,
        }
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"size": -3}, "size"),
        ({"size": 0}, "size"),
        ({"seed": 2**63}, "seed"),
        ({"alpha": 10**400}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"beta": -1.0}, "beta"),
        ({"alpha": 0, "beta": 0}, "nothing to optimize"),
        ({"iterations": -1}, "iterations"),
        ({"pooling": "median"}, "avg, max, l2"),
        ({"optimizer": "newton"}, "lbfgs, adam, rmsprop, adagrad, sgd"),
        ({"jitter": 0.1}, "set optimizer to adam"),
        ({"jitter": -0.1, "optimizer": "sgd"}, "jitter"),
        ({"l1": -1.0}, "l1"),
        ({"time": "soon"}, "90s, 5m, 2h"),
        ({"time": "-5s"}, "90s, 5m, 2h"),
        ({"time": ""}, "90s, 5m, 2h"),
        ({"time": "nan"}, "90s, 5m, 2h"),
        ({"model": "vgg16"}, "vgg19"),
        ({"bit_depth": 12}, "8 or 16"),
        ({"learning_rate": 0.1}, "set optimizer to adam"),
        ({"tile": "small"}, "auto, off or a number of at least 16"),
        ({"tile": "8"}, "at least 16"),
        ({"scales": "0"}, "auto or a number of at least 1"),
        ({"style_scale": 0}, "style_scale"),
        ({"style_layers": ("conv6_1",)}, "conv6_1"),
        ({"style_layers": ("conv1_1=0",)}, "positive"),
        ({"style_layers": ("conv1_1=x",)}, "positive"),
        ({"style_layers": ("conv1_1", "relu1_1")}, "twice"),
        ({"style_layers": ("conv1_1,conv1_1",)}, "twice"),
        ({"style_layers": (",",)}, "no layer is given"),
        ({"content_layers": ()}, "no layer is given"),
    ],
)
def test_invalid_setting_is_refused_by_name(setting: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(**setting)  # type: ignore[arg-type]


def test_paths_numbers_and_single_values_are_converted() -> None:
    options = Options(init=Path("a.png"), scales=2, tile=64, mask=[[Path("m.png"), "-"]], content_layers="conv2_2")
    assert options == Options(init="a.png", scales="2", tile="64", mask=(("m.png", "-"),), content_layers=("conv2_2",))
    assert hash(options) == hash(dataclasses.replace(options))


def test_whole_numbers_of_real_settings_are_stored_as_the_command_does() -> None:
    """An image that was made with ``alpha=1`` has the same bytes as one with ``--alpha 1``."""
    options = Options(alpha=1, beta=20, style_weight=(1, 2))
    assert json.dumps(options.to_settings()) == json.dumps(
        Options(alpha="1", beta="20", style_weight="1,2").to_settings()  # type: ignore[arg-type]
    )


def test_strings_from_tables_and_pages_are_parsed() -> None:
    texts = {"size": "640", "beta": " 2e1", "enlarge": "Yes", "seamless": "0", "learning_rate": "0.1"}
    options = Options(**texts, optimizer="adam", style_weight="1; 2.5", style_layers="conv1_1, conv2_1=2")  # type: ignore[arg-type]
    expected = Options(size=640, beta=20.0, enlarge=True, learning_rate=0.1, optimizer="adam", style_weight=(1.0, 2.5))
    assert options == dataclasses.replace(expected, style_layers=("conv1_1", "conv2_1=2"))
    for name, text in {
        "size": "6.4e2",
        "beta": "ten",
        "enlarge": "maybe",
        "style_weight": "1,x",
        "mask": "a,b",
    }.items():
        with pytest.raises(UsageError, match=f"{name} is {text!r}; it must be "):
            Options(**{name: text})  # type: ignore[arg-type]


def test_times_are_parsed() -> None:
    seconds = {"90s": 90, "1.5m": 90, "2h": 7200, "45": 45, "off": float("inf")}
    assert {text: Options(time=text).seconds for text in seconds} == seconds


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_options_that_differ_from_the_defaults(preset: str) -> None:
    options = Options(**PRESETS[preset])
    assert all(getattr(options, name) != getattr(Options(), name) for name in PRESETS[preset])


def test_settings_stored_before_there_were_style_losses_are_those_of_gram_matrices() -> None:
    settings = dataclasses.asdict(Options(beta=20))
    del settings["style_loss"]
    assert Options.from_settings(settings) == Options(beta=20, style_loss="gram")


def test_options_are_restored_from_json() -> None:
    options = Options(
        mask=(("a.png", "-"),),
        keep="k.png",
        content_mask="c.png",
        style_layers=("conv1_1", "conv2_1=2"),
        style_weight=(1, 2),
    )
    settings = json.loads(json.dumps(dataclasses.asdict(options)))
    assert Options.from_settings({**settings, "of a later version": 1}) == options
    damages = [{"style_layers": 5}, {"size": "large"}, {"size": [1]}, {"size": 96.5}, {"mask": 3}, {"mask": [["a"]]}]
    for damage in (*damages, {"beta": {}}, {"time": []}, {"init": 5.5}, {"style_weight": ["a"]}, {"pooling": [1]}):
        with pytest.raises(UsageError):
            Options.from_settings({**settings, **damage})
