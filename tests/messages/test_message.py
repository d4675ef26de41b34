"""Messages: what can be declared, what can be sent, and the bytes of a frame."""

import dataclasses
import struct
from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmpi.errors import ProtocolError
from fedmpi.net import Float64, Message, UInt8, UInt32, UInt64
from fedmpi.net.message import HEADER_LIMIT, MAX_DIMENSIONS, Header, array_bytes, decode, encode, text_of
from fedmpi.net.transport import RefusedFrame


class Sample(Message, tag=9):
    flag: bool
    number: int
    real: float
    text: str
    raw: bytes
    words: UInt32
    octets: UInt8
    longs: UInt64
    reals: Float64


def sample(**changes: Any) -> Sample:
    values = {
        "flag": True,
        "number": -2,
        "real": 0.5,
        "text": "ß",
        "raw": b"\0\xff",
        "words": np.array([[1, 2, 3]], np.uint32),
        "octets": np.array(7, np.uint8),
        "longs": np.zeros((0, 4), np.uint64),
        "reals": np.array([1.5, -0.0]),
    }
    return Sample(**{**values, **changes})


# -- declaring ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", [1, 127])
def test_tags_within_the_bounds(tag: int) -> None:
    class Fine(Message, tag=tag):
        pass

    assert Fine.tag == tag
    assert decode(Fine, encode(Fine())[0], 0).cls is Fine


@pytest.mark.parametrize("tag", [-1, 0, 128, 1 << 20])
def test_tags_beyond_the_bounds(tag: int) -> None:
    with pytest.raises(TypeError, match=rf"^the tag of Wrong must be in \[1, 127\], got {tag}$"):

        class Wrong(Message, tag=tag):
            pass


@pytest.mark.parametrize(
    "hint",
    [
        list,
        list[int],
        dict,
        object,
        Any,
        None,
        complex,
        int | None,
        np.ndarray,
        NDArray[np.uint32],
        np.uint32,
        Message,
        Annotated[int, "unit"],
    ],
)
def test_other_types_of_fields_cant_be_declared(hint: Any) -> None:
    with pytest.raises(TypeError, match=r"^Wrong.field must be bool, int, float, str, bytes or an array type, got"):
        type("Wrong", (Message,), {"__annotations__": {"field": hint}}, tag=1)


@pytest.mark.parametrize(
    "dtype", [np.dtype(object), np.dtype([("a", object)]), np.dtype("M8[s]"), np.dtype("U3"), np.dtype(">u4")]
)
def test_arrays_of_other_types_cant_be_declared(dtype: np.dtype[Any]) -> None:
    """Above all no Python objects: their bytes are addresses."""
    with pytest.raises(TypeError, match=r"^Wrong.field must be"):
        type("Wrong", (Message,), {"__annotations__": {"field": Annotated[NDArray[Any], dtype]}}, tag=1)


def test_messages_are_frozen() -> None:
    message = sample()
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.number = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="missing"):
        Sample(True)  # type: ignore[call-arg]


def test_the_schema_is_of_names_types_and_order() -> None:
    def schema(name: str, **fields: Any) -> int:
        return type(name, (Message,), {"__annotations__": fields}, tag=1)._schema

    first = schema("A", x=int, y=UInt32)
    assert first == schema("A", x=int, y=UInt32)
    changed = [
        schema("B", x=int, y=UInt32),
        schema("A", y=UInt32, x=int),
        schema("A", x=int, z=UInt32),
        schema("A", x=int, y=UInt64),
        schema("A", x=float, y=UInt32),
        schema("A", x=int),
    ]
    assert len({first, *changed}) == 1 + len(changed)


# -- encoding -----------------------------------------------------------------------------------------------------


def test_the_bytes_of_a_header() -> None:
    header, arrays = encode(sample())
    assert header == b"".join(
        [
            b"fM\x01",
            bytes([9]),
            struct.pack("<I", Sample._schema),
            b"\x01",
            (-2).to_bytes(8, "little", signed=True),
            struct.pack("<d", 0.5),
            b"\x02\0\0\0" + "ß".encode(),
            b"\x02\0\0\0" + b"\0\xff",
            b"\x02" + (1).to_bytes(8, "little") + (3).to_bytes(8, "little"),
            b"\0",
            b"\x02" + bytes(8) + (4).to_bytes(8, "little"),
            b"\x01" + (2).to_bytes(8, "little"),
        ]
    )
    assert [array.tobytes() for array in arrays] == [
        struct.pack("<III", 1, 2, 3),
        b"\x07",
        b"",
        struct.pack("<dd", 1.5, -0.0),
    ]


