/* The client library for C, and for whatever calls C: the same connection, stores and sequences as kvant/client.h, behind
 * opaque handles. client/examples/append_and_attend.c is a complete program.
 *
 * Errors: every function that can fail returns a kvant_code, KVANT_OK on success. `error` may be null; otherwise it is written
 * whenever the answer is not KVANT_OK. No function throws, and none ends the process. Output parameters are written on success
 * alone. A null handle, or a null pointer where one is required, is KVANT_INVALID_ARGUMENT.
 *
 * Threads: a client and all that was opened from it belong to the thread that connected; calls from another are
 * KVANT_WRONG_THREAD and change nothing. Several clients in several threads are fine. The functions named *_close may be
 * called in any thread, and closing null is allowed. After fork() the child's handles are inert: calls answer
 * KVANT_DISCONNECTED.
 *
 * Lifetimes: handles keep what they need alive, so they may be closed in any order. Strings and arrays in arguments are copied
 * during the call.
 *
 * Versions: symbols carry the version KVANT_C_1 and never change their meaning. Structs begin with their size, so that a
 * program built against an older header goes on working with a newer library: it reads and writes the fields that the older
 * header had, and fields are only added at the end. Fill in defaults with the *_init function, which takes sizeof the struct;
 * of structs that are only written by the library, set struct_size to that. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <kvant/export.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Outcomes; what a caller can do about each is said in kvant/result.h. */
typedef enum kvant_code {
  KVANT_OK = 0,
  KVANT_INVALID_ARGUMENT = 1,
  KVANT_OUT_OF_RANGE = 2,
  KVANT_NOT_FOUND = 3,
  KVANT_IDENTITY_MISMATCH = 4,
  KVANT_STORE_FULL = 5,
  KVANT_TAIL_FULL = 6,
  KVANT_NOT_FINITE = 7,
  KVANT_UNSUPPORTED = 8,
  KVANT_VERSION_MISMATCH = 9,
  KVANT_DISCONNECTED = 10,
  KVANT_STALE_DAEMON = 11,
  KVANT_DEADLINE_EXCEEDED = 12,
  KVANT_PERMISSION_DENIED = 13,
  KVANT_CORRUPT = 14,
  KVANT_WRONG_THREAD = 15,
  KVANT_SYSTEM = 16,
  KVANT_INTERNAL = 17,
  KVANT_UNAVAILABLE = 18
} kvant_code;

typedef struct kvant_error {
  kvant_code code;
  char message[1024]; /* names the operation, the object and the value; ends with a zero, cut where it does not fit */
} kvant_error;

/* For example "store_full"; "ok" for KVANT_OK, "unknown" for anything else. Never null. */
KVANT_API const char* kvant_code_name(kvant_code code);

typedef enum kvant_element_type { KVANT_F32 = 0, KVANT_F16 = 1, KVANT_BF16 = 2 } kvant_element_type;

/* [tokens, heads, dim], the last axis adjacent; strides count elements. */
typedef struct kvant_tensor {
  void* data;
  kvant_element_type type;
  size_t tokens;
  size_t heads;
  size_t dim;
  size_t token_stride;
  size_t head_stride;
} kvant_tensor;

/* The same, for reading. */
typedef struct kvant_const_tensor {
  const void* data;
  kvant_element_type type;
  size_t tokens;
  size_t heads;
  size_t dim;
  size_t token_stride;
  size_t head_stride;
} kvant_const_tensor;

/* ------------------------------------------------------------------------------------------------------------ client */

typedef struct kvant_client kvant_client;

typedef struct kvant_client_options {
  size_t struct_size;
  const char* name;             /* shown to operators; null: the program's name */
  uint32_t deadline_ms;         /* of every call that waits; 30000 */
  uint32_t spin_us;             /* how long to look out for an answer before sleeping; 50 */
  size_t arena_bytes;           /* address space for tensors and tails; 256 MiB */
  size_t threads;               /* local placement: threads of attention, the caller's included; 1 */
  size_t embedded_budget_bytes; /* "embedded:" only: budget of the daemon inside; 512 MiB */
} kvant_client_options;

KVANT_API void kvant_client_options_init(kvant_client_options* options, size_t struct_size);

