// The eviction policies that a daemon can be told to use.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

namespace kvant {

/// Which of the blocks that nobody holds goes first when room is needed.
enum class EvictionKind : std::uint8_t {
  kLru,     ///< the one that was used longest ago
  kLfu,     ///< the one that was found least often; what was found often long ago ages
  kS3Fifo,  ///< new blocks that nobody found again, then the oldest (S3-FIFO: Yang et al., SOSP 2023)
  kNone,    ///< none: appends find the store full
};

inline constexpr std::array<std::pair<std::string_view, EvictionKind>, 4> kEvictionKinds{{{"lru", EvictionKind::kLru},
                                                                                          {"lfu", EvictionKind::kLfu},
                                                                                          {"s3fifo", EvictionKind::kS3Fifo},
                                                                                          {"none", EvictionKind::kNone}}};

}  // namespace kvant
