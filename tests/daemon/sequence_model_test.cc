// Random work on two small stores that share one budget, against a model that keeps nothing but the tokens of every sequence.
#include <map>
#include <random>

#include <gtest/gtest.h>

#include "tests/daemon/core_support.h"
#include "tests/support/seeds.h"

namespace kvant::daemon {
namespace {

struct Live {
  TestSequence held;
  std::vector<std::uint64_t> marks;
  SequenceConfig config;
};

class Model {
 public:
  explicit Model(std::uint32_t seed) : random_(seed) {
    for (const char* name : {"a", "b"}) {
      StoreSpec spec = SmallSpec(name);
      spec.salt = name;
      spec.layers = 4;
      spec.head_dim = 64;  // slots of 65 KiB: fifteen fill the budget
      stores_.push_back(core_.stores.Open(spec).value().store);
    }
  }

  void Step() {
    switch (Below(12)) {
      case 0:
        if (live_.size() < 7) Open();
        break;
      case 1:
        if (!live_.empty() && Below(3) == 0) Close();
        break;
      case 2:
        if (!live_.empty() && live_.size() < 7) Fork();
        break;
      case 3: Trim(); break;
      case 4: Mark(); break;
      case 5: Rewind(); break;
      case 6:
        if (Below(4) == 0) static_cast<void>(core_.stores.Evict({.max_blocks = Below(3)}, false).value());
        break;
      case 7: core_.populate.RunAll(); break;
      case 8:
        if (core_.encode.size() != 0) core_.encode.RunAt(Below(core_.encode.size()));
        break;
      default: Advance(); break;
    }
    Check();
  }

  void End() {
    core_.encode.RunAll();
    core_.populate.RunAll();
    live_.clear();
    for (const auto& store : stores_) {
      EXPECT_EQ(store->Figures().leases, 0u);
      EXPECT_EQ(store->Figures().leased_blocks, 0u);
      EXPECT_EQ(store->Figures().sequences, 0u);
      store->EvictAll();
      EXPECT_EQ(store->Figures().blocks, 0u);
      EXPECT_EQ(store->pool().used_slots(), 0u);
    }
    EXPECT_EQ(core_.budget.slab_bytes(), 0u);
    EXPECT_EQ(core_.core.sequences.size(), 0u);
  }

  /// What the work met; a test that meets none of it proves little.
  std::uint64_t evicted() const { return core_.stores.Totals().counters.evicted_blocks; }
  std::uint64_t deduplicated() const { return core_.stores.Totals().counters.deduplicated_blocks; }
  std::uint64_t full() const { return full_; }
  std::uint64_t hits() const { return hits_; }

 private:
  std::size_t Below(std::size_t n) { return n == 0 ? 0 : random_() % n; }

  /// Conversations with much in common: three beginnings, then few different continuations.
  std::vector<std::uint32_t> Talk(std::size_t length) {
    std::vector<std::uint32_t> tokens = Tokens(length, 1 + static_cast<std::uint32_t>(Below(3)));
    const std::uint32_t turn = static_cast<std::uint32_t>(Below(5));
    for (std::size_t i = 40; i < length; ++i) tokens[i] += turn;
    return tokens;
  }

  Live& Any() { return live_[Below(live_.size())]; }

  void Open() {
    const auto& store = stores_[Below(2)];
    const SequenceConfig config{
        .recent_tokens = static_cast<std::uint32_t>(Below(40)), .max_step_tokens = 20, .client = "", .label = ""};
    const std::vector<std::uint32_t> tokens = Talk(Below(120));
    const ElementType type = static_cast<ElementType>(Below(3));
    auto opened = Sequence::Open(store, tokens, MakeTail(store->spec(), config, type), config);
    if (!opened) {
      EXPECT_EQ(opened.error().code, ErrorCode::kStoreFull);
      return;
    }
    const std::size_t hit = (*opened)->length();
    hits_ += hit;
    ASSERT_EQ(hit % 16, 0u);
    live_.push_back({{std::move(*opened), {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(hit)}}, {}, config});
  }

  void Close() { live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(Below(live_.size()))); }

  void Advance() {
    if (live_.empty()) return;
    Live& live = Any();
    const std::size_t length = live.held.tokens.size();
    // Continues one of the talks, so that the same blocks come up again.
    std::vector<std::uint32_t> more = Talk(length + 1 + Below(20));
    more.erase(more.begin(), more.begin() + static_cast<std::ptrdiff_t>(length));
    const bool fits = more.size() <= live.held.sequence->free_rows();
    std::optional<Result<Advanced>> answer;
    live.held.Advance(more, &answer, Below(3) == 0 ? SealWait::kDue : SealWait::kSwitched);
    while (!answer) core_.encode.RunAt(Below(core_.encode.size()));
    if (!fits) {
      EXPECT_EQ(answer->error().code, ErrorCode::kTailFull);
      return;
    }
    ASSERT_TRUE(answer->has_value()) << answer->error().message;
    if ((*answer)->seal_error) {
      EXPECT_EQ((*answer)->seal_error->code, ErrorCode::kStoreFull) << (*answer)->seal_error->message;
      ++full_;
    } else if (live.marks.empty()) {
      EXPECT_GE((*answer)->switched_blocks,
                quantizers::ScheduledSeals(live.held.tokens.size(), 16, live.config.recent_tokens).switched);
    }
  }

