#include "client/examples/llama/model_identity.h"

#include <algorithm>
#include <vector>

#include <nlohmann/json.hpp>

#include "client/examples/llama/canonical_json.h"
#include "client/examples/llama/files.h"

namespace kvant::examples {
namespace {

constexpr const char* kLeftOut[] = {"_name_or_path", "transformers_version", "dtype",        "torch_dtype",
                                    "use_cache",     "bos_token_id",         "eos_token_id", "pad_token_id"};

}  // namespace

Result<std::string> ModelIdentity(const nlohmann::json& config, std::span<const WeightsFile> weights) {
  nlohmann::json counted = config;
  for (const char* field : kLeftOut) counted.erase(field);
  const Result<std::string> canonical = CanonicalJson(counted);
  if (!canonical) return Error{canonical.error().code, "config.json: " + canonical.error().message};

  std::vector<WeightsFile> files(weights.begin(), weights.end());
  std::sort(files.begin(), files.end(), [](const WeightsFile& a, const WeightsFile& b) { return a.name < b.name; });
  std::string text = "kvant model 1\nconfig " + Digest(*canonical) + "\n";
  for (const WeightsFile& file : files) text += file.name + " " + file.digest + "\n";
  return Digest(text);
}

}  // namespace kvant::examples
