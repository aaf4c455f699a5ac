// Who is refused what, and why: every error that the daemon answers goes through here.
#pragma once

#include <cstdint>
#include <string_view>

#include <kvant/kvant.capnp.h>

#include <kvant/result.h>

#include "daemon/store/figure.h"

namespace kvant::daemon {

struct ClientRecord;
struct Services;
class Session;

/// Connections and calls that were refused, each counted once.
struct Refusals {
  std::uint64_t connection_limit = 0;
  std::uint64_t no_descriptor = 0;
  std::uint64_t version = 0;
  std::uint64_t stale_daemon = 0;
  std::uint64_t not_admin = 0;
  std::uint64_t not_owner = 0;
  std::uint64_t not_found = 0;
  std::uint64_t invalid_argument = 0;
  std::uint64_t unsupported = 0;
  std::uint64_t identity_mismatch = 0;
  std::uint64_t no_room = 0;
  std::uint64_t tail_full = 0;
  std::uint64_t not_finite = 0;
  std::uint64_t corrupt = 0;
  std::uint64_t not_now = 0;
  std::uint64_t fault = 0;
};

inline constexpr FigureFamily kRefusalFamily{"refusals", "reason", "connections and calls that were refused, by why"};
inline constexpr auto kRefusals = DescribeFigures<Refusals>({
    {&Refusals::connection_limit,
     {"connection_limit", FigureKind::kCounter, FigureUnit::kCount, "connections beyond --max-connections"}},
    {&Refusals::no_descriptor,
     {"no_descriptor", FigureKind::kCounter, FigureUnit::kCount, "connections for which descriptors or memory lacked"}},
    {&Refusals::version,
     {"version", FigureKind::kCounter, FigureUnit::kCount, "clients of another protocol or segment layout version"}},
    {&Refusals::stale_daemon,
     {"stale_daemon", FigureKind::kCounter, FigureUnit::kCount, "clients and calls that meant a daemon before this one"}},
    {&Refusals::not_admin,
     {"not_admin", FigureKind::kCounter, FigureUnit::kCount, "peers that asked to administer and may not"}},
    {&Refusals::not_owner,
     {"not_owner", FigureKind::kCounter, FigureUnit::kCount, "calls on sequences that belong to another session"}},
    {&Refusals::not_found,
     {"not_found", FigureKind::kCounter, FigureUnit::kCount,
      "calls that named a store, sequence, arena or block that is not there for them"}},
    {&Refusals::invalid_argument,
     {"invalid_argument", FigureKind::kCounter, FigureUnit::kCount, "calls that can never succeed as they were written"}},
    {&Refusals::unsupported,
     {"unsupported", FigureKind::kCounter, FigureUnit::kCount, "calls for what this shape, codec or placement does not offer"}},
    {&Refusals::identity_mismatch,
     {"identity_mismatch", FigureKind::kCounter, FigureUnit::kCount, "calls whose store or file is of another identity"}},
    {&Refusals::no_room,
     {"no_room", FigureKind::kCounter, FigureUnit::kCount,
      "calls for which the budget, a quota or the limit of arenas had no room"}},
    {&Refusals::tail_full, {"tail_full", FigureKind::kCounter, FigureUnit::kCount, "calls for which a tail had no free rows"}},
    {&Refusals::not_finite,
     {"not_finite", FigureKind::kCounter, FigureUnit::kCount, "calls whose rows hold NaN, infinity or a number too large"}},
    {&Refusals::corrupt, {"corrupt", FigureKind::kCounter, FigureUnit::kCount, "calls whose bytes fail their checksum"}},
    {&Refusals::not_now,
     {"not_now", FigureKind::kCounter, FigureUnit::kCount,
      "calls for which it was not the time: the daemon is ending, something is in use, too much is in work"}},
    {&Refusals::fault,
     {"fault", FigureKind::kCounter, FigureUnit::kCount, "calls that the operating system or a fault of the daemon's ended"}},
});

/// The counter of an error's code.
std::uint64_t Refusals::*ReasonOf(ErrorCode code) noexcept;

/// `client`: null if it is not known. Those who watch are told, too.
void CountRefusal(Services& services, std::uint64_t Refusals::*reason, std::string_view message,
                  const ClientRecord* client = nullptr);

/// Write an outcome into its answer, and count it if it is an error. Loop thread.
void WriteRefusal(Services& services, const Error& error, wire::Error::Builder to);
void WriteRefusal(Session& session, const Error& error, wire::Error::Builder to);
void WriteOutcome(Services& services, const Result<void>& outcome, wire::Status::Builder to);
void WriteOutcome(Session& session, const Result<void>& outcome, wire::Status::Builder to);

}  // namespace kvant::daemon
