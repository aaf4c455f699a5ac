#!/bin/sh
# Everything that needs a GPU, in one go: tools/gpu/run.sh [BUILD]. Checks attention against float64 and the processor, measures
# it, holds it against torch's bf16 attention where a python3 has torch, and watches every access (compute-sanitizer).
#
# BUILD (build/release): a build tree; its GPU programs are built first unless BUILD/bin already has them. Logs go to $OUT
# (BUILD/gpu). Exits 1 if a check failed.
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$here/build/release}
out=${OUT:-$build/gpu}
mkdir -p "$out"
failed=0

step() { # name command...: runs it for 5 minutes at most, keeps what it printed
  name=$1
  shift
  if timeout 300 "$@" >"$out/$name.txt" 2>&1; then echo "$name: passed, $(tail -n 1 "$out/$name.txt")"; else
    failed=1
    echo "$name: FAILED"
    grep -v '^ok ' "$out/$name.txt" | tail -n 30
  fi
}

if [ ! -x "$build/bin/attend_check" ]; then
  cmake --build "$build" --parallel "$(nproc)" --target attend_check attend_bench || exit 1
fi
nvidia-smi --query-gpu=name,driver_version,clocks.max.sm --format=csv,noheader
step check "$build/bin/attend_check"
timeout 300 "$build/bin/attend_bench" >"$out/bench.jsonl" || { echo "bench: FAILED"; failed=1; }
if python3 -c 'import torch' 2>/dev/null; then
  python3 "$here/tests/gpu/sdpa.py" "$out/bench.jsonl" 2>"$out/sdpa.err" | tee "$out/table.txt"
else
  echo "bf16 attention: skipped, no torch"
  cat "$out/bench.jsonl"
fi
if command -v compute-sanitizer >/dev/null; then
  step memcheck compute-sanitizer --tool memcheck --error-exitcode 9 "$build/bin/attend_check" short
  step racecheck compute-sanitizer --tool racecheck --error-exitcode 9 "$build/bin/attend_check" short
else
  echo "memcheck, racecheck: skipped, no compute-sanitizer"
fi
exit $failed
