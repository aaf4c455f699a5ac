// Going back: trims, marks, rewinds.
#include <string>
#include <utility>

#include "client/sequence.h"
#include "client/sequence_call.h"
#include "protocol/wire.h"
#include "quantizers/sequence/rows.h"

namespace kvant::client {

Result<std::shared_ptr<Sequence>> Sequence::Fork(std::optional<std::uint64_t> length) {
  if (auto flushed = Flush("fork"); !flushed) return flushed.error();
  const std::uint64_t wanted = length.value_or(this->length());
  const std::uint64_t unnamed = wanted > named() ? wanted - named() : 0;
  if (unnamed > unnamed_) {
    return Error{ErrorCode::kOutOfRange,
                 "fork at " + std::to_string(wanted) + " tokens: the sequence has " + std::to_string(this->length())};
  }
  auto choice = choice_.CopyAt(session(), wanted);
  if (!choice) return Error{choice.error().code, "fork: " + choice.error().message};
  auto fork = ForkOf(store_, id_, wanted - unnamed, options_);
  if (!fork) return fork;
  (*fork)->choice_ = std::move(*choice);
  if (unnamed == 0) return fork;
  const CountFor counted(**fork);
  auto copied = quantizers::CopyRows(tail_, (*fork)->tail_, named(), unnamed);
  if (!copied) return Error{copied.error().code, "fork: " + copied.error().message};
  session().counters().bytes_copied += *copied;
  (*fork)->unnamed_ = unnamed;
  return fork;
}

Result<void> Sequence::Trim(std::uint64_t length) {
  if (auto writable = Writable("trim"); !writable) return writable;
  if (unnamed_ > 0 && length >= named() && length <= this->length()) {  // the daemon has never heard of those that go
    unnamed_ = length - named();
    ForgetReserved();
    if (poisoned_rows_) poisoned_rows_ = 0;
    choice_.Trim(length);
    return {};
  }
  if (auto flushed = Flush("trim"); !flushed) return flushed;
  auto request = session().remote().trimRequest();
  request.setSequence(id_);
  request.setLength(length);
  if (auto trimmed = CallForState(request, "trim"); !trimmed) return trimmed;
  unnamed_ = 0;
  choice_.Trim(length);
  return progress_.Trim(named());
}

Result<Mark> Sequence::SetMark() {
  if (auto writable = Writable("mark"); !writable) return writable.error();
  if (unnamed_ > 0) {
    return Error{ErrorCode::kInvalidArgument,
                 "mark: " + std::to_string(unnamed_) + " tokens have no ids yet; name them first (Name)"};
  }
  if (auto flushed = Flush("mark"); !flushed) return flushed.error();
  auto request = session().remote().markRequest();
  request.setSequence(id_);
  auto answer = session().connection().Call(request, "mark");
  if (!answer) return Lose(answer.error());
  if (answer->isError()) return wire::ReadError(answer->getError());
  const std::uint64_t length = answer->getOk().getLength();
  if (length != named()) {
    return Lose({ErrorCode::kInternal, "the daemon marked sequence " + std::to_string(id_) + " at " + std::to_string(length) +
                                           " tokens, it has " + std::to_string(named())});
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
    unnamed_ = 0;
    ForgetReserved();
    if (poisoned_rows_) poisoned_rows_ = 0;
    choice_.Trim(mark.length);
    return progress_.Trim(mark.length);
  }
  if (auto settled = Settle("rewind"); !settled) return settled;
  auto request = session().remote().rewindRequest();
  request.setSequence(id_);
  request.initMark().setLength(mark.length);
  if (auto rewound = CallForState(request, "rewind"); !rewound) return rewound;
  unnamed_ = 0;
  choice_.Trim(mark.length);
  return progress_.Trim(named());
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
