// Methods and knobs of published packages as plan text: the codecs that serve them, and refusals that name the knob.
#include "quantizers/seed_methods.h"

#include <gtest/gtest.h>

#include <string>

#include "quantizers/plan.h"

namespace kvant::quantizers {
namespace {

std::string SpecOf(const std::string& text, Side side) {
  const auto spec = MethodSpec(text, side, 64);
  return spec ? *spec : spec.error().message;
}

TEST(SeedMethodsTest, AreCodecs) {
  const struct {
    const char* text;
    const char* keys;
    const char* values;
  } cases[] = {
      {"none", "f16", "f16"},
      {"fp16,value_bits=4", "f16", "turboquant_mse:bits=4"},
      {"int8", "int8", "int8"},
      {"turboquant_mse,bits=4,value_bits=16", "turboquant_mse:bits=4", "f16"},
      {"turboquant_rvq", "turboquant_rvq:bits=1", "turboquant_mse:bits=2"},
      {"turboquant_rvq,bits=2,num_residuals=2", "turboquant_rvq:bits=2", "turboquant_mse:bits=2"},
      {"ratequant,bits=2,value_bits=8", "turboquant_rvq:bits=2", "int8"},
      {"turboquant_prod", "turboquant_prod:bits=2", "turboquant_mse:bits=2"},
      {"turboquant_prod,bits=3,jl_dim=64", "turboquant_prod:bits=3,m=64", "turboquant_mse:bits=2"},
      {"qjl", "qjl:m=64", "turboquant_mse:bits=2"},
      {"qjl,sketch_dim=128,value_bits=3", "qjl:m=128", "turboquant_mse:bits=3"},
      {"qjl,jl_dim=256", "qjl:m=256", "turboquant_mse:bits=2"},
      {"polar", "polarquant:first=2,others=2", "turboquant_mse:bits=2"},
      {"polarquant,bits=4", "polarquant:first=4,others=4", "turboquant_mse:bits=2"},
      {"rabitq,bits=3,num_clusters=64", "rabitq:bits=3", "turboquant_mse:bits=2"},
      {"vecinfer", "vecinfer:bits=2", "vecinfer"},
      {"vecinfer,bits=2,num_subspaces=16,value_bits=16", "vecinfer:bits=2", "f16"},
      {"spectral,signal_bits=3,noise_bits=0", "spectral:signal=3,noise=0", "turboquant_mse:bits=2"},
      {"comm_vq,bits=2", "commvq:bits=2", "turboquant_mse:bits=2"},
      {"kivi", "kivi:bits=2,group=32", "kivi:bits=2,group=32"},
      {"kivi,bits=4,value_bits=16,kivi_group_size=64", "kivi:bits=4,group=64", "f16"},
      {"kivi,value_bits=4", "kivi:bits=2,group=32", "kivi:bits=4,group=32"},
      {"turboquant_mse,bits=2,n_outlier_channels=8,outlier_bits=16",
       "outlier:channels=8,hot=(f16),rest=(turboquant_mse:bits=2)", "turboquant_mse:bits=2"},
      // All published defaults, as a user would copy them.
      {"turboquant_mse,bits=1,value_bits=2,num_residuals=2,use_hadamard=True,codebook=None,smooth_factors=None,rotations=None,"
       "bit_allocation=None,outlier_observer=None,outlier_bits=8,sketch_dim=64,num_clusters=64,num_subspaces=None,"
       "use_fused_sdpa=True,signal_bits=4,noise_bits=1,seed=0",
       "turboquant_mse:bits=1", "turboquant_mse:bits=2"},
  };
  for (const auto& each : cases) {
    const std::string text = "method=" + std::string(each.text);
    ASSERT_TRUE(SaysMethod(text));
    EXPECT_EQ(SpecOf(text, Side::kKeys), each.keys) << text;
    EXPECT_EQ(SpecOf(text, Side::kValues), each.values) << text;
  }
  EXPECT_FALSE(SaysMethod("turboquant_mse:bits=4"));
}

TEST(SeedMethodsTest, WhatMeansNothingIsNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"ratekwant", "unknown method \"ratekwant\" (known: none, "},
      {"", "unknown method \"\""},
      {"qjl,bits=2", "bits=2 means nothing for method qjl"},
      {"turboquant_mse,sketch_dim=128", "sketch_dim=128 means nothing for method turboquant_mse"},
      {"rabitq,num_clusters=8", "num_clusters=8 means nothing for method rabitq"},
      {"turboquant_mse,outlier_bits=4", "outlier_bits=4 means nothing without n_outlier_channels"},
      {"turboquant_rvq,num_residuals=3", "num_residuals=3: residual codes have two stages"},
      {"vecinfer,num_subspaces=8", "num_subspaces=8: 64 numbers have 16 parts of four"},
      {"turboquant_mse,value_bits=9", "value_bits=9 is not one of"},
      {"turboquant_mse,use_hadamard=False", "use_hadamard=False: kvant always rotates"},
      {"vecinfer,codebook=words.npy", "codebook=words.npy: it comes in the artifact"},
      {"turboquant_mse,seed=3", "seed=3: rotations come from the model's identity"},
      {"ratequant,bit_allocation=(1)", "bit_allocation=(1): the bits of single layers are overrides"},
      {"qjl,nonsense=1", "unknown knob \"nonsense\""},
      {"qjl,sketch_dim", "sketch_dim has no value"},
      {"qjl,sketch_dim=128,sketch_dim=128", "sketch_dim is given twice"},
      {"qjl,sketch_dim=12x", "sketch_dim=12x is no number"},
      {"qjl,sketch_dim=99999999999", "sketch_dim=99999999999 is no number"},
      {"qjl,sketch_dim=-8", "sketch_dim=-8 is no number"},
      {"qjl,sketch_dim=128,", "nothing follows the last comma"},
      {"qjl,,sketch_dim=128", "unknown knob \"\""},
  };
  for (const auto& [text, message] : cases) {
    const std::string said =
        SpecOf("method=" + std::string(text), text == std::string("turboquant_mse,value_bits=9") ? Side::kValues : Side::kKeys);
    EXPECT_NE(said.find(message), std::string::npos) << text << ": " << said;
  }
}

