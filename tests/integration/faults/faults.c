/* Ends a process with SIGKILL before a chosen call of the system, and moves its clocks. Loaded with LD_PRELOAD; see faults.h.
 */
#define _GNU_SOURCE
#include "tests/integration/faults/faults.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#pragma GCC visibility push(default)

static struct kvant_faults* faults;
static int is_worker;

__attribute__((constructor)) static void Begin(void) {
  const char* const path = getenv(KVANT_FAULTS_VARIABLE);
  if (path == NULL) return;
  is_worker = getenv("KVANT_HOLDER_FD") != NULL;
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void* const at = (void*)syscall(SYS_mmap, NULL, sizeof(struct kvant_faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at != MAP_FAILED) faults = at;
  close(fd);
}

static void At(int call) {
  if (faults == NULL || __atomic_load_n(&faults->call, __ATOMIC_SEQ_CST) != call) return;
  if (__atomic_load_n(&faults->workers_only, __ATOMIC_SEQ_CST) && !is_worker) return;
  if (__atomic_sub_fetch(&faults->left, 1, __ATOMIC_SEQ_CST) != 0) return;
  __atomic_add_fetch(&faults->fired, 1, __ATOMIC_SEQ_CST);
  kill(getpid(), SIGKILL);
}

int memfd_create(const char* name, unsigned int flags) {
  At(KVANT_FAULT_CREATE);
  return (int)syscall(SYS_memfd_create, name, flags);
}

int madvise(void* address, size_t bytes, int advice) {
  if (advice == MADV_REMOVE) At(KVANT_FAULT_GIVE_BACK);
#ifdef MADV_POPULATE_WRITE
  if (advice == MADV_POPULATE_WRITE) At(KVANT_FAULT_POPULATE);
#endif
  return (int)syscall(SYS_madvise, address, bytes, advice);
}

ssize_t sendmsg(int fd, const struct msghdr* message, int flags) {
  if (message->msg_controllen != 0) At(KVANT_FAULT_SEND_FD);
  At(KVANT_FAULT_SEND);
  return syscall(SYS_sendmsg, fd, message, flags);
}

ssize_t recvmsg(int fd, struct msghdr* message, int flags) {
  At(KVANT_FAULT_RECEIVE);
  return syscall(SYS_recvmsg, fd, message, flags);
}

void* mmap(void* address, size_t bytes, int protection, int flags, int fd, off_t offset) {
  if (fd >= 0) At(KVANT_FAULT_MAP);
  return (void*)syscall(SYS_mmap, address, bytes, protection, flags, fd, offset);
}

int clock_gettime(clockid_t clock, struct timespec* now) {
  const int outcome = (int)syscall(SYS_clock_gettime, clock, now);
  if (outcome != 0 || faults == NULL) return outcome;
  int64_t moved = 0;
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {
    moved = __atomic_load_n(&faults->realtime_ns, __ATOMIC_SEQ_CST);
  } else if (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE) {
    moved = __atomic_load_n(&faults->monotonic_ns, __ATOMIC_SEQ_CST);
  }
  int64_t ns = now->tv_nsec + moved % 1000000000;
  now->tv_sec += moved / 1000000000 + (ns < 0 ? -1 : ns / 1000000000);
  now->tv_nsec = ns < 0 ? ns + 1000000000 : ns % 1000000000;
  return 0;
}
