// Which blocks an operator means, and in which order they would go.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <kvant/result.h>

#include "daemon/store/block.h"
#include "daemon/store/stats.h"

namespace kvant::daemon {

class StoreTable;

/// Every condition narrows. `chain` and `tokens` name a block: it and all that continue it are meant, and not what it
/// continues, which other prompts share.
struct BlockSelection {
  std::string tenant{};                     ///< empty: every
  std::string store{};                      ///< name or identity; empty: every
  std::string chain{};                      ///< a block's digest in hexadecimal
  std::vector<std::uint32_t> tokens{};      ///< from position 0; whole blocks of them, at least one
  std::optional<std::uint64_t> sequence{};  ///< a live one: the blocks of its table, and no other condition but the limits
  std::uint64_t idle_ms = 0;                ///< not used for so long
  std::uint64_t max_blocks = 0;             ///< 0: no limit
  std::uint64_t max_bytes = 0;              ///< as many as it takes to make so many bytes; 0: no limit
};

struct SelectedBlocks {
  std::vector<Block*> order;  ///< that may go, each after those that continue it, else as the policy ranks them
  EvictFigures figures;       ///< of them; `held`: meant, too, but leased or pinned
};

/// Looks at every block of the stores that are meant. kNotFound for a tenant, store, chain, prefix or sequence that is not
/// there.
Result<SelectedBlocks> SelectBlocks(StoreTable& stores, const BlockSelection& selection);

/// The blocks that are meant, evictable or not, in no order; limits are not looked at. Errors as SelectBlocks.
Result<std::vector<Block*>> MatchBlocks(StoreTable& stores, const BlockSelection& selection);

}  // namespace kvant::daemon
