#include "client/sequence.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>

#include "client/sequence_call.h"
#include "protocol/wire.h"

namespace kvant::client {
namespace {

Error InvalidArgument(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

}  // namespace

Sequence::Sequence(std::shared_ptr<Store> store) : store_(std::move(store)), progress_(store_->spec().block_tokens, 0) {}

Result<void> CheckTokens(std::span<const TokenId> tokens, std::string_view operation) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] > TokenId{UINT32_MAX}) {
      return InvalidArgument(std::string(operation) + ": token " + std::to_string(i) + " is " + std::to_string(tokens[i]) +
                             ", ids are 0.." + std::to_string(UINT32_MAX));
    }
  }
  return {};
}

Result<std::shared_ptr<Sequence>> Sequence::Open(std::shared_ptr<Store> store, std::span<const TokenId> tokens,
                                                 const SequenceOptions& options) {
  if (auto good = CheckTokens(tokens, "open sequence"); !good) return good.error();
  std::shared_ptr<Sequence> sequence(new Sequence(std::move(store)));
  if (auto prepared = sequence->PrepareTail(options); !prepared) return prepared.error();
  auto request = sequence->session().remote().openSequenceRequest();
  request.setStore(sequence->store_->id());
  auto ids = request.initTokens(static_cast<unsigned>(tokens.size()));
  for (unsigned i = 0; i < ids.size(); ++i) ids.set(i, static_cast<std::uint32_t>(tokens[i]));
  sequence->WriteOptions(request.initOptions());
  request.getOptions().setWantState(options.want_state);
  if (auto opened = sequence->CallForState(request, "open sequence"); !opened) return opened.error();
  return sequence;
}

Result<std::shared_ptr<Sequence>> Sequence::ForkOf(std::shared_ptr<Store> store, SequenceId source,
                                                   std::optional<std::uint64_t> length, const SequenceOptions& options) {
  std::shared_ptr<Sequence> sequence(new Sequence(std::move(store)));
  if (auto prepared = sequence->PrepareTail(options); !prepared) return prepared.error();
  auto request = sequence->session().remote().forkRequest();
  request.setStore(sequence->store_->id());
  request.setSource(source);
  request.setLength(length.value_or(wire::kWholeLength));
  sequence->WriteOptions(request.initOptions());
  if (auto forked = sequence->CallForState(request, "fork"); !forked) return forked.error();
  // The daemon copied the raw rows for us.
  const CountFor counted(*sequence);
  const quantizers::TailLayout& layout = sequence->tail_.layout;
  sequence->session().counters().bytes_copied +=
      sequence->progress_.raw_tokens() * layout.row_bytes() * 2 * layout.kv_heads * layout.layers;
  return sequence;
}

Result<std::shared_ptr<Sequence>> Sequence::Read(std::shared_ptr<Store> store, SequenceId source) {
  std::shared_ptr<Sequence> sequence(new Sequence(std::move(store)));
  sequence->read_only_ = true;
  auto request = sequence->session().remote().readRequest();
  request.setStore(sequence->store_->id());
  request.setSource(source);
  if (auto opened = sequence->CallForState(request, "read sequence"); !opened) return opened.error();
  return sequence;
}

