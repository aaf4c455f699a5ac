#!/usr/bin/env python3
"""Writes rope_frequencies.txt: frequencies and attention factors of rotary positions, by formulas written anew from the papers.

Run it from the root of the tree: python3 tests/golden/make_rope.py > tests/golden/rope_frequencies.txt
One line per case: name, attention factor, then radians per token of each pair, all with 17 digits. The specs that go with the names
stand in tests/kernels/rope_frequencies_test.cc. Decimal arithmetic with 40 digits: nothing is shared with the code under test.
"""
from decimal import Decimal as D, getcontext
import math

getcontext().prec = 40
PI = D("3.14159265358979323846264338327950288419716939937510")


def base(theta, dims):
    """theta^(-2p/dims)."""
    return [(-D(2 * p) / D(dims) * D(theta).ln()).exp() for p in range(dims // 2)]


def linear(theta, dims, factor):
    return [f / D(factor) for f in base(theta, dims)], D(1)


def dynamic(theta, dims, factor, original, context):
    length = max(original, context)
    stretch = D(factor) * length / original - (D(factor) - 1)
    return base(D(theta) * (stretch.ln() * D(dims) / D(dims - 2)).exp(), dims), D(1)


def mscale(factor, weight=1):
    return D(1) if factor <= 1 else D("0.1") * D(str(weight)) * D(factor).ln() + 1


def yarn(theta, dims, factor, original, fast=32, slow=1, truncate=True, attention=None):
    # Pair p turns original * f_p / (2 pi) times; solved for p. The ramp is over pairs.
    pair_of = lambda turns: D(dims) / 2 * (D(original) / (2 * PI * D(turns))).ln() / D(theta).ln()
    low, high = pair_of(fast), pair_of(slow)
    if truncate:
        low, high = D(math.floor(low)), D(math.ceil(high))
    low, high = max(low, D(0)), min(high, D(dims - 1))
    if low == high:
        high += D("0.001")
    scaled = []
    for p, f in enumerate(base(theta, dims)):
        share = min(max((D(p) - low) / (high - low), D(0)), D(1))  # of interpolation
        scaled.append(share * f / D(factor) + (1 - share) * f)
    return scaled, mscale(factor) if attention is None else attention


def llama3(theta, dims, factor, original, low, high):
    scaled = []
    for f in base(theta, dims):
        wavelength = 2 * PI / f
        if wavelength < D(original) / D(high):
            scaled.append(f)
        elif wavelength > D(original) / D(low):
            scaled.append(f / D(factor))
        else:
            smooth = (D(original) / wavelength - D(low)) / (D(high) - D(low))
            scaled.append((1 - smooth) * f / D(factor) + smooth * f)
    return scaled, D(1)


def long(theta, dims, factor, original, context, short, extended, attention=None):
    factors = extended if context > original else short
    if attention is None:
        attention = (1 + D(factor).ln() / D(original).ln()).sqrt()
    return [f / D(str(g)) for f, g in zip(base(theta, dims), factors)], attention


SHORT = [1 + p / 64 for p in range(48)]  # exact in binary
EXTENDED = [1 + p * p / 32 for p in range(48)]

CASES = {
    "none": (base(10000, 128), D(1)),
    "partial": (base(10000, 32), D(1)),
    "linear": linear(10000, 128, "2.5"),
    "dynamic_within": dynamic(10000, 128, 2, 4096, 4096),
    "dynamic_beyond": dynamic(10000, 128, 2, 4096, 16384),
    "llama3_8b": llama3(500000, 128, 8, 8192, 1, 4),
    "llama3_1b": llama3(500000, 64, 32, 8192, 1, 4),
    "yarn_qwen": yarn(1000000, 128, 4, 32768),
    "yarn_gpt_oss": yarn(150000, 64, 32, 4096, truncate=False),
    "yarn_deepseek": yarn(10000, 64, 40, 4096, attention=mscale(40, "1") / mscale(40, "0.8")),
    "yarn_narrow": yarn(10000, 64, 2, 4096, fast=4, slow=4, truncate=False),
    "long_short": long(10000, 96, 32, 4096, 4096, SHORT, EXTENDED),
    "long_long": long(10000, 96, 32, 4096, 131072, SHORT, EXTENDED),
    "long_given": long(10000, 96, 32, 4096, 131072, SHORT, EXTENDED, attention=D("1.25")),
}

for name, (frequencies, attention) in CASES.items():
    print(name, *(f"{x:.16e}" for x in [attention, *frequencies]))
