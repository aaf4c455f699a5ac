"""The masks that kvant computes itself, as mlx_lm asks a cache for them."""

import mlx.core as mx
import numpy as np

import kvant


class Window:
    """What make_mask answers for a layer with a sliding window; kvant's attention understands it."""

    def __init__(self, tokens):
        self.tokens = tokens


def mask_for(n, return_array, window_size):
    """The masks that kvant computes itself: causal, with a window or without one."""
    if return_array:
        raise kvant.UnsupportedError("make_mask: this model wants its mask as an array, which attention on codes cannot follow")
    if window_size is not None:
        return Window(window_size)
    return None if n == 1 else "causal"


def style_of(mask, sinks, sliding_window):
    """The options of kvant.Sequence.step that a layer's mask, sinks and the configured window stand for."""
    if not (mask is None or isinstance(mask, Window) or (isinstance(mask, str) and mask == "causal")):
        raise kvant.UnsupportedError("attention: the model brings a mask of its own; a kvant cache knows causal ones and windows")
    windows = [w for w in (sliding_window, mask.tokens if isinstance(mask, Window) else None) if w]
    style = {"window": min(windows)} if windows else {}
    if sinks is not None:
        style["sink_logits"] = np.array(sinks.astype(mx.float32))
    return style
