"""A vLLM connector: prefixes that any process has computed are loaded into vLLM's paged cache, and what vLLM computes is saved.

    vllm serve MODEL_FOLDER --kv-transfer-config '{"kv_connector": "KvantConnector", "kv_connector_module_path": "kvant.vllm",
        "kv_role": "kv_both", "kv_load_failure_policy": "recompute", "kv_connector_extra_config": {"uri": "unix:/run/kvant/kvantd.sock"}}'

kv_connector_extra_config takes the fields of kvant.prefixes.Settings. Attention stays vLLM's, over its own pages: a found prefix spares its
computing, no memory. Prefixes are found by the tokens themselves; requests whose keys depend on more than tokens (images, LoRA, embeddings,
a cache_salt of their own) are left alone.

Written against the sources of vLLM 0.32 for its CPU backend, and tested with a scheduler made by hand: no build of it could be installed
where this was written, so it has not run in an engine. Errors of kvant are logged and cost a hit, never a request, where
kv_load_failure_policy is "recompute".
"""

import dataclasses
import logging
import pathlib

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, KVConnectorRole
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

import kvant
from kvant.hf_config import store_spec
from kvant.prefixes import Prefixes, Settings
from kvant.vllm_pages import Pages

_log = logging.getLogger("kvant.vllm")


@dataclasses.dataclass
class Transfer:
    """Rows of tokens[first:] that move between kvant and the pages in block_ids, which hold the request from its first token on."""

    tokens: list
    first: int
    block_ids: list


@dataclasses.dataclass
class KvantMetadata(KVConnectorMetadata):
    """What the scheduler tells the worker to do around one forward pass."""

    loads: list = dataclasses.field(default_factory=list)
    saves: list = dataclasses.field(default_factory=list)


class _Request:
    """A request that is being served, as the scheduler's side follows it; a new one each time vLLM gives it pages from the first on."""

    def __init__(self, request):
        self.request = request
        self.block_ids = []
        self.saved = 0


def _only_tokens(request):
    """Whether a request's keys and values follow from its token ids."""
    return request.prompt_token_ids is not None and not (
        request.mm_features or request.lora_request or request.prompt_embeds is not None or request.cache_salt
    )


