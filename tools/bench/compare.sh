#!/usr/bin/env bash
# Runs `kvantctl bench` of two builds in turn, several process starts each, and prints for every figure the ratio of their times:
# paired, because on a shared machine only neighbouring moments compare.
#   tools/bench/compare.sh BUILD_A BUILD_B [-n PAIRS] PART [OPTIONS]
#   tools/bench/compare.sh build/before build/release -n 7 attend --tokens 65536 --threads 2
# BUILD_A and BUILD_B are build folders (or folders with kvantctl in them). 1.10 means that B takes 1.10 times as long as A.
set -euo pipefail
if [ $# -lt 3 ]; then
  sed -n '2,6s/^# \?//p' "$0" >&2
  exit 2
fi

kvantctl_of() {
  local folder
  for folder in "$1/bin" "$1"; do
    if [ -x "$folder/kvantctl" ]; then
      echo "$folder/kvantctl"
      return
    fi
  done
  echo "compare.sh: no kvantctl in $1 or $1/bin" >&2
  exit 1
}
a=$(kvantctl_of "$1")
b=$(kvantctl_of "$2")
shift 2
pairs=5
if [ "$1" = -n ]; then
  pairs=$2
  shift 2
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/kvant-compare.XXXXXX")
trap 'rm -rf "$work"' EXIT

for ((pair = 0; pair < pairs; pair++)); do
  # Who goes first changes from pair to pair.
  order="a b"
  if ((pair % 2)); then order="b a"; fi
  for build in $order; do
    "${!build}" bench "$@" -o json >"$work/$build.$pair.json" 2>/dev/null || {
      echo "compare.sh: failed: ${!build} bench $*" >&2
      exit 1
    }
  done
done
python3 "$(dirname "${BASH_SOURCE[0]}")/figures.py" compare "$work" "$pairs"
