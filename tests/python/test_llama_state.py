"""States of llama.cpp: bytes made here by hand as llama.cpp writes them, and bytes that nobody should trust."""

import struct

import kvant
import numpy as np
import pytest
from kvant.llama_state import Shape, new_state, read_state

from llama_states import CONTEXT, F16, F32, Q8_0, SEQUENCE, written

SHAPE = Shape(layers=3, kv_heads=2, head_dim=8)


def some_rows(cells=7):
    rng = np.random.default_rng(3)
    return rng.integers(-99, 99, (2, SHAPE.layers, cells, SHAPE.kv_heads, SHAPE.head_dim)).astype(np.float32)


FORMS = [
    {},
    {"head": CONTEXT, "sequence": 0},
    {"transposed": 1},
    {"types": (F32, F16)},
    {"types": (F16, F32), "transposed": 1},
    {"streams": 4, "stream": 2},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rows_come_out_as_they_went_in(form):
    keys, values = some_rows()
    state = read_state(written(keys, values, **form), SHAPE)
    assert state.cells == 7
    assert all((state.keys[layer] == keys[layer]).all() and (state.values[layer] == values[layer]).all() for layer in range(SHAPE.layers))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_is_written_is_what_llama_cpp_writes(form):
    keys, values = some_rows()
    given = written(keys, values, **{**form, "sequence": 0})
    data, state = new_state(read_state(given, SHAPE).format, 7, SHAPE)
    for layer in range(SHAPE.layers):
        state.keys[layer][...] = keys[layer]
        state.values[layer][...] = values[layer]
    assert bytes(data) == given


def test_rows_in_order_are_views_of_the_bytes():
    keys, values = some_rows()
    data = bytearray(written(keys, values))
    state = read_state(data, SHAPE)
    data[-2:] = np.float16(1234).tobytes()
    assert state.values[-1][-1, -1, -1] == 1234


def test_cells_are_brought_into_order_of_position():
    keys, values = some_rows()
    order = [3, 0, 6, 1, 2, 5, 4]
    state = read_state(written(keys[:, order], values[:, order], positions=order), SHAPE)
    assert all((state.keys[layer] == keys[layer]).all() and (state.values[layer] == values[layer]).all() for layer in range(SHAPE.layers))


@pytest.mark.parametrize(
    "change, error, says",
    [
        ({"head": struct.pack("<Ii", 0xAF143CD9, 0)}, kvant.UnsupportedError, "magic is 0xaf143cd9"),
        ({"head": struct.pack("<I", 4) + b"ll\0a"}, kvant.CorruptError, "architecture"),
        ({"streams": 0}, kvant.CorruptError, "streams is 0"),
        ({"streams": 300}, kvant.CorruptError, "streams is 300"),
        ({"counts": 2}, kvant.UnsupportedError, "cell 0 belongs to 2 sequences"),
        ({"positions": [0, 1, 2, 4, 5, 6, 7]}, kvant.UnsupportedError, "position 3 of 7"),
        ({"positions": [0, 1, 2, 2, 3, 4, 5]}, kvant.UnsupportedError, "position 3 of 7"),
        ({"positions": [-1, 0, 1, 2, 3, 4, 5]}, kvant.UnsupportedError, "position 0 of 7"),
        ({"transposed": 2}, kvant.CorruptError, "transposed is 2"),
        ({"types": (Q8_0, F16)}, kvant.UnsupportedError, "keys of layer 0's type is 8"),
        ({"types": (F16, Q8_0)}, kvant.UnsupportedError, "values of layer 0's type is 8"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_what_is_not_known_is_refused_by_name(change, error, says):
    keys, values = some_rows()
    with pytest.raises(error, match=says):
        read_state(written(keys, values, **change), SHAPE)


@pytest.mark.parametrize(
    "shape, says",
    [
        (Shape(2, 2, 8), "layers is 3, 2 is expected"),
        (Shape(3, 2, 16), "keys of layer 0's bytes of a row is 32, 64"),
        (Shape(3, 1, 8), "keys of layer 0's bytes of a row is 32, 16"),
    ],
)
def test_another_models_state_is_refused(shape, says):
    keys, values = some_rows()
    with pytest.raises(kvant.CorruptError, match=says):
        read_state(written(keys, values), shape)


def test_every_end_within_the_state_is_an_error():
    keys, values = some_rows(3)
    for transposed in (0, 1):
        data = written(keys, values, transposed=transposed)
        for length in range(len(data)):
            with pytest.raises((kvant.CorruptError, kvant.UnsupportedError), match="llama.cpp state"):
                read_state(data[:length], SHAPE)
        with pytest.raises(kvant.UnsupportedError, match="1 bytes follow"):
            read_state(data + b"\0", SHAPE)


def test_bytes_of_an_enemy_raise_typed_errors_and_allocate_nothing():
    keys, values = some_rows(3)
    data = written(keys, values)
    rng = np.random.default_rng(4)
    for _ in range(3000):
        bad = bytearray(data)
        for _ in range(rng.integers(1, 5)):
            bad[rng.integers(len(bad))] = rng.integers(256)
        try:
            state = read_state(bad, SHAPE)
        except kvant.Error as error:
            assert str(error).startswith("llama.cpp state")
        else:
            assert state.cells == 3  # the change hit a number of a row
    huge = SEQUENCE + struct.pack("<II", 1, 0xFFFFFFFF)
    with pytest.raises(kvant.CorruptError, match="cells at byte 16 wants 51539607540 bytes, 0 are left"):
        read_state(huge, SHAPE)


def test_no_cells():
    with pytest.raises(kvant.InvalidArgumentError, match="no cells"):
        read_state(SEQUENCE + struct.pack("<II", 1, 0), SHAPE)