/* `uri`: "unix:PATH" or "PATH" for a daemon's socket, "embedded:" for a daemon inside this process. `options` may be null. */
KVANT_API kvant_code kvant_client_connect(const char* uri, const kvant_client_options* options, kvant_client** client,
                                          kvant_error* error);
/* Another client of the same daemon ("embedded:" included), with the same options, for the calling thread. May be called in any
 * thread while `client` is open. */
KVANT_API kvant_code kvant_client_for_this_thread(const kvant_client* client, kvant_client** made, kvant_error* error);
/* After KVANT_DISCONNECTED: connects to the daemon that answers at the same address now, trying until the deadline. Stores,
 * sequences and tensors opened before answer KVANT_DISCONNECTED for good: open them again. On an error nothing has changed. */
KVANT_API kvant_code kvant_client_reconnect(kvant_client* client, kvant_error* error);
KVANT_API void kvant_client_close(kvant_client* client);
/* The time of one round trip to the daemon, in nanoseconds. */
KVANT_API kvant_code kvant_client_ping(kvant_client* client, uint64_t* nanoseconds, kvant_error* error);

/* What the client did since it connected. */
typedef struct kvant_counters {
  size_t struct_size; /* set by the caller */
  uint64_t rpc_calls;
  uint64_t attend_calls;
  uint64_t tokens_advanced;
  uint64_t bytes_copied;    /* tensor bytes copied by the library or, for it, by the daemon */
  uint64_t bytes_zero_copy; /* tensor bytes that were written in place by the engine */
} kvant_counters;

KVANT_API kvant_code kvant_client_counters(const kvant_client* client, kvant_counters* counters, kvant_error* error);

/* Memory that the daemon sees too, for q, k, v and outputs: [tokens, heads, dim], contiguous, zeroed. */
typedef struct kvant_buffer kvant_buffer;
KVANT_API kvant_code kvant_buffer_allocate(kvant_client* client, size_t tokens, size_t heads, size_t dim,
                                           kvant_element_type type, kvant_buffer** buffer, kvant_error* error);
KVANT_API kvant_tensor kvant_buffer_tensor(const kvant_buffer* buffer); /* null data for a null buffer */
KVANT_API void kvant_buffer_close(kvant_buffer* buffer);

/* ------------------------------------------------------------------------------------------------------------- store */

typedef enum kvant_rope_pairing { KVANT_ROPE_NONE = 0, KVANT_ROPE_HALF_SPLIT = 1, KVANT_ROPE_ADJACENT = 2 } kvant_rope_pairing;

typedef enum kvant_rope_scaling {
  KVANT_ROPE_UNSCALED = 0,
  KVANT_ROPE_LINEAR = 1,  /* factor */
  KVANT_ROPE_DYNAMIC = 2, /* factor, original_positions, context_tokens */
  KVANT_ROPE_YARN = 3,    /* factor, original_positions, beta_fast, beta_slow, truncate, attention_factor */
  KVANT_ROPE_LLAMA3 = 4,  /* factor, original_positions, low_freq_factor, high_freq_factor */
  KVANT_ROPE_LONG = 5     /* factor, original_positions, context_tokens, factors of both lists, attention_factor */
} kvant_rope_scaling;

/* Rotary positions; kvant/rope.h has the formulas and the range of each number. A field that the scaling does not name is not
 * read. */
typedef struct kvant_rope {
  kvant_rope_pairing pairing;
  kvant_rope_scaling scaling;
  double theta;
  uint32_t rotary_dims; /* 0: all of head_dim */
  uint32_t original_positions;
  uint32_t context_tokens;
  int truncate;
  double factor;
  double beta_fast;
  double beta_slow;
  double low_freq_factor;
  double high_freq_factor;
  double attention_factor; /* 0: as the scaling's formula says */
  const double* short_factors;
  const double* long_factors;
  size_t factors; /* in each of the two lists */
} kvant_rope;

typedef enum kvant_key_stage { KVANT_KEYS_AFTER_ROPE = 0, KVANT_KEYS_BEFORE_ROPE = 1 } kvant_key_stage;

#define KVANT_LAST_HEAD 0xFFFFFFFFu

