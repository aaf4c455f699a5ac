#!/usr/bin/env python3
"""Each promise of presets, kept and broken: what tools/bench/quality_check.py says of figures that were made up for it.

  quality_check_test.py SOURCE
"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(sys.argv[1]) / "tools" / "bench"))
from quality_check import broken  # noqa: E402

NOISE = 1.1
BITS = {"hq": 4.25, "balanced": 3.25, "small": 2.75, "tiny": 2.25, "turboquant_mse:bits=4": 4.25, "turboquant_mse:bits=3": 3.25, "q4_0": 4.5}
KLS = {"hq": 0.0018, "balanced": 0.006, "small": 0.012, "tiny": 0.024, "turboquant_mse:bits=4": 0.0028, "turboquant_mse:bits=3": 0.011, "q4_0": 0.01}

wrong = []


def expect(what, words, loss_change=0.5, tiny=None, **kls):
    """That figures with these KLs instead break one promise, in whose sentence the words stand; none where words is None."""
    all_kls = KLS | {name.replace("__", ":bits="): kl for name, kl in kls.items()}
    figures = [{"plan": name, "bits": BITS[name], "kl": kl, "loss_change_percent": loss_change} for name, kl in all_kls.items() if kl is not None]
    said = broken(figures, NOISE, tiny)
    if words is None:
        good = not said
    else:
        good = len(said) == 1 and all(word in said[0] for word in words)
    if not good:
        wrong.append(f"{what}: {said}")


expect("as measured", None)
expect("hq as good as Lloyd codes of as many bits, within the noise", None, turboquant_mse__4=0.00165)
expect("hq worse than these", ("hq", "turboquant_mse:bits=4"), turboquant_mse__4=0.0016)
expect("balanced worse than these", ("balanced", "turboquant_mse:bits=3"), turboquant_mse__3=0.005)
expect("tiny better than small", ("small", "tiny"), small=0.03, turboquant_mse__3=None)
expect("a loss of 1 %", ("balanced", "+1.00 %"), loss_change=1.0)
expect("the most for tiny", ("tiny", "0.024"), 0.5, 0.02)
expect("a quarter of q4_0's at hq", ("hq", "q4_0", "0.25"), hq=0.00276)
expect("more than that, within the noise", None, hq=0.0027)
expect("0.65 of it at balanced", ("balanced", "q4_0", "0.65"), balanced=0.0072)
expect("2.6 of it at tiny", ("tiny", "q4_0", "2.6"), q4_0=0.0083, balanced=0.005)
expect("q4_0 not measured", None, q4_0=None)

for line in wrong:
    print(line, file=sys.stderr)
sys.exit(1 if wrong else 0)
