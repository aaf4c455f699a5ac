// kvantctl snapshot save.
#include <CLI/CLI.hpp>
#include <charconv>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "tools/kvantctl/render.h"
#include "tools/kvantctl/snapshot/progress.h"
#include "tools/kvantctl/snapshot/snapshot.h"

namespace kvant::tools {
namespace {

struct Arguments {
  std::string file;
  std::vector<std::string> stores;
  std::vector<std::string> sequences;  // numbers or labels
};

/// "kvant-20260131-235959.safetensors", by the local clock.
std::string DefaultFile() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  char text[64];
  return {text, std::strftime(text, sizeof text, "kvant-%Y%m%d-%H%M%S.safetensors", &local)};
}

/// The live sequence of that number or label.
Result<SequenceId> FindSequence(const std::vector<SequenceRow>& rows, const std::string& name) {
  SequenceId number = 0;
  const char* const end = name.data() + name.size();
  const bool numeric = std::from_chars(name.data(), end, number).ptr == end;
  std::vector<SequenceId> found;
  for (const SequenceRow& row : rows) {
    if (numeric ? row.id == number : row.label == name) found.push_back(row.id);
  }
  if (found.size() == 1) return found.front();
  if (found.empty()) return Error{ErrorCode::kNotFound, "no live sequence has the number or label '" + name + "'"};
  return Error{ErrorCode::kInvalidArgument,
               std::to_string(found.size()) + " live sequences have the label '" + name + "'; name one by its number"};
}

int Save(const Globals& globals, const Arguments& arguments) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    SnapshotSelection selection{.stores = arguments.stores, .sequences = {}};
    if (!arguments.sequences.empty()) {
      const auto rows = admin.Sequences();
      if (!rows) return Report(globals, rows.error());
      for (const std::string& name : arguments.sequences) {
        const auto id = FindSequence(*rows, name);
        if (!id) return Report(globals, id.error());
        selection.sequences.push_back(*id);
      }
    }
    const std::string file = arguments.file.empty() ? DefaultFile() : arguments.file;
    Result<SaveReport> report = [&] {
      Progress progress(globals, "save");
      return admin.SaveSnapshot(file, selection, progress.Callback());
    }();
    if (!report) return Report(globals, report.error());
    if (globals.format == Format::kJson) {
      const Json event = {
          {"event", "saved"}, {"file", file}, {"stores", report->stores}, {"blocks", report->blocks}, {"bytes", report->bytes}};
      Print(event.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n");
    } else {
      Print("saved " + HumanCount(report->blocks) + " blocks of " + HumanCount(report->stores) + " stores, " +
            HumanBytes(report->bytes) + ", to " + file + "\n");
    }
    return kOk;
  });
}

}  // namespace

void AddSnapshotSave(CLI::App& snapshot, Invocation& invocation) {
  CLI::App* command = snapshot.add_subcommand("save", "Save every store, or those named, while others go on");
  auto arguments = std::make_shared<Arguments>();
  command->add_option("FILE", arguments->file, "Where to; default: kvant-DATE-TIME.safetensors in this folder");
  command->add_option("--store", arguments->stores, "Only this store, by name or identity; may be repeated");
  command->add_option("--sequence", arguments->sequences,
                      "Only what this live sequence holds, by number or label; may be repeated");
  command->callback([&invocation, arguments] { invocation.exit_code = Save(invocation.globals, *arguments); });
}

}  // namespace kvant::tools
