#include "tests/support/kept_reference.h"

#include <algorithm>
#include <cmath>

namespace kvant::testing {

KeptReference::KeptReference(const FakeModel& model)
    : model_(model), heads_(std::size_t{model.shape().layers} * model.shape().kv_heads) {}

void KeptReference::SetTokens(const std::vector<TokenId>& tokens) {
  std::size_t same = 0;
  while (same < std::min(tokens.size(), tokens_.size()) && tokens[same] == tokens_[same]) ++same;
  tokens_ = tokens;
  for (std::size_t layer = 0; layer < model_.shape().layers; ++layer) {
    for (std::size_t h = 0; h < model_.shape().kv_heads; ++h) {
      Head& head = At(layer, h);
      head.keys.resize(same);
      head.values.resize(same);
      head.dropped.resize(same);
      head.dropped.resize(tokens.size(), false);
      head.votes.resize(same);
      head.votes.resize(tokens.size(), 0.0);
      for (std::size_t p = same; p < tokens.size(); ++p) {
        head.keys.push_back(model_.Row(tokens, p, Side::kKey, layer, h));
        head.values.push_back(model_.Row(tokens, p, Side::kValue, layer, h));
      }
    }
  }
}

void KeptReference::SetWindow(std::size_t tokens, std::size_t sinks, std::size_t min) {
  window_ = tokens;
  sinks_ = sinks;
  min_ = min;
}

bool KeptReference::Sees(const Head& head, std::size_t query, std::size_t position) const {
  if (head.dropped[position]) return false;
  if (window_ == 0 || query < min_ || position < sinks_) return true;
  return position + window_ > query;
}

std::vector<double> KeptReference::Weights(const Head& head, std::span<const float> q, double scale, std::size_t query,
                                           std::size_t end) const {
  std::vector<double> weights(end, -INFINITY);
  for (std::size_t p = 0; p < end; ++p) {
    if (!Sees(head, query, p)) continue;
    double dot = 0;
    for (std::size_t d = 0; d < q.size(); ++d) dot += double{q[d]} * double{head.keys[p][d]};
    weights[p] = dot * scale;
  }
  const double largest = *std::ranges::max_element(weights);
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - largest);
  for (double& weight : weights) weight /= sum;
  return weights;
}

std::vector<float> KeptReference::Attend(std::size_t layer, std::size_t begin, std::size_t end) {
  const ModelShape& shape = model_.shape();
  std::vector<float> outputs;
  for (std::size_t t = begin; t < end; ++t) {
    for (std::size_t h = 0; h < shape.q_heads; ++h) {
      Head& head = At(layer, h / (shape.q_heads / shape.kv_heads));
      const std::vector<float> q = model_.Row(tokens_, t, Side::kQuery, layer, h);
      const auto weights = Weights(head, q, double{AttendStyle{}.scale(shape)}, t, t + 1);
      std::vector<double> out(shape.head_dim);
      for (std::size_t p = 0; p < weights.size(); ++p) {
        head.votes[p] += weights[p];
        for (std::size_t d = 0; d < out.size(); ++d) out[d] += weights[p] * double{head.values[p][d]};
      }
      for (const double x : out) outputs.push_back(static_cast<float>(x));
    }
  }
  return outputs;
}

std::vector<float> KeptReference::Probe(std::size_t layer, std::span<const float> q, float scale) const {
  const ModelShape& shape = model_.shape();
  std::vector<float> outputs;
  for (std::size_t h = 0; h < shape.q_heads; ++h) {
    const Head& head = At(layer, h / (shape.q_heads / shape.kv_heads));
    const auto weights = Weights(head, q, double{scale}, tokens_.size(), tokens_.size());
    for (std::size_t d = 0; d < shape.head_dim; ++d) {
      double sum = 0;
      for (std::size_t p = 0; p < weights.size(); ++p) sum += weights[p] * double{head.values[p][d]};
      outputs.push_back(static_cast<float>(sum));
    }
  }
  return outputs;
}

/// The lowest score goes, of equal ones the older, until the budget holds.
void KeptReference::Drop(Head& head, const std::vector<double>& scores, std::size_t budget, std::size_t recent,
                         std::size_t sinks) {
  const std::size_t tokens = head.dropped.size();
  for (auto kept = static_cast<std::size_t>(std::ranges::count(head.dropped, false)); kept > budget; --kept) {
    std::size_t worst = tokens;
    for (std::size_t p = sinks; p + recent < tokens; ++p) {
      if (!head.dropped[p] && (worst == tokens || scores[p] < scores[worst])) worst = p;
    }
    if (worst == tokens) return;
    head.dropped[worst] = true;
  }
}

void KeptReference::ApplySnapKV(const Snap& snap) {
  const ModelShape& shape = model_.shape();
  const std::size_t tokens = tokens_.size(), counted = tokens > snap.window ? tokens - snap.window : 0;
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    for (std::size_t h = 0; h < shape.kv_heads; ++h) {
      Head& head = At(layer, h);
      std::vector<double> votes(tokens), pooled(tokens);
      const std::size_t group = shape.q_heads / shape.kv_heads;
      for (std::size_t t = counted; t < tokens; ++t) {
        for (std::size_t g = h * group; g < (h + 1) * group; ++g) {
          const auto weights =
              Weights(head, model_.Row(tokens_, t, Side::kQuery, layer, g), double{AttendStyle{}.scale(shape)}, t, t + 1);
          for (std::size_t p = 0; p < weights.size(); ++p) votes[p] += weights[p];
        }
      }
      for (std::size_t p = 0; p < counted; ++p) {
        double largest = 0, sum = 0;
        for (std::size_t k = 0; k < snap.kernel; ++k) {
          const std::size_t at = p + k - snap.kernel / 2;  // wraps below 0, beyond any length
          if (at >= counted) continue;
          largest = std::max(largest, votes[at]);
          sum += votes[at];
        }
        pooled[p] = snap.max ? largest : sum / static_cast<double>(snap.kernel);
      }
      Drop(head, pooled, snap.budget, snap.window, snap.sinks);
    }
  }
}

void KeptReference::ApplyH2O(std::size_t budget, std::size_t recent, std::size_t sinks) {
  for (Head& head : heads_) Drop(head, head.votes, budget, recent, sinks);
}

void KeptReference::Keep(std::size_t layer, std::size_t head, std::span<const std::uint64_t> positions) {
  std::vector<bool>& dropped = At(layer, head).dropped;
  for (std::size_t p = 0; p < dropped.size(); ++p) {
    if (std::ranges::find(positions, p) == positions.end()) dropped[p] = true;
  }
}

std::vector<std::uint64_t> KeptReference::Kept(std::size_t layer, std::size_t head) const {
  std::vector<std::uint64_t> kept;
  for (std::size_t p = 0; p < tokens_.size(); ++p) {
    if (Sees(At(layer, head), tokens_.size() - 1, p)) kept.push_back(p);
  }
  return kept;
}

}  // namespace kvant::testing
