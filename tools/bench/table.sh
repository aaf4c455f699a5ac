#!/usr/bin/env bash
# Measures the performance tables of tools/bench/README.md and prints them as Markdown, with the machine and its memory mode. Several process
# starts; each cell is the median over them.
#   tools/bench/table.sh [-n STARTS] [--short] [BUILD]      default: 3 starts, build/release; takes about ten minutes
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
starts=3
short=()
build=$root/build/release
while [ $# -gt 0 ]; do
  case $1 in
    -n) starts=$2; shift ;;
    --short) short=(--short) ;;
    -*) sed -n '2,4s/^# \?//p' "$0" >&2; exit 2 ;;
    *) build=$1 ;;
  esac
  shift
done
work=$(mktemp -d "${TMPDIR:-/tmp}/kvant-table.XXXXXX")
trap 'rm -rf "$work"' EXIT
# Real text of this project's own for the real model.
cat "$root/client/include/kvant/client.h" "$root/README.md" "$root/tools/docs/architecture.md" >"$work/text"

# measure NAME PROGRAM PART [OPTIONS]: one process start.
measure() {
  local name=$1
  shift
  echo "table.sh: start $((start + 1)) of $starts: $name" >&2
  "$build/bin/$@" ${short[@]+"${short[@]}"} -o json >"$work/$name.$start.json" 2>/dev/null || {
    echo "table.sh: failed: $*" >&2
    exit 1
  }
}
for ((start = 0; start < starts; start++)); do
  measure attend kvant_bench attend
  measure sparse kvant_bench attend --rows "$root/tests/models/byte6m" --text "$work/text"
  measure codecs kvant_bench codecs
  measure append kvant_bench append
  measure prefill kvant_bench prefill
  measure rpc kvant_bench rpc
  measure local kvant_bench local
  measure memory kvantctl bench memory
done
python3 "$root/tools/bench/figures.py" table "$work" "$starts"
