"""Measures what plans cost in quality: KL divergence to exact attention, loss and top-1 agreement, beside bits per element."""

import kvant
from kvant.command import models

DEFAULT_PLANS = ["f16", "int8", "turboquant_mse:bits=4", "turboquant_mse:bits=3", "turboquant_mse:bits=2"]


def add_arguments(command):
    models.add_text_arguments(command, 4096)
    command.add_argument("--plans", nargs="+", default=DEFAULT_PLANS, metavar="KEYS[/VALUES]", help="codecs of keys and values; one for both")
    command.add_argument("--artifact", metavar="FILE", help="what calibrated codecs of the plans were calibrated on")
    command.add_argument("--window", type=models.positive, default=2048, help="tokens of one context (2048)")
    command.add_argument("--skip", type=int, help="tokens of each window that are not counted (its first quarter)")
    command.add_argument("--plot", metavar="FILE", help="a picture of KL over bits per element (matplotlib)")


def run(arguments):
    import torch
    from transformers import DynamicCache

    model, tokenizer = models.load(arguments.model)
    ids = models.tokens_of(tokenizer, models.read_text(arguments.text), 2)[: arguments.tokens]
    windows = models.windows_of(ids, arguments.window, len(ids))
    plans = [_Plan(model, text, arguments) for text in arguments.plans]
    exact_loss = _Mean()
    with models.progress((1 + len(plans)) * sum(map(len, windows)), "quality", arguments.output) as progress:
        for window in windows:
            skip = len(window) // 4 if arguments.skip is None else arguments.skip
            cache = DynamicCache(config=model.config)
            exact = [logits.log_softmax(-1) for _, logits in models.passes(model, cache, window, arguments.step, progress)]
            exact = torch.cat(exact)  # [tokens, vocabulary]
            exact_loss.add(-exact[:-1].gather(1, window[1:, None])[skip:])
            for plan in plans:
                plan.read(model, window, exact, skip, arguments.step, progress)
    result = {"model": arguments.model, "tokens": len(windows) * len(windows[0]), "exact_loss": exact_loss.value}
    result["plans"] = [plan.figures(exact_loss.value) for plan in plans]
    if arguments.plot:
        _plot(result, arguments.plot)
    return result


class _Mean:
    def __init__(self):
        self.total, self.count = 0.0, 0

    def add(self, numbers):
        self.total += float(numbers.double().sum())
        self.count += numbers.numel()

    @property
    def value(self):
        return self.total / self.count if self.count else float("nan")


class _Plan:
    """One plan and its figures so far."""

    def __init__(self, model, text, arguments):
        import kvant.transformers

        self.name = text
        keys, _, values = text.partition("/")
        artifact = b""
        if arguments.artifact:
            with open(arguments.artifact, "rb") as file:
                artifact = file.read()
        self._config = kvant.KVCacheConfig(
            model_path=arguments.model, keys=keys, values=values or keys, artifact=artifact, max_step_tokens=arguments.step
        )
        self._kl, self._loss, self._agree = _Mean(), _Mean(), _Mean()
        with kvant.transformers.attach(model, self._config) as attachment:
            store = kvant.connect(self._config.uri).open_store(attachment.spec)
            self._info = store.info
            store.close()

    def read(self, model, window, exact, skip, step, progress):
        """Adds one window: each pass sees the plan's codes of all passes before it, so that errors feed forward."""
        with kvant.transformers.attach(model, self._config):
            cache = kvant.transformers.KvantCache(model)
            for first, logits in models.passes(model, cache, window, step, progress):
                ours = logits.log_softmax(-1)
                counted = slice(max(0, skip - first), None)
                theirs = exact[first : first + len(ours)][counted]
                ours = ours[counted]
                if len(ours) == 0:
                    continue
                self._kl.add((theirs.exp() * (theirs - ours)).sum(-1))
                self._agree.add((theirs.argmax(-1) == ours.argmax(-1)).float())
                following = window[first + len(logits) - len(ours) + 1 : first + len(logits) + 1]
                self._loss.add(-ours[: len(following)].gather(1, following[:, None]))

    def figures(self, exact_loss):
        return {
            "plan": self.name,
            "key_bits_per_element": self._info["key_bits_per_element"],
            "value_bits_per_element": self._info["value_bits_per_element"],
            "kl": self._kl.value,
            "loss": self._loss.value,
            "loss_change_percent": 100 * (self._loss.value / exact_loss - 1),
            "top1_percent": 100 * self._agree.value,
        }


def show(result):
    print(f"{result['model']}: exact loss {result['exact_loss']:.4f} nats per token, {result['tokens']} tokens")
    width = max(len(row["plan"]) for row in result["plans"])
    print(f"{'plan':{width}}  bits of K      V        KL  loss %  top-1 %")
    for row in result["plans"]:
        print(
            f"{row['plan']:{width}}  {row['key_bits_per_element']:9.3f} {row['value_bits_per_element']:6.3f}  {row['kl']:8.5f}"
            f"  {row['loss_change_percent']:+6.2f}  {row['top1_percent']:7.2f}"
        )


def _plot(result, path):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for row in result["plans"]:
        bits = (row["key_bits_per_element"] + row["value_bits_per_element"]) / 2
        axes.plot(bits, max(row["kl"], 1e-9), "o", color="tab:blue")
        axes.annotate(row["plan"], (bits, max(row["kl"], 1e-9)), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(yscale="log", xlabel="bits per element, side information included", ylabel="KL to exact attention, nats per token")
    axes.set_title(result["model"], fontsize=10)
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path)
