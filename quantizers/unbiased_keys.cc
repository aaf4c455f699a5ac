#include "quantizers/unbiased_keys.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <span>
#include <string>
#include <utility>

#include "kernels/raw/dot.h"
#include "kernels/rope_frequencies.h"
#include "quantizers/artifact.h"
#include "quantizers/decoded_rows.h"
#include "quantizers/rope_pairs.h"
#include "quantizers/scratch.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {
namespace {

constexpr std::size_t kRun = 64;  ///< tokens whose turned biases are kept, relative to the first

std::string TensorName(const CodecConfig& config) { return "layers." + std::to_string(config.layer) + ".keys.bias"; }

struct Turn {
  double cosine = 1.0;
  double sine = 0.0;
};

Turn TurnBy(double radians_per_token, std::uint64_t tokens) {
  const double angle = std::fmod(radians_per_token * static_cast<double>(tokens), 2 * std::numbers::pi);
  return {std::cos(angle), std::sin(angle)};
}

class UnbiasedKeys final : public KeyCodec {
 public:
  UnbiasedKeys(const CodecConfig& config, RopeFrequencies frequencies, std::span<const float> bias,
               std::unique_ptr<KeyCodec> inner)
      : dim_(config.head_dim),
        tokens_(config.block_tokens),
        head_begin_(config.head_begin),
        bias_(bias),
        frequencies_(std::move(frequencies)),
        places_(PlanarPlaces(config.rope, config.head_dim)),
        inner_(std::move(inner)) {
    table_.resize((config.head_end - config.head_begin) * kRun * dim_);
    for (std::size_t head = config.head_begin; head < config.head_end; ++head) {
      double square = 0;
      for (const float number : bias_.subspan(head * dim_, dim_)) square += double{number} * double{number};
      largest_ = std::max(largest_, static_cast<float>(std::sqrt(square) * frequencies_.attention_factor));
      for (std::size_t i = 0; i < kRun; ++i) {
        float* row = table_.data() + ((head - head_begin_) * kRun + i) * dim_;
        for (std::size_t d = 0; d < dim_; ++d) row[d] = bias_[head * dim_ + d];
        for (std::size_t p = 0; p < frequencies_.radians_per_token.size(); ++p) {
          const Turn turn = TurnBy(frequencies_.radians_per_token[p], i);
          const double real = row[places_[p]], imaginary = row[places_[dim_ / 2 + p]], factor = frequencies_.attention_factor;
          row[places_[p]] = static_cast<float>(factor * (real * turn.cosine - imaginary * turn.sine));
          row[places_[dim_ / 2 + p]] = static_cast<float>(factor * (real * turn.sine + imaginary * turn.cosine));
        }
      }
    }
  }

