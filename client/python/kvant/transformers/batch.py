"""Rows of a transformers batch, each a sequence of a kvant store: passes that fill them, padding, forks."""

import contextlib

import torch

import kvant
from kvant.conversation import step_together


class Batch:
    """The rows of one cache. They end in one column, as transformers counts: a row's tokens and the padding to their left.

    open: opens a kvant.conversation.Conversation with the longest prefix of some tokens that is sealed. window: attention sees so many
    of the newest tokens only; None: what the model says.
    """

    def __init__(self, client, layers, open, window=None):
        self._client = client
        self._layers = layers
        self._open = open
        self._window = window
        self._pass = None
        self.rows = []
        self.columns = 0

    def find(self, input_ids, attention_mask):
        """Opens the rows with the prefixes that are sealed. Longer ones are cut, so that all end in one column."""
        rows, columns = input_ids.shape
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        counts = [_real_tokens(real[row], 0, columns, row) for row in range(rows)]
        for row, count in enumerate(counts):
            # The last token is computed in any case: generate() wants its logits.
            self.rows.append(self._open(input_ids[row, columns - count : columns - 1].tolist()))
        if any(row.length for row in self.rows):
            self.columns = min(columns - count + row.length for count, row in zip(counts, self.rows, strict=True))
            for count, row in zip(counts, self.rows, strict=True):
                row.trim(row.length - max(0, self.columns - (columns - count)))
                row.cached_tokens = row.length

    def begin(self, input_ids, attention_mask, position_ids):
        """The pass that comes: ids [rows, tokens], the mask over all columns (None: no padding) and the positions (None: the model's
        own). Returns the positions to use. What an earlier pass left unfinished is dropped."""
        self._pass = None
        rows, new = input_ids.shape
        if not self.rows:
            self.rows = [self._open(()) for _ in range(rows)]
        if rows != len(self.rows):
            raise kvant.InvalidArgumentError(
                f"forward: a batch of {rows}, the cache holds {len(self.rows)} rows; for beams and return sequences call "
                "cache.batch_repeat_interleave(how many) first"
            )
        counts = self._count_real(attention_mask, new)
        expected = torch.zeros((rows, new), dtype=torch.long)
        for index, (row, count) in enumerate(zip(self.rows, counts, strict=True)):
            expected[index, new - count :] = torch.arange(row.length, row.length + count)
            if position_ids is not None:
                _check_positions(position_ids, expected, index, new - count)
            row.begin(input_ids[index, new - count :].tolist())
        self._pass = _Pass(counts, attention_mask, [row.length for row in self.rows])
        return expected if position_ids is None else position_ids

    def _count_real(self, attention_mask, new):
        """Tokens of each row in this pass, padding on the left left out."""
        columns = self.columns + new
        unpadded = all(row.length == self.columns for row in self.rows)
        if attention_mask is None:
            if unpadded:
                return [new] * len(self.rows)
            real = torch.ones((len(self.rows), columns), dtype=torch.bool)
        elif attention_mask.ndim != 2 or attention_mask.shape[1] != columns:
            raise kvant.UnsupportedError(
                f"forward: attention_mask {list(attention_mask.shape)}; [{len(self.rows)}, {columns}] is wanted, "
                f"{self.columns} cached columns and {new} new ones"
            )
        else:
            real = attention_mask.bool()
        if unpadded and real.all():
            return [new] * len(self.rows)
        return [_real_tokens(real[index], row.length, new, index) for index, row in enumerate(self.rows)]

    def hand_out(self, layer, keys):
        if self._pass is None:
            raise kvant.UnsupportedError(
                "update: no forward pass of the attached model is in work. The cache was made for another model object, or the model was "
                "detached: make a KvantCache for the model that runs"
            )
        if self._pass.handed_out is not None:
            self._fail_unattended()
        if not keys.is_cpu:
            raise kvant.UnsupportedError(f"update: keys on {keys.device}; kvant attends on CPUs (not on GPUs yet)")
        self._pass.handed_out = layer

    def _fail_unattended(self):
        layer, self._pass = self._pass.handed_out, None
        raise kvant.UnsupportedError(
            f"attention: the model did not call kvant for layer {layer}, but an attention that sees new tokens only. Its attn_implementation "
            "must stay as kvant.transformers.attach set it"
        )

    def attend(self, layer, query, key, value, padding, scale, style):
        work = self._pass
        if work is None or work.handed_out != layer:
            raise kvant.UnsupportedError(f"attention: keys of layer {layer} are not those that the cache handed out last")
        if padding is not work.padding and layer == 0:
            work.check_padding(padding)
        work.handed_out = None
        if self._window:
            style = {**style, "window": min(self._window, style.get("window", self._window))}
        rows, heads, new, dim = query.shape
        last = layer + 1 == self._layers
        try:
            out = torch.empty((rows, new, heads, dim), dtype=query.dtype)
            if rows == 1 and work.counts[0] == new:
                k, v, q = key[0].transpose(0, 1), value[0].transpose(0, 1), query[0].transpose(0, 1)
                self.rows[0].step(layer, k, v, q, out[0], scale, **style)
            else:
                self._attend_rows(layer, query, key, value, out, scale, style)
        except BaseException:
            self._drop_pass()
            raise
        if last:
            self.columns += new
            self._pass = None
        return out

    def _attend_rows(self, layer, query, key, value, out, scale, style):
        new = query.shape[2]
        calls = []
        for index, (row, count) in enumerate(zip(self.rows, self._pass.counts, strict=True)):
            first = new - count
            out[index, :first] = 0.0
            if count:
                k, v, q = (x[index, :, first:].transpose(0, 1) for x in (key, value, query))
                calls.append((row, k, v, q, out[index, first:]))
        if calls:
            step_together(self._client, layer, calls, scale, **style)

    def _drop_pass(self):
        """Rows that a failed pass has lengthened already become as long as they were."""
        work, self._pass = self._pass, None
        for row, length in zip(self.rows, work.lengths, strict=True):
            with contextlib.suppress(kvant.Error):  # the first error is the one to tell
                row.trim(row.length - length)

    def take(self, input_ids, layers, step):
        """Rows that were computed elsewhere, as if passes of `step` tokens had computed them: of each layer (keys, values)
        [rows, kv_heads, tokens, head_dim]."""
        for first in range(0, input_ids.shape[1], step):
            part = slice(first, first + step)
            self.begin(input_ids[:, part], None, None)
            for layer, sides in enumerate(layers):
                for row, keys, values in zip(self.rows, *(side[:, :, part].transpose(1, 2) for side in sides), strict=True):
                    row.append(layer, keys, values)
            self.columns += input_ids[:, part].shape[1]
            self._pass = None

    def finish(self):
        """After the model's forward."""
        if self._pass is not None:
            if self._pass.handed_out is not None:
                self._fail_unattended()
            self._pass = None
            raise kvant.UnsupportedError(f"forward: the model did not call kvant for each of {self._layers} layers")

    def crop(self, tokens):
        """Drops `tokens` from the end of each row."""
        columns = max(0, self.columns - tokens)
        self._abandon()
        for row in self.rows:
            padding = self.columns - row.length
            row.trim(row.length - max(0, columns - padding))
        self.columns = columns

    def select(self, indices):
        """Rows by index; one that is wanted again is forked, one that is not wanted is given back."""
        if not self.rows:
            return
        self._abandon()
        selected, forks = [], []
        try:
            for at, index in enumerate(indices):
                if index in indices[:at]:
                    forks.append(self.rows[index].fork())
                selected.append(forks[-1] if index in indices[:at] else self.rows[index])
        except BaseException:
            _close(forks)
            raise
        _close([row for row in self.rows if row not in selected])
        self.rows = selected

    def fork(self):
        """A copy-on-write copy of all rows."""
        self._abandon()
        copy = Batch(self._client, self._layers, self._open, self._window)
        copy.rows, copy.columns = [row.fork() for row in self.rows], self.columns
        return copy

    def _abandon(self):
        """Forgets a pass that ended early."""
        self._pass = None
        for row in self.rows:
            row.abandon()

    def close(self):
        """Gives the blocks back to the store, where they stay for others; the batch is then empty."""
        _close(self.rows)
        self.rows, self.columns, self._pass = [], 0, None


