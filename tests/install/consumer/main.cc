// Uses the installed library as an engine would, with a daemon inside this process, and checks the numbers it gets back.
#include <kvant/admin.h>
#include <kvant/client.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

constexpr std::size_t kTokens = 40;
constexpr std::size_t kDim = 64;

template <typename T>
T Must(kvant::Result<T> result, const char* what) {
  if (!result) {
    std::fprintf(stderr, "%s: %s\n", what, result.error().message.c_str());
    std::exit(1);
  }
  return std::move(result).value();
}

void Must(kvant::Result<void> result, const char* what) {
  if (!result) {
    std::fprintf(stderr, "%s: %s\n", what, result.error().message.c_str());
    std::exit(1);
  }
}

kvant::StoreSpec Spec() {
  kvant::StoreSpec spec;
  spec.name = "consumer";
  spec.model = "none";
  spec.tokenizer = "none";
  spec.layers = 1;
  spec.kv_heads = 1;
  spec.head_dim = kDim;
  spec.dtype = kvant::ElementType::kF32;
  spec.block_tokens = 16;
  spec.plan.keys = "f32";
  spec.plan.values = "f32";
  return spec;
}

// Softmax attention of `query` over all rows, in double.
std::vector<double> Reference(const std::vector<float>& keys, const std::vector<float>& values, const std::vector<float>& query,
                              double scale) {
  std::vector<double> out(kDim, 0.0);
  double sum = 0.0;
  for (std::size_t t = 0; t < kTokens; ++t) {
    double logit = 0.0;
    for (std::size_t i = 0; i < kDim; ++i) logit += static_cast<double>(query[i]) * static_cast<double>(keys[t * kDim + i]);
    const double weight = std::exp(scale * logit);
    sum += weight;
    for (std::size_t i = 0; i < kDim; ++i) out[i] += weight * static_cast<double>(values[t * kDim + i]);
  }
  for (double& x : out) x /= sum;
  return out;
}

}  // namespace

int main() {
  kvant::ClientOptions options;
  options.arena_bytes = std::size_t{16} << 20;
  options.embedded_budget_bytes = std::size_t{16} << 20;
  auto client = Must(kvant::Client::Connect("embedded:", options), "connect");
  auto store = Must(client.OpenStore(Spec()), "open store");
  kvant::SequenceOptions sequence_options;
  sequence_options.tail_type = kvant::ElementType::kF32;
  sequence_options.recent_tokens = 0;
  auto sequence = Must(store.Open({}, sequence_options), "open sequence");

  std::vector<float> keys(kTokens * kDim);
  std::vector<float> values(kTokens * kDim);
  std::vector<float> query(kDim);
  std::vector<float> out(kDim);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    keys[i] = std::sin(0.37f * static_cast<float>(i));
    values[i] = std::cos(0.11f * static_cast<float>(i));
  }
  for (std::size_t i = 0; i < kDim; ++i) query[i] = std::sin(1.0f + static_cast<float>(i));

  const float scale = 0.125f;
  for (std::size_t t = 0; t < kTokens; ++t) {
    (void)Must(sequence.Reserve(1), "reserve");
    const auto row = [&](const float* data) {
      return kvant::ConstTensorView{data, kvant::ElementType::kF32, 1, 1, kDim, kDim, kDim};
    };
    kvant::AttendArgs args;
    args.q = row(query.data());
    args.out = kvant::TensorView{out.data(), kvant::ElementType::kF32, 1, 1, kDim, kDim, kDim};
    args.scale = scale;
    Must(sequence.Step(0, row(&keys[t * kDim]), row(&values[t * kDim]), args), "step");
    const kvant::TokenId token = static_cast<kvant::TokenId>(t);
    Must(sequence.Advance({&token, 1}), "advance");
  }

  const std::vector<double> expected = Reference(keys, values, query, static_cast<double>(scale));
  for (std::size_t i = 0; i < kDim; ++i) {
    if (!(std::fabs(expected[i] - static_cast<double>(out[i])) < 1e-5)) {
      std::fprintf(stderr, "out[%zu] is %g, not %g\n", i, static_cast<double>(out[i]), expected[i]);
      return 1;
    }
  }
  std::printf("kvant %s: attention over %llu tokens agrees with the reference\n", client.daemon().version.c_str(),
              static_cast<unsigned long long>(sequence.length()));
  return 0;
}