  void Trim() {
    if (live_.empty() || Below(2) == 0) return;
    Live& live = Any();
    const std::uint64_t length = Below(live.held.tokens.size() + 1);
    const std::uint64_t raw = live.held.sequence->tail_first_position();
    ASSERT_TRUE(live.held.sequence->Trim(length).has_value());
    live.held.tokens.resize(length);
    std::erase_if(live.marks, [&](std::uint64_t mark) { return mark > length || length < raw; });
  }

  void Fork() {
    Live& source = Any();
    const std::uint64_t at = Below(source.held.tokens.size() + 1);
    const SequenceConfig config{
        .recent_tokens = static_cast<std::uint32_t>(Below(40)), .max_step_tokens = 20, .client = "", .label = ""};
    Store& store = source.held.sequence->store();
    auto forked =
        Sequence::Fork(*source.held.sequence, at, MakeTail(store.spec(), config, static_cast<ElementType>(Below(3))), config);
    if (!forked) {
      EXPECT_TRUE(forked.error().code == ErrorCode::kStoreFull || forked.error().code == ErrorCode::kTailFull);
      return;
    }
    std::vector<std::uint32_t> tokens = source.held.tokens;
    tokens.resize(at);
    live_.push_back({{std::move(*forked), std::move(tokens)}, {}, config});
  }

  void Mark() {
    if (live_.empty()) return;
    Live& live = Any();
    if (live.marks.size() < 3) live.marks.push_back(live.held.sequence->SetMark().value());
  }

  void Rewind() {
    if (live_.empty()) return;
    Live& live = Any();
    if (live.marks.empty()) return;
    const std::uint64_t mark = live.marks[Below(live.marks.size())];
    if (Below(2) == 0) {
      const auto before = live.held.sequence->switched_blocks();
      ASSERT_TRUE(live.held.sequence->Rewind(mark).has_value());
      EXPECT_EQ(live.held.sequence->switched_blocks(), before);
      live.held.tokens.resize(mark);
      std::erase_if(live.marks, [&](std::uint64_t other) { return other > mark; });
    } else {
      bool answered = false;
      live.held.sequence->Release(mark, [&](const Result<Advanced>& result) { answered = result.has_value(); });
      while (!answered) core_.encode.RunAt(Below(core_.encode.size()));
      live.marks.erase(std::ranges::find(live.marks, mark));
    }
  }

  void Check() {
    ASSERT_LE(core_.budget.slab_bytes() + core_.budget.metadata_bytes(), core_.budget.limit());
    std::size_t slab_bytes = 0;
    std::map<const Block*, std::uint32_t> leases;
    for (const Live& live : live_) {
      ASSERT_EQ(live.held.Fault(), "");
      ASSERT_EQ(std::vector<std::uint64_t>(live.held.sequence->marks().begin(), live.held.sequence->marks().end()), live.marks);
      for (const Block* block : live.held.sequence->blocks()) ++leases[block];
    }
    for (const auto& store : stores_) {
      slab_bytes += store->pool().held_bytes();
      for (const Block* block : store->index().blocks()) ASSERT_EQ(block->leases, leases[block]);
    }
    ASSERT_EQ(slab_bytes, core_.budget.slab_bytes());
  }

  TestCore core_{Budget::kMinimumBytes};
  std::vector<std::shared_ptr<Store>> stores_;
  std::vector<Live> live_;
  std::mt19937 random_;
  std::uint64_t full_ = 0;
  std::uint64_t hits_ = 0;
};

TEST(SequenceModelTest, RandomWorkMatchesANaiveModel) {
  const std::uint32_t base = kvant::testing::Seeds({1}).front();
  std::uint64_t evicted = 0, deduplicated = 0, full = 0, hits = 0;
  const auto met_all = [&] { return evicted > 0 && deduplicated > 0 && full > 0 && hits > 0; };
  for (std::uint32_t round = 0; round < 2 || (!met_all() && round < 30); ++round) {
    SCOPED_TRACE("seed " + std::to_string(base + round));
    Model model(base + round);
    for (int step = 0; step < 600 && !::testing::Test::HasFailure(); ++step) model.Step();
    if (!::testing::Test::HasFailure()) model.End();
    if (::testing::Test::HasFailure()) return;
    evicted += model.evicted();
    deduplicated += model.deduplicated();
    full += model.full();
    hits += model.hits();
  }
  EXPECT_TRUE(met_all()) << "seed " << base << ": evicted " << evicted << ", deduplicated " << deduplicated << ", full " << full
                         << ", hits " << hits;
}

}  // namespace
}  // namespace kvant::daemon
