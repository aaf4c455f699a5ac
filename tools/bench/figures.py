#!/usr/bin/env python3
"""What compare.sh and table.sh make of what `kvant_bench -o json` and `kvantctl bench -o json` print: medians over process starts.

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


def attend_table(figures):
    header("keys and values", "tokens", "threads", "median, µs", "p99, µs", "of read-only sum", "of peak", "limit", "× f16", "× q4_0",
           "hidden loss", "target")
    for case in ("peer", "decode"):
        for name in figures.names(case=case):
            facts = dict(name)
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


def codecs_table(figures):
    header("codec", "keys: bytes per row", "ns", "of its limit", "in cache: ns", "of peak", "values: bytes per row", "ns", "of its limit", "in cache: ns", "of peak", "target")
    for codec in dict.fromkeys(dict(name)["codec"] for name in figures.names()):
        cells, target = [], None
        for side in ("keys", "values"):
            name = next(iter(figures.names(codec=codec, side=side)), None)
            if name is None:
                cells += ["–"] * 5
                continue
            cells += [number(figures.median(name, "row_bytes")), number(figures.median(name, "row_ns")),
                      number(figures.median(name, "share_of_limit"), "{:.0%}") + " " + figures.any(name, "limit"),
                      number(figures.median(name, "cached_row_ns")), number(figures.median(name, "cached_share_of_peak"), "{:.0%}")]
            target = target or figures.any(name, "target")
        row(f"`{codec}`" if not codec.startswith("peer") else codec, *cells, target or "–")


def append_table(figures):
    header("codec", "side", "rows from", "ns per row", "GB/s of f16 input", "of read-only sum", "target")
    for name in figures.names():
        facts = dict(name)
        row(f"`{facts['codec']}`", facts["side"], facts["rows_from"], number(figures.median(name, "row_ns"), "{:.0f}"),
            number(figures.median(name, "bytes_per_s"), "{:.1f}", 1e9), number(figures.median(name, "share_of_read_only"), "{:.0%}"),
            figures.any(name, "target") or "–")


def prefill_table(figures):
    header("keys and values", "tokens", "new tokens", "threads", "median, ms", "µs per new token", "GMAC/s", "of peak", "of tile peak", "hidden loss")
    for name in figures.names():
        facts = dict(name)
        row(plan(name), str(facts["tokens"]), str(facts["query_tokens"]), str(facts["threads"]),
            number(figures.median(name, "median_ns"), "{:.1f}", 1e6), number(figures.median(name, "query_token_ns"), "{:.0f}", 1e3),
            number(figures.median(name, "macs_per_s"), "{:.0f}", 1e9), number(figures.median(name, "share_of_peak"), "{:.0%}"),
            number(figures.median(name, "share_of_tile_peak"), "{:.0%}"), number(figures.median(name, "hidden_loss"), "{:.2%}"))


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
    header("case", "mode", "time, µs (p99)", "compute, µs (p99)", "step − compute, µs (p99)", "page faults per step", "bytes copied per step")
    for name in figures.names():
        facts = dict(name)
        pair = lambda what: "–" if figures.median(name, what + "_median_us") is None else (
            f"{number(figures.median(name, what + '_median_us'))} ({number(figures.median(name, what + '_p99_us'))})")
        row(facts["case"], facts.get("mode", "–"), pair("step"), pair("compute"), pair("overhead"),
            number(figures.median(name, "page_faults_per_step"), "{:.2f}"), number(figures.median(name, "bytes_copied_per_step"), "{:.0f}"))


def by_threads(figures, cell, **wanted):
    """One cell per number of threads, 1 and 2."""
    cells = []
    for threads in (1, 2):
        names = figures.names(threads=threads, **wanted)
        cells.append(cell(names[0]) if names else "–")
    return cells


def summary(attend, sparse, append, prefill, memory, rpc, local):
    """The short table: what a user of the project asks first."""

    def attend_cell(figures):
        def cell(name):
            return (f"{figures.median(name, 'median_ns') / 1e6:.2f} ms; {figures.median(name, 'share_of_read_only'):.0%}, {figures.median(name, 'share_of_peak'):.0%}; "
                    f"{figures.median(name, 'times_faster_than_f16'):.1f}×, {figures.median(name, 'times_faster_than_q4_0'):.1f}×")
        return cell

    def targets(figures, **wanted):
        found = [figures.any(name, "target") for name in figures.names(**wanted)]
        return ", ".join(dict.fromkeys(t for t in found if t)) or "–"

    header("one layer, 32 query and 8 KV heads of 128", "1 thread", "2 threads", "target (1 thread, 2 threads)")
    lengths = sorted({dict(n)["tokens"] for n in attend.names(case="decode")})
    for tokens in reversed(lengths):
        plans = attend.names(case="decode", tokens=tokens, threads=1)
        for name in plans if tokens == lengths[-1] else plans[:3]:
            wanted = {key: dict(name)[key] for key in ("case", "keys", "values", "tokens")}
            row(f"attend over {tokens} tokens, {plan(name)}", *by_threads(attend, attend_cell(attend), **wanted), targets(attend, **wanted))
    for name in sparse.names(case="decode", tokens=lengths[-1], threads=1)[:3]:
        wanted = {key: dict(name)[key] for key in ("case", "keys", "values", "tokens")}
        row(f"the same on real rows, {lengths[-1]} tokens, {plan(name)}", *by_threads(sparse, attend_cell(sparse), **wanted), "–")
    for name in attend.names():
        if attend.median(name, "ratio") is not None:
            row(f"{dict(name)['case']}, {dict(name)['tokens']} tokens, {plan(name)}", "–", f"{attend.median(name, 'ratio'):.2f}×",
                attend.any(name, "target") or "–")
    hidden = [attend.median(n, "hidden_loss") for n in attend.names(case="decode")]
    row("loss hidden by integer arithmetic, worst plan", f"{max(h for h in hidden if h is not None):.2%}", "–", "<= 5 %")
    for name in append.names(rows_from="cache", side="keys"):
        if append.any(name, "target"):
            row(f"encode keys, {short(dict(name)['codec'])}", f"{append.median(name, 'row_ns'):.0f} ns per row, "
                f"{append.median(name, 'bytes_per_s') / 1e9:.1f} GB/s of f16", "–", append.any(name, "target"))
    most = max(dict(n)["query_tokens"] for n in prefill.names())
    for name in prefill.names(query_tokens=most, threads=1):
        wanted = {key: dict(name)[key] for key in ("keys", "values", "tokens", "query_tokens")}
        row(f"{most} new tokens over {wanted['tokens']}, {plan(name)}", *by_threads(
            prefill, lambda n: f"{prefill.median(n, 'median_ns') / 1e6:.0f} ms; {prefill.median(n, 'share_of_peak'):.0%} of peak", **wanted), prefill.any(name, "target") or "–")
    for figures, what in ((rpc, "service step"), (local, "local step")):
        for name in figures.names(case=what):
            row(f"{what} minus compute, median (p99), {dict(name)['mode']}", f"{figures.median(name, 'overhead_median_us'):.1f} "
                f"({figures.median(name, 'overhead_p99_us'):.0f}) µs", "–", figures.any(name, "target") or "–")
        for name in figures.names(case="token while blocks are sealed"):
            row(f"p99 of a token with sealing / without, {what.split()[0]}, {dict(name)['mode']}", f"{figures.median(name, 'p99_ratio'):.2f}×", "–",
                figures.any(name, "target") or "–")
    for name in memory.names():
        mib = 1 << 20
        row(f"daemon's resident memory, {plan(name)}", f"{memory.median(name, 'daemon_resident_bytes') / mib:.0f} MiB for "
            f"{memory.median(name, 'compressed_bytes') / mib:.0f} MiB of codes ({memory.median(name, 'daemon_arena_bytes') / mib:.0f} MiB are arenas)", "–",
            memory.any(name, "target"))
        row("page faults and bytes copied per decoding step", f"{memory.median(name, 'client_faults_per_step'):.2f} + "
            f"{memory.median(name, 'daemon_faults_per_step'):.2f}; {memory.median(name, 'copied_bytes_per_step'):.0f}", "–", "0; 0")


def table(folder, starts):
    names = ("attend", "sparse", "append", "prefill", "memory", "rpc", "local")
    attend, sparse, append, prefill, memory, rpc, local = parts = [Figures(folder, name, starts) for name in names]
    codecs = Figures(folder, "codecs", starts)
    clocks = [head["best_clock_ghz"] for part in parts for head in part.heads]
    figures = [figure for part in parts for start in part.starts for figure in start.values()]
    low = sum(figure["clock_low"] for figure in figures)
    mode = " and ".join(f"{min(h[key] for h in attend.heads):.1f}–{max(h[key] for h in attend.heads):.1f} GB/s with {words}" for key, words in
                        (("read_only_GBps_1_thread", "one thread"), ("read_only_GBps_2_threads", "two")))
    print(f"Machine: {attend.heads[0]['cpu']}, {attend.heads[0]['cores']} cores, {attend.heads[0]['kernels']}, best clock {max(clocks):.2f} GHz; memory mode: read-only sum "
          f"{mode}. Medians of {starts} process starts; {low} of {len(figures)} figures were taken below 90 % of the best clock.\n")
    print("Attend: median time; share of the read-only sum of the same bytes, share of the peak of the multiplication used; times faster than the f16 and the q4_0 peer of the same run.\n")
    summary(*parts)
    for title, show in (("Attention of one new token, random rows", lambda: attend_table(attend)),
                        ("The same on rows of a real model (byte6m reading this project's text)", lambda: attend_table(sparse)),
                        ("Scores and sums of every codec, one thread", lambda: codecs_table(codecs)),
                        ("Encoding, one core", lambda: append_table(append)), ("Many new tokens at once", lambda: prefill_table(prefill)),
                        ("Steps through the daemon", lambda: steps_table(rpc)), ("Steps with local placement", lambda: steps_table(local)),
                        ("Memory", lambda: memory_table(memory))):
        print(f"\n### {title}\n")
        show()


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in ("compare", "table"):
        sys.exit(__doc__)
    {"compare": compare, "table": table}[sys.argv[1]](pathlib.Path(sys.argv[2]), int(sys.argv[3]))


if __name__ == "__main__":
    main()
