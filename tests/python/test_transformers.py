"""kvant caches in transformers, on a real model: its own exact text, prefixes of others, batches, beams, crops, loud misuse."""

import copy
import os
import threading

import kvant
import pytest

torch = pytest.importorskip("torch")
import kvant.transformers as kt  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

TOKENS = 24


def load(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def model(byte6m):
    torch.set_num_threads(1)
    return load(byte6m)


@pytest.fixture(autouse=True)
def _detached(model):
    yield
    kt.detach(model)


@pytest.fixture(scope="module")
def tokenizer(byte6m):
    return AutoTokenizer.from_pretrained(byte6m, padding_side="left")


@pytest.fixture(scope="module")
def inputs(tokenizer, prompt):
    return tokenizer(prompt, return_tensors="pt")


def generate(model, inputs, **options):
    kt.detach(model)
    return model.generate(**inputs, **{"max_new_tokens": TOKENS, "do_sample": False, **options})


@pytest.fixture(scope="module")
def exact(model, inputs):
    """The engine's own tokens."""
    return generate(model, inputs)


def settings(byte6m, **fields):
    return kvant.KVCacheConfig(model_path=str(byte6m), **{"keys": "f32", "values": "f32", **fields})


def go_on(model, inputs, cache, name="cache", **options):
    return model.generate(**inputs, **{"max_new_tokens": TOKENS, "do_sample": False, name: cache, **options})


@pytest.mark.parametrize("placement", ["local", "service"])
def test_an_f32_plan_writes_the_engines_own_text(model, inputs, exact, byte6m, placement):
    with kt.attach(model, settings(byte6m, placement=placement, salt=f"transformers {placement}")):
        cache = kt.KvantCache(model, **inputs)
        assert cache.cached_tokens == [0]
        assert torch.equal(go_on(model, inputs, cache), exact)
        assert cache.get_seq_length() == exact.shape[1] - 1  # the last token is not read
        # Whoever comes next finds the prompt, and writes the same. The old name of the argument works too.
        again = kt.KvantCache(model, **inputs)
        assert again.cached_tokens == [1408]
        steps = []
        hook = model.base_model.layers[0].register_forward_hook(lambda module, args, output: steps.append(output.shape[1]))
        assert torch.equal(go_on(model, inputs, again, name="past_key_values"), exact)
        hook.remove()
        assert steps == [inputs.input_ids.shape[1] - 1408] + [1] * (TOKENS - 1)


def test_detaching_leaves_the_engine_as_it_was(model, inputs, exact, byte6m):
    before = model.config._attn_implementation
    with kt.attach(model, settings(byte6m)):
        assert model.config._attn_implementation == "kvant"
    assert model.config._attn_implementation == before
    assert model.generation_config.prefill_chunk_size is None
    assert torch.equal(model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False), exact)


def test_a_prompt_longer_than_a_step_is_read_in_one_pass_or_in_several(model, inputs, exact, byte6m):
    kt.attach(model, settings(byte6m, salt="long", max_step_tokens=64))
    assert torch.equal(go_on(model, inputs, kt.KvantCache(model)), exact)
    kt.attach(model, settings(byte6m, salt="longer", max_step_tokens=64))
    model.generation_config.prefill_chunk_size = None
    assert torch.equal(go_on(model, inputs, kt.KvantCache(model)), exact)  # the tail grew


