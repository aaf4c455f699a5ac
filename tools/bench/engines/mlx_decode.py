#!/usr/bin/env python3
"""Milliseconds per decoded token of mlx_lm with its own KVCache and with kvant's, paired in one run, and the bytes that each holds.

  mlx_decode.py MODEL --text FILE [--context 1024 8192] [--tokens 32] [--rounds 5] [--keys SPEC] [--values SPEC] [--float32]

MODEL is a checkpoint's folder; PYTHONPATH names the package. Both caches hold the same rows: those of a real text of up to 1024 tokens,
repeated until the context is full. Then both decode the same tokens in turn, in rounds, so that what else the machine does hits both. The figure is the median of the rounds' medians, and the ratio that of
its own round. Before anything is timed, the logits of the first token are compared: with an f32 plan they must be those of
mlx_lm to 1e-3 of the largest.
"""
import argparse
import pathlib
import statistics
import time

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

import kvant
import kvant.mlx_lm as km

REAL_TOKENS = 1024
STEP = 512


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--text", required=True, type=pathlib.Path, help="whose rows fill the contexts")
    parser.add_argument("--context", type=int, nargs="+", default=[1024, 8192])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keys", default="turboquant_mse:bits=4")
    parser.add_argument("--values", default="turboquant_mse:bits=4")
    parser.add_argument("--threads", type=int, default=1, help="of kvant's attention")
    parser.add_argument("--float32", action="store_true", help="the model in float32 instead of the checkpoint's type")
    return parser.parse_args()


def real_rows(model, ids):
    """Keys and values of each layer, [1, kv_heads, tokens, head_dim]."""
    caches = make_prompt_cache(model)
    for at in range(0, len(ids), STEP):
        model(mx.array([ids[at : at + STEP]]), cache=caches)
        mx.eval([c.state for c in caches])
    return [c.state[:2] for c in caches]


def fill(rows, context, stock, ours):
    """Puts `context` rows into both caches, as if the text went on and on."""
    conversation = ours[0].conversation
    for first in range(0, context, STEP):
        tokens = min(STEP, context - first)
        at = mx.array(np.arange(first, first + tokens) % rows[0][0].shape[2])
        conversation.begin(list(range(first, first + tokens)))
        for layer, (keys, values) in enumerate(rows):
            keys, values = keys[:, :, at], values[:, :, at]
            mx.eval(stock[layer].update_and_fetch(keys, values))
            conversation.append(layer, *(mx.contiguous(side[0].transpose(1, 0, 2)) for side in (keys, values)))


def decode(model, ids, caches):
    """Median seconds of a token; the tokens are given, so that both sides compute the same, and dropped again."""
    seconds = []
    for token in ids:
        start = time.perf_counter()
        mx.eval(model(mx.array([[token]]), cache=caches))
        seconds.append(time.perf_counter() - start)
    km.trim_prompt_cache(caches, len(ids))
    return statistics.median(seconds)


def measure(model, rows, following, context, options):
    stock = make_prompt_cache(model)
    caches = km.build_caches(model, kvant.KVCacheConfig(model_path=options.model, keys=options.keys, values=options.values,
                                                        client_options={"threads": options.threads, "embedded_budget": 4 << 30}))  # fmt: skip
    fill(rows, context, stock, caches)
    expected, answer = (model(mx.array([following[:1]]), cache=held).astype(mx.float32) for held in (stock, caches))
    error = (mx.abs(answer - expected).max() / mx.abs(expected).max()).item()
    if options.keys == options.values == "f32" and error > 1e-3:
        raise SystemExit(f"logits differ by {error:.2e} of the largest")
    for held in (stock, caches):
        km.trim_prompt_cache(held, 1)
    rounds = [(decode(model, following, stock), decode(model, following, caches)) for _ in range(options.rounds)]
    theirs, ours = (1e3 * statistics.median(side) for side in zip(*rounds))
    ratio = statistics.median(a / b for a, b in rounds)
    held = sum(c.nbytes for c in stock) / context, sum(c.nbytes for c in caches) / context
    print(f"{context:8} {theirs:10.2f} {ours:10.2f} {ratio:8.2f} {held[0]:12.0f} {held[1]:12.0f} {error:10.2e}", flush=True)


def main():
    options = arguments()
    model, tokenizer = mlx_lm.load(options.model)
    if options.float32:
        model.set_dtype(mx.float32)
    ids = tokenizer.encode(options.text.read_text(encoding="utf-8"))
    following = ids[REAL_TOKENS : REAL_TOKENS + options.tokens]
    if len(following) < options.tokens:
        raise SystemExit(f"{options.text} has {len(ids)} tokens, {REAL_TOKENS + options.tokens} are wanted")
    rows = real_rows(model, ids[:REAL_TOKENS])
    print(f"{options.model}: keys {options.keys}, values {options.values}, {options.threads} thread(s) of attention")
    print(f"{'context':>8} {'mlx_lm ms':>10} {'kvant ms':>10} {'speed':>8} {'bytes/token':>12} {'kvant':>12} {'logits':>10}")
    for context in options.context:
        measure(model, rows, following, context, options)


if __name__ == "__main__":
    main()
