// The checkpoint all engine tests run on, loaded once, and texts of the project for it.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "client/examples/llama/files.h"
#include "client/examples/llama/model.h"

namespace kvant::examples {

inline std::string ModelFolder() { return KVANT_SOURCE_DIR "/tests/models/byte6m"; }

inline const Model& ByteModel() {
  static const Result<Model> model = Model::Load(ModelFolder());
  if (!model) throw std::runtime_error(model.error().message);
  return *model;
}

/// The first `size` bytes of committed files, one after the other.
inline std::string ProjectText(std::initializer_list<const char*> files, std::size_t size) {
  std::string text;
  for (const char* file : files) {
    const Result<std::string> content = ReadText(std::string(KVANT_SOURCE_DIR "/") + file);
    if (!content) throw std::runtime_error(content.error().message);
    text += *content;
  }
  if (text.size() < size) throw std::runtime_error("the files have " + std::to_string(text.size()) + " bytes only");
  text.resize(size);
  return text;
}

}  // namespace kvant::examples
