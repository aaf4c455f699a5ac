#include "daemon/program/config_file.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <numeric>
#include <optional>
#include <sstream>
#include <utility>

#include <CLI/CLI.hpp>
#define TOML_EXCEPTIONS 0
#define TOML_HEADER_ONLY 1
#include <toml++/toml.h>

#include "protocol/system_error.h"

namespace kvant::daemon {
namespace {

constexpr std::size_t kMostBytes = std::size_t{1} << 20;
/// A word that needs more changes than this is another word.
constexpr std::size_t kMostChanges = 3;

Error Wrong(const std::string& path, std::uint32_t line, const std::string& what) {
  return {ErrorCode::kInvalidArgument, path + ":" + std::to_string(line) + ": " + what};
}

/// A value as a flag would be given it; nothing for what no flag takes.
std::optional<std::string> TextOf(const toml::node& node) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return std::to_string(number->get());
  if (const auto* truth = node.as_boolean()) return truth->get() ? "true" : "false";
  if (node.is_floating_point()) {
    std::ostringstream text;
    text << *node.value<double>();
    return text.str();
  }
  return std::nullopt;
}

/// Letters to insert, remove or replace.
std::size_t Changes(std::string_view from, std::string_view to) {
  std::vector<std::size_t> row(to.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < from.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < to.size(); ++j) {
      const std::size_t replaced = diagonal + (from[i] == to[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string_view Nearest(std::string_view word, const std::vector<std::string>& names) {
  const auto nearest = std::ranges::min_element(names, {}, [&](const std::string& name) { return Changes(word, name); });
  if (nearest == names.end() || Changes(word, *nearest) > std::min(kMostChanges, nearest->size() / 2)) return {};
  return *nearest;
}

Result<std::vector<Setting>> ReadConfigFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    const int error = errno;
    if (error == ENOENT) return Error{ErrorCode::kNotFound, "read configuration " + path + ": no such file"};
    return protocol::SystemError("read configuration " + path, error);
  }
  std::string text(kMostBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return protocol::SystemError("read configuration " + path, errno);
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kMostBytes) {
    return Error{ErrorCode::kInvalidArgument,
                 "read configuration " + path + ": larger than " + std::to_string(kMostBytes) + " bytes"};
  }
  const toml::parse_result parsed = toml::parse(text, path);
  if (!parsed) {
    return Wrong(path, parsed.error().source().begin.line, std::string(parsed.error().description()));
  }
  std::vector<Setting> settings;
  for (const auto& [key, node] : parsed.table()) {
    Setting setting{.key = std::string(key.str()), .values = {}, .line = key.source().begin.line};
    const auto add = [&](const toml::node& value) {
      auto spelled = TextOf(value);
      if (spelled) setting.values.push_back(*std::move(spelled));
      return spelled.has_value();
    };
    bool good = true;
    if (const auto* list = node.as_array()) {
      for (const toml::node& value : *list) good = good && add(value);
    } else {
      good = add(node);
    }
    if (!good)
      return Wrong(path, setting.line, setting.key + ": a string, a number, true or false belongs here, or a list of these");
    settings.push_back(std::move(setting));
  }
  std::ranges::sort(settings, {}, &Setting::line);
  return settings;
}

Result<void> ApplyConfigFile(CLI::App& app, const std::string& path) {
  auto settings = ReadConfigFile(path);
  if (!settings) return settings.error();
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_single_name();
    if (option->get_configurable()) names.push_back(name);
  }
  for (const Setting& setting : *settings) {
    if (std::ranges::find(names, setting.key) == names.end()) {
      const std::string_view nearest = Nearest(setting.key, names);
      return Wrong(
          path, setting.line,
          "unknown key " + setting.key + (nearest.empty() ? std::string() : "; is " + std::string(nearest) + " meant?"));
    }
    CLI::Option* const option = app.get_option("--" + setting.key);
    if (!option->empty()) continue;  // the command line has it
    try {
      option->add_result(setting.values);
      option->run_callback();
    } catch (const CLI::Error& error) {
      return Wrong(path, setting.line, error.what());
    }
  }
  return {};
}

}  // namespace kvant::daemon
