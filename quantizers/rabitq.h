// The error bound of RaBitQ codes (codecs/rabitq.cc with bound=1), for who filters tokens before scoring them exactly.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvant::quantizers {

/// The error factor f of a token: an estimate of <q, k> is off by more than eps * |q| * f with the probability that a normal
/// number exceeds eps, both signs counted: 5.7 % at eps = 1.9, 0.27 % at 3, 0.006 % at 4 (Gao and Long, arXiv 2405.12497,
/// theorem 3.2, with the distribution that the rotated code's error has). It holds over rotations; a filter that must not lose
/// a token should take 3 or more. Rounding of the query to 8 bits adds a relative 2 % to it at most. `block` is the block's
/// only part, as encoded with bound=1.
[[nodiscard]] float RabitqErrorFactor(const std::byte* block, std::uint32_t bits, std::size_t head_dim,
                                      std::size_t block_tokens, std::size_t token) noexcept;

}  // namespace kvant::quantizers
