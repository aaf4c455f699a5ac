#include <string>
#include <utility>

#include "daemon/store/sequence.h"

namespace kvant::daemon {

Result<std::unique_ptr<Reader>> Reader::Open(Sequence& source, std::string client) {
  Result<Charge> charge = source.store().TakeRecord(ChargeKind::kSequenceRecord, kSequenceRecordBytes, "a reader");
  if (!charge) return charge.error();
  return std::unique_ptr<Reader>(new Reader(source, std::move(client), std::move(*charge)));
}

Reader::Reader(Sequence& source, std::string client, Charge charge)
    : store_(source.store().shared_from_this()),
      source_id_(source.id()),
      client_(std::move(client)),
      charge_(std::move(charge)) {
  id_ = store_->core().sequences.Add(*this);
  store_->SequenceOpened();
}

Reader::~Reader() {
  store_->core().sequences.Remove(id_);
  store_->SequenceClosed();
}

Result<Sequence*> Reader::source() const { return store_->core().sequences.Find(source_id_); }

SequenceFigures Reader::Figures() const {
  SequenceFigures figures;
  if (const Result<Sequence*> live = source()) figures = (*live)->Figures();
  figures.id = id_;
  figures.store = store_->name();
  figures.client = client_;
  figures.label = "reader of " + std::to_string(source_id_);
  figures.policy.clear();  // the owner's choice, not the reader's
  figures.kept_tokens = figures.length;
  figures.read_only = true;
  return figures;
}

}  // namespace kvant::daemon
