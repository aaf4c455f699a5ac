// Output of kvantctl: aligned tables with human units, or JSON with exact integers.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <kvant/admin.h>

namespace kvant::tools {

using Json = nlohmann::ordered_json;

/// "0 B", "1023 B", "1.5 KiB", "512.0 MiB": three or four digits, binary units.
std::string HumanBytes(std::uint64_t bytes);
/// "1234567" as "1,234,567".
std::string HumanCount(std::uint64_t count);
/// "3 d 04:05:06".
std::string HumanDuration(std::chrono::seconds duration);
/// `part` of `whole` as "12.5 %"; "-" when whole is 0.
std::string HumanShare(std::uint64_t part, std::uint64_t whole);
/// How often `smaller` fits into `larger` as "3.8x"; "-" when smaller is 0.
std::string HumanRatio(std::uint64_t larger, std::uint64_t smaller);
/// "12.4 MiB  (f16 is 3.88x)": the compressed bytes and how many times as much f16 would take.
std::string HumanCompressed(const ByteFigures& bytes);

enum class Align { kLeft, kRight };

/// Rows of text cells, columns as wide as their widest cell.
class Table {
 public:
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// Requires: as many cells as columns.
  void Add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  [[nodiscard]] std::string ToString() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/// "name   value" lines, values aligned. An empty name prints a heading.
class Listing {
 public:
  void Heading(std::string title) { lines_.push_back({{}, std::move(title)}); }
  void Add(std::string name, std::string value) { lines_.push_back({std::move(name), std::move(value)}); }
  [[nodiscard]] std::string ToString() const;

 private:
  struct Line {
    std::string name;
    std::string value;
  };
  std::vector<Line> lines_;
};

// JSON of what the admin interface reports; field names are those of kvant/admin.h.
Json ToJson(const ByteFigures& bytes);
Json ToJson(const DaemonInfo& info);
Json ToJson(const StatsReport& stats);
Json ToJson(const StoreRow& row);
Json ToJson(const SequenceRow& row);
Json ToJson(const SequenceDetail& detail);
Json ToJson(const EvictReport& report);

/// Writes to standard output. Names that clients chose may hold any bytes: JSON replaces invalid UTF-8, tables show control
/// characters as '?', so that nobody's label can drive an operator's terminal.
void Print(const Json& json);
void Print(const std::string& text);

}  // namespace kvant::tools
