#!/usr/bin/env python3
"""Writes the first files of tests/fuzz/corpus: one valid input of each kind, from which fuzzers go on. Run from the root of the tree
when the schema has changed; what fuzzers found since stays as it is.
"""
import pathlib
import re
import struct
import subprocess
import tempfile

CORPUS = pathlib.Path("tests/fuzz/corpus")
SCHEMA = pathlib.Path("protocol/schema/kvant.capnp")

# Parameters of calls: the struct that a method's parameter list stands for, and a value.
TENSOR = "(arena = 1, elementType = f32, offset = {offset}, tokens = 1, heads = {heads}, dim = 16, tokenStride = {stride}, headStride = 16)"
OPTIONS = "(maxStepTokens = 16, label = \"x\", tail = (arena = 1, elementType = f32, capacityTokens = 64, offset = 4096))"
SPEC = ("(name = \"n\", model = \"m\", tokenizer = \"t\", layers = 2, kvHeads = 2, headDim = 16, blockTokens = 16, sinkTokens = 4, "
        "keys = \"{keys}\", values = \"f16\", overrides = [(firstLayer = 0, lastLayer = 0, keys = \"int8\", values = \"f32\")])")
CALLS = {
    ("Daemon", "hello"): ("hello @0 :K.Hello;", "(hello = (protocolVersion = 1, segmentLayoutVersion = 1, clientName = \"c\"))"),
    ("Session", "createArena"): ("bytes @0 :UInt64;", "(bytes = 65536)"),
    ("Session", "openStore"): ("spec @0 :K.StoreSpec;", "(spec = " + SPEC.format(keys="turboquant_mse:bits=4") + ")"),
    ("Session", "slabs"): ("store @0 :UInt32; from @1 :UInt32;", "(store = 2)"),
    ("Session", "openSequence"): ("store @0 :UInt32; tokens @1 :List(UInt32); options @2 :K.SequenceOptions;",
                                  f"(store = 2, tokens = [1, 2, 3], options = {OPTIONS})"),
    ("Session", "attend"): ("items @0 :List(K.AttendItem);",
                            "(items = [(sequence = 0x5E90E4CE5E90E4CE, layer = 0, newTokens = 1, q = " + TENSOR.format(offset=40960, heads=4, stride=64) +
                            ", out = " + TENSOR.format(offset=49152, heads=4, stride=64) + ", scale = 0.25)])"),
    ("Session", "advance"): ("items @0 :List(K.AdvanceItem);", "(items = [(sequence = 0x5E90E4CE5E90E4CE, tokens = [5, 6], waitSealed = true)])"),
    ("Admin", "stats"): ("unused @0 :UInt64;", "(unused = 0)"),
    ("Admin", "stores"): ("cursor @0 :Data;", "(cursor = \"fuzz\")"),
    ("Admin", "sequences"): ("from @0 :UInt64;", "(from = 1)"),
    ("Admin", "inspect"): ("sequence @0 :UInt64; firstBlock @1 :UInt64;", "(sequence = 0x5E90E4CE5E90E4CE, firstBlock = 0)"),
    ("Admin", "evict"): ("store @0 :Text; maxBlocks @1 :UInt64; dryRun @2 :Bool;", "(store = \"fuzz\", maxBlocks = 1, dryRun = false)"),
}
INTERFACES = {"Daemon": 0, "Session": 1, "Admin": 2}


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def encode(fields, value):
    """The flat message of a struct with these fields."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "call.capnp"
        file.write_text(f"@0xa1b2c3d4e5f60718;\nusing K = import \"kvant.capnp\";\nstruct Call {{ {fields} }}\n")
        (pathlib.Path(folder) / "kvant.capnp").write_bytes(SCHEMA.read_bytes())
        return subprocess.run(["capnp", "encode", "-I", "/usr/include", str(file), "Call"], input=value.encode(), capture_output=True,
                              check=True).stdout


def ordinal(interface, method):
    body = re.search(rf"^interface {interface} {{(.*?)^}}", SCHEMA.read_text(), re.S | re.M).group(1)
    return int(re.search(rf"^\s+{method} @(\d+)", body, re.M).group(1))


def messages():
    frames = b""
    for (interface, method), (fields, value) in CALLS.items():
        message = encode(fields, value)
        frames += message
        write("wire_message", f"{interface}.{method}", bytes([INTERFACES[interface], ordinal(interface, method)]) + message)
    write("socket_frame", "one", b"\xff" + encode(*CALLS["Session", "openStore"]))
    write("socket_frame", "many_in_pieces", b"\x01" + frames)
    write("socket_frame", "three_segments", b"\x02" + struct.pack("<IIII", 2, 1, 0, 2) + bytes(24))
    write("socket_frame", "too_many_segments", b"\x02" + struct.pack("<II", 0xFFFFFFFF, 1) + bytes(64))
    write("socket_frame", "too_long", b"\x02" + struct.pack("<II", 0, 0xFFFFFFFF) + bytes(64))
    write("socket_frame", "empty", b"\x00")


def places():
    def place(offset, tokens, heads, dim, token_stride, head_stride):
        return struct.pack("<QBIIIQQ", offset, 0, tokens, heads, dim, token_stride, head_stride)

    ring = struct.pack("<IIIQBI", 2, 2, 16, 4096, 0, 64)
    write("arena_place", "inside", place(4096, 2, 3, 16, 48, 16) + struct.pack("<QQB", 4096, 4096, 6) + ring)
    write("arena_place", "to_the_last_byte", place(4096, 1, 1, 15360, 0, 0) + struct.pack("<QQB", 65528, 8, 3) + ring)
    write("arena_place", "overflow", place(4096, 2**32 - 1, 2**32 - 1, 2**32 - 1, 2**64 - 1, 2**64 - 1) + struct.pack("<QQB", 2**64 - 8, 16, 3) +
          struct.pack("<IIIQBI", 1024, 1024, 1024, 4096, 2, 2**32 - 1))
    write("arena_place", "coinciding", place(4096, 2**16, 2**16, 16, 0, 0) + struct.pack("<QQB", 0, 0, 0) + ring)


def specs():
    shape = struct.pack("<BBHHBB", 2, 2, 64, 32, 4, 0)
    for name, keys, values in (("raw", "f16", "bf16"), ("lloyd", "turboquant_mse:bits=4", "turboquant_mse:bits=2"), ("int8", "int8", "f32"),
                               ("nonsense", "turboquant_mse:bits=99,,=", ":"), ("nested", "outlier:hot=(int8),rest=(turboquant_mse:bits=2)", "f16"),
                               ("deep", "a:b=(" * 40, "f16"), ("version", "turboquant_mse@1:bits=4,center=0", "int8@7")):
        write("codec_spec", name, f"{keys}\n{values}\n".encode() + shape)
    write("codec_spec", "layers", b"f16\nf16\n" + struct.pack("<BBHHBB", 4, 1, 32, 16, 0, 2) + bytes([0, 1]) + b"int8\nint8\n" + bytes([3, 2]) + b"f32\n\n")


def artifacts():
    def image(header, data=b""):
        return struct.pack("<Q", len(header)) + header.encode() + data

    good = '{"means":{"dtype":"F32","shape":[1,8],"data_offsets":[0,32]},"a":{"dtype":"F16","shape":[2],"data_offsets":[32,36]}}'
    write("safetensors", "good", image(good, struct.pack("<8f", *range(8)) + bytes(4)))
    write("safetensors", "nan", image(good, b"\xff" * 36))
    write("safetensors", "deep", image('{"a":{"shape":' + "[" * 500 + "}"))
    write("safetensors", "metadata", image('{"__metadata__":{"made by":"us"}}'))
    write("safetensors", "huge_shape", image('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'))
    write("safetensors", "overlap", image('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}', bytes(12)))
    write("safetensors", "long_header", struct.pack("<Q", 2**63) + b"{}")


if __name__ == "__main__":
    messages()
    places()
    specs()
    artifacts()