def _close(rows):
    for row in rows:
        row.close()


class _Pass:
    """A forward pass in work."""

    def __init__(self, counts, padding, lengths):
        self.counts = counts  # real tokens of each row
        self.padding = padding  # the attention mask that they were counted from
        self.lengths = lengths  # of the rows before it
        self.handed_out = None  # the layer whose keys the model has and attention has not

    def check_padding(self, padding):
        counted = None if self.padding is None else self.padding.bool()
        if padding is None:
            same = counted is None or bool(counted.all())
        else:
            same = bool(padding.all()) if counted is None else torch.equal(counted, padding)
        if not same:
            raise kvant.UnsupportedError("attention: the model changed its attention_mask on the way; kvant cut padding by the one it was given")


def _real_tokens(real, held, new, row):
    """How many of the last `new` columns of a row are tokens, by its mask [columns], where `held` tokens are cached."""
    total = int(real.sum())
    if not (held <= total <= held + new and bool(real[len(real) - total :].all())):
        raise kvant.UnsupportedError(
            f"attention_mask: row {row} has {total} tokens in {len(real)} columns, {held} of them cached; kvant cuts padding on the left, and "
            'none may stand elsewhere (tokenizer.padding_side = "left")'
        )
    return total - held


def _check_positions(position_ids, expected, row, first):
    if position_ids.ndim != 2 or position_ids.shape[1] != expected.shape[1]:
        raise kvant.UnsupportedError(f"forward: position_ids {list(position_ids.shape)}; {list(expected.shape)} is wanted")
    given = position_ids[min(row, len(position_ids) - 1), first:]
    if not torch.equal(given, expected[row, first:]):
        raise kvant.InvalidArgumentError(
            f"forward: position_ids of row {row} begin with {int(given[0])}, {int(expected[row, first])} is the position in the text: keys at "
            "other positions would be shared as if they were these"
        )
