// The calls of Admin on what stays and what goes: evicting by filter, pins, quotas.
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "client/admin_impl.h"

namespace kvant {
namespace {

using client::Guard;
using client::MovedFrom;

constexpr std::uint64_t kNone = QuotaChange::kUnlimited;

std::string Str(capnp::Text::Reader text) { return {text.begin(), text.size()}; }
capnp::Text::Reader TextOf(const std::string& text) { return {text.c_str(), text.size()}; }

Result<void> WriteFilter(const BlockFilter& from, wire::BlockFilter::Builder to) {
  if (from.idle.count() < 0) {
    return Error{ErrorCode::kInvalidArgument, "idle time of " + std::to_string(from.idle.count()) + " ms is negative"};
  }
  to.setTenant(TextOf(from.tenant));
  to.setStore(TextOf(from.store));
  to.setSequence(from.sequence);
  to.setChain(TextOf(from.chain));
  auto tokens = to.initTokens(static_cast<unsigned>(from.tokens.size()));
  for (unsigned i = 0; i < tokens.size(); ++i) {
    const TokenId token = from.tokens[i];
    if (token < 0 || token > std::numeric_limits<std::uint32_t>::max()) {
      return Error{ErrorCode::kInvalidArgument, "token " + std::to_string(token) + " is no token id"};
    }
    tokens.set(i, static_cast<std::uint32_t>(token));
  }
  to.setIdleMs(static_cast<std::uint64_t>(from.idle.count()));
  to.setMaxBlocks(from.max_blocks);
  to.setMaxBytes(from.max_bytes);
  return {};
}

PinRow ReadPin(wire::PinRow::Reader from) {
  return {.id = from.getPin(),
          .tenant = Str(from.getTenant()),
          .store = Str(from.getStore()),
          .blocks = from.getBlocks(),
          .bytes = from.getBytes(),
          .left = std::chrono::milliseconds(from.getLeftMs())};
}

QuotaRow ReadQuota(wire::Quota::Reader from) {
  QuotaRow row{.tenant = Str(from.getTenant()),
               .store = Str(from.getStore()),
               .limit_bytes = std::nullopt,
               .used_bytes = from.getUsedBytes()};
  if (from.getLimitBytes() != kNone) row.limit_bytes = from.getLimitBytes();
  if (from.getTtlMs() != kNone) row.ttl = std::chrono::milliseconds(from.getTtlMs());
  return row;
}

}  // namespace

Result<EvictReport> Admin::Evict(const EvictRequest& what) {
  return Guard("evict", [&]() -> Result<EvictReport> {
    if (!impl_) return MovedFrom("evict");
    if (auto entered = impl_->connection->Enter("evict"); !entered) return entered.error();
    auto request = impl_->admin.evictBlocksRequest();
    if (auto written = WriteFilter(what, request.initFilter()); !written) return written.error();
    request.setDryRun(what.dry_run);
    auto answer = impl_->connection->Call(request, "evict");
    if (!answer) return answer.error();
    return ReadEvicted(*answer);
  });
}

Result<PinRow> Admin::Pin(const BlockFilter& filter, std::chrono::milliseconds time) {
  return Guard("pin", [&]() -> Result<PinRow> {
    if (!impl_) return MovedFrom("pin");
    if (auto entered = impl_->connection->Enter("pin"); !entered) return entered.error();
    auto request = impl_->admin.pinRequest();
    if (auto written = WriteFilter(filter, request.initFilter()); !written) return written.error();
    request.setTimeMs(time.count() < 0 ? 0 : static_cast<std::uint64_t>(time.count()));
    auto answer = impl_->connection->Call(request, "pin");
    if (!answer) return answer.error();
    if (answer->isError()) return wire::ReadError(answer->getError());
    return ReadPin(answer->getOk());
  });
}

Result<void> Admin::Unpin(std::uint64_t pin) {
  return Guard("unpin", [&]() -> Result<void> {
    if (!impl_) return MovedFrom("unpin");
    if (auto entered = impl_->connection->Enter("unpin"); !entered) return entered.error();
    auto request = impl_->admin.unpinRequest();
    request.setPin(pin);
    auto answer = impl_->connection->Call(request, "unpin");
    if (!answer) return answer.error();
    return wire::ReadStatus(*answer);
  });
}

Result<std::vector<PinRow>> Admin::Pins() {
  return Guard("pins", [&]() -> Result<std::vector<PinRow>> {
    if (!impl_) return MovedFrom("pins");
    if (auto entered = impl_->connection->Enter("pins"); !entered) return entered.error();
    auto request = impl_->admin.pinsRequest();
    auto answer = impl_->connection->Call(request, "pins");
    if (!answer) return answer.error();
    std::vector<PinRow> rows;
    for (const auto row : answer->getPins()) rows.push_back(ReadPin(row));
    return rows;
  });
}

Result<QuotaRow> Admin::SetQuota(const QuotaChange& change) {
  return Guard("set quota", [&]() -> Result<QuotaRow> {
    if (!impl_) return MovedFrom("set quota");
    if (auto entered = impl_->connection->Enter("set quota"); !entered) return entered.error();
    if (change.limit_bytes == 0) return Error{ErrorCode::kInvalidArgument, "set quota: 0 bytes hold nothing"};
    if (change.ttl && (change.ttl->count() < 0 || change.store.empty())) {
      return Error{ErrorCode::kInvalidArgument, "set quota: a time to live is a store's, and not negative"};
    }
    auto request = impl_->admin.setQuotaRequest();
    auto quota = request.initQuota();
    quota.setTenant(TextOf(change.tenant));
    quota.setStore(TextOf(change.store));
    quota.setLimitBytes(change.limit_bytes.value_or(0));
    quota.setTtlMs(change.ttl ? static_cast<std::uint64_t>(change.ttl->count()) : kNone);
    auto answer = impl_->connection->Call(request, "set quota");
    if (!answer) return answer.error();
    if (answer->isError()) return wire::ReadError(answer->getError());
    return ReadQuota(answer->getOk());
  });
}

Result<std::vector<QuotaRow>> Admin::Quotas() {
  return Guard("quotas", [&]() -> Result<std::vector<QuotaRow>> {
    if (!impl_) return MovedFrom("quotas");
    if (auto entered = impl_->connection->Enter("quotas"); !entered) return entered.error();
    std::vector<QuotaRow> rows;
    std::uint32_t from = 0;
    do {
      auto request = impl_->admin.quotasRequest();
      request.setFrom(from);
      auto answer = impl_->connection->Call(request, "quotas");
      if (!answer) return answer.error();
      for (const auto row : answer->getQuotas()) rows.push_back(ReadQuota(row));
      from = answer->getNext();
    } while (from != 0);
    return rows;
  });
}

}  // namespace kvant
