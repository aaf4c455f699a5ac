// A batch of sequences in stored blocks, and what attention gives according to float64.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/cuda/attend_block.h"
#include "kernels/gauge/gauge.h"
#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/reference/encode.h"
#include "kernels/lloyd/reference/query.h"
#include "kernels/lloyd/reference/score.h"
#include "kernels/raw/rows.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels::cuda {

struct BatchShape {
  int key_bits = 4;
  int value_bits = 4;
  int dim = 128;
  int block_tokens = 128;
  Gauge gauge = Gauge::kNone;
  int kv_heads = 2;
  int group = 4;
  int tokens = 1;
  std::vector<int> cached = {};
  bool ahead = false;  ///< blocks hold tokens behind the queries, too: those positions begin 5 before the end
};

inline std::string Name(const BatchShape& shape) {
  return std::to_string(shape.key_bits) + "/" + std::to_string(shape.value_bits) + " bits, dim " + std::to_string(shape.dim) +
         ", blocks of " + std::to_string(shape.block_tokens) + ", group " + std::to_string(shape.group) + ", " +
         std::to_string(shape.tokens) + " tokens, gauge " + std::to_string(static_cast<int>(shape.gauge));
}

/// What a query row should give.
struct ExpectedRow {
  std::vector<double> out;  ///< [dim]
  double lse = 0;
  double tolerance = 0;  ///< of |out|, of what rounding weights costs
};

/// Whether outputs are right.
struct Verdict {
  double worst = 0;   ///< largest error of a row over its tolerance
  std::string wrong;  ///< the first row that is not right, or empty
};

class Batch {
 public:
  Batch(const BatchShape& shape, std::uint32_t seed) : shape_(shape), random_(seed) {
    const auto dim = static_cast<std::size_t>(shape_.dim), block = static_cast<std::size_t>(shape_.block_tokens);
    rounds_ = dim < 128 ? 4 : 3;
    const auto part = [&](int bits) { return LloydBlockBytes(static_cast<std::uint32_t>(bits), dim, block); };
    const std::size_t gauge = shape_.gauge == Gauge::kNone ? 0 : 2 * dim + (shape_.gauge == Gauge::kGains ? dim : 0);
    value_offset_ = (part(shape_.key_bits) + gauge + 63) / 64 * 64;
    head_bytes_ = value_offset_ + (part(shape_.value_bits) + 63) / 64 * 64;
    key_offset_ = 128;
    slot_bytes_ = key_offset_ + static_cast<std::size_t>(shape_.kv_heads) * head_bytes_ + 64;
    const int longest = *std::ranges::max_element(shape_.cached);
    stride_ = std::max(1, (longest + shape_.block_tokens - 1) / shape_.block_tokens);
    const auto count = static_cast<std::size_t>(stride_) * shape_.cached.size();
    table_.resize(count);
    std::iota(table_.begin(), table_.end(), 1);  // slot 0 is nobody's
    std::ranges::shuffle(table_, random_);
    slots_.assign((count + 1) * slot_bytes_, 0xEE);
    for (int head = 0; head < shape_.kv_heads; ++head) {
      const HadamardShape map = HadamardShape::For(static_cast<std::uint32_t>(dim));
      key_signs_.push_back(RandomSigns(map, rounds_, random_));
      value_signs_.push_back(RandomSigns(map, rounds_, random_));
      for (const std::int32_t slot : table_) Fill(static_cast<std::size_t>(slot), head);
    }
    const std::size_t words = rounds_ * dim / 32;
    for (auto* signs : {&key_signs_, &value_signs_}) {
      auto& packed = signs == &key_signs_ ? packed_keys_ : packed_values_;
      packed.resize(words * signs->size());
      for (std::size_t h = 0; h < signs->size(); ++h) {
        PackSigns((*signs)[h].data(), static_cast<int>(rounds_), shape_.dim, packed.data() + h * words);
      }
    }
    cached_.assign(shape_.cached.begin(), shape_.cached.end());
    for (const int n : shape_.cached) positions_.push_back(shape_.ahead ? std::max(0, n - 5) : n);
    const auto rows = cached_.size() * static_cast<std::size_t>(shape_.tokens * heads());
    queries_ = RandomNormal(rows * dim, random_);
    for (auto& number : queries_) number *= 1.5f;
    for (int head = 0; head < heads(); ++head) sinks_.push_back(std::normal_distribution<float>(1.0f, 2.0f)(random_));
  }

