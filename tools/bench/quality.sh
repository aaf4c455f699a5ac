#!/usr/bin/env bash
# Measures what each codec costs in quality on the model in tests/models/byte6m and prints a table: KL divergence from exact
# attention and change of the loss, on text of this project. Each plan is a whole forward pass of its own, so errors feed forward.
#   tools/bench/quality.sh [BIN]      BIN: folder of kvant-generate, default build/release/bin
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
engine=("${1:-$root/build/release/bin}/kvant-generate" --model "$root/tests/models/byte6m" -o json)
work=$(mktemp -d "${TMPDIR:-/tmp}/kvant-quality.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Two windows of 2048 bytes each of C++ and of Python; means for `center=1` come from other text.
head -c 4096 "$root/client/include/kvant/client.h" >"$work/text"
head -c 4096 "$root/tools/ci/check_includes.py" >>"$work/text"
head -c 16384 < <(cat "$root"/daemon/*.cc 2>/dev/null) >"$work/calibration"
"${engine[@]}" --calibrate "$work/calibration" --artifact-out "$work/means.safetensors" >/dev/null

# measure SPEC [OPTIONS...]
measure() {
  local spec=$1
  shift
  "${engine[@]}" --compare-exact "$work/text" --keys "$spec" --values "$spec" --max-step 32 --recent 64 "$@" >"$work/result"
  python3 - "$work/result" "$spec" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
bits = (r["key_bits_per_element"] + r["value_bits_per_element"]) / 2
print(f"| `{sys.argv[2]}` | {bits:.3f} | {r['kl_per_token']:.6f} | {r['loss_change_percent']:+.2f} % | {100 * r['same_choice_share']:.1f} % |")
PY
}
echo "| keys and values | bits per number | KL to exact, nats per token | loss change | same top token |"
echo "|---|---|---|---|---|"
measure f16
measure int8
for bits in 8 4 3 2 1; do
  measure "turboquant_mse:bits=$bits"
  measure "turboquant_mse:bits=$bits,center=1" --artifact "$work/means.safetensors"
done
