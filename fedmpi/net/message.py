"""Messages and their codec: a frame can become only the dataclass that was asked for. Never pickle.

A frame is a header (the scalars, and the shapes of the arrays) and the arrays' raw bytes. Everything a peer
wrote is checked before memory is allocated for it.
"""

import dataclasses
import itertools
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, dataclass_transform, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import ProtocolError
from fedmpi.net.meaning import BY_TYPE, Rule
from fedmpi.rules import printable

UInt8 = Annotated[NDArray[np.uint8], np.dtype("u1")]
UInt32 = Annotated[NDArray[np.uint32], np.dtype("<u4")]
UInt64 = Annotated[NDArray[np.uint64], np.dtype("<u8")]
Float64 = Annotated[NDArray[np.float64], np.dtype("<f8")]

Shape = tuple[int | None, ...]
"""A shape that is asked for; None stands for any size."""

HEADER_LIMIT = 1 << 16
"""Bytes of scalars and shapes in one message, at most."""

MAX_DIMENSIONS = 8

_MAGIC = b"fM\x01"
_PREFIX = struct.Struct("<3sBI")  # magic and version, tag, schema
_SCALARS: dict[Any, struct.Struct] = {bool: struct.Struct("<?"), int: struct.Struct("<q"), float: struct.Struct("<d")}
_DTYPES = {np.dtype(code) for code in ("u1", "<u4", "<u8", "<f8")}
_LENGTH = struct.Struct("<I")
_SHAPES = [struct.Struct(f"<B{dimensions}Q") for dimensions in range(MAX_DIMENSIONS + 1)]
_ACCEPTED: dict[Any, Any] = {
    int: (int, np.integer),
    float: (float, int, np.floating),
    bool: (bool, np.bool_),
    str: str,
    bytes: bytes,
}


@dataclass_transform(frozen_default=True, eq_default=False)
class Message:
    """Base of all messages: ``class CodedWeights(Message, tag=2)`` makes a frozen dataclass.

    Fields are bool, int (64 bits), float, str, bytes, or one of the array types of this module; what they may hold is
    said by a rule of `fedmpi.net.meaning`, in the field's type or by it.
    The tag, in [1, 127], is unique among the messages that two ranks exchange.
    """

    tag: ClassVar[int]
    _schema: ClassVar[int]
    _types: ClassVar[dict[str, Any]]
    _start: ClassVar[bytes]
    """Prefix of every frame."""
    _leading: ClassVar[struct.Struct]
    """The prefix and the scalars before the first field whose size varies: read and written in one go."""
    _names: ClassVar[list[str]]
    """Of these scalars."""
    _others: ClassVar[list[tuple[str, Any]]]
    """The names and types of the fields behind them."""
    rules: ClassVar[dict[str, Rule | None]]
    """What each field may hold; None where nobody has said it."""

    def __init_subclass__(cls, *, tag: int):
        super().__init_subclass__()
        if not 1 <= tag <= 127:
            raise TypeError(f"the tag of {cls.__name__} must be in [1, 127], got {tag}")
        cls.tag = tag
        made: Any = dataclass(frozen=True, eq=False)(cls)
        hints = get_type_hints(cls, include_extras=True)
        cls._types = {field.name: _wire_type(cls, field.name, hints[field.name]) for field in dataclasses.fields(made)}
        cls.rules = {name: _rule(hints[name], kind) for name, kind in cls._types.items()}
        text = f"{cls.__name__}({', '.join(f'{name}: {kind!r}' for name, kind in cls._types.items())})"
        cls._schema = zlib.crc32(text.encode())
        cls._start = _PREFIX.pack(_MAGIC, tag, cls._schema)
        cls._names = list(itertools.takewhile(lambda name: cls._types[name] in _SCALARS, cls._types))
        cls._others = list(cls._types.items())[len(cls._names) :]
        scalars = (_SCALARS[cls._types[name]].format.removeprefix("<") for name in cls._names)
        cls._leading = struct.Struct(f"<{_PREFIX.size}s{''.join(scalars)}")

    def check(self, source: int) -> None:
        """Refuse what its fields must not hold.

        Raises
        ------
        ProtocolError
        """
        for name, rule in self.rules.items():
            if rule is not None and rule.text and not rule.holds(value := getattr(self, name)):
                got = printable(f"{value!r}", 80)
                raise ProtocolError(f"{type(self).__name__}.{name} from rank {source} must {rule.text}, got {got}")


