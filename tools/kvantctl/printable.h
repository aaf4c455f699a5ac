// Names that clients chose may hold any bytes. Shown to an operator they must not drive the terminal, forge lines of a table or
// reverse what is read.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace kvant::tools {

/// `text` as one line of UTF-8 in which every character can be seen: C0 and C1 controls (newline and tab included), line
/// separators, invisible and bidirectional formatting characters and bytes that are no UTF-8 become \n, \t, \xHH or \uHHHH, and
/// a backslash becomes two, so that no two texts look the same.
std::string Printable(std::string_view text);

/// Characters (not bytes) of a text of Printable: its width in columns, where each takes one.
std::size_t Columns(std::string_view printable) noexcept;
/// What fits into `columns` of them.
std::string FirstColumns(std::string_view printable, std::size_t columns);

}  // namespace kvant::tools
