// kvant._core.Store.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <kvant/client.h>

#include "client/python/core/handles.h"

namespace kvant::python {

using namespace nb::literals;

namespace {

SequenceOptions Options(const std::string& placement, std::uint32_t recent_tokens, std::uint32_t max_step_tokens,
                        const std::string& tail, const std::string& label, std::uint32_t unnamed_tokens) {
  SequenceOptions options;
  if (placement == "local") {
    options.placement = Placement::kLocal;
  } else if (placement != "service") {
    Refuse("placement \"" + placement + "\" is unknown: local or service");
  }
  options.recent_tokens = recent_tokens;
  options.max_step_tokens = max_step_tokens;
  options.tail_type = ParseElementType(tail);
  options.label = label;
  options.unnamed_tokens = unnamed_tokens;
  return options;
}

}  // namespace

void AddStore(nb::module_& module) {
  nb::class_<PyStore>(module, "Store", "An open store: the keys and values of one identity.")
      .def_prop_ro(
          "info",
          [](PyStore& self) {
            const StoreInfo& info = self.Open("info").info();
            nb::dict dict;
            dict["name"] = info.name;
            dict["identity"] = info.identity;
            dict["created"] = info.created;
            dict["relabelled"] = info.relabelled;
            dict["block_bytes"] = info.block_bytes;
            dict["logical_block_bytes"] = info.logical_block_bytes;
            dict["key_bits_per_element"] = info.key_bits_per_element;
            dict["value_bits_per_element"] = info.value_bits_per_element;
            dict["warning"] = info.warning;
            return dict;
          },
          "Names, digest and sizes, side information included; `warning` is what the daemon has found wrong with the store so "
          "far.")
      .def(
          "open",
          [](PyStore& self, nb::handle tokens, const std::string& placement, std::uint32_t recent_tokens,
             std::uint32_t max_step_tokens, const std::string& tail, const std::string& label, std::uint32_t unnamed_tokens,
             bool want_state, std::uint8_t priority, const std::string& policy) {
            Store& store = self.Open("open");
            const std::vector<TokenId> ids = Tokens(tokens);
            SequenceOptions options = Options(placement, recent_tokens, max_step_tokens, tail, label, unnamed_tokens);
            options.want_state = want_state;
            options.priority = priority;
            options.policy = policy;
            return PySequence{Take(Unlocked([&] { return store.Open(ids, options); })), {}};
          },
          "tokens"_a = nb::make_tuple(), nb::kw_only(), "placement"_a = "local", "recent_tokens"_a = 64,
          "max_step_tokens"_a = 512, "tail"_a = "f16", "label"_a = "", "unnamed_tokens"_a = 0, "want_state"_a = false,
          "priority"_a = 0, "policy"_a = "",
          "A sequence that already holds the longest sealed prefix of `tokens`. To get the logits of the last prompt token an "
          "engine "
          "passes all tokens but the last. want_state: the longest such prefix at whose end a state stands (put_state). "
          "priority: how much longer than others' the blocks stay that this sequence finds and seals, once nobody uses them "
          "and "
          "room is needed, 0 to 3. policy: which tokens are attended: 'window:tokens=4096,sinks=4', "
          "'snapkv:budget=2048,window=32' or 'h2o:budget=2048,recent=1024', all of them by default.")
      .def(
          "fork",
          [](PyStore& self, SequenceId source, std::optional<std::uint64_t> length, const std::string& placement,
             std::uint32_t recent_tokens, std::uint32_t max_step_tokens, const std::string& tail, const std::string& label,
             std::uint32_t unnamed_tokens, std::uint8_t priority, const std::string& policy) {
            Store& store = self.Open("fork");
            SequenceOptions options = Options(placement, recent_tokens, max_step_tokens, tail, label, unnamed_tokens);
            options.priority = priority;
            options.policy = policy;
            return PySequence{Take(Unlocked([&] { return store.Fork(source, length, options); })), {}};
          },
          "source"_a, "length"_a = nb::none(), nb::kw_only(), "placement"_a = "local", "recent_tokens"_a = 64,
          "max_step_tokens"_a = 512, "tail"_a = "f16", "label"_a = "", "unnamed_tokens"_a = 0, "priority"_a = 0,
          "policy"_a = "", "A copy-on-write copy of a live sequence of any process that has this store open.")
      .def("close", [](PyStore& self) { Unlocked([&] { self.store.reset(); }); });
}

}  // namespace kvant::python
