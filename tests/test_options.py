import pytest

from styletransfer import Options, UsageError
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


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"size": -3}, "size"),
        ({"size": 0}, "size"),
        ({"alpha": float("nan")}, "alpha"),
        ({"beta": -1.0}, "beta"),
        ({"alpha": 0, "beta": 0}, "nothing to optimise"),
        ({"iterations": -1}, "iterations"),
        ({"pooling": "median"}, "avg, max, l2"),
        ({"optimizer": "sgd"}, "lbfgs, adam"),
        ({"model": "vgg16"}, "vgg19"),
        ({"bit_depth": 12}, "8 or 16"),
        ({"learning_rate": 0.1}, "Adam"),
        ({"tile": "small"}, "auto, off or a number of at least 16"),
        ({"tile": "8"}, "at least 16"),
        ({"scales": "0"}, "auto or a number of at least 1"),
        ({"style_scale": 0}, "style_scale"),
        ({"style_layers": ("conv6_1",)}, "conv6_1"),
        ({"style_layers": ("conv1_1=0",)}, "positive"),
        ({"style_layers": ("conv1_1=x",)}, "positive"),
        ({"style_layers": ("conv1_1", "relu1_1")}, "twice"),
        ({"content_layers": ()}, "no layer"),
    ],
)
def test_what_cant_be_meant_is_refused_by_name(setting: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Options(**setting)  # type: ignore[arg-type]
