"""llama.cpp by the cyllama wheel, with what llama-cpp-python's Llama has for a cache. As a program, one process of a test:

    python llama_engine.py write|read MODEL SOCKET JSON

writes or reads a prefix and prints, as JSON, what it found and the greedy tokens that follow.
"""

import json
import sys
import types

import cyllama.llama.llama_cpp as binding
import kvant.llama_cpp
import numpy as np
from kvant.llama_state import read_state


class Model(binding.LlamaModel):
    @property
    def n_vocab(self):  # asked for by the binding's get_logits_ith, and not there
        return self.get_vocab().n_vocab


class Llama:
    """A context with one sequence, whose tokens are remembered."""

    def __init__(self, path, n_ctx=2048, **params):
        binding.disable_logging()
        self.model_path, self.lora_path, self.kv_overrides, self._n_ctx = str(path), None, None, n_ctx
        self.model = Model(self.model_path, binding.LlamaModelParams())
        self.metadata = self.model.metadata()
        self.context_params = binding.LlamaContextParams()
        # One thread: two that spin for one another are slow on a busy machine.
        for name, value in {"n_ctx": n_ctx, "n_batch": 512, "n_threads": 1, "n_threads_batch": 1, **params}.items():
            setattr(self.context_params, name, value)
        self.context = binding.LlamaContext(self.model, self.context_params)
        self.input_ids, self.n_tokens, self.evaluated = np.zeros(n_ctx, np.intc), 0, 0

    def n_ctx(self):
        return self._n_ctx

    def token_bos(self):
        return self.model.get_vocab().token_bos()

    def tokenize(self, text):
        return self.model.get_vocab().tokenize(text, True, True)

    def eval(self, tokens, logits_of_all=False):
        tokens = list(tokens)
        self.context.memory_seq_rm(-1, self.n_tokens, -1)
        for at in range(0, len(tokens), 512):
            piece = tokens[at : at + 512]
            batch = binding.LlamaBatch(n_tokens=len(piece), embd=0, n_seq_max=1)
            batch.set_batch(piece, self.n_tokens, logits_of_all)
            if self.context.decode(batch) != 0:
                raise RuntimeError(f"decode of {len(piece)} tokens at {self.n_tokens}")
            self.input_ids[self.n_tokens : self.n_tokens + len(piece)] = piece
            self.n_tokens += len(piece)
        self.evaluated += len(tokens)

    def reset(self):
        self.n_tokens = 0

    def save_state(self):
        return types.SimpleNamespace(llama_state=self.context.get_state_data(), n_tokens=self.n_tokens, input_ids=self.input_ids.copy())

    def load_state(self, state):
        self.context.set_state_data(state.llama_state)
        self.input_ids, self.n_tokens = state.input_ids.copy(), state.n_tokens

    def greedy(self, count):
        sampler = binding.LlamaSampler()
        sampler.add_greedy()
        tokens = []
        for _ in range(count):
            tokens.append(sampler.sample(self.context, -1))
            self.eval(tokens[-1:])
        return tokens


def _by_sequence(llama, settings, mode, tokens, split):
    """The C interface's own calls: llama_state_seq_get_data and llama_state_seq_set_data."""
    prefixes = kvant.llama_cpp.LlamaPrefixes(llama.model_path, llama.metadata, settings)
    llama.eval(tokens[:split] if mode == "write" else tokens[:1])
    state = llama.context.get_state_seq_data(0)
    if mode == "write":
        return prefixes, prefixes.save(tokens[:split], state)
    form = read_state(state, prefixes.shape).format
    llama.reset()
    llama.evaluated = 0
    count, data = prefixes.load(tokens, form)
    if count:
        llama.context.set_state_seq_data(data, 0)
        llama.n_tokens = count
    return prefixes, count


def _by_cache(llama, settings, mode, tokens, split):
    """As llama-cpp-python uses a cache."""
    kvant.llama_cpp.LlamaState = types.SimpleNamespace
    cache = kvant.llama_cpp.KvantLlamaCache(llama, settings)
    llama.evaluated = 0
    if mode == "write":
        llama.eval(tokens[:split])
        cache[tokens[:split]] = llama.save_state()
        return cache.llama_prefixes, split // settings.block_tokens * settings.block_tokens
    try:
        found = cache[tokens]
    except KeyError:
        return cache.llama_prefixes, 0
    llama.load_state(found)
    return cache.llama_prefixes, found.n_tokens


def main(mode, path, uri, options):
    given = {"by": "sequence", "tokens": 32, "characters": 2000, "params": {}, "settings": {}, **json.loads(options)}
    settings = kvant.llama_cpp.Settings(uri=uri, **given["settings"])
    llama = Llama(path, **given["params"])
    tokens = llama.tokenize(given["text"][: given["characters"]])
    split = (len(tokens) - 1) // settings.block_tokens * settings.block_tokens
    prefixes, count = {"sequence": _by_sequence, "cache": _by_cache}[given["by"]](llama, settings, mode, tokens, split)
    llama.eval(tokens[llama.n_tokens :])
    evaluated = llama.evaluated
    info = prefixes.prefixes.store.info
    state = len(llama.context.get_state_seq_data(0))
    result = {"prompt": len(tokens), "count": count, "split": split, "evaluated": evaluated, "state_bytes_per_token": state / llama.n_tokens}
    result["held_bytes_per_token"] = info["block_bytes"] / settings.block_tokens
    result["greedy"] = llama.greedy(given["tokens"])
    result["text"] = llama.model.get_vocab().detokenize(result["greedy"], 512, False, False)
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
