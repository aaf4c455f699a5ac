// Random histories of a sequence (growth with and without ids, naming, marks, rewinds, releases, trims, forks, token policies)
// through client and daemon together, in both placements: against attention in double, and against each other bit by bit.
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <kvant/client.h>

#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"
#include "tests/support/kept_reference.h"
#include "tests/support/seeds.h"

namespace kvant::testing {
namespace {

constexpr std::uint32_t kMaxStep = 40;
constexpr std::size_t kMostTokens = 420;
/// Raw f32 rows and f32 codes: only the order of additions differs from the reference (attention_test.cc derives the bound).
constexpr double kF32Tolerance = 1e-5;

/// One sequence as each placement has it.
struct Talk {
  std::vector<Conversation> in;  // one per placement
  std::vector<std::vector<Mark>> marks;
  std::string policy;
};

class History {
 public:
  History(std::uint32_t seed, std::vector<Placement> placements, const std::string& codec, std::size_t budget_bytes)
      : random_(seed), placements_(std::move(placements)), exact_(codec == "f32"), env_(WithBudget(budget_bytes)) {
    for (const Placement placement : placements_) {
      clients_.push_back(env_.Connect());
      StoreSpec spec = SpecOf(model_.shape(), codec, codec);
      spec.salt = placement == Placement::kLocal ? "local" : "service";  // each encodes its own blocks
      spec.name += spec.salt;
      stores_.push_back(clients_.back().OpenStore(spec).value());
    }
  }

  void Run(int steps) {
    Open();
    for (int step = 0; step < steps && !::testing::Test::HasFailure(); ++step) {
      SCOPED_TRACE("step " + std::to_string(step));
      Talk& talk = talks_[Below(talks_.size())];
      switch (Below(12)) {
        case 0: SetMark(talk); break;
        case 1: Rewind(talk); break;
        case 2: Release(talk); break;
        case 3: Trim(talk); break;
        case 4:
          if (talks_.size() < 4) {
            Below(2) == 0 ? Open() : Fork(talk);
          } else {
            talks_.erase(talks_.begin() + static_cast<std::ptrdiff_t>(Below(talks_.size())));
          }
          break;
        case 6: ApplyPolicy(talk); break;
        case 5: Name(talk, Below(talk.in[0].sequence().unnamed() + 1)); break;
        default: Feed(talk); break;
      }
      Check(talks_[Below(talks_.size())]);
    }
  }

  /// Advances that a full store answered.
  [[nodiscard]] int full() const { return full_; }

 private:
  static DaemonOptions WithBudget(std::size_t bytes) {
    DaemonOptions options;
    options.budget_bytes = bytes;
    return options;
  }

  std::size_t Below(std::size_t n) { return random_() % n; }

  void Add(std::vector<Sequence> sequences, const std::vector<TokenId>& tokens) {
    Talk talk;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      talk.in.emplace_back(clients_[i], std::move(sequences[i]), model_, tokens, kMaxStep);
    }
    talk.marks.resize(sequences.size());
    talks_.push_back(std::move(talk));
  }

  void Open() {
    const auto recent = static_cast<std::uint32_t>(Below(3) * 20);
    const auto unnamed = static_cast<std::uint32_t>(Below(3) * 50);
    constexpr const char* kPolicies[] = {"", "window:tokens=50,sinks=3,min=70", "snapkv:budget=60,window=10,kernel=3",
                                         "h2o:budget=50,recent=20,min=60"};
    const std::string policy = kPolicies[Below(4)];
    std::vector<Sequence> sequences;
    for (std::size_t i = 0; i < placements_.size(); ++i) {
      auto opened = stores_[i].Open({}, {.placement = placements_[i],
                                         .recent_tokens = recent,
                                         .max_step_tokens = kMaxStep,
                                         .tail_type = ElementType::kF32,
                                         .unnamed_tokens = unnamed,
                                         .policy = policy});
      if (!opened && opened.error().code == ErrorCode::kStoreFull) return;  // no room for its record
      ASSERT_TRUE(opened) << opened.error().message;
      sequences.push_back(std::move(*opened));
    }
    Add(std::move(sequences), {});
    talks_.back().policy = policy;
  }

  void Fork(Talk& talk) {
    const std::uint64_t at = Below(talk.in[0].sequence().length() + 1);
    std::vector<Sequence> sequences;
    for (Conversation& conversation : talk.in) {
      auto forked = conversation.sequence().Fork(at);
      if (!forked && forked.error().code == ErrorCode::kStoreFull) return;
      ASSERT_TRUE(forked) << forked.error().message;
      sequences.push_back(std::move(*forked));
    }
    const std::vector<TokenId>& tokens = talk.in[0].tokens();
    const std::string policy = talk.policy;  // Add may move it
    Add(std::move(sequences), {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(at)});
    talks_.back().policy = policy;
  }

