#!/usr/bin/env python3
"""What compare.sh and table.sh make of `kvantctl bench -o json`: medians over process starts.

  figures.py compare FOLDER PAIRS     a.N.json and b.N.json, N < PAIRS: ratios of B's times to A's
  figures.py table FOLDER STARTS      NAME.N.json: the performance table as Markdown
"""
import json
import pathlib
import statistics
import sys

# What tells a figure from the others of its file.
NAMES = ("case", "keys", "values", "codec", "side", "rows_from", "placement", "mode", "layers", "tokens", "query_tokens", "threads")


def load(folder, name, count):
    """[{figure's name: figure}] by start, and the heads."""
    starts = [json.loads((folder / f"{name}.{i}.json").read_text()) for i in range(count)]
    return [{tuple((k, f[k]) for k in NAMES if k in f): f for f in start["figures"]} for start in starts], starts


def label(name):
    return " ".join(str(value) for _, value in name)


def compare(folder, pairs):
    a, heads = load(folder, "a", pairs)
    b, _ = load(folder, "b", pairs)
    print(f"{heads[0]['bench']} on {heads[0]['cpu']}, {pairs} pairs. TIME: B's time / A's. BY LIMIT: the same with each time held against")
    print("the limit that was measured in its own process (bytes or operations), so that the mode of the memory matters less.")
    width = max(len(label(name)) for name in a[0])
    print(f"{'FIGURE':{width}}   TIME   LEAST    MOST  BY LIMIT   LEAST    MOST  LOW CLOCK")
    for name in a[0]:
        found = [(x[name], y[name]) for x, y in zip(a, b) if name in x and name in y]
        if not found:
            print(f"{label(name):{width}}  only in A")
            continue
        line = f"{label(name):{width}} " + spread([y["median_ns"] / x["median_ns"] for x, y in found])
        limit = next((key for key in ("share_of_limit", "share_of_read_only") if key in found[0][0]), None)
        line += "  " + (spread([x[limit] / y[limit] for x, y in found]) if limit else " " * 24)
        print(f"{line}  {sum(x['clock_low'] or y['clock_low'] for x, y in found)} of {len(found)}")


def spread(ratios):
    return f"{statistics.median(ratios):6.3f}  {min(ratios):6.3f}  {max(ratios):6.3f}"


class Figures:
    """Figures of one sub-command over all starts."""

    def __init__(self, folder, name, count):
        self.starts, self.heads = load(folder, name, count)

    def names(self, **wanted):
        return [n for n in self.starts[0] if all(dict(n).get(k) == v for k, v in wanted.items())]

    def median(self, name, key):
        values = [start[name].get(key) for start in self.starts if name in start]
        values = [v for v in values if v is not None]
        return statistics.median(values) if values else None

    def any(self, name, key):
        return next((start[name][key] for start in self.starts if start[name].get(key) is not None), None)


def number(value, form="{:.1f}", unit=1.0):
    return "–" if value is None else form.format(value / unit)


def row(*cells):
    print("| " + " | ".join(cells) + " |")


def header(*titles):
    row(*titles)
    row(*["---"] * len(titles))


def short(spec):
    return spec.replace("turboquant_mse:bits=", "") + (" bits" if spec.startswith("turboquant_mse") else "")


def plan(name):
    keys, values = short(dict(name)["keys"]), short(dict(name)["values"])
    return keys if keys == values else f"{keys.removesuffix(' bits')}/{values}"


def attend_table(figures, tokens):
    header("keys and values", "tokens", "threads", "median, µs", "p99, µs", "of read-only sum", "of peak", "limit", "× f16", "× q4_0",
           "hidden loss", "target")
    for case in ("peer", "decode"):
        for name in figures.names(case=case):
            facts = dict(name)
            if facts["tokens"] not in tokens:
                continue
            row(("peer: " if case == "peer" else "") + plan(name), str(facts["tokens"]), str(facts["threads"]),
                number(figures.median(name, "median_ns"), "{:.0f}", 1e3), number(figures.median(name, "p99_ns"), "{:.0f}", 1e3),
                number(figures.median(name, "share_of_read_only"), "{:.0%}"), number(figures.median(name, "share_of_peak"), "{:.0%}"),
                figures.any(name, "limit") or "–", number(figures.median(name, "times_faster_than_f16"), "{:.1f}"),
                number(figures.median(name, "times_faster_than_q4_0"), "{:.1f}"), number(figures.median(name, "hidden_loss"), "{:.2%}"),
                figures.any(name, "target") or "–")
    for name in figures.names():
        if figures.median(name, "ratio") is None:
            continue
        facts = dict(name)
        row(f"{facts['case']}, {plan(name)}", str(facts["tokens"]), str(facts["threads"]),
            number(figures.median(name, "median_ns"), "{:.0f}", 1e3), number(figures.median(name, "p99_ns"), "{:.0f}", 1e3), "–", "–",
            f"ratio {figures.median(name, 'ratio'):.2f}", "–", "–", number(figures.median(name, "hidden_loss"), "{:.2%}"),
            figures.any(name, "target") or "–")


