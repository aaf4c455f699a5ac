#!/usr/bin/env bash
# Shows what kvant is for: a daemon, several processes that share one compressed KV cache, a fork of a live conversation, and a
# client killed in the middle. Installs and builds what is missing first; the show itself takes well under a minute.
#   tools/demo.sh
set -uo pipefail
kvant_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
# shellcheck source=tools/ci/setup.sh
. "$kvant_root/tools/ci/setup.sh"

kvant_install_packages
kvant_build release kvantd kvantctl kvant_generate
bin="$kvant_root/build/release/bin"

. "$kvant_root/tools/ci/demo_folder.sh"

# json FILE FIELD...: one value of a JSON file, nested fields one after the other.
json() {
  python3 - "$@" <<'PY'
import json, sys
value = json.load(open(sys.argv[1]))
for field in sys.argv[2:]:
    value = value[field]
print(f"{value:.1f}" if isinstance(value, float) else value)
PY
}
ctl() { "$bin/kvantctl" --socket "$socket" "$@"; }
# Every engine is a process of its own. (An array, not a function: a function in the background would be a shell around it.)
engine=("$bin/kvant-generate" --model "$kvant_root/tests/models/byte6m" --socket "$socket"
  --max-tokens 120 -o json)
# stat_now FIELD...: one figure of kvantctl stats.
stat_now() {
  ctl stats -o json >"$work/stats.json" && json "$work/stats.json" "$@"
}
# wait_until SECONDS COMMAND...: tries every 20 ms.
wait_until() {
  local tries=$(($1 * 50))
  shift
  while [ "$tries" -gt 0 ]; do
    "$@" >/dev/null 2>&1 && return 0
    tries=$((tries - 1))
    sleep 0.02
  done
  return 1
}
need() { "$@" || kvant_fail "$*"; }
# show COMMAND...: its output, indented.
show() {
  local output
  output=$("$@") || kvant_fail "$*"
  printf '%s\n' "$output" | sed 's/^/   /'
}
show_text() { json "$1" text | head -n 6 | cut -c 1-100 | sed 's/^/      | /'; }
started=$SECONDS

kvant_say "1. The daemon"
"$bin/kvantd" --socket "$socket" --budget 256MiB >"$work/kvantd.log" 2>&1 &
children+=($!)
wait_until 10 ctl ping || { cat "$work/kvantd.log" >&2; kvant_fail "kvantd does not answer at $socket"; }
echo "kvantd runs with a budget of 256 MiB and holds nothing yet:"
show ctl stats

# 8 KB of this project's own sources: a task that several workers share, and two ways to go on.
head -c 8000 < <(cat "$kvant_root"/protocol/include/kvant/*.h "$kvant_root"/client/include/kvant/client.h) >"$work/shared.txt"
{ cat "$work/shared.txt"; printf '\n/// Counts the tokens of a sequence.\n'; } >"$work/a.txt"
{ cat "$work/shared.txt"; printf '\n/// An error that says which tensor has the wrong shape.\n'; } >"$work/b.txt"

kvant_say "2. Engine A reads an 8 KB prompt, and all its attention runs in the daemon"
mkfifo "$work/a.stdin"
"${engine[@]}" --prompt-file "$work/a.txt" --seq-label A --hold-on-stdin <"$work/a.stdin" >"$work/a.json" 2>"$work/a.err" &
a=$!
children+=("$a")
exec 9>"$work/a.stdin"  # A stays while this end is open
wait_until 120 json "$work/a.json" text || { cat "$work/a.err" >&2; kvant_fail "engine A"; }
a_id=$(json "$work/a.json" sequence_id)
echo "A read $(json "$work/a.json" prompt_tokens) tokens; its first token came after $(json "$work/a.json" ttft_ms) ms, then $(json "$work/a.json" tokens_per_second) tokens/s. It writes:"
show_text "$work/a.json"
echo "$(json "$work/a.json" bytes_zero_copy) tensor bytes were written in place in shared memory, $(json "$work/a.json" bytes_copied) were copied."
echo "Its keys and values now lie in $(stat_now figures sealed_blocks) compressed blocks: $(stat_now figures compressed_bytes) bytes; as f16 they would take $(stat_now figures logical_f16_bytes)."

kvant_say "3. Engine B, another process, has the same prompt with another ending"
need "${engine[@]}" --prompt-file "$work/b.txt" --seq-label B >"$work/b.json"
echo "B found $(json "$work/b.json" prefix_hit_tokens) of its $(json "$work/b.json" prompt_tokens) tokens in A's blocks and computed only the rest:"
echo "first token after $(json "$work/b.json" ttft_ms) ms instead of A's $(json "$work/a.json" ttft_ms) ms. It writes:"
show_text "$work/b.json"

kvant_say "4. Engine C forks A's live conversation in the middle, at token 4000"
need "${engine[@]}" --fork-from "$a_id" --fork-at 4000 --prompt "
// In other words: " --seq-label C >"$work/c.json"
echo "C shares A's blocks and copied only the rows of the one it cut through: it continues $(json "$work/c.json" forked_tokens) tokens of A's with $(json "$work/c.json" prompt_tokens) of its own, first token after $(json "$work/c.json" ttft_ms) ms. It writes:"
show_text "$work/c.json"
echo "A, undisturbed, is still there:"
show ctl sequences

kvant_say "5. A is killed with -9"
before=$(stat_now figures leases)
kill -9 "$a"
wait "$a" 2>/dev/null
exec 9>&-
# The daemon sees the closed connection; nobody has to tell it.
gone() { [ "$(stat_now figures sequences)" = 0 ] && [ "$(stat_now figures leases)" = 0 ]; }
wait_until 5 gone || kvant_fail "A's leases are still held: $(stat_now figures leases)"
echo "Block leases before: $before, now: $(stat_now figures leases); arenas: $(stat_now figures arenas). The blocks stay for whoever comes next:"
need "${engine[@]}" --prompt-file "$work/a.txt" --seq-label D >"$work/d.json"
echo "engine D finds $(json "$work/d.json" prefix_hit_tokens) of $(json "$work/d.json" prompt_tokens) tokens of the dead A and answers after $(json "$work/d.json" ttft_ms) ms."

kvant_say "6. What the daemon holds and did"
show ctl stats
show ctl stores

for reader in b d; do
  [ "$(json "$work/$reader.json" prefix_hit_tokens)" -gt 7000 ] || kvant_fail "engine $reader found too few shared tokens"
done
kvant_say "The demo took $((SECONDS - started)) s. DONE"
