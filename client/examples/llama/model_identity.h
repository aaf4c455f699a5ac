// Which model this is, for StoreSpec: everything of a checkpoint that keys and values depend on, in two digests.
//
// Engines share stores only if they compute the same two texts. The recipe, for an engine in any language:
//   tokenizer = XXH3-128 of the bytes of tokenizer.json
//   config    = XXH3-128 of the canonical form (RFC 8785) of config.json without the top-level fields below
//   model     = XXH3-128 of the lines "kvant model 1", "config <config>" and, for each file of weights in order of its name,
//               "<name> <XXH3-128 of its bytes>", each line ended by "\n"
// Digests are 32 lower-case hex digits of the hash's canonical (big-endian) form.
//
// Left out of the configuration are fields that no key or value can depend on and that tools rewrite: _name_or_path,
// transformers_version, dtype and torch_dtype (what is computed in is StoreSpec::dtype, what is stored is in the weights),
// use_cache, and bos_token_id, eos_token_id, pad_token_id (where generation begins and ends). A field that is left in for
// nothing costs a cache miss; one that is left out wrongly costs wrong answers, so the list is short.
#pragma once

#include <span>
#include <string>

#include <kvant/result.h>
#include <nlohmann/json_fwd.hpp>

namespace kvant::examples {

struct WeightsFile {
  std::string name;    ///< without folders, for example "model.safetensors"
  std::string digest;  ///< XXH3-128 of its bytes in hex
};

/// The text for StoreSpec::model. `config` is a parsed config.json. kInvalidArgument if it holds a number that has no canonical
/// form.
Result<std::string> ModelIdentity(const nlohmann::json& config, std::span<const WeightsFile> weights);

}  // namespace kvant::examples