def test_the_header_becomes_the_message_again() -> None:
    header, arrays = encode(sample())
    for data in (header, bytearray(header), memoryview(header), header + b"whatever comes behind it"):
        read = decode(Sample, data, 3)
        assert read.size == len(header)
        assert read.scalars == {"flag": True, "number": -2, "real": 0.5, "text": "ß", "raw": b"\0\xff"}
        assert read.shapes == {"words": (1, 3), "octets": (), "longs": (0, 4), "reals": (2,)}
        assert read.payload_bytes == 3 * 4 + 1 + 0 + 2 * 8 == sum(array.nbytes for array in arrays)
    memory = read.allocate()
    assert {name: (array.shape, array.dtype) for name, array in memory.items()} == {
        "words": ((1, 3), np.dtype("<u4")),
        "octets": ((), np.dtype("u1")),
        "longs": ((0, 4), np.dtype("<u8")),
        "reals": ((2,), np.dtype("<f8")),
    }
    for target, array in zip(memory.values(), arrays, strict=True):
        target[...] = array
    message = read.message(memory)
    assert type(message) is Sample
    assert message.number == -2
    np.testing.assert_array_equal(message.words, [[1, 2, 3]])
    for name in memory:
        assert not getattr(message, name).flags.writeable


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.uint32).reshape(3, 4).T,
        np.arange(12, dtype=np.uint32)[::-2],
        np.asfortranarray(np.arange(12, dtype=np.uint32).reshape(3, 4)),
        np.broadcast_to(np.uint32(5), (2, 3)),
        np.array(5, np.uint32),
    ],
)
def test_arrays_are_contiguous_and_keep_their_shape(array: np.ndarray) -> None:
    encoded = encode(sample(words=array))[1][0]
    assert encoded.flags.c_contiguous
    assert encoded.shape == array.shape
    np.testing.assert_array_equal(encoded, array)


def test_numpys_scalars_can_be_sent() -> None:
    scalars = decode(Sample, encode(sample(number=np.int64(-3), real=np.float64(0.25), flag=np.True_))[0], 0).scalars
    assert (scalars["number"], scalars["real"], scalars["flag"]) == (-3, 0.25, True)
    assert (type(scalars["number"]), type(scalars["real"]), type(scalars["flag"])) == (int, float, bool)


@pytest.mark.parametrize(
    ("name", "value", "got"),
    [
        ("words", np.zeros(3, np.int32), "int32"),
        ("words", np.zeros(3, np.int64), "int64"),
        ("words", np.zeros(3, ">u4"), ">u4"),
        ("words", np.zeros(3, object), "object"),
        ("reals", np.zeros(3, np.float32), "float32"),
        ("words", [1, 2, 3], "list"),
        ("words", np.uint32(3), "uint32"),
        ("words", None, "NoneType"),
        ("words", np.zeros([1] * (MAX_DIMENSIONS + 1), np.uint32), "uint32"),
    ],
)
def test_an_array_of_another_type_is_not_sent(name: str, value: Any, got: str) -> None:
    with pytest.raises(TypeError, match=rf"^Sample.{name} must be an array of (uint32|float64), got {got}$"):
        encode(sample(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", 1.5),
        ("number", "1"),
        ("number", None),
        ("real", "1"),
        ("real", None),
        ("text", b"bytes"),
        ("text", 1),
        ("raw", "text"),
        ("raw", 1),
        ("raw", [1]),
        ("flag", None),
        ("flag", "False"),
        ("flag", 2),
    ],
)
def test_a_scalar_of_another_type_is_not_sent(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=name):
        encode(sample(**{name: value}))


@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1, 1 << 200])
def test_an_int_of_more_than_64_bits_is_not_sent(value: int) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError, struct.error)):
        encode(sample(number=value))


def test_the_limit_of_a_header() -> None:
    room = HEADER_LIMIT - len(encode(sample(raw=b""))[0])
    header = encode(sample(raw=bytes(room)))[0]
    assert len(header) == HEADER_LIMIT
    assert decode(Sample, header, 0).scalars["raw"] == bytes(room)
    with pytest.raises(TypeError, match=f"^the scalars of Sample must fit in 65536 bytes, got {HEADER_LIMIT + 1}$"):
        encode(sample(raw=bytes(room + 1)))


# -- hostile headers ----------------------------------------------------------------------------------------------

VALID = encode(sample())[0]
RAW_AT = VALID.index(b"\x02\0\0\0\0\xff")
TEXT_AT = VALID.index("ß".encode())
WORDS_AT = RAW_AT + 6


def refused(data: bytes) -> str:
    with pytest.raises(ProtocolError) as error:
        decode(Sample, data, 3)
    assert type(error.value) is ProtocolError
    assert str(error.value).startswith("Sample from rank 3 must have ")
    return str(error.value).removeprefix("Sample from rank 3 must have ")


def test_every_truncation_is_refused() -> None:
    for n in range(len(VALID)):
        assert refused(VALID[:n]).endswith(f" bytes, got {n}")


