// What tests of a session over the wire share: a client with an arena and an open store, rows that it writes, and plain
// attention in double over them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "protocol/wire.h"
#include "tests/daemon/rpc_client.h"

namespace kvant::daemon {

inline constexpr std::uint32_t kQHeads = 4;
inline constexpr std::uint64_t kArenaBytes = 1 << 20;
inline constexpr std::uint64_t kQ = 512 << 10;  // behind the tails
inline constexpr std::uint64_t kOut = 576 << 10;
inline constexpr std::uint64_t kLse = 640 << 10;

/// A sequence's rows as the test knows them, and attention over them.
class Reference {
 public:
  Reference(const StoreSpec& spec, std::uint64_t seed) : spec_(spec), random_(seed) {}

  void Append();
  [[nodiscard]] const float* Row(std::size_t position, std::size_t layer, std::size_t side, std::size_t head) const {
    return rows_[position].data() + ((layer * 2 + side) * spec_.kv_heads + head) * spec_.head_dim;
  }
  [[nodiscard]] std::size_t size() const { return rows_.size(); }
  void Resize(std::size_t n) { rows_.resize(n); }

  /// Attention of one query row over positions [0, end); the log-sum-exp in `lse`.
  std::vector<double> Attend(const float* q, std::size_t q_head, std::size_t layer, std::size_t end, double scale,
                             double* lse) const;

 private:
  StoreSpec spec_;
  std::mt19937_64 random_;
  std::vector<std::vector<float>> rows_;
};

class SessionRpcTest : public ::testing::Test {
 protected:
  void SetUp() override;

  /// Tokens and rows [from, reference.size()) into the tail, then advance by as many; the length after it.
  std::uint64_t Advance(std::uint64_t sequence, const Reference& reference, std::size_t from, const RpcTail& tail);
  static std::uint32_t Token(std::size_t position) { return static_cast<std::uint32_t>(position * 7 + 1); }
  static std::vector<std::uint32_t> Tokens(std::size_t n);
  void WriteRows(const Reference& reference, std::size_t from, const RpcTail& tail);
  /// Advances token by token, as decoding does.
  void Feed(std::uint64_t sequence, Reference& reference, std::size_t until, const RpcTail& tail);

  using AttendRequest = capnp::Request<wire::Session::AttendParams, wire::Session::AttendResults>;
  void FillAttend(wire::AttendItem::Builder item, std::uint64_t sequence, std::uint32_t layer, std::uint32_t tokens,
                  std::uint32_t new_tokens);
  AttendRequest GoodAttend(std::uint64_t sequence);
  Result<void> Attend(AttendRequest& request) { return wire::ReadStatus(client_.Wait(request.send()).getOutcomes()[0]); }

  /// Compares an attend of `tokens` queries in every layer with the reference: rows [length, length + new_tokens) are new.
  void ExpectAttention(std::uint64_t sequence, const Reference& reference, std::size_t length, std::uint32_t tokens,
                       std::uint32_t new_tokens);

  Error RefusedStore(const StoreSpec& spec);

  std::unique_ptr<Daemon> daemon_ = Daemon::Start(RpcOptions()).value();
  std::unique_ptr<kj::AsyncIoContext> io_ = MakeLoop();
  RpcClient client_{*io_, daemon_->Connect().value()};
  RpcTail tail_;
  std::uint32_t arena_ = 0;
  std::uint32_t store_ = 0;
  std::uint32_t switched_ = 0;
};

}  // namespace kvant::daemon
