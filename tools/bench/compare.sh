#!/usr/bin/env bash
# Runs a benchmark of two builds in turn, several process starts each, and prints for every figure the ratio of their times: paired,
# because on a shared machine only neighbouring moments compare.
#   tools/bench/compare.sh BUILD_A BUILD_B [-n PAIRS] PART [OPTIONS]
#   tools/bench/compare.sh build/before build/release -n 7 attend --tokens 65536 --threads 2
# BUILD_A and BUILD_B are build folders (or folders with the programs in them); PART is one of kvant_bench or of `kvantctl bench`. 1.10 means
# that B takes 1.10 times as long as A.
set -euo pipefail
if [ $# -lt 3 ]; then
  sed -n '2,7s/^# \?//p' "$0" >&2
  exit 2
fi

a=$1
b=$2
shift 2
pairs=5
if [ "$1" = -n ]; then
  pairs=$2
  shift 2
fi

# program_of BUILD PART: the command that has the part. (Builds before protocol version 2 have all of them in `kvantctl bench`.)
program_of() {
  local folder
  for folder in "$1/bin" "$1"; do
    # Its help lists the parts; asking for the help of a part it lacks would succeed.
    if "$folder/kvantctl" bench --help 2>/dev/null | grep -qE "^ +$2( |\$)"; then
      echo "$folder/kvantctl bench"
      return
    elif "$folder/kvant_bench" "$2" --help >/dev/null 2>&1; then
      echo "$folder/kvant_bench"
      return
    fi
  done
  echo "compare.sh: neither kvantctl nor kvant_bench in $1 or $1/bin has a part $2" >&2
  exit 1
}
a=$(program_of "$a" "$1")
b=$(program_of "$b" "$1")
work=$(mktemp -d "${TMPDIR:-/tmp}/kvant-compare.XXXXXX")
trap 'rm -rf "$work"' EXIT

for ((pair = 0; pair < pairs; pair++)); do
  # Who goes first changes from pair to pair.
  order="a b"
  if ((pair % 2)); then order="b a"; fi
  for build in $order; do
    ${!build} "$@" -o json >"$work/$build.$pair.json" 2>/dev/null || {
      echo "compare.sh: failed: ${!build} $*" >&2
      exit 1
    }
  done
done
python3 "$(dirname "${BASH_SOURCE[0]}")/figures.py" compare "$work" "$pairs"
