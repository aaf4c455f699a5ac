// Fields of a JSON object, checked while they are read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <kvant/result.h>
#include <nlohmann/json.hpp>

namespace kvant::examples {

/// Reads fields and keeps the first complaint, so that the caller reads all of them and asks once. null counts as absent. A
/// field without a fallback must be there. What cannot be read is answered by some valid value.
class FieldReader {
 public:
  /// `object` and `error` outlive the reader; `prefix` stands before field names in complaints ("rope_parameters.").
  FieldReader(const nlohmann::json& object, std::string prefix, std::optional<Error>& error)
      : object_(object), prefix_(std::move(prefix)), error_(error) {}

  /// The field's value, or null if it is absent or null itself.
  [[nodiscard]] const nlohmann::json* Find(const char* name) const;
  [[nodiscard]] bool Has(const char* name) const { return Find(name) != nullptr; }

  std::size_t Size(const char* name, std::size_t at_most, std::optional<std::size_t> fallback = std::nullopt);
  double Positive(const char* name, std::optional<double> fallback = std::nullopt);
  bool Flag(const char* name, bool fallback);
  /// At most `at_most` numbers.
  std::vector<double> Numbers(const char* name, std::size_t at_most);
  /// A token id, or the first of a list of them; -1 if there is none.
  std::int64_t Token(const char* name);

  void Invalid(const std::string& name, const std::string& what);
  void Unsupported(const std::string& name, const nlohmann::json& value, const std::string& wanted);

 private:
  void Complain(ErrorCode code, const std::string& name, const std::string& what);
  const nlohmann::json& object_;
  std::string prefix_;
  std::optional<Error>& error_;
};

}  // namespace kvant::examples
