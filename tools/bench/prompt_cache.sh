#!/usr/bin/env bash
# Time to the first token of a prompt that a folder has (kvant-generate --cache-dir), beside computing it anew; each run is a new
# process with a new daemon inside, as on the next day.
#   tools/bench/prompt_cache.sh [BIN] [TOKENS...]      BIN: folder of kvant-generate, default build/release/bin
# The model is tests/models/byte6m, whose tokens are bytes; the text is this project's. The first token must be the same from
# the folder in every run, or there is no row.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=${1:-$root/build/release/bin}
shift || true
lengths=("$@")
[ ${#lengths[@]} -gt 0 ] || lengths=(1024 4096 16384 32768)
rounds=3
work=$(mktemp -d "${TMPDIR:-/tmp}/kvant-prompts.XXXXXX")
trap 'rm -rf "$work"' EXIT
cat "$root"/protocol/*.cc "$root"/client/*.cc "$root"/daemon/*.cc >"$work/text"

run() {
  "$bin/kvant-generate" --model "$root/tests/models/byte6m" --socket embedded: --embedded-budget 2GiB --prompt-file "$work/prompt" \
    --max-tokens 1 --cache-dir "$work/cache" --cache-budget 8GiB -o json
}
echo "| prompt, tokens | computed, ms | from the folder, ms | of that reading, ms | file, MiB | times |"
echo "|---|---|---|---|---|---|"
for tokens in "${lengths[@]}"; do
  head -c "$tokens" "$work/text" >"$work/prompt"
  rm -rf "$work/cache"
  run >"$work/0"
  for ((round = 1; round <= rounds; round++)); do run >"$work/$round"; done
  python3 - "$work" "$rounds" <<'PY'
import json, pathlib, statistics, sys
work, rounds = pathlib.Path(sys.argv[1]), int(sys.argv[2])
first, *later = [json.load(open(work / str(i))) for i in range(rounds + 1)]
if first["cached_tokens"] != 0 or any(run["cached_tokens"] == 0 or run["text"] != later[0]["text"] for run in later):
    sys.exit("the folder did not answer as it should")
size = sum(file.stat().st_size for file in (work / "cache").rglob("*.safetensors"))
ttft = statistics.median(run["ttft_ms"] for run in later)
load = statistics.median(run["cache_load_ms"] for run in later)
print(f"| {first['prompt_tokens']} | {first['ttft_ms']:.0f} | {ttft:.1f} | {load:.1f} | {size / 2**20:.1f} | {first['ttft_ms'] / ttft:.1f} |")
PY
done
