"""Whether kvant's attention serves a shape: what engines ask before they patch a model."""

from kvant._core import Client, InvalidArgumentError, UnsupportedError
from kvant.spec import StoreSpec


def supports_shape(n_centroids=None, n_sub=None, head_dim=None, *, batch=1, heads=1, seq_len=1, kv_heads=None, codec=None):
    """True if attention of `heads` query heads over `kv_heads` KV heads (as many, if not given) of head_dim numbers works with `codec` for
    keys and values (balanced). n_centroids and n_sub are those of a product code, which "vecinfer" serves: given, they
    ask for it, calibrated: 256 words of four numbers. batch and seq_len: any positive number; how many fit is a matter of the budget.
    """
    if head_dim is None:
        raise InvalidArgumentError("supports_shape: head_dim is wanted")
    if codec is None:
        codec = "balanced"
        if n_centroids is not None or n_sub is not None:
            if n_centroids not in (None, 256) or (n_sub is not None and n_sub * 4 != head_dim) or head_dim < 64:
                return False
            codec = "gaussian_vq"  # the same code, without a calibration that would have to be at hand
    kv_heads = heads if kv_heads is None else kv_heads
    if min(batch, heads, seq_len, kv_heads, head_dim) < 1 or heads % kv_heads:
        return False
    shape = StoreSpec(name="shape", model="shape", tokenizer="none", layers=1, kv_heads=kv_heads, head_dim=head_dim, keys=codec, values=codec)
    with Client() as client:
        try:
            client.open_store(shape)
        except (InvalidArgumentError, UnsupportedError):
            return False
    return True
