#include "tools/bench/eviction/traces.h"

#include <algorithm>
#include <random>

namespace kvant::tools {
namespace {

/// The same numbers on every machine: the standard's distributions differ between libraries, its engines do not.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  /// Of first..last.
  std::uint32_t Between(std::uint32_t first, std::uint32_t last) {
    return first + static_cast<std::uint32_t>(engine_() % (last - first + 1));
  }
  /// Of 0..n-1, i with a weight of 1 / (i + 1).
  std::uint32_t Zipf(std::uint32_t n) {
    double sum = 0;
    for (std::uint32_t i = 0; i < n; ++i) sum += 1.0 / (i + 1);
    double at = static_cast<double>(engine_() >> 11) * 0x1p-53 * sum;
    for (std::uint32_t i = 0; i < n; ++i) {
      at -= 1.0 / (i + 1);
      if (at < 0) return i;
    }
    return n - 1;
  }

 private:
  std::mt19937_64 engine_;
};

void Extend(Prompt& prompt, std::uint32_t blocks, std::uint32_t& fresh) {
  for (std::uint32_t i = 0; i < blocks; ++i) prompt.push_back(fresh++);
}

/// Conversations that go on side by side; whose turn it is, is drawn.
class Chats {
 public:
  Chats(Random& random, std::uint32_t& fresh) : random_(random), fresh_(fresh), open_(kAtATime) {
    for (Prompt& system : systems_) Extend(system, random_.Between(8, 24), fresh_);
  }
  Prompt Next() {
    Chat& chat = open_[random_.Between(0, kAtATime - 1)];
    if (chat.turns == 0) chat = {systems_[random_.Zipf(kSystems)], random_.Zipf(16) + 1};
    Extend(chat.prompt, random_.Between(2, 8), fresh_);  // the question, and the answer before it
    --chat.turns;
    return chat.prompt;
  }

 private:
  static constexpr std::uint32_t kSystems = 12;
  static constexpr std::uint32_t kAtATime = 96;
  struct Chat {
    Prompt prompt;
    std::uint32_t turns = 0;
  };
  Random& random_;
  std::uint32_t& fresh_;
  std::vector<Prompt> systems_{kSystems};
  std::vector<Chat> open_;
};

}  // namespace

Trace ChatTrace(std::uint32_t requests) {
  Random random(11);
  std::uint32_t fresh = 0;
  Chats chats(random, fresh);
  Trace trace{.name = "chats", .prompts = {}};
  while (trace.prompts.size() < requests) trace.prompts.push_back(chats.Next());
  return trace;
}

Trace AgentTrace(std::uint32_t requests) {
  Random random(12);
  std::uint32_t fresh = 0;
  Prompt tools;
  Extend(tools, 40, fresh);  // what every agent is told
  struct Task {
    std::vector<Prompt> ends;  // of its attempts, which may be continued or forked
    std::uint32_t steps = 0;
  };
  std::vector<Task> tasks(12);
  Trace trace{.name = "agents", .prompts = {}};
  while (trace.prompts.size() < requests) {
    Task& task = tasks[random.Between(0, 11)];
    if (task.steps == 0) {
      task = {{tools}, random.Between(10, 40)};
      Extend(task.ends[0], random.Between(4, 20), fresh);
    }
    --task.steps;
    const std::size_t from = random.Between(0, static_cast<std::uint32_t>(task.ends.size()) - 1);
    if (task.ends.size() < 6 && random.Between(0, 3) == 0) task.ends.push_back(task.ends[from]);  // a fork
    Extend(task.ends[from], random.Between(1, 10), fresh);
    trace.prompts.push_back(task.ends[from]);
  }
  return trace;
}

Trace DocumentTrace(std::uint32_t requests) {
  Random random(13);
  std::uint32_t fresh = 0;
  Chats chats(random, fresh);
  Prompt document;
  std::uint32_t questions = 0;
  Trace trace{.name = "long documents", .prompts = {}};
  while (trace.prompts.size() < requests) {
    if (random.Between(0, 1) == 0) {
      trace.prompts.push_back(chats.Next());
      continue;
    }
    if (questions == 0) {
      document.clear();
      Extend(document, random.Between(40, 160), fresh);
      questions = random.Between(1, 3);
    }
    --questions;
    Prompt asked = document;
    Extend(asked, 2, fresh);
    trace.prompts.push_back(std::move(asked));
  }
  return trace;
}

Trace ScanTrace(std::uint32_t requests) {
  Random random(14);
  std::uint32_t fresh = 0;
  Chats chats(random, fresh);
  Trace trace{.name = "scans", .prompts = {}};
  while (trace.prompts.size() < requests) {
    for (std::uint32_t i = 0; i < 600; ++i) trace.prompts.push_back(chats.Next());
    for (std::uint32_t i = 0; i < 300; ++i) {
      Prompt once;
      Extend(once, random.Between(10, 30), fresh);
      trace.prompts.push_back(std::move(once));
    }
  }
  trace.prompts.resize(requests);
  return trace;
}

}  // namespace kvant::tools
