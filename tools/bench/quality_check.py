#!/usr/bin/env python3
"""Holds a table of plans and what they cost to what presets promise.

    quality_check.py FILE [--noise RATIO] [--tiny KL]

FILE: a JSON list of {"plan", "bits" (of keys and values on average), "kl", "loss_change_percent"}. RATIO: what two KLs may differ by and mean
nothing (1.1). KL: the most that the preset tiny may cost. Exit code 1 with a line for each promise that is not kept.
"""

import argparse
import json
import sys

# Those that the presets are, plainly said; a preset is not held against itself.
PRESETS = ("hq", "balanced", "small", "tiny")
SAME = {"hq": "turboquant_tcq:bits=4", "balanced": "turboquant_tcq:bits=3", "tiny": "turboquant_tcq:bits=2"}
MOST_LOSS_PERCENT = 1  # at balanced, on any model
# The KL of ggml's q4_0 on the same text is what people know; presets promise to stay below so many times as much, where it was measured.
YARDSTICK = "q4_0"
MOST_OF_YARDSTICK = {"hq": 0.25, "balanced": 0.65, "tiny": 2.6}


def broken(figures, noise, tiny=None):
    """The promises that the figures break, a sentence each."""
    by_plan = {row["plan"]: row for row in figures}
    said = []
    for name in PRESETS:
        preset = by_plan[name]
        for other in figures:
            plainer = other["plan"] not in (name, SAME.get(name)) and other["bits"] <= preset["bits"]
            if plainer and other["kl"] * noise < preset["kl"]:
                said.append(
                    f"{name} ({preset['bits']:.3f} bits, KL {preset['kl']:.6f}) loses to {other['plan']} ({other['bits']:.3f} bits, KL {other['kl']:.6f})"
                )
    if YARDSTICK in by_plan:
        for name, most in MOST_OF_YARDSTICK.items():
            times = by_plan[name]["kl"] / by_plan[YARDSTICK]["kl"]
            if times > most * noise:
                said.append(f"{name} has {times:.3f} times the KL of {YARDSTICK} ({by_plan[YARDSTICK]['kl']:.6f}), {most:g} is the most")
    change = by_plan["balanced"]["loss_change_percent"]
    if change >= MOST_LOSS_PERCENT:
        said.append(f"balanced changes the loss by {change:+.2f} %, {MOST_LOSS_PERCENT} % is the most")
    if tiny is not None and by_plan["tiny"]["kl"] > tiny:
        said.append(f"tiny has a KL of {by_plan['tiny']['kl']:.6f}, {tiny:g} is the most")
    return said


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--noise", type=float, default=1.1)
    parser.add_argument("--tiny", type=float)
    arguments = parser.parse_args()
    with open(arguments.file, encoding="utf-8") as file:
        figures = json.load(file)
    said = broken(figures, arguments.noise, arguments.tiny)
    for line in said:
        print(line, file=sys.stderr)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
