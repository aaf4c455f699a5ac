#!/usr/bin/env python3
"""torch's decode attention in bf16 beside attend_bench's figures: sdpa.py BENCH.jsonl. Prints a table; both measured on this GPU,
each call in a captured graph of calls over far more KV than the L2 holds, medians of replays."""
import json
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

KV_HEADS, GROUP, DIM, REPLAYS = 8, 4, 128, 15
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def median_us(call, count):
    """Of `count` calls in one graph, per call."""
    for i in range(count):
        call(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(count):
            call(i)
    times = []
    for _ in range(REPLAYS + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / count)
    return sorted(times[3:])[REPLAYS // 2]


def best_of_torch(sequences, tokens):
    """Microseconds of the fastest backend and its name; heads of a group as they are and as rows of one query."""
    bytes_of_call = 4 * sequences * KV_HEADS * tokens * DIM
    count = max(4, min(64, (2 << 30) // bytes_of_call))
    make = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.bfloat16)
    keys = [make(sequences, KV_HEADS, tokens, DIM) for _ in range(count)]
    values = [make(sequences, KV_HEADS, tokens, DIM) for _ in range(count)]
    q = make(sequences, KV_HEADS * GROUP, 1, DIM)
    folded = q.view(sequences, KV_HEADS, GROUP, DIM)
    found = {}
    for name, backend in BACKENDS.items():
        for way, query, grouped in (("", q, True), (", heads folded into rows", folded, False)):
            try:
                with sdpa_kernel(backend):
                    attend = lambda i: F.scaled_dot_product_attention(query, keys[i], values[i], enable_gqa=grouped)
                    found[name + way] = median_us(attend, count)
            except RuntimeError as error:
                print(f"{sequences} x {tokens}, {name}{way}: {str(error).splitlines()[0]}", file=sys.stderr)
    name = min(found, key=found.get)
    return found[name], name


def main():
    head, *cases = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
    print(f"{head['card']}, {head['multiprocessors']} multiprocessors, read-only {head['read_only_gb_s']:.0f} GB/s; torch {torch.__version__}")
    print("| sequences x tokens | bits, gauge | us | share of read-only | bf16 us (backend) | times faster | one call in a graph, us | to the host, us |")
    print("|---|---|---|---|---|---|---|---|")
    peers = {}
    for case in cases:
        shape = case["sequences"], case["tokens"]
        if shape not in peers:
            peers[shape] = best_of_torch(*shape)
        us, name = peers[shape]
        print(f"| {shape[0]} x {shape[1]} | {case['bits']}, {case['gauge']} | {case['us']:.1f} | {100 * case['share']:.1f} % | {us:.1f} ({name}) | "
              f"{us / case['us']:.2f} | {case['one_us']:.1f} | {case['one_to_host_us']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
