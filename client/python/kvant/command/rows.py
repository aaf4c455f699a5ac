"""Writes the queries, keys and values that a model computes of a text, for codecs to be tried on and calibrated on. What the file holds
stands in tools/kvantctl/rows/rows_file.h."""

import json

from kvant.command import models


def add_arguments(command):
    models.add_text_arguments(command, 2048)
    command.add_argument("--rows-out", metavar="FILE", required=True, help="the safetensors file to write")


def run(arguments):
    model, tokenizer = models.load(arguments.model)
    ids = models.tokens_of(tokenizer, models.read_text(arguments.text), 1)[: arguments.tokens]
    with models.progress(len(ids), "rows", arguments.output) as progress:
        layers = write(model, arguments.model, [ids], arguments.step, progress, arguments.rows_out)
    return {"rows": arguments.rows_out, "tokens": len(ids), "layers": layers}


def write(model, path, windows, step, progress, rows_out):
    """Writes the rows of `windows`, token ids of contexts of one length, of a model loaded from `path`; returns how many layers it has."""
    import torch
    from safetensors.torch import save_file
    from transformers import DynamicCache

    import kvant
    from kvant.command.recording import recording
    from kvant.command.sampling import projection_of

    layers, projections = {}, {}

    def seen(module, *rows):
        for name, part in zip(("queries", "keys", "values"), rows, strict=True):
            layers.setdefault(module.layer_idx, {}).setdefault(name, []).append(part[0].clone())
        if module.layer_idx not in projections:
            projections[module.layer_idx] = projection_of(module, rows[0].shape[1], rows[1].shape[1], rows[1].shape[3])

    with recording(model, seen):
        for ids in windows:
            for _ in models.passes(model, DynamicCache(config=model.config), ids[None], step, progress, logits_from=len(ids)):
                pass
    # Layers without attention have no rows; what there are count from 0.
    tensors = {}
    for number, (of_model, sides) in enumerate(sorted(layers.items())):
        tensors |= {f"layers.{number}.{name}": torch.cat(parts, 1).contiguous() for name, parts in sides.items()}
        if projections[of_model] is not None:
            tensors[f"layers.{number}.projection"] = projections[of_model]
    metadata = {
        "model": kvant.model_identity(path),
        "tokens": str(sum(map(len, windows))),
        "window": str(len(windows[0])),
        "stage": "after_rope",
        "axes": "heads, tokens, head_dim",
    }
    head_dim = tensors["layers.0.keys"].shape[2]
    rope = _rope_of(model, path)
    if rope is not None:
        radians, factor = kvant.rope_frequencies(rope, head_dim)
        metadata["rope"] = json.dumps({"pairing": rope.pairing, "rotary_dims": rope.rotary_dims, "attention_factor": factor})
        if radians:
            tensors["rope.radians"] = torch.tensor(radians, dtype=torch.float64)
    save_file(tensors, rows_out, metadata)
    return len(layers)


def _rope_of(model, path):
    """The model's kvant.Rope; None where kvant does not know how it turns keys."""
    import kvant
    from kvant.transformers import attach

    try:
        with attach(model, kvant.KVCacheConfig(model_path=path, salt="rows")) as attachment:
            return attachment.spec.rope
    except kvant.UnsupportedError:
        return None


def show(result):
    print(f"{result['rows']}: queries, keys and values of {result['layers']} layers and {result['tokens']} tokens")
