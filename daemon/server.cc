#include "daemon/server.h"

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <spdlog/spdlog.h>
#include <unistd.h>

#include "daemon/holder/holder.h"
#include "daemon/metrics/prometheus_text.h"
#include "daemon/store/held_stores.h"
#include "kernels/machine/instructions.h"

namespace kvant::daemon {
namespace {

using Clock = std::chrono::steady_clock;

/// Encoding has until its block switches (SealSlack tokens); a step has no time at all. Where they want the same core, the step
/// gets nine tenths of it.
constexpr int kNicer = 10;
/// Long attention against steps of others: a quarter of the core, while both want it.
constexpr int kLongNicer = 5;
constexpr kj::Duration kAlivePause = 5 * kj::SECONDS;
/// More would make each answer large; the sums are of all stores.
constexpr std::size_t kMostMeasuredStores = 100;
/// Answers that a drained daemon has written leave when the loop next has nothing to do.
constexpr kj::Duration kFlushTime = 10 * kj::MILLISECONDS;
/// What drain_timeout cut short is answered soon after, or, on a machine that gives the daemon no time at all, never.
constexpr kj::Duration kRefusalTime = 5 * kj::SECONDS;

/// Whoever watches hears whether the state was saved, unless it has not asked for this long.
constexpr kj::Duration kHearTime = 2 * kj::SECONDS;
constexpr kj::Duration kHearPause = 10 * kj::MILLISECONDS;

/// Room is made ahead of need every so often, seldom while nobody is connected, and for about a millisecond at a time.
constexpr kj::Duration kTendPause = 50 * kj::MILLISECONDS;
constexpr kj::Duration kIdlePause = 1 * kj::SECONDS;
constexpr std::uint64_t kMostPerStep = 64;
constexpr std::uint64_t kMostDemotedPerStep = 4;  // reads all of a block
/// What is kept free: what appends take until the next step, and a small part of the budget.
constexpr std::size_t kReserveShare = 32;
constexpr std::size_t kMostReserve = std::size_t{32} << 20;
/// Of the budget, for what was evicted.
constexpr std::size_t kEvictedShare = 1024;
constexpr std::size_t kMostEvictedBytes = std::size_t{16} << 20;

kj::Duration QuarterOf(std::chrono::milliseconds lease) {
  return std::max<std::chrono::milliseconds>(lease / 4, std::chrono::milliseconds(1)).count() * kj::MILLISECONDS;
}

/// By the clock that no date changes and that all daemons between two starts of the machine share: pins outlive a daemon. It
/// stands still while the machine is suspended.
std::uint64_t NowMs() {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now().time_since_epoch()).count());
}

/// Never 0, which at hello means "any daemon".
std::uint64_t NewBootToken() {
  std::random_device entropy;
  const std::uint64_t token = (std::uint64_t{entropy()} << 32) | entropy();
  return token == 0 ? 1 : token;
}

std::size_t Workers(const DaemonOptions& options) {
  if (options.workers > 0) return options.workers;
  return std::max<std::size_t>(1, std::thread::hardware_concurrency());
}

std::size_t ArenaTotal(const DaemonOptions& options) {
  if (options.arena_total_bytes > 0) return options.arena_total_bytes;
  const auto pages = static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES));
  return std::max(options.arena_limit_bytes, pages / 2 * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)));
}

}  // namespace

