// Block: the hot codec's block of the last `channels` numbers of every row, padded to 64 bytes, then the other codec's block of
// the rest.
#include <algorithm>
#include <memory>
#include <utility>

#include "quantizers/registry.h"
#include "tests/quantizers/toy_codecs.h"

namespace kvant::quantizers::test {
namespace {

enum Param : std::size_t { kChannels, kHot, kRest };
enum Child : std::uint32_t { kHotStream, kRestStream };

std::size_t Aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

/// How rows and memory are divided between the two codecs: `rest` has numbers [0, rest_dim) of a row, `hot` the others.
struct Split {
  std::size_t dim = 0;
  std::size_t rest_dim = 0;
  std::size_t tokens = 0;

  [[nodiscard]] std::size_t hot_dim() const noexcept { return dim - rest_dim; }
  [[nodiscard]] RowsView RestOf(RowsView rows) const {
    rows.dim = rest_dim;
    return rows;
  }
  [[nodiscard]] RowsView HotOf(RowsView rows) const {
    rows.data = static_cast<const std::byte*>(rows.data) + rest_dim * ElementBytes(rows.type);
    rows.dim = hot_dim();
    return rows;
  }
};

/// What both sides share. `Base` is KeyCodec or ValueCodec.
template <class Base>
class Outlier : public Base {
 public:
  Outlier(const Split& split, std::unique_ptr<Base> hot, std::unique_ptr<Base> rest)
      : split_(split), hot_(std::move(hot)), rest_(std::move(rest)) {}

  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override {
    return Aligned(hot_->block_bytes()) + rest_->block_bytes();
  }
  [[nodiscard]] CodecTraits traits() const noexcept override {
    const CodecTraits hot = hot_->traits(), rest = rest_->traits();
    return {.exact_zero = hot.exact_zero && rest.exact_zero,
            .rows_alone = hot.rows_alone && rest.rows_alone,
            .largest_norm = std::min(hot.largest_norm, rest.largest_norm)};
  }
  /// A number's share of the row's energy is the same in both parts of normal rows.
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override {
    const auto hot = hot_->expected_error(1), rest = rest_->expected_error(1);
    if (!hot || !rest) return std::nullopt;
    const double share = static_cast<double>(split_.hot_dim()) / static_cast<double>(split_.dim);
    return share * *hot + (1.0 - share) * *rest;
  }
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    const Needs hot = hot_->needs(n), rest = rest_->needs(n);
    return {.encode = std::max(hot.encode, rest.encode),
            .decode = std::max(hot.decode, rest.decode),
            .prepared = Aligned(hot.prepared) + rest.prepared,
            .scratch = std::max(hot.scratch, rest.scratch)};
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    EncodeArgs child = args;
    child.rows = split_.HotOf(args.rows);
    child.block = HotBlock(args.block);
    if (auto done = hot_->Encode(child); !done) return done;
    child.rows = split_.RestOf(args.rows);
    child.block = RestBlock(args.block);
    return rest_->Encode(child);
  }
  void Decode(const DecodeArgs& args) const override {
    DecodeArgs child = args;
    child.block = HotBlock(args.block);
    child.rows = args.rows + split_.rest_dim;
    hot_->Decode(child);
    child.block = RestBlock(args.block);
    child.rows = args.rows;
    rest_->Decode(child);
  }

 protected:
  template <typename Byte>
  static BasicBlockView<Byte> HotBlock(const BasicBlockView<Byte>& block) {
    return {block.part[0]};
  }
  template <typename Byte>
  BasicBlockView<Byte> RestBlock(const BasicBlockView<Byte>& block) const {
    return {block.part[0] + Aligned(hot_->block_bytes())};
  }

  Split split_;
  std::unique_ptr<Base> hot_;
  std::unique_ptr<Base> rest_;
};

class OutlierKeys final : public Outlier<KeyCodec> {
 public:
  using Outlier::Outlier;

  void Prepare(const PrepareArgs& args) const override {
    PrepareArgs child = args;
    child.queries = args.queries + split_.rest_dim;
    hot_->Prepare(child);
    child.queries = args.queries;
    child.prepared = args.prepared + Aligned(hot_->needs(args.n).prepared);
    rest_->Prepare(child);
  }
  void Score(const ScoreArgs& args) const override {
    ScoreArgs child = args;
    child.queries = args.queries + split_.rest_dim;
    child.block = HotBlock(args.block);
    hot_->Score(child);
    child.queries = args.queries;
    child.prepared = args.prepared + Aligned(hot_->needs(args.n).prepared);
    child.block = RestBlock(args.block);
    child.add = true;
    child.next = {};
    rest_->Score(child);
  }
};

class OutlierValues final : public Outlier<ValueCodec> {
 public:
  using Outlier::Outlier;

