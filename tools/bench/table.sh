#!/usr/bin/env bash
# Measures the performance table of README.md and prints it as Markdown, with the machine and its memory mode. Several process
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
kvantctl=$build/bin/kvantctl
work=$(mktemp -d "${TMPDIR:-/tmp}/kvant-table.XXXXXX")
trap 'rm -rf "$work"' EXIT
# Real text of this project's own for the real model.
cat "$root/client/include/kvant/client.h" "$root/README.md" "$root/tools/docs/architecture.md" >"$work/text"

# measure NAME PART [OPTIONS]: one process start.
measure() {
  local name=$1
  shift
  echo "table.sh: start $((start + 1)) of $starts: $name" >&2
  "$kvantctl" bench "$@" ${short[@]+"${short[@]}"} -o json >"$work/$name.$start.json" 2>/dev/null || {
    echo "table.sh: failed: kvantctl bench $*" >&2
    exit 1
  }
}
for ((start = 0; start < starts; start++)); do
  measure attend attend
  measure sparse attend --rows "$root/tests/models/byte6m" --text "$work/text"
  measure append append
  measure prefill prefill
  measure rpc rpc
  measure local local
  measure memory memory
done
python3 "$root/tools/bench/figures.py" table "$work" "$starts"
