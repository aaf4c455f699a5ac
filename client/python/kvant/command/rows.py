"""Writes the queries, keys and values that a model computes of a text, for codecs to be tried on."""

from kvant.command import models


def add_arguments(command):
    models.add_text_arguments(command, 2048)
    command.add_argument("--rows-out", metavar="FILE", required=True, help="the safetensors file to write")


def run(arguments):
    import torch
    from safetensors.torch import save_file
    from transformers import DynamicCache

    import kvant
    from kvant.command.recording import recording

    model, tokenizer = models.load(arguments.model)
    ids = models.tokens_of(tokenizer, models.read_text(arguments.text), 1)[: arguments.tokens]
    layers = {}

    def seen(module, *rows):
        for name, part in zip(("queries", "keys", "values"), rows, strict=True):
            layers.setdefault(module.layer_idx, {}).setdefault(name, []).append(part[0].clone())

    with models.progress(len(ids), "rows", arguments.output) as progress, recording(model, seen):
        for _ in models.passes(model, DynamicCache(config=model.config), ids[None], arguments.step, progress, logits_from=len(ids)):
            pass
    tensors = {f"layers.{i}.{name}": torch.cat(parts, 1).contiguous() for i, sides in layers.items() for name, parts in sides.items()}
    metadata = {"model": kvant.model_identity(arguments.model), "tokens": str(len(ids)), "stage": "after_rope", "axes": "heads, tokens, head_dim"}
    save_file(tensors, arguments.rows_out, metadata)
    return {"rows": arguments.rows_out, "tokens": len(ids), "layers": len(layers)}


def show(result):
    print(f"{result['rows']}: queries, keys and values of {result['layers']} layers and {result['tokens']} tokens")
