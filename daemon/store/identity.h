// What makes KV reusable, as text: one field per line. Hashed into the identity digest and compared field by field.
#pragma once

#include <string>
#include <vector>

#include <kvant/store_spec.h>

#include "protocol/segment_layout.h"
#include "quantizers/plan.h"

namespace kvant::daemon {

struct IdentityField {
  std::string name;  ///< as in StoreSpec, for example "kv_heads"
  std::string value;
};

/// Every field of the spec the plan was made from but its name, which only labels the store; codecs in canonical form per
/// layer, the artifact's digest, the layout version.
std::vector<IdentityField> IdentityFields(const quantizers::Plan& plan);

/// Names what an open asks for as it is spelled: a digest of every field of the spec but its name, codecs as they stand there.
/// Specs of one spelling are of one identity, so a store that was opened by a spelling is found by it without its plan; not the
/// other way round.
protocol::Digest SpellingDigest(const StoreSpec& spec);

/// "name length:value" lines: no value can imitate a field.
std::string CanonicalIdentity(const std::vector<IdentityField>& fields);

protocol::Digest IdentityDigest(const std::vector<IdentityField>& fields);

/// The fields that differ, for people: "model: the store has 'a', asked for 'b'; ...", the first few. Long values are cut,
/// control characters escaped, salts never shown. Empty if nothing differs. For the daemon's log and its administrators alone.
/// Whoever only guesses identities must not be told: the text has the model's digest, the tokenizer and the adapter, and says
/// whether a guessed salt is right.
std::string IdentityDifference(const std::vector<IdentityField>& existing, const std::vector<IdentityField>& asked);

}  // namespace kvant::daemon
