"""One sequence that an engine fills layer by layer: what the adapters of all engines share."""

from kvant._core import InvalidArgumentError, OutOfRangeError, UnsupportedError


class Conversation:
    """A sequence of a store and the forward pass that is in work on it.

    An engine says which tokens its next pass computes (begin), then calls step for each attention layer in order; after the last
    layer the tokens are part of the sequence. A pass that ends early leaves nothing behind: the next one begins with layer 0.
    `tokens` are the ids of what the sequence holds; more than `capacity` of them are refused.
    """

    def __init__(
        self, store, layers, *, block_tokens, tokens=(), placement="local", recent_tokens=64, max_step_tokens=512, tail="f16", capacity=None, label="",
        policy=""
    ):
        self._store = store
        self._layers = layers
        self._options = {"placement": placement, "recent_tokens": recent_tokens, "tail": tail, "label": label, "policy": policy}
        self._block_tokens = block_tokens
        self._max_step = max_step_tokens
        self.capacity = capacity
        self._sequence = store.open(tokens, max_step_tokens=max_step_tokens, **self._options)
        self.abandon()
        self.cached_tokens = self._sequence.cached_tokens
        self.tokens = list(tokens[: self.cached_tokens])

    @property
    def sequence(self):
        return self._sequence

    @property
    def length(self):
        return self._sequence.length

    @property
    def nbytes(self):
        """Bytes of this conversation's sealed blocks, shared ones included, and of its newest rows."""
        info, tail = self._store.info, 4 if self._options["tail"] in ("f32", "float32") else 2
        blocks = self.sealed_tokens // self._block_tokens
        raw = self.length - self.sealed_tokens
        return blocks * info["block_bytes"] + raw * info["logical_block_bytes"] // self._block_tokens * tail // 2

    @property
    def sealed_tokens(self):
        """Tokens in whole blocks that have left the recent window; a held mark or a full store may keep some of them raw."""
        return max(0, self.length - self._options["recent_tokens"]) // self._block_tokens * self._block_tokens

    @property
    def layers(self):
        return self._layers

    def begin(self, tokens):
        """The ids of the tokens that the next forward pass computes."""
        self.abandon()
        if self.capacity is not None and self.length + len(tokens) > self.capacity:
            raise OutOfRangeError(
                f"attention: {self.length + len(tokens)} tokens in a cache for {self.capacity}; give max_seq_len or capacity a larger number"
            )
        self._pending = list(tokens)

    def abandon(self):
        """Forgets a forward pass that ended early."""
        self._pending, self._next_layer = None, 0

    @property
    def begun(self):
        """Whether the tokens of a forward pass are announced and not yet part of the sequence."""
        return self._pending is not None

    def step(self, layer, keys, values, q, out, scale, **style):
        """Keys and values [tokens, kv_heads, head_dim] of one layer become rows, and q's attention goes to out. `style`: window, softcap,
        sink_logits as kvant.Sequence.step."""
        self._enter(layer, keys.shape[0])
        self._sequence.step(layer, keys, values, q, out, scale, **style)
        self._leave(layer)

    def append(self, layer, keys, values):
        """As step, for rows whose attention nobody asks for."""
        self._enter(layer, keys.shape[0])
        self._sequence.append(layer, keys, values)
        self._leave(layer)

    def _enter(self, layer, tokens):
        if layer == 0:
            self._start(tokens)
        elif layer != self._next_layer:
            raise InvalidArgumentError(f"attention: layer {layer} after layer {self._next_layer - 1}; layers come in order")

    def _leave(self, layer):
        self._next_layer = layer + 1
        if self._next_layer < self._layers:
            return
        tokens = self._pending
        self.abandon()
        try:
            self._sequence.advance(tokens)
        finally:  # a store that is full says so and holds the tokens all the same
            self.tokens += tokens[: self.length - len(self.tokens)]

    def _start(self, tokens):
        if self._pending is None:
            raise InvalidArgumentError(
                "attention: the token ids of this forward pass are unknown. kvant shares keys and values by the tokens they come from: "
                "attach the adapter to the model (it reads the ids) or call begin()"
            )
        if len(self._pending) != tokens:
            raise InvalidArgumentError(f"attention: {tokens} tokens in the pass, {len(self._pending)} ids were given")
        if tokens > self._max_step:
            self._grow(tokens)
        self._sequence.reserve(tokens)

    def _grow(self, tokens):
        """Moves to a tail for longer steps."""
        self._max_step = 1 << (tokens - 1).bit_length()
        old = self._sequence
        self._sequence = self._store.fork(old.id, max_step_tokens=self._max_step, **self._options)
        if old.kept < old.length and not self._options["policy"].startswith("window"):
            self._sequence.close()
            self._sequence = old
            raise UnsupportedError(f"attention: {tokens} tokens in a pass behind dropped ones; give max_step_tokens a larger number")
        old.close()

    def apply_policy(self):
        """Drops tokens as the policy says: when a prompt has been read."""
        self._sequence.apply_policy()

    def trim(self, tokens):
        """Drops `tokens` from the end, or all there are; returns how many."""
        self.abandon()
        dropped = min(tokens, self.length)
        if dropped:
            self._sequence.trim(self.length - dropped)
            del self.tokens[self.length :]
        return dropped

    def fork(self, length=None):
        """A copy-on-write copy at `length` tokens (all of them)."""
        if self.begun:
            raise UnsupportedError("fork: a forward pass is in work")
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.abandon()
        copy._sequence = self._sequence.fork(length)
        copy.tokens = self.tokens[: copy.length]
        return copy

    def __deepcopy__(self, memo):
        """Engines copy the caches of all layers in one call; the memo of that call lets them share one fork."""
        return self.fork()

    def rewind(self, mark):
        """Back to a mark of the sequence's, exactly."""
        self.abandon()
        self._sequence.rewind(mark)
        del self.tokens[self.length :]

    def close(self):
        self._sequence.close()


def step_together(client, layer, calls, scale, **style):
    """Conversation.step of several conversations of one client and one placement: blocks that they share are read once.

    calls: (conversation, keys, values, q, out) of each. An error may leave some of them advanced and others not.
    """
    for conversation, keys, values, _, _ in calls:
        conversation._enter(layer, keys.shape[0])
        conversation.sequence.append(layer, keys, values)
    client.attend_batch(layer, [(conversation.sequence, q, out) for conversation, _, _, q, out in calls], scale, **style)
    for conversation, *_ in calls:
        conversation._leave(layer)
