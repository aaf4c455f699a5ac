#include "tools/kvantctl/render.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>
#include <utility>

#include "tools/kvantctl/printable.h"

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

std::string HumanPartsPerMillion(std::uint64_t parts) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.2f %%", static_cast<double>(parts) / 10'000.0);
  return text.data();
}

std::string HumanFigure(std::uint64_t value, FigureUnit unit) {
  switch (unit) {
    case FigureUnit::kBytes: return HumanBytes(value);
    case FigureUnit::kSeconds: return HumanDuration(std::chrono::seconds(value));
    case FigureUnit::kPartsPerMillion: return HumanPartsPerMillion(value);
    case FigureUnit::kCount:
    case FigureUnit::kTokens: break;
  }
  return HumanCount(value);
}

std::string HumanBound(double seconds) {
  const auto whole = static_cast<std::uint64_t>(seconds);
  constexpr std::pair<std::uint64_t, const char*> kUnits[] = {{86'400, " d"}, {3'600, " h"}, {60, " min"}};
  for (const auto& [unit, name] : kUnits) {
    if (whole >= unit && whole % unit == 0) return std::to_string(whole / unit) + name;
  }
  return std::to_string(whole) + " s";
}

std::optional<double> BoundOfShare(const Histogram& histogram, double share) {
  const std::uint64_t all = std::accumulate(histogram.counts.begin(), histogram.counts.end(), std::uint64_t{0});
  if (all == 0 || histogram.bounds.empty()) return std::nullopt;
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < histogram.bounds.size(); ++i) {
    sum += histogram.counts[i];
    if (static_cast<double>(sum) >= share * static_cast<double>(all)) return histogram.bounds[i];
  }
  return std::numeric_limits<double>::infinity();
}

std::string HumanHistogram(const Histogram& histogram) {
  const auto half = BoundOfShare(histogram, 0.5);
  if (!half) return "none";
  const std::uint64_t all = std::accumulate(histogram.counts.begin(), histogram.counts.end(), std::uint64_t{0});
  const auto within = [&](std::optional<double> bound) {
    return std::isinf(*bound) ? "beyond " + HumanBound(histogram.bounds.back()) : "within " + HumanBound(*bound);
  };
  return HumanCount(all) + ": half " + within(half) + ", nine tenths " + within(BoundOfShare(histogram, 0.9));
}

std::string HumanCompressed(const Figures& figures) {
  const std::uint64_t compressed = figures.Find("compressed_bytes").value_or(0);
  std::string text = HumanBytes(compressed);
  if (compressed != 0) {
    text += "  (f16 is " + HumanRatio(figures.Find("logical_f16_bytes").value_or(0), compressed) + ")";
  }
  return text;
}

std::string HumanPrefixHits(const Figures& figures) {
  const std::uint64_t hits = figures.Find("prefix_hit_tokens").value_or(0);
  const std::uint64_t lookups = figures.Find("prefix_lookup_tokens").value_or(0);
  return HumanCount(hits) + " of " + HumanCount(lookups) + "  (" + HumanShare(hits, lookups) + ")";
}

void Table::Add(const std::vector<std::string>& cells) {
  std::vector<std::string>& row = rows_.emplace_back();
  for (const std::string& cell : cells) row.push_back(Printable(cell));
}

