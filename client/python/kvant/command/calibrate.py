"""Measures what calibrated codecs want to know of a model's keys and values, and writes it as one artifact."""

from kvant.command import models


def add_arguments(command):
    models.add_text_arguments(command, 4096)
    command.add_argument("--artifact-out", metavar="FILE", required=True, help="the artifact to write, a safetensors file")
    command.add_argument("--window", type=models.positive, default=2048, help="tokens of one context (2048)")


def run(arguments):
    import kvant
    from kvant.calibration import artifact
    from kvant.calibration.gauge import gauges

    model, tokenizer = models.load(arguments.model)
    ids = models.tokens_of(tokenizer, models.read_text(arguments.text), 1)[: arguments.tokens]
    windows = models.windows_of(ids, arguments.window, len(ids))
    layers, projections = _gather(model, windows, arguments)
    tensors = {}
    for index, layer in sorted(layers.items()):
        prefix = f"layers.{index}"
        for side in ("keys", "values"):
            tensors[f"{prefix}.{side}.mean"] = layer.mean(side)
        tensors[f"{prefix}.keys.smooth"] = layer.largest_key.sqrt()
        tensors[f"{prefix}.keys.gauge"], tensors[f"{prefix}.keys.gauge_inverse"] = gauges(layer.key_covariance, layer.query_moment)
        if projections[index] is not None:
            moments = gauges(layer.value_moment, projections[index])
            tensors[f"{prefix}.values.gauge"], tensors[f"{prefix}.values.gauge_inverse"] = moments
    tokens = sum(map(len, windows))
    about = {"model": kvant.model_identity(arguments.model), "tokens": tokens, "window": len(windows[0])}
    artifact.save(tensors, about, arguments.artifact_out)
    return {"artifact": arguments.artifact_out, "tokens": tokens, "tensors": len(tensors)}


def _gather(model, windows, arguments):
    """Statistics of each layer, and the second moment of its output projection [kv_heads, head_dim, head_dim] or None."""
    from transformers import DynamicCache

    from kvant.calibration.statistics import BLOCK_TOKENS, LayerStatistics
    from kvant.command.recording import recording

    layers, projections, first = {}, {}, 0

    def seen(module, queries, keys, values):
        index = module.layer_idx
        if index not in layers:
            layers[index] = LayerStatistics(keys.shape[1], keys.shape[3])
            projections[index] = _projection_moment(module, queries.shape[1], keys.shape[1], keys.shape[3])
        layers[index].add(queries[0], keys[0], values[0], first)

    step = max(1, arguments.step // BLOCK_TOKENS) * BLOCK_TOKENS  # blocks are gathered whole
    with models.progress(sum(map(len, windows)), "calibrate", arguments.output) as progress, recording(model, seen):
        for window in windows:
            cache, first = DynamicCache(config=model.config), 0
            for _ in models.passes(model, cache, window[None], step, progress, logits_from=len(window)):
                first += step
    return layers, projections


def _projection_moment(module, q_heads, kv_heads, head_dim):
    """What the output projection does with an error of the values: sum over a group's query heads of W' W, W the columns of the head."""
    import torch

    projection = getattr(module, "o_proj", None)
    if not isinstance(projection, torch.nn.Linear) or projection.in_features != q_heads * head_dim:
        return None
    by_head = projection.weight.detach().to(torch.float64).unflatten(1, (kv_heads, q_heads // kv_heads, head_dim))
    return torch.einsum("ogqd,ogqe->gde", by_head, by_head)


def show(result):
    print(f"{result['artifact']}: {result['tensors']} tensors, measured on {result['tokens']} tokens")
