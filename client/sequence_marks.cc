// Going back: trims, marks, rewinds.
#include <string>
#include <utility>

#include "client/sequence.h"
#include "client/sequence_call.h"
#include "protocol/wire.h"

namespace kvant::client {

Result<void> Sequence::Trim(std::uint64_t length) {
  if (auto writable = Writable("trim"); !writable) return writable;
  if (auto flushed = Flush("trim"); !flushed) return flushed;
  auto request = session().remote().trimRequest();
  request.setSequence(id_);
  request.setLength(length);
  if (auto trimmed = CallForState(request, "trim"); !trimmed) return trimmed;
  return progress_.Trim(this->length());
}

Result<Mark> Sequence::SetMark() {
  if (auto writable = Writable("mark"); !writable) return writable.error();
  if (auto flushed = Flush("mark"); !flushed) return flushed.error();
  auto request = session().remote().markRequest();
  request.setSequence(id_);
  auto answer = session().connection().Call(request, "mark");
  if (!answer) return Lose(answer.error());
  if (answer->isError()) return wire::ReadError(answer->getError());
  const std::uint64_t length = answer->getOk().getLength();
  if (length != this->length()) {
    return Lose({ErrorCode::kInternal, "the daemon marked sequence " + std::to_string(id_) + " at " + std::to_string(length) +
                                           " tokens, it has " + std::to_string(this->length())});
  }
  auto marked = progress_.SetMark();
  if (!marked) return Lose(marked.error());
  return Mark{*marked};
}

Result<void> Sequence::Rewind(const Mark& mark) {
  if (auto writable = Writable("rewind"); !writable) return writable;
  // Tokens behind the mark that the daemon has not heard of are dropped without telling it.
  if (local() && told_length_ == mark.length && progress_.FindMark(mark.length)) {
    untold_.clear();
    ForgetReserved();
    if (poisoned_rows_) poisoned_rows_ = 0;
    return progress_.Trim(mark.length);
  }
  if (auto settled = Settle("rewind"); !settled) return settled;
  auto request = session().remote().rewindRequest();
  request.setSequence(id_);
  request.initMark().setLength(mark.length);
  if (auto rewound = CallForState(request, "rewind"); !rewound) return rewound;
  return progress_.Trim(length());
}

Result<void> Sequence::Release(const Mark& mark) {
  if (auto writable = Writable("release"); !writable) return writable;
  if (auto flushed = Flush("release"); !flushed) return flushed;
  auto request = session().remote().releaseRequest();
  request.setSequence(id_);
  request.initMark().setLength(mark.length);
  auto answer = session().connection().Call(request, "release");
  if (!answer) return Lose(answer.error());
  const auto status = wire::ReadStatus(answer->getStatus());
  if (!status && status.error().code == ErrorCode::kNotFound) return status;
  if (auto released = progress_.Release(mark.length); !released) return Lose(released.error());
  if (auto adopted = AdoptAdvanced(*answer, "release"); !adopted) return adopted;
  // What the mark held back may be sealed now.
  if (local()) return AdvanceLocal({});
  return seal_error_ ? Result<void>(*seal_error_) : Result<void>();
}

}  // namespace kvant::client
