// kvant_bench snapshot: saving a store and restoring it, beside a plain copy of the same bytes on the same file system.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <kvant/client.h>

#include "protocol/digest.h"
#include "protocol/memfd.h"
#include "protocol/system_error.h"
#include "tools/bench/parts.h"
#include "tools/bench/series.h"

namespace kvant::tools {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kTarget = 0.8;  // of a plain copy's speed
constexpr std::size_t kCopyBytes = std::size_t{1} << 20;
constexpr std::uint32_t kStep = 256;

const std::vector<FigureColumn> kColumns = {{"TOKENS", "tokens", "%.0f"},
                                            {"BLOCKS", "blocks", "%.0f"},
                                            {"GB", "bytes", "%.3f", 1e9},
                                            {"SAVE GB/s", "save_bytes_per_s", "%.2f", 1e9},
                                            {"OF A COPY", "save_share", "%.2f"},
                                            {"RESTORE GB/s", "restore_bytes_per_s", "%.2f", 1e9},
                                            {"OF A COPY", "restore_share", "%.2f"},
                                            {"EXTRA MiB", "extra_bytes", "%.1f", 1048576},
                                            {"TARGET", "target"}};

StoreSpec Spec(const BenchOptions& options) {
  StoreSpec spec;
  spec.name = spec.model = spec.tokenizer = "bench";
  spec.layers = 28;
  spec.kv_heads = 8;
  spec.head_dim = 128;
  spec.block_tokens = 64;
  spec.sink_tokens = 4;
  spec.plan.keys = options.keys.empty() ? "turboquant_mse:bits=4" : options.keys;
  spec.plan.values = options.values.empty() ? "turboquant_mse:bits=4" : options.values;
  return spec;
}

std::vector<TokenId> Text(std::size_t tokens) {
  std::vector<TokenId> text(tokens);
  for (std::size_t i = 0; i < tokens; ++i) text[i] = static_cast<TokenId>(i * 7919 % 50021);
  return text;
}

/// A daemon of its own, inside this process.
struct Cache {
  Client client;
  Store store;

  static Result<Cache> Make(const StoreSpec& spec, std::size_t budget_bytes) {
    auto client = Client::Connect("embedded:", {.name = "bench", .embedded_budget_bytes = budget_bytes});
    if (!client) return client.error();
    auto store = client->OpenStore(spec);
    if (!store) return store.error();
    return Cache{*std::move(client), *std::move(store)};
  }
};

Result<void> Fill(Store& store, const StoreSpec& spec, const std::vector<TokenId>& text) {
  auto sequence = store.Open({}, {.recent_tokens = 16, .max_step_tokens = kStep});
  if (!sequence) return sequence.error();
  std::vector<float> rows(std::size_t{kStep} * spec.kv_heads * spec.head_dim);
  std::uint64_t state = 1;
  for (float& x : rows) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    x = static_cast<float>(static_cast<std::int32_t>(state >> 32)) * 0x1p-30F;
  }
  const ConstTensorView view{.data = rows.data(),
                             .type = ElementType::kF32,
                             .tokens = kStep,
                             .heads = spec.kv_heads,
                             .dim = spec.head_dim,
                             .token_stride = std::size_t{spec.kv_heads} * spec.head_dim,
                             .head_stride = spec.head_dim};
  for (std::size_t at = 0; at + kStep <= text.size(); at += kStep) {
    if (auto reserved = sequence->Reserve(kStep); !reserved) return reserved.error();
    for (std::size_t layer = 0; layer < spec.layers; ++layer) {
      if (auto done = sequence->Append(layer, view, view); !done) return done;
    }
    if (auto done = sequence->Advance(std::span(text).subspan(at, kStep)); !done) return done;
  }
  return {};
}

/// Of all rows of the longest sealed prefix, as attention would read them.
Result<protocol::Digest> DigestOfRows(Store& store, const StoreSpec& spec, const std::vector<TokenId>& text) {
  auto sequence = store.Open(text, {.recent_tokens = 16, .max_step_tokens = kStep});
  if (!sequence) return sequence.error();
  const auto tokens = static_cast<std::size_t>(sequence->prefix_hit_tokens());
  const std::size_t side = tokens * spec.kv_heads * spec.head_dim;
  std::vector<float> rows(2 * side);
  const auto view = [&](float* at) {
    return TensorView{.data = at,
                      .type = ElementType::kF32,
                      .tokens = tokens,
                      .heads = spec.kv_heads,
                      .dim = spec.head_dim,
                      .token_stride = std::size_t{spec.kv_heads} * spec.head_dim,
                      .head_stride = spec.head_dim};
  };
  std::vector<protocol::Digest> layers;
  for (std::size_t layer = 0; tokens != 0 && layer < spec.layers; ++layer) {
    if (auto copied = sequence->CopyRows(layer, 0, tokens, view(rows.data()), view(rows.data() + side)); !copied) {
      return copied.error();
    }
    layers.push_back(protocol::DigestOf(std::as_bytes(std::span(rows))));
  }
  return protocol::DigestOf(std::as_bytes(std::span(layers)));
}