Server::Server(const DaemonOptions& options, Budget budget, std::optional<Listener> listener,
               std::optional<MetricsSocket> metrics, std::optional<StateDir> state, protocol::UniqueFd eventfd)
    : options_(options),
      log_(options.log),
      queue_(
          loop_.port(), std::move(eventfd), [this](const kj::Exception& exception) { log_.Report("posted work", exception); },
          [this](const kj::Exception& exception) { Fail("the queue of other threads' work", exception); }),
      builtin_codecs_(quantizers::Registry::Builtin()),
      budget_(std::move(budget)),
      arena_budget_(ArenaTotal(options)),
      encode_(MakeWorkers("kvant-encode", Workers(options))),
      populate_(MakeWorkers("kvant-populate", 1)),
      plans_(MakeWorkers("kvant-plan", 1)),
      team_(Workers(options) - 1),
      core_{.budget = budget_,
            .encode = *encode_,
            .populate = *populate_,
            .codecs = options.codecs != nullptr ? *options.codecs : builtin_codecs_,
            .boot_token = NewBootToken(),
            .keeper = options.keeper.get(),
            .eviction = EvictionOrder(options.eviction, options.demote_to),
            .ttl_ms = static_cast<std::uint64_t>(options.ttl.count()),
            .notify = [this](std::string_view event) { log_.Tell(event); }},
      stores_(std::make_unique<StoreTable>(core_)),
      openings_(*stores_, core_.codecs, *plans_),
      prefix_checks_(*encode_),
      attend_(team_),
      long_attention_(std::make_unique<LongAttention>(Workers(options), kLongNicer,
                                                      [this](std::function<void()> work) { queue_.Post(std::move(work)); })),
      services_{.core = core_,
                .stores = *stores_,
                .openings = openings_,
                .prefix_checks = prefix_checks_,
                .attend = attend_,
                .long_attention = *long_attention_,
                .arena_budget = arena_budget_,
                .arena_limit_bytes = options.arena_limit_bytes,
                .counters = {},
                .sessions = {},
                .waiting_calls = {},
                .draining = false,
                .tenant_names = TenantNames({options.tenants.begin(), options.tenants.end()})},
      facts_{.boot_token = core_.boot_token,
             .budget_bytes = options.budget_bytes,
             .lease_ms = static_cast<std::uint32_t>(options.lease.count())},
      listener_(std::move(listener)),
      connections_(std::make_unique<Connections>(loop_, services_, facts_, log_, options.lease, options.max_connections)),
      heartbeats_(
          loop_.timer(), QuarterOf(options.lease), [this] { return WatchHeartbeats(); },
          [this](const kj::Exception& exception) { log_.Report("a look at heartbeats", exception); }),
      room_(
          loop_.timer(), kTendPause, [this] { return TendRoom(); },
          [this](const kj::Exception& exception) {
            ++services_.counters.room_failures;
            log_.Report("making room ahead of need", exception);
          }) {
  loop_.set_spin(options_.spin);
  RememberEvicted();
  services_.drain = [this] { BeginDrain(); };
  services_.upgrade = options_.upgrade;
  core_.eviction.now_ms = NowMs();
  for (const auto& [tenant, bytes] : options_.quotas) stores_->Limit(*stores_->FindTenant(tenant), bytes);
  if (state) state_ = std::make_unique<KeptState>(*std::move(state), core_, *stores_, *plans_, options_.log);
  if (state_) state_->TakeMark(options_.segments);
  RestoreHeld();
  if (listener_) {
    accepting_ = Essential("accepting connections", connections_->Accept(listener_->fd()));
  }
  if (state_) state_->Restore();
  watching_ = Essential("watching heartbeats", heartbeats_.chain());
  tending_ = Essential("making room ahead of need", room_.chain());
  if (core_.keeper != nullptr) telling_ = Essential("telling that the daemon is alive", TellAlive());
  if (metrics) metrics_ = ServeMetrics(*std::move(metrics));
}

Server::~Server() noexcept(false) {
  metrics_.reset();  // joins
  accepting_ = kj::READY_NOW;
  watching_ = kj::READY_NOW;
  tending_ = kj::READY_NOW;
  telling_ = kj::READY_NOW;
  draining_ = kj::READY_NOW;
  connections_.reset();     // sessions, sequences, leases; encodings in flight are abandoned
  long_attention_.reset();  // joins, as do the next
  // Calls that were cancelled end here: what they hold belongs to members that die before the loop does.
  loop_.wait_scope().poll();
  encode_.reset();
  populate_.reset();
  if (state_) state_->Cancel();
  plans_.reset();
  state_.reset();
  queue_.Discard();  // ends of encodings hold slots and charges of members that die before the queue
}

/// Threads for jobs of little hurry.
std::unique_ptr<WorkerThreads> Server::MakeWorkers(const char* name, std::size_t threads) {
  return std::make_unique<WorkerThreads>(
      name, threads, kNicer, [this](std::function<void()> work) { queue_.Post(std::move(work)); },
      [this](const std::string& what) { log_.Report("a job", KJ_EXCEPTION(FAILED, what.c_str())); });
}

