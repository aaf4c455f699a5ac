"""Prefixes of engines that attend over a cache of their own: rows go in and are compressed, rows come out decoded.

What is spared is the computing of a prefix that anybody has computed, not the engine's memory while it works: attention stays the
engine's.
"""

import contextlib
import dataclasses

import kvant


@dataclasses.dataclass
class Settings:
    """Where prefixes live and how they are compressed."""

    uri: str = "embedded:"
    keys: str = "balanced"
    values: str = "balanced"
    sink_tokens: int = 4
    block_tokens: int = 128  # prefixes are found in steps of so many
    adapter: str = ""
    salt: str = ""
    artifact: bytes = b""
    client_options: dict = dataclasses.field(default_factory=dict)

    def plan(self):
        """The fields of a kvant.StoreSpec that are not the model's."""
        names = ("keys", "values", "sink_tokens", "block_tokens", "adapter", "salt", "artifact")
        return {name: getattr(self, name) for name in names}


class Prefixes:
    """The prefixes of one store. Any thread may use it: each has a client of its own (kvant.connect)."""

    _STEP = 128  # tokens that are handed over at a time: few, since their rows stand raw in the arena

    def __init__(self, spec, settings):
        self.spec = spec
        self._settings = settings

    @property
    def store(self):
        """This thread's handle."""
        return kvant.connect(self._settings.uri, **self._settings.client_options).open_store(self.spec)

    def open(self, tokens, step=1):
        """A kvant.Sequence that holds the longest saved prefix of `tokens`, and keeps it from being evicted until it is closed.
        cached_tokens say how long it is, copy_rows gives its rows."""
        # Nothing stays raw: what is not sealed when the sequence ends is lost. f32 holds any engine's rows as they are.
        return self.store.open(list(tokens), recent_tokens=0, max_step_tokens=step, tail="f32", label="prefixes")

    def whole(self, count):
        """`count` tokens, rounded down to whole blocks."""
        return count // self.spec.block_tokens * self.spec.block_tokens

    def save(self, tokens, rows):
        """Makes the whole blocks of `tokens` findable; returns how many tokens nobody had saved yet.

        rows(layer, first, count) gives the keys and the values of those tokens, [count, kv_heads, head_dim] each. It is asked only for
        tokens that are new, layer by layer. Rows must come from exactly these tokens, at positions 0..: nothing can check that.
        StoreFullError says how many are kept if there is no room for all.
        """
        tokens = list(tokens)[: self.whole(len(tokens))]
        with contextlib.closing(self.open(tokens, self._STEP)) as sequence:
            found = sequence.cached_tokens
            for first in range(found, len(tokens), self._STEP):
                count = min(self._STEP, len(tokens) - first)
                sequence.reserve(count)
                for layer in range(self.spec.layers):
                    sequence.append(layer, *rows(layer, first, count))
                sequence.advance(tokens[first : first + count])
            if found < len(tokens):
                sequence.trim(len(tokens))  # drops nothing, and returns when every block is sealed or has no room
        if found < len(tokens) and (kept := self.count(tokens)) < len(tokens):
            raise kvant.StoreFullError(f"save: {kept} of {len(tokens)} tokens are kept, the store has no room for more")
        return len(tokens) - found

    def find(self, tokens):
        """open() as a context manager."""
        return contextlib.closing(self.open(tokens))

    def count(self, tokens):
        """Length of the longest saved prefix of `tokens`."""
        with self.find(tokens) as sequence:
            return sequence.cached_tokens
