"""Continues a prompt with a model whose attention is kvant's."""

import time

import kvant
from kvant.command import models


def add_arguments(command):
    prompt = command.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="the text to go on with")
    prompt.add_argument("--prompt-file", metavar="FILE", help="the same from a file; - is standard input")
    command.add_argument("--max-tokens", type=models.positive, default=100, help="most tokens to generate (100)")
    command.add_argument("--uri", default="embedded:", help="unix:PATH of a daemon's socket, or embedded: (embedded:)")
    command.add_argument("--keys", default="turboquant_mse:bits=4", help="codec of keys (turboquant_mse:bits=4)")
    command.add_argument("--values", default="turboquant_mse:bits=4", help="codec of values (turboquant_mse:bits=4)")
    command.add_argument("--placement", choices=["local", "service"], default="local", help="where attention runs (local)")
    command.add_argument("--exact", action="store_true", help="transformers' own attention and cache, for comparison")


def run(arguments):
    import kvant.transformers

    model, tokenizer = models.load(arguments.model)
    text = arguments.prompt if arguments.prompt is not None else models.read_text(arguments.prompt_file)
    inputs = {"input_ids": models.tokens_of(tokenizer, text, 1)[None]}
    result = {"prompt_tokens": inputs["input_ids"].shape[1]}
    if arguments.exact:
        return {**result, **_generate(model, tokenizer, inputs, arguments.max_tokens)}
    config = kvant.KVCacheConfig(
        model_path=arguments.model, uri=arguments.uri, keys=arguments.keys, values=arguments.values, placement=arguments.placement
    )
    with kvant.transformers.attach(model, config):
        cache = kvant.transformers.KvantCache(model, **inputs)
        result["cached_tokens"] = cache.cached_tokens[0]
        result |= _generate(model, tokenizer, inputs, arguments.max_tokens, cache=cache)
        return {**result, "cache_bytes": cache.nbytes}


def _generate(model, tokenizer, inputs, most, **cache):
    """Greedy text and its speed, the prompt's reading apart."""
    import torch

    class FirstToken:
        """Sees each token come; generate() shows the prompt first."""

        def __init__(self):
            self.times = []

        def put(self, _):
            self.times.append(time.perf_counter())

        def end(self):
            pass

    seen = FirstToken()
    with torch.inference_mode():
        out = model.generate(**inputs, **cache, max_new_tokens=most, do_sample=False, streamer=seen)[0]
    new = out[inputs["input_ids"].shape[1] :]
    times = seen.times
    result = {"text": tokenizer.decode(new, skip_special_tokens=True), "generated_tokens": len(new)}
    result["seconds_to_first_token"] = times[1] - times[0]
    result["tokens_per_second"] = (len(times) - 2) / (times[-1] - times[1]) if len(times) > 2 else None
    return result


def show(result):
    print(result.pop("text"))
    print(", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in result.items()))