TEST(SeedMethodsTest, MakePlans) {
  StoreSpec spec;
  spec.name = "methods";
  spec.model = "model";
  spec.tokenizer = "bytes";
  spec.layers = 2;
  spec.kv_heads = 2;
  spec.head_dim = 64;
  spec.plan.keys = spec.plan.values = "method=qjl,sketch_dim=128,value_bits=16";
  spec.plan.overrides = {{.first_layer = 1, .last_layer = 1, .keys = "method=kivi", .values = "method=kivi,value_bits=4"}};
  const Registry registry = Registry::Builtin();
  const auto plan = Plan::Make(registry, spec);
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ((*plan)->canonical(),
            "layer 0 keys qjl@1:m=128,sketch=orthogonal values f16@1\n"
            "layer 1 keys kivi@1:bits=2,group=32 values kivi@1:bits=4,group=32\n");
  EXPECT_LE((*plan)->memory_bytes(), PlanBytes(registry, spec));
  spec.plan.keys = "method=qjl,sketch_dim=100";
  const auto odd = Plan::Make(registry, spec);
  ASSERT_FALSE(odd);
  EXPECT_NE(odd.error().message.find("m=100 is not a multiple of 8"), std::string::npos) << odd.error().message;
  spec.plan.keys = "method=qjl,noise_bits=2";
  const auto meaningless = Plan::Make(registry, spec);
  ASSERT_FALSE(meaningless);
  EXPECT_EQ(meaningless.error().message, "store spec: plan.keys: plan text: noise_bits=2 means nothing for method qjl");
}

}  // namespace
}  // namespace kvant::quantizers
