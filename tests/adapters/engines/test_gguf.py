"""What is wrong with a model file is said before native code sees it."""

import pickle
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehouse.adapters.engines.gguf import ModelFileRefused, read_context_length, read_header, slot_context
from gatehouse.models import builtin_path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def model(*entries: bytes, tensors: bytes = b"", count: int = 1, version: int = 3, tail: bytes = b"\0" * 64) -> bytes:
    """A small GGUF file: one tensor of four weights unless told."""
    tensor = tensors or text("w") + struct.pack("<IQIQ", 1, 4, 0, 0)
    return b"GGUF" + struct.pack("<IQQ", version, count, len(entries)) + b"".join(entries) + tensor + tail


ARCHITECTURE = entry("general.architecture", 8, text("llama"))
CONTEXT = entry("llama.context_length", 4, struct.pack("<I", 2048))


def test_the_built_in_model() -> None:
    """The header of the model that comes with the package."""
    header = read_header(builtin_path())
    assert (header.architecture, header.context_length) == ("llama", 2048)
    assert header.size < 8 * 1024 * 1024
    assert header.vocabulary > 256
    assert header.pooling is None


def test_a_small_model(tmp_path: Path) -> None:
    """Scalars are read, arrays of numbers and strings are passed over."""
    path = tmp_path / "m.gguf"
    numbers = entry("a", 9, struct.pack("<IQ", 5, 3) + struct.pack("<3i", 1, 2, 3))
    strings = entry("b", 9, struct.pack("<IQ", 8, 2) + text("x") + text("yy"))
    path.write_bytes(model(ARCHITECTURE, numbers, strings, CONTEXT, entry("general.name", 8, text("mine"))))
    header = read_header(path)
    assert (header.architecture, header.name, header.context_length, header.tensors) == ("llama", "mine", 2048, 1)


def test_the_context_alone(tmp_path: Path) -> None:
    """Read as soon as it stands there, wherever that is, though what follows is cut off; without one the file is refused."""
    assert read_context_length(builtin_path()) == 2048
    path = tmp_path / "m.gguf"
    for entries in ((ARCHITECTURE, CONTEXT), (CONTEXT, ARCHITECTURE)):
        path.write_bytes(model(*entries, entry("cut", 9, b"")))
        assert read_context_length(path) == 2048
    for content in (b"", model(ARCHITECTURE), model(ARCHITECTURE, CONTEXT)[:40]):
        path.write_bytes(content)
        with pytest.raises(ModelFileRefused):
            read_context_length(path)
    with pytest.raises(ModelFileRefused, match="cannot be read"):
        read_context_length(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("length", "asked", "given"), [(2048, None, 2048), (131_072, None, 8192), (131_072, 16_384, 16_384), (512, 600, 512)]
)
def test_what_a_slot_holds(length: int, asked: int | None, given: int) -> None:
    """What is asked for, or a bound that keeps memory small, and never more than the model was made for."""
    assert slot_context(length, asked) == given


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"not a model at all", "not a GGUF file"),
        (pickle.dumps({"weights": [1]}), "can run code"),
        (b"PK\x03\x04 an archive of PyTorch", "can run code"),
        (model(ARCHITECTURE, CONTEXT, version=1), "version 1"),
        (model(ARCHITECTURE, CONTEXT, version=99), "version 99"),
        (model(ARCHITECTURE, CONTEXT)[:30], "truncated"),
        (model(ARCHITECTURE, CONTEXT, count=0), "no tensors"),
        (model(ARCHITECTURE, CONTEXT, count=10**12), "senselessly many"),
        (model(CONTEXT), "no architecture"),
        (model(ARCHITECTURE), "no context length"),
        (model(entry("general.architecture", 77, b"")), "unknown type"),
        (model(struct.pack("<Q", 2**60)), "senseless length"),
        (model(entry("a", 9, struct.pack("<IQ", 9, 1))), "unknown type"),
        (model(ARCHITECTURE, CONTEXT, tensors=text("w") + struct.pack("<IQIQ", 1, 4, 0, 10**9)), "weights are cut off"),
        (model(ARCHITECTURE, CONTEXT, tensors=text("w") + struct.pack("<IQIQ", 1, 10**9, 0, 0)), "weights are cut off"),
    ],
)
def test_scenario_59_broken_files(tmp_path: Path, content: bytes, words: str) -> None:
    """Truncated, damaged, of another format, or code: refused with what it is."""
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileRefused, match=words):
        read_header(path)


def test_a_missing_file(tmp_path: Path) -> None:
    """Said in words."""
    with pytest.raises(ModelFileRefused, match="cannot be read"):
        read_header(tmp_path / "none.gguf")


def test_the_built_in_model_cut_at_any_place(tmp_path: Path) -> None:
    """However much of its end is missing, it is noticed."""
    whole = builtin_path().read_bytes()
    path = tmp_path / "m.gguf"
    for part in (5, 23, 100, 5_000, 100_000, len(whole) // 2):
        path.write_bytes(whole[:part])
        with pytest.raises(ModelFileRefused):
            read_header(path)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Arbitrary bytes behind the magic are a model or refused, never anything else."""
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + content)
    try:
        read_header(path)
    except ModelFileRefused as error:
        assert str(error)
