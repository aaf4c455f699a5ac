// The first look at restored blocks, beside the loop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "daemon/memory/job_runner.h"
#include "daemon/store/store.h"

namespace kvant::daemon {

/// After a restart the bytes of a block are held against its checksum when somebody first asks for it (Store::Whole). Of a long
/// prefix that takes a good part of a second, in which nobody else would be answered: so whoever is about to open a sequence
/// has its blocks looked at here first. One prefix at a time, by all threads of the runner, so that many who ask for the same
/// blocks read them once. Owned by the daemon; loop thread.
class PrefixChecks {
 public:
  /// Less than this is left to whoever opens the sequence: it takes as long as the hand-off.
  static constexpr std::uint64_t kAtOnceBytes = std::uint64_t{1} << 20;
  /// What a job reads at most: about a millisecond, since encodings of others wait behind it.
  static constexpr std::uint64_t kJobBytes = std::uint64_t{8} << 20;

  using Tokens = std::function<std::vector<std::uint32_t>()>;

  explicit PrefixChecks(JobRunner& runner) : runner_(runner) {}
  PrefixChecks(const PrefixChecks&) = delete;
  PrefixChecks& operator=(const PrefixChecks&) = delete;

  /// Calls `done`, from inside the call or later, once no more than kAtOnceBytes of the sealed prefix of `tokens` are
  /// unchecked. The prefix is leased until `done` has returned. Blocks that are not whole are left to Store::Whole, which drops
  /// them. `tokens` is asked when its turn comes.
  void Check(std::shared_ptr<Store> store, Tokens tokens, std::function<void()> done);

 private:
  struct Request {
    std::shared_ptr<Store> store;
    Tokens tokens;
    std::function<void()> done;
  };
  struct Run;
  void GoOn();
  bool Begin(Request& request);

  JobRunner& runner_;
  std::deque<Request> waiting_;
  std::size_t running_jobs_ = 0;
  bool going_on_ = false;
};

}  // namespace kvant::daemon
