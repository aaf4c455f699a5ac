// Encoded bytes are stored and shared: if a digest changes, the codec needs a new version.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "quantizers/random_numbers.h"
#include "tests/quantizers/turboquant_mse_fixture.h"

namespace kvant::quantizers {
namespace {

/// FNV-1a of a block of rows that are the same on every machine.
std::uint64_t BlockDigest(const BlockCodec& codec, std::uint32_t dim) {
  std::vector<float> rows(128 * dim);
  std::uint64_t state = 7;
  for (float& v : rows) v = NextNormal(state);
  AlignedBytes block(codec.block_bytes());
  EncodeBlock(codec, 0, 0, RowsOf(rows, dim), block.data()).value();
  std::uint64_t digest = 0xCBF29CE484222325u;
  for (std::size_t i = 0; i < codec.block_bytes(); ++i) {
    digest = (digest ^ std::to_integer<std::uint64_t>(block.data()[i])) * 0x100000001B3u;
  }
  return digest;
}

TEST(StoredBytesTest, AreThoseOfTheirVersions) {
  const struct {
    const char* spec;
    std::uint32_t dim;
    std::uint64_t digest;
  } cases[] = {
      {"turboquant_rvq@1:bits=1", 80, 0xCB538F22F8DF9E55u},
      {"turboquant_rvq@1:bits=1", 128, 0xF427581F73D66B87u},
      {"turboquant_rvq@1:bits=2,velox_sigma=1", 80, 0x03C8F8751041F6BAu},
      {"turboquant_rvq@1:bits=2,velox_sigma=1", 128, 0xB11595945E2C658Fu},
      {"rabitq@1:bits=1", 80, 0x0FAA0C14A5C536B7u},
      {"rabitq@1:bits=1", 128, 0x0942BA5FF2244F63u},
      {"rabitq@1:bits=4,bound=1", 80, 0x9946C9A86A71DBDAu},
      {"rabitq@1:bits=4,bound=1", 128, 0xC931335FAF740A0Fu},
      {"qjl@1", 80, 0xD82859359B054EACu},
      {"qjl@1", 128, 0xF915BD6CD81BEE94u},
      {"qjl@1:m=64,sketch=gaussian", 80, 0x8FFB71D8A029D3C0u},
      {"qjl@1:m=64,sketch=gaussian", 128, 0xEDA70054971CAE90u},
      {"turboquant_prod@1:bits=4", 80, 0x5E74CFFEDC0FDF2Du},
      {"turboquant_prod@1:bits=4", 128, 0x92057595E59A0D34u},
      {"turboquant_prod@1:bits=2,m=64,sketch=gaussian", 80, 0xC6E84204D0A9909Bu},
      {"turboquant_prod@1:bits=2,m=64,sketch=gaussian", 128, 0xB2F0B5226054B347u},
      {"turboquant_tcq@1:bits=1,gauge=none", 96, 0x3029A1062E811795u},
      {"turboquant_tcq@1:bits=2,gauge=none", 80, 0xD4AFEE201CCE4B22u},
      {"turboquant_tcq@1:bits=3,gauge=none", 64, 0x4D51E03896685E7Fu},
      {"turboquant_tcq@1:bits=3,gauge=none", 128, 0x265A10A5E2A1228Fu},
      {"turboquant_tcq@1:bits=4,gauge=none", 128, 0x5C7B40A3EC9AED99u},
  };
  for (const auto& each : cases) {
    const auto keys = TurboQuant{.spec = each.spec, .head_dim = each.dim}.Keys();
    EXPECT_EQ(BlockDigest(*keys, each.dim), each.digest) << each.spec << " " << each.dim;
  }
}

TEST(StoredBytesTest, AreThoseOfTheirVersionsForValues) {
  const struct {
    const char* spec;
    std::uint32_t dim;
    std::uint64_t digest;
  } cases[] = {
      {"turboquant_tcq@1:bits=1", 80, 0x2BF8988C9717C070u},
      {"turboquant_tcq@1:bits=2", 128, 0xC879132150D38923u},
      {"turboquant_tcq@1:bits=3", 64, 0xF44C25A5F2F5C068u},
      {"turboquant_tcq@1:bits=4", 96, 0x2AFF952C2E25621Du},
  };
  for (const auto& each : cases) {
    const auto values = TurboQuant{.spec = each.spec, .head_dim = each.dim}.Values();
    EXPECT_EQ(BlockDigest(*values, each.dim), each.digest) << each.spec << " " << each.dim;
  }
}

}  // namespace
}  // namespace kvant::quantizers
