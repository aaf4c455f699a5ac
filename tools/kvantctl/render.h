// Output of kvantctl: aligned tables with human units, or JSON with exact integers.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
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
/// "0.25 %" of parts per million.
std::string HumanPartsPerMillion(std::uint64_t parts);
/// In the form that its unit asks for.
std::string HumanFigure(std::uint64_t value, FigureUnit unit);
/// "5 s", "15 min", "12 h", "30 d": in the largest unit that divides it.
std::string HumanBound(double seconds);
/// "1,234: half within 5 min, nine tenths within 12 h"; "none" if nothing was counted.
std::string HumanHistogram(const Histogram& histogram);
/// The least bound that holds this share of what was counted; infinity if only the rest does, nothing if nothing was.
std::optional<double> BoundOfShare(const Histogram& histogram, double share);
/// "12.4 MiB  (f16 is 3.88x)": the compressed bytes and how many times as much f16 would take.
std::string HumanCompressed(const Figures& figures);
/// "7,936 of 24,131  (32.9 %)": tokens that sequences found sealed at open.
std::string HumanPrefixHits(const Figures& figures);

enum class Align { kLeft, kRight };

/// Rows of text cells, columns as wide as their widest cell. Cells are shown as Printable (printable.h).
class Table {
 public:
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /// Requires: as many cells as columns.
  void Add(const std::vector<std::string>& cells);
  [[nodiscard]] std::string ToString() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/// "name   value   note" lines under headings, values and notes aligned. Texts are shown as Printable (printable.h).
class Listing {
 public:
  void Heading(std::string_view title);
  void Add(std::string_view name, std::string_view value, std::string_view note = {});
  /// The figures of one kind, each with its help.
  void Add(const Figures& figures, FigureKind kind);
  [[nodiscard]] std::string ToString() const;

 private:
  struct Line {
    std::string name;  // empty: a heading
    std::string value;
    std::string note;
  };
  std::vector<Line> lines_;
};

// JSON of what the admin interface reports; field names are those of kvant/admin.h.
/// An object: name to number.
Json ToJson(const Figures& figures);
Json ToJson(const DaemonInfo& info);
Json ToJson(const StatsReport& stats);
Json ToJson(const std::vector<KeyHead>& heads);
Json ToJson(const StoreRow& row);
Json ToJson(const SequenceRow& row);
Json ToJson(const ClientRow& row);
Json ToJson(const Histogram& histogram);
Json ToJson(const SequenceDetail& detail);
Json ToJson(const CodecForm& form);
Json ToJson(const StoredCodec& codec);
Json ToJson(const EvictReport& report);
Json ToJson(const DemoteReport& report);

/// Writes to standard output, ASCII only: JSON with \u escapes (bytes that are no UTF-8 become U+FFFD).
void Print(const Json& json);
/// The same in one line, which is written out at once: for whoever reads along.
void PrintLine(const Json& json);
/// Writes text made by Table and Listing, or of the program's own words, to standard output.
void Print(const std::string& text);

}  // namespace kvant::tools