  [[nodiscard]] int heads() const { return shape_.kv_heads * shape_.group; }
  [[nodiscard]] std::size_t rows() const { return queries_.size() / static_cast<std::size_t>(shape_.dim); }
  [[nodiscard]] const BatchShape& shape() const { return shape_; }
  [[nodiscard]] std::vector<float>& queries() { return queries_; }
  [[nodiscard]] const std::vector<float>& sinks() const { return sinks_; }
  [[nodiscard]] const std::vector<std::uint8_t>& slots() const { return slots_; }
  [[nodiscard]] const std::vector<std::int32_t>& table() const { return table_; }
  [[nodiscard]] const std::vector<std::int32_t>& cached() const { return cached_; }
  [[nodiscard]] const std::vector<std::int32_t>& positions() const { return positions_; }
  [[nodiscard]] const std::vector<std::uint32_t>& key_signs() const { return packed_keys_; }
  [[nodiscard]] const std::vector<std::uint32_t>& value_signs() const { return packed_values_; }

  /// Everything but outputs, sinks and the workspace, of memory of this process; scale 1 / sqrt(dim).
  [[nodiscard]] AttendArgs Args() const {
    AttendArgs args;
    args.key_bits = shape_.key_bits;
    args.value_bits = shape_.value_bits;
    args.dim = shape_.dim;
    args.block_tokens = shape_.block_tokens;
    args.rounds = static_cast<int>(rounds_);
    args.gauge = shape_.gauge;
    args.slots = slots_.data();
    args.slot_bytes = slot_bytes_;
    args.key_offset = key_offset_;
    args.value_offset = key_offset_ + value_offset_;
    args.head_bytes = head_bytes_;
    args.key_signs = packed_keys_.data();
    args.value_signs = packed_values_.data();
    args.sequences = static_cast<int>(cached_.size());
    args.tokens = shape_.tokens;
    args.kv_heads = shape_.kv_heads;
    args.group = shape_.group;
    args.table = table_.data();
    args.table_stride = stride_;
    args.cached = cached_.data();
    args.positions = shape_.ahead ? positions_.data() : nullptr;
    args.q = {queries_.data(), ElementType::kF32, std::int64_t{shape_.tokens} * heads() * shape_.dim,
              std::int64_t{heads()} * shape_.dim, shape_.dim};
    args.scale = 1.0f / std::sqrt(static_cast<float>(shape_.dim));
    return args;
  }

  /// The logit of query row `row` ([sequences, tokens, heads]) and a token of its sequence, by the processor's scalar twins.
  [[nodiscard]] float Logit(std::size_t row, int token, float scale) const {
    const auto dim = static_cast<std::size_t>(shape_.dim);
    const auto sequence = row / static_cast<std::size_t>(shape_.tokens * heads());
    const int head = static_cast<int>(row % static_cast<std::size_t>(heads())) / shape_.group;
    const std::uint8_t* block = BlockOf(sequence, token, head);
    const auto bits = static_cast<std::uint32_t>(shape_.key_bits);
    const auto tokens = static_cast<std::size_t>(shape_.block_tokens);
    std::vector<float> query(queries_.begin() + static_cast<std::ptrdiff_t>(row * dim),
                             queries_.begin() + static_cast<std::ptrdiff_t>((row + 1) * dim));
    for (float& number : query) number *= scale;
    const std::uint8_t* at = block + LloydBlockBytes(bits, dim, tokens);
    const BlockGauge gauge{reinterpret_cast<const std::uint16_t*>(at), shape_.gauge == Gauge::kGains ? at + 2 * dim : nullptr};
    float bias = 0;
    if (shape_.gauge != Gauge::kNone) {
      bias = reference::SixteenSums(dim, [&](std::size_t d) { return query[d] * reference::HalfToFloat(gauge.mean[d]); });
    }
    for (std::size_t d = 0; gauge.gains != nullptr && d < dim; ++d) query[d] *= GainOf(gauge.gains[d]);
    const auto key = std::make_tuple(row, std::vector<std::uint8_t>(gauge.gains, gauge.gains + (gauge.gains ? dim : 0)), scale);
    if (!prepared_ || key != prepared_key_) {
      MapTables tables;
      const HadamardShape map = HadamardShape::For(static_cast<std::uint32_t>(dim));
      prepared_ = reference::PrepareLloydQuery(
          {FindLloydTable(bits), MapOf(map, rounds_, key_signs_[static_cast<std::size_t>(head)], tables), nullptr},
          query.data());
      prepared_key_ = key;
    }
    return reference::LloydLogit(*FindLloydTable(bits), dim, tokens, block, static_cast<std::size_t>(token) % tokens,
                                 *prepared_) +
           bias;
  }

