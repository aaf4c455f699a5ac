"""Drafts for several tokens at a time over kvant caches: the text of plain decoding, in fewer passes."""

import kvant
import pytest

mx = pytest.importorskip("mlx.core")
import kvant.mlx_lm as km  # noqa: E402
import mlx_lm  # noqa: E402

TOKENS = 32
# A text that goes on as it went on before.
PROMPT = "".join(f"  counters.{name} = other.{name};\n" for name in ("hits", "misses", "blocks", "bytes", "hits", "misses", "blo"))


@pytest.fixture(scope="module")
def exact(engine):
    return [answer.token for answer in mlx_lm.stream_generate(*engine, PROMPT, max_tokens=TOKENS)]


@pytest.fixture
def patched(engine, exact, byte6m):
    # Blocks are small, so that tokens that are taken back have been sealed.
    km.patch_mlx_lm(engine[0], kvant.KVCacheConfig(model_path=str(byte6m), keys="f32", values="f32", block_tokens=16, recent_tokens=0))
    return engine


def attend_calls():
    return kvant.connect().counters["attend_calls"]


def test_prompt_lookup_writes_the_same_in_fewer_passes(patched, exact):
    model, tokenizer = patched
    lookup = km.PromptLookup(model.args.vocab_size)
    before = attend_calls()
    answers = list(mlx_lm.stream_generate(model, tokenizer, PROMPT, max_tokens=TOKENS, draft_model=lookup, num_draft_tokens=6))
    assert [answer.token for answer in answers] == exact
    assert sum(answer.from_draft for answer in answers) > TOKENS // 3
    assert attend_calls() - before < 0.8 * TOKENS * len(model.layers)


def test_prompt_lookup_goes_on_with_caches_of_an_earlier_turn(patched, exact):
    model, tokenizer = patched
    lookup = km.PromptLookup(model.args.vocab_size)
    ids = tokenizer.encode(PROMPT)
    caches, guesses = km.make_prompt_cache(model), lookup.make_cache()
    model(mx.array([ids[:-1]]), cache=caches)
    lookup(mx.array([ids[:-1]]), guesses)
    answers = mlx_lm.stream_generate(model, tokenizer, ids[-1:], max_tokens=TOKENS, draft_model=lookup, num_draft_tokens=4, prompt_cache=caches + guesses)
    assert [answer.token for answer in answers] == exact
    assert caches[0].offset <= len(ids) + TOKENS


@pytest.mark.parametrize("its_caches", ["stock", "kvant"])
def test_a_draft_model(patched, exact, byte6m, its_caches):
    draft, _ = mlx_lm.load(str(byte6m))
    draft.set_dtype(mx.float32)
    if its_caches == "kvant":
        km.patch_mlx_lm(draft, kvant.KVCacheConfig(method="int8"))
    model, tokenizer = patched
    answers = list(mlx_lm.stream_generate(model, tokenizer, PROMPT, max_tokens=TOKENS, draft_model=draft, num_draft_tokens=3))
    assert [answer.token for answer in answers] == exact
    assert sum(answer.from_draft for answer in answers) > TOKENS // 2  # the same model guesses well


def test_guesses_are_what_followed():
    lookup = km.PromptLookup(100, ngram=2)
    (read,) = lookup.make_cache()
    assert lookup(mx.array([[1, 2, 3, 1, 2]]), [read])[0, 0].argmax().item() == 3
    assert lookup(mx.array([[9]]), [read])[0, 0].argmax().item() == 9  # nothing like it before
    assert read.trim(1) == 1 and read.tokens.tolist() == [1, 2, 3, 1, 2]
    assert lookup(mx.array([[7, 1, 2]]), [read])[0, 0].argmax().item() == 7  # the newest occurrence
    lookup = km.PromptLookup(600, ngram=2)
    # The bytes of 1, 0 stand in those of 256, 0, 512, where no token begins.
    assert lookup(mx.array([[256, 0, 512, 1, 0]]), lookup.make_cache())[0, 0].argmax().item() == 0
