// outlier: the `channels` strongest channels of a KV head in one codec, the others in another (the two streams of KVQuant,
// arXiv 2401.18079, and of TurboQuant's fractional rates, arXiv 2504.19874, section 4.3).
//
// Which channels those are (`choice`):
//   calibrated  once per KV head: the largest of tensor "layers.<layer>.keys.outliers" (or "values.outliers") of the plan's
//               artifact, [kv_heads, head_dim], the channels' mean squares;
//   block       those with the largest mean square of the block's own rows;
//   auto        calibrated where the artifact holds the tensor, else block.
// Of equal channels the lower one comes first.
//
// Block: the hot codec's parts, the other codec's parts, each padded to 64 bytes (those of 128 tokens rarely need it), then,
// where the block chose, its channels in ascending order, a byte each (16 bits where head_dim exceeds 256). Both parts keep the
// order of channels. `channels` is a multiple of 8, as head sizes are, so that both codecs get head sizes that they take.
//
// What it costs: with `calibrated` queries are split once. With `block` they are split and prepared anew for every block (a
// rotation per query, if a part rotates: some ten times what scoring its codes takes), and values leave each block's own space
// for rows at once. A codec whose blocks hold gains or steps per channel (kivi) gets the same from outlier channels in one
// stream.
#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "quantizers/artifact.h"
#include "quantizers/channel_split.h"
#include "quantizers/codec.h"
#include "quantizers/registry.h"
#include "quantizers/scratch.h"
#include "quantizers/two_streams.h"

namespace kvant::quantizers {
namespace {

enum Param : std::size_t { kChannels, kHot, kRest, kChoice };
enum Choice : std::size_t { kAuto, kBlock, kCalibrated };
enum Child : std::uint32_t { kHotStream, kRestStream };

std::string EnergyTensor(const CodecConfig& config) {
  return "layers." + std::to_string(config.layer) + (config.side == Side::kKeys ? ".keys.outliers" : ".values.outliers");
}

class OutlierKeys final : public TwoStreams<KeyCodec> {
 public:
  using TwoStreams::TwoStreams;

  /// Split queries and what both codecs make of them: prepared once, or for each block in scratch; then the codecs' scratch.
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    const Needs hot = hot_->needs(n), rest = rest_->needs(n);
    const std::size_t split =
        FloatBytes(n * hot_dim_) + FloatBytes(n * rest_dim()) + Aligned(hot.prepared) + Aligned(rest.prepared);
    Needs all = block_needs();
    all.prepared = chooses() ? 0 : split;
    all.scratch = (chooses() ? split : 0) + std::max(hot.scratch, rest.scratch);
    return all;
  }

  void Prepare(const PrepareArgs& args) const override {
    if (chooses()) return;
    Split(args, SplitOf(args.head, {}), Queries(*this, args.prepared, args.n), args.scratch);
  }

  void Score(const ScoreArgs& args) const override {
    Queries parts(*this, chooses() ? args.scratch : args.prepared, args.n);
    ScoreArgs child = args;
    if (chooses()) {
      child.scratch = parts.end;
      const PrepareArgs again{
          .head = args.head, .queries = args.queries, .query_stride = args.query_stride, .n = args.n, .scratch = parts.end};
      Split(again, SplitOf(args.head, args.block), parts, parts.end);
    }
    child.queries = parts.hot;
    child.query_stride = hot_dim_;
    child.prepared = parts.hot_prepared;
    child.block = HotBlock(args.block);
    hot_->Score(child);
    child.queries = parts.rest;
    child.query_stride = rest_dim();
    child.prepared = parts.rest_prepared;
    child.block = RestBlock(args.block);
    child.add = true;
    child.next = {};
    rest_->Score(child);
  }

 private:
  /// Where the parts of queries lie.
  struct Queries {
    float* hot;
    float* rest;
    std::byte* hot_prepared;
    std::byte* rest_prepared;
    std::byte* end;

    Queries(const OutlierKeys& codec, std::byte* memory, std::size_t n) {
      Pieces pieces(memory);
      hot = pieces.Floats(n * codec.hot_dim_);
      rest = pieces.Floats(n * codec.rest_dim());
      hot_prepared = pieces.Bytes(codec.hot_->needs(n).prepared);
      rest_prepared = pieces.Bytes(codec.rest_->needs(n).prepared);
      end = pieces.rest();
    }
  };

