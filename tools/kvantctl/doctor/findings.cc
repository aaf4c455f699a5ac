#include "tools/kvantctl/doctor/findings.h"

#include <algorithm>
#include <charconv>
#include <chrono>

#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

/// Of the budget. From here on most new blocks cost an old one.
constexpr double kNearlyFull = 0.9;
/// Tokens looked up, before their hits say anything.
constexpr std::uint64_t kFewTokens = 10'000;
/// Blocks sealed for each that was wanted after its eviction: fewer are worth a note.
constexpr std::uint64_t kEvictedShare = 100;
/// Without a call, while blocks are held.
constexpr std::chrono::minutes kStale{10};

class Doctor {
 public:
  Doctor(const StatsReport& stats, const std::vector<StoreRow>& stores, const std::vector<ClientRow>& clients,
         const Machine& machine)
      : stats_(stats), figures_(stats.figures), stores_(stores), clients_(clients), machine_(machine) {}

  std::vector<Finding> Look() {
    Budget();
    Evicted();
    Quotas();
    Keys();
    Rows();
    Clients();
    StaleClients();
    Memory();
    std::ranges::stable_sort(findings_, {}, &Finding::severity);
    return std::move(findings_);
  }

 private:
  [[nodiscard]] std::uint64_t Of(std::string_view name) const { return figures_.Find(name).value_or(0); }
  void Wrong(std::string about, std::string what, std::string advice) {
    findings_.push_back({Severity::kWrong, std::move(about), std::move(what), std::move(advice)});
  }
  void Note(std::string about, std::string what, std::string advice) {
    findings_.push_back({Severity::kNote, std::move(about), std::move(what), std::move(advice)});
  }

  void Budget() {
    const std::uint64_t budget = Of("budget_bytes");
    const std::uint64_t used = Of("resident_bytes") + Of("metadata_bytes");
    const bool full = static_cast<double>(used) >= kNearlyFull * static_cast<double>(budget);
    const std::string share = HumanShare(used, budget) + " of the budget of " + HumanBytes(budget);
    if (const std::uint64_t refused = Of("store_full_errors"); refused > 0) {
      Wrong("budget",
            HumanCount(refused) + " times a block could not be sealed for lack of room; " + share +
                " is used now, and sequences hold " + HumanShare(Of("leased_blocks"), Of("blocks")) + " of the blocks.",
            "Give kvantd a larger --budget, or close sequences: what they hold is not evicted.");
    }
    if (const std::uint64_t lost = Of("lost_blocks"); lost > 0) {
      Wrong("budget",
            HumanCount(lost) + " blocks were due and not sealed when their sequence ended; their tokens are computed again.",
            "Give kvantd a larger --budget.");
    }
    const std::uint64_t evicted = Of("evicted_blocks");
    const std::uint64_t asked = Of("prefix_lookup_tokens");
    const std::uint64_t found = Of("prefix_hit_tokens");
    if (full && evicted > 0 && asked >= kFewTokens && found < asked / 2) {
      Note("budget",
           HumanCount(evicted) + " blocks were evicted and " + share + " is used, while only " + HumanShare(found, asked) +
               " of the tokens looked up were found.",
           "If prompts come back later, a larger --budget keeps their prefixes.");
    }
  }

  void Evicted() {
    const std::uint64_t wanted = Of("evicted_then_wanted_blocks");
    if (wanted == 0 || wanted * kEvictedShare < Of("sealed_blocks")) return;
    std::string when;
    for (const Histogram& histogram : stats_.histograms) {
      if (histogram.name != "block_evict_to_wanted_seconds") continue;
      if (const auto half = BoundOfShare(histogram, 0.5)) when = ", half of them within " + HumanBound(*half);
    }
    Note("budget",
         HumanCount(wanted) + " blocks were wanted again after they had been evicted" + when + "; " +
             HumanCount(Of("sealed_blocks")) + " were sealed in all.",
         "A larger --budget would have kept them; `kvantctl pin` keeps a prompt that many share.");
  }

  void Quotas() {
    for (const char* of : {"tenant", "store"}) {
      const std::uint64_t refused = Of("room_refusals_" + std::string(of) + "_quota");
      if (refused == 0) continue;
      Note("quota", HumanCount(refused) + " times the quota of a " + of + " left no room.",
           "`kvantctl quota list` shows who is at his limit, `kvantctl quota set` gives him more.");
    }
  }

  void Keys() {
    for (const StoreRow& store : stores_) {
      if (!store.warning.empty()) {
        Wrong("keys", "Store \"" + store.name + "\": " + store.warning,
              "Choose keys with a centre, such as the preset balanced; `kvantctl inspect` shows the heads.");
      }
    }
  }