def _wire_type(cls: type, name: str, hint: Any) -> Any:
    kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    of_array = [mark for mark in marks if not isinstance(mark, Rule)]
    if kind in (*_SCALARS, str, bytes) and not of_array:
        return kind
    if len(of_array) == 1 and isinstance(dtype := of_array[0], np.dtype) and dtype in _DTYPES:
        return dtype
    raise TypeError(f"{cls.__name__}.{name} must be bool, int, float, str, bytes or an array type, got {hint}")


def _rule(hint: Any, kind: Any) -> Rule | None:
    marks = get_args(hint) if get_origin(hint) is Annotated else ()
    return next((mark for mark in marks if isinstance(mark, Rule)), BY_TYPE.get(kind))


@dataclass
class Header:
    """What the first part of a frame says: scalars, and the shapes of the arrays to come."""

    cls: type[Message]
    scalars: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    size: int
    """Bytes of the encoded header itself."""

    payload_bytes: int = field(init=False)
    """Of all arrays together."""

    def __post_init__(self) -> None:
        self.payload_bytes = sum(array_bytes(self.cls._types[name], shape) for name, shape in self.shapes.items())

    def allocate(self) -> dict[str, NDArray[Any]]:
        """Memory for the arrays; call `check` first."""
        return {name: np.empty(shape, self.cls._types[name]) for name, shape in self.shapes.items()}

    def matches(self, wanted: Mapping[str, bool | int | str]) -> bool:
        """Whether the scalars have these values."""
        return all(self.scalars[name] == value for name, value in wanted.items())

    def check(self, source: int, shapes: Mapping[str, Shape], limit: int) -> None:
        """Refuse arrays of other shapes than were asked for, or above `limit` bytes.

        Raises
        ------
        ProtocolError
        """
        for name, shape in self.shapes.items():
            wanted = shapes.get(name)
            if wanted is not None and not _fits(shape, wanted):
                raise ProtocolError(
                    f"{self.cls.__name__}.{name} from rank {source} must have shape {_text(wanted)}, got {_text(shape)}"
                )
        if self.payload_bytes > limit:
            raise ProtocolError(
                f"{self.cls.__name__} from rank {source} must hold at most {limit} bytes, got {self.payload_bytes}"
            )
        for name, shape in self.shapes.items():
            # An empty array may still have a dimension that no machine can hold: count empty ones as 1.
            if 0 in shape and array_bytes(self.cls._types[name], [n or 1 for n in shape]) >= 2**63:
                raise ProtocolError(
                    f"{self.cls.__name__}.{name} from rank {source} must have a possible shape, got {_text(shape)}"
                )

    def message(self, arrays: Mapping[str, NDArray[Any]]) -> Message:
        """The message, with read-only arrays."""
        for array in arrays.values():
            array.setflags(write=False)
        message = object.__new__(self.cls)  # its fields are the ones of the class, and never set again
        message.__dict__.update(self.scalars, **arrays)
        return message


def array_bytes(dtype: np.dtype[Any], shape: Sequence[int]) -> int:
    """Size of an array; Python integers, so that a hostile shape can't overflow."""
    return math.prod(shape, start=dtype.itemsize)


def _fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    if None not in wanted:
        return shape == wanted
    return len(shape) == len(wanted) and all(w is None or w == n for n, w in zip(shape, wanted, strict=True))


def _text(shape: Shape) -> str:
    return "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"


def encode(message: Message) -> tuple[bytes, list[NDArray[Any]]]:
    """Header bytes and the arrays, C-contiguous, in the order of the fields.

    Raises
    ------
    TypeError
        If a value is not of its declared type: a bug of the sender's, found before anything is sent.
    """
    cls = type(message)
    parts, arrays = [cls._start], []
    for name, kind in cls._types.items():
        value = getattr(message, name)
        if isinstance(kind, np.dtype):
            if not isinstance(value, np.ndarray) or value.dtype != kind or value.ndim > MAX_DIMENSIONS:
                got = getattr(value, "dtype", type(value).__name__)
                raise TypeError(f"{cls.__name__}.{name} must be an array of {kind}, got {got}")
            parts.append(_SHAPES[value.ndim].pack(value.ndim, *value.shape))
            arrays.append(value if value.flags.c_contiguous else np.ascontiguousarray(value))
        else:
            parts.append(_encode_scalar(cls, name, kind, value))
    header = b"".join(parts)
    if len(header) > HEADER_LIMIT:
        raise TypeError(f"the scalars of {cls.__name__} must fit in {HEADER_LIMIT} bytes, got {len(header)}")
    return header, arrays


