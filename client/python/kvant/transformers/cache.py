"""KvantCache: a transformers Cache whose keys and values are sequences of a kvant store, one for each row of a batch."""

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

import kvant
from kvant.transformers.batch import Batch


class KvantLayer(CacheLayerMixin):
    """One attention layer of a cache. It keeps nothing: keys and values go to the sequences when attention is called for them."""

    is_croppable = True
    supports_early_init = False

    def __init__(self, batch, index):
        super().__init__()
        self._batch = batch
        self._index = index

    def lazy_initialization(self, key_states, value_states):
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        """Hands the new keys and values on; attention finds this layer by the mark on the keys."""
        self._batch.hand_out(self._index, key_states)
        key_states.kvant_layer = self
        return key_states, value_states

    def attend(self, query, key, value, padding, scale, style):
        return self._batch.attend(self._index, query, key, value, padding, scale, style)

    def get_mask_sizes(self, query_length):
        return self._batch.columns + query_length, 0

    def get_seq_length(self):
        return self._batch.columns

    def get_max_length(self):
        return -1


class KvantCache(Cache):
    """Keys and values of a batch, on compressed codes, shared with other processes and engines.

    Made from the inputs of generate() it already holds the longest prefix of each row that anybody has computed, and generate()
    computes only the rest. Without inputs it is empty. Rows may be padded on the left: padding is cut, not stored. Belongs to the
    thread that made it. `model` must be attached (kvant.transformers.attach).
    """

    def __init__(self, model, input_ids=None, attention_mask=None):
        attachment = getattr(model, "kvant_attachment", None)
        if attachment is None:
            raise kvant.UnsupportedError(f"cache: this {type(model).__name__} is not attached; call kvant.transformers.attach(model) first")
        self._hold(attachment, attachment.new_batch())
        if input_ids is not None:
            self.batch.find(input_ids, attention_mask)

    def _hold(self, attachment, batch):
        super().__init__(layers=[KvantLayer(batch, index) for index in range(attachment.spec.layers)])
        self.attachment = attachment
        self.batch = batch

    @property
    def rows(self):
        """The kvant.conversation.Conversation of each row."""
        return tuple(self.batch.rows)

    def apply_policy(self):
        """Drops tokens of every row as KVCacheConfig.policy says: when a prompt has been read."""
        for row in self.batch.rows:
            row.apply_policy()

    @property
    def cached_tokens(self):
        """Tokens of each row that were found when the cache was made."""
        return [row.cached_tokens for row in self.batch.rows]

    @property
    def nbytes(self):
        """Bytes of all rows: sealed blocks, shared ones included, and newest rows."""
        return sum(row.nbytes for row in self.batch.rows)

    @property
    def batch_size(self):
        return len(self.batch.rows) or -1

    # What transformers does with caches layer by layer is done once: the layers share their rows.

    def crop(self, tokens_to_remove):
        """Drops -tokens_to_remove tokens from the end of each row."""
        if tokens_to_remove > 0:
            raise kvant.InvalidArgumentError(f"crop: {tokens_to_remove}; say how many tokens to remove as a negative number")
        if tokens_to_remove:
            self.batch.crop(-tokens_to_remove)

    def reset(self):
        """Gives the blocks back to the store, where they stay for others; the cache is then empty."""
        self.batch.close()

    def reorder_cache(self, beam_idx):
        self.batch.select(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats):
        self.batch.select([index for index in range(len(self.batch.rows)) for _ in range(repeats)])

    def batch_select_indices(self, indices):
        self.batch.select(torch.arange(len(self.batch.rows))[indices].tolist())

    def __deepcopy__(self, memo):
        """A copy-on-write copy, as of a prompt that several texts continue."""
        copy = memo[id(self)] = object.__new__(KvantCache)
        copy._hold(self.attachment, self.batch.fork())
        return copy
