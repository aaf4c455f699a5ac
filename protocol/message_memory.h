// What the connections of a process may hold in messages, all of them together.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <set>
#include <utility>

namespace kvant::wire {

/// Counts the bytes of messages that are coming in, being served or waiting to be sent. Every connection has a little that
/// counts for nobody else (kFreeBytes), so that whoever speaks in ordinary calls is served whatever others do. Beyond that all
/// share one limit: when it is reached the connection that holds most is cut off, and the next one, until the rest fits.
///
/// One thread. Shared with messages, which may outlive their connections.
class MessageMemory {
 public:
  static constexpr std::size_t kFreeBytes = std::size_t{64} << 10;

  explicit MessageMemory(std::size_t limit) : limit_(limit) {}
  MessageMemory(const MessageMemory&) = delete;
  MessageMemory& operator=(const MessageMemory&) = delete;

  /// One connection's share.
  class Account {
   public:
    explicit Account(std::shared_ptr<MessageMemory> memory) : memory_(std::move(memory)) {}
    ~Account() { Set(0); }
    Account(const Account&) = delete;
    Account& operator=(const Account&) = delete;

    /// `cut` ends the connection and gives back all that it can; called once at most, from inside Take of any account. Null:
    /// the connection has gone and cannot be cut; what lives on of it stays counted.
    void SetCut(std::function<void()> cut) { cut_ = std::move(cut); }

    /// False if this connection has been cut off, now or before. The bytes are counted either way.
    bool Take(std::size_t bytes);
    void Give(std::size_t bytes) { Set(bytes_ - bytes); }
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

   private:
    friend class MessageMemory;
    void Set(std::size_t bytes);

    const std::shared_ptr<MessageMemory> memory_;
    std::function<void()> cut_;
    bool cut_off_ = false;
    std::size_t bytes_ = 0;
  };

  [[nodiscard]] std::size_t used() const noexcept { return used_; }

 private:
  void CutUntilItFits();

  const std::size_t limit_;
  std::size_t used_ = 0;                              // beyond what is free, of all
  std::set<std::pair<std::size_t, Account*>> large_;  // accounts that hold more than is free, by bytes
};

/// Bytes of one account, given back on destruction. Movable.
class CountedBytes {
 public:
  /// Takes them. A null account counts nothing.
  CountedBytes(std::shared_ptr<MessageMemory::Account> account, std::size_t bytes)
      : account_(std::move(account)), bytes_(bytes) {
    if (account_ != nullptr) account_->Take(bytes_);
  }
  CountedBytes(CountedBytes&&) = default;
  CountedBytes& operator=(CountedBytes&&) = delete;
  ~CountedBytes() {
    if (account_ != nullptr) account_->Give(bytes_);
  }

 private:
  std::shared_ptr<MessageMemory::Account> account_;
  std::size_t bytes_;
};

}  // namespace kvant::wire