  void ApplyPolicy(Talk& talk) {
    for (Conversation& conversation : talk.in) {
      const std::uint64_t kept = conversation.sequence().kept();
      const auto applied = conversation.sequence().ApplyPolicy();
      if (!applied) {  // marks, or no query known since a trim
        ASSERT_EQ(applied.error().code, ErrorCode::kInvalidArgument) << applied.error().message;
        ASSERT_EQ(conversation.sequence().kept(), kept);
      } else if (talk.policy.starts_with("snapkv")) {
        ASSERT_LE(conversation.sequence().kept(), 60u);
      }
    }
  }

  /// The reference with what the first placement's KV heads attend.
  KeptReference Reference(Talk& talk) {
    KeptReference reference(model_);
    Sequence& sequence = talk.in[0].sequence();
    reference.SetTokens(talk.in[0].tokens());
    if (talk.policy.starts_with("window")) reference.SetWindow(50, 3, 70);
    for (std::size_t layer = 0; layer < model_.shape().layers; ++layer) {
      const auto kept = sequence.KeptTokens(layer, 0).value();
      if (!talk.policy.starts_with("window")) reference.Keep(layer, 0, kept);
    }
    return reference;
  }

  void Name(Talk& talk, std::size_t count) {
    for (Conversation& conversation : talk.in) {
      Sequence& sequence = conversation.sequence();
      const std::size_t unnamed = sequence.unnamed();
      const auto ids = std::span(conversation.tokens()).last(unnamed).first(count);
      const auto named = sequence.Name(ids);
      ASSERT_TRUE(named || named.error().code == ErrorCode::kStoreFull) << named.error().message;
      ASSERT_EQ(sequence.unnamed(), unnamed - count);
    }
  }

  /// A step whose tokens get their ids later, if ever.
  static Result<void> StepUnnamed(Conversation& conversation, std::span<const TokenId> tokens) {
    if (auto attended = conversation.AttendOnly(tokens, WriteMode::kInPlace, {}); !attended) return attended;
    if (auto advanced = conversation.sequence().AdvanceUnnamed(tokens.size()); !advanced) return advanced;
    conversation.tokens().insert(conversation.tokens().end(), tokens.begin(), tokens.end());
    return {};
  }

  void Feed(Talk& talk) {
    const bool with_ids = Below(3) != 0;
    if (with_ids) Name(talk, talk.in[0].sequence().unnamed());
    std::size_t left = 1 + Below(90);
    while (left > 0 && talk.in[0].sequence().length() + left < kMostTokens) {
      const std::vector<TokenId> tokens = RandomTokens(std::min<std::size_t>(left, 1 + Below(kMaxStep)), random_());
      left -= tokens.size();
      for (Conversation& conversation : talk.in) {
        const std::uint64_t before = conversation.sequence().length();
        const auto stepped = with_ids ? conversation.Step(tokens, WriteMode::kInPlace, {}) : StepUnnamed(conversation, tokens);
        const std::uint64_t grown = conversation.sequence().length() - before;
        if (stepped) {
          ASSERT_GT(grown, 0u);
        } else if (stepped.error().code == ErrorCode::kStoreFull) {
          ++full_;
        } else {
          ASSERT_EQ(stepped.error().code, ErrorCode::kTailFull) << stepped.error().message;
          ASSERT_EQ(grown, 0u) << "a refused step";
          return;
        }
        if (exact_ && Below(3) == 0 && !talk.policy.starts_with("h2o")) {  // which has dropped tokens behind the step
          // out() is [layer][token][q_heads][head_dim].
          const std::size_t width = conversation.out().size() / model_.shape().layers;
          const std::size_t layer = Below(model_.shape().layers);
          ASSERT_LT(MaxDifference(std::span(conversation.out()).subspan(layer * width, width),
                                  Reference(talk).Attend(layer, before, before + grown)),
                    kF32Tolerance);
        }
      }
      if (talk.in.size() == 2) {
        ASSERT_EQ(talk.in[0].out(), talk.in[1].out());
        ASSERT_EQ(talk.in[0].lse(), talk.in[1].lse());
      }
    }
  }

  void SetMark(Talk& talk) {
    if (talk.marks[0].size() >= 3 || talk.in[0].sequence().unnamed() > 0) return;
    for (std::size_t i = 0; i < talk.in.size(); ++i) {
      auto mark = talk.in[i].sequence().SetMark();
      ASSERT_TRUE(mark) << mark.error().message;
      talk.marks[i].push_back(*mark);
    }
  }

