#include "protocol/manifest.h"

#include <cstring>

#include <xxhash.h>

#include "protocol/mapped_segment.h"
#include "protocol/spec_message.h"

namespace kvant::wire {
namespace {

using protocol::ManifestHeader;

kvant::Error Corrupt(const std::string& message) { return {ErrorCode::kCorrupt, "manifest: " + message}; }

std::uint64_t HeaderChecksum(const ManifestHeader& header) {
  return XXH3_64bits(&header, offsetof(ManifestHeader, header_checksum));
}

constexpr std::uint64_t RoundUp(std::uint64_t bytes, std::uint64_t to) { return (bytes + to - 1) / to * to; }

std::uint64_t TenantOffset(const ManifestHeader& header) { return RoundUp(header.artifact_offset + header.artifact_bytes, 64); }

bool Inside(std::uint64_t offset, std::uint64_t bytes, std::size_t whole) {
  return offset % 64 == 0 && offset >= sizeof(ManifestHeader) && offset <= whole && bytes <= whole - offset;
}

}  // namespace

std::vector<std::byte> WriteManifest(const Manifest& manifest) {
  const std::vector<std::byte> spec = WriteSpecMessage(manifest.spec);

  ManifestHeader header{};
  header.magic = protocol::kManifestMagic;
  header.layout_version = protocol::kSegmentLayoutVersion;
  header.identity = manifest.identity;
  header.boot_token = manifest.boot_token;
  header.spec_offset = RoundUp(sizeof header, 64);
  header.spec_bytes = spec.size();
  header.plan_offset = RoundUp(header.spec_offset + header.spec_bytes, 64);
  header.plan_bytes = manifest.plan.size();
  header.artifact_offset = RoundUp(header.plan_offset + header.plan_bytes, 64);
  header.artifact_bytes = manifest.spec.plan.artifact.size();
  header.tenant_bytes = static_cast<std::uint32_t>(manifest.tenant.size());
  const std::uint64_t tenant_offset = TenantOffset(header);
  header.manifest_bytes = RoundUp(tenant_offset + header.tenant_bytes, protocol::kPageBytes);

  std::vector<std::byte> bytes(header.manifest_bytes);
  std::memcpy(bytes.data() + header.spec_offset, spec.data(), spec.size());
  std::memcpy(bytes.data() + header.plan_offset, manifest.plan.data(), manifest.plan.size());
  if (header.artifact_bytes != 0) {
    std::memcpy(bytes.data() + header.artifact_offset, manifest.spec.plan.artifact.data(), header.artifact_bytes);
  }
  std::memcpy(bytes.data() + tenant_offset, manifest.tenant.data(), manifest.tenant.size());
  header.payload_checksum = XXH3_64bits(bytes.data() + sizeof header, bytes.size() - sizeof header);
  header.header_checksum = HeaderChecksum(header);
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

Result<Manifest> ReadManifest(std::span<const std::byte> bytes) {
  ManifestHeader header;
  if (bytes.size() < sizeof header) return Corrupt("shorter than its header");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != protocol::kManifestMagic) return Corrupt("does not begin with the manifest magic");
  if (header.layout_version != protocol::kSegmentLayoutVersion) {
    return kvant::Error{ErrorCode::kVersionMismatch, "manifest: layout version " + std::to_string(header.layout_version) +
                                                         ", this side knows " +
                                                         std::to_string(protocol::kSegmentLayoutVersion)};
  }
  if (header.header_checksum != HeaderChecksum(header)) return Corrupt("header checksum differs");
  if (header.manifest_bytes != bytes.size() || !Inside(header.spec_offset, header.spec_bytes, bytes.size()) ||
      !Inside(header.plan_offset, header.plan_bytes, bytes.size()) ||
      !Inside(header.artifact_offset, header.artifact_bytes, bytes.size()) ||
      (header.tenant_bytes != 0 && !Inside(TenantOffset(header), header.tenant_bytes, bytes.size()))) {
    return Corrupt("its sections lie outside its " + std::to_string(bytes.size()) + " bytes");
  }
  if (XXH3_64bits(bytes.data() + sizeof header, bytes.size() - sizeof header) != header.payload_checksum) {
    return Corrupt("payload checksum differs");
  }
  Manifest manifest;
  auto spec = ReadSpecMessage(bytes.subspan(header.spec_offset, header.spec_bytes), "manifest");
  if (!spec) return spec.error();
  manifest.spec = *std::move(spec);
  const std::byte* artifact = bytes.data() + header.artifact_offset;
  manifest.spec.plan.artifact.assign(artifact, artifact + header.artifact_bytes);
  manifest.plan.assign(reinterpret_cast<const char*>(bytes.data() + header.plan_offset), header.plan_bytes);
  manifest.identity = header.identity;
  manifest.boot_token = header.boot_token;
  if (header.tenant_bytes != 0) {
    manifest.tenant.assign(reinterpret_cast<const char*>(bytes.data() + TenantOffset(header)), header.tenant_bytes);
  }
  return manifest;
}

Result<Manifest> ReadManifestSegment(int fd) {
  auto segment = protocol::MapWhole(fd, protocol::Access::kReadOnly);
  if (!segment) return segment.error();
  return ReadManifest({segment->data(), segment->size()});
}

}  // namespace kvant::wire
