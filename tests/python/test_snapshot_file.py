"""A snapshot is a safetensors file: read by the independent library, and its digests made anew from SNAPSHOT.md alone."""

import json
import pathlib
import struct

import numpy as np
import pytest

safetensors = pytest.importorskip("safetensors.numpy")
xxhash = pytest.importorskip("xxhash")

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "snapshot_v1.safetensors"
TABLES = {"positions": np.uint64, "parents": np.int64, "bytes": np.uint64, "checksums": np.uint64, "parts": np.uint64,
          "tokens": np.uint32, "chains": np.uint8, "identity": np.uint8, "tenant": np.uint8, "spec": np.uint8,
          "plan": np.uint8, "artifact": np.uint8, "codes": np.uint8, "extra": np.uint8}


def header_of(image):
    length, = struct.unpack("<Q", image[:8])
    return json.loads(image[8:8 + length]), 8 + length


def test_the_independent_library_opens_it_and_every_digest_is_right():
    image = GOLDEN.read_bytes()
    tensors = safetensors.load(image)
    header, data = header_of(image)
    metadata = header["__metadata__"]
    assert (metadata["format"], metadata["version"], metadata["minimum_reader"]) == ("kvant-snapshot", "1", "1")
    stores = int(metadata["stores"])
    assert set(tensors) == {f"store.{i}.{name}" for i in range(stores) for name in TABLES} | {"digest"}
    first = min(header[name]["data_offsets"][0] for name in header if name.endswith((".codes", ".extra")))
    assert tensors["digest"].tobytes() == xxhash.xxh3_128(image[:data + first]).digest()

    kinds, sizes = set(), set()
    for i in range(stores):
        table = {name: tensors[f"store.{i}.{name}"] for name in TABLES}
        for name, dtype in TABLES.items():
            assert table[name].dtype == dtype, name
        assert metadata[f"store.{i}.identity"] == table["identity"].tobytes().hex()
        offset = 0
        for block, size in enumerate(table["bytes"]):
            codes = table["codes"][offset:offset + int(size)].tobytes()
            assert xxhash.xxh3_64(codes).intdigest() == table["checksums"][block]
            offset += int(size)
            sizes.add((i, int(size)))
            parent = table["parents"][block]
            assert parent < block
            before = table["identity"] if parent < 0 else table["chains"][parent]
            chain = xxhash.xxh3_128(before.tobytes() + table["tokens"][block].tobytes()).digest()
            assert table["chains"][block].tobytes() == chain
            tokens = table["tokens"].shape[1]
            assert table["positions"][block] == (0 if parent < 0 else table["positions"][parent] + tokens)
        assert offset == table["codes"].size
        offset = 0
        for block, kind, element_type, size, checksum in table["parts"].tolist():
            assert block < len(table["bytes"]) and element_type <= 2
            assert xxhash.xxh3_64(table["extra"][offset:offset + size].tobytes()).intdigest() == checksum
            offset += size
            kinds.add(kind)
        assert offset == table["extra"].size
    assert kinds == {2, 3}, "sinks and a state"
    assert len(sizes) > stores, "a demoted block is shorter than others of its store"
    assert any(tensors[f"store.{i}.artifact"].size for i in range(stores))


def test_every_tensor_is_whole_and_nothing_overlaps():
    image = GOLDEN.read_bytes()
    header, data = header_of(image)
    places = sorted(entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
    assert places[0][0] == 0 and places[-1][1] == len(image) - data
    assert all(before[1] == after[0] for before, after in zip(places, places[1:]))
