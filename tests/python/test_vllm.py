"""The vLLM connector, between a scheduler and a worker made by hand, over a real kvantd. Where KVANT_VLLM_SOURCES names an unpacked wheel
of vLLM, the stand-ins and the connector are held against its sources."""

import ast
import os
import pathlib
import pickle
import types

import kvant
import numpy as np
import pytest

import engine_sources
import vllm_standin

vllm_standin.install()
from kvant.prefixes import Prefixes, Settings  # noqa: E402
from kvant.vllm import KvantConnector, KVConnectorRole, Transfer  # noqa: E402
from kvant.vllm_pages import Pages  # noqa: E402

HERE = pathlib.Path(__file__).parent
LAYERS, HEADS, DIM, PAGE, PAGES = 6, 2, 128, 16, 64


def config(byte6m, socket, **changes):
    extra = {"uri": socket, "keys": "f32", "values": "f32", "block_tokens": 32, "sink_tokens": 0, **changes.pop("extra", {})}
    given = {"world_size": 1, "cache_dtype": "auto", "model": str(byte6m), "dtype": "torch.float32", **changes}
    return types.SimpleNamespace(
        kv_transfer_config=types.SimpleNamespace(kv_connector_extra_config=extra, is_kv_producer=True),
        parallel_config=types.SimpleNamespace(world_size=given["world_size"]),
        cache_config=types.SimpleNamespace(block_size=PAGE, cache_dtype=given["cache_dtype"]),
        model_config=types.SimpleNamespace(model=given["model"], dtype=given["dtype"]),
    )


def groups(count=1):
    return types.SimpleNamespace(kv_cache_groups=[None] * count)


def row_of(token, position, layer, side):
    """What the model computes for a token, so to speak."""
    return np.random.default_rng((token, position, layer, side)).standard_normal((HEADS, DIM), dtype=np.float32)


def name_of(layer):
    return f"model.layers.{layer + 7}.self_attn.attn"  # 7, 8, 9, 10: not in the order of the alphabet


