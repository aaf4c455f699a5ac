#include "daemon/serve/session.h"

#include <array>
#include <cstring>
#include <utility>

#include "kernels/raw/rows.h"

namespace kvant::daemon {
namespace {

constexpr std::size_t kMaxArenas = 64;
constexpr std::size_t kMaxTextBytes = 256;  // of names and labels that clients choose and operators see
constexpr std::size_t kMaxHeadDim = 1024;   // quantizers::Plan refuses more

/// Copies one side's rows into the tail. The arena's numbers are read once, and what was read is what is checked.
Result<void> CopySide(const Sequence& sequence, const Session::AppendCall& call, std::size_t side) {
  const ConstTensorView& from = side == 0 ? call.keys : call.values;
  const TailView& tail = sequence.tail();
  const std::uint64_t first = sequence.length() + call.first_token;
  const float largest = kernels::LargestStorable(tail.layout.type);
  std::array<float, kMaxHeadDim> row;
  for (std::size_t head = 0; head < from.heads; ++head) {
    const RowsView rows = from.Head(head);
    std::byte* ring = tail.Ring(call.layer, side, head);
    for (std::size_t token = 0; token < from.tokens; ++token) {
      const auto* source = static_cast<const std::byte*>(rows.data) + token * rows.stride * ElementBytes(rows.type);
      const float magnitude = kernels::LoadRow(source, rows.type, rows.dim, row.data());
      if (!(magnitude <= largest)) {
        return Error{ErrorCode::kNotFinite, "append: layer " + std::to_string(call.layer) + ", KV head " +
                                                std::to_string(head) + ", token " + std::to_string(token) + ": the " +
                                                (side == 0 ? "key" : "value") + " row holds NaN, infinity or a number beyond " +
                                                ElementTypeName(tail.layout.type)};
      }
      kernels::StoreRow(row.data(), rows.dim, tail.layout.type,
                        ring + (first + token) % tail.layout.capacity * tail.layout.row_bytes());
    }
  }
  return {};
}

Result<void> CheckShape(const ConstTensorView& tensor, const char* what, std::size_t tokens, const StoreSpec& spec) {
  if (tensor.tokens == tokens && tensor.heads == spec.kv_heads && tensor.dim == spec.head_dim) return {};
  const auto shape = [](std::size_t t, std::size_t h, std::size_t d) {
    return "[" + std::to_string(t) + ", " + std::to_string(h) + ", " + std::to_string(d) + "]";
  };
  return Error{ErrorCode::kInvalidArgument,
               std::string("append: ") + what + " are " + shape(tensor.tokens, tensor.heads, tensor.dim) + ", store \"" +
                   spec.name + "\" needs [tokens, kv_heads, head_dim] = " + shape(tokens, spec.kv_heads, spec.head_dim)};
}

std::string Shown(std::string text) {
  if (text.size() > kMaxTextBytes) text.resize(kMaxTextBytes);
  return text;
}

}  // namespace

Session::Session(Services& services, std::string client) : services_(services), client_(Shown(std::move(client))) {
  services_.sessions.insert(this);
}

Session::~Session() { Close(); }

void Session::Close() {
  if (std::exchange(closed_, true)) return;
  services_.sessions.erase(this);
  readers_.clear();
  sequences_.clear();
  stores_.clear();
  arenas_.clear();  // encodings that run keep their own reference to the mapping
  arena_bytes_ = 0;
}

Result<Session::MadeArena> Session::CreateArena(std::uint64_t bytes) {
  if (closed_) return Error{ErrorCode::kDisconnected, "create arena: the session is closed"};
  if (arenas_.size() >= kMaxArenas) {
    return Error{ErrorCode::kInvalidArgument, "create arena: this session has " + std::to_string(kMaxArenas) + " already"};
  }
  const std::uint64_t left = services_.arena_limit_bytes - arena_bytes_;
  if (bytes > left) {
    return Error{ErrorCode::kInvalidArgument, "create arena: " + std::to_string(bytes) + " bytes asked, " +
                                                  std::to_string(left) + " of this session's " +
                                                  std::to_string(services_.arena_limit_bytes) + " are left"};
  }
  auto arena = Arena::Create(bytes, services_.core.boot_token);
  if (!arena) return arena.error();
  if ((*arena)->bytes() > left) {
    return Error{ErrorCode::kInvalidArgument, "create arena: " + std::to_string((*arena)->bytes()) +
                                                  " bytes (whole pages) asked, " + std::to_string(left) + " are left"};
  }
  const std::uint32_t number = next_number_++;
  arena_bytes_ += (*arena)->bytes();
  arenas_.emplace(number, *arena);
  return MadeArena{number, *std::move(arena)};
}

Result<std::shared_ptr<const Arena>> Session::FindArena(std::uint32_t number) const {
  const auto found = arenas_.find(number);
  if (found == arenas_.end()) return Error{ErrorCode::kNotFound, "arena " + std::to_string(number) + " is not of this session"};
  return found->second;
}

std::vector<std::uint64_t> Session::Heartbeats() const {
  std::vector<std::uint64_t> beats;
  for (const auto& [number, arena] : arenas_) beats.push_back(arena->heartbeat());
  return beats;
}

Result<Session::HeldStore> Session::OpenStore(StoreSpec spec, const RangePlace& artifact) {
  if (closed_) return Error{ErrorCode::kDisconnected, "open store: the session is closed"};
  if (artifact.bytes > 0) {
    auto arena = FindArena(artifact.arena);
    if (!arena) return Error{arena.error().code, "open store \"" + spec.name + "\": artifact: " + arena.error().message};
    auto place = (*arena)->CheckRange("open store \"" + spec.name + "\": artifact", artifact.offset, artifact.bytes, 1);
    if (!place) return place.error();
    spec.plan.artifact.resize(artifact.bytes);
    std::memcpy(spec.plan.artifact.data(), *place, artifact.bytes);
  }
  auto opened = services_.stores.Open(spec);
  if (!opened) return opened.error();
  for (const auto& [number, store] : stores_) {
    if (store == opened->store) return HeldStore{number, store, opened->created};
  }
  const std::uint32_t number = next_number_++;
  stores_.emplace(number, opened->store);
  return HeldStore{number, opened->store, opened->created};
}

Result<std::shared_ptr<Store>> Session::FindStore(std::uint32_t number) const {
  const auto found = stores_.find(number);
  if (found == stores_.end())
    return Error{ErrorCode::kNotFound, "store " + std::to_string(number) + " is not open in this session"};
  return found->second;
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
          .label = Shown(options.label)};
}

