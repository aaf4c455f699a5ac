"""The bytes in which llama.cpp hands a sequence's cells out and takes them back (llama_state_seq_get_data, llama_state_get_data), as
arrays of keys and values and from arrays again.

The format is llama.cpp's own affair and changes with it: every field is checked against the model's shape, the last byte included,
and what is not known is refused by name. Nothing is allocated on the word of a field.

    u32 magic, i32 sequence            or, of a whole context: u32 length and the name of the architecture
    u32 streams, and for each of them: u32 cells, and where that is not 0:
        cells x {i32 position, u32 sequences (1), i32 sequence}
        u32 values are transposed, u32 layers
        layers x {i32 type, u64 bytes of a row, rows}                               keys
        layers x {i32 type, u64 bytes of a row, rows}                               values, or transposed:
        layers x {i32 type, u32 bytes of an element, u32 elements of a row, columns}
"""

import dataclasses
import math
import struct

import numpy as np

from kvant._core import CorruptError, InvalidArgumentError, UnsupportedError

_MAGIC = 0xAF143CD8
_CELL = np.dtype([("position", "<i4"), ("sequences", "<u4"), ("sequence", "<i4")])
_TYPES = {0: np.dtype("<f4"), 1: np.dtype("<f2")}  # ggml's numbers
_MAX_STREAMS = 256  # llama.cpp's LLAMA_MAX_SEQ
_MAX_NAME = 64


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the model says of its keys and values; the same for all layers."""

    layers: int
    kv_heads: int
    head_dim: int

    @property
    def row(self):
        return self.kv_heads * self.head_dim


@dataclasses.dataclass(frozen=True)
class StateFormat:
    """How one context writes its cells; it takes back only what is written the same way."""

    head: bytes  # what comes before the streams
    streams: int
    stream: int  # the one that holds the sequence
    transposed: bool  # values, without flash attention
    keys: np.dtype
    values: np.dtype


@dataclasses.dataclass(frozen=True)
class State:
    """Cells in order of position, 0.. without a gap. keys and values: per layer [cells, kv_heads, head_dim]; views of the bytes where
    the cells lie in that order already."""

    format: StateFormat
    cells: int
    keys: list
    values: list


class _Reader:
    """Fields from the front of a state, each named in what goes wrong."""

    def __init__(self, data):
        self._data = memoryview(data).cast("B")
        self._at = 0

    def take(self, name, count):
        if count > len(self._data) - self._at:
            raise CorruptError(f"llama.cpp state: {name} at byte {self._at} wants {count} bytes, {len(self._data) - self._at} are left")
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece

    def number(self, name, code="I"):
        return struct.unpack("<" + code, self.take(name, struct.calcsize("<" + code)))[0]

    def same(self, name, expected, code="I"):
        found = self.number(name, code)
        if found != expected:
            raise CorruptError(f"llama.cpp state: {name} is {found}, {expected} is expected of this model")

    def array(self, name, dtype, shape):
        return np.frombuffer(self.take(name, math.prod(shape) * dtype.itemsize), dtype).reshape(shape)

    def head(self):
        first = self.number("magic")
        if first == _MAGIC:
            self.take("sequence", 4)
        elif 0 < first <= _MAX_NAME:
            name = bytes(self.take("name of the architecture", first))
            if not all(32 < byte < 127 for byte in name):
                raise CorruptError(f"llama.cpp state: name of the architecture is {name!r}")
        else:
            raise UnsupportedError(f"llama.cpp state: magic is {first:#x}, known is {_MAGIC:#x}")
        return bytes(self._data[: self._at])

    def end(self):
        if self._at != len(self._data):
            raise UnsupportedError(
                f"llama.cpp state: {len(self._data) - self._at} bytes follow the cells: another cache (sliding window), recurrent state, or "
                "another version of llama.cpp"
            )


def _order(cells):
    """Indices that bring cells into order of position, None where they are."""
    alone = cells["sequences"] == 1
    if not alone.all():
        at = int(np.argmin(alone))
        raise UnsupportedError(f"llama.cpp state: cell {at} belongs to {cells['sequences'][at]} sequences, kvant stores one at a time")
    if not (cells["sequence"] == cells["sequence"][0]).all():
        raise UnsupportedError("llama.cpp state: the cells belong to several sequences, kvant stores one at a time")
    order = np.argsort(cells["position"], kind="stable")
    wrong = cells["position"][order] != np.arange(len(cells))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise UnsupportedError(f"llama.cpp state: position {at} of {len(cells)} is missing or there twice: a sliding window or a shifted context")
    return None if (order == np.arange(len(cells))).all() else order


def _type(reader, name):
    code = reader.number(name + "'s type", "i")
    if code not in _TYPES:
        raise UnsupportedError(f"llama.cpp state: {name}'s type is {code} of ggml; known are 0 (f32) and 1 (f16): set type_k and type_v")
    return _TYPES[code]


def _rows(reader, name, cells, shape):
    dtype = _type(reader, name)
    reader.same(name + "'s bytes of a row", shape.row * dtype.itemsize, "Q")
    return reader.array(name, dtype, (cells, shape.kv_heads, shape.head_dim))


def _columns(reader, name, cells, shape):
    dtype = _type(reader, name)
    reader.same(name + "'s bytes of an element", dtype.itemsize)
    reader.same(name + "'s elements of a row", shape.row)
    return reader.array(name, dtype, (shape.kv_heads, shape.head_dim, cells)).transpose(2, 0, 1)


def _one_type(what, rows):
    for layer, array in enumerate(rows):
        if array.dtype != rows[0].dtype:
            raise UnsupportedError(f"llama.cpp state: {what} of layer {layer} are {array.dtype}, of layer 0 {rows[0].dtype}")
    return rows[0].dtype


def read_state(data, shape):
    """The State in bytes of a sequence or of a context with one sequence.

    CorruptError for bytes that contradict themselves or the model's shape, UnsupportedError for what may be right but is not known;
    both name the field.
    """
    reader = _Reader(data)
    head = reader.head()
    streams = reader.number("streams")
    if not 1 <= streams <= _MAX_STREAMS:
        raise CorruptError(f"llama.cpp state: streams is {streams}, 1..{_MAX_STREAMS} are possible")
    found = None
    for stream in range(streams):
        cells = reader.number("cells")
        if cells == 0:
            continue
        if found is not None:
            raise UnsupportedError(f"llama.cpp state: streams {found[0]} and {stream} hold cells, kvant stores one sequence at a time")
        order = _order(reader.array("cells", _CELL, (cells,)))
        transposed = reader.number("values are transposed")
        if transposed > 1:
            raise CorruptError(f"llama.cpp state: values are transposed is {transposed}, 0 or 1 is possible")
        reader.same("layers", shape.layers)
        keys = [_rows(reader, f"keys of layer {layer}", cells, shape) for layer in range(shape.layers)]
        read = _columns if transposed else _rows
        values = [read(reader, f"values of layer {layer}", cells, shape) for layer in range(shape.layers)]
        form = StateFormat(head, streams, stream, bool(transposed), _one_type("keys", keys), _one_type("values", values))
        found = (stream, form, cells, order, keys, values)
    reader.end()
    if found is None:
        raise InvalidArgumentError("llama.cpp state: it holds no cells")
    _, form, cells, order, keys, values = found
    if order is not None:
        keys, values = [k[order] for k in keys], [v[order] for v in values]
    return State(form, cells, keys, values)


def new_state(form, cells, shape):
    """(bytes, State) of `cells` cells at positions 0.., written the way of `form`. The State's arrays are views of the bytes, zero until
    they are written."""
    data = bytearray()
    places = []

    def room(rows_shape, dtype):
        places.append((len(data), rows_shape, dtype))
        data.extend(bytes(math.prod(rows_shape) * dtype.itemsize))

    data += form.head + struct.pack("<I", form.streams) + bytes(4) * form.stream + struct.pack("<I", cells)
    meta = np.zeros(cells, _CELL)
    meta["position"], meta["sequences"] = np.arange(cells), 1
    data += meta.tobytes() + struct.pack("<II", form.transposed, shape.layers)
    code = {dtype: number for number, dtype in _TYPES.items()}
    for _ in range(shape.layers):
        data += struct.pack("<iQ", code[form.keys], shape.row * form.keys.itemsize)
        room((cells, shape.kv_heads, shape.head_dim), form.keys)
    for _ in range(shape.layers):
        if form.transposed:
            data += struct.pack("<iII", code[form.values], form.values.itemsize, shape.row)
            room((shape.kv_heads, shape.head_dim, cells), form.values)
        else:
            data += struct.pack("<iQ", code[form.values], shape.row * form.values.itemsize)
            room((cells, shape.kv_heads, shape.head_dim), form.values)
    data += bytes(4) * (form.streams - form.stream - 1)

    rows = [np.frombuffer(data, dtype, math.prod(place), at).reshape(place) for at, place, dtype in places]
    keys, values = rows[: shape.layers], rows[shape.layers :]
    if form.transposed:
        values = [v.transpose(2, 0, 1) for v in values]
    return data, State(form, cells, keys, values)
