// What the client library adds to attention: the time of decoding steps in both placements, less that of the same attention
// run on prepared items; what sealing adds to the slowest steps; and what this machine's sockets take, as the reference.
// Structs in, structs out: the caller prints.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <kvant/client.h>

namespace kvant::tools {

struct Spread {
  double median_us = 0;
  double p99_us = 0;
};

/// Of samples in nanoseconds; reorders them.
Spread SpreadOf(std::vector<double>& nanoseconds);

/// A model's attention and the store it uses.
struct StepShape {
  std::uint32_t layers = 1;
  std::uint32_t kv_heads = 8;
  std::uint32_t q_heads = 32;
  std::uint32_t head_dim = 128;
  std::uint32_t block_tokens = 128;
  std::string keys = "turboquant_mse:bits=4";
  std::string values = "turboquant_mse:bits=4";
};

struct StepOptions {
  std::string socket;                 ///< PATH of the daemon's socket, in this process or another
  std::chrono::microseconds spin{0};  ///< of the client; the daemon has its own
  StepShape shape;
  std::size_t context_tokens = 300;
  std::size_t steps = 3000;  ///< that are measured
};

/// A step is one layer's call for one token: Reserve and Attend. (The row itself is written in place by the engine's kernel,
/// outside both times.) `overhead` is of the differences step by step, not the difference of medians.
struct StepTimes {
  Spread step;
  Spread compute;  ///< quantizers::Attention::Run over prepared items, on the same memory, in the same thread
  Spread overhead;
  double calls_per_step = 0;         ///< to the daemon
  double bytes_copied_per_step = 0;  ///< of tensors
  double page_faults_per_step = 0;   ///< of this process and of the daemon's
};

struct StepLatency {
  StepTimes service;  ///< attention in the daemon
  StepTimes local;    ///< attention in this thread
  Spread ping;        ///< a call that does nothing
};

/// Checks first that the daemon's attention, local attention and the prepared items give the same bits (kInternal if not).
Result<StepLatency> MeasureSteps(const StepOptions& options);

struct SealOptions {
  std::string socket;
  std::chrono::microseconds spin{0};
  Placement placement = Placement::kService;
  StepShape shape{.layers = 8};
  std::size_t context_tokens = 300;  ///< before the first step that is measured
  std::size_t blocks = 8;            ///< that fall due while steps are measured, per round
  std::size_t rounds = 3;
};

/// A step here is a whole token: Reserve, Attend in every layer, Advance. Both kinds run over the same tokens; in the second
/// the blocks are in the store already, so that nothing has to be encoded.
struct SealLatency {
  Spread sealing;
  Spread without;
  double p99_ratio = 0;
  std::uint64_t sealed_blocks = 0;
};
Result<SealLatency> MeasureSealing(const SealOptions& options);

/// 64 bytes there and back over a unix stream socket between two threads.
struct SocketLatency {
  Spread blocking;
  Spread spinning;
};
Result<SocketLatency> MeasureSocket(std::size_t round_trips);

}  // namespace kvant::tools
