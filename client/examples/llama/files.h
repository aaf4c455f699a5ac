// Whole files, and digests of them.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <kvant/result.h>

namespace kvant::examples {

/// Prompts and texts to score: every byte is a token of eight bytes.
inline constexpr std::size_t kMaxTextBytes = std::size_t{64} << 20;

/// The bytes of a file, a pipe or a device: at most `max_bytes`, or kInvalidArgument, so that /dev/zero ends too. kNotFound or
/// kSystem name the path.
Result<std::vector<std::byte>> ReadFile(const std::string& path, std::size_t max_bytes);

/// The same as text.
Result<std::string> ReadText(const std::string& path, std::size_t max_bytes = kMaxTextBytes);

/// What stands on standard input until it ends, at most kMaxTextBytes.
Result<std::string> ReadStandardInput();

/// The bytes of a file of any size, which must be a regular one.
Result<std::vector<std::byte>> ReadWholeFile(const std::string& path);

/// Writes a file anew. kSystem names the path.
Result<void> WriteFile(const std::string& path, std::span<const std::byte> bytes);

/// XXH3-128 in 32 hex digits.
std::string Digest(std::span<const std::byte> bytes);
std::string Digest(const std::string& text);

}  // namespace kvant::examples
