#!/usr/bin/env python3
"""Writes the golden bytes of segments from SEGMENT.md alone, without the project's code (libxxhash through ctypes).

Usage: make_segments.py [FOLDER]   (default: beside this file). Run again only with a new layout version.
"""
import ctypes, pathlib, struct, sys

xxh = ctypes.CDLL("libxxhash.so.0")
xxh.XXH3_64bits.restype = ctypes.c_uint64
xxh.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
xxh64 = lambda b: xxh.XXH3_64bits(b, len(b))

class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]
xxh.XXH3_128bits.restype = Hash128
xxh.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
def xxh128(b):
    h = xxh.XXH3_128bits(b, len(b))
    return struct.pack(">QQ", h.high, h.low)

identity = bytes(range(16))
boot = 0x0123456789ABCDEF
slab = struct.pack("<8sIIQQII16sQ16s", b"KVNTSLAB", 2, 7, 4096 + 2 * 4096, 4096, 2, 16, identity, boot, identity[::-1])
arena = struct.pack("<8sIIQQQ", b"KVNTAREN", 2, 0, 1 << 20, boot, 42)

# A slot of 16 tokens: header 128, token ids 64 (already a multiple of 64), payload 100 bytes.
tokens = struct.pack("<16I", *[1000 + 3 * i for i in range(16)])
payload = bytes((5 * i) & 255 for i in range(100))
chain = xxh128(identity + tokens)
header = struct.pack("<4sHHII16s16s16sQQQQ24s", b"KBLK", 1, 2, 16, 0, identity, chain, identity, 0, 9, len(payload),
                     xxh64(payload), bytes(24))
slot = header + struct.pack("<Q", xxh64(header + tokens)) + tokens + payload

# A manifest: the spec of wire_store_spec.capnp.hex, one line of plan text, an artifact of 70 bytes.
def sections(*parts):
    out, places = b"", []
    for part in parts:
        out += bytes(-(112 + len(out)) % 64)
        places += [112 + len(out), len(part)]
        out += part
    return out + bytes(-(112 + len(out)) % 4096), places
spec = bytes.fromhex("".join((pathlib.Path(__file__).parent / "wire_store_spec.capnp.hex").read_text().split()))
body, places = sections(spec, b"artifact none\n", bytes(range(70)))
manifest = struct.pack("<8sIIQQ16s6QQ", b"KVNTMANI", 2, 0, 112 + len(body), boot, identity, *places, xxh64(body))
manifest += struct.pack("<Q", xxh64(manifest)) + body

folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
for name, data in (("manifest", manifest), ("slab_header", slab), ("arena_header", arena), ("block_slot", slot)):
    text = data.hex()
    (folder / f"{name}.hex").write_text("\n".join(text[i:i + 64] for i in range(0, len(text), 64)) + "\n")