/* Codecs for layers [first_layer, last_layer] and there for KV heads [first_head, last_head], overriding the plan's default. */
typedef struct kvant_layer_plan {
  uint32_t first_layer;
  uint32_t last_layer; /* inclusive */
  uint32_t first_head;
  uint32_t last_head; /* inclusive; KVANT_LAST_HEAD: up to the last there is */
  const char* keys;
  const char* values;
} kvant_layer_plan;

/* Everything that must agree before two processes may share keys and values, and a name; kvant/store_spec.h has the meaning and
 * the limits of each field. Null texts are empty ones. */
typedef struct kvant_store_spec {
  size_t struct_size;
  const char* name;
  const char* model;
  const char* tokenizer;
  const char* adapter;
  const char* salt;
  kvant_rope rope;
  kvant_key_stage key_stage;
  uint32_t layers;
  uint32_t kv_heads;
  uint32_t head_dim;
  kvant_element_type dtype; /* KVANT_BF16 */
  uint32_t block_tokens;    /* 128 */
  uint32_t sink_tokens;     /* 4 */
  const char* keys;         /* codec spec; null: the library's default */
  const char* values;
  const kvant_layer_plan* overrides;
  size_t override_count;
  const void* artifact; /* a safetensors image; null for none */
  size_t artifact_bytes;
} kvant_store_spec;

KVANT_API void kvant_store_spec_init(kvant_store_spec* spec, size_t struct_size);

typedef struct kvant_store kvant_store;
KVANT_API kvant_code kvant_store_open(kvant_client* client, const kvant_store_spec* spec, kvant_store** store,
                                      kvant_error* error);
KVANT_API void kvant_store_close(kvant_store* store);

/* Texts live as long as the store's handle. */
typedef struct kvant_store_info {
  size_t struct_size; /* set by the caller */
  const char* name;
  const char* identity; /* hex digest */
  const char* warning;  /* what the daemon has found wrong with the store so far; empty for nothing */
  int created;          /* by this handle's open */
  int relabelled;       /* the name meant a store of another identity until then */
  uint64_t block_bytes;
  uint64_t logical_block_bytes;
  double key_bits_per_element; /* side information included */
  double value_bits_per_element;
} kvant_store_info;

KVANT_API kvant_code kvant_store_get_info(const kvant_store* store, kvant_store_info* info, kvant_error* error);

/* ---------------------------------------------------------------------------------------------------------- sequence */

typedef enum kvant_placement { KVANT_SERVICE = 0, KVANT_LOCAL = 1 } kvant_placement;

typedef struct kvant_sequence_options {
  size_t struct_size;
  kvant_placement placement;    /* KVANT_SERVICE */
  uint32_t recent_tokens;       /* newest tokens that stay raw; 64 */
  uint32_t max_step_tokens;     /* most tokens of one step; 512 */
  kvant_element_type tail_type; /* of raw rows; KVANT_F16 */
  const char* label;            /* shown to operators */
  uint32_t unnamed_tokens;      /* room in the tail for tokens without ids beside a step; 0 */
  int want_state;               /* open: of the sealed prefixes, the longest at whose end a state stands; 0 */
  uint32_t priority;            /* how much longer its blocks stay once nobody uses them, 0 to 3; 0 */
  const char* policy;           /* which tokens are attended, as SequenceOptions::policy in kvant/client.h; null: all */
} kvant_sequence_options;

KVANT_API void kvant_sequence_options_init(kvant_sequence_options* options, size_t struct_size);

typedef struct kvant_sequence kvant_sequence;

/* Token ids are 0..2^32-1. */
typedef int64_t kvant_token;

/* A sequence that already holds the longest sealed prefix of `tokens`. `options` may be null. */
KVANT_API kvant_code kvant_sequence_open(kvant_store* store, const kvant_token* tokens, size_t count,
                                         const kvant_sequence_options* options, kvant_sequence** sequence, kvant_error* error);
KVANT_API void kvant_sequence_close(kvant_sequence* sequence);