Result<void> Sequence::PrepareTail(const SequenceOptions& options) {
  const StoreSpec& spec = store_->spec();
  options_ = options;
  if (options.placement != Placement::kService && options.placement != Placement::kLocal) {
    return InvalidArgument("open sequence: placement " + std::to_string(static_cast<unsigned>(options.placement)) +
                           " is unknown");
  }
  if (options.tail_type != ElementType::kF32 && options.tail_type != ElementType::kF16 &&
      options.tail_type != ElementType::kBF16) {
    return InvalidArgument("open sequence: tail_type " + std::to_string(static_cast<unsigned>(options.tail_type)) +
                           " is unknown");
  }
  if (options.max_step_tokens == 0) return InvalidArgument("open sequence: max_step_tokens is 0");
  if (local()) {
    if (auto plan = store_->plan(); !plan) return plan.error();
  }
  auto policy = quantizers::TokenPolicy::Parse(options.policy);
  if (!policy) return Error{policy.error().code, "open sequence: " + policy.error().message};
  choice_ = TokenChoice(*policy, spec.layers, spec.kv_heads);
  // With local placement the daemon hears of tokens a block at a time, so its steps are longer by up to a block. The tail is as
  // large with service placement: where the ring wraps decides the order of additions, and both placements give the same bits.
  // The spare rows behind the ring are for one step.
  const std::uint64_t daemon_step = std::uint64_t{options.max_step_tokens} + options.unnamed_tokens + spec.block_tokens;
  const std::uint64_t rows = daemon_step > UINT32_MAX ? UINT64_MAX
                                                      : quantizers::TailCapacity(spec.block_tokens, options.recent_tokens,
                                                                                 static_cast<std::uint32_t>(daemon_step));
  constexpr std::uint64_t kMostRows = std::uint64_t{1} << 30;  // with 1024 layers, heads and dimensions sizes stay below 2^64
  if (rows > kMostRows) {
    return InvalidArgument("open sequence: recent_tokens " + std::to_string(options.recent_tokens) + ", max_step_tokens " +
                           std::to_string(options.max_step_tokens) + " and unnamed_tokens " +
                           std::to_string(options.unnamed_tokens) + " need a tail of more than 2^30 rows");
  }
  tail_.layout = {.layers = spec.layers,
                  .kv_heads = spec.kv_heads,
                  .head_dim = spec.head_dim,
                  .capacity = static_cast<std::uint32_t>(rows),
                  .spare = options.max_step_tokens,
                  .type = options.tail_type};
  auto memory = session().Allocate(tail_.layout.total_bytes(), "a tail of " + std::to_string(rows) + " tokens");
  if (!memory) return Error{memory.error().code, "open sequence: " + memory.error().message};
  tail_memory_ = std::move(*memory);
  tail_.base = tail_memory_.data();
  progress_ = quantizers::Progress(spec.block_tokens, options.recent_tokens);
  layer_copied_.assign(spec.layers, false);
  finite_rows_.assign(spec.layers, 0);
  const char* const poison = std::getenv("KVANT_POISON_ROWS");
  if (poison != nullptr && std::string_view(poison) == "1") poisoned_rows_ = 0;
  untold_.reserve(2 * std::size_t{spec.block_tokens} + options.max_step_tokens);
  return {};
}

void Sequence::WriteOptions(wire::SequenceOptions::Builder to) const {
  to.setPlacement(local() ? wire::Placement::LOCAL : wire::Placement::SERVICE);
  to.setRecentTokens(options_.recent_tokens);
  to.setMaxStepTokens(options_.max_step_tokens + (local() ? store_->spec().block_tokens : 0));
  to.setLabel(capnp::Text::Reader(options_.label.c_str(), options_.label.size()));
  to.setPriority(options_.priority);
  if (choice_.policy().kind != quantizers::PolicyKind::kAll) to.setPolicy(choice_.policy().Canonical());
  auto tail = to.initTail();
  tail.setArena(session().arena_id());
  tail.setElementType(wire::WriteElementType(options_.tail_type));
  tail.setCapacityTokens(tail_.layout.capacity);
  tail.setSpareTokens(tail_.layout.spare);
  tail.setOffset(session().ArenaOffset(tail_memory_.data(), tail_memory_.bytes()).value_or(0));
}

Error Sequence::Lose(Error error) {
  lost_ = error.code == ErrorCode::kDeadlineExceeded
              ? Error{error.code, "an earlier call on this sequence had no answer, where it stands is unknown (" +
                                      error.message + "); open it again"}
              : error;
  return error;
}

