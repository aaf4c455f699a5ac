"""mlx_lm.server with kvant caches: prompts that any process has computed are found, after a restart of the server, too.

    python -m kvant.mlx_lm.server --kvant-uri unix:/run/kvant/kvantd.sock --model PATH --port 8080

All other options are mlx_lm.server's own.
"""

import argparse
import json
import sys

import mlx_lm.server
from mlx_lm.models.cache import LRUPromptCache

import kvant
import kvant.mlx_lm
from kvant.mlx_lm.identity import adapter_identity

_DEFAULT_ARENA = 2 << 30  # raw rows of the sequences that the server holds: some tens of a model of 7e9 weights


class Models(mlx_lm.server.ModelProvider):
    """Patches each model that the server loads. `settings`: fields of kvant.KVCacheConfig."""

    settings = {}
    by_key = {}

    def _load(self, model_path, adapter_path=None, draft_model_path=None):
        super()._load(model_path, adapter_path, draft_model_path)
        config = kvant.KVCacheConfig(
            **self.settings,
            model_path=model_path,
            adapter=adapter_identity(adapter_path) if adapter_path is not None else "",
        )
        kvant.mlx_lm.patch_mlx_lm(self.model, config)
        self.by_key.clear()
        if self.draft_model is None:  # a draft model reads the whole prompt, so nothing of it may be left out
            self.by_key[self.model_key] = self.model


class PromptCache(LRUPromptCache):
    """The server's own prompt cache, and behind it the store: what another process or an earlier server has computed."""

    def fetch_nearest_cache(self, model, tokens):
        try:
            caches, rest = super().fetch_nearest_cache(model, tokens)
        except (kvant.DaemonGoneError, kvant.StaleDaemonError):
            self.trim_to(n_sequences=0)  # what was held is gone with its daemon
            caches, rest = None, tokens
        if model not in Models.by_key or len(tokens) < 2:
            return caches, rest
        found = kvant.mlx_lm.make_prompt_cache(Models.by_key[model], tokens[:-1])
        if kvant.mlx_lm.cached_tokens(found) > len(tokens) - len(rest):
            return found, tokens[kvant.mlx_lm.cached_tokens(found) :]
        return caches, rest


def _parser():
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--kvant-uri", required=True, help="socket of a kvantd, unix:PATH")
    parser.add_argument("--kvant-config", type=json.loads, default={}, help='further fields of kvant.KVCacheConfig as JSON, e.g. \'{"keys": "int8"}\'')
    parser.add_argument("--kvant-arena-bytes", type=int, default=_DEFAULT_ARENA, help="address space of raw rows (default: 2 GiB)")
    return parser


def main():
    parser = _parser()
    if {"-h", "--help"} & set(sys.argv[1:]):
        parser.print_help()
        print()
    own, rest = parser.parse_known_args()
    Models.settings = {"uri": own.kvant_uri, "client_options": {"arena_bytes": own.kvant_arena_bytes}, **own.kvant_config}
    sys.argv = [sys.argv[0], *rest]
    mlx_lm.server.ModelProvider, mlx_lm.server.LRUPromptCache = Models, PromptCache
    mlx_lm.server.main()


if __name__ == "__main__":
    main()
