#include "daemon/serve/session.h"

#include <algorithm>
#include <utility>

#include "daemon/serve/long_attention.h"

namespace kvant::daemon {
namespace {

constexpr std::size_t kMaxStores = 65536;

}  // namespace

Error EndingError(std::string_view operation) {
  return {ErrorCode::kUnavailable, std::string(operation) + ": the daemon is ending"};
}

Session::Session(Services& services, std::string client, std::shared_ptr<ArenaAllowance> arenas,
                 std::shared_ptr<wire::MessageMemory::Account> messages, std::shared_ptr<Tenant> tenant,
                 std::shared_ptr<ClientRecord> record)
    : services_(services),
      arena_allowance_(std::move(arenas)),
      messages_(std::move(messages)),
      client_(std::move(client)),
      tenant_(std::move(tenant)),
      record_(std::move(record)) {
  services_.sessions.insert(this);
}

Session::~Session() { Close(); }

void Session::Close() {
  if (std::exchange(closed_, true)) return;
  services_.sessions.erase(this);
  CancelJobs();
  // Said before the leases go: a client that was taken for dead and runs on must not trust blocks that may be rewritten.
  for (const auto& [number, arena] : arenas_) arena->Revoke();
  readers_.clear();
  sequences_.clear();
  for (const auto& [number, opened] : std::exchange(stores_, {})) {
    std::shared_ptr<Store> store = opened.lock();
    if (!store) continue;  // dropped meanwhile
    store->pool().DropStrayPages();
    services_.stores.Close(std::move(store));
  }
  arenas_.clear();  // what still runs keeps its own reference to the mapping
}

Result<Session::MadeArena> Session::CreateArena(std::uint64_t bytes) {
  if (closed_) return Error{ErrorCode::kDisconnected, "create arena: the session is closed"};
  auto arena = Arena::Create(bytes, services_.core.boot_token, arena_allowance_, services_.arena_budget);
  if (!arena) return arena.error();
  const std::uint32_t number = next_number_++;
  arenas_.emplace(number, *arena);
  return MadeArena{number, *std::move(arena)};
}

Result<std::shared_ptr<const Arena>> Session::FindArena(std::uint32_t number) const {
  const auto found = arenas_.find(number);
  if (found == arenas_.end()) return Error{ErrorCode::kNotFound, "arena " + std::to_string(number) + " is not of this session"};
  return found->second;
}

std::vector<std::shared_ptr<const Arena>> Session::Arenas() const {
  std::vector<std::shared_ptr<const Arena>> arenas;
  for (const auto& [number, arena] : arenas_) arenas.push_back(arena);
  return arenas;
}

void Session::Submit(const std::shared_ptr<LongJob>& job, std::function<void()> done) {
  std::erase_if(jobs_, [](const auto& ended) { return ended.expired(); });
  jobs_.push_back(job);
  services_.long_attention.Submit(this, job, std::move(done));
}

void Session::CancelJobs() noexcept {
  for (const auto& weak : jobs_) {
    if (const auto job = weak.lock()) job->Cancel();
  }
}

std::uint64_t Session::leases() const noexcept {
  std::uint64_t blocks = 0;
  for (const auto& [id, own] : sequences_) blocks += own.sequence->sealed_blocks();
  return blocks;
}

std::vector<std::uint64_t> Session::Heartbeats() const {
  std::vector<std::uint64_t> beats;
  for (const auto& [number, arena] : arenas_) beats.push_back(arena->heartbeat());
  return beats;
}

Result<ArtifactBytes> Session::FindArtifact(const RangePlace& place, const std::string& what) const {
  if (place.bytes == 0) return ArtifactBytes{};
  auto arena = FindArena(place.arena);
  if (!arena) return Error{arena.error().code, what + ": " + arena.error().message};
  auto begin = (*arena)->CheckRange(what, place.offset, place.bytes, 1);
  if (!begin) return begin.error();
  return ArtifactBytes{.bytes = {*begin, place.bytes}, .mapping = *arena};
}

Session::NumberedStore Session::Number(OpenedStore opened) {
  const auto gone = [](const auto& entry) { return entry.expired(); };
  std::erase_if(stores_, [&](const auto& entry) { return gone(entry.second); });
  std::erase_if(warned_stores_, gone);
  for (const auto& [number, store] : stores_) {
    if (store.lock() != opened.store) continue;
    services_.stores.Close(opened.store);  // open here already
    return {number, std::move(opened.store), opened.created, opened.relabelled};
  }
  const std::uint32_t number = next_number_++;
  stores_.emplace(number, opened.store);
  return {number, opened.store, opened.created, opened.relabelled};
}

void Session::OpenStore(const std::shared_ptr<Session>& session, StoreSpec spec, const RangePlace& artifact, Opened done) {
  const std::string what = "open store \"" + spec.name + "\"";
  if (session->closed_) return done(Error{ErrorCode::kDisconnected, what + ": the session is closed"});
  if (session->stores_.size() + session->plans_in_work_ >= kMaxStores) {
    return done(
        Error{ErrorCode::kInvalidArgument, what + ": this session has " + std::to_string(kMaxStores) + " stores open already"});
  }
  Services& services = session->services_;
  if (services.draining) return done(EndingError(what));
  if (session->plans_in_work_ >= kMaxPlansInWork) {
    return done(Error{ErrorCode::kUnavailable, what + ": " + std::to_string(kMaxPlansInWork) +
                                                   " other stores are being opened by this session; wait for one of them"});
  }
  auto bytes = session->FindArtifact(artifact, what + ": artifact");
  if (!bytes) return done(bytes.error());
  ++session->plans_in_work_;
  services.openings.Open(
      session->tenant_, std::move(spec), *std::move(bytes), [session] { return !session->closed_; },
      [session, done = std::move(done)](Result<OpenedStore> opened) {
        --session->plans_in_work_;
        done(opened ? Result<NumberedStore>(session->Number(*std::move(opened))) : opened.error());
      });
}

Result<std::shared_ptr<Store>> Session::FindStore(std::uint32_t number) const {
  const auto found = stores_.find(number);
  const std::shared_ptr<Store> store = found == stores_.end() ? nullptr : found->second.lock();
  if (store && !store->dropped()) return store;
  const bool was_open = store || (number != 0 && number < next_number_ && !arenas_.contains(number));
  return Error{ErrorCode::kNotFound, "store " + std::to_string(number) +
                                         (was_open ? " was dropped, by an operator or because it was empty and room was "
                                                     "needed: open it again"
                                                   : " is not open in this session")};
}

Result<TailView> Session::FindTail(const NewSequence& options, const StoreSpec& spec) const {
  auto arena = FindArena(options.arena);
  if (!arena) return Error{arena.error().code, "tail: " + arena.error().message};
  return CheckTail(*arena, options.tail, spec);
}

SequenceConfig Session::ConfigOf(const NewSequence& options) const {
  return {.recent_tokens = options.recent_tokens,
          .max_step_tokens = options.max_step_tokens,
          .client = client_,
          .label = options.label,
          .policy = options.policy,
          .want_state = options.want_state,
          .priority = options.priority};
}

Sequence* Session::Keep(std::unique_ptr<Sequence> sequence, Placement placement) {
  const std::uint64_t id = sequence->id();
  return sequences_.emplace(id, OwnSequence{std::move(sequence), placement, 0}).first->second.sequence.get();
}

bool Session::Checked(std::uint32_t store) const {
  const auto found = FindStore(store);
  return !found || (*found)->unchecked_blocks() == 0;
}

void Session::CheckPrefix(std::uint32_t store, PrefixChecks::Tokens tokens, std::function<void()> done) {
  auto found = FindStore(store);
  if (!found) return done();
  services_.prefix_checks.Check(*found, std::move(tokens), std::move(done));
}

Result<Sequence*> Session::Open(std::uint32_t store, std::span<const std::uint32_t> tokens, const NewSequence& options) {
  auto found = FindStore(store);
  if (!found) return found.error();
  auto tail = FindTail(options, (*found)->spec());
  if (!tail) return tail.error();
  auto sequence = Sequence::Open(*found, tokens, *std::move(tail), ConfigOf(options));
  if (!sequence) return sequence.error();
  return Keep(*std::move(sequence), options.placement);
}

Result<Sequence*> Session::Fork(std::uint32_t store, std::uint64_t source, std::uint64_t length, const NewSequence& options) {
  auto found = FindStore(store);
  if (!found) return found.error();
  auto from = FindShared(source);
  if (!from) return from.error();
  if (&(*from)->store() != found->get()) {
    return Error{ErrorCode::kNotFound,
                 "fork: sequence " + std::to_string(source) + " is not of store \"" + (*found)->name() + "\""};
  }
  auto tail = FindTail(options, (*found)->spec());
  if (!tail) return tail.error();
  const std::uint64_t at = length == ~std::uint64_t{0} ? (*from)->length() : length;
  auto sequence = Sequence::Fork(**from, at, *std::move(tail), ConfigOf(options));
  if (!sequence) return sequence.error();
  return Keep(*std::move(sequence), options.placement);
}

Result<Session::NewReader> Session::Read(std::uint32_t store, std::uint64_t source) {
  auto found = FindStore(store);
  if (!found) return found.error();
  auto from = FindShared(source);
  if (!from) return from.error();
  if (&(*from)->store() != found->get()) {
    return Error{ErrorCode::kNotFound,
                 "read: sequence " + std::to_string(source) + " is not of store \"" + (*found)->name() + "\""};
  }
  auto reader = Reader::Open(**from, client_);
  if (!reader) return reader.error();
  const std::uint64_t id = (*reader)->id();
  readers_.emplace(id, *std::move(reader));
  return NewReader{id, *from};
}

Result<void> Session::CloseSequence(std::uint64_t id) {
  if (sequences_.erase(id) > 0 || readers_.erase(id) > 0) return {};
  return NotOurs(id);
}

Error Session::NotOurs(std::uint64_t id) const {
  auto elsewhere = FindShared(id);
  if (!elsewhere) return elsewhere.error();
  return {ErrorCode::kPermissionDenied, "sequence " + std::to_string(id) + " belongs to another session"};
}

Result<Sequence*> Session::FindShared(std::uint64_t id) const {
  auto found = services_.core.sequences.Find(id, tenant_.get());
  if (!found && services_.core.sequences.Find(id)) ++services_.counters.refused_foreign_sequences;
  return found;
}

Result<UsableSequence> Session::Own(std::uint64_t id) const {
  const auto found = sequences_.find(id);
  if (found != sequences_.end()) return UsableSequence{found->second.sequence.get(), found->second.placement};
  if (readers_.contains(id))
    return Error{ErrorCode::kUnsupported, "sequence " + std::to_string(id) + " is a reader and cannot change"};
  return NotOurs(id);
}

Result<UsableSequence> Session::OwnOrRead(std::uint64_t id) const {
  const auto reader = readers_.find(id);
  if (reader == readers_.end()) return Own(id);
  auto source = reader->second->source();
  if (!source) return source.error();
  return UsableSequence{*source, Placement::kService};
}

Result<UsableSequence> Session::WithUnnamed(std::uint64_t id, std::uint32_t unnamed) const {
  auto usable = unnamed == 0 ? OwnOrRead(id) : Own(id);
  if (!usable || unnamed <= usable->sequence->free_rows()) return usable;
  return Error{ErrorCode::kTailFull, "sequence " + std::to_string(id) + ": " + std::to_string(unnamed) +
                                         " unnamed rows, its tail has " + std::to_string(usable->sequence->free_rows()) +
                                         " free ones"};
}

BlockRange Session::TellAllBlocks(std::uint64_t id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end() || found->second.placement != Placement::kLocal) return {};
  OwnSequence& own = found->second;
  own.told_blocks = own.sequence->sealed_blocks();
  return {0, own.told_blocks};
}

BlockRange Session::TellNewBlocks(std::uint64_t id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end() || found->second.placement != Placement::kLocal) return {};
  OwnSequence& own = found->second;
  const std::uint64_t sealed = own.sequence->sealed_blocks();
  // A trim may have taken blocks away that the client was told of.
  const std::uint64_t begin = std::min(own.told_blocks, sealed);
  own.told_blocks = sealed;
  return {begin, sealed};
}

}  // namespace kvant::daemon
