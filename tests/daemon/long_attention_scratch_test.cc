// How much scratch memory long calls of attention have at a time. Which call has begun shows by which ends: nothing hangs on
// how quick the machine is, for the endless ones would take minutes.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "daemon/serve/attend_job.h"
#include "daemon/serve/long_attention.h"
#include "tests/daemon/core_support.h"

namespace kvant::daemon {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

/// Calls over one sequence, each of a session of its own. What ends is counted by the thread that posts.
class LongAttentionScratchTest : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kTokens = 16384;
  /// Heads of a call of one token whose partial results take almost a quarter of what all may take: four leave 3 MiB.
  static constexpr std::uint32_t kManyHeads = 229'000;
  /// And of one that takes less than 3 MiB, and some ten slices of time.
  static constexpr std::uint32_t kFewHeads = 2048;

  LongAttentionScratchTest() {
    StoreSpec spec = SmallSpec();
    spec.layers = spec.kv_heads = 1;
    spec.sink_tokens = 0;
    const SequenceConfig config{.recent_tokens = 8, .max_step_tokens = kTokens, .client = "test", .label = ""};
    sequence_.emplace(TestSequence::Open(core_.stores.Open(spec).value().store, {}, config));
    sequence_->Advance(Tokens(kTokens));
    core_.encode.RunAll();
    q_.resize(std::size_t{kManyHeads} * spec.head_dim);
    out_.resize(q_.size());
  }
  ~LongAttentionScratchTest() override {
    for (const auto& [name, job] : jobs_) job->Cancel();
    long_attention_.reset();
  }

  /// `window` 0: all tokens.
  void Submit(int name, std::uint32_t heads, std::uint32_t window) {
    auto job = std::make_shared<AttendJob>(std::vector<std::shared_ptr<const Arena>>());
    const TensorView out{.data = out_.data(),
                         .type = ElementType::kF32,
                         .tokens = 1,
                         .heads = heads,
                         .dim = 16,
                         .token_stride = out_.size(),
                         .head_stride = 16};
    ASSERT_TRUE(job->Add(0, 1,
                         {.sequence = sequence_->sequence.get(),
                          .q = {.data = q_.data(),
                                .type = out.type,
                                .tokens = out.tokens,
                                .heads = out.heads,
                                .dim = out.dim,
                                .token_stride = out.token_stride,
                                .head_stride = out.head_stride},
                          .out = out,
                          .scale = 0.25F,
                          .window = window}));
    scratch_bytes_[name] = job->scratch_bytes();
    jobs_[name] = job;
    long_attention_->Submit(job.get(), job, [this, name] {
      const std::lock_guard lock(mutex_);
      ended_.push_back(name);
      changed_.notify_all();
    });
  }
  [[nodiscard]] bool Ended(int name) {
    const std::lock_guard lock(mutex_);
    return std::ranges::find(ended_, name) != ended_.end();
  }
  [[nodiscard]] bool EndsSoon(int name) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(200), [&] { return std::ranges::find(ended_, name) != ended_.end(); });
  }
  /// A call whose scratch always fits, and which takes many slices: until it has ended, every call that was there before it and
  /// may begin has begun.
  void LetOthersBegin(int name) {
    Submit(name, kFewHeads, 0);
    ASSERT_TRUE(EndsSoon(name));
  }

  TestCore core_;
  std::optional<TestSequence> sequence_;
  std::vector<float> q_, out_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int> ended_;
  std::map<int, std::shared_ptr<AttendJob>> jobs_;
  std::map<int, std::size_t> scratch_bytes_;
  std::unique_ptr<LongAttention> long_attention_ =
      std::make_unique<LongAttention>(1, 0, [](const std::function<void()>& done) { done(); });
};

TEST_F(LongAttentionScratchTest, CallsWaitUntilTheirsFitsBesideThatOfThoseInWork) {
  std::size_t in_work = 0;
  for (int endless = 1; endless <= 4; ++endless) {
    Submit(endless, kManyHeads, 0);
    in_work += scratch_bytes_[endless];
  }
  LetOthersBegin(5);
  Submit(6, kManyHeads, 16);  // quick: 16 tokens
  ASSERT_LE(in_work + scratch_bytes_[5], 256 * kMiB);
  ASSERT_GT(in_work + scratch_bytes_[6], 256 * kMiB);
  LetOthersBegin(7);
  EXPECT_FALSE(Ended(6)) << "there is no room for its scratch";
  for (int endless = 1; endless <= 4; ++endless) EXPECT_FALSE(Ended(endless));
  jobs_[3]->Cancel();
  EXPECT_TRUE(EndsSoon(6)) << "there is room now";
  EXPECT_TRUE(Ended(3));
}

}  // namespace
}  // namespace kvant::daemon
