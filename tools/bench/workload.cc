#include "tools/bench/workload.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numbers>

namespace kvant::tools {

SharedMemory::SharedMemory(std::size_t bytes) : data_(nullptr), size_(bytes) {
  void* mapping = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) Abort("mmap of " + std::to_string(bytes >> 20) + " MiB: " + std::strerror(errno));
  data_ = static_cast<std::byte*>(mapping);
}

SharedMemory::~SharedMemory() { munmap(data_, size_); }

Result<std::unique_ptr<Workload>> Workload::Make(const quantizers::Registry& registry, const std::string& spec,
                                                 std::span<std::byte> memory) {
  StoreSpec store;
  store.name = store.model = store.tokenizer = "bench";
  store.layers = kLayers;
  store.kv_heads = kKvHeads;
  store.head_dim = kHeadDim;
  store.block_tokens = kBlockTokens;
  store.plan.keys = spec;
  store.plan.values = spec;
  auto plan = quantizers::Plan::Make(registry, store);
  if (!plan) return plan.error();
  std::unique_ptr<Workload> workload(new Workload);
  workload->spec_ = spec;
  workload->plan_ = std::move(*plan);
  workload->queries_ = NormalRows(kQueryHeads * kHeadDim, 1);
  if (auto encoded = workload->Encode(memory); !encoded) return encoded.error();
  return workload;
}

Result<void> Workload::Encode(std::span<std::byte> memory) {
  const std::size_t slot_bytes = plan_->payload_bytes();
  const std::size_t count = memory.size() / slot_bytes;
  if (count < kDistinctBlocks)
    return Error{ErrorCode::kInvalidArgument, "bench: memory for " + std::to_string(count) + " blocks only"};
  for (std::size_t slot = 0; slot < count; ++slot) slots_.push_back(memory.data() + slot * slot_bytes);
  for (std::size_t slot = 0; slot < kDistinctBlocks; ++slot) {
    std::byte* payload = memory.data() + slot * slot_bytes;
    for (std::size_t l = 0; l < kLayers; ++l) {
      const quantizers::LayerCodecs& layer = plan_->layer(l);
      for (std::size_t head = 0; head < kKvHeads; ++head) {
        const std::uint64_t seed = 2 + 2 * ((slot * kLayers + l) * kKvHeads + head);
        const std::vector<float> keys = NormalRows(kBlockTokens * kHeadDim, seed);
        const std::vector<float> values = NormalRows(kBlockTokens * kHeadDim, seed + 1);
        std::byte* at = payload + layer.offset + head * layer.head_stride;
        const auto view = [](const std::vector<float>& rows) {
          return RowsView{rows.data(), ElementType::kF32, kBlockTokens, kHeadDim, kHeadDim};
        };
        if (auto done = layer.keys->Encode(head, slot * kBlockTokens, view(keys), at); !done) return done;
        if (auto done = layer.values->Encode(head, slot * kBlockTokens, view(values), at + layer.values_offset); !done)
          return done;
      }
    }
  }
  for (std::size_t slot = kDistinctBlocks; slot < count; ++slot) {
    std::memcpy(memory.data() + slot * slot_bytes, memory.data() + slot % kDistinctBlocks * slot_bytes, slot_bytes);
  }
  return {};
}

std::size_t Workload::token_bytes() const noexcept {
  const quantizers::LayerCodecs& layer = plan_->layer(0);
  return kKvHeads * (layer.keys->block_bytes() + layer.values->block_bytes()) / kBlockTokens;
}

std::vector<double> Workload::Reference(std::size_t layer_index, std::size_t tokens, double scale) const {
  const quantizers::LayerCodecs& layer = plan_->layer(layer_index);
  std::vector<double> out(kQueryHeads * kHeadDim, 0.0);
  std::vector<double> sums(kQueryHeads, 0.0);
  std::vector<float> keys(kBlockTokens * kHeadDim);
  std::vector<float> values(kBlockTokens * kHeadDim);
  const std::size_t blocks = tokens / kBlockTokens;
  constexpr std::size_t kGroup = kQueryHeads / kKvHeads;
  for (std::size_t distinct = 0; distinct < std::min(kDistinctBlocks, blocks); ++distinct) {
    // How often this content occurs in the first `blocks` slots.
    const std::size_t repeats = (blocks - distinct + kDistinctBlocks - 1) / kDistinctBlocks;
    const auto times = static_cast<double>(repeats);
    for (std::size_t head = 0; head < kKvHeads; ++head) {
      const std::byte* at = slots_[distinct] + layer.offset + head * layer.head_stride;
      layer.keys->Decode(head, distinct * kBlockTokens, at, 0, kBlockTokens, keys.data());
      layer.values->Decode(head, distinct * kBlockTokens, at + layer.values_offset, 0, kBlockTokens, values.data());
      for (std::size_t q = head * kGroup; q < (head + 1) * kGroup; ++q) {
        for (std::size_t t = 0; t < kBlockTokens; ++t) {
          double logit = 0.0;
          for (std::size_t i = 0; i < kHeadDim; ++i) {
            logit += static_cast<double>(queries_[q * kHeadDim + i]) * static_cast<double>(keys[t * kHeadDim + i]);
          }
          const double weight = times * std::exp(scale * logit);
          sums[q] += weight;
          for (std::size_t i = 0; i < kHeadDim; ++i) {
            out[q * kHeadDim + i] += weight * static_cast<double>(values[t * kHeadDim + i]);
          }
        }
      }
    }
  }
  for (std::size_t i = 0; i < out.size(); ++i) out[i] /= sums[i / kHeadDim];
  return out;
}

const Workload& Workloads::Get(const std::string& spec) {
  if (current_ == nullptr || current_->spec() != spec) {
    current_.reset();
    auto made = Workload::Make(registry_, spec, memory_);
    if (!made) Abort(spec + ": " + made.error().message);
    current_ = std::move(*made);
  }
  return *current_;
}

double Workloads::GaussianError(const std::string& spec, quantizers::Side side) const {
  const auto parsed = registry_.Parse(spec);
  if (!parsed) Abort(parsed.error().message);
  return parsed->codec->gaussian_error == nullptr ? 0.0 : parsed->codec->gaussian_error(side, kHeadDim, parsed->params);
}

std::vector<float> NormalRows(std::size_t count, std::uint64_t seed) {
  // splitmix64 and Box-Muller: the standard library's distributions differ from one implementation to the next.
  std::uint64_t state = seed * 0x9E3779B97F4A7C15ULL;
  const auto uniform = [&state] {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return (static_cast<double>((z ^ (z >> 31)) >> 11) + 0.5) * 0x1p-53;
  };
  std::vector<float> rows(count);
  for (std::size_t i = 0; i < count; i += 2) {
    const double radius = std::sqrt(-2.0 * std::log(uniform()));
    const double angle = 2.0 * std::numbers::pi * uniform();
    rows[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < count) rows[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
  return rows;
}

double RelativeRms(std::span<const float> a, std::span<const double> b) {
  double difference = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double d = static_cast<double>(a[i]) - b[i];
    difference += d * d;
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

double HiddenLossBound(double gaussian_error) { return std::sqrt(0.05 * gaussian_error) + 1e-4; }

void Abort(const std::string& message) {
  std::fprintf(stderr, "kvant_bench: %s\n", message.c_str());
  std::exit(1);
}

}  // namespace kvant::tools
