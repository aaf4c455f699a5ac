// Figures that operators see. Plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/store/figure.h"

namespace kvant::daemon {

/// Of one store, or summed over all of them. The three figures in bytes are never mixed.
struct StoreGauges {
  std::uint64_t blocks = 0;
  std::uint64_t leased_blocks = 0;
  std::uint64_t leases = 0;
  std::uint64_t sequences = 0;
  std::uint64_t slabs = 0;
  std::uint64_t slab_bytes = 0;
  std::uint64_t logical_f16_bytes = 0;
  std::uint64_t compressed_bytes = 0;
  std::uint64_t resident_bytes = 0;
  std::uint64_t states = 0;
  std::uint64_t state_bytes = 0;
  std::uint64_t used_bytes = 0;
  std::uint64_t slot_overhead_bytes = 0;
  std::uint64_t store_record_bytes = 0;
  std::uint64_t block_record_bytes = 0;
  std::uint64_t sequence_record_bytes = 0;
  std::uint64_t slab_record_bytes = 0;
  std::uint64_t coarse_blocks = 0;
  std::uint64_t unchecked_blocks = 0;
  std::uint64_t unfit_key_heads = 0;
};

inline constexpr auto kStoreGauges = DescribeFigures<StoreGauges>({
    {&StoreGauges::logical_f16_bytes,
     {"logical_f16_bytes", FigureKind::kGauge, FigureUnit::kBytes, "what the sealed tokens would take as f16"}},
    {&StoreGauges::compressed_bytes,
     {"compressed_bytes", FigureKind::kGauge, FigureUnit::kBytes, "what their codes and side data take"}},
    {&StoreGauges::resident_bytes,
     {"resident_bytes", FigureKind::kGauge, FigureUnit::kBytes, "memory that is really occupied by blocks"}},
    {&StoreGauges::blocks, {"blocks", FigureKind::kGauge, FigureUnit::kCount, "sealed blocks"}},
    {&StoreGauges::leased_blocks,
     {"leased_blocks", FigureKind::kGauge, FigureUnit::kCount, "sealed blocks that at least one sequence holds"}},
    {&StoreGauges::leases,
     {"leases", FigureKind::kGauge, FigureUnit::kCount, "block leases; a block that two sequences hold counts twice"}},
    {&StoreGauges::sequences,
     {"sequences", FigureKind::kGauge, FigureUnit::kCount, "live sequences, readers of others included"}},
    {&StoreGauges::slabs, {"slabs", FigureKind::kGauge, FigureUnit::kCount, "memory segments that hold blocks"}},
    {&StoreGauges::slab_bytes, {"slab_bytes", FigureKind::kGauge, FigureUnit::kBytes, "size of these segments"}},
    {&StoreGauges::states, {"states", FigureKind::kGauge, FigureUnit::kCount, "states that engines put at the ends of blocks"}},
    {&StoreGauges::state_bytes, {"state_bytes", FigureKind::kGauge, FigureUnit::kBytes, "what is in them"}},
    {&StoreGauges::used_bytes,
     {"used_bytes", FigureKind::kGauge, FigureUnit::kBytes,
      "charged to the budget: compressed_bytes, state_bytes and the five that follow"}},
    {&StoreGauges::slot_overhead_bytes,
     {"slot_overhead_bytes", FigureKind::kGauge, FigureUnit::kBytes,
      "headers, token ids, raw sinks, padding, and free slots that are kept for the next blocks"}},
    {&StoreGauges::store_record_bytes,
     {"store_record_bytes", FigureKind::kGauge, FigureUnit::kBytes, "records of stores, their plans, artifacts and manifests"}},
    {&StoreGauges::block_record_bytes,
     {"block_record_bytes", FigureKind::kGauge, FigureUnit::kBytes, "records of blocks and states"}},
    {&StoreGauges::sequence_record_bytes,
     {"sequence_record_bytes", FigureKind::kGauge, FigureUnit::kBytes, "records and block tables of sequences and readers"}},
    {&StoreGauges::slab_record_bytes, {"slab_record_bytes", FigureKind::kGauge, FigureUnit::kBytes, "records of slabs"}},
    {&StoreGauges::coarse_blocks,
     {"coarse_blocks", FigureKind::kGauge, FigureUnit::kCount, "blocks that have lost planes of their codes"}},
    {&StoreGauges::unchecked_blocks,
     {"unchecked_blocks", FigureKind::kGauge, FigureUnit::kCount,
      "blocks that a restart has left and whose checksums nobody has needed yet"}},
    {&StoreGauges::unfit_key_heads,
     {"unfit_key_heads", FigureKind::kGauge, FigureUnit::kCount,
      "KV heads whose keys share a mean that their codec cannot serve"}},
});

/// Counted since the daemon (or the store) began.
struct Counters {
  std::uint64_t prefix_lookup_tokens = 0;
  std::uint64_t prefix_hit_tokens = 0;
  std::uint64_t sealed_blocks = 0;
  std::uint64_t deduplicated_blocks = 0;
  std::uint64_t evicted_blocks = 0;
  std::uint64_t expired_blocks = 0;
  std::uint64_t evicted_then_wanted_blocks = 0;
  std::uint64_t demoted_blocks = 0;
  std::uint64_t bytes_copied = 0;
  std::uint64_t store_full_errors = 0;
  std::uint64_t lost_blocks = 0;
  std::uint64_t corrupt_parts = 0;
  std::uint64_t not_finite_errors = 0;
};

inline constexpr auto kCounters = DescribeFigures<Counters>({
    {&Counters::prefix_lookup_tokens,
     {"prefix_lookup_tokens", FigureKind::kCounter, FigureUnit::kTokens, "tokens that sequences were opened with"}},
    {&Counters::prefix_hit_tokens,
     {"prefix_hit_tokens", FigureKind::kCounter, FigureUnit::kTokens, "of those, tokens that were found sealed"}},
    {&Counters::sealed_blocks, {"sealed_blocks", FigureKind::kCounter, FigureUnit::kCount, "blocks encoded and kept"}},
    {&Counters::deduplicated_blocks,
     {"deduplicated_blocks", FigureKind::kCounter, FigureUnit::kCount, "blocks that another sequence had sealed already"}},
    {&Counters::evicted_blocks,
     {"evicted_blocks", FigureKind::kCounter, FigureUnit::kCount, "blocks dropped, for whatever reason"}},
    {&Counters::expired_blocks,
     {"expired_blocks", FigureKind::kCounter, FigureUnit::kCount,
      "of those, blocks that nobody had used for their time to live"}},
    {&Counters::evicted_then_wanted_blocks,
     {"evicted_then_wanted_blocks", FigureKind::kCounter, FigureUnit::kCount,
      "blocks that a sequence looked for after they had been evicted: what a larger budget would have kept"}},
    {&Counters::demoted_blocks,
     {"demoted_blocks", FigureKind::kCounter, FigureUnit::kCount,
      "times that a block was cut down to fewer planes of its codes"}},
    {&Counters::bytes_copied,
     {"bytes_copied", FigureKind::kCounter, FigureUnit::kBytes, "tensor bytes that the daemon copied, for forks and trims"}},
    {&Counters::store_full_errors,
     {"store_full_errors", FigureKind::kCounter, FigureUnit::kCount, "blocks that could not be sealed for lack of room"}},
    {&Counters::corrupt_parts,
     {"corrupt_parts", FigureKind::kCounter, FigureUnit::kCount,
      "of restored blocks that failed their checksum at first use, and of those behind them: dropped, never served"}},
    {&Counters::lost_blocks,
     {"lost_blocks", FigureKind::kCounter, FigureUnit::kCount,
      "blocks that were due and not sealed when their sequence ended"}},
    {&Counters::not_finite_errors,
     {"not_finite_errors", FigureKind::kCounter, FigureUnit::kCount,
      "blocks that could not be sealed because a row held NaN, infinity or a number too large"}},
});

struct StoreFigures : StoreGauges {
  Counters counters;
};

struct SequenceFigures {
  std::uint64_t id = 0;
  std::string store;
  std::string client;
  std::string label;
  std::uint64_t length = 0;
  std::uint64_t sealed_tokens = 0;  ///< that attention reads as codes
  std::uint64_t prefix_hit_tokens = 0;
  std::uint64_t marks = 0;
  std::string policy;             ///< as it was opened with; empty: all
  std::uint64_t kept_tokens = 0;  ///< that its owner attends, by what it said last
  bool read_only = false;
};

/// One sealed block of a sequence, its checksums verified while it was listed.
struct BlockFigures {
  std::uint64_t first_position = 0;
  std::string chain;
  std::uint32_t slab = 0;
  std::uint32_t slot = 0;
  std::uint64_t generation = 0;
  std::uint32_t leases = 0;
  bool checksum_ok = false;
};

/// A sequence with a piece of its block table.
struct SequenceDetail {
  SequenceFigures figures;
  std::vector<BlockFigures> blocks;  ///< from the block that was asked for
  std::uint64_t sealed_blocks = 0;   ///< of the whole sequence
  std::uint64_t tail_first_position = 0;
  std::uint64_t tail_capacity_tokens = 0;
};

struct DemoteFigures {
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;    ///< given back
  std::uint64_t corrupt = 0;  ///< blocks that were left as they are, for their checksums differ
};

struct EvictFigures {
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;  ///< of their slots
  std::uint64_t held = 0;   ///< blocks that were meant, too, and that somebody holds
};

}  // namespace kvant::daemon
