// Requests shaped like those that caches of prefixes see.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvant::tools {

/// A prompt as the blocks it fills, from position 0. Two prompts share as many blocks as their numbers agree from the
/// beginning.
using Prompt = std::vector<std::uint32_t>;

struct Trace {
  std::string name;
  std::vector<Prompt> prompts;  ///< in the order in which they come
};

/// Conversations of a few turns, many at a time, over system prompts of which some are much more popular than others. Every
/// turn sends the whole conversation again.
Trace ChatTrace(std::uint32_t requests);
/// Agents that read a shared task, fork into attempts that fork again, and are gone when the task is done.
Trace AgentTrace(std::uint32_t requests);
/// Half of the requests chat; the others ask one to three questions about a long document that nobody asks about again.
Trace DocumentTrace(std::uint32_t requests);
/// Chats, and now and then a job that reads many short documents once each, one after the other.
Trace ScanTrace(std::uint32_t requests);

}  // namespace kvant::tools
