#include "kernels/lloyd/table.h"

#include <cstdint>
#include <span>

namespace kvant::kernels {
namespace {

constexpr LloydTable MakeTableOf(std::uint32_t bits, float unit, std::span<const std::int16_t> magnitudes,
                                 std::uint32_t index_bits) {
  const std::size_t half = magnitudes.size();
  LloydTable table;
  table.bits = bits;
  table.unit = unit;
  for (std::size_t i = 0; i < half; ++i) table.magnitudes[i] = magnitudes[i];
  for (std::size_t i = 0; i + 1 < half; ++i) {
    const int sum = magnitudes[i] + magnitudes[i + 1];
    table.thresholds[i] = LloydHasWords(bits) ? static_cast<float>((sum + 1) / 2) : static_cast<float>(sum) * 0.5f;
  }
  if (LloydHasWords(bits)) {
    std::uint8_t index = 0;
    for (std::size_t z = 0; z < table.grid.size(); ++z) {
      while (index + 1u < half && static_cast<float>(z) >= table.thresholds[index]) ++index;
      table.grid[z] = index;
    }
    for (std::uint32_t i = 0; i < 256; ++i) table.centroids[i] = static_cast<std::int16_t>(table.Centroid(i >> (8 - bits)));
    table.index_bits = index_bits;
    for (std::uint32_t i = 0; i < 256; ++i) {
      const std::int16_t centroid = table.centroids[(i << (8 - index_bits)) & 0xFFu];
      table.low_bytes[i] = static_cast<std::uint8_t>(centroid & 0xFF);
      table.high_bytes[i] = static_cast<std::uint8_t>(centroid >> 8);
    }
  }
  if (bits <= 4) {
    for (std::uint32_t field = 0; field < 4 / bits; ++field) {
      for (std::uint32_t nibble = 0; nibble < 16; ++nibble) {
        const std::uint32_t index = (nibble >> (field * bits)) & ((1u << bits) - 1u);
        table.nibbles[field][nibble] = static_cast<std::int8_t>(table.Centroid(index));
      }
    }
    for (std::uint32_t field = 0; field < (bits == 3 ? 1 : 6 / bits); ++field) {
      for (std::uint32_t six = 0; six < 64; ++six) {
        const std::uint32_t index = (six >> (field * bits)) & ((1u << bits) - 1u);
        table.sixes[field][six] = static_cast<std::int8_t>(table.Centroid(index));
      }
    }
  }
  return table;
}

template <std::size_t kHalf>
constexpr LloydTable MakeTable(std::uint32_t bits, float unit, const std::int16_t (&magnitudes)[kHalf]) {
  return MakeTableOf(bits, unit, magnitudes, bits);
}

constexpr LloydTable kBits1 = MakeTable(1, 1.2533141f, {1});
constexpr LloydTable kBits2 = MakeTable(2, 6.6209829f, {3, 10});
constexpr LloydTable kBits3 = MakeTable(3, 40.906256f, {10, 31, 55, 88});
constexpr LloydTable kBits4 = MakeTable(4, 38.142989f, {5, 15, 25, 36, 48, 62, 79, 104});
constexpr LloydTable kBits5 =
    MakeTable(5, 445.0f, {29, 88, 147, 208, 269, 332, 398, 467, 539, 617, 701, 795, 903, 1031, 1198, 1451});
constexpr LloydTable kBits6 =
    MakeTable(6, 445.0f, {15,  45,  74,  104, 134, 165, 195, 226, 257, 289, 321,  354,  387,  421,  456,  492,
                          529, 568, 607, 649, 692, 738, 787, 838, 894, 955, 1023, 1100, 1189, 1298, 1442, 1666});
constexpr LloydTable kBits7 =
    MakeTable(7, 445.0f, {7,   22,  37,  52,  67,   83,   98,   113,  128,  143,  158,  174,  189,  205,  220,  236,
                          252, 267, 283, 299, 316,  332,  348,  365,  382,  399,  416,  434,  451,  469,  487,  506,
                          525, 544, 563, 583, 603,  623,  644,  666,  688,  711,  734,  758,  782,  808,  834,  862,
                          890, 920, 951, 984, 1019, 1056, 1096, 1139, 1185, 1237, 1295, 1360, 1438, 1534, 1662, 1864});
constexpr LloydTable kBits8 =
    MakeTable(8, 445.0f,
              {4,    11,   19,   26,   34,   41,   49,   56,   64,   71,   79,   87,   94,   102,  109,  117,  124,  132,  140,
               147,  155,  163,  170,  178,  186,  193,  201,  209,  217,  225,  232,  240,  248,  256,  264,  272,  280,  288,
               296,  304,  312,  321,  329,  337,  345,  354,  362,  370,  379,  387,  396,  405,  413,  422,  431,  439,  448,
               457,  466,  475,  484,  494,  503,  512,  522,  531,  541,  550,  560,  570,  580,  590,  600,  610,  620,  631,
               642,  652,  663,  674,  685,  696,  708,  719,  731,  743,  755,  767,  779,  792,  805,  818,  831,  845,  859,
               873,  887,  902,  917,  933,  949,  965,  981,  999,  1016, 1035, 1053, 1073, 1093, 1114, 1136, 1159, 1182, 1207,
               1234, 1262, 1291, 1323, 1357, 1394, 1435, 1480, 1531, 1589, 1659, 1745, 1861, 2046});

constexpr bool HasLargest(const LloydTable& table) {
  const int largest = table.magnitudes[table.half() - 1];
  return LloydHasWords(table.bits) ? largest <= LloydLargest(table.bits) : largest == LloydLargest(table.bits);
}
static_assert(HasLargest(kBits1) && HasLargest(kBits2) && HasLargest(kBits3) && HasLargest(kBits4) && HasLargest(kBits5) &&
              HasLargest(kBits6) && HasLargest(kBits7) && HasLargest(kBits8));
static_assert(kBits5.centroids[0] == -kBits5.centroids[255] && kBits5.centroids[7] == kBits5.centroids[0] &&
              kBits5.centroids[8] != kBits5.centroids[0] && kBits5.centroids[128] == kBits5.magnitudes[0]);
static_assert(kBits4.thresholds[0] == 10.0f && kBits4.thresholds[6] == 91.5f && kBits4.Centroid(0) == -104 &&
              kBits4.Centroid(7) == -5 && kBits4.Centroid(8) == 5 && kBits4.Centroid(15) == 104);
static_assert(kBits8.thresholds[0] == 8.0f && kBits8.grid[7] == 0 && kBits8.grid[8] == 1 && kBits8.grid[2047] == 127);

}  // namespace

const LloydTable* FindLloydTable(std::uint32_t bits) noexcept {
  switch (bits) {
    case 1: return &kBits1;
    case 2: return &kBits2;
    case 3: return &kBits3;
    case 4: return &kBits4;
    case 5: return &kBits5;
    case 6: return &kBits6;
    case 7: return &kBits7;
    case 8: return &kBits8;
    default: return nullptr;
  }
}

LloydTable MakeLloydTable(std::uint32_t bits, float unit, std::span<const std::int16_t> magnitudes) noexcept {
  return MakeTableOf(bits, unit, magnitudes, bits);
}

LloydTable MakeLloydTable(std::uint32_t bits, float unit, std::span<const std::int16_t> magnitudes,
                          std::uint32_t index_bits) noexcept {
  return MakeTableOf(bits, unit, magnitudes, index_bits);
}

}  // namespace kvant::kernels
