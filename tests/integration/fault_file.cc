#include "tests/integration/fault_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <stdexcept>

#include "protocol/memfd.h"

namespace kvant::testing {

FaultFile::FaultFile() : path_((std::filesystem::temp_directory_path() / "kvant-faults-XXXXXX").string()) {
  const protocol::UniqueFd fd(::mkstemp(path_.data()));
  if (!fd.valid() || ::ftruncate(fd.get(), sizeof(kvant_faults)) != 0) throw std::runtime_error("make " + path_);
  void* const at = ::mmap(nullptr, sizeof(kvant_faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) throw std::runtime_error("map " + path_);
  faults_ = static_cast<kvant_faults*>(at);
  ::setenv(KVANT_FAULTS_VARIABLE, path_.c_str(), 1);
  ::setenv("LD_PRELOAD", KVANT_FAULTS_LIBRARY, 1);
}

FaultFile::~FaultFile() {
  StopLoading();
  ::munmap(faults_, sizeof(kvant_faults));
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
}

void FaultFile::StopLoading() {
  ::unsetenv("LD_PRELOAD");
  ::unsetenv(KVANT_FAULTS_VARIABLE);
}

void FaultFile::Arm(kvant_fault call, std::int32_t nth, Whose whose) {
  Disarm();
  __atomic_store_n(&faults_->workers_only, whose == Whose::kWorker ? 1 : 0, __ATOMIC_SEQ_CST);
  __atomic_store_n(&faults_->left, nth, __ATOMIC_SEQ_CST);
  __atomic_store_n(&faults_->call, call, __ATOMIC_SEQ_CST);
}

void FaultFile::Disarm() { __atomic_store_n(&faults_->call, KVANT_FAULT_NONE, __ATOMIC_SEQ_CST); }

std::int32_t FaultFile::fired() const { return __atomic_load_n(&faults_->fired, __ATOMIC_SEQ_CST); }

void FaultFile::MoveClocks(std::int64_t realtime_seconds, std::int64_t monotonic_seconds) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  __atomic_store_n(&faults_->realtime_ns, realtime_seconds * kSecond, __ATOMIC_SEQ_CST);
  __atomic_store_n(&faults_->monotonic_ns, monotonic_seconds * kSecond, __ATOMIC_SEQ_CST);
}

}  // namespace kvant::testing
