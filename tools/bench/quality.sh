#!/usr/bin/env bash
# Measures what plans cost in quality and prints tables: KL divergence from exact attention and change of the loss, on text of this
# project. Each plan is a whole forward pass of its own, so errors feed forward.
#   tools/bench/quality.sh [BIN]      BIN: folder of kvant-generate, default build/release/bin
# With the model in tests/models/byte6m always. KVANT_MODELS=DIR adds every GGUF file in DIR, and ggml's q8_0 and q4_0 as
# yardsticks on all models; that takes minutes for each plan and wants torch in build/engines (KVANT_TORCH=1 tools/test_engines.sh).
# Ends with exit code 1 if a preset loses to a simpler plan of as many bits or to its share of q4_0, or balanced changes a loss by 1 %
# (quality_check.py).
# KVANT_QUALITY_SHORT=1 is what the tests run: one window of text, the presets and one plainer plan.
# KVANT_QUALITY_OUT=DIR keeps the json of every model and its picture there.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=${1:-$root/build/release/bin}
work=$(mktemp -d "${TMPDIR:-/tmp}/kvant-quality.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The plans of all tables, keys and values alike, and those that want an artifact: kvant-generate's has means, kvant's all there is.
plans=(hq balanced small tiny int8 turboquant_mse:bits={4,3,2} turboquant_mse:bits={4,3,2},gauge=none kivi:bits={4,2} gaussian_vq)
calibrated=(turboquant_mse:bits={4,3,2},center=1)
matrices=()
for bits in 4 3 2; do matrices+=("turboquant_tcq:bits=$bits,gauge=matrix/turboquant_tcq:bits=$bits"); done
ends=(exact turboquant_mse:bits=1)  # of the small model alone: on others they say nothing for their minutes
yardsticks=(q8_0 q4_0)

# Two windows of 2048 bytes each of C++ and of Python; calibration reads other text.
head -c 4096 "$root/client/include/kvant/client.h" >"$work/text"
head -c 4096 "$root/tools/ci/check_includes.py" >>"$work/text"
head -c 16384 < <(cat "$root"/daemon/*.cc 2>/dev/null) >"$work/calibration"
most=0.00675  # a quarter of what 2 bits as published cost this model (its card): KL 0.027
if [ -n "${KVANT_QUALITY_SHORT:-}" ]; then
  plans=(hq balanced small tiny gaussian_vq)
  calibrated=() ends=()
  head -c 1280 "$root/client/include/kvant/client.h" >"$work/text"
  most=1  # so little text says how plans compare, not what they cost
fi

byte6m() {
  local engine=("$bin/kvant-generate" --model "$root/tests/models/byte6m" -o json) spec
  measure() {
    local spec=$1
    shift
    "${engine[@]}" --compare-exact "$work/text" --keys "$spec" --values "$spec" --max-step 32 --recent 64 "$@" >"$work/result"
    python3 - "$work/result" "$spec" "$work/figures" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
bits = (r["key_bits_per_element"] + r["value_bits_per_element"]) / 2
with open(sys.argv[3], "a") as file:
    json.dump({"plan": sys.argv[2], "bits": bits, "kl": r["kl_per_token"], "loss_change_percent": r["loss_change_percent"]}, file)
    file.write("\n")
print(f"| `{sys.argv[2]}` | {bits:.3f} | {r['kl_per_token']:.6f} | {r['loss_change_percent']:+.2f} % | {100 * r['same_choice_share']:.1f} % |")
PY
  }
  "${engine[@]}" --calibrate "$work/calibration" --artifact-out "$work/means.safetensors" >/dev/null
  echo "| keys and values | bits per number | KL to exact, nats per token | loss change | same top token |"
  echo "|---|---|---|---|---|"
  for spec in "${ends[@]}" "${plans[@]}"; do measure "$spec"; done
  for spec in "${calibrated[@]}"; do measure "$spec" --artifact "$work/means.safetensors"; done
  python3 -c 'import json, sys; print(json.dumps([json.loads(line) for line in sys.stdin]))' <"$work/figures" >"$work/figures.json"
  "$root/tools/bench/quality_check.py" "$work/figures.json" --tiny "$most" || failed=1
}

# real MODEL: the same of any model that transformers loads, its four texts 1024 tokens each, the last 512 counted.
real() {
  local model=$1 name texts=() python=$root/build/engines/bin/python
  name=$(basename "$model" .gguf)
  # Two texts of C++ and two of English prose, and other text of both kinds for calibration.
  head -c 16000 "$root/client/sequence.cc" >"$work/cpp1"
  head -c 16000 "$root/daemon/server.cc" >"$work/cpp2"
  head -c 16000 "$root/README.md" >"$work/prose1"
  head -c 16000 "$root/kernels/README.md" >"$work/prose2"
  { head -c 6500 "$root/quantizers/plan.cc" && head -c 14000 "$root/client/python/README.md"; } | iconv -c -t utf-8 >"$work/calibration"
  for text in cpp1 cpp2 prose1 prose2; do
    iconv -c -t utf-8 "$work/$text" >"$work/$text.txt"
    texts+=("$work/$text.txt")
  done
  local kvant=("$python" -m kvant.command)
  "${kvant[@]}" calibrate "$model" --text "$work/calibration" --window 1024 --artifact-out "$work/artifact" >/dev/null
  "${kvant[@]}" quality "$model" --text "${texts[@]}" --tokens 1024 --window 1024 --skip 512 --step 32 --artifact "$work/artifact" \
    --plans "${plans[@]}" "${matrices[@]}" --yardsticks "${yardsticks[@]}" --plot "$out/$name.svg" -o json >"$out/$name.json"
  printf '\n### %s\n\n' "$name"
  python3 - "$out/$name.json" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
print("| keys and values | bits per number | with raw rows, 1024 tokens | KL to exact, nats per token | 99th percentile | loss change | same top token |")
print("|---|---|---|---|---|---|---|")
for p in r["plans"]:
    bits = (p["key_bits_per_element"] + p["value_bits_per_element"]) / 2
    print(f"| `{p['plan']}` | {bits:.3f} | {p['effective_bits_per_element']:.2f} | {p['kl']:.5f} | {p['kl_p99']:.4f} "
          f"| {p['loss_change_percent']:+.2f} % | {p['top1_percent']:.1f} % |")
PY
  # Standard errors of so few tokens are 8 to 20 % of a KL. Calibrated plans may win: they are no presets.
  python3 - "$out/$name.json" >"$work/figures.json" <<'PY'
import json, sys
rows = [p for p in json.load(open(sys.argv[1]))["plans"] if "gauge=matrix" not in p["plan"]]
print(json.dumps([{**p, "bits": (p["key_bits_per_element"] + p["value_bits_per_element"]) / 2} for p in rows]))
PY
  "$root/tools/bench/quality_check.py" "$work/figures.json" --noise 1.3 || failed=1
}

failed=0  # a model that breaks a promise does not keep the others from being measured
byte6m
[ -n "${KVANT_MODELS:-}" ] || exit $failed
out=${KVANT_QUALITY_OUT:-$work}
mkdir -p "$out"
# One thread is all that two busy processors give a step of few tokens.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONPATH=${bin%/bin}/python
real "$root/tests/models/byte6m"
for model in "$KVANT_MODELS"/*.gguf; do real "$model"; done
exit $failed
