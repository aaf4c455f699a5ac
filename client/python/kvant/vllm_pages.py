"""Rows in and out of the pages of vLLM's CPU attention.

A layer's pages are one array [pages, kv_heads, page_tokens, 2 * head_dim] by name, and within a page and head another: keys
[head_dim, page_tokens], behind them values [page_tokens, head_dim] (its "vec" and "vec16" attention). numpy's and torch's arrays will do.
"""

import re

import kvant


class Pages:
    """The paged caches of a worker's layers."""

    def __init__(self, kv_caches, spec, page_tokens):
        """kv_caches: by layer's name, as vLLM registers them. UnsupportedError names the layer that is not as the model says."""
        self._spec = spec
        self._page_tokens = page_tokens
        if len(kv_caches) != spec.layers:
            raise kvant.UnsupportedError(f"vLLM: {len(kv_caches)} layers have caches, the model has {spec.layers}")
        self._layers = [kv_caches[name] for name in sorted(kv_caches, key=_number)]
        for name, cache in kv_caches.items():
            if tuple(cache.shape[1:]) != (spec.kv_heads, page_tokens, 2 * spec.head_dim):
                raise kvant.UnsupportedError(
                    f"vLLM: {name} has pages {list(cache.shape[1:])}, {[spec.kv_heads, page_tokens, 2 * spec.head_dim]} are known"
                )
            if str(cache.device) != "cpu":
                raise kvant.UnsupportedError(f"vLLM: {name} lies on {cache.device}, caches on the CPU are known")

    def of(self, transfer):
        """The pages with rows of a transfer."""
        return self._between(transfer.block_ids, transfer.first, len(transfer.tokens))[0]

    def _between(self, block_ids, first, end):
        """Pages that hold positions [first, end), and the position of their first row."""
        start = first // self._page_tokens
        return block_ids[start : -(-end // self._page_tokens)], start * self._page_tokens

    def _views(self, pages):
        """Keys and values [pages, page_tokens, kv_heads, head_dim] of pages that were copied out; views."""
        count, heads, tokens, dim = len(pages), self._spec.kv_heads, self._page_tokens, self._spec.head_dim
        halves = pages.reshape(count, heads, 2, tokens * dim)
        keys = halves[:, :, 0].reshape(count, heads, dim, tokens).swapaxes(1, 3).swapaxes(2, 3)
        return keys, halves[:, :, 1].reshape(count, heads, tokens, dim).swapaxes(1, 2)

    def reader(self, transfer):
        """rows(layer, first, count) of a transfer, for kvant.prefixes.Prefixes.save."""

        def rows(layer, first, count):
            ids, start = self._between(transfer.block_ids, first, first + count)
            views = self._views(self._layers[layer][ids])
            return [view.reshape(-1, *view.shape[2:])[first - start : first - start + count] for view in views]

        return rows

    def fill(self, transfer, sequence):
        """Copies the rows of a kvant.Sequence. Requires: a transfer of whole pages."""
        ids, first = self._between(transfer.block_ids, transfer.first, len(transfer.tokens))
        count = len(transfer.tokens) - first
        for layer, cache in enumerate(self._layers):
            pages = cache[ids]
            views = self._views(pages)
            rows = [view.reshape(-1, *view.shape[2:]) for view in views]
            sequence.copy_rows(layer, first, count, *rows)
            for view, copied in zip(views, rows, strict=True):
                view[...] = copied.reshape(view.shape)
            cache[ids] = pages


def _number(name):
    """A layer's number in its name: model.layers.11.self_attn.attn."""
    numbers = re.findall(r"\.(\d+)\.", name)
    if len(numbers) != 1:
        raise kvant.UnsupportedError(f"vLLM: {name} has no layer's number")
    return int(numbers[0])
