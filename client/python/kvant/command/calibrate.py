"""Measures what calibrated codecs want to know of a model's keys and values, and writes it as one artifact; allocates bits."""

import json
import pathlib
import subprocess
import tempfile

import kvant
from kvant import programs
from kvant.command import models

WITHOUT_MODEL = True  # --show wants none
CANDIDATES = ["turboquant_tcq:bits=1", "turboquant_tcq:bits=2", "turboquant_tcq:bits=3", "turboquant_tcq:bits=4", "int8"]


def add_arguments(command):
    command.add_argument("--show", metavar="ARTIFACT", help="prints what an artifact holds, and does nothing else")
    models.add_text_arguments(command, 4096, required=False)
    command.add_argument("--artifact-out", metavar="FILE", help="the artifact to write, a safetensors file")
    command.add_argument("--window", type=models.positive, default=2048, help="tokens of one context (2048)")
    command.add_argument("--map-bits", type=float, default=3, help="bits per number that the directions of spectral codes share (3)")
    commvq = "also trains codewords for commvq at so many bits; some 10000 tokens are wanted, and minutes for each layer"
    command.add_argument("--commvq-bits", type=int, choices=[1, 2], help=commvq)
    losses = "also measures what each of --candidates loses in every layer, KV head and side: the artifact then serves target_bits of any size"
    command.add_argument("--losses", action="store_true", help=losses)
    command.add_argument("--plan-out", metavar="FILE", help="allocates codecs by these losses: the plan, a json file")
    command.add_argument("--target-bits", type=float, default=3.5, help="its bits per number on average, side information included (3.5)")
    command.add_argument("--candidates", nargs="+", default=CANDIDATES, metavar="CODEC", help="its codecs (turboquant_tcq at 1 to 4 bits, int8)")


def run(arguments):
    if arguments.show:
        return _kvantctl(["calibrate", "--show", arguments.show])
    for name in ("model", "text", "artifact_out"):
        if getattr(arguments, name) is None:
            raise kvant.InvalidArgumentError(f"calibrate: {name.replace('_', '-')} is missing: MODEL --text FILE --artifact-out FILE")
    from kvant.command import rows

    model, tokenizer = models.load(arguments.model)
    ids = models.tokens_of(tokenizer, models.read_text(arguments.text), 1)[: arguments.tokens]
    windows = models.windows_of(ids, arguments.window, len(ids))
    tokens = sum(map(len, windows))
    out = pathlib.Path(arguments.artifact_out)
    # Rows lie on disk while they are looked at: those of all layers and tokens are larger than many memories.
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".kvant-rows-") as folder:
        dumped = pathlib.Path(folder) / "rows.safetensors"
        with models.progress(tokens, "read", arguments.output) as progress:
            rows.write(model, arguments.model, windows, arguments.step, progress, dumped)
        result = _kvantctl(["calibrate", "--rows", str(dumped), "--artifact-out", str(out), "--map-bits", str(arguments.map_bits)]
                           + (["--commvq-bits", str(arguments.commvq_bits)] if arguments.commvq_bits else []))  # fmt: skip
    if not (arguments.losses or arguments.plan_out):
        return result
    return result | _with_losses(model, windows[len(windows) // 2], arguments)


def _kvantctl(command):
    """What kvantctl answers as JSON. Its errors are this program's."""
    finished = subprocess.run([programs.path_of("kvantctl"), *command, "-o", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if finished.returncode:
        raise kvant.InvalidArgumentError(finished.stderr.strip() or f"kvantctl {command[0]}: exit code {finished.returncode}")
    return json.loads(finished.stdout)


def _with_losses(model, window, arguments):
    """Adds what each candidate loses to the artifact, and allocates by it."""
    import torch

    from kvant.calibration import artifact
    from kvant.command.sampling import sample_of

    tensors, about = artifact.load(arguments.artifact_out)
    with models.progress(len(window), "read", arguments.output) as progress:
        sample = sample_of(model, window, progress)
    image = pathlib.Path(arguments.artifact_out).read_bytes()
    choices, candidates = _measure(model, window, sample, image, arguments)
    tensors |= {name: torch.from_numpy(tensor.copy()) for name, tensor in choices.tensors().items()}
    pathlib.Path(arguments.artifact_out).write_bytes(artifact.image(tensors, about))
    allocated = _allocate(choices, arguments) if arguments.plan_out else {}
    return {"tensors": len(tensors), "plan": {"candidates": candidates} | allocated}


def _measure(model, window, sample, image, arguments):
    """(Choices of the candidates on one window's rows, what they are and their errors)."""
    from kvant.calibration import bits
    from kvant.command.sensitivity import kl_by_layer
    from kvant.transformers import attach

    layers, trials = list(sample.values()), []
    with models.progress((len(arguments.candidates) + 2) * len(layers), "measure", arguments.output, "layer") as progress:
        for codec in arguments.candidates:
            config = kvant.KVCacheConfig(model_path=arguments.model, keys=codec, values=codec, artifact=image, salt="calibrate")
            with attach(model, config) as attachment:
                spec = attachment.spec
            trials.append(bits.try_spec(spec, codec, layers, progress))
        trials.sort(key=lambda trial: sum(trial.bits))
        divergences = kl_by_layer(model, window, list(sample), bits.probe_of(trials).codes, progress)
    errors = [
        {"codec": trial.codec, "key_error": float(trial.errors[0].mean()), "value_error": float(trial.errors[1].mean())} for trial in trials
    ]
    return bits.choices_of(trials, divergences), errors


def _allocate(choices, arguments):
    from kvant.calibration import plan

    chosen = plan.fill(choices, arguments.target_bits)
    plan.save_plan(plan.specs_of(choices, chosen), arguments.plan_out)
    key_bits, value_bits = plan.mean_bits(choices, chosen)
    return {
        "file": arguments.plan_out,
        "key_bits_per_element": key_bits,
        "value_bits_per_element": value_bits,
        "keys": chosen[0].tolist(),
        "values": chosen[1].tolist(),
    }


def show(result):
    if "about" in result:
        _show_artifact(result)
        return
    print(f"{result['artifact']}: {result['tensors']} tensors, measured on {result['tokens']} tokens")
    measured = result.get("plan")
    if not measured:
        return
    print()
    for number, candidate in enumerate(measured["candidates"]):
        print(f"  {number}: {candidate['codec']}, error {candidate['key_error']:.4f} of keys, {candidate['value_error']:.4f} of values")
    if "file" not in measured:
        return
    import numpy

    from kvant.calibration import plan

    bits = f"{measured['key_bits_per_element']:.3f} bits per number of the keys, {measured['value_bits_per_element']:.3f} of the values"
    print(f"\n{measured['file']}: {bits}")
    names = [str(number) for number in range(len(measured["candidates"]))]
    print(plan.table(names, numpy.array([measured["keys"], measured["values"]])))


def _show_artifact(result):
    about = result["about"] or {"made by": "another program"}
    print(f"{result['artifact']}: {', '.join(f'{name} {value}' for name, value in about.items())}")
    print(f"{'tensor':24} {'layers':>6}  {'shape':16} {'least':>12} {'most':>12}")
    for name, kind in result["tensors"].items():
        print(f"{name:24} {kind['layers']:6}  {str(kind['shape']):16} {kind['least']:12.5g} {kind['most']:12.5g}")
