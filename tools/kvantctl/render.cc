#include "tools/kvantctl/render.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace kvant::tools {

std::string HumanBytes(std::uint64_t bytes) {
  constexpr std::array<const char*, 7> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return std::to_string(bytes) + " B";
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1023.95 && unit + 1 < kUnits.size()) {  // 1023.95 would print as 1024.0
    value /= 1024.0;
    ++unit;
  }
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f %s", value, kUnits[unit]);
  return text.data();
}

std::string HumanCount(std::uint64_t count) {
  std::string text = std::to_string(count);
  for (std::size_t at = text.size(); at > 3;) {
    at -= 3;
    text.insert(at, ",");
  }
  return text;
}

std::string HumanDuration(std::chrono::seconds duration) {
  const auto total = duration.count();
  std::array<char, 64> text{};
  const auto days = total / 86400;
  const int hours = static_cast<int>(total / 3600 % 24);
  const int minutes = static_cast<int>(total / 60 % 60);
  const int seconds = static_cast<int>(total % 60);
  if (days > 0) {
    std::snprintf(text.data(), text.size(), "%lld d %02d:%02d:%02d", static_cast<long long>(days), hours, minutes, seconds);
  } else {
    std::snprintf(text.data(), text.size(), "%02d:%02d:%02d", hours, minutes, seconds);
  }
  return text.data();
}

std::string HumanShare(std::uint64_t part, std::uint64_t whole) {
  if (whole == 0) return "-";
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f %%", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
  return text.data();
}

std::string HumanRatio(std::uint64_t larger, std::uint64_t smaller) {
  if (smaller == 0) return "-";
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.2fx", static_cast<double>(larger) / static_cast<double>(smaller));
  return text.data();
}

std::string HumanCompressed(const ByteFigures& bytes) {
  std::string text = HumanBytes(bytes.compressed_bytes);
  if (bytes.compressed_bytes != 0) text += "  (f16 is " + HumanRatio(bytes.logical_f16_bytes, bytes.compressed_bytes) + ")";
  return text;
}

std::string Table::ToString() const {
  std::vector<std::size_t> widths;
  for (const Column& column : columns_) widths.push_back(column.title.size());
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  const auto append_line = [&](const auto& cell_at) {
    std::string line;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const std::string& cell = cell_at(i);
      const std::string padding(widths[i] - cell.size(), ' ');
      if (i > 0) line += "  ";
      line += columns_[i].align == Align::kRight ? padding + cell : cell + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  };
  append_line([&](std::size_t i) -> const std::string& { return columns_[i].title; });
  for (const auto& row : rows_) append_line([&](std::size_t i) -> const std::string& { return row[i]; });
  return text;
}

std::string Listing::ToString() const {
  std::size_t width = 0;
  for (const Line& line : lines_) width = std::max(width, line.name.size());
  std::string text;
  for (const Line& line : lines_) {
    if (line.name.empty()) {
      text += (text.empty() ? "" : "\n") + line.value + "\n";
    } else {
      text += "  " + line.name + std::string(width - line.name.size() + 2, ' ') + line.value + "\n";
    }
  }
  return text;
}

Json ToJson(const ByteFigures& bytes) {
  return {{"logical_f16_bytes", bytes.logical_f16_bytes},
          {"compressed_bytes", bytes.compressed_bytes},
          {"resident_bytes", bytes.resident_bytes}};
}

Json ToJson(const DaemonInfo& info) {
  return {{"version", info.version},
          {"boot_token", info.boot_token},
          {"pid", info.pid},
          {"budget_bytes", info.budget_bytes},
          {"protocol_version", info.protocol_version},
          {"segment_layout_version", info.segment_layout_version}};
}

Json ToJson(const StatsReport& stats) {
  return {{"daemon", ToJson(stats.daemon)},
          {"uptime_seconds", stats.uptime.count()},
          {"bytes", ToJson(stats.bytes)},
          {"metadata_bytes", stats.metadata_bytes},
          {"stores", stats.stores},
          {"sequences", stats.sequences},
          {"sessions", stats.sessions},
          {"leases", stats.leases},
          {"arenas", stats.arenas},
          {"arena_bytes", stats.arena_bytes},
          {"prefix_lookup_tokens", stats.prefix_lookup_tokens},
          {"prefix_hit_tokens", stats.prefix_hit_tokens},
          {"sealed_blocks", stats.sealed_blocks},
          {"deduplicated_blocks", stats.deduplicated_blocks},
          {"evicted_blocks", stats.evicted_blocks},
          {"attend_calls", stats.attend_calls},
          {"bytes_copied", stats.bytes_copied},
          {"store_full_errors", stats.store_full_errors},
          {"dropped_clients", stats.dropped_clients}};
}

Json ToJson(const StoreRow& row) {
  return {{"name", row.name},
          {"identity", row.identity},
          {"model", row.model},
          {"keys", row.keys},
          {"values", row.values},
          {"key_stage", KeyStageName(row.key_stage)},
          {"layers", row.layers},
          {"kv_heads", row.kv_heads},
          {"head_dim", row.head_dim},
          {"block_tokens", row.block_tokens},
          {"blocks", row.blocks},
          {"leased_blocks", row.leased_blocks},
          {"sequences", row.sequences},
          {"bytes", ToJson(row.bytes)},
          {"prefix_lookup_tokens", row.prefix_lookup_tokens},
          {"prefix_hit_tokens", row.prefix_hit_tokens},
          {"evicted_blocks", row.evicted_blocks},
          {"deduplicated_blocks", row.deduplicated_blocks}};
}

Json ToJson(const SequenceRow& row) {
  return {{"id", row.id},
          {"store", row.store},
          {"client", row.client},
          {"label", row.label},
          {"length", row.length},
          {"sealed_tokens", row.sealed_tokens},
          {"prefix_hit_tokens", row.prefix_hit_tokens},
          {"marks", row.marks},
          {"read_only", row.read_only}};
}

Json ToJson(const SequenceDetail& detail) {
  Json object = ToJson(detail.row);
  object["tail_first_position"] = detail.tail_first_position;
  object["tail_capacity_tokens"] = detail.tail_capacity_tokens;
  Json& blocks = object["blocks"] = Json::array();
  for (const BlockRow& block : detail.blocks) {
    blocks.push_back({{"first_position", block.first_position},
                      {"chain", block.chain},
                      {"slab", block.slab},
                      {"slot", block.slot},
                      {"generation", block.generation},
                      {"leases", block.leases},
                      {"checksum_ok", block.checksum_ok}});
  }
  return object;
}

Json ToJson(const EvictReport& report) { return {{"blocks", report.blocks}, {"bytes", report.bytes}}; }

void Print(const Json& json) { std::printf("%s\n", json.dump(2, ' ', false, Json::error_handler_t::replace).c_str()); }

void Print(const std::string& text) {
  std::string shown = text;
  for (char& c : shown) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n') || byte == 0x7F) c = '?';
  }
  std::fputs(shown.c_str(), stdout);
}

}  // namespace kvant::tools
