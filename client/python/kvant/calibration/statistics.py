"""Statistics of one layer's rows, gathered block by block; sums are in f64 and of a fixed order, so that the same text gives the same bytes."""

import torch

BLOCK_TOKENS = 128  # of a plan's blocks, as most plans have them
SINK_TOKENS = 4  # first tokens, which stay raw and are unlike the others


class LayerStatistics:
    """Sums over blocks of a layer: queries [q_heads, tokens, head_dim], keys and values [kv_heads, tokens, head_dim], keys as attention
    multiplies them with queries."""

    def __init__(self, kv_heads, head_dim):
        self.kv_heads, self.head_dim = kv_heads, head_dim
        square, row = (kv_heads, head_dim, head_dim), (kv_heads, head_dim)
        self._tokens = self._body_tokens = self._spread_tokens = 0
        self._sums = {side: torch.zeros(row, dtype=torch.float64) for side in ("keys", "values")}
        self._body_sums = {side: torch.zeros(row, dtype=torch.float64) for side in ("keys", "values")}
        self._spread = torch.zeros(square, dtype=torch.float64)  # of keys around the mean of their block
        self._queries = torch.zeros(square, dtype=torch.float64)
        self._query_rows = 0
        self._values = torch.zeros(square, dtype=torch.float64)
        self._keys = torch.zeros(square, dtype=torch.float64)
        self._largest = torch.zeros(row, dtype=torch.float64)  # |key|
        self._plain = torch.zeros(row, dtype=torch.float64)  # keys before RoPE

    def add(self, queries, keys, values, first, turns=None):
        """The rows of consecutive tokens from position `first`, a multiple of BLOCK_TOKENS; `turns` (calibration.rope) if RoPE is known."""
        queries, keys, values = (rows.to(torch.float64) for rows in (queries, keys, values))
        self._tokens += keys.shape[1]
        self._sums["keys"] += keys.sum(1)
        self._sums["values"] += values.sum(1)
        if turns is not None:
            self._plain += turns.undone(keys, first)[:, SINK_TOKENS if first == 0 else 0 :].sum(1)
        for begin in range(0, keys.shape[1], BLOCK_TOKENS):
            body = slice(begin + (SINK_TOKENS if first + begin == 0 else 0), begin + BLOCK_TOKENS)
            self._add_block(queries[:, body], keys[:, body], values[:, body])

    def _add_block(self, queries, keys, values):
        if keys.shape[1] == 0:
            return
        centred = keys - keys.mean(1, keepdim=True)
        self._spread += centred.mT @ centred
        self._spread_tokens += keys.shape[1] - 1  # the block's own mean takes one degree of freedom
        group = queries.unflatten(0, (self.kv_heads, -1)).flatten(1, 2)  # [kv_heads, group's heads * tokens, head_dim]
        self._queries += group.mT @ group
        self._query_rows += group.shape[1]
        self._values += values.mT @ values
        self._keys += keys.mT @ keys
        self._body_sums["keys"] += keys.sum(1)
        self._body_sums["values"] += values.sum(1)
        self._body_tokens += values.shape[1]
        self._largest = torch.maximum(self._largest, keys.abs().amax(1))

    def mean(self, side):
        """[kv_heads, head_dim], over all tokens."""
        return self._sums[side] / self._tokens

    @property
    def plain_mean(self):
        """[kv_heads, head_dim], of keys before RoPE."""
        return self._plain / max(1, self._body_tokens)

    def mean_square(self, side):
        """[kv_heads, head_dim] of keys or values."""
        moment = self._keys if side == "keys" else self._values
        return moment.diagonal(dim1=1, dim2=2) / max(1, self._body_tokens)

    @property
    def key_covariance(self):
        """[kv_heads, head_dim, head_dim], within blocks: what is left of keys once the mean of their block is taken off."""
        return self._spread / max(1, self._spread_tokens)

    @property
    def query_moment(self):
        """[kv_heads, head_dim, head_dim], second moment of the queries of a KV head's group."""
        return self._queries / max(1, self._query_rows)

    @property
    def value_moment(self):
        """[kv_heads, head_dim, head_dim], second moment of the values."""
        return self._values / max(1, self._body_tokens)

    def covariance_around_mean(self, side):
        """[kv_heads, head_dim, head_dim] of rows less mean(side), the sinks left out."""
        moment = (self._keys if side == "keys" else self._values) / max(1, self._body_tokens)
        body, mean = self._body_sums[side] / max(1, self._body_tokens), self.mean(side)
        cross = body[:, :, None] * mean[:, None, :]
        return moment - cross - cross.mT + mean[:, :, None] * mean[:, None, :]

    @property
    def largest_key(self):
        """[kv_heads, head_dim], max |k|."""
        return self._largest
