"""Read TFRecord files of ``tf.train.Example`` messages without TensorFlow.

* A TFRecord file is a run of records: length (8 bytes), its checksum (4), data, its checksum (4), little endian.
  A checksum is CRC-32C, rotated right by 15 bits plus a constant.
* A ``tf.train.Example`` maps names to lists of byte strings, floats or integers (protobuf).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError

Feature = list[bytes] | NDArray[np.float32] | NDArray[np.int64]


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord file. Raises UserError when it is cut short or a checksum does not fit."""
    for _, data in located_records(path):
        yield data


def record_at(path: Path, offset: int) -> bytes:
    """The record that begins at a byte (see located_records). Raises UserError as read_records does."""
    return next(data for _, data in located_records(path, offset))


def located_records(path: Path, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the records from ``offset`` on, each with the byte at which it begins."""
    with path.open("rb") as stream:
        number = 0
        stream.seek(offset)
        while head := stream.read(12):
            where = f"{path}: record {number}"
            if len(head) < 12:
                raise UserError(f"{where} is cut short; copy or download the file again")
            length, check = struct.unpack("<QI", head)
            if masked_crc32c(head[:8]) != check:
                raise UserError(f"{where} has a wrong checksum; this is not a TFRecord file, or it is damaged")
            # A valid length can still be far more than the file holds: never allocate for it blindly.
            rest = path.stat().st_size - stream.tell()
            if rest < length + 4:
                raise UserError(f"{where} is cut short ({rest} of {length + 4} bytes); copy or download the file again")
            data = stream.read(length)
            if masked_crc32c(data) != struct.unpack("<I", stream.read(4))[0]:
                raise UserError(f"{where} has a wrong checksum; the file is damaged, copy or download it again")
            yield offset, data
            offset = stream.tell()
            number += 1


def masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum of ``data``."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), some 50 MB/s: rows of 256 bytes are worked on side by side, then joined.

    A CRC is linear: the CRC of a joined message is that of its head, moved over the tail's length, xor that of the
    tail. So zeros in front change nothing, and the usual start value is an inversion of the first four bytes.
    """
    if len(data) < 4:  # too short to carry the start value
        return _step(0xFFFFFFFF, data) ^ 0xFFFFFFFF
    rows = np.frombuffer(bytes(-len(data) % 256) + bytes(b ^ 0xFF for b in data[:4]) + data[4:], np.uint8).reshape(
        -1, 256
    )
    state = np.zeros(len(rows), np.uint32)
    table = _table()
    for column in np.ascontiguousarray(rows.T):
        state = table[(state ^ column) & 0xFF] ^ (state >> 8)
    move, crc = _move_256(), 0
    for row in state.tolist():
        crc = move[0][crc & 255] ^ move[1][crc >> 8 & 255] ^ move[2][crc >> 16 & 255] ^ move[3][crc >> 24] ^ row
    return crc ^ 0xFFFFFFFF


@cache
def _table() -> NDArray[np.uint32]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (0x82F63B78 if value & 1 else 0) for value in table]
    return np.array(table, np.uint32)


@cache
def _move_256() -> list[list[int]]:
    """For each byte of a CRC's state, where 256 zero bytes take it."""
    state = (np.arange(256, dtype=np.uint32)[None, :] << np.array([[0], [8], [16], [24]], np.uint32)).astype(np.uint32)
    for _ in range(256):
        state = _table()[state & 0xFF] ^ (state >> 8)
    return [[int(value) for value in row] for row in state]


def _step(crc: int, data: bytes) -> int:
    for byte in data:
        crc = int(_table()[(crc ^ byte) & 0xFF]) ^ crc >> 8
    return crc


def parse_example(record: bytes) -> dict[str, Feature]:
    """Decode a serialised ``tf.train.Example``. Raises ValueError when it is not one."""
    features: dict[str, Feature] = {}
    for message in _messages(record, 1):  # Example.features
        for entry in _messages(message, 1):  # Features.feature, a map
            name, value = (b"".join(_messages(entry, field)) for field in (1, 2))
            features[name.decode()] = _feature(value)
    return features


def _feature(message: bytes) -> Feature:
    """Decode a Feature: BytesList is field 1, FloatList 2, Int64List 3, and their values are field 1."""
    for kind, values in _fields(message):
        if not isinstance(values, bytes):
            break
        if kind == 1:
            return list(_messages(values, 1))
        # Numbers come packed into one string, or one by one.
        if kind == 2:
            return np.frombuffer(b"".join(_messages(values, 1)), "<f4").astype(np.float32)
        if kind == 3:
            numbers = [
                n for _, item in _fields(values) for n in (_varints(item) if isinstance(item, bytes) else [item])
            ]
            return np.array(numbers, np.uint64).astype(np.int64)  # negative numbers are 64-bit complements
        break
    else:
        return []  # an unset feature
    raise ValueError(f"unknown kind of feature {kind}")


def _messages(message: bytes, field: int) -> Iterator[bytes]:
    """Yield the values of one field, which must not be integers."""
    for number, value in _fields(message):
        if number == field:
            if not isinstance(value, bytes):
                raise ValueError(f"field {field} is an integer")
            yield value


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield (field number, value) of a protobuf message; fixed-size numbers come as their bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if at + size > len(message):
            raise ValueError("a field is cut short")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("a number is cut short")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError("a number is longer than 64 bits")


def _varints(packed: bytes) -> list[int]:
    values, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        values.append(value)
    return values
