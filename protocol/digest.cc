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

Digest DigestOf(std::string_view bytes) { return Canonical(XXH3_128bits(bytes.data(), bytes.size())); }

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

}  // namespace kvant::protocol
