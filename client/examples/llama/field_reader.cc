#include "client/examples/llama/field_reader.h"

#include <cmath>

#include "quantizers/bounded_json.h"

namespace kvant::examples {

using Json = nlohmann::json;
using quantizers::ShownJson;

const Json* FieldReader::Find(const char* name) const {
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

std::size_t FieldReader::Size(const char* name, std::size_t at_most, std::optional<std::size_t> fallback) {
  const Json* value = Find(name);
  if (value == nullptr) {
    if (!fallback) Invalid(name, "is missing");
    return fallback.value_or(1);
  }
  if (!value->is_number_unsigned() || value->get<std::uint64_t>() == 0 || value->get<std::uint64_t>() > at_most) {
    Invalid(name, ShownJson(*value) + " is not an integer in 1.." + std::to_string(at_most));
    return 1;
  }
  return value->get<std::size_t>();
}

double FieldReader::Positive(const char* name, std::optional<double> fallback) {
  const Json* value = Find(name);
  if (value == nullptr) {
    if (!fallback) Invalid(name, "is missing");
    return fallback.value_or(1);
  }
  if (!value->is_number() || !(value->get<double>() > 0) || !std::isfinite(value->get<double>())) {
    Invalid(name, ShownJson(*value) + " is not a positive number");
    return 1;
  }
  return value->get<double>();
}

bool FieldReader::Flag(const char* name, bool fallback) {
  const Json* value = Find(name);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    Invalid(name, ShownJson(*value) + " is not true or false");
    return fallback;
  }
  return value->get<bool>();
}

std::vector<double> FieldReader::Numbers(const char* name, std::size_t at_most) {
  const Json* value = Find(name);
  if (value == nullptr) {
    Invalid(name, "is missing");
    return {};
  }
  if (!value->is_array() || value->size() > at_most) {
    Invalid(name, ShownJson(*value) + " is not a list of at most " + std::to_string(at_most) + " numbers");
    return {};
  }
  std::vector<double> numbers;
  for (const Json& number : *value) {
    if (!number.is_number()) {
      Invalid(name, "holds " + ShownJson(number) + ", which is no number");
      return {};
    }
    numbers.push_back(number.get<double>());
  }
  return numbers;
}

std::int64_t FieldReader::Token(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return -1;
  const Json& id = value->is_array() && !value->empty() ? value->front() : *value;
  if (!id.is_number_unsigned() || id.get<std::uint64_t>() > UINT32_MAX) {
    Invalid(name, ShownJson(*value) + " is not a token id");
    return -1;
  }
  return id.get<std::int64_t>();
}

void FieldReader::Invalid(const std::string& name, const std::string& what) {
  Complain(ErrorCode::kInvalidArgument, name, what);
}

void FieldReader::Unsupported(const std::string& name, const Json& value, const std::string& wanted) {
  Complain(ErrorCode::kUnsupported, name, "is " + ShownJson(value) + "; this engine computes " + wanted);
}

void FieldReader::Complain(ErrorCode code, const std::string& name, const std::string& what) {
  if (!error_) error_ = Error{code, "config.json: '" + prefix_ + name + "' " + what};
}

}  // namespace kvant::examples
