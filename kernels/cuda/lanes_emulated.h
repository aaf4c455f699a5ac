// Lanes of a warp as an array: what lanes_on_device.h says, emulated (lanes.h).
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <kvant/tensor.h>

#include "kernels/raw/rows.h"

namespace kvant::kernels::cuda {
inline namespace KVANT_LANES {
template <class T>
struct Lanes {
  T lane[kWarpLanes];

  Lanes() = default;
  Lanes(T same) {  // NOLINT(google-explicit-constructor): what is the same for all lanes mixes with what is not
    for (T& each : lane) each = same;
  }
  template <class Of>
  static Lanes Each(const Of& of) {
    Lanes all;
    for (int i = 0; i < kWarpLanes; ++i) all.lane[i] = of(i);
    return all;
  }

  friend Lanes operator+(const Lanes& a, const Lanes& b) {
    return Each([&](int i) { return static_cast<T>(a.lane[i] + b.lane[i]); });
  }
  friend Lanes operator-(const Lanes& a, const Lanes& b) {
    return Each([&](int i) { return static_cast<T>(a.lane[i] - b.lane[i]); });
  }
  friend Lanes operator*(const Lanes& a, const Lanes& b) {
    return Each([&](int i) { return static_cast<T>(a.lane[i] * b.lane[i]); });
  }
  friend Lanes operator/(const Lanes& a, const Lanes& b) {
    return Each([&](int i) { return static_cast<T>(a.lane[i] / b.lane[i]); });
  }
  friend Lanes operator%(const Lanes& a, const Lanes& b) {
    return Each([&](int i) { return static_cast<T>(a.lane[i] % b.lane[i]); });
  }
  friend Lanes operator&(const Lanes& a, const Lanes& b) {
    return Each([&](int i) { return static_cast<T>(a.lane[i] & b.lane[i]); });
  }
  friend Lanes operator|(const Lanes& a, const Lanes& b) {
    return Each([&](int i) { return static_cast<T>(a.lane[i] | b.lane[i]); });
  }
  friend Lanes operator^(const Lanes& a, const Lanes& b) {
    return Each([&](int i) { return static_cast<T>(a.lane[i] ^ b.lane[i]); });
  }
  friend Lanes operator<<(const Lanes& a, const Lanes<int>& by) {
    return Each([&](int i) { return static_cast<T>(a.lane[i] << by.lane[i]); });
  }
  friend Lanes operator>>(const Lanes& a, const Lanes<int>& by) {
    return Each([&](int i) { return static_cast<T>(a.lane[i] >> by.lane[i]); });
  }
  friend Lanes operator-(const Lanes& a) {
    return Each([&](int i) { return static_cast<T>(-a.lane[i]); });
  }
  friend Lanes<bool> operator<(const Lanes& a, const Lanes& b) {
    return Lanes<bool>::Each([&](int i) { return a.lane[i] < b.lane[i]; });
  }
  friend Lanes<bool> operator>=(const Lanes& a, const Lanes& b) {
    return Lanes<bool>::Each([&](int i) { return a.lane[i] >= b.lane[i]; });
  }
  friend Lanes<bool> operator==(const Lanes& a, const Lanes& b) {
    return Lanes<bool>::Each([&](int i) { return a.lane[i] == b.lane[i]; });
  }
  friend Lanes<bool> operator!=(const Lanes& a, const Lanes& b) {
    return Lanes<bool>::Each([&](int i) { return a.lane[i] != b.lane[i]; });
  }
  Lanes& operator+=(const Lanes& b) { return *this = *this + b; }
  Lanes& operator*=(const Lanes& b) { return *this = *this * b; }
  Lanes& operator|=(const Lanes& b) { return *this = *this | b; }
};

inline Lanes<int> LaneIndex() {
  return Lanes<int>::Each([](int i) { return i; });
}
inline Lanes<bool> operator!(const Lanes<bool>& a) {
  return Lanes<bool>::Each([&](int i) { return !a.lane[i]; });
}
template <class T>
Lanes<T> Select(const Lanes<bool>& condition, const Lanes<T>& yes, const std::type_identity_t<Lanes<T>>& no) {
  return Lanes<T>::Each([&](int i) { return condition.lane[i] ? yes.lane[i] : no.lane[i]; });
}
/// `of` of each lane's numbers.
template <class Of, class T, class... More>
auto EachLane(const Of& of, const Lanes<T>& a, const Lanes<More>&... more) {
  return Lanes<decltype(of(a.lane[0], more.lane[0]...))>::Each([&](int i) { return of(a.lane[i], more.lane[i]...); });
}
inline Lanes<float> AsFloat(const Lanes<std::uint32_t>& bits) {
  return EachLane([](std::uint32_t x) { return std::bit_cast<float>(x); }, bits);
}
inline Lanes<std::uint32_t> AsBits(const Lanes<float>& x) {
  return EachLane([](float f) { return std::bit_cast<std::uint32_t>(f); }, x);
}
template <class To, class T>
Lanes<To> Convert(const Lanes<T>& x) {
  return EachLane([](T y) { return static_cast<To>(y); }, x);
}
inline Lanes<std::int32_t> ToInt(const Lanes<float>& x) {
  return EachLane([](float f) { return static_cast<std::int32_t>(std::nearbyint(f)); }, x);
}
inline Lanes<float> Fma(const Lanes<float>& a, const Lanes<float>& b, const Lanes<float>& c) {
  return EachLane([](float x, float y, float z) { return std::fma(x, y, z); }, a, b, c);
}
template <class T>
Lanes<T> Largest(const Lanes<T>& a, const std::type_identity_t<Lanes<T>>& b) {
  return EachLane([](T x, T y) { return x < y ? y : x; }, a, b);
}
template <class T>
Lanes<T> Magnitude(const Lanes<T>& x) {
  return EachLane([](T y) { return static_cast<T>(std::abs(y)); }, x);
}
inline Lanes<float> Root(const Lanes<float>& x) {
  return EachLane([](float y) { return std::sqrt(y); }, x);
}
inline Lanes<float> Exp2(const Lanes<float>& x) {
  return EachLane([](float y) { return std::exp2(y); }, x);
}
inline Lanes<float> Quotient(const Lanes<float>& a, const Lanes<float>& b) { return a / b; }
inline Lanes<float> HalfToFloat(const Lanes<std::uint32_t>& bits) {
  return EachLane(
      [](std::uint32_t half) {
        float x;
        LoadRow(&half, ElementType::kF16, 1, &x);  // its lower half, on a little-endian machine
        return x;
      },
      bits);
}
inline Lanes<float> Log(const Lanes<float>& x) {
  return EachLane([](float y) { return std::log(y); }, x);
}
inline float Uniform(const Lanes<float>& x) { return x.lane[0]; }
inline float LargerOf(float a, float b) { return a < b ? b : a; }
inline float ExpOf(float x) { return std::exp(x); }

inline Lanes<std::uint32_t> Permute(const Lanes<std::uint32_t>& a, const Lanes<std::uint32_t>& b,
                                    const Lanes<std::uint32_t>& choice) {
  return EachLane(
      [](std::uint32_t x, std::uint32_t y, std::uint32_t names) {
        const std::uint64_t bytes = static_cast<std::uint64_t>(y) << 32 | x;
        std::uint32_t out = 0;
        for (int i = 0; i < 4; ++i) {
          const std::uint32_t name = names >> (4 * i) & 15u;
          std::uint32_t byte = static_cast<std::uint32_t>(bytes >> (8 * (name & 7u))) & 255u;
          if ((name & 8u) != 0) byte = (byte & 128u) != 0 ? 255u : 0u;
          out |= byte << (8 * i);
        }
        return out;
      },
      a, b, choice);
}
template <class T>
Lanes<T> ShuffleXor(const Lanes<T>& x, int mask) {
  return Lanes<T>::Each([&](int i) { return x.lane[i ^ mask]; });
}
template <class T>
Lanes<T> FromLane(const Lanes<T>& x, const Lanes<int>& from) {
  return Lanes<T>::Each([&](int i) { return x.lane[from.lane[i]]; });
}
inline bool Any(const Lanes<bool>& x) {
  bool any = false;
  for (const bool each : x.lane) any |= each;
  return any;
}
inline void SyncWarp() {}

template <class T>
Lanes<T> Get(const T* array, const Lanes<int>& index) {
  return Lanes<T>::Each([&](int i) { return array[index.lane[i]]; });
}
template <class T>
void Put(T* array, const Lanes<int>& index, const std::type_identity_t<Lanes<T>>& value) {
  for (int i = 0; i < kWarpLanes; ++i) array[index.lane[i]] = value.lane[i];
}
template <class T>
void PutIf(const Lanes<bool>& condition, T* array, const Lanes<int>& index, const std::type_identity_t<Lanes<T>>& value) {
  for (int i = 0; i < kWarpLanes; ++i) {
    if (condition.lane[i]) array[index.lane[i]] = value.lane[i];
  }
}
inline Lanes<float> GetShared(const float* array, const Lanes<int>& index) { return Get(array, index); }
inline void PutShared(float* array, const Lanes<int>& index, const Lanes<float>& value) { Put(array, index, value); }
template <int kCount>
void GetSharedRun(const float* array, const Lanes<int>& index, Lanes<float> (&run)[kCount]) {
  for (int i = 0; i < kCount; ++i) run[i] = Get(array, index + i);
}
template <int kCount>
void PutSharedRun(float* array, const Lanes<int>& index, const Lanes<float> (&run)[kCount]) {
  for (int i = 0; i < kCount; ++i) Put(array, index + i, run[i]);
}

struct Quad {
  Lanes<std::uint32_t> word[4];
};
struct Pair {
  Lanes<std::uint32_t> word[2];
};

template <class To>
To LoadWords(const std::uint8_t* base, const Lanes<int>& offset) {
  To v;
  for (int i = 0; i < kWarpLanes; ++i) {
    std::size_t w = 0;
    for (auto& word : v.word) std::memcpy(&word.lane[i], base + offset.lane[i] + 4 * w++, 4);
  }
  return v;
}
inline Quad Load16(const std::uint8_t* base, const Lanes<int>& offset) { return LoadWords<Quad>(base, offset); }
inline Pair Load8(const std::uint8_t* base, const Lanes<int>& offset) { return LoadWords<Pair>(base, offset); }
inline Lanes<std::uint32_t> Load4(const std::uint8_t* base, const Lanes<int>& offset) {
  return Lanes<std::uint32_t>::Each([&](int i) {
    std::uint32_t word;
    std::memcpy(&word, base + offset.lane[i], 4);
    return word;
  });
}

inline Quad GetQuad(const std::uint8_t* base, const Lanes<int>& offset) { return LoadWords<Quad>(base, offset); }
inline Pair GetPair(const std::uint8_t* base, const Lanes<int>& offset) { return LoadWords<Pair>(base, offset); }

inline Lanes<float> LoadElement(const void* array, ElementType type, const Lanes<std::int64_t>& index) {
  return EachLane(
      [&](std::int64_t i) {
        const auto* at = static_cast<const std::byte*>(array) + static_cast<std::size_t>(i) * ElementBytes(type);
        float x;
        LoadRow(at, type, 1, &x);
        return x;
      },
      index);
}
inline void StoreElement(void* array, ElementType type, const Lanes<std::int64_t>& index, const Lanes<float>& value) {
  for (int i = 0; i < kWarpLanes; ++i) {
    StoreRow(&value.lane[i], 1, type,
             static_cast<std::byte*>(array) + static_cast<std::size_t>(index.lane[i]) * ElementBytes(type));
  }
}

using Sums = Lanes<std::int32_t>[4];

/// `number(byte)`: what a byte of B stands for.
template <class Number>
void Multiply(Sums& c, const Lanes<std::uint32_t> (&a)[4], const Lanes<std::uint32_t>& b0, const Lanes<std::uint32_t>& b1,
              const Number& number) {
  int left[16][32], right[32][8];
  for (int i = 0; i < kWarpLanes; ++i) {
    const int g = i / 4, t = i % 4;
    for (int j = 0; j < 4; ++j) {
      for (int w = 0; w < 4; ++w) {
        left[g + 8 * (w % 2)][16 * (w / 2) + 4 * t + j] = static_cast<std::int8_t>(a[w].lane[i] >> (8 * j) & 255u);
      }
      right[4 * t + j][g] = number(static_cast<std::uint8_t>(b0.lane[i] >> (8 * j) & 255u));
      right[16 + 4 * t + j][g] = number(static_cast<std::uint8_t>(b1.lane[i] >> (8 * j) & 255u));
    }
  }
  for (int i = 0; i < kWarpLanes; ++i) {
    for (int w = 0; w < 4; ++w) {
      const int row = i / 4 + 8 * (w / 2), column = 2 * (i % 4) + w % 2;
      for (int k = 0; k < 32; ++k) c[w].lane[i] += left[row][k] * right[k][column];
    }
  }
}
inline void MultiplySigned(Sums& c, const Lanes<std::uint32_t> (&a)[4], const Lanes<std::uint32_t>& b0,
                           const Lanes<std::uint32_t>& b1) {
  Multiply(c, a, b0, b1, [](std::uint8_t byte) { return static_cast<int>(static_cast<std::int8_t>(byte)); });
}
inline void MultiplyUnsigned(Sums& c, const Lanes<std::uint32_t> (&a)[4], const Lanes<std::uint32_t>& b0,
                             const Lanes<std::uint32_t>& b1) {
  Multiply(c, a, b0, b1, [](std::uint8_t byte) { return static_cast<int>(byte); });
}

}  // namespace KVANT_LANES
}  // namespace kvant::kernels::cuda
