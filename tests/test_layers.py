"""The layer table, compared with torch's layers, torchvision's VGG-19 and torch's FLOP counter."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vgg19

from styletransfer.encoder import weights
from styletransfer.encoder.layers import table
from styletransfer.encoder.vgg import Encoder


@pytest.mark.parametrize("size", [16, 237, 512])
def test_sizes_channels_parameters_and_operations_match_torchvisions_vgg19(size: int) -> None:
    with torch.device("meta"):  # shapes only
        features = vgg19().features[:-1]  # up to the ReLU of conv5_4
        x = torch.empty(1, 3, size, size)
    rows = iter(table(size))
    for module in features:
        if isinstance(module, nn.ReLU):
            continue
        row = next(rows)
        with FlopCounterMode(display=False) as counter:
            x = module(x)
        assert row.name.startswith("conv" if isinstance(module, nn.Conv2d) else "pool")
        assert (row.channels, row.size, row.size) == x.shape[1:]
        for value, expected in (
            (row.kernel, module.kernel_size),
            (row.stride, module.stride),
            (row.padding, module.padding),
        ):
            assert expected in (value, (value, value))
        assert row.parameters == sum(p.numel() for p in module.parameters())
        assert 2 * row.operations == counter.get_total_flops()  # a multiply-add is counted as two
    assert next(rows, None) is None
    assert sum(row.parameters for row in table(size)) == 20_024_384


def test_receptive_field_is_the_extent_of_the_nonzero_gradient() -> None:
    image = torch.rand(1, 1, 640, 640, requires_grad=True)
    x: torch.Tensor = image
    for row in table(640):
        layer: nn.Module = nn.AvgPool2d(row.kernel, row.stride)
        if row.name.startswith("conv"):
            layer = nn.Conv2d(1, 1, row.kernel, row.stride, row.padding, bias=False)
            nn.init.constant_(layer.weight, 1 / 9)
        x = layer(x)
        middle = row.size // 2
        (gradient,) = torch.autograd.grad(x[0, 0, middle, middle], image, retain_graph=True)
        nonzero = gradient[0, 0].nonzero()
        assert (nonzero.amax(0) - nonzero.amin(0) + 1).tolist() == [row.receptive_field] * 2, row.name


def test_table_of_the_bundled_network_matches_its_weights() -> None:
    convolutions = weights.load_weights("vgg19-lite").convolutions
    widths = {name: len(layer.bias) for name, layer in convolutions.items()}
    ranks = {name: len(layer.projection) for name, layer in convolutions.items() if layer.projection is not None}
    rows = [row for row in table(64, widths, ranks) if row.parameters]
    encoder = Encoder(convolutions, convolutions)
    for row, (name, layer) in zip(rows, convolutions.items(), strict=True):
        tensors = [layer.weight, layer.bias, *([] if layer.projection is None else [layer.projection])]
        assert (row.name, row.parameters) == (name, sum(tensor.numel() for tensor in tensors))
        assert row.operations == 64 * 64 * encoder.macs(name)


def test_layers_command_does_not_import_torch() -> None:
    code = (
        "import sys; from styletransfer import cli\ntry: cli.main(['layers'])\nfinally: print('torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
    lines = process.stdout.splitlines()
    assert len(lines) == 23 and lines[-1] == "False"
    assert " ".join(lines[-3].split()) == "conv5_4 3×3 1 1 32×32 252 512 2,359,808 2,415,919,104"
