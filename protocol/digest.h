// 128-bit digests: store identities, the chain hash of prefixes, files. XXH3-128, the canonical (big-endian) byte order
// everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "protocol/segment_layout.h"

namespace kvant::protocol {

Digest DigestOf(std::span<const std::byte> bytes);
Digest DigestOf(std::string_view text);

/// Digest of `parent` followed by the token ids as little-endian u32: names a block by all tokens up to its end. The parent of
/// the first block is the identity digest, so chains of different stores differ. XXH3 resists accidents, not attackers: whoever
/// looks a chain up must compare parent and tokens.
Digest ChainDigest(const Digest& parent, std::span<const std::uint32_t> tokens);

/// 32 lower-case hexadecimal digits.
std::string DigestHex(const Digest& digest);
/// What DigestHex printed; nothing for any other text.
std::optional<Digest> ParseDigest(std::string_view hex) noexcept;

}  // namespace kvant::protocol
