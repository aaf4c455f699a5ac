// kvant._core: the client library for Python. kvant/__init__.py is what users import.
#include "client/python/core/errors.h"
#include "client/python/core/handles.h"
#include "client/python/core/spec.h"

namespace kvant::python {

using namespace nb::literals;

NB_MODULE(_core, module) {
  // Caches live in module globals of their engines, and those are not always taken down before the interpreter ends.
  nb::set_leak_warnings(false);
  AddErrors(module);
  AddSequence(module);
  AddStore(module);
  AddClient(module);
  AddPromptCache(module);
  module.def(
      "rope_frequencies",
      [](nb::handle rope, std::uint32_t head_dim) {
        const RopeFrequencies frequencies = Take(ComputeRopeFrequencies(ReadRope(rope), head_dim));
        nb::list list;
        for (const double radians : frequencies.radians_per_token) list.append(radians);
        return nb::make_tuple(list, frequencies.attention_factor);
      },
      "rope"_a, "head_dim"_a, "(radians per token of each pair, attention factor) of a kvant.Rope.");
}

}  // namespace kvant::python