KVANT_API uint64_t kvant_sequence_id(const kvant_sequence* sequence);                /* 0 for null, as all of these */
KVANT_API uint64_t kvant_sequence_length(const kvant_sequence* sequence);            /* tokens held */
KVANT_API uint64_t kvant_sequence_unnamed(const kvant_sequence* sequence);           /* of those, the newest without ids */
KVANT_API uint64_t kvant_sequence_prefix_hit_tokens(const kvant_sequence* sequence); /* of those, found sealed at open */
KVANT_API uint64_t kvant_sequence_kept(const kvant_sequence* sequence);              /* of the length, those attended */
KVANT_API size_t kvant_sequence_reservable(const kvant_sequence* sequence);          /* most tokens of a reserve now */

/* What the calls on one sequence did. */
typedef struct kvant_sequence_counters {
  size_t struct_size; /* set by the caller */
  uint64_t attend_calls;
  uint64_t tokens_advanced;
  uint64_t bytes_copied;
  uint64_t bytes_zero_copy;
} kvant_sequence_counters;

KVANT_API kvant_code kvant_sequence_get_counters(const kvant_sequence* sequence, kvant_sequence_counters* counters,
                                                 kvant_error* error);

/* Rows for exactly the next `tokens` tokens of every layer; kvant_sequence_rows tells where they are. */
KVANT_API kvant_code kvant_sequence_reserve(kvant_sequence* sequence, size_t tokens, kvant_error* error);
/* Where to write the reserved rows of one layer, [tokens, kv_heads, head_dim] of the tail's element type each. Valid until the
 * next kvant_sequence_advance, reserve, trim or rewind. */
KVANT_API kvant_code kvant_sequence_rows(const kvant_sequence* sequence, size_t layer, kvant_tensor* keys, kvant_tensor* values,
                                         kvant_error* error);
/* Copies rows from elsewhere to the reserved ones. */
KVANT_API kvant_code kvant_sequence_append(kvant_sequence* sequence, size_t layer, const kvant_const_tensor* keys,
                                           const kvant_const_tensor* values, kvant_error* error);

typedef struct kvant_attend_args {
  size_t struct_size;
  kvant_const_tensor q;     /* [tokens, q_heads, head_dim] */
  kvant_tensor out;         /* the same shape */
  float* lse;               /* [tokens, q_heads]; null if not wanted */
  const float* sink_logits; /* [q_heads]; null for none */
  float scale;              /* multiplies q.k; required */
  float softcap;            /* 0: off */
  uint32_t window;          /* tokens; 0: unlimited */
} kvant_attend_args;

KVANT_API void kvant_attend_args_init(kvant_attend_args* args, size_t struct_size);

/* As Sequence::Attend in kvant/client.h. */
KVANT_API kvant_code kvant_sequence_attend(kvant_sequence* sequence, size_t layer, const kvant_attend_args* args,
                                           kvant_error* error);
/* Makes `count` reserved tokens part of the sequence. KVANT_STORE_FULL: they are, but a block could not be sealed. */
KVANT_API kvant_code kvant_sequence_advance(kvant_sequence* sequence, const kvant_token* tokens, size_t count,
                                            kvant_error* error);
/* Makes `count` reserved tokens part of the sequence whose ids are not known yet: attended, trimmed and forked like others, but
 * raw and unseen by others until they are named. */
KVANT_API kvant_code kvant_sequence_advance_unnamed(kvant_sequence* sequence, size_t count, kvant_error* error);
/* Gives the oldest unnamed tokens their ids. Errors as kvant_sequence_advance. */
KVANT_API kvant_code kvant_sequence_name(kvant_sequence* sequence, const kvant_token* tokens, size_t count, kvant_error* error);
/* Drops tokens as the policy says, as Sequence::ApplyPolicy in kvant/client.h: call it when a prompt has been read. */
KVANT_API kvant_code kvant_sequence_apply_policy(kvant_sequence* sequence, kvant_error* error);
/* Positions that a KV head attends, ascending: at most `room` of them to `positions`, and how many there are to `count`. */
KVANT_API kvant_code kvant_sequence_kept_tokens(const kvant_sequence* sequence, size_t layer, size_t kv_head,
                                                uint64_t* positions, size_t room, size_t* count, kvant_error* error);
