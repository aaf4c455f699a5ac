"""The attention "kvant" of Hugging Face transformers: which masks attention on codes can follow, and the call itself."""

import types

from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function, sliding_window_causal_mask_function

import kvant

NAME = "kvant"

# What transformers hands through to attention that does not change its result.
_WITHOUT_EFFECT = frozenset(
    {
        "cache_position",
        "is_causal",
        "logits_to_keep",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "sliding_window",  # the mask says it, for every implementation
        "use_cache",
    }
)


class Mask:
    """What a model's mask says, in the place of an array."""

    def __init__(self, window, padding):
        self.window = window  # tokens that a query sees, its own included; 0: all before it
        self.padding = padding  # attention_mask [rows, columns] of bool; None: nothing is padding


def _same_function(one, other):
    """Whether two closures were made by one factory from equal values."""
    if not (isinstance(one, types.FunctionType) and isinstance(other, types.FunctionType)):
        return type(one) is type(other) and one == other
    if one is other:
        return True

    def contents(function):
        return [cell.cell_contents for cell in function.__closure__ or ()]

    def flat(values):
        return [part for value in values for part in (value if isinstance(value, tuple) else (value,))]

    first, second = flat(contents(one)), flat(contents(other))
    return one.__code__ is other.__code__ and len(first) == len(second) and all(map(_same_function, first, second))


def mask(*, mask_function, attention_mask=None, local_size=None, **_):
    """A causal mask or a sliding window as a Mask; UnsupportedError for every other."""
    if mask_function is causal_mask_function:
        return Mask(0, attention_mask)
    if local_size is not None and _same_function(mask_function, sliding_window_causal_mask_function(local_size)):
        return Mask(local_size, attention_mask)
    raise kvant.UnsupportedError("mask: the model brings a mask of its own; attention on codes knows causal masks and sliding windows")


def attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, softcap=None, s_aux=None, **others):
    """Attention of query [rows, q_heads, tokens, head_dim] over what a KvantCache holds and the new key and value. Returns
    [rows, tokens, q_heads, head_dim] and no weights."""
    layer = getattr(key, "kvant_layer", None)
    if layer is None:
        raise kvant.UnsupportedError(
            'attention: this forward pass has no KvantCache, which attn_implementation "kvant" needs: '
            "model.generate(..., cache=kvant.transformers.KvantCache(model, **inputs)), or detach the model from kvant"
        )
    if type(attention_mask) is not Mask:
        raise kvant.UnsupportedError(
            f"attention: the mask is a {type(attention_mask).__name__} that the model or the caller made; attention on codes knows causal "
            "masks and sliding windows with padding on the left"
        )
    if dropout:
        raise kvant.UnsupportedError(f"attention: dropout {dropout}; call model.eval()")
    if query.requires_grad:
        raise kvant.UnsupportedError("attention: gradients do not pass through codes; call the model under torch.no_grad()")
    for name, given in others.items():
        if given is not None and name not in _WITHOUT_EFFECT:
            raise kvant.UnsupportedError(f"attention: {name} is not known to attention on codes")
    style = {}
    if attention_mask.window:
        style["window"] = attention_mask.window
    if softcap is not None:
        style["softcap"] = softcap
    if s_aux is not None:
        style["sink_logits"] = s_aux.detach().float().contiguous()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return layer.attend(query, key, value, attention_mask.padding, scale, style), None


def register():
    """Makes the name known to transformers, for attention and for masks: without the second, padding would be dropped in silence."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)



def is_chosen(config):
    return config._attn_implementation == NAME
