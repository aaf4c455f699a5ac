// kvant._core.PromptCache.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <kvant/client.h>
#include <kvant/prompt_cache.h>

#include "client/python/core/handles.h"

namespace kvant::python {

using namespace nb::literals;

void AddPromptCache(nb::module_& module) {
  nb::class_<PromptCache>(
      module, "PromptCache",
      "A folder of saved prompts: the next day's process finds yesterday's prefixes. Any thread may use it, "
      "one at a time.")
      .def(
          "__init__",
          [](PromptCache* self, nb::handle folder, std::uint64_t budget) {
            const auto path = nb::cast<std::string>(nb::module_::import_("os").attr("fspath")(folder));
            new (self) PromptCache(Take(Unlocked([&] { return PromptCache::Open(path, budget); })));
          },
          "folder"_a, "budget"_a,
          "Makes the folder if it is not there. Its files take `budget` bytes at most: the one used longest ago makes room.")
      .def(
          "load",
          [](PromptCache& self, PyStore& of, nb::handle tokens) {
            Store& store = of.Open("load");
            const std::vector<TokenId> ids = Tokens(tokens);
            return Take(Unlocked([&] { return self.Load(store, ids); })).tokens;
          },
          "store"_a, "tokens"_a,
          "Before Store.open: brings the longest prefix of `tokens` that a file has into the store, and returns its length, 0 "
          "for none. After an error (StoreFullError for a daemon's budget that is too small) the store is as it was, and the "
          "prompt can be computed.")
      .def(
          "save",
          [](PromptCache& self, PyStore& of, PySequence& holds, nb::handle tokens) {
            Store& store = of.Open("save");
            const SequenceId sequence = holds.Open("save").id();
            const std::vector<TokenId> ids = Tokens(tokens);
            return Take(Unlocked([&] { return self.Save(store, sequence, ids); })).bytes;
          },
          "store"_a, "sequence"_a, "tokens"_a,
          "Saves the sealed blocks of a sequence of that store, which holds `tokens`. Returns the size of the file, 0 if one "
          "had them already or there is no whole block. OutOfRangeError for more than the budget.");
}

}  // namespace kvant::python