  /// What `args` (Args() and more) makes of a row, in float64 from the processor's logits on.
  [[nodiscard]] ExpectedRow Expect(const AttendArgs& args, std::size_t row) const {
    const auto dim = static_cast<std::size_t>(shape_.dim), tokens = static_cast<std::size_t>(shape_.block_tokens);
    const auto of_sequence = static_cast<std::size_t>(shape_.tokens * heads());
    const std::size_t sequence = row / of_sequence;
    const int n = static_cast<int>(row % of_sequence) / heads(),
              q_head = static_cast<int>(row % static_cast<std::size_t>(heads()));
    const int head = q_head / shape_.group, position = positions_[sequence] + n;
    const int to = std::min(cached_[sequence], position + 1);
    const int from = args.window == 0 ? 0 : std::max(0, position + 1 - static_cast<int>(args.window));
    std::vector<double> logits;
    double top = -std::numeric_limits<double>::infinity();
    for (int t = from; t < to; ++t) {
      double logit = Logit(row, t, args.scale);
      if (args.softcap > 0) logit = args.softcap * std::tanh(logit / args.softcap);
      logits.push_back(logit);
      top = std::max(top, logit);
    }
    if (args.sink_logits != nullptr) top = std::max(top, double{args.sink_logits[q_head]});
    double sum = args.sink_logits != nullptr ? std::exp(args.sink_logits[q_head] - top) : 0.0;
    for (const double logit : logits) sum += std::exp(logit - top);
    ExpectedRow expected{std::vector<double>(dim), top + std::log(sum), 0};
    const LloydTable& table = *FindLloydTable(static_cast<std::uint32_t>(shape_.value_bits));
    const int step = StepTokens(shape_.key_bits, shape_.value_bits, shape_.dim);
    std::vector<double> rotated(dim);
    double variance = 0;
    for (int begin = from / step * step; begin < to; begin += step) {
      double largest = 0, squares = 0;
      for (int t = std::max(begin, from); t < std::min(begin + step, to); ++t) {
        const std::uint8_t* block = BlockOf(sequence, t, head) + value_offset_;
        const double scale = reference::LloydScaleAt(table.bits, dim, tokens, block, static_cast<std::size_t>(t) % tokens);
        const double weight = std::exp(logits[static_cast<std::size_t>(t - from)] - top) / sum * scale;
        largest = std::max(largest, weight);
        for (std::size_t d = 0; d < dim; ++d) {
          const int level = table.Centroid(
              LloydIndexAt(LloydLayout::kValues, table.bits, dim, tokens, block, static_cast<std::size_t>(t) % tokens, d));
          rotated[d] += weight * level;
          squares += level * level;
        }
      }
      // A weight is rounded to a 255th of the step's largest: an error uniform in half of that each way, on its own.
      variance += largest / 255 * (largest / 255) / 12 * squares;
    }
    const double unit = 1.0 / (table.unit * std::sqrt(static_cast<double>(dim)));
    RotateBack(value_signs_[static_cast<std::size_t>(head)], rotated);
    for (std::size_t d = 0; d < dim; ++d) expected.out[d] = rotated[d] * unit;
    // 64 dims and more hardly leave their expected square; f32's own rounding beside it.
    double size = 0;
    for (const double x : expected.out) size += x * x;
    expected.tolerance = 2 * std::sqrt(variance) * unit + 1e-5 * std::sqrt(size);
    return expected;
  }

  /// `out` [rows, dim] and `lse` [rows] against float64. `rounding`: of outputs to their type, relative.
  [[nodiscard]] Verdict Judge(const AttendArgs& args, const float* out, const float* lse, double rounding = 0) const {
    const auto dim = static_cast<std::size_t>(shape_.dim);
    Verdict verdict;
    const auto is_wrong = [&](std::size_t row, const char* what, double is, double should) {
      if (!verdict.wrong.empty()) return;
      verdict.wrong = "row " + std::to_string(row) + ": " + what + " " + std::to_string(is) + " and " + std::to_string(should);
    };
    for (std::size_t row = 0; row < rows(); ++row) {
      const ExpectedRow expected = Expect(args, row);
      double error = 0, size = 0;
      for (std::size_t d = 0; d < dim; ++d) {
        const double apart = out[row * dim + d] - expected.out[d];
        error += apart * apart;
        size += expected.out[d] * expected.out[d];
      }
      const double tolerance = expected.tolerance + rounding * std::sqrt(size);
      if (!(std::sqrt(error) <= tolerance)) is_wrong(row, "error and tolerance", std::sqrt(error), tolerance);
      if (tolerance > 0) verdict.worst = std::max(verdict.worst, std::sqrt(error) / tolerance);
      const bool lse_right = std::isinf(expected.lse)
                                 ? lse[row] == -std::numeric_limits<float>::infinity()
                                 : std::fabs(lse[row] - expected.lse) <= 1e-5 * (1 + std::fabs(expected.lse));
      if (!lse_right) is_wrong(row, "log-sum-exp", lse[row], expected.lse);
    }
    return verdict;
  }