class Worker:
    """Pages as vLLM's CPU attention keeps them, and forward passes that fill them."""

    def __init__(self, settings):
        self.connector = KvantConnector(settings, KVConnectorRole.WORKER, groups())
        self.caches = {name_of(layer): np.zeros((PAGES, HEADS, PAGE, 2 * DIM), np.float32) for layer in range(LAYERS)}
        self.connector.register_kv_caches(self.caches)

    def place(self, layer, block, head):
        flat = self.caches[name_of(layer)][block, head].reshape(-1)
        return flat[: PAGE * DIM].reshape(DIM, PAGE), flat[PAGE * DIM :].reshape(PAGE, DIM)

    def write(self, tokens, first, block_ids):
        for position in range(first, len(tokens)):
            for layer in range(LAYERS):
                key, value = (row_of(tokens[position], position, layer, side) for side in (0, 1))
                for head in range(HEADS):
                    keys, values = self.place(layer, block_ids[position // PAGE], head)
                    keys[:, position % PAGE], values[position % PAGE] = key[head], value[head]

    def holds(self, tokens, count, block_ids):
        return all(
            (keys[:, p % PAGE] == row_of(tokens[p], p, layer, 0)[head]).all() and (values[p % PAGE] == row_of(tokens[p], p, layer, 1)[head]).all()
            for p in range(count)
            for layer in range(LAYERS)
            for head in range(HEADS)
            for keys, values in [self.place(layer, block_ids[p // PAGE], head)]
        )

    def step(self, meta, work):
        """One forward pass: `work` are (tokens, first, block_ids) whose rows it computes."""
        self.connector.bind_connector_metadata(pickle.loads(pickle.dumps(meta)))  # scheduler and worker are two processes
        self.connector.start_load_kv(None)
        for name in self.caches:
            self.connector.wait_for_layer_load(name)
        for tokens, first, block_ids in work:
            self.write(tokens, first, block_ids)
        for name, cache in self.caches.items():
            self.connector.save_kv_layer(name, cache, None)
        self.connector.wait_for_save()
        self.connector.clear_connector_metadata()
        return self.connector.get_block_ids_with_load_errors()


def request(name, tokens, **fields):
    given = {"mm_features": [], "lora_request": None, "prompt_embeds": None, "cache_salt": None, **fields}
    return types.SimpleNamespace(request_id=name, prompt_token_ids=list(tokens), all_token_ids=list(tokens), **given)


def output(new=(), cached=()):
    """new: (request, block_ids, computed, scheduled); cached: the same, block_ids None for no new ones."""
    return types.SimpleNamespace(
        scheduled_new_reqs=[types.SimpleNamespace(req_id=r.request_id, block_ids=(list(ids),), num_computed_tokens=c) for r, ids, c, _ in new],
        scheduled_cached_reqs=types.SimpleNamespace(
            req_ids=[r.request_id for r, *_ in cached],
            new_block_ids=[None if ids is None else (list(ids),) for _, ids, *_ in cached],
            num_computed_tokens=[c for _, _, c, _ in cached],
        ),
        num_scheduled_tokens={r.request_id: n for r, _, _, n in [*new, *cached]},
    )


def blocks(ids):
    return types.SimpleNamespace(get_block_ids=lambda: (list(ids),))


class Engine:
    """Scheduler's and worker's side together."""

    def __init__(self, byte6m, socket, **changes):
        settings = config(byte6m, socket, **changes)
        self.scheduler = KvantConnector(settings, KVConnectorRole.SCHEDULER, groups())
        self.worker = Worker(settings)

    def admit(self, req, ids, local=0):
        found, asynchronous = self.scheduler.get_num_new_matched_tokens(req, local)
        assert not asynchronous
        self.scheduler.update_state_after_alloc(req, blocks(ids), found)
        return found

    def prefill(self, req, ids, local=0):
        """Serves a prompt in one step; returns what was found, and the pages whose load failed."""
        found = self.admit(req, ids, local)
        computed = local + found
        meta = self.scheduler.build_connector_meta(output(new=[(req, ids, computed, len(req.all_token_ids) - computed)]))
        return found, self.worker.step(meta, [(req.all_token_ids, computed, ids)])


@pytest.fixture
def engines(byte6m, kvantd):
    return lambda **changes: Engine(byte6m, kvantd, **changes)


def test_what_one_engine_computes_another_loads(engines):
    tokens = list(range(500, 600))
    assert engines().prefill(request("a", tokens), range(7)) == (0, set())
    other = engines()
    ids = [40, 3, 17, 5, 9, 60, 21]
    assert other.prefill(request("b", tokens), ids) == (96, set())  # three blocks of kvant's, six pages
    assert other.worker.holds(tokens, 100, ids)
    with other.worker.connector._prefixes.find(tokens) as sequence:  # and other engines find layer by layer what they expect
        for layer in range(LAYERS):
            keys = np.empty((96, HEADS, DIM), np.float32)
            sequence.copy_rows(layer, 0, 96, keys, None)
            assert (keys == [row_of(token, position, layer, 0) for position, token in enumerate(tokens[:96])]).all()
    changed = [*tokens[:40], 1, *tokens[41:]]
    assert other.prefill(request("c", changed), range(30, 37)) == (32, set())  # found by the tokens themselves
    assert other.worker.holds(changed, 100, list(range(30, 37)))
    assert other.prefill(request("d", tokens[:97]), range(50, 57), local=48) == (48, set())  # beyond vLLM's own prefix cache
    assert other.worker.holds(tokens, 0, [])


def test_a_load_touches_no_page_that_vllm_had(engines):
    tokens = list(range(64))
    engines().prefill(request("a", tokens), range(4))
    other = engines()
    other.worker.write([7] * 32, 0, [1, 2])  # vLLM's own rows for the first two pages
    other.prefill(request("b", [*tokens, 5]), [1, 2, 3, 4, 6], local=32)
    assert other.worker.holds([7] * 32, 32, [1, 2])
    assert other.worker.holds([*tokens, 5], 0, [])


def test_the_last_token_is_left_to_compute(engines):
    tokens = list(range(64))
    engines().prefill(request("a", tokens), range(4))
    assert engines().prefill(request("b", tokens), range(4))[0] == 32
    assert engines().prefill(request("c", [*tokens, 9]), range(5))[0] == 64


def test_chunked_prefill_and_decoding_save_as_they_go(engines):
    engine, other = engines(), engines()
    req, ids = request("a", range(100)), list(range(20))
    engine.admit(req, ids[:4])
    engine.worker.step(engine.scheduler.build_connector_meta(output(new=[(req, ids[:4], 0, 50)])), [(req.all_token_ids[:50], 0, ids)])
    assert other.scheduler.get_num_new_matched_tokens(request("x", range(100)), 0) == (32, False)
    meta = engine.scheduler.build_connector_meta(output(cached=[(req, ids[4:7], 50, 50)]))
    engine.worker.step(meta, [(req.all_token_ids, 50, ids)])
    assert other.scheduler.get_num_new_matched_tokens(request("x", range(100)), 0) == (96, False)
    for step in range(30):  # one token each, and three of a draft that are not known yet
        req.all_token_ids.append(900 + step)
        meta = engine.scheduler.build_connector_meta(output(cached=[(req, ids[7:9] if step == 0 else None, 100 + step, 4)]))
        engine.worker.step(meta, [(req.all_token_ids, 100 + step, ids)])
    assert other.scheduler.get_num_new_matched_tokens(request("y", [*req.all_token_ids, 1]), 0) == (128, False)
    again = request("y", [*req.all_token_ids, 1])
    assert other.prefill(again, ids) == (128, set()) and other.worker.holds(again.all_token_ids, 128, ids)


def test_a_request_that_was_preempted_goes_on_in_other_pages(engines):
    engine, other = engines(), engines()
    tokens = list(range(100))
    req = request("a", tokens)
    engine.admit(req, range(2))
    engine.worker.step(engine.scheduler.build_connector_meta(output(new=[(req, [0, 1], 0, 32)])), [(tokens[:32], 0, [0, 1])])
    ids = [20, 21, 22, 23, 24, 25, 26]
    assert engine.admit(req, ids) == 32
    meta = engine.scheduler.build_connector_meta(output(cached=[(req, ids, 32, 68)]))
    assert engine.worker.step(meta, [(tokens, 32, ids)]) == set() and engine.worker.holds(tokens, 100, ids)
    again = request("b", tokens)
    assert other.prefill(again, range(7)) == (96, set()) and other.worker.holds(tokens, 100, list(range(7)))


def test_requests_that_tokens_do_not_decide_are_left_alone(engines):
    tokens = list(range(64))
    engine = engines()
    for fields in ({"mm_features": [1]}, {"lora_request": 1}, {"cache_salt": "x"}, {"prompt_embeds": np.zeros(1)}):
        assert engine.prefill(request("a", tokens, **fields), range(4)) == (0, set())
        assert engines().prefill(request("b", tokens, **fields), range(4)) == (0, set())
    assert engine.scheduler.get_num_new_matched_tokens(request("c", tokens), 0) == (0, False)  # and nothing was saved


def test_a_load_that_fails_is_reported_and_poisons_nothing(engines):
    tokens = list(range(200))
    engines().prefill(request("a", tokens[:64]), range(4))
    engine = engines()
    req, ids = request("b", tokens), list(range(13))
    assert engine.admit(req, ids) == 64
    meta = engine.scheduler.build_connector_meta(output(new=[(req, ids, 64, 136)]))
    meta.loads[0].tokens[40] = 7  # as if the second block had been evicted in between
    assert engine.worker.step(meta, [(tokens, 64, ids)]) == {0, 1, 2, 3}
    assert engine.worker.connector.get_block_ids_with_load_errors() == set()
    assert engine.scheduler.get_num_new_matched_tokens(request("c", tokens), 0) == (64, False)  # nothing new was saved
    assert engine.prefill(request("d", tokens[:100]), range(7)) == (64, set())  # a good load clears the pages
    assert engine.scheduler.get_num_new_matched_tokens(request("e", tokens), 0) == (96, False)


def test_a_daemon_that_goes_away_costs_hits_alone(engines, daemon, caplog):
    engine = engines()
    engine.prefill(request("a", range(64)), range(4))
    daemon.kill()
    assert engine.prefill(request("b", range(64)), range(4)) == (0, set())
    assert "look-up of request b" in caplog.text and "save of 64 tokens" in caplog.text
    daemon.start()
    assert engine.prefill(request("c", range(65)), range(5)) == (0, set())
    assert engine.prefill(request("d", range(65)), range(5)) == (64, set())


@pytest.mark.parametrize(
    "changes, error, says",
    [
        ({"world_size": 2}, kvant.UnsupportedError, "world_size 2"),
        ({"cache_dtype": "fp8"}, kvant.UnsupportedError, "cache_dtype 'fp8'"),
        ({"model": "org/name"}, kvant.InvalidArgumentError, "'org/name'"),
        ({"extra": {"uri": "embedded:"}}, kvant.InvalidArgumentError, "two processes"),
    ],
)
def test_what_is_not_known_is_refused_by_name(byte6m, changes, error, says):
    with pytest.raises(error, match=says):
        KvantConnector(config(byte6m, "/nowhere", **changes), KVConnectorRole.SCHEDULER, groups())


def test_layers_of_several_kinds_are_refused(byte6m):
    with pytest.raises(kvant.UnsupportedError, match="2 kv_cache_groups"):
        KvantConnector(config(byte6m, "/nowhere"), KVConnectorRole.WORKER, groups(2))


@pytest.mark.parametrize(
    "shape, layers, says",
    [((PAGES, HEADS, PAGE, DIM), LAYERS, "has pages"), ((PAGES, HEADS, PAGE, 2 * DIM), 5, "5 layers have caches")],
)
def test_pages_that_are_not_as_the_model_says_are_refused(byte6m, shape, layers, says):
    connector = KvantConnector(config(byte6m, "/nowhere"), KVConnectorRole.WORKER, groups())
    with pytest.raises(kvant.UnsupportedError, match=says):
        connector.register_kv_caches({f"model.layers.{layer}.attn": np.zeros(shape, np.float32) for layer in range(layers)})


def test_packed_pages_are_refused(byte6m, monkeypatch):
    connector = KvantConnector(config(byte6m, "/nowhere"), KVConnectorRole.WORKER, groups())
    monkeypatch.setattr("kvant.vllm._get_attn_isa", lambda *_: "amx")
    with pytest.raises(kvant.UnsupportedError, match="amx"):
        connector.register_kv_caches({f"model.layers.{layer}.attn": np.zeros((PAGES, HEADS, PAGE, 2 * DIM), np.float32) for layer in range(LAYERS)})


def test_the_connector_overrides_its_base_as_declared():
    ours = engine_sources.class_in(HERE.parents[1] / "client/python/kvant/vllm.py", "KvantConnector")
    engine_sources.check_overrides(ours, engine_sources.class_in(vllm_standin.__file__, "KVConnectorBase_V1"))


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_pages_of_torch(name):
    torch = pytest.importorskip("torch")
    spec = kvant.StoreSpec(name="pages", model=name, tokenizer="none", layers=2, kv_heads=HEADS, head_dim=DIM, keys="f32", values="f32", block_tokens=32)
    prefixes = Prefixes(spec, Settings())
    caches = {name_of(layer): torch.randn(20, HEADS, PAGE, 2 * DIM).to(getattr(torch, name)) for layer in range(2)}
    saved = Transfer(list(range(64)), 0, [3, 9, 1, 7])
    prefixes.save(saved.tokens, Pages(caches, spec, PAGE).reader(saved))
    other = {layer: torch.zeros_like(cache) for layer, cache in caches.items()}
    with prefixes.find(saved.tokens) as sequence:
        Pages(other, spec, PAGE).fill(Transfer(saved.tokens, 16, [0, 2, 4, 6]), sequence)
    assert all(torch.equal(other[layer][[2, 4, 6]], caches[layer][[9, 1, 7]]) and not other[layer][0].any() for layer in caches)


SOURCES = os.environ.get("KVANT_VLLM_SOURCES")


@pytest.mark.skipif(not SOURCES, reason="KVANT_VLLM_SOURCES names no unpacked wheel of vLLM")
def test_the_sources_of_vllm_are_as_the_stand_ins_say():
    root = pathlib.Path(SOURCES) / "vllm"
    base = engine_sources.class_in(root / "distributed/kv_transfer/kv_connector/v1/base.py", "KVConnectorBase_V1")
    stand_in = engine_sources.class_in(vllm_standin.__file__, "KVConnectorBase_V1")
    assert engine_sources.abstract_methods(stand_in) == engine_sources.abstract_methods(base)
    ours = engine_sources.class_in(HERE.parents[1] / "client/python/kvant/vllm.py", "KvantConnector")
    for tree in (ours, stand_in):
        engine_sources.check_overrides(tree, base)
    assert set(engine_sources.methods_of(stand_in)) <= set(engine_sources.methods_of(base))
    for path, name, used in (
        ("v1/core/sched/output.py", "NewRequestData", {"req_id", "block_ids", "num_computed_tokens"}),
        ("v1/core/sched/output.py", "CachedRequestData", {"req_ids", "new_block_ids", "num_computed_tokens"}),
        ("v1/core/sched/output.py", "SchedulerOutput", {"scheduled_new_reqs", "scheduled_cached_reqs", "num_scheduled_tokens"}),
        ("v1/kv_cache_interface.py", "KVCacheConfig", {"kv_cache_groups"}),
        ("v1/core/kv_cache_manager.py", "KVCacheBlocks", {"get_block_ids"}),
        (
            "v1/request.py",
            "Request",
            {"request_id", "prompt_token_ids", "all_token_ids", "mm_features", "lora_request", "prompt_embeds", "cache_salt"},
        ),
        ("config/kv_transfer.py", "KVTransferConfig", {"kv_connector_extra_config"}),
        ("config/parallel.py", "ParallelConfig", {"world_size"}),
        ("config/cache.py", "CacheConfig", {"block_size", "cache_dtype"}),
        ("config/model.py", "ModelConfig", {"model", "dtype"}),
    ):
        assert used <= engine_sources.attributes_of(engine_sources.class_in(root / path, name)), name
    functions = engine_sources.methods_of(ast.parse((root / "v1/attention/backends/cpu_attn.py").read_text(encoding="utf-8")))
    mine = engine_sources.methods_of(ast.parse(pathlib.Path(vllm_standin.__file__).read_text(encoding="utf-8")))
    assert engine_sources.arguments(functions["_get_attn_isa"]) == engine_sources.arguments(mine["_get_attn_isa"])
