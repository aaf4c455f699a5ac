// A kvant.StoreSpec of Python (kvant/spec.py: plain dataclasses) as the client library's.
#pragma once

#include <nanobind/nanobind.h>

#include <kvant/store_spec.h>

namespace kvant::python {

/// Refuses fields of the wrong kind, naming them. What the numbers may be, the library and the daemon check.
[[nodiscard]] StoreSpec ReadSpec(nanobind::handle spec);

/// The positions of kvant.Rope.
[[nodiscard]] RopeSpec ReadRope(nanobind::handle rope);

}  // namespace kvant::python
