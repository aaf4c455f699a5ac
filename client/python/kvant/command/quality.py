"""Measures what plans cost in quality: KL divergence to exact attention, loss and top-1 agreement, beside bits per element."""

import contextlib
import dataclasses

import kvant
from kvant.command import models

DEFAULT_PLANS = ["exact", "hq", "balanced", "small", "tiny"]
PLAN_HELP = "KEYS or KEYS/VALUES, presets, codec specs or method=NAME,KNOB=VALUE; or @FILE, a plan that kvant calibrate --plan-out wrote"
YARDSTICKS = ["q8_0", "q4_0"]  # of kvant.command.yardsticks, which wants torch
_MAX_EXACT_BYTES = 2 << 30  # of exact logits held at a time


def add_arguments(command):
    models.add_text_arguments(command, 4096, several=True)
    command.add_argument("--plans", nargs="*", default=DEFAULT_PLANS, metavar="PLAN", help=PLAN_HELP)
    command.add_argument("--yardsticks", nargs="+", default=[], choices=YARDSTICKS, help="formats of ggml to hold the plans against")
    command.add_argument("--policy", nargs="+", default=[""], metavar="POLICY", help="token policies of every plan, applied behind --skip tokens")
    command.add_argument("--artifact", metavar="FILE", help="what calibrated codecs of the plans were calibrated on")
    command.add_argument("--window", type=models.positive, default=2048, help="tokens of one context (2048)")
    command.add_argument("--skip", type=int, help="tokens of each window that are not counted (its first quarter)")
    command.add_argument("--layers", action="store_true", help="also the error of each layer's attention and the cosine of its rows, on their own")
    command.add_argument("--plot", metavar="FILE", help="a picture of KL over bits per element (matplotlib)")


def run(arguments):
    model, tokenizer = models.load(arguments.model)
    texts = [_Text(path, tokenizer, arguments) for path in arguments.text]
    subjects = [_Plan(model, name, policy, arguments) for name in arguments.plans for policy in arguments.policy] + [_Yardstick(name) for name in arguments.yardsticks]
    batches = _batches(texts, model.config.get_text_config().vocab_size)
    total = sum(len(window.ids) for text in texts for window in text.windows)
    exact_loss = _ByText()
    with models.progress((1 + len(subjects)) * total, "quality", arguments.output) as progress:
        for batch in batches:
            exact = Exact(model, batch, arguments.step, progress)
            for row, text in enumerate(batch.texts):
                exact_loss.add(text, -exact.log_probabilities[row, :-1].gather(1, batch.following[row])[:, 0])
            for subject in subjects:
                subject.read(model, batch, exact, arguments.step, progress)
    result = {"model": arguments.model, "texts": [text.path for text in texts], "tokens": total, "exact_loss": exact_loss.mean}
    result["plans"] = [subject.figures(exact_loss, arguments.window) for subject in subjects]
    if arguments.layers:
        _add_layers(model, texts, subjects, result, arguments)
    if arguments.plot:
        _plot(result, arguments.plot)
    return result


def _add_layers(model, texts, subjects, result, arguments):
    """Each plan's errors on the exact rows of each text's first window, layer by layer: nothing feeds forward."""
    from kvant.command.sampling import SAMPLE_TOKENS, sample_of

    windows = [text.windows[0].ids for text in texts]
    with models.progress(sum(min(SAMPLE_TOKENS, len(ids)) for ids in windows), "layers", arguments.output) as progress:
        samples = [list(sample_of(model, ids, progress).values()) for ids in windows]
    for subject, figures in zip(subjects, result["plans"], strict=True):
        figures["layers"] = layer_errors(samples, lambda keys, values, subject=subject: subject.decoded(model, keys, values))


def layer_errors(samples, decoded):
    """Of each layer the attention's squared error relative to its output, and the cosines of keys and values, means over texts. `samples`:
    of each text the rows of all layers; decoded(keys, values) gives them back, [layers, kv_heads, tokens, head_dim]."""
    import torch

    from kvant.calibration.measured import LayerAttention, cosine

    sums = [{"attention_error": 0.0, "key_cosine": 0.0, "value_cosine": 0.0} for _ in samples[0]]
    for layers in samples:
        keys, values = decoded(*(torch.stack([getattr(layer, side) for layer in layers]) for side in ("keys", "values")))
        coded = slice(0, keys.shape[2])
        for index, layer in enumerate(layers):
            attention = LayerAttention(layer.queries[:, coded], layer.keys[:, coded], layer.values[:, coded], layer.scale)
            sums[index]["attention_error"] += attention.relative_error(keys[index], values[index]) / len(samples)
            sums[index]["key_cosine"] += cosine(layer.keys[:, coded], keys[index]) / len(samples)
            sums[index]["value_cosine"] += cosine(layer.values[:, coded], values[index]) / len(samples)
    return sums


class _Text:
    def __init__(self, path, tokenizer, arguments):
        self.path = path
        ids = models.tokens_of(tokenizer, models.read_text(path), 2)[: arguments.tokens]
        self.windows = [_Window(ids, arguments.skip) for ids in models.windows_of(ids, arguments.window, len(ids))]


