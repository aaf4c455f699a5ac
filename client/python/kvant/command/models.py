"""What all commands need of a model: loading it, its text as tokens, and windows of tokens in steps."""

import inspect
import pathlib
import sys

from kvant._core import InvalidArgumentError

MAX_TEXT_BYTES = 64 << 20


def load(path):
    """(model in f32 on the CPU, tokenizer) of a checkpoint's folder or a GGUF file."""
    import torch
    import transformers

    path = pathlib.Path(path)
    place = (str(path.parent), {"gguf_file": path.name}) if path.is_file() else (str(path), {})
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(place[0], dtype=torch.float32, **place[1])
    return model.eval(), transformers.AutoTokenizer.from_pretrained(place[0], **place[1])


def read_text(path):
    """A text file in UTF-8 of at most 64 MiB; "-" is standard input."""
    if path == "-":
        data = sys.stdin.buffer.read(MAX_TEXT_BYTES + 1)
    else:
        with open(path, "rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise InvalidArgumentError(f"text {path}: longer than {MAX_TEXT_BYTES} bytes")
    return data.decode("utf-8")


def tokens_of(tokenizer, text, least):
    """Token ids [tokens] of a text, which must have `least` of them."""
    ids = tokenizer(text, return_tensors="pt").input_ids[0]
    if len(ids) < least:
        raise InvalidArgumentError(f"text: {len(ids)} tokens, at least {least} are needed")
    return ids


def windows_of(ids, window, most):
    """The first `most` whole windows of `window` tokens; all of a text that is shorter than one."""
    if len(ids) < window:
        return [ids]
    return [ids[i : i + window] for i in range(0, len(ids) - window + 1, window)][:most]


def whole_cache(model):
    """An empty cache of a model's own that keeps every row, of layers whose attention sees a window of them, too."""
    from transformers.cache_utils import Cache, DynamicLayer

    return Cache(layers=[DynamicLayer() for _ in range(model.config.get_text_config().num_hidden_layers)])


def passes(model, cache, ids, step, progress, begin=0, logits_from=0):
    """Forward passes over windows ids [rows, tokens], `step` tokens of each at a time, of which the cache holds the first `begin`: yields
    (first position, logits [rows, tokens, vocabulary]) of the positions from logits_from on. Those before would be a third of a small
    model's work for nothing."""
    import torch

    last_only = "logits_to_keep" in inspect.signature(model.forward).parameters
    tokens = ids.shape[1]
    for first in range(begin, tokens, step):
        part = ids[:, first : first + step]
        wanted = min(part.shape[1], max(0, first + part.shape[1] - logits_from))
        kept = {"logits_to_keep": max(1, wanted)} if last_only else {}
        with torch.inference_mode():
            logits = model(input_ids=part, cache=cache, use_cache=True, **kept).logits
        progress.update(part.numel())
        yield first + part.shape[1] - wanted, logits[:, logits.shape[1] - wanted :]


def progress(total, what, output, unit="token"):
    """A progress bar on stderr where a person looks at it."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, unit_scale=True, disable=output == "json" or not sys.stderr.isatty())


def add_text_arguments(command, tokens, several=False, required=True):
    command.add_argument(
        "--text", metavar="FILE", required=required, help="text in UTF-8; - is standard input", **({"nargs": "+"} if several else {})
    )
    of = "each text's" if several else "its"
    command.add_argument("--tokens", type=positive, default=tokens, help=f"how many of {of} tokens to read at most ({tokens})")
    command.add_argument("--step", type=positive, default=512, help="tokens of one forward pass (512)")


def positive(text):
    """An argument that counts something."""
    number = int(text)
    if number <= 0:
        raise ValueError
    return number


positive.__name__ = "positive number"  # what argparse calls it in its message
