// kvantctl quota: what tenants and stores may take, and how long blocks that nobody uses stay.
#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>

#include "protocol/byte_size.h"
#include "protocol/duration.h"
#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

struct QuotaOptions {
  std::string tenant;
  std::string store;
  std::string bytes;
  std::string ttl;
};

Json ToJson(const QuotaRow& row) {
  Json object{{"tenant", row.tenant}, {"store", row.store}, {"limit_bytes", nullptr}, {"used_bytes", row.used_bytes}};
  if (row.limit_bytes) object["limit_bytes"] = *row.limit_bytes;
  object["ttl_ms"] = row.ttl.count();
  return object;
}

void Show(const Globals& globals, const std::vector<QuotaRow>& rows) {
  if (globals.format == Format::kJson) {
    Json list = Json::array();
    for (const QuotaRow& row : rows) list.push_back(ToJson(row));
    Print(Json{{"quotas", list}});
    return;
  }
  Table table({{"TENANT"}, {"STORE"}, {"USED", Align::kRight}, {"QUOTA", Align::kRight}, {"TTL", Align::kRight}});
  for (const QuotaRow& row : rows) {
    table.Add({row.tenant, row.store.empty() ? "(all)" : row.store, HumanBytes(row.used_bytes),
               row.limit_bytes ? HumanBytes(*row.limit_bytes) : "-",
               row.ttl.count() == 0 ? "-" : HumanDuration(std::chrono::duration_cast<std::chrono::seconds>(row.ttl))});
  }
  Print(table.ToString());
}

int Set(const Globals& globals, const QuotaOptions& options) {
  QuotaChange change{.tenant = options.tenant, .store = options.store, .limit_bytes = std::nullopt, .ttl = std::nullopt};
  if (options.bytes == "none") {
    change.limit_bytes = QuotaChange::kUnlimited;
  } else if (!options.bytes.empty()) {
    const auto bytes = protocol::ParseByteSize(options.bytes);
    if (!bytes) return ReportUsage(globals, {bytes.error().code, "--bytes: " + bytes.error().message});
    change.limit_bytes = *bytes;
  }
  if (!options.ttl.empty()) {
    const auto ttl = protocol::ParseDuration(options.ttl);
    if (!ttl) return ReportUsage(globals, {ttl.error().code, "--ttl: " + ttl.error().message});
    change.ttl = *ttl;
  }
  return WithAdmin(globals, [&](Admin& admin) -> int {
    const auto row = admin.SetQuota(change);
    if (!row) return Report(globals, row.error());
    Show(globals, {*row});
    return kOk;
  });
}

/// Those that the options name; all without any.
int Get(const Globals& globals, const QuotaOptions& options) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    auto rows = admin.Quotas();
    if (!rows) return Report(globals, rows.error());
    std::erase_if(*rows, [&](const QuotaRow& row) {
      return (!options.tenant.empty() && row.tenant != options.tenant) ||
             (!options.store.empty() && row.store != options.store);
    });
    if (rows->empty()) return Report(globals, {ErrorCode::kNotFound, "quota get: no such tenant or store"});
    Show(globals, *rows);
    return kOk;
  });
}

void AddNames(CLI::App& command, QuotaOptions& options) {
  CLI::Option* tenant = command.add_option("--tenant", options.tenant, "The tenant, or whose store");
  CLI::Option* store = command.add_option("--store", options.store, "The store, by name (set: or identity)");
  command.parse_complete_callback([tenant, store] {
    if (tenant->count() + store->count() == 0) throw CLI::RequiredError("--tenant or --store");
  });
}

}  // namespace

void AddQuota(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand("quota", "What tenants and stores may take of the budget");
  command->require_subcommand(1);
  auto options = std::make_shared<QuotaOptions>();
  CLI::App* set = command->add_subcommand("set", "Change a tenant's or a store's quota; what is beyond it goes first");
  AddNames(*set, *options);
  set->add_option("--bytes", options->bytes, "Most bytes, records included (256MiB), or none");
  set->add_option("--ttl", options->ttl, "Of a store: blocks that nobody uses so long go; 0: they stay");
  set->callback([&invocation, options] { invocation.exit_code = Set(invocation.globals, *options); });
  CLI::App* get = command->add_subcommand("get", "Show a tenant's or a store's");
  AddNames(*get, *options);
  get->callback([&invocation, options] { invocation.exit_code = Get(invocation.globals, *options); });
  command->add_subcommand("list", "Show all")->callback([&invocation, options] {
    invocation.exit_code = Get(invocation.globals, *options);
  });
}

}  // namespace kvant::tools
