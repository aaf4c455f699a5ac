// Schema <-> vocabulary: the one place that knows both. Everything read from a message is checked here or by the receiver.
#pragma once

#include <string_view>

#include <capnp/message.h>
#include <kj/exception.h>
#include <kvant/kvant.capnp.h>

#include <kvant/result.h>
#include <kvant/store_spec.h>
#include <kvant/tensor.h>

namespace kvant::wire {

/// Both peers must speak the same; see WIRE.md for when it is raised.
inline constexpr std::uint32_t kProtocolVersion = PROTOCOL_VERSION;

/// File descriptors a message may carry, for TwoPartyVatNetwork on both sides (0 would lose them silently).
inline constexpr unsigned kMaxFdsPerMessage = MAX_FDS_PER_MESSAGE;

/// Fork's "all tokens".
inline constexpr std::uint64_t kWholeLength = ~std::uint64_t{0};

/// The answer to messages that are larger than any this protocol has: 64 MiB of text, lists and pointers, in 8-byte words.
inline constexpr std::uint64_t kTraversalLimitWords = std::uint64_t{8} << 20;

/// Overrides of a plan that are read; a plan takes no more. An empty one costs a message nothing, so they are counted first.
inline constexpr std::size_t kMaxOverrides = MAX_OVERRIDES;

/// For both ends of a connection.
[[nodiscard]] capnp::ReaderOptions ReaderOptionsOfPeer() noexcept;

[[nodiscard]] kvant::Error ReadError(Error::Reader from);
void WriteError(const kvant::Error& error, Error::Builder to);

[[nodiscard]] kvant::Result<void> ReadStatus(Status::Reader from);
void WriteStatus(const kvant::Result<void>& result, Status::Builder to);

/// kInvalidArgument for a value that this version does not know.
[[nodiscard]] kvant::Result<kvant::ElementType> ReadElementType(ElementType from);
[[nodiscard]] ElementType WriteElementType(kvant::ElementType type) noexcept;

[[nodiscard]] kvant::Result<kvant::KeyStage> ReadKeyStage(KeyStage from);
[[nodiscard]] KeyStage WriteKeyStage(kvant::KeyStage stage) noexcept;

/// Without the artifact, which lies in an arena (StoreSpec.artifact).
/// kInvalidArgument for enumerants that this version does not know and for lists that are too long to hold; the rest of the
/// spec is quantizers::Plan's to check.
[[nodiscard]] kvant::Result<kvant::StoreSpec> ReadStoreSpec(StoreSpec::Reader from);
void WriteStoreSpec(const kvant::StoreSpec& spec, StoreSpec::Builder to);

/// What a failed call means to its caller. `operation` begins the message ("attend"), `peer` names the socket.
[[nodiscard]] kvant::Error FromException(const kj::Exception& exception, std::string_view operation, std::string_view peer);

}  // namespace kvant::wire
