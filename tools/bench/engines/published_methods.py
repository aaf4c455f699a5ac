#!/usr/bin/env python3
"""What the methods of the published package VeloxQuant-MLX cost in quality beside kvant's plans: one model, one text, one process.

  published_methods.py MODEL [--text FILE ...] [--windows 2] [--only NAME ...]

MODEL is a checkpoint's folder; PYTHONPATH names kvant's package; `pip install veloxquant-mlx==0.94.15` brings the other. mlx_lm runs the
model in float32. Each window of 2048 tokens is read once over mlx_lm's own cache, which is exact, and once over every plan, in passes of
512 tokens, so that errors feed forward. Counted are the last three quarters of each window. Prints the table of tools/bench/README.md and
what mlx_lm's save_prompt_cache and load_prompt_cache make of the caches. Before anything is measured, kvant with uncompressed rows must
give the exact answer.

Bits are those of one number, side information included; `with raw rows` is their mean over keys and values at the end of a window, rows
that are not compressed counted with 16 bits; `kept` are the bytes that the cache objects hold by then, where a raw number of a float32
model takes 32 bits.
"""
import argparse
import dataclasses
import itertools
import pathlib
import tempfile
import typing
import uuid
import warnings

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, load_prompt_cache, make_prompt_cache, save_prompt_cache

import kvant
import kvant.mlx_lm as km

try:
    import veloxquant_mlx as published
    from veloxquant_mlx.allocators import vecinfer
    from veloxquant_mlx.quantizers.polarquant import PolarQuantizer
    from veloxquant_mlx.quantizers.qjl import QJLQuantizer
    from veloxquant_mlx.quantizers.turboquant_mse import TurboQuantMSE
    from veloxquant_mlx.quantizers.turboquant_prod import TurboQuantProd
except ImportError as error:
    raise SystemExit(f"published_methods.py: {error}; pip install veloxquant-mlx==0.94.15") from None

ROOT = pathlib.Path(__file__).resolve().parents[3]
WINDOW, STEP, SKIP = 2048, 512, 512
BLOCK = 128  # of kvant's stores
SEED = 42
INT8_BITS = 8.125  # of a head of 128: a scale of 16 bits a row
EXACT = 1e-5  # most KL of uncompressed rows: float32 sums of two kernels


@dataclasses.dataclass
class Plan:
    """Caches of all layers for one window, by make(). bits(caches): of a key's and of a value's number. raw: rows of a full window that
    are not compressed; None where bits() counts them already."""

    name: str
    make: typing.Callable
    bits: typing.Callable
    raw: int | None = 0


class RoundTrip(KVCache):
    """mlx_lm's own cache over rows that went through a codec and back: attention sees none raw, not even those of its own pass."""

    def __init__(self, codec):
        super().__init__()
        self._codec = codec

    def update_and_fetch(self, keys, values):
        return super().update_and_fetch(*self._codec(keys, values))


def read(model, ids, caches):
    """Log probabilities [tokens, vocabulary] behind each of the ids."""
    passes = []
    for at in range(0, len(ids), STEP):
        logits = model(mx.array([ids[at : at + STEP]]), cache=caches)[0].astype(mx.float32)
        passes.append(np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True)))
    return np.concatenate(passes)


def divergence(exact, answer):
    return np.sum(np.exp(exact) * (exact - answer), axis=-1)[SKIP:]


def loss(answer, ids):
    return -answer[np.arange(SKIP, len(ids) - 1), ids[SKIP + 1 :]]


# The published package, as mlx_lm runs it and, where it refuses to be run, by its quantizers.


def served(model, method, key_bits=None, value_bits=None, raw=0, name=None, **fields):
    def make():
        return published.KVCacheBuilder.for_model(model, published.KVCacheConfig(method=method, seed=SEED, **fields))

    def accounted(caches):
        numbers = len(caches) * WINDOW * model.args.num_key_value_heads * model.args.head_dim
        return tuple(8 * sum(getattr(c, f"compressed_{side}_bytes") for c in caches) / numbers for side in ("key", "value"))

    own = key_bits is None
    return Plan(name or f"{method}, defaults", make, accounted if own else lambda _: (key_bits, value_bits), None if own else raw)


