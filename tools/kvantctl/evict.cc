// kvantctl evict: gives back blocks that no sequence holds.
#include <CLI/CLI.hpp>
#include <memory>

#include "protocol/byte_size.h"
#include "tools/kvantctl/block_filter.h"
#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

struct EvictOptions {
  BlockFilterOptions filter;
  std::uint64_t max_blocks = 0;
  std::string max_bytes;
  bool dry_run = false;
};

Result<EvictRequest> Read(const EvictOptions& options) {
  auto filter = options.filter.Read();
  if (!filter) return filter.error();
  EvictRequest request{*std::move(filter), options.dry_run};
  request.max_blocks = options.max_blocks;
  if (!options.max_bytes.empty()) {
    const auto bytes = protocol::ParseByteSize(options.max_bytes);
    if (!bytes) return Error{bytes.error().code, "--max-bytes: " + bytes.error().message};
    request.max_bytes = *bytes;
  }
  return request;
}

int Evict(const Globals& globals, const EvictOptions& options) {
  const auto request = Read(options);
  if (!request) return ReportUsage(globals, request.error());
  return WithAdmin(globals, [&](Admin& admin) -> int {
    const auto report = admin.Evict(*request);
    if (!report) return Report(globals, report.error());
    if (globals.format == Format::kJson) {
      Json object = ToJson(*report);
      object["held"] = report->held;
      object["dry_run"] = request->dry_run;
      Print(object);
    } else {
      Print((request->dry_run ? "would evict " : "evicted ") + HumanCount(report->blocks) + " blocks, " +
            HumanBytes(report->bytes) + (report->held != 0 ? "; " + HumanCount(report->held) + " more are held" : "") + "\n");
    }
    return kOk;
  });
}

}  // namespace

void AddEvict(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand(
      "evict",
      "Evict sealed blocks that nobody holds, in the order of the daemon's policy. Held blocks of a --sequence go as "
      "soon as it is closed, unless somebody finds them before");
  auto options = std::make_shared<EvictOptions>();
  options->filter.AddTo(*command);
  command->add_flag("--all")->description("Whatever is not named otherwise: every store");
  command
      ->add_option("--max-blocks", options->max_blocks, "Most blocks to evict; 0: no limit")
      // CLI11 takes -1 for the largest number of an unsigned option.
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 40))
      ->capture_default_str();
  command->add_option("--max-bytes", options->max_bytes, "Evict until so much is free (64MiB)");
  command->add_flag("--dry-run", options->dry_run, "Only say what would be evicted");
  command->parse_complete_callback([command] {
    for (const char* scope : {"--all", "--tenant", "--store", "--sequence"}) {
      if (command->count(scope) != 0) return;
    }
    throw CLI::RequiredError("--store, --tenant, --sequence or --all");
  });
  command->callback([&invocation, options] { invocation.exit_code = Evict(invocation.globals, *options); });
}

}  // namespace kvant::tools
