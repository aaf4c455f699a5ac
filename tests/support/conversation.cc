#include "tests/support/conversation.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <gtest/gtest.h>

namespace kvant::testing {
namespace {

std::uint64_t Mix(std::uint64_t x) noexcept {  // splitmix64
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

double Uniform(std::uint64_t bits) noexcept { return (static_cast<double>(bits >> 11) + 0.5) / 9007199254740992.0; }

std::uint16_t HalfBits(float value) {
  const auto half = static_cast<_Float16>(value);
  std::uint16_t bits = 0;
  std::memcpy(&bits, &half, sizeof(bits));
  return bits;
}

}  // namespace

float RoundToHalf(float value) { return static_cast<float>(static_cast<_Float16>(value)); }

void StoreElement(void* base, ElementType type, std::size_t index, float value) {
  auto* const bytes = static_cast<std::byte*>(base) + index * ElementBytes(type);
  if (type == ElementType::kF32) {
    std::memcpy(bytes, &value, sizeof(value));
  } else if (type == ElementType::kF16) {
    const std::uint16_t bits = HalfBits(value);
    std::memcpy(bytes, &bits, sizeof(bits));
  } else {
    std::uint32_t wide = 0;
    std::memcpy(&wide, &value, sizeof(wide));
    if (std::isfinite(value)) wide += 0x7FFF + ((wide >> 16) & 1);  // round to nearest even
    const auto bits = static_cast<std::uint16_t>(wide >> 16);
    std::memcpy(bytes, &bits, sizeof(bits));
  }
}

StoreSpec SpecOf(const ModelShape& shape, const std::string& keys, const std::string& values, std::uint32_t block_tokens,
                 std::uint32_t sink_tokens) {
  StoreSpec spec;
  spec.name = "test:" + keys + ":" + values;
  spec.model = "make-believe";
  spec.tokenizer = "none";
  spec.layers = shape.layers;
  spec.kv_heads = shape.kv_heads;
  spec.head_dim = shape.head_dim;
  spec.dtype = ElementType::kF32;
  spec.block_tokens = block_tokens;
  spec.sink_tokens = sink_tokens;
  spec.plan.keys = keys;
  spec.plan.values = values;
  for (char& c : spec.name) {
    if (c == '@' || c == ' ') c = '_';
  }
  return spec;
}

std::vector<TokenId> RandomTokens(std::size_t n, std::uint64_t seed) {
  std::vector<TokenId> tokens(n);
  for (std::size_t i = 0; i < n; ++i) tokens[i] = static_cast<TokenId>(Mix(seed * 1000003 + i) % 50000);
  return tokens;
}

std::vector<float> FakeModel::Row(std::span<const TokenId> tokens, std::size_t position, Side side, std::size_t layer,
                                  std::size_t head) const {
  // The last four tokens stand for "all tokens up to it": enough to tell texts apart, and cheap.
  std::uint64_t state = Mix(position);
  for (std::size_t back = 0; back < 4 && back <= position; ++back) {
    state = Mix(state ^ static_cast<std::uint64_t>(tokens[position - back]));
  }
  state = Mix(state ^ (static_cast<std::uint64_t>(side) << 40) ^ (layer << 20) ^ head);
  std::vector<float> row(shape_.head_dim);
  for (float& x : row) {
    state = Mix(state);
    const double radius = std::sqrt(-2.0 * std::log(Uniform(state)));
    state = Mix(state);
    x = RoundToHalf(static_cast<float>(radius * std::cos(6.283185307179586 * Uniform(state))));
  }
  return row;
}

float AttendStyle::scale(const ModelShape& shape) const { return 1.0f / std::sqrt(static_cast<float>(shape.head_dim)); }

std::vector<float> AttendStyle::SinkLogits(const ModelShape& shape) const {
  std::vector<float> logits(shape.q_heads);
  for (std::size_t h = 0; h < logits.size(); ++h) logits[h] = 0.5f * static_cast<float>(h) - 0.7f;
  return logits;
}

std::vector<float> BruteForce(const FakeModel& model, std::span<const TokenId> tokens, std::size_t begin, std::size_t end,
                              std::size_t layer, const AttendStyle& style, std::vector<float>* lse) {
  const ModelShape& shape = model.shape();
  const std::size_t group = shape.q_heads / shape.kv_heads;
  std::vector<float> result((end - begin) * shape.q_heads * shape.head_dim);
  if (lse != nullptr) lse->assign((end - begin) * shape.q_heads, 0.0f);
  const std::vector<float> sinks = style.SinkLogits(shape);
  for (std::size_t kv = 0; kv < shape.kv_heads; ++kv) {
    std::vector<std::vector<float>> keys;
    std::vector<std::vector<float>> values;
    for (std::size_t p = 0; p < end; ++p) {
      keys.push_back(model.Row(tokens, p, Side::kKey, layer, kv));
      values.push_back(model.Row(tokens, p, Side::kValue, layer, kv));
    }
    for (std::size_t t = begin; t < end; ++t) {
      for (std::size_t h = kv * group; h < (kv + 1) * group; ++h) {
        const std::vector<float> q = model.Row(tokens, t, Side::kQuery, layer, h);
        const std::size_t first = style.window != 0 && t + 1 > style.window ? t + 1 - style.window : 0;
        std::vector<double> logits;
        double largest = style.sinks ? double{sinks[h]} : -1e300;
        for (std::size_t p = first; p <= t; ++p) {
          double dot = 0;
          for (std::size_t d = 0; d < q.size(); ++d) dot += double{q[d]} * double{keys[p][d]};
          double logit = dot * double{style.scale(shape)};
          if (style.softcap > 0) logit = double{style.softcap} * std::tanh(logit / double{style.softcap});
          logits.push_back(logit);
          largest = std::max(largest, logit);
        }
        double sum = style.sinks ? std::exp(double{sinks[h]} - largest) : 0;
        std::vector<double> acc(shape.head_dim);
        for (std::size_t i = 0; i < logits.size(); ++i) {
          const double weight = std::exp(logits[i] - largest);
          sum += weight;
          for (std::size_t d = 0; d < acc.size(); ++d) acc[d] += weight * double{values[first + i][d]};
        }
        float* const out = result.data() + ((t - begin) * shape.q_heads + h) * shape.head_dim;
        for (std::size_t d = 0; d < acc.size(); ++d) out[d] = static_cast<float>(acc[d] / sum);
        if (lse != nullptr) (*lse)[(t - begin) * shape.q_heads + h] = static_cast<float>(largest + std::log(sum));
      }
    }
  }
  return result;
}

std::vector<float> BruteProbe(const FakeModel& model, std::span<const TokenId> tokens, std::size_t first, std::size_t layer,
                              std::span<const float> q, float scale) {
  const ModelShape& shape = model.shape();
  std::vector<float> result(std::size_t{shape.q_heads} * shape.head_dim);
  for (std::size_t h = 0; h < shape.q_heads; ++h) {
    const std::size_t kv = h / (shape.q_heads / shape.kv_heads);
    double sum = 0;
    std::vector<double> acc(shape.head_dim);
    for (std::size_t p = first; p < tokens.size(); ++p) {
      const std::vector<float> k = model.Row(tokens, p, Side::kKey, layer, kv);
      const std::vector<float> v = model.Row(tokens, p, Side::kValue, layer, kv);
      double dot = 0;
      for (std::size_t d = 0; d < k.size(); ++d) dot += double{q[d]} * double{k[d]};
      const double weight = std::exp(dot * double{scale});  // logits of a few units: no overflow
      sum += weight;
      for (std::size_t d = 0; d < v.size(); ++d) acc[d] += weight * double{v[d]};
    }
    for (std::size_t d = 0; d < acc.size(); ++d) result[h * shape.head_dim + d] = static_cast<float>(acc[d] / sum);
  }
  return result;
}

Conversation::Conversation(Client& client, Sequence sequence, const FakeModel& model, std::vector<TokenId> tokens,
                           std::uint32_t max_step)
    : sequence_(std::move(sequence)),
      model_(model),
      tokens_(std::move(tokens)),
      q_(client.Allocate(max_step, model.shape().q_heads, model.shape().head_dim).value()),
      out_tensor_(client.Allocate(max_step, model.shape().q_heads, model.shape().head_dim).value()),
      lse_tensor_(client.Allocate(max_step, model.shape().q_heads, 1).value()),
      sink_tensor_(client.Allocate(1, model.shape().q_heads, 1).value()) {}

Result<void> Conversation::AttendOnly(std::span<const TokenId> tokens, WriteMode mode, const AttendStyle& style) {
  const ModelShape& shape = model_.shape();
  const std::size_t length = sequence_.length();
  std::vector<TokenId> all(tokens_.begin(), tokens_.begin() + static_cast<std::ptrdiff_t>(length));
  all.insert(all.end(), tokens.begin(), tokens.end());
  auto rows = sequence_.Reserve(tokens.size());
  if (!rows) return rows.error();
  const std::size_t n = rows->tokens();
  out_.clear();
  lse_.clear();
  const std::vector<float> sink_logits = style.SinkLogits(shape);
  std::copy(sink_logits.begin(), sink_logits.end(), sink_tensor_.f32());
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    if (mode == WriteMode::kInPlace) {
      for (const Side side : {Side::kKey, Side::kValue}) {
        const TensorView view = side == Side::kKey ? rows->Keys(layer) : rows->Values(layer);
        for (std::size_t t = 0; t < n; ++t) {
          for (std::size_t h = 0; h < shape.kv_heads; ++h) {
            const std::vector<float> row = model_.Row(all, length + t, side, layer, h);
            for (std::size_t d = 0; d < row.size(); ++d) {
              StoreElement(view.data, view.type, t * view.token_stride + h * view.head_stride + d, row[d]);
            }
          }
        }
      }
    } else {
      // Engines' layouts, with some room between rows.
      const std::size_t padded = shape.head_dim + 8;
      const bool token_major = mode == WriteMode::kAppendTokenMajor;
      const std::size_t token_stride = token_major ? shape.kv_heads * padded : padded;
      const std::size_t head_stride = token_major ? padded : n * padded;
      std::vector<float> sides[2];
      for (const Side side : {Side::kKey, Side::kValue}) {
        std::vector<float>& rows_of_side = sides[static_cast<std::size_t>(side)];
        rows_of_side.assign(n * shape.kv_heads * padded, NAN);  // what lies between rows must not matter
        for (std::size_t t = 0; t < n; ++t) {
          for (std::size_t h = 0; h < shape.kv_heads; ++h) {
            const std::vector<float> row = model_.Row(all, length + t, side, layer, h);
            std::copy(row.begin(), row.end(),
                      rows_of_side.begin() + static_cast<std::ptrdiff_t>(t * token_stride + h * head_stride));
          }
        }
      }
      const auto view = [&](const std::vector<float>& data) {
        return ConstTensorView{data.data(), ElementType::kF32, n, shape.kv_heads, shape.head_dim, token_stride, head_stride};
      };
      if (auto appended = sequence_.Append(layer, view(sides[0]), view(sides[1])); !appended) return appended;
    }
    for (std::size_t t = 0; t < n; ++t) {
      for (std::size_t h = 0; h < shape.q_heads; ++h) {
        const std::vector<float> q = model_.Row(all, length + t, Side::kQuery, layer, h);
        std::copy(q.begin(), q.end(), q_.f32() + (t * shape.q_heads + h) * shape.head_dim);
      }
    }
    TensorView q = q_.view();
    TensorView out = out_tensor_.view();
    q.tokens = out.tokens = n;
    const AttendArgs args{.q = AsConst(q),
                          .out = out,
                          .lse = lse_tensor_.f32(),
                          .sink_logits = style.sinks ? sink_tensor_.f32() : nullptr,
                          .scale = style.scale(shape),
                          .softcap = style.softcap,
                          .window = style.window};
    if (auto attended = sequence_.Attend(layer, args); !attended) return attended;
    out_.insert(out_.end(), out_tensor_.f32(), out_tensor_.f32() + n * shape.q_heads * shape.head_dim);
    lse_.insert(lse_.end(), lse_tensor_.f32(), lse_tensor_.f32() + n * shape.q_heads);
  }
  return {};
}

Result<void> Conversation::Step(std::span<const TokenId> tokens, WriteMode mode, const AttendStyle& style) {
  if (auto attended = AttendOnly(tokens, mode, style); !attended) return attended;
  const std::size_t n = out_.size() / model_.shape().layers / model_.shape().q_heads / model_.shape().head_dim;
  const std::uint64_t before = sequence_.length();
  auto advanced = sequence_.Advance(tokens.first(n));
  tokens_.resize(before);
  if (sequence_.length() == before + n)
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n));
  return advanced;
}