  void Split(const PrepareArgs& args, const ChannelSplit& split, const Queries& to, std::byte* scratch) const {
    for (std::size_t i = 0; i < args.n; ++i)
      split.Take(args.queries + i * args.query_stride, to.hot + i * hot_dim_, to.rest + i * rest_dim());
    PrepareArgs child = args;
    child.scratch = scratch;
    child.queries = to.hot;
    child.query_stride = hot_dim_;
    child.prepared = to.hot_prepared;
    hot_->Prepare(child);
    child.queries = to.rest;
    child.query_stride = rest_dim();
    child.prepared = to.rest_prepared;
    rest_->Prepare(child);
  }
};

class OutlierValues final : public TwoStreams<ValueCodec> {
 public:
  using TwoStreams::TwoStreams;

  /// Blocks that choose: both parts' accumulators and rows, the weights' sums; then the codecs' scratch. Otherwise parts of the
  /// result.
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    const Needs hot = hot_->needs(n), rest = rest_->needs(n);
    Needs all = block_needs();
    all.scratch = FloatBytes(n * hot_dim_) + FloatBytes(n * rest_dim()) + std::max(hot.scratch, rest.scratch);
    if (chooses()) all.scratch += FloatBytes(n * few_hot()) + FloatBytes(n * few_rest()) + FloatBytes(n);
    return all;
  }

  /// Blocks that choose have no space in common but that of rows.
  [[nodiscard]] std::size_t accumulator_floats(std::size_t queries) const noexcept override {
    return chooses() ? dim_ : hot_->accumulator_floats(queries) + rest_->accumulator_floats(queries);
  }

  void Accumulate(const AccumulateArgs& args) const override {
    if (chooses()) return AccumulateRows(args);
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
    if (chooses()) {
      for (std::size_t i = 0; i < args.n; ++i) {
        for (std::size_t d = 0; d < dim_; ++d) {
          float& to = args.rows[i * args.row_stride + d];
          to = args.acc[i * args.acc_stride + d] + (args.add ? to : 0.0F);
        }
      }
      return;
    }
    Pieces pieces(args.scratch);
    Parts parts{pieces.Floats(args.n * hot_dim_), pieces.Floats(args.n * rest_dim()), pieces.rest()};
    FinishArgs rest = args;
    const std::size_t hot_floats = HotFloats(args.acc_floats);
    rest.acc = args.acc + hot_floats;
    rest.acc_floats = args.acc_floats - hot_floats;
    FinishArgs hot = args;
    hot.acc_floats = hot_floats;
    FinishParts(hot, rest, parts);
    const ChannelSplit split = SplitOf(args.head, {});
    for (std::size_t i = 0; i < args.n; ++i) {
      split.Put(parts.hot + i * hot_dim_, parts.rest + i * rest_dim(), args.add, args.rows + i * args.row_stride);
    }
  }

 private:
  /// Rows of both parts, [n, hot] and [n, rest], and the scratch behind them.
  struct Parts {
    float* hot;
    float* rest;
    std::byte* scratch;
  };

  [[nodiscard]] std::size_t few_hot() const noexcept { return hot_->accumulator_floats(1); }
  [[nodiscard]] std::size_t few_rest() const noexcept { return rest_->accumulator_floats(1); }
  /// Of the accumulator's two kinds (for few queries, for many) the one that has so many floats together.
  [[nodiscard]] std::size_t HotFloats(std::size_t floats) const {
    return few_hot() + few_rest() == floats ? few_hot() : hot_->accumulator_floats(kManyCallQueries);
  }

  void FinishParts(FinishArgs hot, FinishArgs rest, const Parts& parts) const {
    hot.rows = parts.hot;
    hot.row_stride = hot_dim_;
    rest.rows = parts.rest;
    rest.row_stride = rest_dim();
    hot.add = rest.add = false;
    hot.scratch = rest.scratch = parts.scratch;
    hot_->Finish(hot);
    rest_->Finish(rest);
  }