  [[nodiscard]] std::size_t accumulator_floats(std::size_t queries) const noexcept override {
    return hot_->accumulator_floats(queries) + rest_->accumulator_floats(queries);
  }
  void Accumulate(const AccumulateArgs& args) const override {
    AccumulateArgs child = args;
    child.block = HotBlock(args.block);
    child.acc_floats = HotFloats(args.acc_floats);
    hot_->Accumulate(child);
    child.block = RestBlock(args.block);
    child.acc = args.acc + child.acc_floats;
    child.acc_floats = args.acc_floats - child.acc_floats;
    child.next = {};
    rest_->Accumulate(child);
  }
  void Finish(const FinishArgs& args) const override {
    FinishArgs child = args;
    child.acc_floats = HotFloats(args.acc_floats);
    child.rows = args.rows + split_.rest_dim;
    hot_->Finish(child);
    child.acc = args.acc + child.acc_floats;
    child.acc_floats = args.acc_floats - child.acc_floats;
    child.rows = args.rows;
    rest_->Finish(child);
  }

 private:
  /// Of the accumulator's two kinds (for few queries, for many) the one that has so many floats together.
  [[nodiscard]] std::size_t HotFloats(std::size_t floats) const {
    const std::size_t few = hot_->accumulator_floats(1);
    return few + rest_->accumulator_floats(1) == floats ? few : hot_->accumulator_floats(4096);
  }
};

Result<Split> SplitOf(const CodecConfig& config) {
  const auto channels = static_cast<std::size_t>(config.params.Integer(kChannels));
  if (channels % 8 != 0 || channels >= config.head_dim) {
    return Error{ErrorCode::kUnsupported, "toy_outlier: channels=" + std::to_string(channels) +
                                              " is not a multiple of 8 below head_dim " + std::to_string(config.head_dim)};
  }
  return Split{config.head_dim, config.head_dim - channels, config.block_tokens};
}

CodecConfig ChildConfig(const CodecConfig& config, std::size_t dim, Child child) {
  CodecConfig made = config;
  made.head_dim = static_cast<std::uint32_t>(dim);
  made.stream = ChildStream(config.stream, child);
  return made;
}

template <class Made, class Base>
Result<std::unique_ptr<Base>> MakeOutlier(const CodecConfig& config,
                                          Result<std::unique_ptr<Base>> (*make)(const ParsedSpec&, CodecConfig)) {
  const auto split = SplitOf(config);
  if (!split) return split.error();
  auto hot = make(config.params.Spec(kHot), ChildConfig(config, split->hot_dim(), kHotStream));
  if (!hot) return hot;
  auto rest = make(config.params.Spec(kRest), ChildConfig(config, split->rest_dim, kRestStream));
  if (!rest) return rest;
  if ((*hot)->parts() != 1 || (*rest)->parts() != 1) {
    return Error{ErrorCode::kUnsupported, "toy_outlier: its codecs must have blocks of one part"};
  }
  return std::unique_ptr<Base>(std::make_unique<Made>(*split, *std::move(hot), *std::move(rest)));
}

/// Both codecs' tensors, and their means side by side.
Example ExampleOutlier(const CodecConfig& config) {
  const auto split = SplitOf(config);
  if (!split) return {};
  Example hot = ExampleOf(config.params.Spec(kHot), ChildConfig(config, split->hot_dim(), kHotStream));
  Example both = ExampleOf(config.params.Spec(kRest), ChildConfig(config, split->rest_dim, kRestStream));
  both.tensors.insert(both.tensors.end(), hot.tensors.begin(), hot.tensors.end());
  if (hot.mean.empty() && both.mean.empty()) return both;
  std::vector<float> mean(config.kv_heads * split->dim, 0.0f);
  for (std::size_t i = 0; i < mean.size(); ++i) {
    const std::size_t head = i / split->dim, k = i % split->dim;
    const bool is_hot = k >= split->rest_dim;
    const std::vector<float>& from = is_hot ? hot.mean : both.mean;
    if (!from.empty()) mean[i] = from[is_hot ? head * split->hot_dim() + k - split->rest_dim : head * split->rest_dim + k];
  }
  both.mean = std::move(mean);
  return both;
}

std::uint32_t Multiple(const Params& params) {
  return std::max(BlockMultiple(params.Spec(kHot)), BlockMultiple(params.Spec(kRest)));  // powers of two times 16
}

constexpr ParamSpec kParams[] = {
    {.name = "channels", .default_value = "8", .meaning = "numbers of a row that are hot", .min = 8, .max = 1016},
    {.name = "hot", .kind = ParamKind::kSpec, .default_value = "int8", .meaning = "codec of the hot numbers"},
    {.name = "rest", .kind = ParamKind::kSpec, .default_value = "turboquant_mse:bits=2", .meaning = "codec of the others"},
};

}  // namespace

const Codec kToyOutlier{
    .name = "toy_outlier",
    .summary = "the last numbers of a row in one codec, the others in another",
    .params = kParams,
    .block_multiple = Multiple,
    .make_keys = [](const CodecConfig& config) { return MakeOutlier<OutlierKeys, KeyCodec>(config, MakeKeys); },
    .make_values = [](const CodecConfig& config) { return MakeOutlier<OutlierValues, ValueCodec>(config, MakeValues); },
    .example = ExampleOutlier};

}  // namespace kvant::quantizers::test
