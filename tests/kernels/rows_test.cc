#include "kernels/raw/rows.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <hwy/tests/hwy_gtest.h>

#include "kernels/raw/reference/rows.h"

namespace kvant::kernels {
namespace {

class RowsTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(RowsTest);

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST_P(RowsTest, LoadsEveryHalfAndBrain) {
  std::vector<std::uint16_t> all(65536);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  for (const ElementType type : {ElementType::kF16, ElementType::kBF16}) {
    std::vector<float> floats(all.size());
    LoadRow(all.data(), type, all.size(), floats.data());
    for (std::size_t i = 0; i < all.size(); ++i) {
      const double expected = reference::ElementAt(all.data(), type, i);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(floats[i])) << i;
      } else {
        ASSERT_EQ(floats[i], expected) << ElementTypeName(type) << " " << i;
        ASSERT_EQ(std::signbit(floats[i]), std::signbit(expected)) << i;
      }
    }
  }
}

TEST_P(RowsTest, StoreRoundsToNearestEven) {
  std::vector<float> numbers = {0.0f,
                                -0.0f,
                                1.0f,
                                kInfinity,
                                -kInfinity,
                                kNaN,
                                65504.0f,
                                65519.996f,
                                65520.0f,
                                65536.0f,
                                1e-8f,
                                2.98e-8f,
                                2.9802322e-8f,
                                2.9802326e-8f,
                                5.96e-8f,
                                6.1e-5f,
                                6.1035156e-5f,
                                1e-42f,
                                3.4e38f,
                                3.3961775e38f,
                                std::numeric_limits<float>::max(),
                                -std::numeric_limits<float>::min()};
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    const auto bits = static_cast<std::uint32_t>(random());
    numbers.push_back(std::bit_cast<float>(bits));
    // Ties: halfway between two f16, and between two bf16.
    numbers.push_back(std::bit_cast<float>((bits & 0xffffe000u) | 0x1000u));
    numbers.push_back(std::bit_cast<float>((bits & 0xffff0000u) | 0x8000u));
    numbers.push_back(std::ldexp(static_cast<float>(random() % 8192), -26));  // f16 subnormals and their ties
  }
  for (const ElementType type : {ElementType::kF16, ElementType::kBF16}) {
    const int mantissa = type == ElementType::kF16 ? 10 : 7;
    std::vector<std::uint16_t> stored(numbers.size());
    StoreRow(numbers.data(), numbers.size(), type, stored.data());
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (std::isnan(numbers[i])) {
        ASSERT_TRUE(std::isnan(reference::NumberOf(stored[i], mantissa))) << numbers[i];
        if (type == ElementType::kF16) {
          ASSERT_EQ(stored[i] & 0x7fff, 0x7e00);  // whatever the payload, on every target
        }
      } else {
        ASSERT_EQ(stored[i], reference::BitsOf(numbers[i], mantissa)) << ElementTypeName(type) << " " << numbers[i];
      }
    }
  }
}

TEST_P(RowsTest, AnyLengthAndNothingBeyond) {
  for (const ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBF16}) {
    for (const std::size_t n : {0, 1, 3, 7, 8, 9, 15, 16, 17, 33, 1000}) {
      std::vector<float> numbers(n + 1, kNaN);
      for (std::size_t i = 0; i < n; ++i) numbers[i] = static_cast<float>(i % 100) - 50.0f;
      std::vector<std::byte> stored((n + 2) * ElementBytes(type), std::byte{0x11});
      std::byte* unaligned = stored.data() + ElementBytes(type);
      StoreRow(numbers.data(), n, type, unaligned);
      EXPECT_EQ(stored.back(), std::byte{0x11});
      std::vector<float> loaded(n + 1, 5.0f);
      const float largest = LoadRow(unaligned, type, n, loaded.data());
      EXPECT_EQ(loaded[n], 5.0f);
      EXPECT_TRUE(std::equal(loaded.begin(), loaded.end() - 1, numbers.begin()));
      EXPECT_EQ(largest, n == 0 ? 0.0f : 50.0f);
    }
  }
}

TEST_P(RowsTest, CopyIsLoadAndStore) {
  constexpr ElementType kTypes[] = {ElementType::kF32, ElementType::kF16, ElementType::kBF16};
  std::mt19937 random(2);
  for (const ElementType from : kTypes) {
    for (const ElementType to : kTypes) {
      for (const std::size_t n : {0, 1, 7, 16, 40, 128, 513, 1100}) {
        for (const float bad : {1.0f, kNaN, -kInfinity, 1e20f}) {
          std::vector<float> numbers(n);
          for (float& x : numbers) x = static_cast<float>(random() % 1000) - 700.0f;
          if (n != 0) numbers[random() % n] = bad;
          const std::size_t bytes = n * ElementBytes(to);
          std::vector<std::byte> source(n * ElementBytes(from)), copy(bytes + 1, std::byte{0x33}), expected(bytes);
          StoreRow(numbers.data(), n, from, source.data());
          const float largest = LoadRow(source.data(), from, n, numbers.data());
          StoreRow(numbers.data(), n, to, expected.data());
          const float copied = CopyRow(source.data(), from, n, to, copy.data());
          ASSERT_EQ(copy.back(), std::byte{0x33});
          if (!std::isfinite(largest)) {
            ASSERT_FALSE(std::isfinite(copied)) << ElementTypeName(from) << " to " << ElementTypeName(to) << " " << n;
            continue;
          }
          ASSERT_EQ(copied, largest);
          copy.pop_back();
          ASSERT_EQ(copy, expected) << ElementTypeName(from) << " to " << ElementTypeName(to) << " " << n;
        }
      }
    }
  }
}

TEST_P(RowsTest, LargestTellsWhatIsNotFinite) {
  for (const ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBF16}) {
    for (const float bad : {kNaN, kInfinity, -kInfinity}) {
      for (std::size_t at = 0; at < 41; ++at) {
        std::vector<float> numbers(41, -3.0f);
        numbers[at] = bad;
        std::vector<std::byte> stored(numbers.size() * ElementBytes(type));
        StoreRow(numbers.data(), numbers.size(), type, stored.data());
        std::vector<float> loaded(numbers.size());
        const float largest = LoadRow(stored.data(), type, numbers.size(), loaded.data());
        EXPECT_FALSE(largest <= std::numeric_limits<float>::max()) << at;
      }
    }
  }
}

TEST_P(RowsTest, LargestStorableIsTheLast) {
  for (const ElementType type : {ElementType::kF16, ElementType::kBF16}) {
    const float numbers[] = {LargestStorable(type), std::nextafter(LargestStorable(type), kInfinity)};
    std::uint16_t stored[2];
    StoreRow(numbers, 2, type, stored);
    const int mantissa = type == ElementType::kF16 ? 10 : 7;
    EXPECT_TRUE(std::isfinite(reference::NumberOf(stored[0], mantissa)));
    EXPECT_TRUE(std::isinf(reference::NumberOf(stored[1], mantissa)));
  }
}

}  // namespace
}  // namespace kvant::kernels
