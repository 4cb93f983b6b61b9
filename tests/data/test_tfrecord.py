"""The TFRecord reader against an encoder written from the formats' descriptions, here and on its own."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnet_vjepa.data.importers.tfrecord import Feature, crc32c, masked_crc32c, parse_example, read_records
from hnet_vjepa.errors import UserError

Value = list[bytes] | list[float] | list[int]


def slow_crc32c(data: bytes) -> int:
    """CRC-32C bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def frame_record(data: bytes) -> bytes:
    """One TFRecord."""

    def mask(part: bytes) -> bytes:
        crc = slow_crc32c(part) if len(part) < 2000 else crc32c(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)

    head = struct.pack("<Q", len(data))
    return head + mask(head) + data + mask(data)


def varint(number: int) -> bytes:
    number %= 2**64
    encoded = bytearray()
    while number > 127:
        encoded.append(number % 128 + 128)
        number //= 128
    return bytes([*encoded, number])


def field(number: int, data: bytes) -> bytes:
    return varint(number * 8 + 2) + varint(len(data)) + data


def encode_example(features: dict[str, Value], packed: bool = True) -> bytes:
    """A serialised tf.train.Example."""
    entries = b""
    for name, values in features.items():
        first = values[0] if values else b""
        if isinstance(first, bytes):
            kind, body = 1, b"".join(field(1, value) for value in values)  # type: ignore[arg-type]
        elif isinstance(first, float):
            kind, parts = 2, [struct.pack("<f", value) for value in values]
            body = field(1, b"".join(parts)) if packed else b"".join(b"\x0d" + part for part in parts)
        else:
            kind, parts = 3, [varint(value) for value in values]  # type: ignore[arg-type]
            body = field(1, b"".join(parts)) if packed else b"".join(b"\x08" + part for part in parts)
        entries += field(1, field(1, name.encode()) + field(2, field(kind, body)))
    return field(1, entries)


def plain(feature: Feature) -> Value:
    return feature if isinstance(feature, list) else feature.tolist()


def test_known_checksums() -> None:
    # RFC 3720, B.4
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0


@given(st.binary(max_size=1500))
def test_checksum_equals_the_bitwise_one(data: bytes) -> None:
    assert crc32c(data) == slow_crc32c(data)


NAMES = st.text(max_size=6)
VALUES = st.one_of(
    st.lists(st.binary(max_size=30), max_size=5),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40),
)


@given(st.dictionaries(NAMES, VALUES, max_size=5), st.booleans())
def test_examples_come_back(features: dict[str, Value], packed: bool) -> None:
    decoded = parse_example(encode_example(features, packed))
    assert {name: plain(value) for name, value in decoded.items()} == features


def test_types_of_decoded_features() -> None:
    decoded = parse_example(encode_example({"f": [1.0], "i": [-1, 2**40], "b": [b"x"]}))
    assert isinstance(decoded["f"], np.ndarray) and decoded["f"].dtype == np.float32
    assert isinstance(decoded["i"], np.ndarray) and decoded["i"].dtype == np.int64
    assert decoded["b"] == [b"x"]
    unset = field(1, field(1, field(1, b"name")))
    assert parse_example(unset) == {"name": []}


@given(st.binary(max_size=200))
def test_garbage_is_decoded_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_example(data)


@given(st.data())
def test_damaged_examples_are_decoded_or_a_value_error(data: st.DataObject) -> None:
    message = bytearray(encode_example({"f": [1.0, 2.0], "i": [-1, 300], "b": [b"xyz", b""]}))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        parse_example(bytes(message))


def test_records_come_back(tmp_path: Path) -> None:
    records = [b"", b"abc", bytes(range(256)) * 40]
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"".join(map(frame_record, records)))
    assert list(read_records(path)) == records
    path.write_bytes(b"")
    assert list(read_records(path)) == []


def test_cut_files_are_refused_wherever_they_are_cut(tmp_path: Path) -> None:
    first, second = frame_record(b"first record"), frame_record(b"and the second")
    path = tmp_path / "cut.tfrecord"
    for length in range(1, len(first + second)):
        path.write_bytes((first + second)[:length])
        if length == len(first):  # a whole file of one record; nothing in it says that there were two
            assert list(read_records(path)) == [b"first record"]
            continue
        with pytest.raises(UserError, match=r"cut\.tfrecord: record [01] is cut short") as caught:
            list(read_records(path))
        assert f"record {int(length > len(first))}" in str(caught.value)


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    data = frame_record(b"some data")
    path = tmp_path / "bad.tfrecord"
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"bad\.tfrecord: record 0 has a wrong checksum"):
            list(read_records(path))


def test_a_valid_length_beyond_the_file_is_refused_without_allocating(tmp_path: Path) -> None:
    head = struct.pack("<Q", 2**60)
    path = tmp_path / "huge.tfrecord"
    path.write_bytes(head + struct.pack("<I", masked_crc32c(head)) + b"abc")
    with pytest.raises(UserError, match="cut short"):
        list(read_records(path))