def trained(model, ids):
    """Fields of each layer's configuration: codebooks of 256 centroids for every four numbers, by the package's own functions."""
    caches = make_prompt_cache(model)
    read(model, ids, caches)
    hadamard = vecinfer.walsh_hadamard_matrix(model.args.head_dim, dtype=mx.float32)
    layers = []
    for cache in caches:
        keys, values = (x[0, :, : len(ids)] for x in (cache.keys, cache.values))
        smooth = vecinfer.calibrate_smooth_factors(keys.transpose(1, 0, 2))
        turned = vecinfer.apply_dual_transform_keys(keys[None], smooth, hadamard)[0]
        codebooks = [vecinfer.train_codebook(x.reshape(-1, 4)[::8], 256, max_iter=12) for x in (turned, values)]
        layers.append(dict(zip(("smooth_factors", "key_codebook", "value_codebook"), (smooth, *codebooks))))
    return layers


def fitted_vecinfer(model, ids):
    """ids: of text that is not counted."""
    layers = []
    shape = {"head_dim": model.args.head_dim, "key_sub_dim": 4, "value_sub_dim": 4, "key_codebook_bits": 8, "value_codebook_bits": 8}

    def make():
        if not layers:
            layers.extend(trained(model, ids))
        configs = [published.KVCacheConfig(method="vecinfer", seed=SEED, **shape, **layer) for layer in layers]
        return [published.KVCacheFactory.create(config) for config in configs]

    return Plan("vecinfer, fitted codebooks", make, lambda _: (2, 2))


def int8_rows(values):
    """What the package's caches outside mlx_lm do with values."""
    scales = mx.maximum(mx.abs(values).max(-1, keepdims=True) / 127, 1e-8).astype(mx.float16).astype(mx.float32)
    return mx.clip(mx.round(values / scales), -127, 127) * scales


def quantizer(model, name, codec, key_bits, unit):
    """unit: the quantizer is for rows of length 1, the cache keeps their length in float32."""

    def trip(keys, values):
        rows = keys.reshape(-1, keys.shape[-1])
        length = mx.maximum(mx.linalg.norm(rows, axis=-1, keepdims=True), 1e-4) if unit else mx.array(1.0)
        decoded = codec.decode(codec.encode((rows / length).astype(mx.float16 if unit else mx.float32))).astype(mx.float32)
        return (decoded * length).reshape(keys.shape), int8_rows(values)

    return Plan(name, lambda: [RoundTrip(trip) for _ in model.layers], lambda _: (key_bits, INT8_BITS))


def published_plans(model, calibration):
    dim = model.args.head_dim
    packed = {1: 1, 2: 2, 3: 3.25}  # bits of a code in the package's words of 32 bits, ten codes of three bits to a word
    for b, stage in packed.items():
        yield served(model, "turboquant_rvq", 2 * stage + 16 / dim, 16, name=f"turboquant_rvq {b}, values raw", bit_width_inlier=b)
    for b in (2, 4):
        yield served(model, "kivi", b + 1, b + 1, raw=128, name=f"kivi {b}, groups of 32", bit_width_inlier=b)
    yield fitted_vecinfer(model, calibration)
    for method in ("kvquant", "gear", "zipcache", "skvq"):
        yield served(model, method)
    for b in (2, 3, 4):
        yield quantizer(model, f"turboquant_mse {b}, values int8", TurboQuantMSE(d=dim, b=b, seed=SEED), b + 32 / dim, unit=True)
    for b in (3, 4):
        codec = TurboQuantProd(d=dim, b=b, seed=SEED)
        yield quantizer(model, f"turboquant_prod {b}, values int8", codec, b - 1 + (codec._m_eff + 16 + 32) / dim, unit=True)
    for m in (dim, 4 * dim):
        yield quantizer(model, f"qjl m={m}, values int8", QJLQuantizer(d=dim, m=m, seed=SEED), (m + 16) / dim, unit=False)
    for b in (2, 4):  # a radius of 16 bits for sixteen numbers, an angle of b bits for each of the others
        yield quantizer(model, f"polar {b}, values int8", PolarQuantizer(d=dim, b=b, seed=SEED), b * 15 / 16 + 1, unit=False)


# kvant, as mlx_lm runs it, and by its codes alone.


