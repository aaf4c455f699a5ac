#include "daemon/program/retention_flags.h"

#include <charconv>
#include <cstdint>
#include <sstream>
#include <utility>

#include <CLI/CLI.hpp>

#include "protocol/byte_size.h"
#include "protocol/duration.h"

namespace kvant::daemon {
namespace {

/// "NAME=REST" split.
Result<std::pair<std::string, std::string>> SplitNamed(const char* option, const std::string& text) {
  const std::size_t sign = text.find('=');
  if (sign == std::string::npos || sign == 0) {
    return Error{ErrorCode::kInvalidArgument, std::string(option) + ": \"" + text + "\" is no NAME=VALUE"};
  }
  return std::pair(text.substr(0, sign), text.substr(sign + 1));
}

std::vector<std::string> EvictionNames() {
  std::vector<std::string> names;
  for (const auto& [name, kind] : kEvictionKinds) names.emplace_back(name);
  return names;
}

}  // namespace

void RetentionFlags::AddTo(CLI::App& app) {
  app.add_option("--eviction", eviction,
                 "Which of the blocks that nobody holds goes first when room is needed: the least recently used, the least "
                 "often found, S3-FIFO, or none")
      ->check(CLI::IsMember(EvictionNames()))
      ->capture_default_str();
  app.add_option("--demote-to", demote_to,
                 "Planes that codes of cold blocks keep (codecs with planes=1) when room is needed, before any block goes: at "
                 "most half of the blocks are cut down so; 0: none are")
      ->check(CLI::Range(0, 8))
      ->capture_default_str();
  app.add_option("--ttl", ttl, "Blocks that nobody uses so long go (90s, 15m, 12h, 7d); 0: only when room is needed")
      ->capture_default_str();
  app.add_option("--tenant", tenants, "NAME=UID[,UID...]: these peers are one tenant; others are one each, uid-UID");
  app.add_option("--quota", quotas, "NAME=SIZE: most bytes that a tenant's stores may take; see also kvantctl quota");
}

Result<void> RetentionFlags::Read(DaemonOptions& options) const {
  for (const auto& [name, kind] : kEvictionKinds) {
    if (name == eviction) options.eviction = kind;
  }
  if (demote_to != 0 && options.eviction == EvictionKind::kNone) {
    return Error{ErrorCode::kInvalidArgument, "--demote-to " + std::to_string(demote_to) + ": --eviction none makes no room"};
  }
  options.demote_to = static_cast<std::size_t>(demote_to);
  const auto time = protocol::ParseDuration(ttl);
  if (!time) return Error{time.error().code, "--ttl: " + time.error().message};
  options.ttl = *time;
  for (const std::string& text : tenants) {
    auto named = SplitNamed("--tenant", text);
    if (!named) return named.error();
    std::istringstream uids(named->second);
    for (std::string uid; std::getline(uids, uid, ',');) {
      std::uint32_t number = 0;
      const auto [end, error] = std::from_chars(uid.data(), uid.data() + uid.size(), number);
      if (error != std::errc{} || end != uid.data() + uid.size() || !options.tenants.emplace(number, named->first).second) {
        return Error{ErrorCode::kInvalidArgument,
                     "--tenant: \"" + uid + "\" in \"" + text + "\" is no uid, or one that was named before"};
      }
    }
  }
  for (const std::string& text : quotas) {
    auto named = SplitNamed("--quota", text);
    if (!named) return named.error();
    const auto bytes = protocol::ParseByteSize(named->second);
    if (!bytes) return Error{bytes.error().code, "--quota: " + bytes.error().message};
    options.quotas[named->first] = *bytes;
  }
  return {};
}

}  // namespace kvant::daemon