  /// One block, from its own space to rows. The kind of the codecs' accumulators is that for few queries, whatever their
  /// number, so that a query's sum does not depend on its company.
  void AccumulateRows(const AccumulateArgs& args) const {
    Pieces pieces(args.scratch);
    Parts parts{pieces.Floats(args.n * hot_dim_), pieces.Floats(args.n * rest_dim()), nullptr};
    float* hot_acc = pieces.Floats(args.n * few_hot());
    float* rest_acc = pieces.Floats(args.n * few_rest());
    float* sums = pieces.Floats(args.n);
    parts.scratch = pieces.rest();
    std::fill_n(hot_acc, args.n * few_hot(), 0.0F);
    std::fill_n(rest_acc, args.n * few_rest(), 0.0F);
    AccumulateArgs child = args;
    child.scratch = parts.scratch;
    child.block = HotBlock(args.block);
    child.acc = hot_acc;
    child.acc_stride = child.acc_floats = few_hot();
    hot_->Accumulate(child);
    child.block = RestBlock(args.block);
    child.acc = rest_acc;
    child.acc_stride = child.acc_floats = few_rest();
    child.next = {};
    rest_->Accumulate(child);
    for (std::size_t i = 0; i < args.n; ++i) {
      sums[i] = std::accumulate(args.weights + i * args.stride, args.weights + i * args.stride + tokens_, 0.0F);
    }
    FinishArgs hot{
        .head = args.head, .acc = hot_acc, .acc_stride = few_hot(), .acc_floats = few_hot(), .weight_sums = sums, .n = args.n};
    FinishArgs rest = hot;
    rest.acc = rest_acc;
    rest.acc_stride = rest.acc_floats = few_rest();
    FinishParts(hot, rest, parts);
    const ChannelSplit split = SplitOf(args.head, args.block);
    for (std::size_t i = 0; i < args.n; ++i)
      split.Put(parts.hot + i * hot_dim_, parts.rest + i * rest_dim(), true, args.acc + i * args.acc_stride);
  }

  /// As many queries as accumulators for many are for.
  static constexpr std::size_t kManyCallQueries = 4096;
};

std::string Where(const CodecConfig& config) { return "outlier layer " + std::to_string(config.layer) + ": "; }

Result<std::size_t> HotDim(const CodecConfig& config) {
  const auto channels = static_cast<std::size_t>(config.params.Integer(kChannels));
  if (channels % 8 != 0 || channels >= config.head_dim || config.head_dim > ChannelSplit::kMaxDim) {
    return Error{ErrorCode::kUnsupported, Where(config) + "channels=" + std::to_string(channels) +
                                              " is not a multiple of 8 below head_dim " + std::to_string(config.head_dim)};
  }
  return channels;
}

/// The heads' channels as blocks would store them; empty: blocks choose.
Result<std::vector<std::byte>> CalibratedChannels(const CodecConfig& config, std::size_t hot_dim) {
  std::vector<std::byte> channels;
  const std::size_t choice = config.params.Choice(kChoice);
  const std::string tensor = EnergyTensor(config);
  const bool there = config.artifact != nullptr && config.artifact->Has(tensor);
  if (choice == kBlock || (choice == kAuto && !there)) return channels;
  if (config.artifact == nullptr) {
    return Error{ErrorCode::kInvalidArgument, Where(config) + "choice=calibrated needs tensor \"" + tensor + "\" of shape [" +
                                                  std::to_string(config.kv_heads) + ", " + std::to_string(config.head_dim) +
                                                  "], but the plan has no artifact"};
  }
  const auto energies = config.artifact->Find(tensor, {config.kv_heads, config.head_dim});
  if (!energies) return Error{energies.error().code, Where(config) + energies.error().message};
  const std::size_t each = ChannelSplit::StoredBytes(config.head_dim, hot_dim);
  channels.resize((config.head_end - config.head_begin) * each);
  for (std::size_t head = config.head_begin; head < config.head_end; ++head) {
    ChannelSplit::Largest(energies->data() + head * config.head_dim, config.head_dim, hot_dim)
        .Store(channels.data() + (head - config.head_begin) * each);
  }
  return channels;
}

CodecConfig ChildConfig(const CodecConfig& config, std::size_t dim, Child child) {
  CodecConfig made = config;
  made.head_dim = static_cast<std::uint32_t>(dim);
  made.stream = ChildStream(config.stream, child);
  return made;
}

