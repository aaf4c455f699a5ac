"""Measures what calibrated codecs subtract: the mean key and value of each layer and KV head."""

from kvant.command import models


def add_arguments(command):
    models.add_text_arguments(command, 4096)
    command.add_argument("--artifact-out", metavar="FILE", required=True, help="the artifact to write, a safetensors file")
    command.add_argument("--window", type=models.positive, default=2048, help="tokens of one context (2048)")


def run(arguments):
    import torch
    from safetensors.torch import save_file
    from transformers import DynamicCache

    model, tokenizer = models.load(arguments.model)
    ids = models.tokens_of(tokenizer, models.read_text(arguments.text), 1)[: arguments.tokens]
    windows = models.windows_of(ids, arguments.window, len(ids))
    sums, tokens = {}, 0
    with models.progress(sum(map(len, windows)), "calibrate", arguments.output) as progress:
        for window in windows:
            cache = DynamicCache(config=model.config)
            for _ in models.passes(model, cache, window, arguments.step, progress):
                pass
            tokens += len(window)
            for index, layer in enumerate(cache.layers):
                for side, rows in (("keys", layer.keys), ("values", layer.values)):
                    name = f"layers.{index}.{side}.mean"
                    if rows.shape[2] != len(window):
                        raise ValueError(f"calibrate: layer {index} keeps {rows.shape[2]} of {len(window)} tokens; choose a smaller --window")
                    sums[name] = sums.get(name, 0) + rows[0].to(torch.float64).sum(1)
    save_file({name: (total / tokens).to(torch.float32).contiguous() for name, total in sums.items()}, arguments.artifact_out)
    return {"artifact": arguments.artifact_out, "tokens": tokens, "tensors": len(sums)}


def show(result):
    print(f"{result['artifact']}: {result['tensors']} means of {result['tokens']} tokens")
