// The calls of wire::Admin on what stays and what goes: evicting by filter, pins, quotas.
#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "daemon/serve/admin_server.h"
#include "daemon/serve/refusals.h"
#include "daemon/serve/rpc_handler.h"
#include "daemon/store/block_selection.h"
#include "daemon/store/pins.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

constexpr std::uint64_t kNone = ~std::uint64_t{0};
/// A page of quotas: with the longest names below what a client reads.
constexpr std::uint32_t kQuotasPerPage = 64;

BlockSelection ReadFilter(wire::BlockFilter::Reader from) {
  BlockSelection selection;
  selection.tenant = StringOf(from.getTenant(), wire::MAX_IDENTITY_TEXT);
  selection.store = StringOf(from.getStore(), wire::MAX_IDENTITY_TEXT);
  if (from.getSequence() != 0) selection.sequence = from.getSequence();
  selection.chain = StringOf(from.getChain(), wire::MAX_IDENTITY_TEXT);
  for (const std::uint32_t token : from.getTokens()) selection.tokens.push_back(token);
  selection.idle_ms = from.getIdleMs();
  selection.max_blocks = from.getMaxBlocks();
  selection.max_bytes = from.getMaxBytes();
  return selection;
}

void WritePin(const PinFigures& from, wire::PinRow::Builder to) {
  to.setPin(from.id);
  to.setTenant(TextOf(from.tenant));
  to.setStore(TextOf(from.store));
  to.setBlocks(from.blocks);
  to.setBytes(from.bytes);
  to.setLeftMs(from.left_ms);
}

void WriteQuota(const Tenant& tenant, const Store* store, wire::Quota::Builder to) {
  const Budget& budget = store != nullptr ? store->budget() : *tenant.budget;
  to.setTenant(TextOf(tenant.name));
  if (store != nullptr) to.setStore(TextOf(store->name()));
  to.setLimitBytes(budget.own_limit() == Budget::kUnlimited ? kNone : budget.own_limit());
  to.setTtlMs(store != nullptr ? store->ttl_ms() : kNone);
  to.setUsedBytes(budget.used());
}

}  // namespace

kj::Promise<void> AdminServer::evictBlocks(EvictBlocksContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto params = context.getParams();
    WriteEvicted(services_, services_.stores.Evict(ReadFilter(params.getFilter()), params.getDryRun()), context.getResults());
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::pin(PinContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto blocks = MatchBlocks(services_.stores, ReadFilter(context.getParams().getFilter()));
    const std::uint64_t ms = std::min<std::uint64_t>(context.getParams().getTimeMs(), std::uint64_t{1} << 62);
    const auto pinned =
        blocks ? services_.stores.Pin(*blocks, std::chrono::milliseconds(ms)) : Result<PinFigures>(blocks.error());
    if (!pinned) {
      WriteRefusal(services_, pinned.error(), context.getResults().initError());
    } else {
      WritePin(*pinned, context.getResults().initOk());
    }
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::unpin(UnpinContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    WriteOutcome(services_, services_.stores.Unpin(context.getParams().getPin()), context.getResults());
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::pins(PinsContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const std::vector<PinFigures> rows = services_.stores.pins().list();
    auto list = context.getResults().initPins(static_cast<unsigned>(rows.size()));
    for (unsigned i = 0; i < list.size(); ++i) WritePin(rows[i], list[i]);
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::setQuota(SetQuotaContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto quota = context.getParams().getQuota();
    const std::string tenant = StringOf(quota.getTenant(), wire::MAX_IDENTITY_TEXT);
    const std::string store = StringOf(quota.getStore(), wire::MAX_IDENTITY_TEXT);
    const std::uint64_t bytes = quota.getLimitBytes();
    const auto limit = bytes == kNone ? Budget::kUnlimited : static_cast<std::size_t>(bytes);
    if (store.empty()) {
      if (tenant.empty()) {
        WriteRefusal(services_, {ErrorCode::kInvalidArgument, "set quota: neither a tenant nor a store is named"},
                     context.getResults().initError());
        return kj::READY_NOW;
      }
      const std::shared_ptr<Tenant>& of = services_.stores.FindTenant(tenant);
      if (bytes != 0) services_.stores.SetQuota(*of, limit);
      WriteQuota(*of, nullptr, context.getResults().initOk());
      return kj::READY_NOW;
    }
    const auto found = services_.stores.Find(store, tenant);
    if (!found) {
      WriteRefusal(services_, found.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    services_.stores.SetQuota(**found, bytes == 0 ? std::nullopt : std::optional(limit),
                              quota.getTtlMs() == kNone ? std::nullopt : std::optional(quota.getTtlMs()));
    WriteQuota(*(*found)->tenant(), *found, context.getResults().initOk());
    return kj::READY_NOW;
  });
}

kj::Promise<void> AdminServer::quotas(QuotasContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    struct Row {
      const Tenant* tenant;
      const Store* store;
    };
    std::vector<Row> rows;
    for (const auto& [name, tenant] : services_.stores.tenants()) {
      rows.push_back({tenant.get(), nullptr});
      for (const auto& [identity, store] : tenant->stores) rows.push_back({tenant.get(), store.get()});
    }
    const auto from = std::min<std::size_t>(context.getParams().getFrom(), rows.size());
    const auto end = std::min<std::size_t>(from + kQuotasPerPage, rows.size());
    auto list = context.getResults().initQuotas(static_cast<unsigned>(end - from));
    for (std::size_t i = from; i < end; ++i) WriteQuota(*rows[i].tenant, rows[i].store, list[static_cast<unsigned>(i - from)]);
    context.getResults().setNext(end == rows.size() ? 0 : static_cast<std::uint32_t>(end));
    return kj::READY_NOW;
  });
}

}  // namespace kvant::daemon
