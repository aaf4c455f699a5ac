"""Losses of units: how far predictions move when one side of one layer is coded, and how that is divided."""

import pytest

torch = pytest.importorskip("torch")
import numpy  # noqa: E402
from conftest import ROOT  # noqa: E402
from kvant.calibration.bits import Trial, choices_of, probe_of  # noqa: E402
from kvant.command import models  # noqa: E402
from kvant.command.recording import recording  # noqa: E402
from kvant.command.sensitivity import kl_by_layer  # noqa: E402

TOKENS, LAYER = 128, 4


class Uncounted:
    @staticmethod
    def update(_):
        pass


def test_divergences_are_those_of_a_model_without_the_layer(byte6m):
    """Values of zeros take a layer's attention out of the model, which can also be done to its weights."""
    model, _ = models.load(byte6m)
    ids = torch.tensor(list((ROOT / "client" / "sequence.cc").read_bytes()[:TOKENS]))
    rows = {}

    def seen(module, _queries, keys, values):
        rows[module.layer_idx] = keys[0].clone(), values[0].clone()

    def predictions():
        with torch.inference_mode():
            return model(input_ids=ids[None], use_cache=False).logits[0, -TOKENS:].double().log_softmax(-1)

    with recording(model, seen):
        exact = predictions()
    keys, values = (torch.stack([rows[layer][side] for layer in (0, LAYER)]) for side in (0, 1))
    none = kl_by_layer(model, ids, [0, LAYER], (keys, values), Uncounted)
    assert none.shape == (2, 2) and abs(none).max() < 1e-9
    changed = values.clone()
    changed[1] = 0
    measured = kl_by_layer(model, ids, [0, LAYER], (keys, changed), Uncounted)
    with torch.no_grad():
        model.model.layers[LAYER].self_attn.o_proj.weight.zero_()
    without = predictions()
    counted = slice(TOKENS - min(256, TOKENS), TOKENS)
    expected = float((exact.exp() * (exact - without))[counted].sum(-1).mean())
    assert expected > 1e-3
    assert measured[1, 1] == pytest.approx(expected, rel=1e-4)  # sums in f32 of 256 probabilities
    assert abs(measured[0]).max() < 1e-9 and abs(measured[1, 0]) < 1e-9


def test_a_layers_loss_is_divided_and_extended_by_moves():
    generator = numpy.random.default_rng(1)
    moves = generator.lognormal(size=(3, 2, 4, 2))
    trials = [Trial(f"codec {bits}", (bits, bits + 1), moves[at], None, None) for at, bits in enumerate((4, 2, 3))]
    assert probe_of(trials).codec == "codec 3"
    divergences = generator.lognormal(size=(2, 4))
    choices = choices_of(trials, divergences)
    assert choices.codecs == ["codec 2", "codec 3", "codec 4"] and choices.bits.tolist() == [[2, 3], [3, 4], [4, 5]]
    assert numpy.allclose(choices.losses[1].sum(-1), divergences)
    assert numpy.allclose(choices.losses[0] / choices.losses[1], moves[1] / moves[2])
    moves[2][0, 0] = 0
    assert (choices_of(trials, divergences).losses[:, 0, 0] == 0).all()
