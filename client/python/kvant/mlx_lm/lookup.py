"""Prompt lookup: drafts for mlx_lm's speculative decoding that are copied from the text so far, without a second model."""

import array

import mlx.core as mx


class _Read:
    """The cache of a PromptLookup: the tokens it has seen."""

    state = ()

    def __init__(self):
        self.tokens = array.array("q")

    def is_trimmable(self):
        return True

    def trim(self, n):
        n = min(n, len(self.tokens))
        del self.tokens[len(self.tokens) - n :]
        return n


class PromptLookup:
    """A draft model that guesses: what followed the last `ngram` tokens when they last occurred, follows again.

        mlx_lm.stream_generate(model, tokenizer, prompt, draft_model=PromptLookup(vocab_size), num_draft_tokens=5)

    The text is that of plain decoding; the model computes several tokens in one pass where guesses are right. With caches of an earlier
    turn give prompt_cache=caches + lookup.make_cache().
    """

    def __init__(self, vocab_size, ngram=3):
        self._vocab_size = vocab_size
        self._ngram = ngram

    def make_cache(self):
        return [_Read()]

    def __call__(self, ids, cache):
        """ids [1, tokens] -> logits [1, 1, vocab_size] of the token after the last."""
        tokens = cache[0].tokens
        tokens.extend(ids[0].tolist())
        return (mx.arange(self._vocab_size) == self._guess(tokens)).astype(mx.float32)[None, None]

    def _guess(self, tokens):
        item, text = tokens.itemsize, tokens.tobytes()
        last = text[-self._ngram * item :]
        end = len(text) - 1  # the last tokens themselves do not count
        while (at := text.rfind(last, 0, end)) >= 0:
            if at % item == 0:
                return tokens[at // item + self._ngram]
            end = at + len(last) - 1
        return tokens[-1]
