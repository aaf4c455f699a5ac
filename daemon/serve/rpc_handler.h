// The border between the daemon and Cap'n Proto: what every handler runs inside.
#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <string>
#include <utility>

#include <capnp/any.h>
#include <kj/debug.h>

#include <kvant/result.h>

#include "protocol/wire.h"

namespace kvant::daemon {

/// Runs the body of a handler. A std::exception would reach the client as a failure of the whole connection; it becomes a
/// failure of this call.
template <typename Body>
auto RunHandler(Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const kj::Exception&) {
    throw;  // damaged messages, among others
  } catch (const std::exception& failure) {
    kj::throwFatalException(KJ_EXCEPTION(FAILED, failure.what()));
  }
}

inline capnp::Text::Reader TextOf(const std::string& text) { return {text.c_str(), text.size()}; }
/// The first `most` bytes; no more is copied.
inline std::string StringOf(capnp::Text::Reader text, std::size_t most) { return {text.begin(), std::min(text.size(), most)}; }

}  // namespace kvant::daemon
