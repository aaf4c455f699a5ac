// The options by which evict and pin are told which blocks are meant.
#pragma once

#include <string>

#include <kvant/admin.h>
#include <kvant/result.h>

namespace CLI {
class App;
}

namespace kvant::tools {

/// As typed; Read makes a filter of it.
struct BlockFilterOptions {
  std::string tenant;
  std::string store;
  SequenceId sequence = 0;
  std::string chain;
  std::string tokens_file;
  std::string idle;

  void AddTo(CLI::App& command);
  /// kInvalidArgument names the option.
  [[nodiscard]] Result<BlockFilter> Read() const;
};

}  // namespace kvant::tools
