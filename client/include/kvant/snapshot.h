// Sealed blocks in files: what snapshots are, and what needs no daemon. Saving and restoring is with those who hold a
// connection: Store::Save and Load, Client::RestoreSnapshot, Admin::SaveSnapshot. A snapshot is a valid safetensors file.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <kvant/export.h>
#include <kvant/result.h>

namespace kvant {

/// Called now and then by what takes long, in the calling thread, with bytes done and of all; false gives up (kUnavailable).
using SnapshotProgress = std::function<bool(std::uint64_t done, std::uint64_t all)>;

struct SaveReport {
  std::uint64_t stores = 0;
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;  ///< of the file
};

struct RestoreReport {
  std::uint64_t stores = 0;
  std::uint64_t restored = 0;  ///< blocks that came in
  std::uint64_t present = 0;   ///< blocks that were there already
};

/// A store in a snapshot.
struct SnapshotStore {
  std::string name;
  std::string identity;  ///< hex digest
  std::string model;
  std::string keys;  ///< the plan's default codec specs
  std::string values;
  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t block_tokens = 0;
  std::uint64_t blocks = 0;
  std::uint64_t tokens = 0;  ///< in them
  std::uint64_t states = 0;
  std::uint64_t compressed_bytes = 0;   ///< of codes and their side data
  std::uint64_t logical_f16_bytes = 0;  ///< the same tokens as f16
};

struct SnapshotInfo {
  std::uint64_t bytes = 0;  ///< of the file
  unsigned format = 0;      ///< version
  std::string writer;       ///< as it calls itself
  std::vector<SnapshotStore> stores;
};

struct DamagedBlock {
  std::string store;
  std::string chain;  ///< hex digest
  std::uint64_t position = 0;
  std::string what;  ///< codes, sinks or state
};

/// Checks all of the file but payloads. The file may be of any origin. kNotFound, kSystem, kCorrupt or kVersionMismatch name
/// the path and the reason. Any thread.
KVANT_API Result<SnapshotInfo> ReadSnapshotInfo(const std::string& path);

/// Reads all of the file: every block whose bytes differ from their checksum, none for a good file. Errors as ReadSnapshotInfo.
KVANT_API Result<std::vector<DamagedBlock>> VerifySnapshot(const std::string& path, const SnapshotProgress& progress = {});

}  // namespace kvant
