// Live sequences of all stores by their global id.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <random>

#include <kvant/result.h>

namespace kvant::daemon {

class Sequence;
class Reader;
struct Tenant;

/// Owns nothing: sequences and readers enter and leave by themselves. Loop thread.
/// Ids carry bits of the boot token, so that an id of an earlier daemon is told apart; the rest is drawn at random, so that
/// nobody can tell from his own ids how many others there are.
class SequenceTable {
 public:
  explicit SequenceTable(std::uint64_t boot_token) noexcept;
  SequenceTable(const SequenceTable&) = delete;
  SequenceTable& operator=(const SequenceTable&) = delete;

  std::uint64_t Add(Sequence& sequence);
  std::uint64_t Add(Reader& reader);
  void Remove(std::uint64_t id) noexcept;

  /// kStaleDaemon for an id of another daemon, kNotFound for one that is closed or was never given; a reader's id leads to its
  /// source. With a tenant, what is another's is answered exactly as what was never there.
  [[nodiscard]] Result<Sequence*> Find(std::uint64_t id, const Tenant* of = nullptr) const;

  /// Entries with an id >= `from`, in order of id, until `visit` answers false; exactly one of the two pointers is set.
  void ForEach(std::uint64_t from,
               const std::function<bool(std::uint64_t id, Sequence* sequence, Reader* reader)>& visit) const;
  [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }

 private:
  struct Entry {
    Sequence* sequence = nullptr;
    Reader* reader = nullptr;
  };
  Entry& NewEntry(std::uint64_t& id);

  const std::uint64_t epoch_;
  std::mt19937_64 random_{std::random_device{}()};
  std::map<std::uint64_t, Entry> entries_;
};

}  // namespace kvant::daemon