double Seconds(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// What a save is held against: the same bytes from memory into a new file, made durable as a save is.
Result<double> WriteCopy(const std::vector<std::byte>& bytes, const std::string& path) {
  const auto begin = Clock::now();
  const protocol::UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  for (std::size_t at = 0; fd.valid() && at < bytes.size();) {
    const ssize_t done = ::write(fd.get(), bytes.data() + at, std::min(kCopyBytes, bytes.size() - at));
    if (done < 0) return protocol::SystemError("copy to " + path, errno);
    at += static_cast<std::size_t>(done);
  }
  if (!fd.valid() || ::fsync(fd.get()) != 0) return protocol::SystemError("copy to " + path, errno);
  return Seconds(begin);
}

/// What a restore is held against: the file into fresh shared memory.
Result<double> ReadCopy(const std::string& path, std::size_t bytes) {
  const auto begin = Clock::now();
  const protocol::UniqueFd from(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  auto memory = protocol::CreateSealedMemfd("kvant-bench", bytes);
  if (!memory) return memory.error();
  void* const to = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory->get(), 0);
  if (to == MAP_FAILED) return protocol::SystemError("map a copy", errno);
  Result<double> took = 0.0;
  for (std::size_t at = 0; at < bytes;) {
    const ssize_t done = ::read(from.get(), static_cast<std::byte*>(to) + at, std::min(kCopyBytes, bytes - at));
    if (done <= 0) {
      took = protocol::SystemError("copy from " + path, errno);
      break;
    }
    at += static_cast<std::size_t>(done);
  }
  if (took) took = Seconds(begin);
  ::munmap(to, bytes);
  return took;
}

/// Private memory of this process: what is neither a store's nor an arena's.
std::uint64_t PrivateBytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    std::uint64_t kib = 0;
    if (word == "RssAnon:" && status >> kib) return kib * 1024;
  }
  return 0;
}

/// The most that PrivateBytes grows while something runs that reports its progress here.
class ExtraMemory {
 public:
  SnapshotProgress progress() {
    return [this](std::uint64_t, std::uint64_t) {
      if (calls_++ % 64 == 0) most_ = std::max(most_, PrivateBytes());
      return true;
    };
  }
  [[nodiscard]] std::uint64_t bytes() const { return most_ > before_ ? most_ - before_ : 0; }

 private:
  const std::uint64_t before_ = PrivateBytes();
  std::uint64_t most_ = 0;
  std::size_t calls_ = 0;
};

Result<void> Measure(const BenchOptions& options, std::size_t tokens, FigureReport& report) {
  const StoreSpec spec = Spec(options);
  const std::vector<TokenId> text = Text(tokens / kStep * kStep);
  constexpr std::size_t kBudget = std::size_t{1} << 32;
  const std::string file = "kvant-bench-" + std::to_string(::getpid()) + ".safetensors", copy = file + ".copy";
  const std::unique_ptr<const std::string, void (*)(const std::string*)> remove(&file, [](const std::string* path) {
    ::unlink(path->c_str());
    ::unlink((*path + ".copy").c_str());
  });
  auto cache = Cache::Make(spec, kBudget);
  if (!cache) return cache.error();
  if (auto filled = Fill(cache->store, spec, text); !filled) return filled;
  auto rows = DigestOfRows(cache->store, spec, text);
  auto saved = cache->store.Save(file);
  if (!rows || !saved) return rows ? saved.error() : rows.error();
  std::vector<std::byte> bytes(saved->bytes);
  std::ifstream(file, std::ios::binary).read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));

  const std::size_t rounds = options.length == BenchOptions::Length::kFull ? std::min<std::size_t>(options.rounds, 5) : 1;
  std::vector<double> save_s, save_share, restore_s, restore_share;
  std::uint64_t extra = 0;
  for (std::size_t round = 0; round < rounds; ++round) {
    const auto written = WriteCopy(bytes, copy);
    if (!written) return written.error();
    ExtraMemory saving;
    auto begin = Clock::now();
    if (auto again = cache->store.Save(file, std::nullopt, saving.progress()); !again) return again.error();
    save_s.push_back(Seconds(begin));
    save_share.push_back(*written / save_s.back());

    const auto read = ReadCopy(file, bytes.size());
    if (!read) return read.error();
    auto fresh = Cache::Make(spec, kBudget);
    if (!fresh) return fresh.error();
    ExtraMemory restoring;
    begin = Clock::now();
    const auto restored = fresh->store.Load(file, restoring.progress());
    restore_s.push_back(Seconds(begin));
    if (!restored) return restored.error();
    restore_share.push_back(*read / restore_s.back());
    extra = std::max({extra, saving.bytes(), restoring.bytes()});
    const auto same = DigestOfRows(fresh->store, spec, text);
    if (!same) return same.error();
    if (*same != *rows || restored->restored != saved->blocks) {
      return Error{ErrorCode::kInternal, "snapshot: what was restored is not what was saved"};
    }
  }
  const auto size = static_cast<double>(bytes.size());
  Json& figure = report.Begin();
  figure["tokens"] = text.size();
  figure["blocks"] = saved->blocks;
  figure["bytes"] = size;
  figure["save_bytes_per_s"] = size / Median(save_s);
  figure["save_share"] = Median(save_share);
  figure["restore_bytes_per_s"] = size / Median(restore_s);
  figure["restore_share"] = Median(restore_share);
  figure["extra_bytes"] = extra;
  figure["target"] = ">= 0.8 of a copy";
  figure["target_met"] = Median(save_share) >= kTarget && Median(restore_share) >= kTarget;
  report.End();
  return {};
}

}  // namespace

int BenchSnapshot(const Globals& globals, const BenchOptions& options) {
  FigureReport report("snapshot");
  std::vector<std::size_t> tokens = options.tokens;
  if (tokens.empty()) {
    tokens =
        options.length == BenchOptions::Length::kFull ? std::vector<std::size_t>{2048, 16384} : std::vector<std::size_t>{512};
  }
  const StoreSpec spec = Spec(options);
  report.head()["keys"] = spec.plan.keys;
  report.head()["values"] = spec.plan.values;
  for (const std::size_t each : tokens) {
    if (auto done = Measure(options, each, report); !done) return Report(globals, done.error());
  }
  report.Print(globals, kColumns);
  return kOk;
}

}  // namespace kvant::tools