 private:
  [[nodiscard]] const std::uint8_t* BlockOf(std::size_t sequence, int token, int head) const {
    const auto index = sequence * static_cast<std::size_t>(stride_) + static_cast<std::size_t>(token / shape_.block_tokens);
    return slots_.data() + static_cast<std::size_t>(table_[index]) * slot_bytes_ + key_offset_ +
           static_cast<std::size_t>(head) * head_bytes_;
  }

  /// Any bytes are codes; scales are those of rows a few times larger or smaller than others.
  void Fill(std::size_t slot, int head) {
    const auto dim = static_cast<std::size_t>(shape_.dim), tokens = static_cast<std::size_t>(shape_.block_tokens);
    std::uint8_t* keys = slots_.data() + slot * slot_bytes_ + key_offset_ + static_cast<std::size_t>(head) * head_bytes_;
    std::normal_distribution<float> normal;
    for (const bool values : {false, true}) {
      const auto bits = static_cast<std::uint32_t>(values ? shape_.value_bits : shape_.key_bits);
      std::uint8_t* block = values ? keys + value_offset_ : keys;
      const std::size_t codes = LloydCodesBytes(bits, dim, tokens);
      for (std::size_t i = 0; i < codes; ++i) block[i] = static_cast<std::uint8_t>(random_());
      for (std::size_t t = 0; t < tokens; ++t) {
        const std::uint16_t scale = FloatToUfloat16(std::sqrt(static_cast<float>(dim)) * std::exp(0.4f * normal(random_)));
        std::memcpy(block + codes + 2 * t, &scale, 2);
      }
    }
    if (shape_.gauge == Gauge::kNone) return;
    std::uint8_t* gauge = keys + LloydBlockBytes(static_cast<std::uint32_t>(shape_.key_bits), dim, tokens);
    std::vector<float> mean(dim);
    for (float& number : mean) number = normal(random_);
    StoreRow(mean.data(), dim, ElementType::kF16, gauge);
    if (shape_.gauge != Gauge::kGains) return;
    // Mostly those of the block before; seldom one more channel.
    std::fill_n(gauge + 2 * dim, dim, GainByte(1.0f));
    gauge[2 * dim + 3] = GainByte(4.0f);
    if (random_() % 3 == 0) gauge[2 * dim + random_() % dim] = GainByte(2.0f);
  }

  void RotateBack(const std::vector<std::uint32_t>& signs, std::vector<double>& x) const {
    const std::size_t dim = x.size();
    for (std::size_t round = rounds_; round-- > 0;) {
      for (std::size_t h = 1; h < dim; h *= 2) {
        for (std::size_t i = 0; i < dim; ++i) {
          if ((i & h) != 0) continue;
          const double a = x[i], b = x[i + h];
          x[i] = (a + b) / std::sqrt(2.0);
          x[i + h] = (a - b) / std::sqrt(2.0);
        }
      }
      for (std::size_t i = 0; i < dim; ++i) x[i] = signs[round * dim + i] != 0 ? -x[i] : x[i];
    }
  }

  BatchShape shape_;
  std::mt19937 random_;
  std::size_t rounds_ = 0;
  std::size_t key_offset_ = 0, value_offset_ = 0, head_bytes_ = 0, slot_bytes_ = 0;
  int stride_ = 0;
  std::vector<std::uint8_t> slots_;
  std::vector<std::int32_t> table_, cached_, positions_;
  std::vector<std::vector<std::uint32_t>> key_signs_, value_signs_;
  std::vector<std::uint32_t> packed_keys_, packed_values_;
  std::vector<float> queries_, sinks_;
  // The row asked for last.
  mutable std::optional<reference::LloydQuery> prepared_;
  mutable std::tuple<std::size_t, std::vector<std::uint8_t>, float> prepared_key_;
};

}  // namespace kvant::kernels::cuda
