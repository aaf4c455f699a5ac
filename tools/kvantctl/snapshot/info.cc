// kvantctl snapshot info and list: need no daemon.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "tools/kvantctl/printable.h"
#include "tools/kvantctl/render.h"
#include "tools/kvantctl/snapshot/snapshot.h"

namespace kvant::tools {
namespace {

Json ToJson(const SnapshotInfo& info) {
  Json stores = Json::array();
  for (const SnapshotStore& store : info.stores) {
    stores.push_back({{"name", store.name},
                      {"identity", store.identity},
                      {"model", store.model},
                      {"keys", store.keys},
                      {"values", store.values},
                      {"layers", store.layers},
                      {"kv_heads", store.kv_heads},
                      {"head_dim", store.head_dim},
                      {"block_tokens", store.block_tokens},
                      {"blocks", store.blocks},
                      {"tokens", store.tokens},
                      {"states", store.states},
                      {"compressed_bytes", store.compressed_bytes},
                      {"logical_f16_bytes", store.logical_f16_bytes}});
  }
  return {{"bytes", info.bytes}, {"format", info.format}, {"writer", info.writer}, {"stores", stores}};
}

int Info(const Globals& globals, const std::string& file) {
  const auto info = ReadSnapshotInfo(file);
  if (!info) return Report(globals, info.error());
  if (globals.format == Format::kJson) {
    Print(ToJson(*info));
    return kOk;
  }
  Print(Printable(file) + ": " + HumanBytes(info->bytes) + ", snapshot format " + std::to_string(info->format) + "\n");
  Table table({{"STORE"},
               {"IDENTITY"},
               {"KEYS"},
               {"VALUES"},
               {"BLOCKS", Align::kRight},
               {"TOKENS", Align::kRight},
               {"AS F16", Align::kRight},
               {"COMPRESSED", Align::kRight}});
  for (const SnapshotStore& store : info->stores) {
    table.Add({store.name, store.identity, store.keys, store.values, HumanCount(store.blocks), HumanCount(store.tokens),
               HumanBytes(store.logical_f16_bytes), HumanBytes(store.compressed_bytes)});
  }
  Print(table.ToString());
  return kOk;
}

int List(const Globals& globals, const std::string& folder) {
  std::error_code failed;
  std::vector<std::filesystem::path> files;
  for (auto at = std::filesystem::directory_iterator(folder, failed); !failed && at != std::filesystem::directory_iterator();
       at.increment(failed)) {
    if (at->path().extension() == ".safetensors") files.push_back(at->path());
  }
  if (failed) return Report(globals, {ErrorCode::kSystem, "list " + folder + ": " + failed.message()});
  std::ranges::sort(files);
  Json rows = Json::array();
  Table table(
      {{"FILE"}, {"STORES", Align::kRight}, {"BLOCKS", Align::kRight}, {"TOKENS", Align::kRight}, {"BYTES", Align::kRight}});
  for (const std::filesystem::path& file : files) {
    const auto info = ReadSnapshotInfo(file.string());
    const std::string name = file.filename().string();
    if (!info) {
      // Other safetensors files are none of ours; damaged ones are worth a line.
      if (info.error().message.find("no snapshot of kvant") != std::string::npos) continue;
      rows.push_back({{"file", name}, {"error", info.error().message}});
      table.Add({name, "-", "-", "-", std::string(ErrorCodeName(info.error().code))});
      continue;
    }
    std::uint64_t blocks = 0;
    std::uint64_t tokens = 0;
    for (const SnapshotStore& store : info->stores) {
      blocks += store.blocks;
      tokens += store.tokens;
    }
    Json row = ToJson(*info);
    row["file"] = name;
    rows.push_back(std::move(row));
    table.Add({name, HumanCount(info->stores.size()), HumanCount(blocks), HumanCount(tokens), HumanBytes(info->bytes)});
  }
  if (globals.format == Format::kJson) {
    Print(rows);
  } else {
    Print(table.ToString());
  }
  return kOk;
}

}  // namespace

void AddSnapshotInfo(CLI::App& snapshot, Invocation& invocation) {
  auto path = std::make_shared<std::string>();
  CLI::App* info = snapshot.add_subcommand("info", "What is in a snapshot");
  info->add_option("FILE", *path, "The snapshot")->required();
  info->callback([&invocation, path] { invocation.exit_code = Info(invocation.globals, *path); });
  CLI::App* list = snapshot.add_subcommand("list", "The snapshots in a folder");
  list->add_option("DIR", *path, "The folder")->required();
  list->callback([&invocation, path] { invocation.exit_code = List(invocation.globals, *path); });
}

}  // namespace kvant::tools
