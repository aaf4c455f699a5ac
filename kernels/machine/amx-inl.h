// Tile registers of AMX: 0 to 3 hold sums (rows of 16 words), 4 and 5 left factors (rows of 64 bytes), 6 and 7 right ones (16
// rows of 64 bytes). Word j of row i of a product is the sum over r < 16 of the four products of left[i][4 r ..] with
// right[r][4 j ..]: a right factor is 16 of our vectors of codes. In assembly: g++ 12's intrinsics do not tell the compiler
// that they touch memory. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_AMX_INL_H_
#undef KVANT_KERNELS_AMX_INL_H_
#else
#define KVANT_KERNELS_AMX_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/machine/amx.h"
#include "kernels/machine/amx_state.h"

#if HWY_TARGET == HWY_AVX3_DL

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {

inline constexpr std::size_t kTileRows = 16;
inline constexpr std::size_t kTileRowBytes = 64;
inline constexpr std::size_t kTileBytes = kTileRows * kTileRowBytes;

/// A kernel's use of the thread's tile registers, all of 16 rows of 64 bytes; for as long as it lives.
class Tiles {
 public:
  HWY_INLINE Tiles() {
    if (tile_state.ready) return;
    Config config;
    std::fill_n(config.row_bytes, 8, static_cast<std::uint16_t>(kTileRowBytes));
    std::fill_n(config.rows, 8, static_cast<std::uint8_t>(kTileRows));
    asm volatile("ldtilecfg %0" : : "m"(config));
    tile_state.ready = true;
  }

  template <int kTile>
  static HWY_INLINE void Zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  static HWY_INLINE void Load(const void* from, std::size_t row_stride) {
    asm volatile("tileloadd (%1,%2,1),%%tmm%c0" : : "i"(kTile), "r"(from), "r"(row_stride) : "memory");
  }
  template <int kTile>
  static HWY_INLINE void Store(std::int32_t* to) {
    asm volatile("tilestored %%tmm%c0,(%1,%2,1)" : : "i"(kTile), "r"(to), "r"(kTileRowBytes) : "memory");
  }
  /// kSum += signed bytes of kLeft x signed bytes of kRight.
  template <int kSum, int kLeft, int kRight>
  static HWY_INLINE void DotSigned() {
    asm volatile("tdpbssd %%tmm%c2,%%tmm%c1,%%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
  }
  /// kSum += signed bytes of kLeft x unsigned bytes of kRight.
  template <int kSum, int kLeft, int kRight>
  static HWY_INLINE void DotSignedUnsigned() {
    asm volatile("tdpbsud %%tmm%c2,%%tmm%c1,%%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
  }
  /// kSum += unsigned bytes of kLeft x signed bytes of kRight.
  template <int kSum, int kLeft, int kRight>
  static HWY_INLINE void DotUnsigned() {
    asm volatile("tdpbusd %%tmm%c2,%%tmm%c1,%%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
  }

 private:
  TileScope scope_;
  struct alignas(64) Config {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
  };
};

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // HWY_AVX3_DL
#endif  // toggle
