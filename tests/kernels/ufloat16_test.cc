#include "kernels/ufloat16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

namespace kvant::kernels {
namespace {

/// The format's definition: 6 exponent bits, bias 31, 10 mantissa bits, exponent 0 without the leading one.
double Definition(std::uint32_t bits) {
  const int exponent = static_cast<int>(bits >> 10);
  const double mantissa = bits & 1023u;
  return exponent == 0 ? std::ldexp(mantissa, -40) : std::ldexp(1024.0 + mantissa, exponent - 41);
}

TEST(Ufloat16Test, EveryPatternIsTheDefinedNumber) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    ASSERT_EQ(Ufloat16ToFloat(static_cast<std::uint16_t>(bits)), Definition(bits)) << bits;
  }
  EXPECT_EQ(Ufloat16ToFloat(0xFFFF), kUfloat16Max);
}

TEST(Ufloat16Test, StoredNumbersComeBack) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    ASSERT_EQ(FloatToUfloat16(Ufloat16ToFloat(static_cast<std::uint16_t>(bits))), bits);
  }
}

TEST(Ufloat16Test, RoundsToNearestWithTiesToEven) {
  for (std::uint32_t bits = 0; bits < 0xFFFF; ++bits) {
    const double low = Definition(bits), high = Definition(bits + 1);
    const auto middle = static_cast<float>(0.5 * (low + high));
    ASSERT_EQ(FloatToUfloat16(middle), bits % 2 == 0 ? bits : bits + 1) << bits;
    if (bits < 1024) continue;  // below 2^-30 the float passes through a denormal: nearly a tie may round as one
    ASSERT_EQ(FloatToUfloat16(std::nextafter(middle, 0.0f)), bits);
    ASSERT_EQ(FloatToUfloat16(std::nextafter(middle, 1e30f)), bits + 1);
  }
}

TEST(Ufloat16Test, OverflowBeginsHalfAStepBeyondTheLargest) {
  EXPECT_EQ(FloatToUfloat16(std::nextafter(kUfloat16Overflow, 0.0f)), 0xFFFF);
  EXPECT_EQ(kUfloat16Overflow - kUfloat16Max, 0.5f * 4194304.0f);
}

}  // namespace
}  // namespace kvant::kernels
