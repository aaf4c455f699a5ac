// What makes KV reusable, as text: one field per line. Hashed into the identity digest and compared field by field.
#pragma once

#include <string>
#include <vector>

#include <kvant/result.h>
#include <kvant/store_spec.h>

#include "protocol/segment_layout.h"
#include "quantizers/plan.h"

namespace kvant::daemon {

struct IdentityField {
  std::string name;  ///< as in StoreSpec, for example "kv_heads"
  std::string value;
};

/// Every field of the spec the plan was made from, codecs in canonical form per layer, the artifact's digest, the layout
/// version.
std::vector<IdentityField> IdentityFields(const quantizers::Plan& plan);

/// "name length:value" lines: no value can imitate a field.
std::string CanonicalIdentity(const std::vector<IdentityField>& fields);

protocol::Digest IdentityDigest(const std::vector<IdentityField>& fields);

/// kIdentityMismatch naming the store, the first field that differs, and both values.
Result<void> CompareIdentity(const std::string& store, const std::vector<IdentityField>& existing,
                             const std::vector<IdentityField>& asked);

}  // namespace kvant::daemon
