// kvantctl doctor: what is wrong with a daemon, and what to do about it.
#include <CLI/CLI.hpp>
#include <fstream>
#include <iterator>
#include <string>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/doctor/findings.h"
#include "tools/kvantctl/printable.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

std::string Contents(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

const char* NameOf(Severity severity) { return severity == Severity::kWrong ? "wrong" : "note"; }

std::string Text(const std::vector<Finding>& findings) {
  if (findings.empty()) return "Nothing is known to be wrong.\n";
  std::string text;
  for (const Finding& finding : findings) {
    text += std::string(NameOf(finding.severity)) + ": " + Printable(finding.what) + "\n  " + finding.advice + "\n";
  }
  return text;
}

Json ToJson(const std::vector<Finding>& findings) {
  Json list = Json::array();
  for (const Finding& finding : findings) {
    list.push_back(
        {{"severity", NameOf(finding.severity)}, {"about", finding.about}, {"what", finding.what}, {"advice", finding.advice}});
  }
  return {{"findings", list}};
}

int Doctor(const Globals& globals) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    const auto stats = admin.Stats();
    if (!stats) return Report(globals, stats.error());
    const auto stores = admin.Stores();
    if (!stores) return Report(globals, stores.error());
    const auto clients = admin.Clients();
    if (!clients) return Report(globals, clients.error());
    const Machine machine{.available_bytes = AvailableBytes(Contents("/proc/meminfo")),
                          .shmem_huge_pages = ChosenWord(Contents("/sys/kernel/mm/transparent_hugepage/shmem_enabled"))};
    const auto findings = FindingsOf(*stats, *stores, *clients, machine);
    if (globals.format == Format::kJson) {
      Print(ToJson(findings));
    } else {
      Print(Text(findings));
    }
    const bool wrong = !findings.empty() && findings.front().severity == Severity::kWrong;
    return wrong ? kFailure : kOk;
  });
}

}  // namespace

void AddDoctor(CLI::App& app, Invocation& invocation) {
  app.add_subcommand("doctor", "Explain what is wrong, and what to do; exit code 1 if something is")->callback([&invocation] {
    invocation.exit_code = Doctor(invocation.globals);
  });
}

}  // namespace kvant::tools