  [[nodiscard]] std::size_t parts() const noexcept override { return inner_->parts(); }
  [[nodiscard]] std::size_t part_bytes(std::size_t part) const noexcept override { return inner_->part_bytes(part); }
  [[nodiscard]] std::size_t memory_bytes() const noexcept override {
    return sizeof(*this) + table_.capacity() * sizeof(float) + inner_->memory_bytes();
  }
  [[nodiscard]] bool pre_rope() const noexcept override { return inner_->pre_rope(); }
  [[nodiscard]] CodecTraits traits() const noexcept override {
    CodecTraits traits = inner_->traits();
    traits.exact_zero = false;  // without the bias they are none
    traits.largest_norm = std::min(traits.largest_norm, FLT_MAX / 4) - largest_;
    return traits;
  }
  [[nodiscard]] CodeForm form() const noexcept override {
    CodeForm form = inner_->form();
    form.centered = true;
    return form;
  }
  /// How much of keys is bias is the model's affair.
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return std::nullopt; }

  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    Needs needs = inner_->needs(n);
    needs.encode += FloatBytes(tokens_ * dim_);
    needs.decode += FloatBytes(dim_);
    needs.scratch += FloatBytes(n * dim_) + FloatBytes(n * kRun);
    return needs;
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    Pieces pieces(args.scratch);
    float* rows = pieces.Floats(tokens_ * dim_);
    const std::size_t bad = LoadFiniteRows(args.rows, rows);
    if (bad != args.rows.count) {
      return Error{ErrorCode::kNotFinite, "encode keys without their bias: row " + std::to_string(bad) + " of KV head " +
                                              std::to_string(args.head) + " holds NaN or infinity"};
    }
    AddBias(args.head, args.first_position, tokens_, -1.0f, rows, dim_);
    EncodeArgs coded = args;
    coded.rows = {rows, ElementType::kF32, tokens_, dim_, dim_};
    coded.scratch = pieces.rest();
    return inner_->Encode(coded);
  }

  void Decode(const DecodeArgs& args) const override {
    Pieces pieces(args.scratch);
    float* row = pieces.Floats(dim_);
    DecodeThrough(*inner_, args, dim_, row, pieces.rest(),
                  [&](std::size_t t, float* decoded) { AddBias(args.head, args.first_position + t, 1, 1.0f, decoded, dim_); });
  }

  void Prepare(const PrepareArgs& args) const override { inner_->Prepare(args); }

  void Score(const ScoreArgs& args) const override {
    Pieces pieces(args.scratch);
    float* turned = pieces.Floats(args.n * dim_);
    float* sums = pieces.Floats(args.n * kRun);
    ScoreArgs coded = args;
    coded.scratch = pieces.rest();
    inner_->Score(coded);
    for (std::size_t done = 0; done < tokens_;) {
      const std::uint64_t position = args.first_position + done;
      const std::size_t within = position % kRun, count = std::min(tokens_ - done, kRun - within);
      TurnBack(args, position - within, turned);
      kernels::DotRows(turned, args.n, {Table(args.head) + within * dim_, ElementType::kF32, count, dim_, dim_}, sums, count);
      PutRows(sums, args.n, count, args.logits + done, args.stride, true);
      done += count;
    }
  }

 private:
  [[nodiscard]] const float* Table(std::size_t head) const { return table_.data() + (head - head_begin_) * kRun * dim_; }

  /// row i += sign * (the bias as the inner codec's keys of token `position` + i have it). In double and token by token, so
  /// that a row's bytes depend on its position alone.
  void AddBias(std::size_t head, std::uint64_t position, std::size_t n, float sign, float* rows, std::size_t stride) const {
    if (inner_->pre_rope()) {
      const float* bias = bias_.data() + head * dim_;
      for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t d = 0; d < dim_; ++d) rows[i * stride + d] += sign * bias[d];
      }
      return;
    }
    for (std::size_t done = 0; done < n;) {
      const std::size_t within = (position + done) % kRun, count = std::min(n - done, kRun - within);
      AddTurned(Table(head) + within * dim_, position + done - within, count, sign, rows + done * stride, stride);
      done += count;
    }
  }

  /// row i += sign * R_first table row i, for rows of one run.
  void AddTurned(const float* table, std::uint64_t first, std::size_t n, float sign, float* rows, std::size_t stride) const {
    const std::size_t turned = frequencies_.radians_per_token.size();
    for (std::size_t p = 0; p < dim_ / 2; ++p) {
      const std::size_t real = places_[p], imaginary = places_[dim_ / 2 + p];
      const Turn turn = p < turned ? TurnBy(frequencies_.radians_per_token[p], first) : Turn{};
      for (std::size_t i = 0; i < n; ++i) {
        const double x = table[i * dim_ + real], y = table[i * dim_ + imaginary];
        rows[i * stride + real] += sign * static_cast<float>(x * turn.cosine - y * turn.sine);
        rows[i * stride + imaginary] += sign * static_cast<float>(x * turn.sine + y * turn.cosine);
      }
    }
  }

  /// turned[i * dim] = R_(-position) query i.
  void TurnBack(const ScoreArgs& args, std::uint64_t position, float* turned) const {
    for (std::size_t i = 0; i < args.n; ++i) std::copy_n(args.queries + i * args.query_stride, dim_, turned + i * dim_);
    for (std::size_t p = 0; p < frequencies_.radians_per_token.size(); ++p) {
      const Turn turn = TurnBy(frequencies_.radians_per_token[p], position);
      const auto cosine = static_cast<float>(turn.cosine), sine = static_cast<float>(turn.sine);
      for (std::size_t i = 0; i < args.n; ++i) {
        float& real = turned[i * dim_ + places_[p]];
        float& imaginary = turned[i * dim_ + places_[dim_ / 2 + p]];
        const float x = real;
        real = x * cosine + imaginary * sine;
        imaginary = imaginary * cosine - x * sine;
      }
    }
  }

  std::size_t dim_;
  std::size_t tokens_;
  std::size_t head_begin_;
  std::span<const float> bias_;  ///< [kv_heads, head_dim] of the artifact
  RopeFrequencies frequencies_;
  std::vector<std::uint16_t> places_;
  float largest_ = 0;         ///< norm of a head's bias, as keys have it
  std::vector<float> table_;  ///< [heads, kRun, head_dim]: a head's bias turned by 0..kRun-1 tokens
  std::unique_ptr<KeyCodec> inner_;
};

}  // namespace

Result<std::unique_ptr<KeyCodec>> MakeUnbiasedKeys(const CodecConfig& config, std::unique_ptr<KeyCodec> inner) {
  const std::string name = TensorName(config);
  if (config.artifact == nullptr) {
    return Error{ErrorCode::kInvalidArgument, "kind=bias needs tensor " + name + ", but the plan has no artifact"};
  }
  auto bias = config.artifact->Find(name, {config.kv_heads, config.head_dim});
  if (!bias) return Error{bias.error().code, "kind=bias: " + bias.error().message};
  if (!std::ranges::all_of(*bias, [](float number) { return std::fabs(number) <= 1e6F; })) {
    return Error{ErrorCode::kInvalidArgument, "kind=bias: " + name + " holds numbers beyond 1e6"};
  }
  auto frequencies = kernels::ComputeRopeFrequencies(config.rope, config.head_dim);
  if (!frequencies) return std::move(frequencies).error();
  return std::unique_ptr<KeyCodec>(std::make_unique<UnbiasedKeys>(config, *std::move(frequencies), *bias, std::move(inner)));
}

std::size_t UnbiasedHeadBytes(std::size_t head_dim) noexcept { return (kRun * sizeof(float) + 64) * head_dim; }

std::vector<ExampleTensor> ExampleBias(const CodecConfig& config) {
  ExampleTensor bias{TensorName(config), {config.kv_heads, config.head_dim}, {}};
  for (std::size_t i = 0; i < std::size_t{config.kv_heads} * config.head_dim; ++i) {
    bias.values.push_back(i % 7 == 3 ? 8.0F : 0.25F * static_cast<float>(static_cast<int>(i % 5) - 2));
  }
  return {std::move(bias)};
}

}  // namespace kvant::quantizers