def append_table(figures):
    header("codec", "side", "rows from", "ns per row", "GB/s of f16 input", "of read-only sum", "target")
    for name in figures.names():
        facts = dict(name)
        row(f"`{facts['codec']}`", facts["side"], facts["rows_from"], number(figures.median(name, "row_ns"), "{:.0f}"),
            number(figures.median(name, "bytes_per_s"), "{:.1f}", 1e9), number(figures.median(name, "share_of_read_only"), "{:.0%}"),
            figures.any(name, "target") or "–")


def prefill_table(figures):
    header("keys and values", "tokens", "new tokens", "threads", "median, ms", "µs per new token", "GMAC/s", "of peak", "hidden loss")
    for name in figures.names():
        facts = dict(name)
        row(plan(name), str(facts["tokens"]), str(facts["query_tokens"]), str(facts["threads"]),
            number(figures.median(name, "median_ns"), "{:.1f}", 1e6), number(figures.median(name, "query_token_ns"), "{:.0f}", 1e3),
            number(figures.median(name, "macs_per_s"), "{:.0f}", 1e9), number(figures.median(name, "share_of_peak"), "{:.0%}"),
            number(figures.median(name, "hidden_loss"), "{:.2%}"))


def memory_table(figures):
    header("keys and values", "tokens × layers", "f16, MiB", "compressed, MiB", "daemon, MiB", "of it arenas", "page faults per step, client + daemon",
           "bytes copied per step", "target", "met")
    for name in figures.names():
        facts = dict(name)
        mib = 1 << 20
        row(plan(name), f"{facts['tokens']} × {facts['layers']}", *[number(figures.median(name, key), "{:.1f}", mib) for key in
            ("logical_f16_bytes", "compressed_bytes", "daemon_resident_bytes", "daemon_arena_bytes")],
            number(figures.median(name, "client_faults_per_step"), "{:.2f}") + " + " + number(figures.median(name, "daemon_faults_per_step"), "{:.2f}"),
            number(figures.median(name, "copied_bytes_per_step"), "{:.0f}"), figures.any(name, "target"),
            "yes" if figures.any(name, "target_met") else "no")


def steps_table(figures):
    header("case", "mode", "step, µs (p99)", "compute, µs (p99)", "step − compute, µs (p99)", "page faults per step", "bytes copied per step")
    for name in figures.names():
        facts = dict(name)
        pair = lambda what: f"{number(figures.median(name, what + '_median_us'))} ({number(figures.median(name, what + '_p99_us'))})"
        row(facts["case"], facts.get("mode", "–"), pair("step"), pair("compute"), pair("overhead"),
            number(figures.median(name, "page_faults_per_step"), "{:.2f}"), number(figures.median(name, "bytes_copied_per_step"), "{:.0f}"))


def table(folder, starts):
    attend = Figures(folder, "attend", starts)
    heads = attend.heads
    clocks = [h["best_clock_ghz"] for h in heads]
    low = sum(f["clock_low"] for start in attend.starts for f in start.values())
    total = sum(len(start) for start in attend.starts)
    mode = " and ".join(f"{min(h[key] for h in heads):.1f}–{max(h[key] for h in heads):.1f} GB/s with {words}" for key, words in
                        (("read_only_GBps_1_thread", "one thread"), ("read_only_GBps_2_threads", "two")))
    print(f"Machine: {heads[0]['cpu']}, {heads[0]['cores']} cores, best clock {max(clocks):.2f} GHz; memory mode: read-only sum {mode}. "
          f"Medians of {starts} process starts; {low} of {total} attend figures were taken below 90 % of the best clock.\n")
    print("### Attention of one new token, random rows\n")
    attend_table(attend, {dict(n)["tokens"] for n in attend.names()})
    print("\n### The same on rows of a real model (byte6m reading this project's text)\n")
    sparse = Figures(folder, "sparse", starts)
    attend_table(sparse, {max(dict(n)["tokens"] for n in sparse.names(case="decode"))})
    print("\n### Encoding, one core\n")
    append_table(Figures(folder, "append", starts))
    print("\n### Many new tokens at once\n")
    prefill_table(Figures(folder, "prefill", starts))
    for part, title in (("rpc", "Steps through the daemon"), ("local", "Steps with local placement")):
        if (folder / f"{part}.0.json").exists():
            print(f"\n### {title}\n")
            steps_table(Figures(folder, part, starts))
    print("\n### Memory\n")
    memory_table(Figures(folder, "memory", starts))


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in ("compare", "table"):
        sys.exit(__doc__)
    {"compare": compare, "table": table}[sys.argv[1]](pathlib.Path(sys.argv[2]), int(sys.argv[3]))


if __name__ == "__main__":
    main()