class _Window:
    def __init__(self, ids, skip):
        self.ids = ids
        self.skip = len(ids) // 4 if skip is None else skip
        if not 0 <= self.skip < len(ids) - 1:
            raise kvant.InvalidArgumentError(f"quality: --skip {self.skip} leaves nothing to count of {len(ids)} tokens")


class Batch:
    """Windows of one length that are read together: a weight comes from memory once for all of them."""

    def __init__(self, windows, texts):
        import torch

        self.ids = torch.stack([window.ids for window in windows])
        self.texts = texts  # index of each row's text
        self.skip = windows[0].skip
        self.following = self.ids[:, self.skip + 1 :, None]  # what comes behind each counted token but the last


def _batches(texts, vocabulary):
    by_length = {}
    for index, text in enumerate(texts):
        for window in text.windows:
            by_length.setdefault(len(window.ids), []).append((window, index))
    batches = []
    for length, members in by_length.items():
        rows = max(1, _MAX_EXACT_BYTES // (4 * vocabulary * (length - members[0][0].skip)))
        for first in range(0, len(members), rows):
            batches.append(Batch(*zip(*members[first : first + rows], strict=True)))
    return batches


class Exact:
    """What the model's own attention and cache give for a batch."""

    def __init__(self, model, batch, step, progress):
        import torch

        cache = models.whole_cache(model)
        parts = [logits.log_softmax(-1) for _, logits in models.passes(model, cache, batch.ids, step, progress, logits_from=batch.skip)]
        self.log_probabilities = torch.cat(parts, 1)  # [rows, counted tokens, vocabulary]
        common = _common_tokens(step, batch.skip)
        self.common = [(layer.keys[:, :, :common].clone(), layer.values[:, :, :common].clone()) for layer in cache.layers]


def _common_tokens(step, skip):
    """How many tokens' rows every plan computes alike: a pass that begins before the first block is read as codes sees raw rows only. So
    those passes are made once. None of them is counted."""
    config = kvant.KVCacheConfig()
    first_code = config.block_tokens + config.recent_tokens + config.block_tokens // 4
    return min(-(-first_code // step), skip // step) * step


class _ByText:
    """Numbers of each text. Texts count alike, however long."""

    def __init__(self):
        self._numbers = {}

    def add(self, text, numbers):
        self._numbers.setdefault(text, []).append(numbers.double())

    def quantile(self, share):
        import torch

        return float(torch.cat(sum(self._numbers.values(), [])).quantile(share))

    @property
    def means(self):
        import torch

        return [float(torch.cat(parts).mean()) for _, parts in sorted(self._numbers.items())]

    @property
    def mean(self):
        return sum(self.means) / len(self.means)


class _Subject:
    """What is measured, and its figures so far."""

    def __init__(self, name, key_bits, value_bits):
        self.name = name
        self._bits = key_bits, value_bits
        self._kl, self._loss, self._agree = _ByText(), _ByText(), _ByText()

    def read(self, model, batch, exact, step, progress):
        """Adds a batch: each pass sees the codes of all passes before it, so that errors feed forward."""
        import torch

        kl, agree, loss, ended = [], [], [], False
        common = exact.common[0][0].shape[2]
        with self._cache(model) as cache:
            self._take(cache, batch.ids[:, :common], exact.common, step)
            progress.update(len(batch.ids) * common)
            for first, logits in models.passes(model, cache, batch.ids, step, progress, begin=common, logits_from=batch.skip):
                ours = logits.log_softmax(-1)
                at = first - batch.skip
                theirs = exact.log_probabilities[:, at : at + ours.shape[1]]
                kl.append((theirs.exp() * (theirs - ours)).sum(-1))
                agree.append(theirs.argmax(-1) == ours.argmax(-1))
                if first == batch.skip and not ended:  # the pass that ends there, or the one that it lies in
                    self._end_prompt(cache)
                    ended = True
                following = batch.following[:, at : at + ours.shape[1]]
                loss.append(-ours[:, : following.shape[1]].gather(2, following)[..., 0])
        for figure, parts in ((self._kl, kl), (self._loss, loss), (self._agree, agree)):
            for text, numbers in zip(batch.texts, torch.cat(parts, 1), strict=True):
                figure.add(text, numbers)

    def figures(self, exact_loss, window):
        changes = [100 * (loss / exact - 1) for loss, exact in zip(self._loss.means, exact_loss.means, strict=True)]
        return {
            "plan": self.name,
            "key_bits_per_element": self._bits[0],
            "value_bits_per_element": self._bits[1],
            "effective_bits_per_element": _effective(sum(self._bits) / 2, window),
            "kl": self._kl.mean,
            "kl_p99": self._kl.quantile(0.99),
            "loss": self._loss.mean,
            "loss_change_percent": 100 * (self._loss.mean / exact_loss.mean - 1),
            "top1_percent": 100 * self._agree.mean,
            "texts": [
                {"kl": kl, "loss_change_percent": change, "top1_percent": 100 * agree}
                for kl, change, agree in zip(self._kl.means, changes, self._agree.means, strict=True)
            ],
        }


def _effective(bits, tokens):
    """With the raw rows of a sequence of so many tokens, at 16 bits."""
    config = kvant.KVCacheConfig()
    coded = max(0, tokens - config.recent_tokens - config.block_tokens // 4) // config.block_tokens * config.block_tokens
    coded = max(0, coded - config.sink_tokens)
    return (bits * coded + 16 * (tokens - coded)) / tokens


class _Plan(_Subject):
    def __init__(self, model, name, policy, arguments):
        import kvant.transformers

        if name.startswith("@"):
            from kvant.calibration.plan import load_plan

            codecs = load_plan(name[1:])
        else:
            keys, _, values = name.partition("/")
            codecs = {"keys": keys, "values": values or keys}
        artifact = b""
        if arguments.artifact:
            with open(arguments.artifact, "rb") as file:
                artifact = file.read()
        self._config = kvant.KVCacheConfig(model_path=arguments.model, artifact=artifact, max_step_tokens=arguments.step, policy=policy, **codecs)
        with kvant.transformers.attach(model, self._config) as attachment:
            store = kvant.connect(self._config.uri).open_store(attachment.spec)
            info = store.info
            store.close()
        super().__init__(f"{name} {policy}".strip(), info["key_bits_per_element"], info["value_bits_per_element"])

    @contextlib.contextmanager
    def _cache(self, model):
        import kvant.transformers

        with kvant.transformers.attach(model, self._config):
            cache = kvant.transformers.KvantCache(model)
            yield cache
            cache.reset()

    def _take(self, cache, ids, layers, step):
        cache.batch.take(ids, layers, step)

    def _end_prompt(self, cache):
        cache.apply_policy()

    def decoded(self, model, keys, values):
        import kvant.transformers
        from kvant.calibration.measured import decoded

        with kvant.transformers.attach(model, dataclasses.replace(self._config, salt="layers")) as attachment:
            return decoded(attachment.spec, keys, values)[:2]


class _Yardstick(_Subject):
    def __init__(self, name):
        from kvant.command import yardsticks

        bits = yardsticks.FORMATS[name][1]
        super().__init__(name, bits, bits)

    @contextlib.contextmanager
    def _cache(self, model):
        from kvant.command import yardsticks

        config = model.config.get_text_config()
        yield yardsticks.cache_of(yardsticks.codes_of(self.name, config), config.num_hidden_layers)

    def _end_prompt(self, cache):
        """Formats of ggml keep all tokens."""

    def _take(self, cache, ids, layers, step):
        for layer, (keys, values) in zip(cache.layers, layers, strict=True):
            layer.update(keys, values)

    def decoded(self, model, keys, values):
        from kvant.command import yardsticks

        of_keys, of_values = yardsticks.codes_of(self.name, model.config.get_text_config())
        return of_keys(keys), of_values(values)


def show(result):
    print(f"{result['model']}: exact loss {result['exact_loss']:.4f} nats per token, {result['tokens']} tokens of {len(result['texts'])} texts")
    width = max(len(row["plan"]) for row in result["plans"])
    print(f"{'plan':{width}}  bits of K      V  with raw rows        KL    p99 KL  loss %  top-1 %")
    for row in result["plans"]:
        print(
            f"{row['plan']:{width}}  {row['key_bits_per_element']:9.3f} {row['value_bits_per_element']:6.3f}"
            f"  {row['effective_bits_per_element']:13.2f}  {row['kl']:8.5f}"
            f"  {row['kl_p99']:8.4f}  {row['loss_change_percent']:+6.2f}  {row['top1_percent']:7.2f}"
        )
    if "layers" in result["plans"][0]:
        _show_layers(result["plans"], width)


def _show_layers(plans, width):
    for title, name, form in (
        ("attention's relative squared error", "attention_error", "{:9.2e}"),
        ("mean cosine of keys", "key_cosine", "{:9.5f}"),
        ("mean cosine of values", "value_cosine", "{:9.5f}"),
    ):
        print(f"\n{title}, layer by layer on exact rows")
        for row in plans:
            numbers = [form.format(layer[name]) for layer in row["layers"]]
            for first in range(0, len(numbers), 10):
                print(f"{row['plan'] if first == 0 else '':{width}}  {' '.join(numbers[first : first + 10])}")


def _plot(result, path):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for row in result["plans"]:
        bits = (row["key_bits_per_element"] + row["value_bits_per_element"]) / 2
        axes.plot(bits, max(row["kl"], 1e-9), "o", color="tab:orange" if row["plan"] in YARDSTICKS else "tab:blue")
        axes.annotate(row["plan"], (bits, max(row["kl"], 1e-9)), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(yscale="log", xlabel="bits per element, side information included", ylabel="KL to exact attention, nats per token")
    axes.set_title(result["model"], fontsize=10)
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path)