/* An engine's own choice of what a KV head attends, as Sequence::Keep in kvant/client.h. */
KVANT_API kvant_code kvant_sequence_keep(kvant_sequence* sequence, size_t layer, size_t kv_head, const uint64_t* positions,
                                         size_t count, kvant_error* error);
/* Copies the rows of positions [first, first + count) of one layer, as Sequence::CopyRows in kvant/client.h, to `keys` and
 * `values`, [count, kv_heads, head_dim] each; a null one is a side that is not wanted. */
KVANT_API kvant_code kvant_sequence_copy_rows(kvant_sequence* sequence, size_t layer, uint64_t first, size_t count,
                                              const kvant_tensor* keys, const kvant_tensor* values, kvant_error* error);
/* Keeps an engine's private bytes at the present length, a positive multiple of block_tokens, as Sequence::PutState in
 * kvant/client.h. */
KVANT_API kvant_code kvant_sequence_put_state(kvant_sequence* sequence, const void* state, size_t bytes, kvant_error* error);
/* Where the newest state stands and how large it is; KVANT_NOT_FOUND if there is none. */
KVANT_API kvant_code kvant_sequence_find_state(kvant_sequence* sequence, uint64_t* length, size_t* bytes, kvant_error* error);
/* Copies that state; `bytes` must be its size. */
KVANT_API kvant_code kvant_sequence_copy_state(kvant_sequence* sequence, void* to, size_t bytes, kvant_error* error);
KVANT_API kvant_code kvant_sequence_trim(kvant_sequence* sequence, uint64_t length, kvant_error* error);

/* A mark is the length at which it was set; while one is held nothing newer is sealed. */
KVANT_API kvant_code kvant_sequence_set_mark(kvant_sequence* sequence, uint64_t* mark, kvant_error* error);
KVANT_API kvant_code kvant_sequence_rewind(kvant_sequence* sequence, uint64_t mark, kvant_error* error);
KVANT_API kvant_code kvant_sequence_release(kvant_sequence* sequence, uint64_t mark, kvant_error* error);

#define KVANT_WHOLE_LENGTH UINT64_MAX

/* A copy-on-write copy at `length` tokens (KVANT_WHOLE_LENGTH: all), with the same options. */
KVANT_API kvant_code kvant_sequence_fork(kvant_sequence* sequence, uint64_t length, kvant_sequence** fork, kvant_error* error);
/* The same of a live sequence of any process that has this store open. */
KVANT_API kvant_code kvant_store_fork(kvant_store* store, uint64_t source, uint64_t length,
                                      const kvant_sequence_options* options, kvant_sequence** fork, kvant_error* error);

/* ------------------------------------------------------------------------------------------------------ prompt cache */

/* A folder of saved prompts, as PromptCache in kvant/prompt_cache.h. Any thread, one at a time, which is also the owning thread
 * of the stores it is given. */
typedef struct kvant_prompt_cache kvant_prompt_cache;

/* Makes the folder (0700) if it is not there. Its files take `budget_bytes` at most: the one used longest ago makes room. */
KVANT_API kvant_code kvant_prompt_cache_open(const char* folder, uint64_t budget_bytes, kvant_prompt_cache** cache,
                                             kvant_error* error);
KVANT_API void kvant_prompt_cache_close(kvant_prompt_cache* cache);
/* Before kvant_sequence_open: brings the longest prefix of `tokens` that a file has into the store. `found` (may be null) gets
 * its tokens, 0 for none. After an error the store is as it was, and the prompt can be computed. */
KVANT_API kvant_code kvant_prompt_cache_load(kvant_prompt_cache* cache, kvant_store* store, const kvant_token* tokens,
                                             size_t count, uint64_t* found, kvant_error* error);
/* Saves the sealed blocks of a sequence of that store, which holds `tokens`. `saved_bytes` (may be null) gets the file's size,
 * 0 if a file had them already or there is no whole block. */
KVANT_API kvant_code kvant_prompt_cache_save(kvant_prompt_cache* cache, kvant_store* store, const kvant_sequence* sequence,
                                             const kvant_token* tokens, size_t count, uint64_t* saved_bytes,
                                             kvant_error* error);

#ifdef __cplusplus
}
#endif
