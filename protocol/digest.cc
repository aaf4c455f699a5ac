#include "protocol/digest.h"

#include <bit>
#include <cstring>
#include <vector>

#include <xxhash.h>

namespace kvant::protocol {
namespace {

static_assert(std::endian::native == std::endian::little, "token ids are hashed and stored as they lie in memory");

Digest Canonical(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  Digest digest;
  static_assert(sizeof digest == sizeof canonical.digest);
  std::memcpy(digest.data(), canonical.digest, sizeof digest);
  return digest;
}

}  // namespace

Digest DigestOf(std::span<const std::byte> bytes) { return Canonical(XXH3_128bits(bytes.data(), bytes.size())); }

Digest DigestOf(std::string_view text) { return DigestOf(std::as_bytes(std::span(text))); }

Digest ChainDigest(const Digest& parent, std::span<const std::uint32_t> tokens) {
  std::vector<unsigned char> text(parent.size() + tokens.size_bytes());
  std::memcpy(text.data(), parent.data(), parent.size());
  if (!tokens.empty()) std::memcpy(text.data() + parent.size(), tokens.data(), tokens.size_bytes());
  return Canonical(XXH3_128bits(text.data(), text.size()));
}

std::string DigestHex(const Digest& digest) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * digest.size());
  for (const std::uint8_t byte : digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::optional<Digest> ParseDigest(std::string_view hex) noexcept {
  Digest digest{};
  if (hex.size() != 2 * digest.size()) return std::nullopt;
  for (std::size_t i = 0; i < hex.size(); ++i) {
    const char c = hex[i];
    const int nibble = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (nibble < 0) return std::nullopt;
    digest[i / 2] = static_cast<std::uint8_t>(digest[i / 2] * 16 + nibble);
  }
  return digest;
}

}  // namespace kvant::protocol
