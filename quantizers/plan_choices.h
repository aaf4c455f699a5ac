// Which codecs serve which KV heads of each layer, as a store's spec says it: before any codec is made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/result.h>
#include <kvant/store_spec.h>

#include "quantizers/codec.h"
#include "quantizers/registry.h"

namespace kvant::quantizers {

/// The specs that a plan names, each parsed once however often it stands there.
class Specs {
 public:
  Specs(const Registry& registry, const StoreSpec& store, Side side) : registry_(registry), store_(store), side_(side) {}

  /// The number of a spec. Errors begin with `where`.
  Result<std::size_t> Number(const std::string& text, const std::string& where);

  [[nodiscard]] const ParsedSpec& parsed(std::size_t number) const { return parsed_[number]; }
  [[nodiscard]] const std::string& canonical(std::size_t number) const { return canonical_[number]; }

 private:
  const Registry& registry_;
  const StoreSpec& store_;
  Side side_;
  std::map<std::string, std::size_t, std::less<>> numbers_;
  std::vector<ParsedSpec> parsed_;
  std::vector<std::string> canonical_;
};

/// KV heads [begin, end) of a layer and the numbers of their specs.
struct Choice {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  std::size_t keys = 0;
  std::size_t values = 0;

  [[nodiscard]] bool SameCodecs(const Choice& other) const noexcept { return keys == other.keys && values == other.values; }
};

/// The codecs of every layer: the default, overridden in order.
[[nodiscard]] Result<std::vector<std::vector<Choice>>> ChooseCodecs(const StoreSpec& spec, Specs& keys, Specs& values);

/// The plan's text (Plan::canonical) without the artifact.
[[nodiscard]] Result<std::string> PlanText(const std::vector<std::vector<Choice>>& layers, const Specs& keys,
                                           const Specs& values);

}  // namespace kvant::quantizers
