#include "daemon/store/standing_rules.h"

#include <cstring>

#include <xxhash.h>
#include <nlohmann/json.hpp>

#include "protocol/digest.h"
#include "protocol/mapped_segment.h"

namespace kvant::daemon {
namespace {

using Json = nlohmann::json;

Error Corrupt(const std::string& what) { return {ErrorCode::kCorrupt, "rules of operators: " + what}; }

protocol::Digest DigestOfHex(const Json& from) {
  const auto digest = protocol::ParseDigest(from.get_ref<const std::string&>());
  if (!digest) throw std::invalid_argument("no digest");
  return *digest;
}

Json ToJson(const StandingRules& rules) {
  Json tenants = Json::array(), stores = Json::array(), pins = Json::array();
  for (const auto& [name, limit] : rules.tenant_limits) tenants.push_back({{"tenant", name}, {"limit_bytes", limit}});
  for (const auto& [store, rule] : rules.stores) {
    Json entry{{"tenant", store.first}, {"store", protocol::DigestHex(store.second)}};
    if (rule.limit_bytes) entry["limit_bytes"] = *rule.limit_bytes;
    if (rule.ttl_ms) entry["ttl_ms"] = *rule.ttl_ms;
    stores.push_back(std::move(entry));
  }
  for (const auto& [id, pin] : rules.pins) {
    Json ends = Json::array();
    for (const protocol::Digest& end : pin.ends) ends.push_back(protocol::DigestHex(end));
    pins.push_back({{"pin", id},
                    {"tenant", pin.tenant},
                    {"store", protocol::DigestHex(pin.store)},
                    {"end_ms", pin.end_ms},
                    {"ends", std::move(ends)}});
  }
  return {
      {"tenants", std::move(tenants)}, {"stores", std::move(stores)}, {"pins", std::move(pins)}, {"next_pin", rules.next_pin}};
}

StandingRules FromJson(const Json& from) {
  StandingRules rules;
  for (const Json& tenant : from.at("tenants")) {
    rules.tenant_limits[tenant.at("tenant").get<std::string>()] = tenant.at("limit_bytes").get<std::uint64_t>();
  }
  for (const Json& store : from.at("stores")) {
    StandingRules::StoreRule rule;
    if (store.contains("limit_bytes")) rule.limit_bytes = store.at("limit_bytes").get<std::uint64_t>();
    if (store.contains("ttl_ms")) rule.ttl_ms = store.at("ttl_ms").get<std::uint64_t>();
    rules.stores[{store.at("tenant").get<std::string>(), DigestOfHex(store.at("store"))}] = rule;
  }
  for (const Json& pin : from.at("pins")) {
    StandingRules::Pin entry{.tenant = pin.at("tenant").get<std::string>(),
                             .store = DigestOfHex(pin.at("store")),
                             .end_ms = pin.at("end_ms").get<std::uint64_t>()};
    for (const Json& end : pin.at("ends")) entry.ends.push_back(DigestOfHex(end));
    rules.pins[pin.at("pin").get<std::uint64_t>()] = std::move(entry);
  }
  rules.next_pin = from.at("next_pin").get<std::uint64_t>();
  return rules;
}

}  // namespace

std::vector<std::byte> WriteRules(const NumberedRules& rules) {
  const std::string text = ToJson(rules.rules).dump(-1, ' ', false, Json::error_handler_t::replace);
  RulesHeader header{};
  header.magic = kRulesMagic;
  header.layout_version = kRulesLayoutVersion;
  header.number = rules.number;
  header.text_bytes = text.size();
  header.text_checksum = XXH3_64bits(text.data(), text.size());
  std::vector<std::byte> bytes(sizeof header + text.size());
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + sizeof header, text.data(), text.size());
  return bytes;
}

Result<NumberedRules> ReadRules(std::span<const std::byte> bytes) {
  RulesHeader header;
  if (bytes.size() < sizeof header) return Corrupt("shorter than their header");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kRulesMagic) return Corrupt("they do not begin with their magic");
  if (header.layout_version != kRulesLayoutVersion) {
    return Error{ErrorCode::kVersionMismatch, "rules of operators: layout version " + std::to_string(header.layout_version) +
                                                  ", this side knows " + std::to_string(kRulesLayoutVersion)};
  }
  if (header.text_bytes > kMostRulesBytes || header.text_bytes > bytes.size() - sizeof header) {
    return Corrupt("a text of " + std::to_string(header.text_bytes) + " bytes");
  }
  const auto* const text = reinterpret_cast<const char*>(bytes.data() + sizeof header);
  if (XXH3_64bits(text, header.text_bytes) != header.text_checksum) return Corrupt("their checksum differs");
  try {
    return NumberedRules{header.number, FromJson(Json::parse(text, text + header.text_bytes))};
  } catch (const std::exception& failure) {
    return Corrupt(failure.what());
  }
}

Result<NumberedRules> ReadRulesSegment(int fd) {
  auto segment = protocol::MapWhole(fd, protocol::Access::kReadOnly);
  if (!segment) return segment.error();
  return ReadRules({segment->data(), segment->size()});
}

}  // namespace kvant::daemon