class KvantConnector(KVConnectorBase_V1):
    """Scheduler's and worker's side; vLLM makes one object for each. One worker: no tensor or pipeline parallelism yet."""

    def __init__(self, vllm_config, role, kv_cache_config):
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        if len(kv_cache_config.kv_cache_groups) != 1:
            raise kvant.UnsupportedError(f"vLLM: {len(kv_cache_config.kv_cache_groups)} kv_cache_groups: layers of one kind are known")
        settings = Settings(**vllm_config.kv_transfer_config.kv_connector_extra_config)
        self._prefixes = Prefixes(_spec(vllm_config, settings), settings)
        self._page_tokens = vllm_config.cache_config.block_size
        # of the scheduler
        self._requests = {}
        self._matches = {}  # computed tokens at the last look-up, by request
        self._loads = []
        # of the worker
        self._pages = None
        self._failed = set()  # pages whose load failed and that no load has filled since
        self._reported = set()

    @property
    def requires_kv_delivery(self):
        """A cache: a save that is dropped is a miss later."""
        return False

    # The scheduler's side.

    def get_num_new_matched_tokens(self, request, num_computed_tokens):
        self._matches[request.request_id] = num_computed_tokens
        if not _only_tokens(request):
            return 0, False
        try:
            found = self._prefixes.count(list(request.all_token_ids)[:-1])  # the last token is computed for its logits
        except kvant.Error as error:
            _log.error("look-up of request %s: %s", request.request_id, error)
            return 0, False
        return max(0, found // self._page_tokens * self._page_tokens - num_computed_tokens), False

    def update_state_after_alloc(self, request, blocks, num_external_tokens):
        first = self._matches.pop(request.request_id, 0)
        if not _only_tokens(request):
            return
        entry = self._requests[request.request_id] = _Request(request)
        if num_external_tokens:
            entry.saved = first + num_external_tokens
            self._loads.append(Transfer(list(request.all_token_ids)[: entry.saved], first, list(blocks.get_block_ids()[0])))

    def build_connector_meta(self, scheduler_output):
        meta = KvantMetadata(loads=self._loads)
        self._loads = []
        for new in scheduler_output.scheduled_new_reqs:
            self._follow(meta, scheduler_output, new.req_id, new.num_computed_tokens, new.block_ids)
        cached = scheduler_output.scheduled_cached_reqs
        for at, name in enumerate(cached.req_ids):
            self._follow(meta, scheduler_output, name, cached.num_computed_tokens[at], cached.new_block_ids[at])
        return meta

    def _follow(self, meta, scheduler_output, name, computed, block_ids):
        entry = self._requests.get(name)
        if entry is None:
            return
        if block_ids is not None:
            entry.block_ids += block_ids[0]
        # Tokens that are scheduled but not known are a draft's, and may be taken back.
        known = entry.request.all_token_ids
        whole = self._prefixes.whole(min(computed + scheduler_output.num_scheduled_tokens[name], len(known)))
        if whole > entry.saved:
            entry.saved = whole
            meta.saves.append(Transfer(list(known)[:whole], 0, list(entry.block_ids)))

    def request_finished(self, request, block_ids):
        self._requests.pop(request.request_id, None)
        self._matches.pop(request.request_id, None)
        return False, None

    # The worker's side. Everything happens between steps of the engine, so nothing is left to wait for in a layer.

    def register_kv_caches(self, kv_caches):
        spec = self._prefixes.spec
        self._pages = Pages(kv_caches, spec, self._page_tokens)
        dtype = next(iter(kv_caches.values())).dtype
        isa = _get_attn_isa(dtype, self._page_tokens, spec.head_dim)
        if isa not in ("vec", "vec16"):
            raise kvant.UnsupportedError(f"vLLM: pages of its {isa} attention are packed in a way that is not known; use --dtype float16 or float32")

    def start_load_kv(self, forward_context, **kwargs):
        for load in self._get_connector_metadata().loads:
            pages = set(self._pages.of(load))
            try:
                with self._prefixes.find(load.tokens) as sequence:
                    self._pages.fill(load, sequence)
            except kvant.Error as error:
                _log.error("load of %d tokens: %s", len(load.tokens) - load.first, error)
                self._failed |= pages
                self._reported |= pages
            else:
                self._failed -= pages

    def wait_for_layer_load(self, layer_name):
        return

    def save_kv_layer(self, layer_name, kv_layer, attn_metadata, **kwargs):
        return

    def wait_for_save(self):
        for save in self._get_connector_metadata().saves:
            if not self._failed.isdisjoint(save.block_ids):
                continue  # rows that were computed from a page whose load failed are nobody's
            try:
                self._prefixes.save(save.tokens, self._pages.reader(save))
            except kvant.Error as error:
                _log.error("save of %d tokens: %s", len(save.tokens), error)

    def get_block_ids_with_load_errors(self):
        reported, self._reported = self._reported, set()
        return reported


def _spec(vllm_config, settings):
    model = vllm_config.model_config
    if settings.uri.startswith("embedded:"):
        raise kvant.InvalidArgumentError("vLLM: uri: scheduler and worker are two processes; name the socket of a kvantd")
    if vllm_config.parallel_config.world_size != 1:
        raise kvant.UnsupportedError(f"vLLM: parallel_config.world_size {vllm_config.parallel_config.world_size}: one worker is known")
    dtype = str(model.dtype).removeprefix("torch.")
    held = vllm_config.cache_config.cache_dtype
    if held not in ("auto", dtype):
        raise kvant.UnsupportedError(f"vLLM: cache_config.cache_dtype {held!r}: pages of the model's own type are known")
    if not pathlib.Path(model.model).is_dir():
        raise kvant.InvalidArgumentError(f"vLLM: model {model.model!r}: give the checkpoint's folder, whose files identify the model")
    return store_spec(model.model, dtype={"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[dtype], **settings.plan())
