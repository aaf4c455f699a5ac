"""States as llama.cpp writes them, made by hand from its description: the reference that readers and writers are held against."""

import struct

import numpy as np

SEQUENCE = struct.pack("<Ii", 0xAF143CD8, 5)
CONTEXT = struct.pack("<I", 5) + b"llama"
F32, F16, Q8_0 = 0, 1, 8


def written(keys, values, *, head=SEQUENCE, streams=1, stream=0, positions=None, counts=1, sequence=5, transposed=0, types=(F16, F16)):
    """[layers, cells, kv_heads, head_dim] as llama.cpp's state_write does it, field by field."""
    layers, cells, row = keys.shape[0], keys.shape[1], keys.shape[2] * keys.shape[3]
    dtypes = {F32: np.float32, F16: np.float16, Q8_0: np.int8}
    out = head + struct.pack("<I", streams)
    for s in range(streams):
        if s != stream:
            out += struct.pack("<I", 0)
            continue
        out += struct.pack("<I", cells)
        for position in range(cells) if positions is None else positions:
            out += struct.pack("<iI", position, counts) + struct.pack("<i", sequence) * counts
        out += struct.pack("<II", transposed, layers)
        for layer in range(layers):
            rows = keys[layer].astype(dtypes[types[0]]).reshape(cells, row)
            out += struct.pack("<iQ", types[0], rows.itemsize * row) + rows.tobytes()
        for layer in range(layers):
            rows = values[layer].astype(dtypes[types[1]]).reshape(cells, row)
            if transposed:
                out += struct.pack("<iII", types[1], rows.itemsize, row) + b"".join(rows[:, j].tobytes() for j in range(row))
            else:
                out += struct.pack("<iQ", types[1], rows.itemsize * row) + rows.tobytes()
    return out
