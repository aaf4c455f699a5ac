// What all sub-commands of kvantctl share: the global options, the exit codes, and how a command is hooked into the program.
#pragma once

#include <string>
#include <string_view>

#include <kvant/admin.h>
#include <kvant/result.h>

namespace CLI {
class App;
}

namespace kvant::tools {

/// Exit codes are an interface: scripts branch on them. They are listed in --help and README.md.
enum ExitCode : int {
  kOk = 0,
  kFailure = 1,       ///< any failure not listed below
  kUsage = 2,         ///< the command line is wrong
  kNoDaemon = 3,      ///< no daemon answers at the socket, or it went away
  kNotFound = 4,      ///< no such store or sequence
  kRefused = 5,       ///< this user may not administer the daemon
  kTimeout = 6,       ///< no answer within --timeout
  kIncompatible = 7,  ///< the daemon speaks another protocol version
  kNotNow = 8,        ///< what is to be dropped is in use, or the daemon is ending
  kNotSaved = 9,      ///< the daemon has ended, but could not save its blocks
};

enum class Format { kTable, kJson };

/// What --help says at its end.
extern const char* const kExitCodes;

struct Globals {
  const char* program = "kvantctl";  ///< begins messages
  std::string socket;                ///< PATH or unix:PATH
  double timeout_s = 5.0;
  Format format = Format::kTable;
};

/// The chosen sub-command stores its outcome here; main returns it.
struct Invocation {
  Globals globals;
  int exit_code = kOk;
};

/// Adds -o, --output.
void AddOutputOption(CLI::App& app, Globals& globals);

/// Parses the command line, which runs the chosen sub-command, and returns the program's exit code. What was printed and did
/// not arrive (a full disk, a closed pipe) turns success into a failure, with a message.
int ParseAndRun(CLI::App& app, int argc, char** argv, const Invocation& invocation);

ExitCode ExitCodeOf(ErrorCode code) noexcept;

/// Prints the error to standard error (one line, or one JSON object) and returns its exit code.
int Report(const Globals& globals, const Error& error);

/// The same for an option whose text could not be read; returns kUsage.
int ReportUsage(const Globals& globals, const Error& error);

/// Connects for administration within the timeout.
Result<Admin> ConnectAdmin(const Globals& globals);

/// Connects, calls `body(admin)` (which returns an exit code), reports a failed connection.
template <typename Body>
int WithAdmin(const Globals& globals, Body&& body) {
  auto admin = ConnectAdmin(globals);
  if (!admin) return Report(globals, admin.error());
  return body(*admin);
}

// One per file: each adds its sub-command to `app`; `invocation` outlives the parse.
void AddPing(CLI::App& app, Invocation& invocation);
void AddInfo(CLI::App& app, Invocation& invocation);
void AddStats(CLI::App& app, Invocation& invocation);
void AddDoctor(CLI::App& app, Invocation& invocation);
void AddTop(CLI::App& app, Invocation& invocation);
void AddClients(CLI::App& app, Invocation& invocation);
void AddMonitor(CLI::App& app, Invocation& invocation);
void AddStores(CLI::App& app, Invocation& invocation);
void AddSequences(CLI::App& app, Invocation& invocation);
void AddInspect(CLI::App& app, Invocation& invocation);
void AddCodecs(CLI::App& app, Invocation& invocation);
void AddQuality(CLI::App& app, Invocation& invocation);
void AddCalibrate(CLI::App& app, Invocation& invocation);
void AddEvict(CLI::App& app, Invocation& invocation);
void AddDemote(CLI::App& app, Invocation& invocation);
void AddDrop(CLI::App& app, Invocation& invocation);
void AddPin(CLI::App& app, Invocation& invocation);
void AddUnpin(CLI::App& app, Invocation& invocation);
void AddQuota(CLI::App& app, Invocation& invocation);
void AddSnapshot(CLI::App& app, Invocation& invocation);
void AddDrain(CLI::App& app, Invocation& invocation);
void AddUpgrade(CLI::App& app, Invocation& invocation);
void AddCompletion(CLI::App& app, Invocation& invocation);
void AddBench(CLI::App& app, Invocation& invocation);

}  // namespace kvant::tools
