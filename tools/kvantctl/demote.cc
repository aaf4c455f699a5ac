// kvantctl demote: cuts blocks that no sequence holds down to their first planes.
#include <CLI/CLI.hpp>
#include <memory>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

int Demote(const Globals& globals, const DemoteRequest& request) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    const auto report = admin.Demote(request);
    if (!report) return Report(globals, report.error());
    if (globals.format == Format::kJson) {
      Json object = ToJson(*report);
      object["dry_run"] = request.dry_run;
      Print(object);
    } else {
      Print((request.dry_run ? "would demote " : "demoted ") + HumanCount(report->blocks) + " blocks, " +
            HumanBytes(report->bytes) + "\n");
      if (report->corrupt != 0) Print(HumanCount(report->corrupt) + " blocks are left as they are: their checksums differ\n");
    }
    return kOk;
  });
}

}  // namespace

void AddDemote(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand(
      "demote", "Cut sealed blocks that no sequence holds down to their first planes, least recently used first");
  auto request = std::make_shared<DemoteRequest>();
  command->add_option("store", request->store, "The store, by name or identity")->required();
  command->add_option("--tenant", request->tenant, "Whose store, where several tenants have one of that name");
  // As an int: CLI11 reads an 8-bit number as a character.
  auto planes = std::make_shared<int>();
  command->add_option("--planes", *planes, "Planes that stay, of codecs with planes=1; others are left as they are")
      ->required()
      ->check(CLI::Range(1, 8));
  command
      ->add_option("--max-blocks", request->max_blocks, "Most blocks to demote; 0: no limit")
      // CLI11 takes -1 for the largest number of an unsigned option.
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 40))
      ->capture_default_str();
  command->add_flag("--dry-run", request->dry_run, "Only say what would be demoted");
  command->callback([&invocation, request, planes] {
    request->planes = static_cast<std::uint8_t>(*planes);
    invocation.exit_code = Demote(invocation.globals, *request);
  });
}

}  // namespace kvant::tools
