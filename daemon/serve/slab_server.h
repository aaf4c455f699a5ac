// Slabs as capabilities: what carries their descriptors to clients.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <kvant/kvant.capnp.h>

#include "daemon/memory/slab.h"
#include "protocol/message_memory.h"
#include "protocol/wire.h"

namespace kvant::daemon {

/// A slab that its store has given back has no descriptor any more.
class SlabServer final : public wire::Segment::Server {
 public:
  SlabServer(std::shared_ptr<Slab> slab, wire::CountedBytes counted) : slab_(std::move(slab)), counted_(std::move(counted)) {
    slab_->NoteShared();
  }
  kj::Maybe<int> getFd() override {
    if (slab_->read_only_fd() < 0) return nullptr;
    return slab_->read_only_fd();
  }

 private:
  const std::shared_ptr<Slab> slab_;
  const wire::CountedBytes counted_;
};

/// The first of `slabs`, as many as a message carries. `count` makes a wire::CountedBytes for each.
template <typename Count>
void WriteSlabs(const std::vector<std::shared_ptr<Slab>>& slabs, Count count,
                wire::Outcome<capnp::List<wire::SlabInfo>>::Builder to) {
  auto list = to.initOk(static_cast<unsigned>(std::min<std::size_t>(slabs.size(), wire::kMaxFdsPerMessage)));
  for (unsigned i = 0; i < list.size(); ++i) {
    list[i].setIndex(slabs[i]->header().slab_index);
    list[i].setBytes(slabs[i]->bytes());
    list[i].setSegment(kj::heap<SlabServer>(slabs[i], count()));
  }
}

}  // namespace kvant::daemon