def test_every_change_of_the_first_eight_bytes_is_refused() -> None:
    for i in range(8):
        for change in range(1, 256):
            refused(VALID[:i] + bytes([VALID[i] ^ change]) + VALID[i + 1 :])


def test_the_message_names_expected_and_got() -> None:
    class Other(Message, tag=10):
        pass

    assert refused(encode(Other())[0]) == (
        f"tag 9 and schema {Sample._schema:#010x}, got tag 10 and schema {Other._schema:#010x}"
    )
    assert refused(VALID[:TEXT_AT] + b"\xff\xfe" + VALID[TEXT_AT + 2 :]) == "text in text, got bytes that are not UTF-8"
    assert refused(VALID[:WORDS_AT] + b"\x09" + VALID[WORDS_AT + 1 :]) == "at most 8 dimensions in words, got 9"


@pytest.mark.parametrize("bad", [b"\xc3(", b"\x80\x80", b"\xc0\x80", b"\xc3"])
def test_text_must_be_utf_8(bad: bytes) -> None:
    length = struct.pack("<I", len(bad))
    assert "UTF-8" in refused(VALID[: TEXT_AT - 4] + length + bad + VALID[TEXT_AT + 2 :])


@pytest.mark.parametrize("length", [1000, HEADER_LIMIT, 1 << 31, (1 << 32) - 1])
def test_a_length_beyond_the_header_is_refused(length: int) -> None:
    assert "bytes, got" in refused(VALID[:RAW_AT] + struct.pack("<I", length) + VALID[RAW_AT + 4 :])


def test_scalars_above_the_limit_are_refused_though_they_are_there() -> None:
    data = bytes(HEADER_LIMIT)
    refused(VALID[:RAW_AT] + struct.pack("<I", len(data)) + data + VALID[RAW_AT + 6 :])


def header(**shapes: tuple[int, ...]) -> Header:
    return Header(Sample, {}, shapes, 0)


@pytest.mark.parametrize(
    "shape",
    [(1 << 63,) * 2, ((1 << 64) - 1,) * 8, (1 << 32, 1 << 32), (1 << 62, 1), (1 << 63, 2), (2, 3, 43)],
)
def test_the_size_is_computed_without_overflow(shape: tuple[int, ...]) -> None:
    size = 4
    for n in shape:
        size *= n
    assert array_bytes(np.dtype("<u4"), shape) == header(words=shape).payload_bytes == size
    with pytest.raises(ProtocolError, match=f"^Sample from rank 3 must hold at most 1024 bytes, got {size}$"):
        header(words=shape).check(3, {}, 1024)


@pytest.mark.parametrize("shape", [(0, 1 << 63), ((1 << 64) - 1, 0), (1 << 40, 0, 1 << 40), (0, 1 << 62)])
def test_what_passes_the_check_can_be_allocated_or_is_refused(shape: tuple[int, ...]) -> None:
    """Empty, so below any limit, and still impossible."""
    with pytest.raises(ProtocolError):
        header(words=shape).check(3, {}, 1024)
        header(words=shape).allocate()


def test_the_limit_is_for_all_arrays_together() -> None:
    both = header(words=(100,), reals=(10,))
    both.check(3, {}, 480)
    with pytest.raises(ProtocolError, match="must hold at most 479 bytes, got 480"):
        both.check(3, {}, 479)


@pytest.mark.parametrize("wanted", [(2, 3), (None, 3), (2, None), (None, None)])
def test_shapes_that_were_asked_for(wanted: tuple[int | None, ...]) -> None:
    header(words=(2, 3), reals=(9,)).check(3, {"words": wanted}, 1 << 20)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ((3, 2), "(3, 2)"),
        ((2,), "(2)"),
        ((6,), "(6)"),
        ((2, 3, 1), "(2, 3, 1)"),
        ((None, 2), "(any, 2)"),
        ((None,), "(any)"),
        ((), "()"),
    ],
)
def test_shapes_that_were_not_asked_for(wanted: tuple[int | None, ...], text: str) -> None:
    with pytest.raises(ProtocolError) as error:
        header(words=(2, 3)).check(3, {"words": wanted}, 1 << 20)
    assert str(error.value) == f"Sample.words from rank 3 must have shape {text}, got (2, 3)"


def test_text_that_is_none_is_refused() -> None:
    with pytest.raises(ProtocolError, match="text must be UTF-8"):
        text_of(np.array([0xFF], np.uint8))


def test_a_refused_frame_says_why_whatever_is_asked_of_it() -> None:
    frame = RefusedFrame(1, "this one must not be read")
    for ask in (lambda: frame.header, lambda: frame.receive(0, []), frame.done):
        with pytest.raises(ProtocolError, match="this one must not be read"):
            ask()
