"""Keys before their rotary positions, from keys behind them."""

import dataclasses

import torch

import kvant


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


def turns_of(rope, head_dim, tokens):
    """Turns of a kvant.Rope for so many tokens, in f64, of the frequencies that codecs turn by; no pairs where it turns nothing."""
    if rope.pairing == "none":
        nothing = torch.zeros(0, dtype=torch.long)
        return Turns(nothing, nothing, torch.zeros(tokens, 0, dtype=torch.float64), torch.zeros(tokens, 0, dtype=torch.float64))
    frequencies, factor = kvant.rope_frequencies(rope, head_dim)
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * torch.tensor(frequencies, dtype=torch.float64)
    numbers = torch.arange(len(frequencies))
    first, second = (numbers, numbers + len(numbers)) if rope.pairing == "half_split" else (2 * numbers, 2 * numbers + 1)
    return Turns(first, second, factor * angles.cos(), factor * angles.sin())
