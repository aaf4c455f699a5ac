#!/usr/bin/env python3
"""What a prefix from kvant costs llama.cpp in quality and saves in time, beside llama.cpp's own quantized cache types.

  llama_cpp_prefix.py MODEL.gguf --text FILE [--prefix 1024] [--score 128] [--plans f16 turboquant_mse:bits=4 ...]

A context with an f16 cache reads the prefix and then, in one batch, the tokens to score: its logits are the reference. For each plan a fresh
context takes the prefix from kvant and reads the same batch; for q8_0 and q4_0 a context with that cache reads everything. Printed: bits
per element that hold the prefix, mean KL divergence from the reference in nats per token, how often the most probable token agrees, and the
seconds until the batch can begin. Two things differ by design: kvant's rows were computed over exact ones and compressed once, where a
quantized cache is read while the prefix is computed; and the scored tokens' own rows are f16 beside kvant's prefix, quantized in the
others. Needs the cyllama wheel; PYTHONPATH names the package.
"""

import argparse
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "tests" / "python"))
import kvant.llama_cpp  # noqa: E402
from kvant.llama_state import read_state  # noqa: E402
from llama_engine import Llama  # noqa: E402

TYPES = {"q8_0": (8, 8.5), "q4_0": (2, 4.5)}  # ggml's number, bits per element


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--text", required=True, type=pathlib.Path)
    parser.add_argument("--prefix", type=int, default=1024, help="tokens; a multiple of 128")
    parser.add_argument("--score", type=int, default=128, help="tokens after it, at most 512")
    parser.add_argument("--plans", nargs="+", default=["f16", *(f"turboquant_mse:bits={bits}" for bits in (4, 3, 2))])
    return parser.parse_args()


def log_probabilities(llama, tokens):
    """[tokens, vocabulary] of one batch."""
    llama.eval(tokens, logits_of_all=True)
    logits = np.array([llama.context.get_logits_ith(at) for at in range(len(tokens))], float)
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def row(name, bits, exact, found, seconds):
    divergence = (np.exp(exact) * (exact - found)).sum(1).mean()
    agree = (exact.argmax(1) == found.argmax(1)).mean()
    print(f"{name:<28} {bits:6.3f} {divergence:10.5f} {100 * agree:7.1f} {seconds:9.3f}", flush=True)


def main():
    options = arguments()
    size = options.prefix + options.score + 32
    llama = Llama(options.model, n_ctx=size)
    tokens = llama.tokenize(options.text.read_text(encoding="utf-8"))
    if len(tokens) < options.prefix + options.score:
        sys.exit(f"{options.text} has {len(tokens)} tokens, {options.prefix + options.score} are wanted")
    prefix, scored = tokens[: options.prefix], tokens[options.prefix : options.prefix + options.score]
    start = time.perf_counter()
    llama.eval(prefix)
    seconds = time.perf_counter() - start
    state = llama.context.get_state_seq_data(0)
    exact = log_probabilities(llama, scored)
    print(f"{'prefix':<28} {'bits':>6} {'KL':>10} {'top1 %':>7} {'seconds':>9}")
    row("llama.cpp f16", 16, exact, exact, seconds)
    for plan in options.plans:
        store = kvant.llama_cpp.LlamaPrefixes(options.model, llama.metadata, kvant.llama_cpp.Settings(keys=plan, values=plan))
        store.save(prefix, state)
        other = Llama(options.model, n_ctx=size)
        start = time.perf_counter()
        count, data = store.load([*prefix, scored[0]], read_state(state, store.shape).format)
        other.context.set_state_seq_data(data, 0)
        other.n_tokens = count
        seconds = time.perf_counter() - start
        if count != options.prefix:
            sys.exit(f"{count} of {options.prefix} tokens were found; --prefix wants a multiple of {store.spec.block_tokens}")
        info = store.prefixes.store.info
        bits = 16 * info["block_bytes"] / info["logical_block_bytes"]
        row(f"kvant {plan}", bits, exact, log_probabilities(other, scored), seconds)
    for name, (number, bits) in TYPES.items():
        other = Llama(options.model, n_ctx=size, type_k=number, type_v=number, flash_attn_type=1)
        start = time.perf_counter()
        other.eval(prefix)
        seconds = time.perf_counter() - start
        row(f"llama.cpp {name}", bits, exact, log_probabilities(other, scored), seconds)


if __name__ == "__main__":
    main()
