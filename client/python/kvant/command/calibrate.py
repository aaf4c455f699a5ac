"""Measures what calibrated codecs want to know of a model's keys and values, and writes it as one artifact; allocates bits."""

import kvant
from kvant.command import models

WITHOUT_MODEL = True  # --show wants none
CANDIDATES = ["turboquant_mse:bits=1", "turboquant_mse:bits=2", "turboquant_mse:bits=3", "turboquant_mse:bits=4", "int8"]


def add_arguments(command):
    command.add_argument("--show", metavar="ARTIFACT", help="prints what an artifact holds, and does nothing else")
    models.add_text_arguments(command, 4096, required=False)
    command.add_argument("--artifact-out", metavar="FILE", help="the artifact to write, a safetensors file")
    command.add_argument("--window", type=models.positive, default=2048, help="tokens of one context (2048)")
    command.add_argument("--map-bits", type=float, default=3, help="bits per number that the directions of spectral codes share (3)")
    command.add_argument("--plan-out", metavar="FILE", help="also allocates codecs to layers, KV heads and sides: the plan, a json file")
    command.add_argument("--target-bits", type=float, default=3.5, help="its bits per number on average, side information included (3.5)")
    command.add_argument("--candidates", nargs="+", default=CANDIDATES, metavar="CODEC", help="its codecs (turboquant_mse at 1 to 4 bits, int8)")


def run(arguments):
    from kvant.calibration import artifact

    if arguments.show:
        return artifact.describe(arguments.show)
    for name in ("model", "text", "artifact_out"):
        if getattr(arguments, name) is None:
            raise kvant.InvalidArgumentError(f"calibrate: {name.replace('_', '-')} is missing: MODEL --text FILE --artifact-out FILE")
    from kvant.calibration.tensors import tensors_of
    from kvant.command.sampling import projection_moment, sample_of, statistics_of

    model, tokenizer = models.load(arguments.model)
    ids = models.tokens_of(tokenizer, models.read_text(arguments.text), 1)[: arguments.tokens]
    windows = models.windows_of(ids, arguments.window, len(ids))
    tokens = sum(map(len, windows))
    with models.progress(tokens, "read", arguments.output) as progress:
        statistics = statistics_of(model, windows, arguments.step, progress)
        sample = sample_of(model, windows[len(windows) // 2], progress)
    tensors = {}
    with models.progress(len(statistics), "calibrate", arguments.output, "layer") as progress:
        for index, layer in sorted(statistics.items()):
            of = tensors_of(layer, sample[index], projection_moment(sample[index]), arguments.map_bits, seed=index)
            tensors |= {f"layers.{index}.{name}": tensor for name, tensor in of.items()}
            progress.update(1)
    about = {"model": kvant.model_identity(arguments.model), "tokens": tokens, "window": len(windows[0]), "map_bits": arguments.map_bits}
    artifact.save(tensors, about, arguments.artifact_out)
    result = {"artifact": arguments.artifact_out, "tokens": tokens, "tensors": len(tensors)}
    if arguments.plan_out:
        result["plan"] = _allocate(model, list(sample.values()), arguments)
    return result


def _allocate(model, layers, arguments):
    import kvant.transformers
    from kvant.calibration import bits

    with open(arguments.artifact_out, "rb") as file:
        image = file.read()
    choices = []
    with models.progress(len(arguments.candidates) * len(layers), "allocate", arguments.output, "layer") as progress:
        for codec in arguments.candidates:
            config = kvant.KVCacheConfig(model_path=arguments.model, keys=codec, values=codec, artifact=image, salt="calibrate")
            with kvant.transformers.attach(model, config) as attachment:
                spec = attachment.spec
            choices.append(bits.try_spec(spec, codec, layers, progress))
    choices.sort(key=lambda choice: sum(choice.bits))
    chosen = bits.fill(choices, arguments.target_bits)
    bits.save_plan(bits.plan_of(choices, chosen), arguments.plan_out)
    key_bits, value_bits = bits.mean_bits(choices, chosen)
    return {
        "file": arguments.plan_out,
        "key_bits_per_element": key_bits,
        "value_bits_per_element": value_bits,
        "candidates": [
            {"codec": choice.spec, "key_error": float(choice.errors[0].mean()), "value_error": float(choice.errors[1].mean())} for choice in choices
        ],
        "keys": chosen[0].tolist(),
        "values": chosen[1].tolist(),
    }


def show(result):
    if "about" in result:
        _show_artifact(result)
        return
    print(f"{result['artifact']}: {result['tensors']} tensors, measured on {result['tokens']} tokens")
    plan = result.get("plan")
    if not plan:
        return
    import numpy

    from kvant.calibration import bits

    print(f"\n{plan['file']}: {plan['key_bits_per_element']:.3f} bits per number of the keys, {plan['value_bits_per_element']:.3f} of the values")
    for number, candidate in enumerate(plan["candidates"]):
        print(f"  {number}: {candidate['codec']}, error {candidate['key_error']:.4f} of keys, {candidate['value_error']:.4f} of values")
    names = [str(number) for number in range(len(plan["candidates"]))]
    print(bits.table(names, numpy.array([plan["keys"], plan["values"]])))


def _show_artifact(result):
    about = result["about"] or {"made by": "another program"}
    print(f"{result['artifact']}: {', '.join(f'{name} {value}' for name, value in about.items())}")
    print(f"{'tensor':24} {'layers':>6}  {'shape':16} {'least':>12} {'most':>12}")
    for name, kind in result["tensors"].items():
        print(f"{name:24} {kind['layers']:6}  {str(kind['shape']):16} {kind['least']:12.5g} {kind['most']:12.5g}")