def test_turns_continue_in_one_cache(model, tokenizer, inputs, exact, byte6m):
    kt.attach(model, settings(byte6m, salt="turns"))
    cache = kt.KvantCache(model, **inputs)
    half = go_on(model, inputs, cache, max_new_tokens=TOKENS // 2)
    rest = model.generate(half, attention_mask=torch.ones_like(half), cache=cache, max_new_tokens=TOKENS // 2, do_sample=False)
    assert torch.equal(rest, exact)


def test_left_padding_is_cut_and_each_row_is_as_alone(model, tokenizer, prompt, byte6m):
    texts = [prompt[:900], prompt[300:1300], "def"]
    alone = [generate(model, tokenizer(text, return_tensors="pt"))[0, -TOKENS:] for text in texts]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    for placement in ("local", "service"):
        kt.attach(model, settings(byte6m, salt="batch" + placement, placement=placement))
        cache = kt.KvantCache(model, **inputs)
        assert cache.cached_tokens == [0, 0, 0]
        out = go_on(model, inputs, cache)
        assert all(torch.equal(out[row, -TOKENS:], alone[row]) for row in range(3))
        lengths = [len(text) + TOKENS - 1 for text in texts]
        assert [row.length for row in cache.rows] == lengths
        again = kt.KvantCache(model, **inputs)
        # Rows end in one column: the first one's prefix is shorter by its padding, and the third one waits in its padding.
        assert again.get_seq_length() == 100 + 768 and again.cached_tokens == [768, 868, 0]
        out = go_on(model, inputs, again)
        assert all(torch.equal(out[row, -TOKENS:], alone[row]) for row in range(3))


def test_more_padding_changes_nothing(model, tokenizer, byte6m):
    kt.attach(model, settings(byte6m, salt="padding"))
    short = tokenizer(["The cat"], return_tensors="pt")
    wide = tokenizer(["The cat"], return_tensors="pt", padding=True, pad_to_multiple_of=32)
    assert wide.input_ids.shape[1] == 32
    one, other = (go_on(model, given, kt.KvantCache(model, **given))[0, -TOKENS:] for given in (short, wide))
    assert torch.equal(one, other)
    # A plain forward gets its positions from the mask, too.
    with torch.no_grad():
        plain = model(**short, cache=kt.KvantCache(model)).logits[0, -1]
        padded = model(**wide, cache=kt.KvantCache(model)).logits[0, -1]
    assert (plain - padded).abs().max() < 1e-3  # f32 sums in another order


def test_beams_are_forks(model, inputs, byte6m):
    beams = {"num_beams": 4, "num_return_sequences": 2}
    expected = generate(model, inputs, **beams)
    kt.attach(model, settings(byte6m, salt="beams"))
    assert torch.equal(go_on(model, inputs, kt.KvantCache(model), **beams), expected)
    cache = kt.KvantCache(model, **inputs)
    assert cache.cached_tokens == [1408]
    with pytest.raises(kvant.InvalidArgumentError, match="batch_repeat_interleave"):
        go_on(model, inputs, cache, **beams)
    cache.batch_repeat_interleave(4)
    assert torch.equal(go_on(model, inputs, cache, **beams), expected)


@pytest.mark.parametrize("plan", ["f32", "turboquant_mse:bits=4"])
def test_prompt_lookup_writes_the_same_text_in_fewer_passes(model, inputs, byte6m, plan):
    kt.attach(model, settings(byte6m, salt="lookup", keys=plan, values=plan))
    passes = []
    hook = model.base_model.layers[0].register_forward_hook(lambda module, args, output: passes.append(output.shape[1]))
    plain = go_on(model, inputs, kt.KvantCache(model, **inputs))
    alone = len(passes)
    passes.clear()
    looked_up = go_on(model, inputs, kt.KvantCache(model, **inputs), prompt_lookup_num_tokens=5)
    hook.remove()
    assert torch.equal(looked_up, plain)
    assert sum(passes[:1]) == inputs.input_ids.shape[1] - 1408 + 5  # the prompt was found: it is left out, and five tokens are guessed
    assert len(passes) < alone * 3 // 4


def test_an_assistant_proposes(model, byte6m, inputs, exact):
    passes = []
    assistant = load(byte6m)
    kt.attach(model, settings(byte6m, salt="assistant"))
    hook = model.base_model.register_forward_hook(lambda *_: passes.append(1))
    assert torch.equal(go_on(model, inputs, kt.KvantCache(model, **inputs), assistant_model=assistant), exact)
    hook.remove()
    assert len(passes) < TOKENS


def test_rows_are_selected_repeated_copied_cropped_and_dropped(model, tokenizer, prompt, byte6m):
    kt.attach(model, settings(byte6m, salt="rows"))
    texts = [prompt[:600], prompt[100:700]]
    alone = [generate_attached(model, tokenizer, text) for text in texts]
    inputs = tokenizer(texts, return_tensors="pt")
    cache = kt.KvantCache(model)
    with torch.no_grad():
        model(inputs.input_ids[:, :-1], cache=cache)
    assert cache.batch_size == 2 and cache.get_seq_length() == 599 and cache.nbytes > 0
    cache.batch_select_indices(torch.tensor([1, 0]))
    cache.batch_repeat_interleave(2)
    other = copy.deepcopy(cache)
    cache.crop(-9)
    assert (cache.get_seq_length(), other.get_seq_length()) == (590, 599)
    assert [row.length for row in cache.rows] == [590] * 4
    cache.batch_select_indices(torch.tensor([True, False, True, False]))
    for given, order in ((cache, [1, 0]), (other, [1, 1, 0, 0])):
        ids = inputs.input_ids[order]
        out = model.generate(ids, attention_mask=torch.ones_like(ids), cache=given, max_new_tokens=8, do_sample=False)
        assert [row.tolist() for row in out[:, -8:]] == [alone[index] for index in order]
    with pytest.raises(kvant.InvalidArgumentError, match="negative"):
        cache.crop(3)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert go_on(model, inputs, cache, max_new_tokens=8)[0, -8:].tolist() == alone[0]


def generate_attached(model, tokenizer, text):
    return go_on(model, tokenizer(text, return_tensors="pt"), kt.KvantCache(model), max_new_tokens=8)[0, -8:].tolist()


def test_a_pass_that_dies_half_way_leaves_nothing(model, inputs, exact, byte6m):
    kt.attach(model, settings(byte6m, salt="dies"))
    cache = kt.KvantCache(model)
    batch = {name: given.repeat(2, 1) for name, given in inputs.items()}

    def dies(*_):
        raise RuntimeError("half way")

    hook = model.base_model.layers[3].mlp.register_forward_hook(dies)
    with pytest.raises(RuntimeError, match="half way"):
        go_on(model, batch, cache)
    hook.remove()
    assert cache.get_seq_length() == 0 and [row.length for row in cache.rows] == [0, 0]
    assert torch.equal(go_on(model, batch, cache), exact.repeat(2, 1))


def test_copies_are_those_of_keys_and_values_alone(model, byte6m):
    kt.attach(model, settings(byte6m, salt="counted"))
    cache = kt.KvantCache(model)
    before = kvant.connect().counters
    with torch.no_grad():
        model(torch.arange(10)[None], cache=cache)
    copied = kvant.connect().counters["bytes_copied"] - before["bytes_copied"]
    config = model.config
    assert copied == 10 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4


def test_half_precision_is_computed_in_half_precision(byte6m, inputs):
    model = AutoModelForCausalLM.from_pretrained(byte6m, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        expected = model(inputs.input_ids[:, :200]).logits.float().log_softmax(-1)
        kt.attach(model, settings(byte6m))
        assert model.kvant_attachment.spec.dtype == "bf16"
        logits = model(inputs.input_ids[:, :200], cache=kt.KvantCache(model)).logits
    assert logits.dtype == torch.bfloat16
    divergence = (expected.exp() * (expected - logits.float().log_softmax(-1))).sum(-1).mean()
    assert divergence < 1e-2  # a bf16 logit of magnitude 8 is known to 1/32


def test_misuse_is_loud(model, tokenizer, inputs, byte6m):
    ids = inputs.input_ids[:, :8]
    with pytest.raises(kvant.UnsupportedError, match="not attached"):
        kt.KvantCache(model)
    kt.attach(model, settings(byte6m, salt="misuse"))
    cache = kt.KvantCache(model)
    with torch.no_grad():
        with pytest.raises(kvant.UnsupportedError, match="has no KvantCache"):
            model.generate(**inputs, max_new_tokens=2)
        with pytest.raises(kvant.UnsupportedError, match="row 1 .* padding on the left"):
            model(ids.repeat(2, 1), attention_mask=torch.tensor([[1] * 8, [1] * 6 + [0] * 2]), cache=kt.KvantCache(model))
        with pytest.raises(kvant.UnsupportedError, match="row 0"):
            kt.KvantCache(model, ids, torch.tensor([[1, 0] * 4]))
        with pytest.raises(kvant.InvalidArgumentError, match="position_ids of row 0 begin with 5, 0"):
            model(ids, position_ids=torch.arange(5, 13)[None], cache=kt.KvantCache(model))
        with pytest.raises(kvant.UnsupportedError, match=r"attention_mask \[1, 1, 8, 8\]"):
            model(ids, attention_mask=torch.zeros(1, 1, 8, 8), cache=kt.KvantCache(model))
        with pytest.raises(kvant.InvalidArgumentError, match="inputs_embeds"):
            model(inputs_embeds=torch.zeros(1, 3, model.config.hidden_size), cache=kt.KvantCache(model))
        with pytest.raises(kvant.InvalidArgumentError, match="batch of 2, the cache holds 1"):
            model(ids, cache=cache)
            model(ids.repeat(2, 1), cache=cache)

        def changes(module, args, kwargs):
            return args, {**kwargs, "attention_mask": torch.tensor([[0, 0] + [1] * 6])}

        hook = model.base_model.register_forward_pre_hook(changes, with_kwargs=True)
        with pytest.raises(kvant.UnsupportedError, match="changed its attention_mask"):
            model(ids, cache=kt.KvantCache(model))
        hook.remove()
        model.set_attn_implementation("sdpa")
        with pytest.raises(kvant.UnsupportedError, match="'sdpa'"):
            model(ids, cache=cache)
        kt.detach(model)
        with pytest.raises(kvant.UnsupportedError, match="detached"):
            model(ids, cache=cache)
    kt.attach(model, settings(byte6m, salt="misuse"))
    with pytest.raises(kvant.UnsupportedError, match="no_grad"):
        model(ids, cache=kt.KvantCache(model))
    with pytest.raises(kvant.UnsupportedError, match="on meta"):
        kt.attach(copy.deepcopy(model).to("meta"), settings(byte6m))


def test_a_cache_of_another_model_names_the_field(model, byte6m, inputs):
    other = load(byte6m)
    kt.attach(model, settings(byte6m, salt="one"))
    kt.attach(other, settings(byte6m, salt="two"))
    with torch.no_grad(), pytest.raises(kvant.IdentityMismatchError, match="salt differ"):
        other(inputs.input_ids, cache=kt.KvantCache(model))
    kt.attach(other, settings(byte6m, salt="one"))
    with torch.no_grad():
        other(inputs.input_ids[:, :5], cache=kt.KvantCache(model))


def test_another_thread_and_a_forked_child_are_refused(model, inputs, byte6m):
    kt.attach(model, settings(byte6m, salt="threads"))
    cache = kt.KvantCache(model)
    caught = []

    def elsewhere():
        try:
            go_on(model, inputs, cache)
        except kvant.Error as error:
            caught.append(error)
        caught.append(go_on(model, inputs, kt.KvantCache(model), max_new_tokens=2).shape[1])

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert isinstance(caught[0], kvant.WrongThreadError)
    assert caught[1] == inputs.input_ids.shape[1] + 2
    open_cache = kt.KvantCache(model, **inputs)
    child = os.fork()
    if child == 0:
        try:
            open_cache.crop(0)
            open_cache.rows[0].begin([5])
            open_cache.rows[0].sequence.reserve(1)
        except kvant.DaemonGoneError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
