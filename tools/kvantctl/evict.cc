// kvantctl evict: gives back blocks that no sequence holds.
#include <CLI/CLI.hpp>
#include <memory>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

int Evict(const Globals& globals, const EvictRequest& request) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    const auto report = admin.Evict(request);
    if (!report) return Report(globals, report.error());
    if (globals.format == Format::kJson) {
      Json object = ToJson(*report);
      object["dry_run"] = request.dry_run;
      Print(object);
    } else {
      Print((request.dry_run ? "would evict " : "evicted ") + HumanCount(report->blocks) + " blocks, " +
            HumanBytes(report->bytes) + "\n");
    }
    return kOk;
  });
}

}  // namespace

void AddEvict(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand("evict", "Evict sealed blocks that no sequence holds, least recently used first");
  auto request = std::make_shared<EvictRequest>();
  CLI::Option_group* scope = command->add_option_group("scope", "Which stores");
  scope
      ->add_option("--store", request->store, "Only this store")
      // An empty name means every store to the daemon: that must be asked for, not slipped into.
      ->check([](const std::string& name) { return name.empty() ? "the name is empty" : ""; });
  scope->add_flag("--all")->description("Every store");
  scope->require_option(1);
  command
      ->add_option("--max-blocks", request->max_blocks, "Most blocks to evict; 0: no limit")
      // CLI11 takes -1 for the largest number of an unsigned option.
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 40))
      ->capture_default_str();
  command->add_flag("--dry-run", request->dry_run, "Only say what would be evicted");
  command->callback([&invocation, request] { invocation.exit_code = Evict(invocation.globals, *request); });
}

}  // namespace kvant::tools
