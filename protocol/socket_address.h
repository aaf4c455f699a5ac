// Addresses of daemons as users write them, and unix stream sockets on them.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include <kvant/result.h>

#include "protocol/memfd.h"

namespace kvant::protocol {

/// The path in "PATH" or "unix:PATH". kInvalidArgument if it is empty, holds a NUL, or is longer than a socket address can
/// hold (107 bytes): the kernel would cut it off or refuse it without saying why.
Result<std::string> ParseSocketPath(std::string_view address);

/// A connected, non-blocking, close-on-exec stream socket. While the daemon's queue of connections is full it tries again for
/// `patience`, then kDeadlineExceeded. kDisconnected names the path and what errno means: no such file, or a socket file that
/// nobody listens on any more; kPermissionDenied.
Result<UniqueFd> ConnectUnixSocket(const std::string& path, std::chrono::nanoseconds patience = {});

/// A bound, not yet listening, non-blocking, close-on-exec stream socket. kSystem names the path and errno.
/// Requires: nothing exists at `path`.
Result<UniqueFd> BindUnixSocket(const std::string& path);

}  // namespace kvant::protocol
