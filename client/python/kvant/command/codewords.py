"""Keys before RoPE of a whole text, kept until codewords are trained on them."""

import torch

from kvant.calibration import commvq
from kvant.calibration.statistics import SINK_TOKENS


class Codewords:
    """turns: the model's calibration.rope.Turns; stages: those of `bits` if not given. Holds all keys in f32."""

    def __init__(self, turns, bits, stages=None):
        self._turns, self._bits, self._stages = turns, bits, stages
        self._keys = {}

    def keep(self, layer, keys, first):
        """keys [kv_heads, tokens, head_dim] of a layer, behind RoPE, from position `first` on."""
        plain = self._turns.undone(keys.double(), first).float()
        self._keys.setdefault(layer, []).append(plain[:, SINK_TOKENS if first == 0 else 0 :])

    def of(self, layer):
        """The layer's tensor keys.commvq, [kv_heads, stages, 64, 2, head_dim / 2]; its keys are dropped."""
        keys = torch.cat(self._keys.pop(layer), 1)
        stages = self._stages or commvq.stages_for(self._bits, keys.shape[2])
        real, imaginary = self._planar(keys.shape[2])
        rows = torch.complex(keys[..., real].double(), keys[..., imaginary].double()).numpy()
        return torch.stack([torch.from_numpy(commvq.codewords(of_head, stages, seed=layer)) for of_head in rows])

    def _planar(self, head_dim):
        """Channels of the real and of the imaginary parts: pairs that are turned, then the others in pairs of the same kind."""
        first, second = self._turns.first.tolist(), self._turns.second.tolist()
        rest = [channel for channel in range(head_dim) if channel not in {*first, *second}]
        half = len(rest) // 2
        split = len(first) < 2 or first[1] == first[0] + 1  # halves, as in (p, p + n)
        others = (rest[:half], rest[half:]) if split else (rest[::2], rest[1::2])
        return first + others[0], second + others[1]
