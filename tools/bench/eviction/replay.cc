#include "tools/bench/eviction/replay.h"

#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "daemon/store/prefix_index.h"
#include "protocol/digest.h"

namespace kvant::tools {
namespace {

using daemon::Block;

/// A node of the tree of all prompts: a block, and when it is used.
struct Node {
  std::vector<std::size_t> uses;  // requests, ascending
  std::size_t next = 0;           // of uses
};

/// Nodes by parent and number; the path of each prompt.
struct Tree {
  std::map<std::pair<std::size_t, std::uint32_t>, std::size_t> children;
  std::vector<Node> nodes{1};  // the first is the root, no block
  std::vector<std::vector<std::size_t>> paths;

  explicit Tree(const Trace& trace) {
    for (std::size_t request = 0; request < trace.prompts.size(); ++request) {
      std::vector<std::size_t> path;
      std::size_t at = 0;
      for (const std::uint32_t block : trace.prompts[request]) {
        const auto [child, made] = children.try_emplace({at, block}, nodes.size());
        if (made) nodes.emplace_back();
        at = child->second;
        nodes[at].uses.push_back(request);
        path.push_back(at);
      }
      paths.push_back(std::move(path));
    }
  }
};

}  // namespace

std::size_t Footprint(const Trace& trace) { return Tree(trace).nodes.size() - 1; }

namespace {

/// Makes room for one more block among `used` planes of at most `most`, as Store::MakeWay does. False if nothing may go.
bool MakeRoom(daemon::EvictionOrder& order, daemon::PrefixIndex& index, std::size_t& used, std::size_t most) {
  while (used + kReplayPlanes > most) {
    if (Block* const block = order.NextDemotion(index.fine()).block) {
      used -= block->codes().sections - order.demote_to;
      block->parts.front().sections = static_cast<std::uint8_t>(order.demote_to);
      ++order.coarse_blocks;
      continue;
    }
    Block* const victim = order.Victim(order.all.blocks);
    if (victim == nullptr) return false;
    used -= victim->codes().sections;
    if (victim->codes().sections < kReplayPlanes) --order.coarse_blocks;
    index.TakeOut(*victim);
  }
  return true;
}

}  // namespace

Found Replay(const Trace& trace, EvictionKind kind, std::size_t capacity, std::size_t demote_to) {
  daemon::EvictionOrder order(kind, demote_to);
  std::size_t used = 0;
  daemon::PrefixIndex index(order);
  const protocol::Digest root = protocol::DigestOf(trace.name);
  Found found;
  for (const Prompt& prompt : trace.prompts) {
    found.blocks += prompt.size();
    std::vector<Block*> held = index.LongestPrefix(root, prompt, 1);
    found.hits += held.size();
    for (Block* const block : held) {
      found.coarse += block->codes().sections < kReplayPlanes ? 1 : 0;
      index.AddLease(*block);
      index.NoteUse(*block, 0);
    }
    for (std::size_t i = held.size(); i < prompt.size(); ++i) {
      if (!MakeRoom(order, index, used, capacity * kReplayPlanes)) break;
      auto block = std::make_unique<Block>();
      block->parts = {{.sections = kReplayPlanes}};
      used += kReplayPlanes;
      block->parent = held.empty() ? nullptr : held.back();
      block->tokens = {prompt[i]};
      block->chain = protocol::ChainDigest(block->parent != nullptr ? block->parent->chain : root, block->tokens);
      held.push_back(index.Insert(std::move(block)));
      index.AddLease(*held.back());
    }
    for (auto it = held.rbegin(); it != held.rend(); ++it) index.DropLease(**it);
  }
  return found;
}

Found ReplayOptimum(const Trace& trace, std::size_t capacity) {
  Tree tree(trace);
  // Cached blocks that the present prompt does not hold, by when they are used next; deeper ones go first where that is equal,
  // and a node's number is larger than its parent's.
  std::set<std::pair<std::size_t, std::size_t>> order;
  std::unordered_set<std::size_t> cached;
  const auto next_use = [&tree](std::size_t node, std::size_t now) {
    Node& of = tree.nodes[node];
    while (of.next < of.uses.size() && of.uses[of.next] <= now) ++of.next;
    return of.next < of.uses.size() ? of.uses[of.next] : ~std::size_t{0};
  };
  Found found;
  for (std::size_t request = 0; request < tree.paths.size(); ++request) {
    const std::vector<std::size_t>& path = tree.paths[request];
    found.blocks += path.size();
    std::vector<std::size_t> held;
    for (const std::size_t node : path) {
      if (!cached.contains(node)) break;
      order.erase({request, node});  // its next use was this one
      held.push_back(node);
    }
    found.hits += held.size();
    for (std::size_t i = held.size(); i < path.size(); ++i) {
      if (cached.size() >= capacity) {
        if (order.empty()) break;
        const auto last = std::prev(order.end());
        cached.erase(last->second);
        order.erase(last);
      }
      cached.insert(path[i]);
      held.push_back(path[i]);
    }
    for (const std::size_t node : held) order.emplace(next_use(node, request), node);
  }
  return found;
}

}  // namespace kvant::tools
