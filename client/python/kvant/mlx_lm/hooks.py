"""What it takes for a model of mlx_lm to attend over kvant caches: they are told its token ids, and attention over them is kvant's."""

import dataclasses
import functools
import sys
import weakref

from mlx_lm.models import cache as mlx_cache

import kvant
from kvant.mlx_lm.batch import BatchKvantKVCache
from kvant.mlx_lm.cache import KvantKVCache

_CACHES = (KvantKVCache, BatchKvantKVCache)
_hooked = weakref.WeakSet()  # the hooks of living models


@dataclasses.dataclass(eq=False)
class _Hooks:
    """What was replaced in one model."""

    model_class: type
    modules: list
    make_cache: object


def hook(model):
    """Does nothing for a model that is hooked already. UnsupportedError for models whose attention kvant cannot follow."""
    if hasattr(model, "kvant_hooks"):
        return
    stock = mlx_cache.make_prompt_cache(model)
    other = sorted({type(c).__name__ for c in stock} - {"KVCache", "RotatingKVCache"})
    if other:
        raise kvant.UnsupportedError(f"patch: layers of this model keep {', '.join(other)}; kvant holds keys and values of attention")
    hooks = _Hooks(type(model), replace_attention(model), model.__dict__.get("make_cache"))
    model.__class__ = _tapped(hooks.model_class)
    model.kvant_hooks = hooks
    _hooked.add(hooks)


def unhook(model):
    """Leaves a model as it was, make_cache included; does nothing for one that is not hooked."""
    hooks = getattr(model, "kvant_hooks", None)
    if hooks is None:
        return
    del model.kvant_hooks
    _hooked.discard(hooks)
    model.__class__ = hooks.model_class
    if hooks.make_cache is not None:
        model.make_cache = hooks.make_cache
    elif "make_cache" in model.__dict__:
        del model.make_cache
    for module in hooks.modules:
        if not any(module in other.modules for other in _hooked):
            module.scaled_dot_product_attention = module.scaled_dot_product_attention.stock


def any_hooked():
    return len(_hooked) > 0


def replace_attention(model):
    """Lets the name that the model's layers call attend over kvant caches, and as before over all others. Returns the modules."""
    names = {type(module).__module__ for _, module in model.named_modules()}
    modules = [sys.modules[name] for name in sorted(names) if hasattr(sys.modules[name], "scaled_dot_product_attention")]
    if not modules:
        raise kvant.UnsupportedError(f"patch: {type(model).__module__} has no scaled_dot_product_attention of mlx_lm's to replace")
    for module in modules:
        if not hasattr(module.scaled_dot_product_attention, "stock"):
            module.scaled_dot_product_attention = _attention_with_kvant(module.scaled_dot_product_attention)
    return modules


def _attention_with_kvant(stock):
    @functools.wraps(stock)
    def scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks=None):
        if isinstance(cache, _CACHES):
            return cache.attend(queries, keys, values, scale, mask, sinks)
        return stock(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)

    scaled_dot_product_attention.stock = stock
    return scaled_dot_product_attention


def _tapped(cls):
    """`cls`, whose forward passes tell their kvant caches which tokens they compute: a cache never sees ids otherwise."""

    class Tapped(cls):
        @functools.wraps(cls.__call__)
        def __call__(self, inputs, *args, **kwargs):
            caches = kwargs.get("cache", args[0] if args else None)
            first = caches[0] if caches else None
            if not isinstance(first, _CACHES):
                return super().__call__(inputs, *args, **kwargs)
            if kwargs.get("input_embeddings") is not None:
                raise kvant.UnsupportedError("attention: input_embeddings; kvant shares keys and values by the token ids that they come from")
            try:
                first.begin(self, inputs)
                out = super().__call__(inputs, *args, **kwargs)
                first.end()
            except BaseException:
                first.abandon()
                raise
            return out

    Tapped.__name__, Tapped.__qualname__, Tapped.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    return Tapped