Sequence* Session::Hold(std::unique_ptr<Sequence> sequence, Placement placement) {
  const std::uint64_t id = sequence->id();
  return sequences_.emplace(id, Held{std::move(sequence), placement, 0}).first->second.sequence.get();
}

Result<Sequence*> Session::Open(std::uint32_t store, std::span<const std::uint32_t> tokens, const NewSequence& options) {
  auto found = FindStore(store);
  if (!found) return found.error();
  auto tail = FindTail(options, (*found)->spec());
  if (!tail) return tail.error();
  auto sequence = Sequence::Open(*found, tokens, *std::move(tail), ConfigOf(options));
  if (!sequence) return sequence.error();
  return Hold(*std::move(sequence), options.placement);
}

Result<Sequence*> Session::Fork(std::uint32_t store, std::uint64_t source, std::uint64_t length, const NewSequence& options) {
  auto found = FindStore(store);
  if (!found) return found.error();
  auto from = services_.core.sequences.Find(source);
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
  return Hold(*std::move(sequence), options.placement);
}

Result<Session::NewReader> Session::Read(std::uint32_t store, std::uint64_t source) {
  auto found = FindStore(store);
  if (!found) return found.error();
  auto from = services_.core.sequences.Find(source);
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
  auto elsewhere = services_.core.sequences.Find(id);
  if (!elsewhere) return elsewhere.error();
  return {ErrorCode::kPermissionDenied, "sequence " + std::to_string(id) + " belongs to another session"};
}

Result<Glance> Session::Own(std::uint64_t id) const {
  const auto found = sequences_.find(id);
  if (found != sequences_.end()) return Glance{found->second.sequence.get(), found->second.placement};
  if (readers_.contains(id))
    return Error{ErrorCode::kUnsupported, "sequence " + std::to_string(id) + " is a reader and cannot change"};
  return NotOurs(id);
}

Result<Glance> Session::View(std::uint64_t id) const {
  const auto reader = readers_.find(id);
  if (reader == readers_.end()) return Own(id);
  auto source = reader->second->source();
  if (!source) return source.error();
  return Glance{*source, Placement::kService};
}

std::uint64_t Session::TellBlocks(std::uint64_t id, std::uint64_t sealed) {
  const auto found = sequences_.find(id);
  return found == sequences_.end() ? sealed : std::exchange(found->second.told_blocks, sealed);
}

void Session::ForgetBlocks(std::uint64_t id, std::uint64_t sealed) {
  const auto found = sequences_.find(id);
  if (found != sequences_.end() && found->second.told_blocks > sealed) found->second.told_blocks = sealed;
}

Result<void> Session::Append(const AppendCall& call) {
  auto own = Own(call.sequence);
  if (!own) return own.error();
  const Sequence& sequence = *own->sequence;
  const StoreSpec& spec = sequence.store().spec();
  if (call.layer >= spec.layers) {
    return Error{ErrorCode::kOutOfRange, "append: layer " + std::to_string(call.layer) + " of " + std::to_string(spec.layers)};
  }
  if (auto ok = CheckShape(call.keys, "keys", call.keys.tokens, spec); !ok) return ok;
  if (auto ok = CheckShape(call.values, "values", call.keys.tokens, spec); !ok) return ok;
  const std::uint64_t rows = std::uint64_t{call.first_token} + call.keys.tokens;
  if (rows > sequence.free_rows()) {
    return Error{ErrorCode::kTailFull, "append: " + std::to_string(rows) + " rows behind the sequence's " +
                                           std::to_string(sequence.length()) + " tokens, its tail has room for " +
                                           std::to_string(sequence.free_rows())};
  }
  for (std::size_t side = 0; side < 2; ++side) {
    if (auto ok = CopySide(sequence, call, side); !ok) return ok;
  }
  const std::uint64_t bytes = 2 * call.keys.tokens * spec.kv_heads * sequence.tail().layout.row_bytes();
  bytes_copied_ += bytes;
  sequence.store().counters().bytes_copied += bytes;
  return {};
}

void Session::CountAttend() noexcept {
  ++attend_calls_;
  ++services_.counters.attend_calls;
}

}  // namespace kvant::daemon
