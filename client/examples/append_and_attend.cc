// A tour of the client library in one page: keys and values in, attention out, and the second reader finds the first one's
// work.
//
//   append_and_attend [unix:PATH]        (without an argument the daemon runs inside this process)
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include <kvant/client.h>

namespace {

constexpr std::size_t kTokens = 300;
constexpr std::size_t kHeads = 2;
constexpr std::size_t kDim = 64;

/// Stands for a model: some smooth numbers.
float Wave(std::size_t token, std::size_t i) {
  return std::sin(0.1f * static_cast<float>(token + 1) + 0.3f * static_cast<float>(i));
}

void FillRows(const kvant::TensorView& rows, std::size_t first_token) {
  for (std::size_t t = 0; t < rows.tokens; ++t) {
    for (std::size_t h = 0; h < rows.heads; ++h) {
      float* row = static_cast<float*>(rows.data) + t * rows.token_stride + h * rows.head_stride;
      for (std::size_t i = 0; i < rows.dim; ++i) row[i] = Wave(first_token + t, h * kDim + i);
    }
  }
}

kvant::Result<void> Tour(const char* uri) {
  auto client = kvant::Client::Connect(uri);
  if (!client) return client.error();
  kvant::StoreSpec spec;
  spec.name = "tour";
  spec.model = "waves-1";
  spec.tokenizer = "none";
  spec.layers = 1;
  spec.kv_heads = kHeads;
  spec.head_dim = kDim;
  auto store = client->OpenStore(spec);  // created, or attached to if another process has it
  if (!store) return store.error();
  std::printf("store %s: %.2f bits per key element, %.2f per value element\n", store->info().name.c_str(),
              store->info().key_bits_per_element, store->info().value_bits_per_element);

  const std::vector<kvant::TokenId> tokens(kTokens, 7);
  kvant::SequenceOptions options;
  options.placement = kvant::Placement::kLocal;
  options.tail_type = kvant::ElementType::kF32;
  for (const char* reader : {"first", "second"}) {
    auto sequence = store->Open(tokens, options);
    if (!sequence) return sequence.error();
    std::printf("%s reader: %zu tokens found\n", reader, static_cast<std::size_t>(sequence->prefix_hit_tokens()));
    auto q = client->Allocate(1, kHeads, kDim);
    auto out = client->Allocate(1, kHeads, kDim);
    if (!q || !out) return !q ? q.error() : out.error();
    FillRows(q->view(), kTokens);

    while (sequence->length() < kTokens) {
      const std::size_t length = sequence->length();
      const std::size_t step = std::min<std::size_t>(kTokens - length, options.max_step_tokens);
      auto rows = sequence->Reserve(step);  // rows in shared memory: written in place, never copied
      if (!rows) return rows.error();
      FillRows(rows->Keys(0), length);
      FillRows(rows->Values(0), length);
      const auto advanced = sequence->Advance({tokens.data(), rows->tokens()});
      if (!advanced) return advanced.error();
    }
    kvant::AttendArgs args;
    args.q = kvant::AsConst(q->view());
    args.out = out->view();
    args.scale = 0.125f;
    const auto attended = sequence->Attend(0, args);
    if (!attended) return attended.error();
    std::printf("%s reader: output starts %.4f %.4f %.4f; %zu tensor bytes copied so far\n", reader, out->f32()[0],
                out->f32()[1], out->f32()[2], static_cast<std::size_t>(client->counters().bytes_copied));
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const auto done = Tour(argc > 1 ? argv[1] : "embedded:");
  if (!done) std::fprintf(stderr, "append_and_attend: %s\n", done.error().message.c_str());
  return done ? 0 : 1;
}
