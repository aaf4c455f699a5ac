#!/usr/bin/env python3
"""Draws the pictures of the READMEs from the committed tables of tools/bench/README.md.

  picture.py           writes tools/docs/speed.svg, quality.svg and eviction.svg
  picture.py --check   exits 1 if they are not what the tables give
"""
import math
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLES = ROOT / "tools/bench/README.md"
TOKENS = "65536"
INK, GREY, PALE = "#1f2937", "#6b7280", "#e5e7eb"
OURS, PEERS, ONE_THREAD = "#2563eb", "#9ca3af", "0.45"


def tables():
    """{heading: rows as lists of cells} of the tables that stand directly below each heading."""
    found, heading = {}, ""
    for line in TABLES.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|") and not re.match(r"\|\s*-", line):
            found.setdefault(heading, []).append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return found


def text(x, y, words, size=13, color=INK, anchor="start", weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{anchor}" font-weight="{weight}">'
            f"{words}</text>")


def picture(width, height, title, parts):
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
                      f'font-family="system-ui, sans-serif" role="img"><title>{title}</title>',
                      f'<rect width="{width}" height="{height}" fill="white"/>', text(16, 26, title, 15, weight="bold"), *parts, "</svg>", ""])


def speed(rows):
    """Bars: one token's attention over TOKENS cached tokens, with one thread (pale) and two."""
    times = {}
    for row in rows[1:]:
        if row[1] == TOKENS and "," not in row[0]:
            times.setdefault(row[0], {})[row[2]] = float(row[3]) / 1000
    names = {"peer: f16": "f16, plain attention", "peer: q4_0": "q4_0, as in llama.cpp"}
    order = ["peer: f16", "peer: q4_0"] + [name for name in times if name not in names and name != "f16"][::-1]
    longest = max(t["1"] for t in times.values())
    parts, y = [text(16, 46, f"One layer, {int(TOKENS):,} cached tokens, 32 query heads and 8 KV heads of 128; pale: 1 thread, full: 2 threads", 12, GREY)], 74
    for name in order:
        color = PEERS if name in names else OURS
        parts.append(text(190, y + 13, names.get(name, f"kvant, {name}"), anchor="end"))
        for threads, top, opacity in (("1", 0, ONE_THREAD), ("2", 10, "1")):
            value = times[name][threads]
            length = 400 * value / longest
            parts.append(f'<rect x="200" y="{y + top}" width="{length:.1f}" height="9" fill="{color}" fill-opacity="{opacity}"/>')
            parts.append(text(206 + length, y + top + 8, f"{value:.1f} ms", 10, GREY))
        y += 32
    return picture(680, y + 8, "Time of one token's attention", parts)


def quality(rows):
    """Points: bits per number against the divergence from exact attention; log scale, further down is better."""
    points = [(row[0], float(row[1]), float(row[2])) for row in rows[1:] if float(row[2]) > 0]
    left, top, wide, high, most_bits = 90, 74, 540, 240, 9.0
    exponents = range(math.floor(math.log10(min(p[2] for p in points))), math.ceil(math.log10(max(p[2] for p in points))) + 1)
    x_of = lambda bits: left + wide * bits / most_bits
    y_of = lambda kl: top + high * (exponents[-1] - math.log10(kl)) / (exponents[-1] - exponents[0])
    parts = [text(16, 46, "KL divergence from exact attention, nats per token, against bits per number (f16: 16 bits, below 0.000001)", 12, GREY)]
    for exponent in exponents:
        y = y_of(10.0**exponent)
        parts += [f'<line x1="{left}" x2="{left + wide}" y1="{y:.1f}" y2="{y:.1f}" stroke="{PALE}"/>',
                  text(left - 8, y + 4, f"{10.0**exponent:.6f}".rstrip("0"), 11, GREY, "end")]
    for bits in range(0, 10):
        parts.append(text(x_of(bits), top + high + 18, bits, 11, GREY, "middle"))
    presets = {"hq", "balanced", "small", "tiny"}
    for name, bits, kl in points:
        label = re.sub(r"turboquant_mse:bits=(\d),gauge=none", r"\1 bits as published", name).replace(":bits=", " ")
        chosen = name in presets
        if not chosen and (":" in label or label == "gaussian_vq" or label.startswith("turboquant")):
            continue  # the presets are these codecs, or better at the same bits
        left_of = "published" in label
        x, anchor = x_of(bits) + (-10 if left_of else 10), "end" if left_of else "start"
        parts += [f'<circle cx="{x_of(bits):.1f}" cy="{y_of(kl):.1f}" r="{6 if chosen else 4}" fill="{OURS if chosen else "white"}" stroke="{OURS}" stroke-width="2"/>',
                  text(x, y_of(kl) + (16 if left_of else -4 if chosen else 4), label, 12 if chosen else 11, INK if chosen else GREY, anchor, "bold" if chosen else "normal")]
    return picture(680, top + high + 30, "What compression costs in quality", parts)


def eviction(rows):
    """A panel per trace: hit rate against the cache's size, a line per policy, the optimum dashed."""
    names, traces = rows[0][2:], {}
    for row in rows[1:]:
        traces.setdefault(row[0], []).append((row[1], [float(cell) for cell in row[2:]]))
    colors = {"lru": OURS, "lfu": "#d97706", "s3fifo": "#059669", "none": PEERS, "optimum": INK}
    wide, high, parts = 150, 200, [text(16, 46, "Blocks found, %, against the cache's size in % of all different blocks", 12, GREY)]
    for panel, (trace, points) in enumerate(traces.items()):
        left, top = 50 + panel * (wide + 36), 84
        x_of = lambda i: left + wide * i / (len(points) - 1)
        y_of = lambda rate: top + high * (1 - rate / 100)
        parts.append(text(left, top - 10, trace, 12, weight="bold"))
        for rate in (0, 25, 50, 75, 100):
            parts += [f'<line x1="{left}" x2="{left + wide}" y1="{y_of(rate):.1f}" y2="{y_of(rate):.1f}" stroke="{PALE}"/>',
                      text(left - 6, y_of(rate) + 4, rate, 10, GREY, "end")]
        for i, (share, _) in enumerate(points):
            parts.append(text(x_of(i), top + high + 16, share, 10, GREY, "middle"))
        for n, name in enumerate(names):
            line = " ".join(f"{x_of(i):.1f},{y_of(rates[n]):.1f}" for i, (_, rates) in enumerate(points))
            dash = ' stroke-dasharray="4 3"' if name == "optimum" else ""
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colors[name]}" stroke-width="2"{dash}/>')
    for n, name in enumerate(names):
        x = 50 + n * 110
        parts += [f'<line x1="{x}" x2="{x + 20}" y1="322" y2="322" stroke="{colors[name]}" stroke-width="2"/>', text(x + 26, 326, name, 12)]
    return picture(50 + len(traces) * (wide + 36), 342, "What eviction policies find", parts)


def main():
    found = tables()
    pictures = {"speed.svg": speed(found["Attention of one new token, random rows"]), "quality.svg": quality(found["Quality"]),
                "eviction.svg": eviction(found["Eviction policies"])}
    stale = [name for name, svg in pictures.items() if not (ROOT / "tools/docs" / name).exists() or (ROOT / "tools/docs" / name).read_text() != svg]
    if sys.argv[1:] == ["--check"]:
        for name in stale:
            print(f"tools/docs/{name}: not what tools/bench/README.md gives; run tools/bench/picture.py")
        return 1 if stale else 0
    for name, svg in pictures.items():
        (ROOT / "tools/docs" / name).write_text(svg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