std::string Table::ToString() const {
  std::vector<std::size_t> widths;
  for (const Column& column : columns_) widths.push_back(column.title.size());
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], Columns(row[i]));
  }
  std::string text;
  const auto append_line = [&](const auto& cell_at) {
    std::string line;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const std::string& cell = cell_at(i);
      const std::string padding(widths[i] - Columns(cell), ' ');
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

void Listing::Heading(std::string_view title) { lines_.push_back({{}, Printable(title), {}}); }

void Listing::Add(std::string_view name, std::string_view value, std::string_view note) {
  lines_.push_back({Printable(name), Printable(value), Printable(note)});
}

void Listing::Add(const Figures& figures, FigureKind kind) {
  for (std::size_t i = 0; i < figures.size(); ++i) {
    const FigureInfo& info = figures.info(i);
    if (info.kind == kind) Add(info.name, HumanFigure(figures.value(i), info.unit), info.help);
  }
}

std::string Listing::ToString() const {
  std::size_t name_width = 0;
  std::size_t value_width = 0;  // of lines with a note
  for (const Line& line : lines_) {
    name_width = std::max(name_width, Columns(line.name));
    if (!line.note.empty()) value_width = std::max(value_width, Columns(line.value));
  }
  std::string text;
  for (const Line& line : lines_) {
    if (line.name.empty()) {
      text += (text.empty() ? "" : "\n") + line.value + "\n";
      continue;
    }
    text += "  " + line.name + std::string(name_width - Columns(line.name) + 2, ' ') + line.value;
    if (!line.note.empty()) text += std::string(value_width - Columns(line.value) + 2, ' ') + line.note;
    text += "\n";
  }
  return text;
}

Json ToJson(const Figures& figures) {
  Json object = Json::object();
  for (std::size_t i = 0; i < figures.size(); ++i) object[figures.info(i).name] = figures.value(i);
  return object;
}

Json ToJson(const DaemonInfo& info) {
  return {{"version", info.version},
          {"boot_token", info.boot_token},
          {"pid", info.pid},
          {"budget_bytes", info.budget_bytes},
          {"protocol_version", info.protocol_version},
          {"segment_layout_version", info.segment_layout_version}};
}

Json ToJson(const Histogram& histogram) {
  return {{"bounds", histogram.bounds}, {"counts", histogram.counts}, {"sum", histogram.sum}};
}

Json ToJson(const StatsReport& stats) {
  Json histograms = Json::object();
  for (const Histogram& histogram : stats.histograms) histograms[histogram.name] = ToJson(histogram);
  return {{"daemon", ToJson(stats.daemon)}, {"figures", ToJson(stats.figures)}, {"histograms", histograms}};
}

Json ToJson(const std::vector<KeyHead>& heads) {
  Json list = Json::array();
  for (const KeyHead& head : heads) {
    list.push_back({{"layer", head.layer},
                    {"kv_head", head.kv_head},
                    {"mean_share", head.mean_share},
                    {"effective_error", head.effective_error},
                    {"unfit", head.unfit}});
  }
  return list;
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
          {"figures", ToJson(row.figures)},
          {"key_heads", ToJson(row.key_heads)},
          {"warning", row.warning}};
}

Json ToJson(const CodecForm& form) {
  return {{"family", form.family},
          {"order", form.order},
          {"bits", form.bits},
          {"magnitudes", form.magnitudes.empty() ? Json() : Json(form.magnitudes)},
          {"first_level", form.first_level},
          {"level_unit", form.level_unit},
          {"scale_format", form.scale_format},
          {"scale_offset", form.scale_offset},
          {"rotated", form.rotated},
          {"centered", form.centered},
          {"part_bytes", form.part_bytes}};
}

Json ToJson(const StoredCodec& codec) {
  return {{"side", codec.side}, {"spec", codec.spec}, {"heads", codec.heads}, {"form", ToJson(codec.form)}};
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
          {"policy", row.policy},
          {"kept_tokens", row.kept_tokens},
          {"read_only", row.read_only}};
}

Json ToJson(const ClientRow& row) {
  return {{"connection", row.connection},
          {"pid", row.pid},
          {"uid", row.uid},
          {"tenant", row.tenant},
          {"name", row.name},
          {"admin", row.admin},
          {"connected_ms", row.connected.count()},
          {"idle_ms", row.idle.count()},
          {"silent_ms", row.silent.count()},
          {"calls", row.calls},
          {"refused", row.refused},
          {"stores", row.stores},
          {"sequences", row.sequences},
          {"leases", row.leases},
          {"arenas", row.arenas},
          {"arena_bytes", row.arena_bytes}};
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

Json ToJson(const DemoteReport& report) {
  return {{"blocks", report.blocks}, {"bytes", report.bytes}, {"corrupt", report.corrupt}};
}
Json ToJson(const EvictReport& report) { return {{"blocks", report.blocks}, {"bytes", report.bytes}}; }

void Print(const Json& json) { Print(json.dump(2, ' ', true, Json::error_handler_t::replace) + "\n"); }

void PrintLine(const Json& json) {
  Print(json.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n");
  std::fflush(stdout);
}

void Print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }  // main asks stdout for errors

}  // namespace kvant::tools
