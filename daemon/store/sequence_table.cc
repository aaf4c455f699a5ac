#include "daemon/store/sequence_table.h"

#include <string>

#include "daemon/store/sequence.h"

namespace kvant::daemon {
namespace {

constexpr unsigned kEpochShift = 40;

}  // namespace

SequenceTable::SequenceTable(std::uint64_t boot_token) noexcept
    : epoch_((boot_token % 0x7FFFFF + 1) << kEpochShift) {}  // never 0, and the sign bit stays clear

SequenceTable::Entry& SequenceTable::NewEntry(std::uint64_t& id) {
  for (;;) {
    id = epoch_ | (random_() & ((std::uint64_t{1} << kEpochShift) - 1));
    if (const auto [entry, made] = entries_.try_emplace(id); made) return entry->second;
  }
}

std::uint64_t SequenceTable::Add(Sequence& sequence) {
  std::uint64_t id = 0;
  NewEntry(id).sequence = &sequence;
  return id;
}

std::uint64_t SequenceTable::Add(Reader& reader) {
  std::uint64_t id = 0;
  NewEntry(id).reader = &reader;
  return id;
}

void SequenceTable::Remove(std::uint64_t id) noexcept { entries_.erase(id); }

Result<Sequence*> SequenceTable::Find(std::uint64_t id, const Tenant* of) const {
  const std::string name = "sequence " + std::to_string(id);
  if (id >> kEpochShift != epoch_ >> kEpochShift) {
    return Error{id == 0 ? ErrorCode::kNotFound : ErrorCode::kStaleDaemon, name + " was not given by this daemon"};
  }
  const auto entry = entries_.find(id);
  const auto foreign = [of](const Entry& found) {
    const Store& store = found.reader != nullptr ? found.reader->store() : found.sequence->store();
    return of != nullptr && store.tenant() != of;
  };
  if (entry == entries_.end() || foreign(entry->second))
    return Error{ErrorCode::kNotFound, name + " is closed or was never opened"};
  if (entry->second.reader != nullptr) return entry->second.reader->source();
  return entry->second.sequence;
}

void SequenceTable::ForEach(std::uint64_t from, const std::function<bool(std::uint64_t, Sequence*, Reader*)>& visit) const {
  for (auto at = entries_.lower_bound(from); at != entries_.end(); ++at) {
    if (!visit(at->first, at->second.sequence, at->second.reader)) return;
  }
}

}  // namespace kvant::daemon
