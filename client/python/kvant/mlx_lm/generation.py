"""mlx_lm's generators for models whose caches are kvant's: they start behind what is cached already, by whichever engine and process."""

import functools
import sys

import mlx.core as mx
import mlx_lm

import kvant

_module = sys.modules["mlx_lm.generate"]  # mlx_lm.generate is its function


def is_patched(model):
    """Whether the caches that the model makes are kvant's."""
    return hasattr(model, "kvant_hooks") and getattr(model.__dict__.get("make_cache"), "__self__", None) is model.kvant_caches


def make_prompt_cache(model, tokens=()):
    """Caches of all layers of a patched model. They hold the longest prefix of `tokens` that any engine has computed: the rest,
    tokens[cached_tokens(caches):], is to be computed."""
    if not is_patched(model):
        raise kvant.UnsupportedError("make_prompt_cache: the model is not patched; call kvant.mlx_lm.patch_mlx_lm(model, config) first")
    return model.kvant_caches.open(tokens)


def cached_tokens(caches):
    """Tokens that were found when the caches were made."""
    return caches[0].conversation.cached_tokens


def snap(caches):
    """Marks the present point of a conversation; restore() brings it back exactly. While a mark is held nothing newer is compressed."""
    return caches[0].conversation.sequence.set_mark()


def restore(caches, mark):
    caches[0].conversation.rewind(mark)


def release(caches, mark):
    """Lets go of a mark."""
    caches[0].conversation.sequence.release(mark)


def _start(model, tokenizer, prompt, kwargs):
    """The prompt's tokens that are to be computed, and kwargs with caches that hold the others."""
    kv_cache = kwargs.pop("kv_cache", None)
    if kv_cache is not None:
        if kwargs.get("prompt_cache") is not None:
            raise kvant.InvalidArgumentError("generate: prompt_cache and kv_cache are two names of one argument")
        kwargs["prompt_cache"] = kv_cache
    if kwargs.get("prompt_cache") is not None or not is_patched(model):
        return prompt, kwargs
    if isinstance(prompt, str):
        bos = getattr(tokenizer, "bos_token", None)
        prompt = tokenizer.encode(prompt, add_special_tokens=bos is None or not prompt.startswith(bos))
    prompt = prompt.tolist() if isinstance(prompt, mx.array) else list(prompt)
    if kwargs.get("draft_model") is not None or kwargs.get("input_embeddings") is not None:
        return prompt, kwargs  # a draft model reads the whole prompt, too
    caches = make_prompt_cache(model, prompt[:-1])
    return prompt[cached_tokens(caches) :], {**kwargs, "prompt_cache": caches}


def _behind_what_is_cached(stock):
    @functools.wraps(stock)
    def stream_generate(model, tokenizer, prompt, *args, **kwargs):
        prompt, kwargs = _start(model, tokenizer, prompt, kwargs)
        yield from stock(model, tokenizer, prompt, *args, **kwargs)

    stream_generate.stock = stock
    return stream_generate


stream_generate = _behind_what_is_cached(mlx_lm.stream_generate)
stream_generate.__doc__ = """mlx_lm.stream_generate. A patched model starts behind what is cached. `kv_cache` is another name of `prompt_cache`: with caches of an
earlier turn the prompt continues the conversation."""


def install():
    """mlx_lm.generate and mlx_lm.stream_generate do the same for patched models, and take kv_cache."""
    _module.stream_generate = mlx_lm.stream_generate = stream_generate


def uninstall():
    _module.stream_generate = mlx_lm.stream_generate = stream_generate.stock