def _encode_scalar(cls: type[Message], name: str, kind: Any, value: Any) -> bytes:
    if not isinstance(value, _ACCEPTED[kind]) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{cls.__name__}.{name} must be of type {kind.__name__}, got {type(value).__name__}")
    try:
        if kind in _SCALARS:
            packed: bytes = _SCALARS[kind].pack(value)
            return packed
        data = value.encode() if kind is str else value
        return b"".join([_LENGTH.pack(len(data)), data])
    except (struct.error, OverflowError, UnicodeEncodeError) as error:
        raise TypeError(f"{cls.__name__}.{name} must fit its type, got {value!r}: {error}") from None


def decode(cls: type[Message], data: bytes | memoryview, source: int) -> Header:
    """Read a header that should be the one of `cls`; bytes behind it are not looked at.

    Raises
    ------
    ProtocolError
        Naming the rank, what was expected and what came.
    """
    reader = _Reader(data, cls, source)
    if reader.data[: _PREFIX.size] != cls._start:
        magic, tag, schema = reader.unpack(_PREFIX)
        if magic != _MAGIC:
            raise reader.error(f"the magic bytes {_MAGIC.hex()}", magic.hex())
        raise reader.error(f"tag {cls.tag} and schema {cls._schema:#010x}", f"tag {tag} and schema {schema:#010x}")
    _, *values = reader.unpack(cls._leading)
    scalars: dict[str, Any] = dict(zip(cls._names, values, strict=True))
    shapes: dict[str, tuple[int, ...]] = {}
    for name, kind in cls._others:
        if isinstance(kind, np.dtype):
            ndim = reader.peek()
            if ndim > MAX_DIMENSIONS:
                raise reader.error(f"at most {MAX_DIMENSIONS} dimensions in {name}", str(ndim))
            shapes[name] = reader.unpack(_SHAPES[ndim])[1:]
        elif kind in _SCALARS:
            (scalars[name],) = reader.unpack(_SCALARS[kind])
        else:
            raw = reader.take(reader.unpack(_LENGTH)[0])
            try:
                scalars[name] = raw.decode() if kind is str else raw
            except UnicodeDecodeError:
                raise reader.error(f"text in {name}", "bytes that are not UTF-8") from None
    return Header(cls, scalars, shapes, reader.position)


class _Reader:
    """Takes bytes from the front of a header, and never more than there are."""

    def __init__(self, data: bytes | memoryview, cls: type[Message], source: int):
        self.data, self.cls, self.source, self.position = memoryview(data), cls, source, 0
        self.limit = min(len(self.data), HEADER_LIMIT)

    def error(self, expected: str, got: str) -> ProtocolError:
        return ProtocolError(f"{self.cls.__name__} from rank {self.source} must have {expected}, got {got}")

    def take(self, count: int) -> bytes:
        start, self.position = self.position, self._end(count)
        return bytes(self.data[start : self.position])

    def peek(self) -> int:
        self._end(1)
        return self.data[self.position]

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        start, self.position = self.position, self._end(layout.size)
        return layout.unpack_from(self.data, start)

    def _end(self, count: int) -> int:
        end = self.position + count
        if end > self.limit:
            raise self.error(f"{end} bytes", f"{len(self.data)}")
        return end


def bytes_of(text: str) -> NDArray[np.uint8]:
    """Text as an array of a message, shape (bytes,): its scalars must be short, and thousands of columns are not."""
    return np.frombuffer(text.encode(), np.uint8)


def text_of(sent: NDArray[np.uint8]) -> str:
    """Text that came as an array.

    Raises
    ------
    ProtocolError
        If it is not UTF-8.
    """
    try:
        return sent.tobytes().decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"text must be UTF-8, got {error}") from None