std::unique_ptr<MetricsServer> Server::ServeMetrics(MetricsSocket socket) {
  if (options_.log) options_.log->info("metrics address={}", socket.address());
  return std::make_unique<MetricsServer>(
      std::move(socket),
      MetricsServer::Callbacks{
          .post = [this](std::function<void()> work) { queue_.Post(std::move(work)); },
          .collect =
              [this] {
                return [figures = FiguresOf(services_), stores = LargestStores(services_, kMostMeasuredStores)] {
                  return PrometheusText(figures, stores, KVANT_VERSION);
                };
              },
          .failed =
              [this](const std::string& what) {
                queue_.Post([this, what] { log_.Report("the metrics", KJ_EXCEPTION(FAILED, what.c_str())); });
              },
      });
}

void Server::Run() {
  if (options_.log) {
    options_.log->info("serving socket={} boot_token={} budget_bytes={} workers={} lease_ms={} kernels={}",
                       listener_ ? listener_->path() : "none", core_.boot_token, options_.budget_bytes, Workers(options_),
                       options_.lease.count(), kernels::Instructions());
  }
  // Before the first answer: a worker that is killed once a client has heard of it must not count as one that never came up.
  if (core_.keeper != nullptr) core_.keeper->Ready();
  try {
    stop_.promise.wait(loop_.wait_scope());
  } catch (const kj::Exception& exception) {
    if (core_.keeper == nullptr) throw;
    if (options_.log) options_.log->critical("failed, a successor goes on error=\"{}\"", Description(exception));
    std::_Exit(EXIT_FAILURE);  // destructors would give back what the successor is to serve
  }
  if (hand_over_) {
    if (options_.log) options_.log->info("handed over connections={}", connections_->count());
    std::_Exit(StateFault() ? kExitStateNotSaved : *hand_over_);  // destructors would give the memory back
  }
  if (options_.log) options_.log->info("stopping connections={}", connections_->count());
}

void Server::Stop() {
  queue_.Post([this] { stop_.fulfiller->fulfill(); });
}

void Server::Drain() {
  queue_.Post([this] { BeginDrain(); });
}

void Server::SetLimits(const DaemonLimits& limits) {
  queue_.Post([this, limits] {
    connections_->set_most(std::max<std::size_t>(limits.max_connections, 1));
    options_.drain_timeout = limits.drain_timeout;
    if (limits.budget_bytes >= budget_.limit() && limits.budget_bytes <= MachineMemory()) {
      budget_.set_own_limit(limits.budget_bytes);
      facts_.budget_bytes = limits.budget_bytes;
    } else if (options_.log) {
      options_.log->warn("the budget stays: it can only grow, up to the machine's memory budget_bytes={} asked_bytes={}",
                         budget_.limit(), limits.budget_bytes);
    }
    if (options_.log) {
      options_.log->info("limits set budget_bytes={} max_connections={} drain_timeout_ms={}", budget_.limit(),
                         limits.max_connections, options_.drain_timeout.count());
    }
  });
}

void Server::HandOver(int exit_code, Daemon::Successor successor) {
  queue_.Post([this, exit_code, successor] {
    if (services_.draining) return;
    hand_over_ = exit_code;
    successor_ = successor;
    if (listener_) listener_->LeaveFile();
    BeginDrain();
  });
}

/// A thousandth of the budget remembers what was evicted.
void Server::RememberEvicted() {
  const std::size_t bytes = std::min(budget_.limit() / kEvictedShare, kMostEvictedBytes);
  auto charge = budget_.Take(ChargeKind::kMetadata, bytes, "what remembers evicted blocks");
  if (charge) core_.history.evicted = EvictedBlocks(*std::move(charge));
}

/// What a daemon before this one has sealed. Whatever fails is told and dropped.
void Server::RestoreHeld() {
  if (options_.segments.empty()) return;
  const auto begin = Clock::now();
  std::vector<protocol::UniqueFd> segments;
  for (const int fd : options_.segments) segments.emplace_back(fd);
  const HeldFigures figures = daemon::RestoreHeld(core_, *stores_, std::move(segments));
  if (!options_.log) return;
  const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin);
  options_.log->info("restored stores={} blocks={} bytes={} dropped_parts={} dropped_segments={} took_ms={}", figures.stores,
                     figures.blocks, figures.bytes, figures.dropped_parts, figures.dropped_segments, took.count());
}

