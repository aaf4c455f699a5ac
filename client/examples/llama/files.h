// Whole files, and digests of them.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <kvant/result.h>

namespace kvant::examples {

/// The bytes of a file. kNotFound or kSystem name the path.
Result<std::vector<std::byte>> ReadFile(const std::string& path);

/// The same as text.
Result<std::string> ReadText(const std::string& path);

/// Writes a file anew. kSystem names the path.
Result<void> WriteFile(const std::string& path, std::span<const std::byte> bytes);

/// XXH3-128 in 32 hex digits.
std::string Digest(std::span<const std::byte> bytes);
std::string Digest(const std::string& text);

}  // namespace kvant::examples
