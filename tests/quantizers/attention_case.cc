#include "tests/quantizers/attention_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include <gtest/gtest.h>

#include "kernels/raw/reference/rows.h"
#include "kernels/raw/rows.h"
#include "kernels/reference/rope.h"
#include "quantizers/attention/worker_team.h"
#include "tools/codec_calls.h"

namespace kvant::quantizers::test {
namespace {

constexpr std::size_t kAlignment = 64;
// What float arithmetic may add, relative to the answer.
constexpr double kFloatError = 1e-5;

std::byte* Align(std::vector<std::byte>& memory) {
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  return memory.data() + (kAlignment - address % kAlignment) % kAlignment;
}

std::vector<std::byte> Store(const std::vector<float>& numbers, ElementType type) {
  std::vector<std::byte> bytes(numbers.size() * ElementBytes(type));
  kernels::StoreRow(numbers.data(), numbers.size(), type, bytes.data());
  return bytes;
}

}  // namespace

AttentionCase::AttentionCase(const Registry& registry, const CaseShape& shape, std::uint64_t seed)
    : shape_(shape), total_(shape.sealed_blocks * shape.block_tokens + shape.tail) {
  StoreSpec spec;
  spec.name = "test";
  spec.model = "model";
  spec.tokenizer = "bytes";
  spec.layers = 1;
  spec.kv_heads = static_cast<std::uint32_t>(shape.kv_heads);
  spec.head_dim = static_cast<std::uint32_t>(shape.head_dim);
  spec.block_tokens = static_cast<std::uint32_t>(shape.block_tokens);
  spec.sink_tokens = static_cast<std::uint32_t>(shape.sinks);
  spec.rope = shape.rope;
  spec.key_stage = shape.key_stage;
  spec.plan.keys = shape.keys;
  spec.plan.values = shape.values;
  spec.plan.overrides = shape.overrides;
  spec.plan.artifact = shape.artifact;
  auto plan = Plan::Make(registry, spec);
  if (!plan) throw std::invalid_argument(plan.error().message);
  plan_ = *std::move(plan);
  std::mt19937_64 random(seed);
  Fill(random);
  Encode();
  DropTokens(random);
}

void AttentionCase::Fill(std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  const std::size_t dim = shape_.head_dim;
  const std::size_t heads = shape_.kv_heads * shape_.group;
  const auto numbers = [&](std::size_t n) {
    std::vector<float> v(n);
    for (float& x : v) x = normal(random);
    return v;
  };
  keys_ = numbers(shape_.kv_heads * total_ * dim);
  values_ = numbers(shape_.kv_heads * total_ * dim);
  raw_keys_ = Store(keys_, shape_.raw_type);
  raw_values_ = Store(values_, shape_.raw_type);

  const auto piece = [&](std::size_t begin, std::size_t end) {
    const std::size_t offset = begin * dim * ElementBytes(shape_.raw_type);
    if (begin < end) {
      raw_.push_back(
          {raw_keys_.data() + offset, raw_values_.data() + offset, shape_.raw_type, total_ * dim, dim, begin, end - begin});
    }
  };
  const std::size_t tail_begin = shape_.sealed_blocks * shape_.block_tokens - shape_.raw_overlap;
  piece(0, std::min(shape_.sinks, tail_begin));
  for (std::size_t i = 0; i < shape_.raw_pieces; ++i) {
    const std::size_t length = total_ - tail_begin;
    piece(tail_begin + length * i / shape_.raw_pieces, tail_begin + length * (i + 1) / shape_.raw_pieces);
  }

  q_ = Store(numbers(shape_.queries * heads * dim), shape_.query_type);
  out_.resize(shape_.queries * heads * dim * ElementBytes(shape_.out_type));
  lse_.resize(shape_.queries * heads);
  if (shape_.sink_logits) sink_logits_ = numbers(heads);
  const std::size_t token_stride = shape_.head_major ? dim : heads * dim;
  const std::size_t head_stride = shape_.head_major ? shape_.queries * dim : dim;
  Query& query = item_.query;
  query.q = {q_.data(), shape_.query_type, shape_.queries, heads, dim, token_stride, head_stride};
  query.out = {out_.data(), shape_.out_type, shape_.queries, heads, dim, token_stride, head_stride};
  query.lse = lse_.data();
  query.sink_logits = shape_.sink_logits ? sink_logits_.data() : nullptr;
  query.first_position = total_ - shape_.queries;
  query.scale = shape_.spread / std::sqrt(static_cast<float>(dim));
  query.softcap = shape_.softcap;
  query.window = shape_.window;
}

void AttentionCase::DropTokens(std::mt19937_64& random) {
  KeptTokens& kept = item_.cache.kept;
  kept = shape_.kept;
  if (shape_.votes) {
    votes_.resize(shape_.kv_heads * total_);
    item_.query.votes = votes_.data();
    item_.query.votes_stride = total_;
  }
  if (shape_.kept_share >= 1.0) return;
  kept.end = shape_.kept_end;
  kept.words = KeptTokens::WordsOf(kept.end) + 1;
  kept_.assign(shape_.kv_heads * kept.words, ~std::uint64_t{0});  // bits behind the end mean nothing
  std::bernoulli_distribution turns(0.02), keeps(shape_.kept_share);
  for (std::size_t h = 0; h < shape_.kv_heads; ++h) {
    bool keep = keeps(random);
    for (std::size_t p = 0; p < kept.end; ++p) {
      if (turns(random)) keep = keeps(random);
      if (!keep) kept_[h * kept.words + p / 64] &= ~(std::uint64_t{1} << (p % 64));
    }
  }
  kept.bits = kept_.data();
}

bool AttentionCase::Kept(std::size_t head, std::size_t position, std::size_t query_position) const {
  const KeptTokens& kept = item_.cache.kept;
  const bool in_window =
      kept.window == 0 || query_position < kept.whole_below || position < kept.sinks || position + kept.window > query_position;
  return in_window &&
         (kept_.empty() || position >= kept.end || ((kept_[head * kept.words + position / 64] >> (position % 64)) & 1) != 0);
}

void AttentionCase::Encode() {
  const std::size_t dim = shape_.head_dim;
  for (std::size_t b = 0; b < shape_.sealed_blocks; ++b) {
    slots_.emplace_back(plan_->payload_bytes() + kAlignment);
    std::byte* slot = Align(slots_.back());
    blocks_.push_back(slot);
    for (std::size_t h = 0; h < shape_.kv_heads; ++h) {
      const std::uint64_t position = b * shape_.block_tokens;
      const std::size_t offset = (h * total_ + position) * dim;
      for (const Side side : {Side::kKeys, Side::kValues}) {
        const std::vector<float>& rows = side == Side::kKeys ? keys_ : values_;
        const RowsView view{rows.data() + offset, ElementType::kF32, shape_.block_tokens, dim, dim};
        const auto stored = tools::EncodeBlock(plan_->codec(0, h, side), h, position, view, plan_->place(0, h, side).In(slot));
        if (!stored) throw std::runtime_error(stored.error().message);
      }
    }
    if (shape_.sections.empty()) continue;
    // What a demoted block has lost must not be read: it is garbage.
    sections_.push_back(shape_.sections[b % shape_.sections.size()]);
    std::memset(slot + plan_->section_end(sections_[b] - 1), 0x7f,
                plan_->payload_bytes() - plan_->section_end(sections_[b] - 1));
  }
  item_.cache = {plan_.get(), 0, blocks_, raw_, sections_};
}

void AttentionCase::ClearOutput() {
  std::fill(out_.begin(), out_.end(), std::byte{0x7b});
  std::fill(lse_.begin(), lse_.end(), -1234.5f);
  std::fill(votes_.begin(), votes_.end(), 0.0f);
}

std::vector<double> AttentionCase::Output(std::size_t t, std::size_t h) const {
  const TensorView& out = item_.query.out;
  std::vector<double> row(out.dim);
  for (std::size_t k = 0; k < out.dim; ++k) {
    row[k] = kernels::reference::ElementAt(out_.data(), out.type, t * out.token_stride + h * out.head_stride + k);
  }
  return row;
}

std::vector<double> AttentionCase::Outputs() const {
  std::vector<double> all;
  for (std::size_t t = 0; t < shape_.queries; ++t) {
    for (std::size_t h = 0; h < shape_.kv_heads * shape_.group; ++h) {
      const auto row = Output(t, h);
      all.insert(all.end(), row.begin(), row.end());
    }
  }
  return all;
}

double AttentionCase::Distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

AttentionCase::Answer AttentionCase::Reference(bool decoded) const {
  const std::size_t dim = shape_.head_dim;
  const std::size_t sealed = shape_.sealed_blocks * shape_.block_tokens;
  // Rows of all positions: raw ones where raw rows cover them, else what the codec gives back.
  std::vector<double> keys(keys_.begin(), keys_.end());
  std::vector<double> values(values_.begin(), values_.end());
  std::vector<float> rows(shape_.block_tokens * dim);
  for (std::size_t h = 0; h < shape_.kv_heads; ++h) {
    const std::size_t base = h * total_ * dim;
    for (std::size_t b = 0; decoded && b < blocks_.size(); ++b) {
      const std::size_t first = b * shape_.block_tokens;
      for (const Side side : {Side::kKeys, Side::kValues}) {
        const auto block = plan_->place(0, h, side).In(blocks_[b], sections_.empty() ? kMaxParts : sections_[b]);
        tools::DecodeBlock(plan_->codec(0, h, side), h, first, block, 0, shape_.block_tokens, rows.data(), dim);
        auto& all = side == Side::kKeys ? keys : values;
        std::copy(rows.begin(), rows.end(), all.begin() + static_cast<std::ptrdiff_t>(base + first * dim));
      }
    }
    for (std::size_t p = 0; p < total_; ++p) {
      const bool raw = p < shape_.sinks || p >= sealed - shape_.raw_overlap;
      for (std::size_t i = base + p * dim; raw && i < base + (p + 1) * dim; ++i) {
        keys[i] = kernels::reference::ElementAt(raw_keys_.data(), shape_.raw_type, i);
        values[i] = kernels::reference::ElementAt(raw_values_.data(), shape_.raw_type, i);
      }
      if (plan_->pre_rope(0)) kernels::reference::Rotate(shape_.rope, dim, keys.data() + base + p * dim, p);
    }
  }

  Answer answer;
  answer.votes.resize(shape_.kv_heads * total_);
  const Query& query = item_.query;
  const std::size_t heads = shape_.kv_heads * shape_.group;
  for (std::size_t t = 0; t < shape_.queries; ++t) {
    const std::size_t position = query.first_position + t;
    for (std::size_t h = 0; h < heads; ++h) {
      const std::size_t base = (h / shape_.group) * total_ * dim;
      std::vector<double> logits;
      std::vector<std::size_t> positions;
      std::vector<double> q(dim);
      for (std::size_t k = 0; k < dim; ++k) {
        q[k] = kernels::reference::ElementAt(q_.data(), query.q.type, t * query.q.token_stride + h * query.q.head_stride + k);
      }
      for (std::size_t p = 0; p <= position; ++p) {
        if (query.window != 0 && p + query.window <= position) continue;
        if (!Kept(h / shape_.group, p, position)) continue;
        double sum = 0;
        for (std::size_t k = 0; k < dim; ++k) sum += q[k] * keys[base + p * dim + k];
        sum *= query.scale;
        if (query.softcap > 0) sum = query.softcap * std::tanh(sum / query.softcap);
        logits.push_back(sum);
        positions.push_back(p);
      }
      double max = *std::max_element(logits.begin(), logits.end());
      if (query.sink_logits != nullptr) max = std::max<double>(max, query.sink_logits[h]);
      double total = query.sink_logits != nullptr ? std::exp(query.sink_logits[h] - max) : 0.0;
      std::vector<double> out(dim);
      for (std::size_t i = 0; i < logits.size(); ++i) {
        const double weight = std::exp(logits[i] - max);
        total += weight;
        for (std::size_t k = 0; k < dim; ++k) out[k] += weight * values[base + positions[i] * dim + k];
      }
      for (double& x : out) x /= total;
      for (std::size_t i = 0; i < logits.size(); ++i) {
        answer.logits.push_back(logits[i]);
        answer.weights.push_back(std::exp(logits[i] - max) / total);
        answer.votes[h / shape_.group * total_ + positions[i]] += answer.weights.back();
      }
      answer.out.insert(answer.out.end(), out.begin(), out.end());
      answer.lse.push_back(max + std::log(total));
    }
  }
  return answer;
}

void ExpectMatchesReference(const Registry& registry, const CaseShape& shape, std::uint64_t seed) {
  SCOPED_TRACE(shape.keys + " / " + shape.values + " seed " + std::to_string(seed));
  AttentionCase problem(registry, shape, seed);
  ASSERT_TRUE(CheckItem(problem.item())) << CheckItem(problem.item()).error().message;
  WorkerTeam alone(0);
  Attention attention(alone);
  problem.ClearOutput();
  attention.Run({&problem.item(), 1});

  const auto decoded = problem.Reference(true);
  const auto exact = problem.Reference(false);
  const auto outputs = problem.Outputs();
  double norm = 0;
  for (const double x : exact.out) norm += x * x;
  const double own = AttentionCase::Distance(decoded.out, exact.out);
  // Half a step of the output type, uniformly distributed: relative 2^-p / sqrt(12) at most.
  const double out_error = shape.out_type == ElementType::kF32   ? 0
                           : shape.out_type == ElementType::kF16 ? std::ldexp(1, -11)
                                                                 : std::ldexp(1, -8);
  const double allowed = 0.05 * own + (kFloatError * kFloatError + out_error * out_error) * norm;
  EXPECT_LE(AttentionCase::Distance(outputs, decoded.out), allowed) << "own error " << own << ", norm " << norm;

  // The log-sum-exp moves by no more than the logits do.
  double logit_own = 0;
  for (std::size_t i = 0; i < exact.logits.size(); ++i)
    logit_own += exact.weights[i] * std::pow(decoded.logits[i] - exact.logits[i], 2);
  double lse_hidden = 0;
  for (std::size_t i = 0; i < decoded.lse.size(); ++i) {
    const std::size_t heads = shape.kv_heads * shape.group;
    lse_hidden += std::pow(problem.Lse(i / heads, i % heads) - decoded.lse[i], 2);
  }
  EXPECT_LE(lse_hidden, 0.05 * logit_own + kFloatError * kFloatError * 100 * static_cast<double>(decoded.lse.size()));
  if (!shape.votes) return;
  // A weight is exp(logit - lse), so that its relative error is that of the difference; its square at most twice the sum of
  // both squares, and lse moves no more than logits do. Summed over weights by Cauchy-Schwarz.
  double hidden = 0;
  for (std::size_t i = 0; i < decoded.votes.size(); ++i) hidden += std::abs(problem.Votes()[i] - decoded.votes[i]);
  const auto rows = static_cast<double>(decoded.lse.size());
  EXPECT_LE(hidden, std::sqrt(rows * 4 * 0.05 * logit_own) + 20 * kFloatError * rows);
}

}  // namespace kvant::quantizers::test
