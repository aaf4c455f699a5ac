#!/usr/bin/env python3
"""Decoding in transformers over a KvantCache beside its own DynamicCache (sdpa), paired in one run:

    PYTHONPATH=build/release/python python3 tools/bench/engines/transformers_decode.py MODEL [--contexts 1024,8192] [--pairs 9] [-o json]

Both caches hold the same rows: keys and values of a real text of up to 2048 tokens, repeated until the context is full. Blocks of
`--tokens` steps take turns, and after each both caches are cut back, so that all steps see the same context. A ratio is the median
over pairs of DynamicCache's time by kvant's. Wall time is what a user waits; on a machine with other work CPU time (all threads of
this process, kvant's embedded daemon included) is the steadier of the two.
"""

import argparse
import json
import statistics
import time

import kvant.transformers
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import DynamicCache

REAL_TOKENS = 2048


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="folder of a checkpoint")
    parser.add_argument("--contexts", default="1024,8192", help="tokens in the caches, by comma")
    parser.add_argument("--plan", default="turboquant_mse:bits=4", help="codec of keys and values")
    parser.add_argument("--text", default=__file__, help="file whose text gives the rows")
    parser.add_argument("--tokens", type=int, default=8, help="steps of a block")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="of torch, and of kvant's attention")
    parser.add_argument("-o", dest="output", choices=["text", "json"], default="text")
    return parser.parse_args()


def real_rows(model, ids):
    """Keys and values of each layer, [1, kv_heads, tokens, head_dim]."""
    cache = DynamicCache(config=model.config)
    model(ids, cache=cache)
    return [(layer.keys, layer.values) for layer in cache.layers]


def repeated(rows, first, tokens):
    """`tokens` rows from `first` on, as if the text went on and on."""
    return rows[:, :, torch.arange(first, first + tokens) % rows.shape[2]]


def filled_dynamic(model, rows, context):
    cache = DynamicCache(config=model.config)
    for layer, (keys, values) in enumerate(rows):
        cache.update(repeated(keys, 0, context), repeated(values, 0, context), layer)
    return cache


def filled_kvant(model, rows, context):
    cache = kvant.transformers.KvantCache(model)
    step = model.kvant_attachment.settings.max_step_tokens
    cache.batch.begin(torch.zeros((1, 1), dtype=torch.long), None, None)  # opens the row
    sequence = cache.rows[0].sequence
    for first in range(0, context, step):
        tokens = min(step, context - first)
        sequence.reserve(tokens)
        for layer, (keys, values) in enumerate(rows):
            sequence.append(layer, *(repeated(side, first, tokens)[0].transpose(0, 1) for side in (keys, values)))
        sequence.advance(range(first, first + tokens))
    cache.batch.columns = context
    return cache


def block(model, cache, token, steps):
    """(wall, CPU) seconds of a step; the cache is as before."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        token = model(token, cache=cache, logits_to_keep=1).logits[:, -1:].argmax(-1)
    spent = (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps
    cache.crop(-steps)
    return spent


def measure(own, ours, rows, context, args):
    dynamic, compressed = filled_dynamic(own, rows, context), filled_kvant(ours, rows, context)
    token = torch.tensor([[5]])
    for model, cache in ((own, dynamic), (ours, compressed)):
        block(model, cache, token, 2)
    pairs = [(block(own, dynamic, token, args.tokens), block(ours, compressed, token, args.tokens)) for _ in range(args.pairs)]
    result = {"context": context}
    for clock, name in enumerate(("wall", "cpu")):
        result[f"{name}_ratio"] = statistics.median(one[clock] / other[clock] for one, other in pairs)
        result[f"{name}_dynamic_tokens_per_second"] = 1 / statistics.median(one[clock] for one, _ in pairs)
        result[f"{name}_kvant_tokens_per_second"] = 1 / statistics.median(other[clock] for _, other in pairs)
    result["dynamic_bytes"] = sum(side.nbytes for layer in dynamic.layers for side in (layer.keys, layer.values))
    result["kvant_bytes"] = compressed.nbytes
    compressed.reset()
    return result


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    own, ours = (AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval() for _ in range(2))
    options = {"arena_bytes": 1 << 30, "embedded_budget": 4 << 30, "threads": args.threads}
    kvant.transformers.attach(ours, kvant.KVCacheConfig(model_path=args.model, keys=args.plan, values=args.plan, client_options=options))
    with open(args.text, encoding="utf-8") as file:
        ids = AutoTokenizer.from_pretrained(args.model)(file.read(), return_tensors="pt").input_ids[:, :REAL_TOKENS]
    with torch.inference_mode():
        rows = real_rows(own, ids)
        for context in map(int, args.contexts.split(",")):
            result = measure(own, ours, rows, context, args)
            if args.output == "json":
                print(json.dumps(result), flush=True)
                continue
            print(
                f"{context:6} tokens: {result['wall_ratio']:.2f} x DynamicCache ({result['wall_kvant_tokens_per_second']:.1f} tokens/s, its "
                f"{result['wall_dynamic_tokens_per_second']:.1f}); in CPU time {result['cpu_ratio']:.2f} x; "
                f"{result['kvant_bytes'] / 2**20:.1f} MiB, its {result['dynamic_bytes'] / 2**20:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
