/* What a test and the programs it has loaded libkvant_test_faults.so into (LD_PRELOAD) say to each other, in a file that all of
 * them map. Programs are as they are shipped: nothing in them knows of this. */
#pragma once

#include <stdint.h>

#define KVANT_FAULTS_VARIABLE "KVANT_TEST_FAULTS" /* path of the file */

/* Calls of the system at which a process can be ended. */
enum kvant_fault {
  KVANT_FAULT_NONE = 0,
  KVANT_FAULT_CREATE = 1,    /* memfd_create: a segment is made */
  KVANT_FAULT_POPULATE = 2,  /* madvise(MADV_POPULATE_WRITE): a slot is about to be written */
  KVANT_FAULT_GIVE_BACK = 3, /* madvise(MADV_REMOVE): pages of what was evicted, or a whole slab, go */
  KVANT_FAULT_SEND_FD = 4,   /* sendmsg with a descriptor: to the holder, or to a client */
  KVANT_FAULT_SEND = 5,      /* sendmsg */
  KVANT_FAULT_RECEIVE = 6,   /* recvmsg */
  KVANT_FAULT_MAP = 7,       /* mmap */
};

struct kvant_faults {
  int32_t call;         /* kvant_fault; atomic, as all of these */
  int32_t left;         /* calls until SIGKILL: 1 is the next one */
  int32_t fired;        /* how many processes were ended */
  int32_t workers_only; /* kvantd's workers, not its holder */
  int64_t realtime_ns;  /* added to what the clocks say */
  int64_t monotonic_ns;
};
