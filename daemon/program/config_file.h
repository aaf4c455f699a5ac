// kvantd's configuration file: its flags, written down in TOML.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/result.h>

namespace CLI {
class App;
}

namespace kvant::daemon {

/// `key = value` or `key = [value, ...]` at the top of the file; numbers and booleans as the flag would be written.
struct Setting {
  std::string key;
  std::vector<std::string> values;
  std::uint32_t line = 0;
};

/// Reads at most 1 MiB. kNotFound or kSystem name the file and the reason, kInvalidArgument also the line: no TOML, a table or
/// a date where a value belongs.
Result<std::vector<Setting>> ReadConfigFile(const std::string& path);

/// Gives every option of `app` that its command line did not give the value that the file has for it, checked as on the command
/// line. The file's keys are the options' names without dashes in front. Requires: `app` has parsed. kInvalidArgument names
/// file, line and key: an unknown one (with the name it may be meant to be), one that belongs on the command line alone, a
/// value that the option refuses.
Result<void> ApplyConfigFile(CLI::App& app, const std::string& path);

/// Of `names` the one that is least different from `word`, if a few letters make the difference; else empty.
std::string_view Nearest(std::string_view word, const std::vector<std::string>& names);

}  // namespace kvant::daemon