/// A part's codec, its name in front of its error.
template <class Base>
Result<std::unique_ptr<Base>> MakePart(const CodecConfig& config, Param param, std::size_t dim, Child child,
                                       Result<std::unique_ptr<Base>> (*make)(const ParsedSpec&, CodecConfig)) {
  const ParsedSpec& spec = config.params.Spec(param);
  auto made = make(spec, ChildConfig(config, dim, child));
  const std::string where = Where(config) + std::to_string(dim) + " channels in " + std::string(spec.codec->name) + ": ";
  if (!made) return Error{made.error().code, where + made.error().message};
  if constexpr (std::is_same_v<Base, KeyCodec>) {
    if ((*made)->pre_rope()) return Error{ErrorCode::kUnsupported, where + "it turns pairs of channels, which may be parted"};
  }
  return made;
}

template <class Made, class Base>
Result<std::unique_ptr<Base>> MakeOutlier(const CodecConfig& config,
                                          Result<std::unique_ptr<Base>> (*make)(const ParsedSpec&, CodecConfig)) {
  const auto hot_dim = HotDim(config);
  if (!hot_dim) return hot_dim.error();
  auto calibrated = CalibratedChannels(config, *hot_dim);
  if (!calibrated) return calibrated.error();
  auto hot = MakePart<Base>(config, kHot, *hot_dim, kHotStream, make);
  if (!hot) return hot;
  auto rest = MakePart<Base>(config, kRest, config.head_dim - *hot_dim, kRestStream, make);
  if (!rest) return rest;
  return std::unique_ptr<Base>(
      std::make_unique<Made>(config, *hot_dim, *std::move(calibrated), *std::move(hot), *std::move(rest)));
}

Result<std::unique_ptr<KeyCodec>> MakeOutlierKeys(const CodecConfig& config) {
  return MakeOutlier<OutlierKeys, KeyCodec>(config, MakeKeys);
}

Result<std::unique_ptr<ValueCodec>> MakeOutlierValues(const CodecConfig& config) {
  return MakeOutlier<OutlierValues, ValueCodec>(config, MakeValues);
}

/// Both parts' tensors and, where they are calibrated, energies of which every third channel's is large.
Example ExampleOutlier(const CodecConfig& config) {
  Example example;
  const auto hot_dim = HotDim(config);
  if (!hot_dim) return example;
  for (const Example& part :
       {ExampleOf(config.params.Spec(kHot), ChildConfig(config, *hot_dim, kHotStream)),
        ExampleOf(config.params.Spec(kRest), ChildConfig(config, config.head_dim - *hot_dim, kRestStream))})
    example.tensors.insert(example.tensors.end(), part.tensors.begin(), part.tensors.end());
  if (config.params.Choice(kChoice) != kCalibrated) return example;
  ExampleTensor energies{EnergyTensor(config), {config.kv_heads, config.head_dim}, {}};
  for (std::size_t i = 0; i < config.kv_heads * config.head_dim; ++i)
    energies.values.push_back(i % 3 == 1 ? 1.0F + static_cast<float>(i) : 0.5F);
  example.tensors.push_back(std::move(energies));
  return example;
}

std::uint32_t Multiple(const Params& params) {
  return std::lcm(BlockMultiple(params.Spec(kHot)), BlockMultiple(params.Spec(kRest)));
}

constexpr std::string_view kChoices[] = {"auto", "block", "calibrated"};

constexpr ParamSpec kParams[] = {
    {.name = "channels",
     .default_value = "8",
     .meaning = "strongest channels that are kept by `hot`, a multiple of 8",
     .min = 8,
     .max = 1016},
    {.name = "hot", .kind = ParamKind::kSpec, .default_value = "int8", .meaning = "codec of the strongest channels"},
    {.name = "rest", .kind = ParamKind::kSpec, .default_value = "turboquant_mse:bits=2", .meaning = "codec of the others"},
    {.name = "choice",
     .kind = ParamKind::kChoice,
     .default_value = "auto",
     .meaning = "who says which channels are strong: the block's rows, the artifact, or it if it can",
     .choices = kChoices},
};

}  // namespace

extern const Codec kOutlier;

const Codec kOutlier{.name = "outlier",
                     .summary = "the strongest channels in one codec, the others in another",
                     .params = kParams,
                     .block_multiple = Multiple,
                     .make_keys = MakeOutlierKeys,
                     .make_values = MakeOutlierValues,
                     .example = ExampleOutlier};

}  // namespace kvant::quantizers
