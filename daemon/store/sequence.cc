#include "daemon/store/sequence.h"

#include <algorithm>
#include <string>
#include <utility>

#include "daemon/store/seal.h"
#include "quantizers/sequence/decode.h"

namespace kvant::daemon {
namespace {

/// The raw rows beside a block; none if it is not the first of its chain.
quantizers::Sinks SinksOf(const Block& block, const StoreSpec& spec) noexcept {
  const BlockPart* const part = block.sinks();
  if (part == nullptr) return {};
  return {
      .data = part->payload,
      .layout = {.kv_heads = spec.kv_heads, .head_dim = spec.head_dim, .tokens = spec.sink_tokens, .type = part->element_type}};
}

Error Invalid(std::string message) { return {ErrorCode::kInvalidArgument, std::move(message)}; }

}  // namespace

Sequence::Sequence(std::shared_ptr<Store> store, TailView tail, const SequenceConfig& config)
    : store_(std::move(store)),
      tail_(std::move(tail)),
      config_(config),
      progress_(store_->spec().block_tokens, config.recent_tokens),
      self_(std::make_shared<Sequence*>(this)) {
  id_ = store_->core().sequences.Add(*this);
  store_->SequenceOpened();
}

Sequence::~Sequence() {
  *self_ = nullptr;
  self_.reset();
  store_->core().sequences.Remove(id_);
  store_->SequenceClosed();
  const std::uint64_t due = quantizers::ScheduledSeals(length(), store_->spec().block_tokens, config_.recent_tokens).due;
  if (due > blocks_.size()) store_->counters().lost_blocks += due - blocks_.size();
  DropSeals(0);
  DropBlocks(0);
  for (Waiter& waiter : std::exchange(waiters_, {})) {
    if (waiter.done) {
      waiter.done(Error{ErrorCode::kNotFound, "sequence " + std::to_string(id_) + " was closed"});
    } else {
      waiter.ready();
    }
  }
}

Result<void> Sequence::CheckTail(const Store& store, const TailView& tail, const SequenceConfig& config) {
  const StoreSpec& spec = store.spec();
  const quantizers::TailLayout& layout = tail.layout;
  if (layout.layers != spec.layers || layout.kv_heads != spec.kv_heads || layout.head_dim != spec.head_dim) {
    return Invalid("tail: shape [" + std::to_string(layout.layers) + " layers, " + std::to_string(layout.kv_heads) +
                   " heads, " + std::to_string(layout.head_dim) + "] differs from store " + spec.name);
  }
  if (layout.type != ElementType::kF32 && layout.type != ElementType::kF16 && layout.type != ElementType::kBF16) {
    return Invalid("tail: unknown element type " + std::to_string(static_cast<unsigned>(layout.type)));
  }
  if (config.max_step_tokens == 0) return Invalid("max_step_tokens is 0");
  const std::uint64_t least = quantizers::TailCapacity(spec.block_tokens, config.recent_tokens, config.max_step_tokens);
  if (layout.capacity < least || layout.capacity % spec.block_tokens != 0) {
    return Invalid("tail: capacity of " + std::to_string(layout.capacity) + " tokens must be a multiple of block_tokens " +
                   std::to_string(spec.block_tokens) + ", at least " + std::to_string(least));
  }
  if (tail.base == nullptr || reinterpret_cast<std::uintptr_t>(tail.base) % 64 != 0) {
    return Invalid("tail: its place is not 64-byte aligned");
  }
  return {};
}

Result<void> Sequence::Lease(Block& block) {
  // The lease comes first: making room for the record must not evict the block.
  store_->index().AddLease(block);
  Result<Charge> charge = store_->TakeRecord(ChargeKind::kSequenceRecord, kTableEntryBytes, "a sequence's block table");
  if (!charge) {
    store_->index().DropLease(block);
    return charge.error();
  }
  blocks_.push_back(&block);
  payloads_.push_back(block.codes().payload);
  sections_.push_back(block.codes().sections);
  progress_.SetSealed(blocks_.size());
  block_charges_.push_back(std::move(*charge));
  MoveStateTo(block, blocks_.size() - 1);
  return {};
}

Result<std::unique_ptr<Sequence>> Sequence::Make(std::shared_ptr<Store> store, std::span<Block* const> blocks, TailView tail,
                                                 const SequenceConfig& config) {
  if (Result<void> fits = CheckTail(*store, tail, config); !fits) return fits.error();
  const std::size_t record_bytes = kSequenceRecordBytes + tail.layout.capacity * sizeof(std::uint32_t);
  // Private constructor: make_unique cannot reach it.
  std::unique_ptr<Sequence> sequence(new Sequence(std::move(store), std::move(tail), config));
  // Last block first: its lease keeps all the others while room is made for records.
  if (!blocks.empty()) sequence->store_->index().AddLease(*blocks.back());
  Result<void> held;
  for (Block* block : blocks) {
    held = sequence->Lease(*block);
    if (!held) break;
    sequence->store_->NoteUse(*block, config.priority);
  }
  Result<Charge> charge = sequence->store_->TakeRecord(ChargeKind::kSequenceRecord, record_bytes, "a sequence");
  if (!blocks.empty()) sequence->store_->index().DropLease(*blocks.back());
  if (!held) return held.error();
  if (!charge) return charge.error();
  sequence->charge_ = std::move(*charge);
  return sequence;
}

Result<std::unique_ptr<Sequence>> Sequence::Open(std::shared_ptr<Store> store, std::span<const std::uint32_t> tokens,
                                                 TailView tail, const SequenceConfig& config) {
  const std::uint32_t block_tokens = store->spec().block_tokens;
  const std::vector<Block*> prefix = store->LookUp(tokens, config.want_state);
  Result<std::unique_ptr<Sequence>> sequence = Make(store, prefix, std::move(tail), config);
  if (!sequence) return sequence;
  (*sequence)->progress_.Start(prefix.size() * block_tokens, prefix.size());
  (*sequence)->prefix_hit_tokens_ = (*sequence)->length();
  store->counters().prefix_lookup_tokens += tokens.size();
  store->counters().prefix_hit_tokens += (*sequence)->length();
  return sequence;
}

Result<std::unique_ptr<Sequence>> Sequence::Fork(const Sequence& source, std::uint64_t length, TailView tail,
                                                 const SequenceConfig& config) {
  const std::string what = "fork sequence " + std::to_string(source.id_) + " at " + std::to_string(length) + " tokens: ";
  if (length > source.length()) {
    return Error{ErrorCode::kOutOfRange, what + "it has " + std::to_string(source.length())};
  }
  const std::uint64_t block_tokens = source.store_->spec().block_tokens;
  const std::uint64_t shared = std::min<std::uint64_t>(source.switched_blocks(), length / block_tokens);
  const std::uint64_t raw = length - shared * block_tokens;
  if (raw > tail.layout.capacity) {
    return Error{ErrorCode::kTailFull,
                 what + std::to_string(raw) + " raw rows do not fit a tail of " + std::to_string(tail.layout.capacity)};
  }
  Result<std::unique_ptr<Sequence>> fork = Make(source.store_, source.blocks().first(shared), std::move(tail), config);
  if (!fork) return fork;
  Sequence& copy = **fork;
  const bool inside_sealed = shared < source.switched_blocks();
  const std::span<const std::uint32_t> tokens = inside_sealed ? source.blocks_[shared]->tokens : std::span(source.tail_tokens_);
  Result<std::uint64_t> copied = std::uint64_t{0};
  if (raw != 0) {
    copied = inside_sealed ? source.DecodeRows(*source.blocks_[shared], raw, copy.tail_, DecodePass::kStore)
                           : quantizers::CopyRows(source.tail_, copy.tail_, shared * block_tokens, raw);
  }
  if (!copied) return Error{copied.error().code, what + copied.error().message};
  copy.tail_tokens_.assign(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(raw));
  copy.progress_.Start(length, shared);
  for (std::uint64_t block = shared; block < length / block_tokens; ++block) {
    if (auto state = source.StateOf(block)) copy.states_.emplace(block, std::move(state));
  }
  copy.store_->counters().bytes_copied += *copied;
  return fork;
}

quantizers::CachedSequence Sequence::Cache(std::uint64_t unnamed) const noexcept {
  const auto switched = static_cast<std::size_t>(switched_blocks());
  return {.blocks = std::span(payloads_).first(switched),
          .sections = std::span(sections_).first(switched),
          .sinks = blocks_.empty() ? quantizers::Sinks() : SinksOf(*blocks_.front(), store_->spec()),
          .tail = tail_,
          .length = length() + unnamed};
}

Result<std::uint64_t> Sequence::DecodeRows(const Block& block, std::uint64_t rows, const quantizers::Tail& to,
                                           DecodePass pass) const {
  const StoreSpec& spec = store_->spec();
  const float largest = kernels::LargestStorable(to.layout.type);
  const quantizers::Sinks sinks = SinksOf(block, spec);
  quantizers::BlockDecoder decoder(*store_->plan());
  for (std::size_t layer = 0; layer < spec.layers; ++layer) {
    for (std::size_t head = 0; head < spec.kv_heads; ++head) {
      for (std::size_t side = 0; side < 2; ++side) {
        const std::span decoded(decoder.Decode({.payload = block.codes().payload,
                                                .sections = block.codes().sections,
                                                .first_position = block.first_position,
                                                .sinks = sinks,
                                                .layer = layer,
                                                .head = head,
                                                .side = static_cast<quantizers::Side>(side),
                                                .begin = 0,
                                                .end = static_cast<std::size_t>(rows)}),
                                rows * spec.head_dim);
        if (pass == DecodePass::kStore) {
          const RowsView view{decoded.data(), ElementType::kF32, static_cast<std::size_t>(rows), spec.head_dim, spec.head_dim};
          Result<void> stored = quantizers::WriteRows(to, layer, side, head, block.first_position, view);
          if (!stored) return stored.error();
        } else if (!std::ranges::all_of(decoded, [&](float x) { return x <= largest && x >= -largest; })) {
          return Error{ErrorCode::kNotFinite, "decoded rows of layer " + std::to_string(layer) + ", head " +
                                                  std::to_string(head) + " exceed the range of " +
                                                  ElementTypeName(to.layout.type)};
        }
      }
    }
  }
  return rows * spec.layers * 2 * spec.kv_heads * to.layout.row_bytes();
}

Result<void> Sequence::Trim(std::uint64_t length) {
  const std::string what = "trim sequence " + std::to_string(id_) + " to " + std::to_string(length) + " tokens: ";
  if (length > this->length()) return Error{ErrorCode::kOutOfRange, what + "it has " + std::to_string(this->length())};
  const std::uint64_t block_tokens = store_->spec().block_tokens;
  const std::uint64_t whole_blocks = length / block_tokens;
  if (whole_blocks < switched_blocks()) {
    const Block& block = *blocks_[whole_blocks];
    const std::uint64_t rows = length % block_tokens;
    if (rows != 0) {
      // Checked first: the rows go where rows of the present tail lie, and an error must leave those alone.
      Result<std::uint64_t> decoded = DecodeRows(block, rows, tail_, DecodePass::kCheck);
      if (decoded) decoded = DecodeRows(block, rows, tail_, DecodePass::kStore);
      if (!decoded) return Error{decoded.error().code, what + decoded.error().message};
      store_->counters().bytes_copied += *decoded;
    }
    tail_tokens_.assign(block.tokens.begin(), block.tokens.begin() + static_cast<std::ptrdiff_t>(rows));
  } else {
    tail_tokens_.resize(length - tail_first_position());
  }
  if (Result<void> trimmed = progress_.Trim(length); !trimmed) return trimmed;
  ++rewrites_;
  prefix_hit_tokens_ = std::min(prefix_hit_tokens_, whole_blocks * block_tokens);
  DropSeals(whole_blocks);
  DropBlocks(whole_blocks);
  states_.erase(states_.lower_bound(whole_blocks), states_.end());
  return {};
}

Result<std::uint64_t> Sequence::SetMark() {
  auto mark = progress_.SetMark();
  if (!mark) return Error{mark.error().code, "mark sequence " + std::to_string(id_) + ": " + mark.error().message};
  return mark;
}

Result<void> Sequence::Rewind(std::uint64_t mark) {
  if (auto held = progress_.FindMark(mark); !held) {
    return Error{held.error().code, "rewind sequence " + std::to_string(id_) + ": " + held.error().message};
  }
  return Trim(mark);  // nothing has switched since the mark: only raw rows go
}

void Sequence::Release(std::uint64_t mark, Done done) {
  if (auto released = progress_.Release(mark); !released) {
    done(Error{released.error().code, "release a mark of sequence " + std::to_string(id_) + ": " + released.error().message});
    return;
  }
  Continue(SealWait::kSwitched, std::move(done));
}

void Sequence::DropBlocks(std::size_t keep) {
  while (blocks_.size() > keep) {
    store_->index().DropLease(*blocks_.back());
    blocks_.pop_back();
    block_charges_.pop_back();
    payloads_.pop_back();
    sections_.pop_back();
  }
}

SequenceFigures Sequence::Figures() const {
  return {.id = id_,
          .store = store_->name(),
          .client = config_.client,
          .label = config_.label,
          .length = length(),
          .sealed_tokens = tail_first_position(),
          .prefix_hit_tokens = prefix_hit_tokens_,
          .marks = marks().size(),
          .policy = config_.policy,
          .kept_tokens = std::min(length(), kept_tokens_.value_or(length())),
          .read_only = false};
}

SequenceDetail Sequence::Inspect(std::uint64_t first_block, std::uint64_t most_bytes) const {
  SequenceDetail detail;
  detail.figures = Figures();
  detail.sealed_blocks = blocks_.size();
  std::uint64_t bytes = 0;
  for (std::uint64_t i = first_block; i < blocks_.size() && (bytes == 0 || bytes < most_bytes); ++i) {
    detail.blocks.push_back(store_->Inspect(*blocks_[i]));
    bytes += store_->slot_bytes();
  }
  detail.tail_first_position = tail_first_position();
  detail.tail_capacity_tokens = tail_.layout.capacity;
  return detail;
}

}  // namespace kvant::daemon
