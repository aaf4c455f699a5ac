#include "tools/kvantctl/block_filter.h"

#include <CLI/CLI.hpp>
#include <fstream>

#include "protocol/duration.h"

namespace kvant::tools {

void BlockFilterOptions::AddTo(CLI::App& command) {
  command.add_option("--tenant", tenant, "Only this tenant's stores (see quota list)");
  command
      .add_option("--store", store, "Only this store, by name or identity")
      // An empty name means every store to the daemon: that must be asked for, not slipped into.
      ->check([](const std::string& name) { return name.empty() ? "the name is empty" : ""; });
  command.add_option("--sequence", sequence, "Only the sealed blocks of this live sequence (see sequences)");
  command.add_option("--chain", chain, "Only this block (see inspect) and all that continue it; needs --store");
  command
      .add_option("--tokens", tokens_file,
                  "File of token ids from position 0, separated by blanks: the last whole block of them and all that continue "
                  "it; needs --store")
      ->check(CLI::ExistingFile);
  command.add_option("--idle", idle, "Only blocks that nobody has used for so long (90s, 15m, 12h, 7d)");
}

Result<BlockFilter> BlockFilterOptions::Read() const {
  BlockFilter filter;
  filter.tenant = tenant;
  filter.store = store;
  filter.sequence = sequence;
  filter.chain = chain;
  if (!tokens_file.empty()) {
    std::ifstream file(tokens_file);
    for (TokenId token = 0; file >> token;) filter.tokens.push_back(token);
    if (!file.eof() || filter.tokens.empty()) {
      return Error{ErrorCode::kInvalidArgument,
                   "--tokens: " + tokens_file + " holds something that is no token id, or nothing"};
    }
  }
  if (!idle.empty()) {
    const auto time = protocol::ParseDuration(idle);
    if (!time) return Error{time.error().code, "--idle: " + time.error().message};
    filter.idle = *time;
  }
  return filter;
}

}  // namespace kvant::tools
