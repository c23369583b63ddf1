"""Valid files with random damage (`make fuzz`), FUZZ_SECONDS per test (default 60). FUZZ_SEED repeats a run."""

import os
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_convolutions
from hostile import PROMISED, READ, make_valid_images, reader
from safetensors.torch import save_file

from styletransfer import StyleTransferError
from styletransfer.encoder.weights import load

pytestmark = [pytest.mark.fuzz, pytest.mark.filterwarnings("ignore")]

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the data with one to four changes: bits flipped, bytes set, inserted, deleted, repeated or cut off."""
    result = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        # Half of the changes are in the first bytes, where the headers are.
        at = int(rng.integers((min(len(result), 128) if rng.random() < 0.5 else len(result)) + 1))
        length = int(rng.integers(1, rng.choice([2, 5, 33, 300])))
        values = bytes(rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)]) for _ in range(length))
        match rng.integers(6):
            case 0:
                result[at : at + 1] = bytes(byte ^ 1 << rng.integers(8) for byte in result[at : at + 1])
            case 1:
                result[at : at + length] = values
            case 2:
                result[at:at] = values
            case 3:
                del result[at : at + length]
            case 4:
                result[at:at] = result[at : at + length] * int(rng.integers(1, 4))
            case 5 if rng.random() < 0.3:
                del result[at:]
    return bytes(result)


def splice(one: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Return the beginning of one file and the end of another."""
    return one[: rng.integers(len(one) + 1)] + other[rng.integers(len(other) + 1) :]


def fix_checksums(data: bytes) -> bytes:
    """Return a PNG with valid checksums, so that its chunks are decoded; return other files unchanged."""
    at, result = 8, bytearray(data)
    while data.startswith(b"\x89PNG") and at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        result[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big") if end + 4 <= len(data) else b""
        at = end + 4
    return bytes(result)


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory by /proc")
def test_images_with_random_damage(tmp_path: Path) -> None:
    seed = int(os.environ.get("FUZZ_SEED") or time.time())
    rng, counts = np.random.default_rng(seed), Counter[str]()
    files = [(name, data) for name, data in make_valid_images().items() if name.rpartition(".")[2].upper() in READ]
    with reader() as process:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            (name, data), (_, other) = (files[i] for i in rng.integers(len(files), size=2))
            path = tmp_path / f"{counts.total()} {name}"
            data = mutate(splice(data, other, rng) if rng.random() < 0.1 else data, rng)
            path.write_bytes(fix_checksums(data) if rng.random() < 0.7 else data)
            process.memory = 0
            answer = process.read(path)
            if process.noise:
                answer = {"other": process.noise}
            elif process.memory > PROMISED:
                answer = {"other": f"{process.memory} bytes of memory"}
            elif "error" in answer and not (path.name in answer["error"] and answer["error"].isprintable()):
                answer = {"other": answer["error"]}
            counts.update(answer.keys())
            assert "other" not in answer, f"seed {seed}, {path} is kept: {answer['other']}"
            path.unlink()
    print(f"\nseed {seed}: {counts.total()} images tried, {dict(counts)}")
    assert counts["picture"] and counts["error"]


def test_weights_files_with_random_damage(tmp_path: Path) -> None:
    tensors = {}
    for layer, (weight, bias, projection, _) in list(random_convolutions(dict.fromkeys("12345", 2), rank=2).items())[
        :4
    ]:
        tensors[f"{layer}.weight"], tensors[f"{layer}.bias"] = weight, bias
        if projection is not None:
            tensors[f"{layer}.projection"] = projection
    save_file(tensors, tmp_path / "new.safetensors", metadata={"preprocessing": "rgb"})
    torch.save(tensors, tmp_path / "zip.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    files = [(path.suffix, path.read_bytes()) for path in sorted(tmp_path.iterdir())]
    seed = int(os.environ.get("FUZZ_SEED") or time.time())
    rng, tried, loaded, end = np.random.default_rng(seed), 0, 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        tried += 1
        suffix, data = files[rng.integers(len(files))]
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(mutate(data, rng))
        message = ""
        try:
            convolutions = load(path)
        except StyleTransferError as error:
            message = str(error)
        else:
            loaded += 1
            finite = [t.isfinite().all() for layer in convolutions.values() for t in layer if t is not None]
            assert all(finite), f"seed {seed}"
        assert not message or (str(path) in message and "\n" not in message), f"seed {seed}, {path} is kept: {message}"
    print(f"\nseed {seed}: {tried} weights files tried, {loaded} of them loaded")
    assert 0 < loaded < tried