std::vector<float> Conversation::Feed(std::span<const TokenId> tokens, std::size_t chunk, WriteMode mode,
                                      const AttendStyle& style, std::vector<float>* lse) {
  std::vector<float> outputs;
  while (!tokens.empty()) {
    const std::uint64_t before = sequence_.length();
    const auto stepped = Step(tokens.first(std::min(chunk, tokens.size())), mode, style);
    if (!stepped) {
      ADD_FAILURE() << "step at " << before << ": " << ErrorCodeName(stepped.error().code) << ": " << stepped.error().message;
      return outputs;
    }
    const std::uint64_t n = sequence_.length() - before;
    AppendByToken(out_, n, outputs);
    if (lse != nullptr) AppendByToken(lse_, n, *lse);
    tokens = tokens.subspan(n);
  }
  return outputs;
}

void Conversation::AppendByToken(std::span<const float> by_layer, std::size_t tokens, std::vector<float>& to) const {
  const std::size_t layers = model_.shape().layers;
  const std::size_t width = by_layer.size() / layers / tokens;
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t layer = 0; layer < layers; ++layer) {
      const auto row = by_layer.subspan((layer * tokens + t) * width, width);
      to.insert(to.end(), row.begin(), row.end());
    }
  }
}

std::vector<float> Conversation::Expected(std::size_t begin, std::size_t end, const AttendStyle& style,
                                          std::vector<float>* lse) const {
  std::vector<float> by_layer;
  std::vector<float> lse_by_layer;
  for (std::size_t layer = 0; layer < model_.shape().layers; ++layer) {
    std::vector<float> layer_lse;
    const std::vector<float> outputs = BruteForce(model_, tokens_, begin, end, layer, style, &layer_lse);
    by_layer.insert(by_layer.end(), outputs.begin(), outputs.end());
    lse_by_layer.insert(lse_by_layer.end(), layer_lse.begin(), layer_lse.end());
  }
  std::vector<float> result;
  AppendByToken(by_layer, end - begin, result);
  if (lse != nullptr) AppendByToken(lse_by_layer, end - begin, *lse);
  return result;
}

double MaxDifference(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return INFINITY;
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(double{a[i]} - double{b[i]});
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

}  // namespace kvant::testing