  void Rewind(Talk& talk) {
    if (talk.marks[0].empty()) return;
    const std::size_t which = Below(talk.marks[0].size());
    for (std::size_t i = 0; i < talk.in.size(); ++i) {
      auto rewound = talk.in[i].sequence().Rewind(talk.marks[i][which]);
      ASSERT_TRUE(rewound) << rewound.error().message;
      Shorten(talk, i, talk.marks[i][which].length);
    }
  }

  void Release(Talk& talk) {
    if (talk.marks[0].empty()) return;
    const std::size_t which = Below(talk.marks[0].size());
    for (std::size_t i = 0; i < talk.in.size(); ++i) {
      auto released = talk.in[i].sequence().Release(talk.marks[i][which]);
      ASSERT_TRUE(released || released.error().code == ErrorCode::kStoreFull) << released.error().message;
      talk.marks[i].erase(talk.marks[i].begin() + static_cast<std::ptrdiff_t>(which));
    }
  }

  void Trim(Talk& talk) {
    const std::uint64_t length = Below(talk.in[0].sequence().length() + 1);
    for (std::size_t i = 0; i < talk.in.size(); ++i) {
      auto trimmed = talk.in[i].sequence().Trim(length);
      ASSERT_TRUE(trimmed) << trimmed.error().message;
      Shorten(talk, i, length);
    }
  }

  static void Shorten(Talk& talk, std::size_t i, std::uint64_t length) {
    talk.in[i].tokens().resize(length);
    std::erase_if(talk.marks[i], [&](const Mark& mark) { return mark.length > length; });
  }

  /// What a probe sees.
  void Check(Talk& talk) {
    const ModelShape& shape = model_.shape();
    const std::size_t layer = Below(shape.layers);
    const std::vector<float> row = model_.Row(RandomTokens(1, random_()), 0, Side::kQuery, layer, 0);
    std::vector<float> seen[2];
    for (std::size_t i = 0; i < talk.in.size(); ++i) {
      Conversation& conversation = talk.in[i];
      ASSERT_EQ(conversation.sequence().length(), conversation.tokens().size());
      if (conversation.tokens().empty()) return;
      std::vector<float> q;
      for (std::size_t h = 0; h < shape.q_heads; ++h) q.insert(q.end(), row.begin(), row.end());
      seen[i].resize(q.size());
      const ConstTensorView view{q.data(), ElementType::kF32, 1, shape.q_heads, shape.head_dim, q.size(), shape.head_dim};
      TensorView out{seen[i].data(), ElementType::kF32, 1, shape.q_heads, shape.head_dim, q.size(), shape.head_dim};
      auto attended = conversation.sequence().Attend(layer, {.q = view, .out = out, .scale = 0.125f});
      ASSERT_TRUE(attended) << attended.error().message;
      if (exact_) {
        ASSERT_LT(MaxDifference(seen[i], Reference(talk).Probe(layer, row, 0.125f)), kF32Tolerance);
      }
    }
    if (talk.in.size() == 2) {
      ASSERT_EQ(seen[0], seen[1]);
      ASSERT_EQ(talk.in[0].sequence().KeptTokens(layer, 0).value(), talk.in[1].sequence().KeptTokens(layer, 0).value());
    }
  }

  std::mt19937 random_;
  const std::vector<Placement> placements_;
  const bool exact_;
  const FakeModel model_{ModelShape{.layers = 8, .kv_heads = 1, .q_heads = 2, .head_dim = 64}};
  DaemonEnv env_;
  std::vector<Client> clients_;
  std::vector<Store> stores_;
  std::vector<Talk> talks_;
  int full_ = 0;
};

constexpr int kSteps = 100;

TEST(PlacementModelTest, BothPlacementsGiveTheSameBits) {
  for (const std::uint32_t seed : Seeds({1, 2, 3})) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    History(seed, {Placement::kService, Placement::kLocal}, "turboquant_mse:bits=2", std::size_t{512} << 20).Run(kSteps);
  }
}

TEST(PlacementModelTest, BothPlacementsAreExact) {
  for (const std::uint32_t seed : Seeds({11})) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    History(seed, {Placement::kService, Placement::kLocal}, "f32", std::size_t{512} << 20).Run(kSteps);
  }
}

TEST(PlacementModelTest, AFullStoreCostsNoTokens) {
  int full = 0;
  for (const Placement placement : {Placement::kService, Placement::kLocal}) {
    for (const std::uint32_t seed : Seeds({21})) {
      SCOPED_TRACE("seed " + std::to_string(seed) + (placement == Placement::kLocal ? ", local" : ", service"));
      History history(seed, {placement}, "f32", std::size_t{2} << 20);
      history.Run(kSteps);
      full += history.full();
    }
  }
  EXPECT_GT(full, 0) << "the budget was never reached";
}

}  // namespace
}  // namespace kvant::testing