  void Rows() {
    if (const std::uint64_t errors = Of("not_finite_errors"); errors > 0) {
      Wrong("rows", HumanCount(errors) + " blocks held NaN, infinity or a number too large and could not be sealed.",
            "An engine writes such rows, or leaves rows unwritten: run it once with KVANT_POISON_ROWS=1 in its environment.");
    }
  }

  void Clients() {
    if (const std::uint64_t dropped = Of("dropped_clients"); dropped > 0) {
      Wrong("clients",
            HumanCount(dropped) + " clients did not beat for the length of the lease and were dropped, with their sequences.",
            "They were stopped, or swapped out: see to it, or raise --lease.");
    }
    const std::uint64_t beyond = Of("refusals_connection_limit");
    const std::uint64_t lacking = Of("refusals_no_descriptor");
    if (beyond + lacking > 0) {
      Wrong("clients",
            HumanCount(beyond + lacking) + " connections were refused, " + HumanCount(lacking) +
                " of them for want of descriptors or memory; " + HumanCount(Of("sessions")) + " clients are connected now.",
            "Raise --max-connections, or the daemon's limit of open files.");
    }
    if (const std::uint64_t refused = Of("refusals_version"); refused > 0) {
      Wrong("clients", HumanCount(refused) + " clients of another protocol version were refused.",
            "Bring engines and daemon to one version; `kvantctl monitor --only refused` shows who tries.");
    }
    if (const std::uint64_t refused = Of("refusals_not_admin"); refused > 0) {
      Note("clients", HumanCount(refused) + " times somebody asked to administer who may not.",
           "Run kvantctl as the daemon's user or as root; `kvantctl monitor --only refused` shows who tries.");
    }
  }

  void StaleClients() {
    for (const ClientRow& client : clients_) {
      if (client.idle < kStale || client.leases == 0) continue;
      Note("clients",
           "Client \"" + client.name + "\" (process " + std::to_string(client.pid) + ") has called nothing for " +
               HumanDuration(std::chrono::duration_cast<std::chrono::seconds>(client.idle)) + " and holds " +
               HumanCount(client.leases) + " blocks, which are not evicted meanwhile.",
           "If it is done, end it or let it close its sequences: its blocks stay for others until their room is needed.");
    }
  }

  void Memory() {
    const std::uint64_t budget = Of("budget_bytes");
    const std::uint64_t held = Of("resident_bytes") + Of("metadata_bytes");
    const std::uint64_t missing = budget > held ? budget - held : 0;
    if (machine_.available_bytes && *machine_.available_bytes < missing) {
      Note("memory",
           "The budget lets kvantd take " + HumanBytes(missing) + " more, and the machine has " +
               HumanBytes(*machine_.available_bytes) + " left.",
           "Lower --budget: what is not there the kernel takes from others, or ends somebody.");
    }
    const std::string pages = machine_.shmem_huge_pages.value_or("");
    if (pages == "always" || pages == "within_size" || pages == "force") {
      Note("memory",
           "Linux gives shared memory huge pages unasked (shmem_enabled is " + pages +
               "): a block of a few KiB then occupies 2 MiB, which the budget does not count.",
           "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled");
    }
  }

  const StatsReport& stats_;
  const Figures& figures_;
  const std::vector<StoreRow>& stores_;
  const std::vector<ClientRow>& clients_;
  const Machine& machine_;
  std::vector<Finding> findings_;
};

}  // namespace

std::optional<std::uint64_t> AvailableBytes(std::string_view meminfo) {
  constexpr std::string_view kField = "MemAvailable:";
  const std::size_t at = meminfo.find(kField);
  if (at == std::string_view::npos) return std::nullopt;
  std::string_view rest = meminfo.substr(at + kField.size());
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  std::uint64_t kib = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), kib);
  if (error != std::errc() || kib > UINT64_MAX / 1024) return std::nullopt;
  return kib * 1024;
}

std::optional<std::string> ChosenWord(std::string_view setting) {
  const std::size_t begin = setting.find('[');
  const std::size_t end = setting.find(']', begin);
  if (begin == std::string_view::npos || end == std::string_view::npos) return std::nullopt;
  return std::string(setting.substr(begin + 1, end - begin - 1));
}

std::vector<Finding> FindingsOf(const StatsReport& stats, const std::vector<StoreRow>& stores,
                                const std::vector<ClientRow>& clients, const Machine& machine) {
  return Doctor(stats, stores, clients, machine).Look();
}

}  // namespace kvant::tools
