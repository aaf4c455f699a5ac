// The pretended engine behind step_latency: feeds sequences, and attends over what a local sequence sees without the client
// library, on items prepared once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <kvant/client.h>

#include "quantizers/attention/attention.h"
#include "quantizers/attention/worker_team.h"
#include "quantizers/plan.h"
#include "quantizers/sequence/ring.h"
#include "tools/bench/step_latency.h"

namespace kvant::tools {

inline constexpr std::uint32_t kRecentTokens = 64;
inline constexpr std::uint32_t kMaxStepTokens = 128;

/// A spec that no other store has: `salt` is part of the identity.
StoreSpec SpecOf(const StepShape& shape, std::uint64_t salt);

SequenceOptions OptionsOf(Placement placement);

/// A step's query and output in the arena.
struct StepTensors {
  static Result<StepTensors> Make(Client& client, const StepShape& shape);
  [[nodiscard]] AttendArgs args() const;
  /// Reads the output and writes the query anew.
  void Turn();
  Tensor q;
  Tensor out;
};

/// Writes one token's rows: the same for the same token, layer and side.
void WriteRows(const NewRows& rows, std::size_t layer, std::uint64_t first_token);

/// Feeds `sequence` up to `tokens.size()` tokens, without attention.
Result<void> Feed(Sequence& sequence, const StepShape& shape, std::span<const TokenId> tokens);

/// Layer 0 of a local sequence with one reserved row, as items over the very memory that the client library reads.
class PreparedAttention {
 public:
  /// `reserved` are the rows behind `length`.
  static Result<std::unique_ptr<PreparedAttention>> Make(const StoreSpec& spec, const std::string& identity,
                                                         std::uint64_t length, const NewRows& reserved,
                                                         const StepTensors& tensors);
  ~PreparedAttention();
  PreparedAttention(const PreparedAttention&) = delete;
  PreparedAttention& operator=(const PreparedAttention&) = delete;
  void Run() { attention_.Run({&item_, 1}); }

 private:
  PreparedAttention() : team_(0), attention_(team_) {}
  Result<void> FindSlots(const std::string& identity, std::size_t switched);

  std::unique_ptr<const quantizers::Plan> plan_;
  std::vector<const std::byte*> blocks_;
  const std::byte* sinks_ = nullptr;
  std::vector<quantizers::RawRows> raw_;
  quantizers::WorkerTeam team_;
  quantizers::Attention attention_;
  quantizers::AttendItem item_;
};

}  // namespace kvant::tools
