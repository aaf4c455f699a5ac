"""Keys before their rotary positions, from keys behind them."""

import dataclasses

import torch


@dataclasses.dataclass
class Turns:
    """How a model turns keys: channels first[p] and second[p] are a pair; cosines and sines [tokens, pairs] of tokens from 0 on, times the
    attention factor."""

    first: torch.Tensor
    second: torch.Tensor
    cosines: torch.Tensor
    sines: torch.Tensor

    def undone(self, keys, first):
        """keys [kv_heads, tokens, head_dim] of consecutive tokens from position `first` as they were before."""
        tokens = slice(first, first + keys.shape[1])
        cosines, sines = self.cosines[tokens], self.sines[tokens]
        real, imaginary = keys[..., self.first], keys[..., self.second]
        square = cosines**2 + sines**2
        plain = keys.clone()
        plain[..., self.first] = (real * cosines + imaginary * sines) / square
        plain[..., self.second] = (imaginary * cosines - real * sines) / square
        return plain


def turns_of(model, rope, tokens):
    """Turns of a model of transformers for so many tokens, in f64, `rope` its kvant.Rope; None where it turns nothing or does not say how."""
    embedding = getattr(model.base_model, "rotary_emb", None)
    if rope.pairing == "none" or embedding is None:
        return None
    like = torch.zeros(1, dtype=torch.float32)
    cosines, sines = (part[0].double() for part in embedding(like, torch.arange(tokens)[None]))
    pairs = cosines.shape[-1] // 2
    half = rope.pairing == "half_split"
    place = slice(0, pairs) if half else slice(0, 2 * pairs, 2)
    numbers = torch.arange(pairs)
    first, second = (numbers, numbers + pairs) if half else (2 * numbers, 2 * numbers + 1)
    return Turns(first, second, cosines[:, place], sines[:, place])