void Server::BeginDrain() {
  if (std::exchange(services_.draining, true)) return;
  core_.events.Tell("draining", {{"waiting_calls", services_.waiting_calls.count()},
                                 {"hand_over", std::uint64_t{hand_over_.has_value() ? 1U : 0U}}});
  if (options_.log) {
    options_.log->info("draining waiting_calls={} timeout_ms={}", services_.waiting_calls.count(),
                       options_.drain_timeout.count());
  }
  accepting_ = kj::READY_NOW;
  listener_.reset();
  auto late = loop_.timer().afterDelay(options_.drain_timeout.count() * kj::MILLISECONDS).then([this] {
    if (options_.log) options_.log->warn("drain timed out waiting_calls={}", services_.waiting_calls.count());
    for (Session* session : services_.sessions) session->CancelJobs();
    return loop_.timer().afterDelay(kRefusalTime);
  });
  draining_ = Essential("draining", services_.waiting_calls.WhenNone()
                                        .exclusiveJoin(kj::mv(late))
                                        .then([this] { return loop_.timer().afterDelay(kFlushTime); })
                                        .then([this] { return SaveState(); })
                                        .then([this] { stop_.fulfiller->fulfill(); }));
}

/// Beside the loop, so that Stop still ends the daemon.
kj::Promise<void> Server::SaveState() {
  if (!state_ || successor_ == Daemon::Successor::kComes) return kj::READY_NOW;
  auto pair = kj::newPromiseAndFulfiller<void>();
  auto fulfiller = std::make_shared<kj::Own<kj::PromiseFulfiller<void>>>(kj::mv(pair.fulfiller));
  state_->Save(options_.save_timeout, [fulfiller] { (*fulfiller)->fulfill(); });
  return pair.promise.then([this] { return WhenHeard().exclusiveJoin(loop_.timer().afterDelay(kHearTime)); }).then([this] {
    return loop_.timer().afterDelay(kFlushTime);
  });
}

kj::Promise<void> Server::WhenHeard() {
  if (core_.events.taken()) return kj::READY_NOW;
  return loop_.timer().afterDelay(kHearPause).then([this] { return WhenHeard(); });
}

void Server::Serve(protocol::UniqueFd socket) {
  // std::function wants to be copied, and posted work that never runs must not leak the descriptor.
  auto shared = std::make_shared<protocol::UniqueFd>(std::move(socket));
  queue_.Post([this, shared] { connections_->Adopt(kj::AutoCloseFd(shared->Release())); });
}

kj::Duration Server::WatchHeartbeats() {
  connections_->DropHung();
  stores_->DropStrayPages();
  return QuarterOf(options_.lease);
}

/// Tells the stores what time it is and makes room before somebody waits for it.
kj::Duration Server::TendRoom() {
  ++services_.counters.room_steps;
  core_.eviction.now_ms = NowMs();
  const std::size_t reserve = std::min(core_.budget.own_limit() / kReserveShare, kMostReserve);
  const std::uint64_t most = core_.eviction.demote_to == 0 ? kMostPerStep : kMostDemotedPerStep;
  const std::uint64_t gone = stores_->Tend(reserve, most);
  services_.counters.evicted_ahead_blocks += gone;
  if (gone == most) return 0 * kj::MILLISECONDS;  // more is due, after whoever waits
  return services_.sessions.empty() ? kIdlePause : kTendPause;
}

kj::Promise<void> Server::TellAlive() {
  core_.keeper->Alive();
  return loop_.timer().afterDelay(kAlivePause).then([this] { return TellAlive(); });
}

/// A chain without which the daemon is of no use.
kj::Promise<void> Server::Essential(std::string_view what, kj::Promise<void> chain) {
  return chain.eagerlyEvaluate([this, what](kj::Exception&& exception) { Fail(what, exception); });
}

void Server::Fail(std::string_view what, const kj::Exception& exception) {
  stop_.fulfiller->reject(
      KJ_EXCEPTION(FAILED, "the daemon cannot go on", std::string(what).c_str(), Description(exception).c_str()));
}

}  // namespace kvant::daemon
