"""The codec: the identity on every message, and a ProtocolError on everything else."""

import struct
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmpi.errors import ProtocolError
from fedmpi.net import Float64, Message, UInt8, UInt32, UInt64
from fedmpi.net.message import MAX_DIMENSIONS, Header, decode, encode

LIMIT = 1 << 20
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


class Sample(Message, tag=100):
    flag: bool
    number: int
    words: UInt32
    text: str
    octets: UInt8
    raw: bytes
    longs: UInt64
    real: float
    reals: Float64


def arrays(dtype: str) -> st.SearchStrategy[np.ndarray]:
    """All dimensions and sizes, 0 too; and views that are not contiguous."""
    whole = hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=MAX_DIMENSIONS, min_side=0, max_side=3))
    reverse = (lambda a: a, lambda a: a.T, lambda a: a[..., ::-1] if a.ndim else a, lambda a: a[::2] if a.ndim else a)
    return st.builds(lambda array, view: view(array), whole, st.sampled_from(reverse))


MESSAGES = st.builds(
    Sample,
    flag=st.booleans(),
    number=INT64,
    words=arrays("<u4"),
    text=st.text("az\0\n~\x80ßÿ€\ufeff\uffff😀", max_size=20),
    octets=arrays("u1"),
    raw=st.binary(max_size=20),
    longs=arrays("<u8"),
    real=st.floats(),
    reals=arrays("<f8"),
)

EMPTY = encode(
    Sample(False, 0, np.zeros(0, "<u4"), "", np.zeros(0, "u1"), b"", np.zeros(0, "<u8"), 0.0, np.zeros(0, "<f8"))
)[0]
PREFIX = EMPTY[:8]


@given(MESSAGES, st.binary(max_size=9), st.integers(0, 1 << 20))
def test_decode_after_encode_is_the_identity(message: Sample, behind: bytes, source: int) -> None:
    data, sent = encode(message)
    header = decode(Sample, data + behind, source)
    assert header.size == len(data)
    assert header.payload_bytes == sum(array.nbytes for array in sent)
    header.check(source, {name: getattr(message, name).shape for name in header.shapes}, header.payload_bytes)
    memory = header.allocate()
    for target, array in zip(memory.values(), sent, strict=True):
        target.reshape(-1).view(np.uint8)[:] = np.frombuffer(array.tobytes(), np.uint8)
    received = header.message(memory)
    assert type(received) is Sample
    for name in ("flag", "number", "text", "raw"):
        assert getattr(received, name) == getattr(message, name)
    assert struct.pack("<d", received.real) == struct.pack("<d", message.real) or message.real != message.real
    for name in ("words", "octets", "longs", "reals"):
        got, expected = getattr(received, name), getattr(message, name)
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert got.tobytes() == expected.tobytes()
        assert not got.flags.writeable
    assert encode(received)[0] == data


def outcome(data: bytes) -> Header | None:
    """What a receiver does with a header until it has memory for the arrays: within the limit, or a ProtocolError."""
    try:
        header = decode(Sample, data, 1)
        header.check(1, {}, LIMIT)
        memory = header.allocate()
    except ProtocolError as error:
        assert "rank 1" in str(error)
        assert type(error) is ProtocolError
        return None
    types: dict[str, Any] = {"flag": bool, "number": int, "text": str, "raw": bytes, "real": float}
    assert {name: type(value) for name, value in header.scalars.items()} == types
    assert {name: array.dtype.str for name, array in memory.items()} == {
        "words": "<u4",
        "octets": "|u1",
        "longs": "<u8",
        "reals": "<f8",
    }
    assert sum(array.nbytes for array in memory.values()) == header.payload_bytes <= LIMIT
    assert all(array.ndim <= MAX_DIMENSIONS for array in memory.values())
    assert header.size <= len(data)
    return header


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    if not data.startswith(PREFIX):
        assert outcome(data) is None


@settings(max_examples=300)
@given(st.binary(max_size=300))
@example(struct.pack("<?qBQQ", True, 1, 2, 0, 1 << 63) + bytes(100))
def test_random_bytes_behind_the_right_prefix(data: bytes) -> None:
    outcome(PREFIX + data)


SIZES = st.one_of(st.integers(0, 4), st.sampled_from([1 << 20, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1]))
SHAPES = st.lists(SIZES, max_size=MAX_DIMENSIONS + 2)


@settings(max_examples=300)
@given(st.lists(SHAPES, min_size=4, max_size=4), st.binary(max_size=4), st.binary(max_size=4))
@example([[0, 1 << 63], [], [], []], b"", b"")
@example([[1 << 32, 1 << 32], [], [], []], b"", b"")
def test_hostile_shapes_and_texts(shapes: list[list[int]], text: bytes, raw: bytes) -> None:
    words, octets, longs, reals = (struct.pack(f"<B{len(shape)}Q", len(shape), *shape) for shape in shapes)
    text_part, raw_part = (struct.pack("<I", len(part)) + part for part in (text, raw))
    header = outcome(
        PREFIX + struct.pack("<?q", True, 5) + words + text_part + octets + raw_part + longs + bytes(8) + reals
    )
    if header is None:
        return
    assert [list(shape) for shape in header.shapes.values()] == shapes
    assert (header.scalars["text"].encode(), header.scalars["raw"]) == (text, raw)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid header with a few bytes changed, put in, taken out, repeated or cut off."""
    data = bytearray(encode(draw(MESSAGES))[0])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["change", "insert", "delete", "repeat", "cut"]))
        some = draw(st.binary(min_size=1, max_size=8))
        if kind == "change":
            data[at : at + len(some)] = some
        elif kind == "insert":
            data[at:at] = some
        elif kind == "delete":
            del data[at : at + len(some)]
        elif kind == "repeat":
            data[at:at] = data[at : at + 16]
        else:
            del data[at:]
    return bytes(data)


@settings(max_examples=400)
@given(mutated())
def test_a_mutated_header_is_valid_or_refused(data: bytes) -> None:
    outcome(data)


@given(MESSAGES, st.data())
def test_every_truncation_is_refused(message: Sample, data: st.DataObject) -> None:
    header = encode(message)[0]
    assert outcome(header[: data.draw(st.integers(0, len(header) - 1))]) is None