Result<void> Sequence::Adopt(wire::SequenceState::Reader state) {
  id_ = state.getSequence();
  prefix_hit_tokens_ = state.getPrefixHitTokens();
  ForgetReserved();
  const std::uint64_t block_tokens = store_->spec().block_tokens;
  const std::uint64_t length = state.getLength();
  const std::uint64_t switched = state.getSwitchedBlocks();
  told_length_ = length;
  untold_.clear();
  seal_error_.reset();
  if (switched > length / block_tokens || (!read_only_ && length - switched * block_tokens > tail_.layout.capacity)) {
    return Lose({ErrorCode::kInternal, "the daemon says that sequence " + std::to_string(id_) + " has " +
                                           std::to_string(length) + " tokens and " + std::to_string(switched) + " blocks"});
  }
  progress_.Start(length, switched);
  if (poisoned_rows_) poisoned_rows_ = 0;
  if (!local()) return {};
  blocks_.resize(std::min<std::size_t>(blocks_.size(), state.getTable().getFirst()));
  payloads_.resize(blocks_.size());
  sections_.resize(blocks_.size());
  told_due_ = std::min(told_due_, length / block_tokens);
  if (auto adopted = AdoptTable(state.getTable()); !adopted) return Lose(adopted.error());
  if (blocks_.size() < switched) {
    return Lose({ErrorCode::kInternal, "the daemon lists " + std::to_string(blocks_.size()) + " blocks of sequence " +
                                           std::to_string(id_) + ", attention needs " + std::to_string(switched)});
  }
  return {};
}

Result<void> Sequence::AdoptTable(wire::BlockTable::Reader table) {
  const auto blocks = table.getBlocks();
  if (table.getFirst() > blocks_.size()) {
    return Error{ErrorCode::kInternal, "the daemon lists blocks from " + std::to_string(table.getFirst()) + " on, " +
                                           std::to_string(blocks_.size()) + " are known"};
  }
  for (unsigned i = 0; i < blocks.size(); ++i) {
    if (table.getFirst() + i < blocks_.size()) continue;
    auto slot = store_->Slot(blocks[i], protocol::BlockKind::kCodes);
    if (!slot) return slot.error();
    const auto plan = store_->plan();
    if (!plan) return plan.error();
    const std::size_t sections = (*plan)->SectionsOf(slot->payload_bytes);
    if (sections == 0) {
      return Error{ErrorCode::kCorrupt, "block " + std::to_string(blocks_.size()) + " of sequence " + std::to_string(id_) +
                                            " has a payload of " + std::to_string(slot->payload_bytes) +
                                            " bytes, which the store's plan does not know"};
    }
    store_->MapPages(*slot);
    payloads_.push_back(slot->payload);
    sections_.push_back(static_cast<std::uint8_t>(sections));
    blocks_.push_back(std::move(*slot));
  }
  if (table.getFirst() == 0 && blocks.size() > 0 && store_->spec().sink_tokens > 0) {
    auto slot = store_->Slot(table.getSinks(), protocol::BlockKind::kSinks);
    if (!slot) return slot.error();
    store_->MapPages(*slot);
    sinks_ = std::move(*slot);
  }
  progress_.SetSealed(blocks_.size());
  told_due_ = std::max<std::uint64_t>(told_due_, blocks_.size());
  return {};
}

Result<void> Sequence::Writable(std::string_view operation) const {
  if (lost_) return Error{lost_->code, std::string(operation) + ": " + lost_->message};
  if (read_only_) {
    return Error{ErrorCode::kUnsupported,
                 std::string(operation) + ": sequence " + std::to_string(id_) + " was opened for reading only"};
  }
  return {};
}

Sequence::~Sequence() {
  Connection& connection = session().connection();
  if (id_ == 0 || connection.dead()) return;
  const auto failure = kj::runCatchingExceptions([&] {
    auto request = session().remote().closeRequest();
    request.setSequence(id_);
    auto call = connection.Send(request, "close");
    // The tail's memory is used again only when the daemon has answered: it may be encoding from there.
    if (!call) return;
    connection.Forget(std::move(*call), [tail = std::move(tail_memory_)](auto&) {});
    connection.Push();
  });
  static_cast<void>(failure);  // a dead session ends the sequence too
}

}  // namespace kvant::client