def stored(model, path, keys, values, **fields):
    def make():
        return km.build_caches(model, kvant.KVCacheConfig(model_path=path, keys=keys, values=values, **fields))

    def bits(caches):
        info = caches[0].conversation.caches.store().info
        return info["key_bits_per_element"], info["value_bits_per_element"]

    raw = BLOCK if fields else BLOCK + 4  # a window's last block switches to codes later; the 64 recent tokens are within it
    return Plan(f"{keys}/{values}" + (", recent 0, sinks 0" if fields else ""), make, bits, raw)


class Codes:
    """Rows through the blocks of a store and back. Attention reads a block as codes a little after it is full, so tokens that nobody
    reads follow every pass; ids that were never used keep blocks of different layers and windows apart."""

    def __init__(self, model, keys, values):
        spec = kvant.StoreSpec(name="codes", model=uuid.uuid4().hex, tokenizer="none", layers=1, kv_heads=model.args.num_key_value_heads,
                               head_dim=model.args.head_dim, dtype="f32", keys=keys, values=values, sink_tokens=0)  # fmt: skip
        self.store = kvant.connect("embedded:").open_store(spec)
        self._ids = itertools.count()

    def __call__(self, keys, values):
        count = keys.shape[2]
        rows = [np.ascontiguousarray(np.pad(np.array(x[0]).transpose(1, 0, 2), ((0, BLOCK), (0, 0), (0, 0)))) for x in (keys, values)]
        sequence = self.store.open((), max_step_tokens=count + BLOCK, recent_tokens=0, tail="f32")
        sequence.reserve(count + BLOCK)
        sequence.append(0, *rows)
        sequence.advance(list(itertools.islice(self._ids, count + BLOCK)))
        decoded = [x[:count] for x in rows]
        sequence.copy_rows(0, 0, count, *decoded)
        return tuple(mx.array(x).transpose(1, 0, 2)[None] for x in decoded)


def codes_alone(model, keys, values):
    codes = Codes(model, keys, values)
    info = codes.store.info
    bits = info["key_bits_per_element"], info["value_bits_per_element"]
    return Plan(f"{keys}/{values}, codes alone", lambda: [RoundTrip(codes) for _ in model.layers], lambda _: bits)


# Codecs that have the name of a published method, at no more bits than it.
NAMESAKES = [
    ("turboquant_rvq:bits=1", "f16"), ("turboquant_rvq:bits=2", "f16"), ("kivi:bits=2,group=32", "kivi:bits=2,group=32"),
    ("kivi:bits=4,group=32", "kivi:bits=4,group=32"), *((f"turboquant_mse:bits={b},gauge=none", "int8") for b in (2, 3, 4)),
    *((f"turboquant_prod:bits={b},m=64", "int8") for b in (3, 4)), ("qjl:m=128", "int8"), ("qjl:m=512", "int8"),
    *((f"polarquant:first={b},others={b},levels=4", "int8") for b in (2, 4)),
]  # fmt: skip


def kvant_plans(model, path):
    codecs = {b: f"turboquant_mse:bits={b}" for b in (1, 2, 3, 4)}
    same = [(codec, codec) for codec in codecs.values()]
    mixed = [(codecs[2], "f16"), (codecs[4], "f16")]
    for keys, values in [*same, ("int8", "int8"), *mixed]:
        yield stored(model, path, keys, values)
    for keys, values in [*same, *mixed]:
        yield stored(model, path, keys, values, recent_tokens=0, sink_tokens=0)
    for keys, values in [*same, *mixed, *((codecs[b], "int8") for b in (2, 3, 4)), *NAMESAKES]:
        yield codes_alone(model, keys, values)


# What is printed.


def kept_bits(caches, numbers):
    """Bits that the objects hold for each number they cache; None for a round trip, which is no cache of anybody's."""
    if isinstance(caches[0], RoundTrip):
        return None
    if isinstance(caches[0], km.KvantKVCache):
        return 8 * sum(c.nbytes for c in caches) / numbers
    arrays = [array for cache in caches for _, array in tree_flatten(vars(cache)) if isinstance(array, mx.array)]
    return 8 * sum(array.nbytes for array in arrays) / numbers


