// What is wrong with a daemon, in sentences: figures and facts in, advice out. Touches nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/admin.h>

namespace kvant::tools {

enum class Severity : std::uint8_t {
  kWrong,  ///< results, blocks or clients were lost, or will be
  kNote,   ///< works, and could work better
};

struct Finding {
  Severity severity = Severity::kNote;
  std::string about;   ///< snake_case, for scripts: budget, quota, keys, clients, rows, memory
  std::string what;    ///< a sentence with figures
  std::string advice;  ///< what to do
};

/// The machine that the daemon runs on: kvantctl's own, for a unix socket does not leave it. Empty where Linux did not say.
struct Machine {
  std::optional<std::uint64_t> available_bytes;  ///< MemAvailable
  std::optional<std::string> shmem_huge_pages;   ///< the choice made in shmem_enabled: never, advise, within_size, always, ...
};

/// What /proc/meminfo says of memory that is available, in bytes.
std::optional<std::uint64_t> AvailableBytes(std::string_view meminfo);
/// The word in brackets.
std::optional<std::string> ChosenWord(std::string_view setting);

/// What is wrong first; empty if nothing is known to be.
std::vector<Finding> FindingsOf(const StatsReport& stats, const std::vector<StoreRow>& stores,
                                const std::vector<ClientRow>& clients, const Machine& machine);

}  // namespace kvant::tools
