// kvantctl completion: what a shell offers when one presses Tab, made from the command line as it is parsed.
#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

constexpr const char* kBegin =
    R"bash(# bash completion of kvantctl, kvantd and kvant-generate; made by `kvantctl completion bash`.

_kvantctl() {
  local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} path='' i offered=''
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$path ${COMP_WORDS[i]}" in
)bash";
constexpr const char* kMiddle = R"bash(    esac
  done
  case "$path $before" in
)bash";
constexpr const char* kLater = R"bash(  esac
  case "$path" in
)bash";
constexpr const char* kEnd = R"bash(  esac
  COMPREPLY=($(compgen -W "$offered" -- "$current"))
}
complete -o default -F _kvantctl kvantctl

_kvant_by_help() {
  local current=${COMP_WORDS[COMP_CWORD]}
  COMPREPLY=()
  [[ $current == -* ]] && COMPREPLY=($(compgen -W "$("$1" --help 2>/dev/null | grep -oE -- '--[a-z][a-z-]*' | sort -u)" -- "$current"))
}
complete -o default -F _kvant_by_help kvantd kvant-generate
)bash";

/// "a b c" of a type such as TEXT:{a,b,c}; empty if it names no choices.
std::string ChoicesOf(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  const std::size_t begin = type.find('{');
  const std::size_t end = type.find('}', begin);
  if (begin == std::string::npos || end == std::string::npos) return {};
  std::string choices = type.substr(begin + 1, end - begin - 1);
  for (char& c : choices) {
    if (c == ',') c = ' ';
  }
  return choices;
}

std::vector<std::string> NamesOf(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  return names;
}

/// The three case statements of the script, filled command by command.
struct Cases {
  std::string steps;   // from a path to the next
  std::string values;  // of options
  std::string words;   // commands and options

  void Add(const CLI::App& app, const std::string& path, const std::string& inherited, const std::string& inherited_values) {
    std::string commands;
    std::string options = inherited;
    std::string own_values = inherited_values;
    for (const CLI::Option* option : app.get_options()) {
      std::string pattern;
      for (const std::string& name : NamesOf(*option)) {
        options += " " + name;
        pattern += (pattern.empty() ? "' " : "|'@ ") + name + "'";
      }
      // An option that takes a word: its choices, or what bash itself offers, file names.
      if (!pattern.empty() && option->get_items_expected_max() > 0) own_values += pattern + "\n" + ChoicesOf(*option) + "\n";
    }
    std::size_t line = 0;
    while (line < own_values.size()) {
      const std::size_t middle = own_values.find('\n', line);
      const std::size_t end = own_values.find('\n', middle + 1);
      std::string pattern = own_values.substr(line, middle - line);
      pattern.insert(1, path);
      for (std::size_t at; (at = pattern.find('@')) != std::string::npos;) pattern.replace(at, 1, path);
      const std::string choices = own_values.substr(middle + 1, end - middle - 1);
      values += "    " + pattern + ") COMPREPLY=($(compgen -W '" + choices + "' -- \"$current\")); return ;;\n";
      line = end + 1;
    }
    for (const CLI::App* sub : app.get_subcommands({})) {
      commands += " " + sub->get_name();
      const std::string next = path + (path.empty() ? "" : " ") + sub->get_name();
      steps += "      '" + path + " " + sub->get_name() + "') path='" + next + "' ;;\n";
      Add(*sub, next, options, own_values);
    }
    words += "    '" + path + "') offered='" + commands + options + "' ;;\n";
  }
};

}  // namespace

void AddCompletion(CLI::App& app, Invocation& invocation) {
  CLI::App* const command = app.add_subcommand("completion", "Print a script that completes commands and options");
  auto shell = std::make_shared<std::string>();
  command->add_option("shell", *shell, "bash: eval \"$(kvantctl completion bash)\"")
      ->required()
      ->check(CLI::IsMember({"bash"}));
  command->callback([&app, &invocation, shell] {
    Cases cases;
    cases.Add(app, "", "", "");
    Print(kBegin + cases.steps + kMiddle + cases.values + kLater + cases.words + kEnd);
    invocation.exit_code = kOk;
  });
}

}  // namespace kvant::tools