def row(model, plan, windows, exact):
    answers, kept = [], None
    for ids in windows:
        caches = plan.make()
        answers.append(read(model, ids, caches))
    keys, values = plan.bits(caches)
    mean = (keys + values) / 2
    effective = mean + (16 - mean) * (plan.raw or 0) / WINDOW
    kept = kept_bits(caches, 2 * len(caches) * WINDOW * model.args.num_key_value_heads * model.args.head_dim)
    km.unpatch_mlx_lm(model)
    kl = np.mean([divergence(e, a) for e, a in zip(exact, answers)])
    base, changed = (np.mean([loss(a, ids) for a, ids in zip(side, windows)]) for side in (exact, answers))
    same = np.mean([e[SKIP:].argmax(-1) == a[SKIP:].argmax(-1) for e, a in zip(exact, answers)])
    return (
        f"| {plan.name} | {keys:.3f} | {values:.3f} | {effective:.2f} | {'–' if kept is None else f'{kept:.1f}'} | {kl:.5f} "
        f"| {100 * (changed / base - 1):+.2f} % | {100 * same:.1f} % |"
    )


def after_saving(model, ids, caches, folder):
    """What mlx_lm's functions make of the caches, in words."""
    model(mx.array([ids[:-1]]), cache=caches)
    file = str(pathlib.Path(folder) / f"{type(caches[0]).__name__}.safetensors")
    try:
        save_prompt_cache(file, caches)
        loaded = load_prompt_cache(file)
        answers = [model(mx.array([ids[-1:]]), cache=c) for c in (caches, loaded)]
        return f"works: the next logits differ by {mx.abs(answers[0] - answers[1]).max().item():.1e} at most"
    except Exception as error:  # whatever it is, it is the result
        return f"fails: {type(error).__name__}: {error}"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--text", nargs="+", type=pathlib.Path, help="default: the C++ of this project's client and daemon")
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--only", nargs="+", help="plans whose names begin so")
    return parser.parse_args()


def main():
    options = arguments()
    warnings.simplefilter("ignore")  # the package warns of Metal's absence
    model, tokenizer = mlx_lm.load(options.model)
    model.set_dtype(mx.float32)
    files = options.text or sorted(file for part in ("client", "daemon") for file in (ROOT / part).rglob("*.cc"))
    ids = tokenizer.encode("".join(file.read_text(encoding="utf-8") for file in files))
    # Windows lie evenly over the text; ahead of the first one is what codebooks are trained on.
    starts = [i * (len(ids) - WINDOW) // options.windows for i in range(options.windows + 1)]
    calibration, *windows = (ids[start : start + WINDOW] for start in starts)
    if len(ids) < WINDOW * (options.windows + 1):
        raise SystemExit(f"published_methods.py: a text of {len(ids)} tokens, {WINDOW * (options.windows + 1)} are wanted")
    exact = [read(model, w, make_prompt_cache(model)) for w in windows]
    for plan in (stored(model, options.model, "f32", "f32"), codes_alone(model, "f32", "f32")):
        if (kl := divergence(exact[0][: 2 * STEP], read(model, windows[0][: 2 * STEP], plan.make())).mean()) > EXACT:
            raise SystemExit(f"published_methods.py: {plan.name}: KL {kl:.1e} over uncompressed rows")
        km.unpatch_mlx_lm(model)
    print(f"exact loss {np.mean([loss(e, w) for e, w in zip(exact, windows)]):.4f} nats per token\n")
    print("| keys and values | K bits | V bits | with raw rows | kept | KL | loss change | same top token |")
    print("|---|---|---|---|---|---|---|---|")
    for plan in (*published_plans(model, calibration), *kvant_plans(model, options.model)):
        if options.only is None or plan.name.startswith(tuple(options.only)):
            print(row(model, plan, windows, exact), flush=True)
    print("\nsaved by save_prompt_cache, loaded by load_prompt_cache:")
    with tempfile.TemporaryDirectory() as folder:
        for method in ("turboquant_rvq", "kivi", "vecinfer"):
            print(f"{method}: {after_saving(model, ids[:600], served(model, method).make(), folder)}")
        km.patch_mlx_lm(model, kvant.KVCacheConfig(model_path=options.model))
        print(f"kvant: {after_saving(model, ids[:600], km.make_prompt_cache(model), folder)}")


if __name__ == "__main__":
    main()
