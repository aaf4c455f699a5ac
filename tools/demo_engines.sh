#!/usr/bin/env bash
# Three engines, one daemon: transformers reads a prompt, mlx_lm and the reference engine find it and compute only the rest; then the
# first engine is killed with -9, and the others go on.
#   tools/demo_engines.sh
# Installs and builds what is missing first, torch included (4.2 GB in build/engines, once). The model is the small one of the tree.
set -uo pipefail
kvant_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
. "$kvant_root/tools/ci/setup.sh"
. "$kvant_root/tools/ci/engines.sh"

kvant_install_packages
kvant_engines requirements.txt requirements-torch.txt
bin="$kvant_root/build/release/bin"
model="$kvant_root/tests/models/byte6m"
export PYTHONPATH="$kvant_root/build/release/python" PYTHONWARNINGS=ignore TQDM_DISABLE=1 TRANSFORMERS_VERBOSITY=error

. "$kvant_root/tools/ci/demo_folder.sh"

field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$@"; }
# wait_for FILE PROCESS: until the process has written the file.
wait_for() {
  local tries=3000
  until [ -s "$1" ]; do
    tries=$((tries - 1))
    { [ "$tries" -gt 0 ] && kill -0 "$2" 2>/dev/null; } || kvant_fail "$1 did not come: $(cat "$work"/*.err)"
    sleep 0.1
  done
}
show() { echo "$1: $(field "$work/$1.json" prompt_tokens) tokens, $(field "$work/$1.json" found) of them found, first token after $(field "$work/$1.json" first_token_ms) ms"; }

head -c 6000 < <(cat "$kvant_root"/protocol/include/kvant/*.h) >"$work/prompt.txt"
tokens=100

cat >"$work/in_transformers.py" <<'PY'
import json, os, sys, time
import torch, transformers, kvant.transformers

path, uri, prompt, tokens, answer = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
inputs = transformers.AutoTokenizer.from_pretrained(path)(open(prompt).read(), return_tensors="pt")
kvant.transformers.attach(model, kvant.KVCacheConfig(model_path=path, uri=uri))
started = time.monotonic()
cache = kvant.transformers.KvantCache(model, **inputs)
found = cache.cached_tokens[0]
model.generate(**inputs, cache=cache, max_new_tokens=1, do_sample=False)
seen = time.monotonic() - started
cache = kvant.transformers.KvantCache(model, **inputs)  # now it finds the blocks as the other engines will
out = model.generate(**inputs, cache=cache, max_new_tokens=int(tokens), do_sample=False)[0]
text = bytes(int(t) - 3 for t in out[inputs["input_ids"].shape[1]:] if t >= 3).decode()
said = {"prompt_tokens": inputs["input_ids"].shape[1], "found": found, "first_token_ms": round(1000 * seen), "text": text}
with open(answer + ".new", "w") as file:
    json.dump(said, file)
os.rename(answer + ".new", answer)
model.generate(out[None], cache=cache, max_new_tokens=20000, do_sample=False)  # until it is killed
PY
cat >"$work/in_mlx_lm.py" <<'PY'
import json, sys, time
import mlx.core as mx, mlx_lm, kvant, kvant.mlx_lm

path, uri, prompt, tokens, answer = sys.argv[1:]
model, tokenizer = mlx_lm.load(path)
model.set_dtype(mx.float32)
kvant.mlx_lm.patch_mlx_lm(model, kvant.KVCacheConfig(model_path=path, uri=uri))
started, seen = time.monotonic(), None
ids = tokenizer.encode(open(prompt).read())
caches = kvant.mlx_lm.make_prompt_cache(model, ids)
found, prompt_tokens = kvant.mlx_lm.cached_tokens(caches), len(ids)
for response in mlx_lm.stream_generate(model, tokenizer, ids[found:], max_tokens=int(tokens), prompt_cache=caches):
    seen = seen or time.monotonic() - started
    ids.append(response.token)
text = bytes(t - 3 for t in ids[prompt_tokens:] if t >= 3).decode()
with open(answer, "w") as file:
    json.dump({"prompt_tokens": prompt_tokens, "found": found, "first_token_ms": round(1000 * seen), "text": text}, file)
PY

kvant_say "1. The daemon"
"$bin/kvantd" --socket "$socket" --budget 256MiB >"$work/kvantd.err" 2>&1 &
children+=($!)
daemon=$!
until "$bin/kvantctl" --socket "$socket" ping 2>/dev/null; do
  kill -0 "$daemon" 2>/dev/null || kvant_fail "kvantd: $(cat "$work/kvantd.err")"
  sleep 0.1
done

kvant_say "2. transformers reads a prompt of 6000 bytes and goes on writing"
"$environment/bin/python" "$work/in_transformers.py" "$model" "unix:$socket" "$work/prompt.txt" $tokens "$work/transformers.json" 2>"$work/transformers.err" &
first=$!
children+=("$first")
wait_for "$work/transformers.json" "$first"
show transformers

kvant_say "3. mlx_lm, another engine, has the same prompt"
"$environment/bin/python" "$work/in_mlx_lm.py" "$model" "unix:$socket" "$work/prompt.txt" $tokens "$work/mlx_lm.json" || kvant_fail "mlx_lm"
show mlx_lm

kvant_say "4. kvant-generate, a third one, too"
reference() {
  "$bin/kvant-generate" --model "$model" --socket "$socket" --prompt-file "$work/prompt.txt" --max-tokens $tokens --placement local \
    --tail-type f32 -o json >"$work/generate.json" || kvant_fail "kvant-generate"
}
reference
reference_found=$(field "$work/generate.json" prefix_hit_tokens)
echo "kvant-generate: $(field "$work/generate.json" prompt_tokens) tokens, $reference_found of them found, first token after $(printf %.0f "$(field "$work/generate.json" ttft_ms)") ms"

kvant_say "5. What they wrote"
field "$work/transformers.json" text | head -n 4 | sed 's/^/   | /'
for engine in mlx_lm generate; do
  [ "$(field "$work/$engine.json" text)" = "$(field "$work/transformers.json" text)" ] || kvant_fail "$engine wrote another text: $(field "$work/$engine.json" text)"
done
echo "From the same blocks the three wrote the same text."
"$bin/kvantctl" --socket "$socket" stores

kvant_say "6. transformers is killed with -9 while it writes; the others go on"
kill -9 "$first"
wait "$first" 2>/dev/null
"$environment/bin/python" "$work/in_mlx_lm.py" "$model" "unix:$socket" "$work/prompt.txt" $tokens "$work/again.json" || kvant_fail "mlx_lm"
show again
[ "$(field "$work/again.json" text)" = "$(field "$work/transformers.json" text)" ] || kvant_fail "the text changed"
for found in "$(field "$work/mlx_lm.json" found)" "$reference_found" "$(field "$work/again.json" found)"; do
  [ "$found" -gt 5000 ] || kvant_fail "an engine found only $found tokens"
done
kvant_say "DONE"
