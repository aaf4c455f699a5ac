"""ggml's q8_0 and q4_0 for keys and values, as torch arithmetic over a DynamicCache: what plans are held against, never served.

A row is cut into groups of 32 numbers with an f16 scale each. Rows become codes when kvant's would: by blocks, once they have left
the recent window, the sinks excepted. Which numbers share a group is ggml's: GGUF files of Llama's architecture have the two channels of a
rotary pair side by side, where transformers has them half a row apart (it turns the projections' rows when it loads such a file), and
llama.cpp's cache holds keys in the file's order. On SmolLM2 that costs q4_0 1.6 times the KL of the other order.
"""

import torch
from transformers.cache_utils import Cache, DynamicLayer

GROUP = 32


def q8_0(rows):
    """What the format gives back for rows [..., head_dim] (ggml's quantize_row_q8_0_ref): scale max|x| / 127, rounded half away from 0."""
    groups = rows.unflatten(-1, (-1, GROUP))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    scaled = groups * torch.where(scale == 0, 0.0, 1 / scale)
    codes = torch.trunc(scaled + torch.copysign(torch.tensor(0.5), scaled))
    return (codes * scale.half().float()).flatten(-2)


def q4_0(rows):
    """The same of quantize_row_q4_0_ref: the scale takes the largest number, with its sign, to code -8."""
    groups = rows.unflatten(-1, (-1, GROUP))
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scale = largest / -8
    codes = torch.clamp(torch.trunc(groups * torch.where(scale == 0, 0.0, 1 / scale) + 8.5), max=15) - 8
    return (codes * scale.half().float()).flatten(-2)


# Of transformers: those whose keys stand in pairs in GGUF files (llama.cpp's convert_hf_to_gguf.py: LlamaModel.permute).
_PAIRED = frozenset({"llama", "mistral", "mixtral"})


def in_pairs(code):
    """The format over rows whose rotary pairs stand side by side, for rows [..., head_dim] that have them half a row apart."""

    def coded(rows):
        pairs = rows.unflatten(-1, (2, -1)).mT.contiguous().flatten(-2)
        return code(pairs).unflatten(-1, (-1, 2)).mT.contiguous().flatten(-2)

    return coded


FORMATS = {"q8_0": (q8_0, 8.5), "q4_0": (q4_0, 4.5)}  # bits per number, scale included


class _Layer(DynamicLayer):
    def __init__(self, keys, values, block_tokens, recent_tokens, sink_tokens):
        super().__init__()
        self._formats = {"keys": keys, "values": values}
        self._block, self._recent, self._sinks = block_tokens, recent_tokens, sink_tokens
        self._coded = 0

    def update(self, key_states, value_states, *args, **kwargs):
        held = self.keys.shape[2] if self.is_initialized else 0
        # As kvant's schedule has it: a quarter of a block later than it leaves the recent window, and never within a pass.
        due = max(0, held - self._recent - self._block // 4) // self._block * self._block
        if due > self._coded:
            rows = slice(max(self._coded, self._sinks), due)
            for side, code in self._formats.items():
                tensor = getattr(self, side)
                tensor[:, :, rows] = code(tensor[:, :, rows])
            self._coded = due
        return super().update(key_states, value_states, *args, **kwargs)


def codes_of(name, config):
    """What the format gives back for (keys, values) of a model, by its transformers configuration."""
    code = FORMATS[name][0]
    return (in_pairs(code) if config.model_type in _PAIRED else code), code


def cache_of(codes, layers, block_tokens=128, recent_tokens=64, sink_tokens=4):
    """An empty cache for a model of so many layers; codes: codes_of()."""
    return Cache(layers=[_Layer(*codes, block_tokens, recent_tokens, sink_tokens) for _ in range(layers)])
