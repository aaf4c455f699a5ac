#include "tests/daemon/day_world.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <span>

#include <gtest/gtest.h>
#include <xxhash.h>

#include "daemon/snapshot/restoration.h"
#include "daemon/store/held_stores.h"

namespace kvant::daemon {
namespace {

constexpr std::size_t kBudget = std::size_t{2} << 20;
constexpr std::size_t kMostLive = 8;
constexpr std::size_t kDemoteTo = 2;

struct Opened {
  const char* tenant;
  StoreSpec spec;
};

/// Two tenants that open the same, one more without loss, and one whose blocks can be made smaller.
std::vector<Opened> Specs() {
  StoreSpec large = SmallSpec("large");
  large.salt = "large";
  large.layers = 4;
  large.head_dim = 64;  // slots of 65 KiB
  StoreSpec planes = SmallSpec("planes");
  planes.salt = "planes";
  planes.head_dim = 64;
  planes.block_tokens = 128;
  planes.plan.keys = "turboquant_mse:bits=4,planes=1";
  planes.plan.values = "turboquant_mse:bits=4,planes=1";
  return {{"red", SmallSpec("chat")}, {"blue", SmallSpec("chat")}, {"red", large}, {"blue", planes}};
}

bool Exact(const Store& store) { return store.spec().plan.keys == "f32"; }

}  // namespace

DayWorld::Life::Life(EvictionKind eviction, Keeper& keeper) : core(kBudget, eviction, kDemoteTo, &keeper) {
  core.core.ttl_ms = kTtlMs;
}

/// Jobs that never ran hold stores, which are to go before what all stores share.
DayWorld::Life::~Life() {
  core.encode = QueueRunner();
  core.populate = QueueRunner();
}

DayWorld::DayWorld(std::uint32_t seed, EvictionKind eviction)
    : random_(seed), eviction_(eviction), life_(std::make_unique<Life>(eviction, shelf_)) {
  life_->core.core.eviction.now_ms = now_ms_;
  OpenStores();
}

DayWorld::~DayWorld() {
  life_.reset();
  while (!dead_.empty()) dead_.pop_back();  // their memory is nobody's any more
}

void DayWorld::OpenStores() {
  for (const Opened& opened : Specs()) {
    life_->stores.push_back(life_->core.stores.Open(opened.spec, opened.tenant).value().store);
  }
}

/// Any of them; one that went while it held nothing is opened again. Null if there is no room for its record.
std::shared_ptr<Store> DayWorld::AnyStore() {
  const std::size_t i = Below(life_->stores.size());
  std::shared_ptr<Store>& store = life_->stores[i];
  if (!store->dropped()) return store;
  auto opened = life_->core.stores.Open(store->spec(), store->tenant()->name);
  if (!opened) {
    EXPECT_EQ(opened.error().code, ErrorCode::kStoreFull) << opened.error().message;
    return nullptr;
  }
  Note("store opened again");
  return store = opened->store;
}

void DayWorld::Step() {
  Operate();
  if (::testing::Test::HasFailure()) return;
  now_ms_ += Below(2000);
  life_->core.core.eviction.now_ms = now_ms_;
  if (Below(3) == 0) life_->core.stores.Tend(Below(2) == 0 ? kBudget / 32 : 0, 1 + Below(64));
  if (Below(2) == 0) life_->core.populate.RunAll();
  Check();
}

void DayWorld::Operate() {
  switch (Below(40)) {
    case 0:
    case 1:
    case 2:
    case 3: return Open();
    case 4:
    case 5:
    case 6:
      if (!life_->live.empty()) life_->live.erase(life_->live.begin() + static_cast<std::ptrdiff_t>(Below(life_->live.size())));
      return Note("close");
    case 7:
    case 8: return Fork();
    case 9:
    case 10: return Trim();
    case 11:
    case 12: return Mark();
    case 13:
    case 14: return Rewind();
    case 15: return Pin();
    case 16: return Unpin();
    case 17: return Quota();
    case 18: return Demote();
    case 19: return Evict();
    case 20: return Save();
    case 21: return Restore();
    case 22:
      if (Below(6) == 0) Restart();
      return;
    case 23:
      if (Below(20) == 0) now_ms_ += kTtlMs;  // nobody is there for a while
      return;
    case 24:
    case 25:
    case 26:
      if (life_->core.encode.size() != 0) life_->core.encode.RunAt(Below(life_->core.encode.size()));
      return;
    default: return Advance();
  }
}

/// Conversations with much in common: three beginnings, then few different continuations.
std::vector<std::uint32_t> DayWorld::Talk(const Store& store, std::size_t length) {
  const std::size_t common = store.spec().block_tokens * 5 / 2;
  std::vector<std::uint32_t> tokens = Tokens(length, 1 + static_cast<std::uint32_t>(Below(3)));
  const auto turn = static_cast<std::uint32_t>(Below(8));
  for (std::size_t i = common; i < length; ++i) tokens[i] += turn;
  return tokens;
}

DayWorld::Live* DayWorld::AnyLive() { return life_->live.empty() ? nullptr : &life_->live[Below(life_->live.size())]; }

void DayWorld::Open() {
  if (life_->live.size() >= kMostLive) return;
  const std::shared_ptr<Store> store = AnyStore();
  if (store == nullptr) return;
  const SequenceConfig config{.recent_tokens = static_cast<std::uint32_t>(Below(40)),
                              .max_step_tokens = 48,
                              .client = "",
                              .label = "",
                              .priority = static_cast<std::uint32_t>(Below(kMaxPriority + 1))};
  const std::vector<std::uint32_t> tokens = Talk(*store, Below(8 * store->spec().block_tokens));
  auto opened = Sequence::Open(store, tokens, MakeTail(store->spec(), config), config);
  if (!opened) {
    EXPECT_EQ(opened.error().code, ErrorCode::kStoreFull) << opened.error().message;
    return Note("open refused");
  }
  const std::size_t hit = (*opened)->length();
  // What the model says is there must have been found, and nothing else.
  protocol::Digest chain = store->identity();
  std::size_t expected = 0;
  for (std::size_t at = 0; at + store->spec().block_tokens <= tokens.size(); at += store->spec().block_tokens) {
    chain = protocol::ChainDigest(chain, std::span(tokens).subspan(at, store->spec().block_tokens));
    if (!there_.contains({store->tenant()->name, store->identity(), chain})) break;
    expected += store->spec().block_tokens;
  }
  // Making room for the sequence's own record may have taken nothing of the prefix: it is leased by then.
  EXPECT_EQ(hit, expected);
  if (hit != 0) Note("prefix found");
  Note("open");
  life_->live.push_back(
      {{std::move(*opened), {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(hit)}}, {}, config, Exact(*store)});
}

void DayWorld::Advance() {
  Live* const live = AnyLive();
  if (live == nullptr) return;
  const std::size_t length = live->held.tokens.size();
  std::vector<std::uint32_t> more = Talk(live->held.sequence->store(), length + 1 + Below(48));
  more.erase(more.begin(), more.begin() + static_cast<std::ptrdiff_t>(length));
  const bool fits = more.size() <= live->held.sequence->free_rows();
  std::optional<Result<Advanced>> answer;
  live->held.Advance(more, &answer, Below(3) == 0 ? SealWait::kDue : SealWait::kSwitched);
  while (!answer) life_->core.encode.RunAt(Below(life_->core.encode.size()));
  if (!fits) {
    EXPECT_EQ(answer->error().code, ErrorCode::kTailFull);
    return Note("tail full");
  }
  ASSERT_TRUE(answer->has_value()) << answer->error().message;
  Note("advance");
  if (!(*answer)->seal_error) return;
  EXPECT_EQ((*answer)->seal_error->code, ErrorCode::kStoreFull) << (*answer)->seal_error->message;
  Note("store full");
}

void DayWorld::Trim() {
  Live* const live = AnyLive();
  if (live == nullptr || Below(2) == 0) return;
  const std::uint64_t length = Below(live->held.tokens.size() + 1);
  const std::uint64_t raw = live->held.sequence->tail_first_position();
  ASSERT_TRUE(live->held.sequence->Trim(length).has_value());
  live->held.tokens.resize(length);
  std::erase_if(live->marks, [&](std::uint64_t mark) { return mark > length || length < raw; });
  Note("trim");
}

void DayWorld::Fork() {
  Live* const source = AnyLive();
  if (source == nullptr || life_->live.size() >= kMostLive) return;
  const std::uint64_t at = Below(source->held.tokens.size() + 1);
  const SequenceConfig config{
      .recent_tokens = static_cast<std::uint32_t>(Below(40)), .max_step_tokens = 48, .client = "", .label = ""};
  Store& store = source->held.sequence->store();
  auto forked = Sequence::Fork(*source->held.sequence, at, MakeTail(store.spec(), config), config);
  if (!forked) {
    EXPECT_TRUE(forked.error().code == ErrorCode::kStoreFull || forked.error().code == ErrorCode::kTailFull);
    return Note("fork refused");
  }
  std::vector<std::uint32_t> tokens = source->held.tokens;
  tokens.resize(at);
  const bool exact = source->exact;
  life_->live.push_back({{std::move(*forked), std::move(tokens)}, {}, config, exact});
  Note("fork");
}

void DayWorld::Mark() {
  Live* const live = AnyLive();
  if (live == nullptr || live->marks.size() >= 3) return;
  live->marks.push_back(live->held.sequence->SetMark().value());
  Note("mark");
}

void DayWorld::Rewind() {
  Live* const live = AnyLive();
  if (live == nullptr || live->marks.empty()) return;
  const std::uint64_t mark = live->marks[Below(live->marks.size())];
  if (Below(2) == 0) {
    ASSERT_TRUE(live->held.sequence->Rewind(mark).has_value());
    live->held.tokens.resize(mark);
    std::erase_if(live->marks, [&](std::uint64_t other) { return other > mark; });
    return Note("rewind");
  }
  bool answered = false;
  live->held.sequence->Release(mark, [&](const Result<Advanced>& result) { answered = result.has_value(); });
  while (!answered) life_->core.encode.RunAt(Below(life_->core.encode.size()));
  live->marks.erase(std::ranges::find(live->marks, mark));
}

void DayWorld::Pin() {
  const std::shared_ptr<Store> of = AnyStore();
  if (of == nullptr) return;
  Store& store = *of;
  std::vector<Block*> blocks = store.index().blocks();
  if (blocks.empty()) return;
  std::ranges::sort(blocks, {}, &Block::generation);
  Block* const end = blocks[Below(blocks.size())];
  const std::uint64_t time = 1 + Below(15 * 60 * 1000);
  const auto pin = life_->core.stores.Pin({end}, std::chrono::milliseconds(time));
  if (!pin) {
    EXPECT_EQ(pin.error().code, ErrorCode::kStoreFull) << pin.error().message;
    return Note("pin refused");
  }
  PinModel model{.blocks = {}, .end_ms = now_ms_ + time};
  for (const Block* block = end; block != nullptr; block = block->parent) {
    model.blocks.insert({store.tenant()->name, store.identity(), block->chain});
  }
  EXPECT_TRUE(pins_.emplace(pin->id, std::move(model)).second) << "a pin's number comes once";
  Note("pin");
}

void DayWorld::Unpin() {
  if (pins_.empty() || Below(2) == 0) return;
  const auto pin = std::next(pins_.begin(), static_cast<std::ptrdiff_t>(Below(pins_.size())));
  EXPECT_TRUE(life_->core.stores.Unpin(pin->first).has_value() || pin->second.end_ms <= now_ms_);
  pins_.erase(pin);
  Note("unpin");
}

void DayWorld::Quota() {
  if (Below(3) == 0) {
    const std::shared_ptr<Store> store = AnyStore();
    if (store == nullptr) return;
    const std::uint64_t ttl = Below(4) == 0 ? 0 : 60'000 + Below(kTtlMs);
    life_->core.stores.SetQuota(*store, std::nullopt, ttl);
    ttls_[{store->tenant()->name, store->identity()}] = ttl;
    return Note("ttl");
  }
  const std::string tenant = Below(2) == 0 ? "red" : "blue";
  const std::size_t limit = Below(2) == 0 ? Budget::kUnlimited : kBudget / 4 + Below(kBudget);
  life_->core.stores.SetQuota(*life_->core.stores.FindTenant(tenant), limit);
  tenant_limits_[tenant] = limit;
  Note("quota");
}

void DayWorld::Demote() {
  const std::shared_ptr<Store> store = AnyStore();
  if (store == nullptr) return;
  const auto figures = store->Demote({.sections = 1 + Below(4), .max_blocks = 1 + Below(4)});
  ASSERT_TRUE(figures.has_value());
  EXPECT_EQ(figures->corrupt, 0u);
  if (figures->blocks != 0) Note("demote");
}

void DayWorld::Evict() {
  const auto figures = life_->core.stores.Evict({.max_blocks = 1 + Below(3)}, false);
  ASSERT_TRUE(figures.has_value()) << figures.error().message;
  Note("evict");
}

void DayWorld::Save() {
  const std::shared_ptr<Store> store = AnyStore();
  if (store == nullptr || !Exact(*store) || store->index().size() == 0) return;
  auto leased = LeasedBlocks::Of(store, nullptr);
  if (!leased) {
    EXPECT_EQ(leased.error().code, ErrorCode::kStoreFull);
    return;
  }
  Saved saved{.spec = store->spec(), .tenant = store->tenant()->name, .blocks = {}};
  for (const LeasedBlocks::Entry& entry : (*leased)->entries()) {
    SavedBlock block{.tokens = entry.block->tokens, .parent = entry.parent, .sink_type = std::nullopt, .payloads = {}};
    if (const BlockPart* const sinks = entry.block->sinks()) block.sink_type = sinks->element_type;
    for (const BlockPart& part : entry.block->parts) {
      block.payloads.emplace_back(part.payload, part.payload + part.payload_bytes);
    }
    saved.blocks.push_back(std::move(block));
  }
  if (saved_.size() == 4) saved_.erase(saved_.begin());
  saved_.push_back(std::move(saved));
  Note("save");
}

void DayWorld::Restore() {
  if (saved_.empty()) return;
  const Saved& saved = saved_[Below(saved_.size())];
  const auto opened = life_->core.stores.Open(saved.spec, saved.tenant);
  if (!opened) return;
  const std::shared_ptr<Store> store = opened->store;
  Restoration restoration(life_->core.core);
  std::vector<bool> wanted;
  for (const SavedBlock& block : saved.blocks) {
    auto offered = restoration.Offer(store, {.tokens = block.tokens, .parent = block.parent, .sink_type = block.sink_type});
    ASSERT_TRUE(offered.has_value()) << offered.error().message;
    wanted.push_back(*offered);
  }
  if (auto reserved = restoration.Reserve(); !reserved) {
    EXPECT_EQ(reserved.error().code, ErrorCode::kStoreFull) << reserved.error().message;
    return Note("restore refused");
  }
  const bool given_up = Below(4) == 0;  // a client that dies half-way
  for (std::size_t i = 0; i < saved.blocks.size(); ++i) {
    if (!wanted[i]) continue;
    if (given_up && Below(4) == 0) return Note("restore given up");
    auto slots = restoration.Begin(i);
    if (!slots) {
      EXPECT_EQ(slots.error().code, ErrorCode::kStoreFull) << slots.error().message;
      return Note("restore refused");
    }
    for (std::size_t part = 0; part < slots->size(); ++part) {
      SlotToFill& slot = (*slots)[part];
      ASSERT_TRUE(slot.Populate());
      const std::vector<std::byte>& payload = saved.blocks[i].payloads.at(part);
      ASSERT_EQ(slot.bytes, payload.size());
      std::memcpy(slot.payload, payload.data(), payload.size());
      slot.checksum = XXH3_64bits(payload.data(), payload.size());
      ASSERT_TRUE(slot.Finish());
    }
    restoration.Filled(i);
  }
  ASSERT_TRUE(restoration.Commit().has_value());
  Note("restore");
}

/// kill -9, and the next daemon.
void DayWorld::Restart() {
  dead_.push_back(std::move(life_));
  life_ = std::make_unique<Life>(eviction_, shelf_);
  life_->core.core.eviction.now_ms = now_ms_;
  const HeldFigures figures = RestoreHeld(life_->core.core, life_->core.stores, shelf_.Copies());
  EXPECT_EQ(figures.dropped_parts, 0u);
  EXPECT_EQ(figures.blocks, there_.size()) << "everything that was sealed";
  OpenStores();
  gone_ = 0;
  held_.clear();
  Note("restart");
}

void DayWorld::End() {
  life_->core.encode.RunAll();
  life_->core.populate.RunAll();
  life_->live.clear();
  for (const auto& [id, pin] : pins_) static_cast<void>(life_->core.stores.Unpin(id));
  for (const auto& store : life_->stores) {
    EXPECT_EQ(store->Figures().leases, 0u);
    EXPECT_EQ(store->Figures().sequences, 0u);
    store->EvictAll();
    EXPECT_EQ(store->pool().used_slots(), 0u);
  }
  EXPECT_EQ(life_->core.budget.slab_bytes(), 0u);
  EXPECT_EQ(life_->core.core.eviction.coarse_blocks, 0u);
  EXPECT_EQ(life_->core.core.sequences.size(), 0u);
}

}  // namespace kvant::daemon
