"""The command `kvant`: its figures against those of the reference engine, its messages, its exit codes."""

import dataclasses
import json
import re
import subprocess

import kvant
import pytest
from conftest import ROOT
from kvant.calibration.plan import load_plan
from kvant.command import main
from kvantd_process import program

TOKENS = 2048


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Exactly TOKENS bytes, which are as many tokens of byte6m's."""
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_bytes(b"".join(file.read_bytes() for file in sorted((ROOT / "protocol").glob("*.cc"))).decode("ascii", "ignore").encode()[:TOKENS])
    return path


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def answer(capsys, *arguments):
    assert main([*map(str, arguments), "-o", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def reference(*arguments):
    """What kvant-generate prints."""
    return subprocess.run([program("kvant-generate"), *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def test_misuse_has_a_message_and_an_exit_code(capsys, text, tmp_path):
    assert main(["quality", str(tmp_path / "none"), "--text", str(text)]) == 1
    assert "none' is no folder" in capsys.readouterr().err
    for wrong in (["nonsense", "x"], ["generate", "x"], ["rows", "x", "--text", "y", "--rows-out", "z", "--tokens", "0"]):
        with pytest.raises(SystemExit) as exit:
            main(wrong)
        assert exit.value.code == 2


def test_quality_is_the_reference_engines(torch, capsys, byte6m, text):
    said = answer(capsys, "quality", byte6m, "--text", text, "--plans", "f32", "turboquant_mse:bits=2", "f32/turboquant_mse:bits=3")
    raw, codes, mixed = said["plans"]
    assert said["tokens"] == TOKENS
    assert abs(raw["kl"]) < 1e-6 and raw["top1_percent"] == 100  # f32 sums in another order
    assert (mixed["key_bits_per_element"], codes["value_bits_per_element"]) == (32, 2.125)
    printed = reference(
        "--model", byte6m, "--compare-exact", text, "--keys", "turboquant_mse:bits=2", "--values", "turboquant_mse:bits=2"
    )
    kl, loss = (float(re.search(pattern, printed)[1]) for pattern in (r"KL to exact ([\d.]+)", r"loss ([\d.]+)"))
    # Both read 512 tokens a pass and seal the same blocks. What differs is f32 arithmetic, which moves codes at the edges of their cells.
    assert codes["kl"] == pytest.approx(kl, rel=0.05)
    assert codes["loss"] == pytest.approx(loss, rel=0.005)


def test_calibration_is_the_reference_engines(torch, capsys, byte6m, text, tmp_path):
    from safetensors.numpy import load_file

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert answer(capsys, "calibrate", byte6m, "--text", text, "--artifact-out", ours)["tokens"] == TOKENS
    reference("--model", byte6m, "--calibrate", text, "--artifact-out", theirs)
    calibrated, theirs_means = load_file(ours), load_file(theirs)
    assert {name for name in calibrated if name.endswith(".mean")} == theirs_means.keys()
    for name, mean in theirs_means.items():
        assert abs(mean - calibrated[name]).max() < 1e-4  # of keys of magnitude 1 to 10 computed in f32
    said = answer(capsys, "quality", byte6m, "--text", text, "--artifact", ours, "--plans", "turboquant_mse:bits=2,center=1")
    assert 0 < said["plans"][0]["kl"] < 0.1


def test_an_artifact_is_the_same_each_time_and_describes_itself(torch, capsys, byte6m, text, tmp_path):
    paths = [tmp_path / name for name in ("one", "two")]
    for path in paths:
        answer(capsys, "calibrate", byte6m, "--text", text, "--tokens", 512, "--artifact-out", path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    said = answer(capsys, "calibrate", "--show", paths[0])
    assert said["about"]["artifact_version"] == 1 and said["about"]["tokens"] == 512
    layers = json.loads((byte6m / "config.json").read_text())["num_hidden_layers"]
    kinds = said["tensors"]
    sides = {f"{side}.{what}" for side in ("keys", "values") for what in ("mean", "outliers", "codebook", "basis", "deviation", "bits")}
    assert kinds.keys() == sides | {f"keys.{what}" for what in ("smooth", "gauge", "gauge_inverse", "pair_gains", "bias")}
    assert all(kind["layers"] == layers for kind in kinds.values())
    assert kinds["keys.gauge"]["shape"][1:] == [128, 128] and kinds["keys.codebook"]["shape"][1:] == [256, 4]
    assert main(["calibrate", "--text", str(text)]) == 1
    assert "model is missing" in capsys.readouterr().err


def test_kvantctl_makes_the_same_of_dumped_rows(torch, capsys, byte6m, text, tmp_path):
    artifact, rows, of_rows = (tmp_path / name for name in ("artifact", "rows", "of_rows"))
    answer(capsys, "calibrate", byte6m, "--text", text, "--tokens", 512, "--artifact-out", artifact)
    answer(capsys, "rows", byte6m, "--text", text, "--tokens", 512, "--rows-out", rows)
    subprocess.run([program("kvantctl"), "calibrate", "--rows", rows, "--artifact-out", of_rows], check=True, capture_output=True)
    assert of_rows.read_bytes() == artifact.read_bytes()
    # Bits that it allocates are those that a configuration comes to from the losses in its artifact.
    plan = tmp_path / "plan.json"
    allocate = ["--plan-out", plan, "--target-bits", "3.1"]
    subprocess.run([program("kvantctl"), "calibrate", "--rows", rows, "--artifact-out", of_rows, *allocate], check=True, capture_output=True)
    config = kvant.KVCacheConfig(method="ratequant", target_bits=3.1, artifact=of_rows.read_bytes())
    assert config.plan(json.loads((byte6m / "config.json").read_text())["num_hidden_layers"]) == tuple(load_plan(plan).values())
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(".kvant-rows")]


def test_an_allocation_meets_its_bits_and_is_a_plan(torch, capsys, byte6m, text, tmp_path):
    artifact, plan = tmp_path / "artifact", tmp_path / "plan.json"
    arguments = ["--text", text, "--tokens", 512, "--artifact-out", artifact, "--plan-out", plan, "--target-bits", "3.3"]
    candidates = [f"turboquant_mse:bits={bits}" for bits in (2, 3, 4)]
    said = answer(capsys, "calibrate", byte6m, *arguments, "--candidates", *candidates)["plan"]
    # At most a step of one unit below the target.
    assert 3.2 < (said["key_bits_per_element"] + said["value_bits_per_element"]) / 2 <= 3.3
    errors = [candidate["value_error"] for candidate in said["candidates"]]
    assert errors == sorted(errors, reverse=True) and errors[2] == pytest.approx(0.0095, rel=0.1)  # of a Lloyd-Max code of 4 bits
    # The artifact has the losses, so that a configuration comes to the same plan, and to others.
    config = kvant.KVCacheConfig(method="ratequant", target_bits=3.3, artifact=artifact.read_bytes())
    layers = json.loads((byte6m / "config.json").read_text())["num_hidden_layers"]
    assert config.plan(layers) == tuple(load_plan(plan).values())
    assert dataclasses.replace(config, target_bits=2.5).plan(layers) != config.plan(layers)
    figures = answer(capsys, "quality", byte6m, "--text", text, "--tokens", 1024, "--window", 1024, "--plans", f"@{plan}")["plans"][0]
    assert figures["key_bits_per_element"] == pytest.approx(said["key_bits_per_element"])
    assert figures["value_bits_per_element"] == pytest.approx(said["value_bits_per_element"])


def test_quality_of_several_texts_beside_a_yardstick(torch, capsys, byte6m, text, tmp_path):
    other = tmp_path / "other"
    other.write_text((ROOT / "README.md").read_text("utf-8").encode("ascii", "ignore").decode()[:3000])
    arguments = ["quality", byte6m, "--text", text, other, "--tokens", 1024, "--window", 512, "--skip", 256, "--step", 32, "--layers"]
    arguments += ["--plans", "f32", "turboquant_mse:bits=4", "--yardsticks", "q4_0"]
    said = answer(capsys, *arguments)
    raw, codes, yardstick = said["plans"]
    assert said["tokens"] == 2 * 1024 and [row["plan"] for row in said["plans"]] == ["f32", "turboquant_mse:bits=4", "q4_0"]
    assert abs(raw["kl"]) < 1e-6 and yardstick["value_bits_per_element"] == 4.5
    for row in (codes, yardstick):
        assert row["kl"] == pytest.approx(sum(part["kl"] for part in row["texts"]) / 2)
        assert 1e-5 < row["kl"] < row["kl_p99"] < 1
        # 412 of 512 tokens of a window are not among the newest 96 and the sinks, in whole blocks 380.
        assert row["effective_bits_per_element"] == pytest.approx(((row["key_bits_per_element"] + row["value_bits_per_element"]) / 2 * 380 + 16 * 132) / 512)
    for layer in codes["layers"]:
        assert layer["value_cosine"] == pytest.approx(0.9953, abs=0.001)  # sqrt(1 - 0.0093), the error of 4 bits at 128 dims
        assert 0 < layer["attention_error"] < 0.1
    assert answer(capsys, *arguments) == said


def test_generation_is_exact_over_raw_rows(torch, capsys, byte6m):
    prompt = ["--prompt", "// Copies keys and values ", "--max-tokens", "24"]
    raw = answer(capsys, "generate", byte6m, *prompt, "--keys", "f32", "--values", "f32")
    exact = answer(capsys, "generate", byte6m, *prompt, "--exact")
    assert raw["text"] == exact["text"] and raw["generated_tokens"] == exact["generated_tokens"] == 24
    assert raw["cached_tokens"] == 0 and raw["cache_bytes"] > 0


def test_rows_are_what_the_model_computes(torch, capsys, byte6m, text, tmp_path):
    from safetensors import safe_open

    path = tmp_path / "rows"
    answer(capsys, "rows", byte6m, "--text", text, "--tokens", 64, "--step", 40, "--rows-out", path)
    from kvant.command import models
    from kvant.transformers import attach

    model, tokenizer = models.load(byte6m)
    with attach(model, kvant.KVCacheConfig(model_path=byte6m)) as attachment:
        radians, _ = kvant.rope_frequencies(attachment.spec.rope, 128)
    ids = models.tokens_of(tokenizer, text.read_text(), 64)[:64]
    first = model.model.layers[0]
    with torch.inference_mode():
        normed = first.input_layernorm(model.model.embed_tokens(ids))
        expected = {side: getattr(first.self_attn, f"{side}_proj")(normed).unflatten(-1, (-1, 128)).transpose(0, 1) for side in "qkv"}
    with safe_open(path, "pt") as rows:
        q, k, v = (rows.get_tensor(f"layers.0.{name}") for name in ("queries", "keys", "values"))
        metadata = rows.metadata()
        assert metadata["model"] == kvant.model_identity(byte6m) and metadata["window"] == metadata["tokens"] == "64"
        assert json.loads(metadata["rope"]) == {"pairing": "half_split", "rotary_dims": 0, "attention_factor": 1.0}
        assert rows.get_tensor("rope.radians").tolist() == radians
        columns = first.self_attn.o_proj.weight.double()[:, : q.shape[0] // k.shape[0] * 128].unflatten(1, (-1, 128))
        assert torch.allclose(rows.get_tensor("layers.0.projection")[0].double(), torch.einsum("ogd,oge->de", columns, columns), rtol=1e-4)
        assert q.shape[1:] == k.shape[1:] == v.shape[1:] == (64, 128) and q.shape[0] % k.shape[0] == 0
        assert torch.allclose(v, expected["v"], atol=1e-5)
        for rotated, plain in ((q, expected["q"]), (k, expected["k"])):  # RoPE turns pairs, and leaves the first position as it is
            assert torch.allclose(rotated[:, 0], plain[:, 0], atol=1e-5)
            assert torch.allclose(rotated.norm(dim=-1), plain.norm(dim=-1), rtol=1e-4)
        angles = torch.arange(64)[:, None] * torch.tensor(radians)
        back = torch.complex(k[..., :64], k[..., 64:]).to(torch.complex128) * torch.polar(torch.ones_like(angles), -angles)
        assert torch.allclose(torch.cat([back.real, back.imag], -1).float(), expected["k"], atol=1e-4)
        assert len(list(rows.keys())) == 1 + 4 * json.loads((byte6m / "config.json").read_text())["num_hidden_layers"]
