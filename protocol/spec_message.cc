#include "protocol/spec_message.h"

#include <cstring>
#include <string>

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>

#include "protocol/wire.h"

namespace kvant::wire {

std::vector<std::byte> WriteSpecMessage(const kvant::StoreSpec& spec) {
  capnp::MallocMessageBuilder message;
  WriteStoreSpec(spec, message.initRoot<StoreSpec>());
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
  const auto bytes = words.asBytes();
  const auto* begin = reinterpret_cast<const std::byte*>(bytes.begin());
  return {begin, begin + bytes.size()};
}

Result<kvant::StoreSpec> ReadSpecMessage(std::span<const std::byte> bytes, std::string_view what) {
  const auto corrupt = [&](const std::string& why) {
    return kvant::Error{ErrorCode::kCorrupt, std::string(what) + ": " + why};
  };
  if (bytes.size() % sizeof(capnp::word) != 0) return corrupt("its spec is no message");
  Result<kvant::StoreSpec> spec = corrupt("its spec is no message");
  const auto failure = kj::runCatchingExceptions([&] {
    auto words = kj::heapArray<capnp::word>(bytes.size() / sizeof(capnp::word));  // aligned
    if (!bytes.empty()) std::memcpy(words.begin(), bytes.data(), bytes.size());
    capnp::FlatArrayMessageReader reader(words);
    spec = ReadStoreSpec(reader.getRoot<StoreSpec>());
  });
  KJ_IF_MAYBE (exception, failure)
    return corrupt("its spec cannot be read: " + std::string(exception->getDescription().cStr()));
  return spec;
}

}  // namespace kvant::wire
