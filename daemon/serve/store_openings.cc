#include "daemon/serve/store_openings.h"

#include <optional>
#include <string>
#include <utility>

#include "daemon/store/identity.h"
#include "quantizers/plan.h"

namespace kvant::daemon {

struct StoreOpenings::Opening {
  enum class Stage : std::uint8_t { kCopy, kLookUp, kAdopt };

  std::shared_ptr<Tenant> tenant;
  StoreSpec spec;
  ArtifactBytes artifact;
  std::function<bool()> wanted;
  std::function<void(Result<OpenedStore>)> done;
  Charge held;    // of the spec and its copy of the artifact
  Charge record;  // of the store, once its plan is being made
  std::optional<protocol::Digest> spelling;
  Result<std::unique_ptr<const quantizers::Plan>> plan = Error{ErrorCode::kSystem, "open store: the plan could not be made"};
  Stage stage = Stage::kCopy;
  bool busy = false;  // a job of it runs
};

StoreOpenings::StoreOpenings(StoreTable& stores, const quantizers::Registry& codecs, JobRunner& plans)
    : stores_(stores), codecs_(codecs), plans_(plans) {}

void StoreOpenings::Open(std::shared_ptr<Tenant> tenant, StoreSpec spec, ArtifactBytes artifact, std::function<bool()> wanted,
                         std::function<void(Result<OpenedStore>)> done) {
  if (auto ok = quantizers::CheckStoreSpec(spec); !ok) return done(ok.error());
  std::optional<protocol::Digest> spelling;
  if (artifact.bytes.empty()) {
    spelling = SpellingDigest(spec);
    if (auto known = stores_.OpenKnown(*tenant, *spelling, spec.name)) return done(*std::move(known));
  }
  Result<Charge> held = stores_.TakeRecord(*tenant, ChargeKind::kMetadata, quantizers::SpecBytes(spec) + artifact.bytes.size(),
                                           "the spec of store " + spec.name);
  if (!held) return done(held.error());
  line_.push_back(std::make_shared<Opening>(Opening{.tenant = std::move(tenant),
                                                    .spec = std::move(spec),
                                                    .artifact = std::move(artifact),
                                                    .wanted = std::move(wanted),
                                                    .done = std::move(done),
                                                    .held = *std::move(held),
                                                    .record = {},
                                                    .spelling = spelling}));
  GoOn();
}

/// Until a job of the first runs, which calls this again.
void StoreOpenings::GoOn() {
  while (!line_.empty()) {
    std::optional<Result<OpenedStore>> result = Step(line_.front());
    if (!result) return;
    const std::shared_ptr<Opening> opening = std::move(line_.front());
    line_.pop_front();
    opening->done(*std::move(result));
  }
}

/// What the open came to; nothing while a job of it runs.
std::optional<Result<OpenedStore>> StoreOpenings::Step(const std::shared_ptr<Opening>& opening) {
  if (opening->busy) return std::nullopt;
  if (!opening->wanted()) {
    return Error{ErrorCode::kDisconnected, "open store \"" + opening->spec.name + "\": the session is closed"};
  }
  switch (opening->stage) {
    case Opening::Stage::kCopy:
      opening->stage = Opening::Stage::kLookUp;
      if (!opening->artifact.bytes.empty()) {
        Run(opening, [opening] {
          opening->spec.plan.artifact.assign(opening->artifact.bytes.begin(), opening->artifact.bytes.end());
          opening->spelling = SpellingDigest(opening->spec);
        });
        return std::nullopt;
      }
      [[fallthrough]];
    case Opening::Stage::kLookUp: {
      opening->artifact = {};
      if (!opening->spelling)
        return Error{ErrorCode::kSystem, "open store \"" + opening->spec.name + "\": its artifact could not be copied"};
      if (auto known = stores_.OpenKnown(*opening->tenant, *opening->spelling, opening->spec.name)) return *std::move(known);
      Result<Charge> record = stores_.ChargeRecord(*opening->tenant, opening->spec, opening->spec.plan.artifact.size());
      if (!record) return record.error();
      opening->record = *std::move(record);
      opening->stage = Opening::Stage::kAdopt;
      Run(opening, [opening, &codecs = codecs_] { opening->plan = quantizers::Plan::Make(codecs, opening->spec); });
      return std::nullopt;
    }
    case Opening::Stage::kAdopt: break;
  }
  if (!opening->plan) return opening->plan.error();
  return stores_.Adopt(opening->tenant, *opening->spelling, *std::move(opening->plan), std::move(opening->record));
}

void StoreOpenings::Run(const std::shared_ptr<Opening>& opening, std::function<void()> job) {
  opening->busy = true;
  plans_.Submit(std::move(job), [this, opening] {
    opening->busy = false;
    GoOn();
  });
}

}  // namespace kvant::daemon
