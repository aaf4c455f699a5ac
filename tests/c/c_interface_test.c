/* The C interface (kvant/c.h) from C: c_interface_test CASE. Each case runs against a daemon inside this process. */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <kvant/c.h>

enum { kLayers = 2, kKvHeads = 2, kQHeads = 4, kDim = 32, kBlock = 16 };

static kvant_error error;

#define CHECK(condition)                                                                              \
  do {                                                                                                \
    if (!(condition)) {                                                                               \
      fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition, error.message); \
      exit(1);                                                                                        \
    }                                                                                                 \
  } while (0)
#define OK(call) CHECK((call) == KVANT_OK)

/* One number of the make-believe model, in -1..1. */
static float Number(unsigned side, size_t layer, size_t head, size_t position, size_t i) {
  return sinf(0.37f * (float)(i + 1) * (1.0f + 0.1f * (float)(side + layer)) + 0.71f * (float)position + 1.3f * (float)head);
}

static kvant_client* Connect(void) {
  kvant_client* client = NULL;
  OK(kvant_client_connect("embedded:", NULL, &client, &error));
  return client;
}

static kvant_store_spec Spec(const char* codec) {
  kvant_store_spec spec;
  kvant_store_spec_init(&spec, sizeof(spec));
  spec.name = "c-test";
  spec.model = "sines";
  spec.tokenizer = "none";
  spec.layers = kLayers;
  spec.kv_heads = kKvHeads;
  spec.head_dim = kDim;
  spec.dtype = KVANT_F32;
  spec.block_tokens = kBlock;
  spec.keys = codec;
  spec.values = codec;
  return spec;
}

static kvant_store* OpenStore(kvant_client* client, const char* codec) {
  const kvant_store_spec spec = Spec(codec);
  kvant_store* store = NULL;
  OK(kvant_store_open(client, &spec, &store, &error));
  return store;
}

static kvant_sequence* Open(kvant_store* store, const kvant_token* tokens, size_t count) {
  kvant_sequence_options options;
  kvant_sequence_options_init(&options, sizeof(options));
  options.recent_tokens = kBlock;
  options.max_step_tokens = 8;
  options.tail_type = KVANT_F32;
  options.placement = KVANT_LOCAL;
  kvant_sequence* sequence = NULL;
  OK(kvant_sequence_open(store, tokens, count, &options, &sequence, &error));
  return sequence;
}

static void Fill(const kvant_tensor* rows, unsigned side, size_t layer, size_t first) {
  for (size_t t = 0; t < rows->tokens; ++t) {
    for (size_t h = 0; h < rows->heads; ++h) {
      float* row = (float*)rows->data + t * rows->token_stride + h * rows->head_stride;
      for (size_t i = 0; i < rows->dim; ++i) row[i] = Number(side, layer, h, first + t, i);
    }
  }
}

/* Adds tokens up to `length`, `step` at a time; the id of each is its position. */
static void Feed(kvant_sequence* sequence, size_t length, size_t step) {
  while (kvant_sequence_length(sequence) < length) {
    const size_t first = (size_t)kvant_sequence_length(sequence);
    const size_t count = length - first < step ? length - first : step;
    OK(kvant_sequence_reserve(sequence, count, &error));
    kvant_token tokens[8];
    for (size_t i = 0; i < count; ++i) tokens[i] = (kvant_token)(first + i);
    for (size_t layer = 0; layer < kLayers; ++layer) {
      kvant_tensor keys, values;
      OK(kvant_sequence_rows(sequence, layer, &keys, &values, &error));
      CHECK(keys.tokens == count && keys.heads == kKvHeads && keys.dim == kDim);
      Fill(&keys, 0, layer, first);
      Fill(&values, 1, layer, first);
    }
    OK(kvant_sequence_advance(sequence, tokens, count, &error));
  }
}

/* Probes one layer and compares with softmax attention in double. Answers the largest difference. */
static double Probe(kvant_client* client, kvant_sequence* sequence, size_t layer) {
  const size_t length = (size_t)kvant_sequence_length(sequence);
  kvant_buffer *q = NULL, *out = NULL;
  OK(kvant_buffer_allocate(client, 1, kQHeads, kDim, KVANT_F32, &q, &error));
  OK(kvant_buffer_allocate(client, 1, kQHeads, kDim, KVANT_F32, &out, &error));
  const kvant_tensor queries = kvant_buffer_tensor(q);
  Fill(&queries, 2, layer, length);
  float lse[kQHeads];
  kvant_attend_args args;
  kvant_attend_args_init(&args, sizeof(args));
  args.q = (kvant_const_tensor){queries.data, queries.type,         queries.tokens,     queries.heads,
                                queries.dim,  queries.token_stride, queries.head_stride};
  args.out = kvant_buffer_tensor(out);
  args.lse = lse;
  args.scale = 0.25f;
  OK(kvant_sequence_attend(sequence, layer, &args, &error));
  double largest = 0;
  for (size_t head = 0; head < kQHeads; ++head) {
    const size_t kv_head = head * kKvHeads / kQHeads;
    double sum = 0, expected[kDim] = {0};
    for (size_t p = 0; p < length; ++p) {
      double logit = 0;
      for (size_t i = 0; i < kDim; ++i)
        logit += (double)Number(2, layer, head, length, i) * (double)Number(0, layer, kv_head, p, i);
      const double weight = exp(0.25 * logit);
      sum += weight;
      for (size_t i = 0; i < kDim; ++i) expected[i] += weight * (double)Number(1, layer, kv_head, p, i);
    }
    const float* answer = (const float*)args.out.data + head * args.out.head_stride;
    for (size_t i = 0; i < kDim; ++i) largest = fmax(largest, fabs((double)answer[i] - expected[i] / sum));
    largest = fmax(largest, fabs((double)lse[head] - log(sum)));
  }
  kvant_buffer_close(q);
  kvant_buffer_close(out);
  return largest;
}

/* f32 sums of some hundred products of magnitude 1. */
static const double kTolerance = 1e-5;

static void Attention(void) {
  kvant_client* client = Connect();
  kvant_store* store = OpenStore(client, "f32");
  kvant_sequence* sequence = Open(store, NULL, 0);
  Feed(sequence, 100, 7); /* steps that cross the ring's end, too */
  for (size_t layer = 0; layer < kLayers; ++layer) CHECK(Probe(client, sequence, layer) < kTolerance);
  kvant_counters counters = {.struct_size = sizeof(counters)};
  OK(kvant_client_counters(client, &counters, &error));
  CHECK(counters.tokens_advanced == 100 && counters.attend_calls == kLayers && counters.bytes_copied == 0);
  uint64_t nanoseconds = 0;
  OK(kvant_client_ping(client, &nanoseconds, &error));
  CHECK(nanoseconds > 0);
  kvant_client_close(client); /* in any order: the sequence keeps what it needs */
  CHECK(kvant_sequence_length(sequence) == 100);
  kvant_sequence_close(sequence);
  kvant_store_close(store);
}

static void Sharing(void) {
  kvant_client* client = Connect();
  kvant_store* store = OpenStore(client, "int8");
  kvant_store_info info = {.struct_size = sizeof(info)};
  OK(kvant_store_get_info(store, &info, &error));
  CHECK(info.created && strlen(info.identity) == 32 && strcmp(info.name, "c-test") == 0 && info.warning[0] == '\0');
  CHECK(info.key_bits_per_element == 8.5); /* a 16-bit scale for 32 numbers */
  kvant_sequence* first = Open(store, NULL, 0);
  Feed(first, 100, 8);
  kvant_token tokens[100];
  for (size_t i = 0; i < 100; ++i) tokens[i] = (kvant_token)i;
  kvant_sequence* second = Open(store, tokens, 100);
  const uint64_t hit = kvant_sequence_prefix_hit_tokens(second);
  CHECK(hit >= 64 && hit % kBlock == 0 && kvant_sequence_length(second) == hit);
  kvant_sequence* fork = NULL;
  OK(kvant_sequence_fork(first, 90, &fork, &error));
  CHECK(kvant_sequence_length(fork) == 90);
  kvant_sequence* whole = NULL;
  OK(kvant_store_fork(store, kvant_sequence_id(first), KVANT_WHOLE_LENGTH, NULL, &whole, &error));
  CHECK(kvant_sequence_length(whole) == 100);
  kvant_sequence_close(whole);
  kvant_sequence_close(fork);
  kvant_sequence_close(second);
  kvant_sequence_close(first);
  kvant_store_close(store);
  kvant_client_close(client);
}

/* A policy, what it keeps, and an engine's own choice. */
static void Policy(void) {
  kvant_client* client = Connect();
  kvant_store* store = OpenStore(client, "f32");
  kvant_sequence_options options;
  kvant_sequence_options_init(&options, sizeof(options));
  options.policy = "window:tokens=10,sinks=2";
  kvant_sequence* sequence = NULL;
  OK(kvant_sequence_open(store, NULL, 0, &options, &sequence, &error));
  OK(kvant_sequence_reserve(sequence, 20, &error));
  for (size_t layer = 0; layer < kLayers; ++layer) {
    kvant_tensor keys, values;
    OK(kvant_sequence_rows(sequence, layer, &keys, &values, &error));
    for (size_t t = 0; t < 20; ++t) {
      for (size_t h = 0; h < kKvHeads; ++h) {
        memset((char*)keys.data + (t * keys.token_stride + h * keys.head_stride) * 2, 0, kDim * 2);
        memset((char*)values.data + (t * values.token_stride + h * values.head_stride) * 2, 0, kDim * 2);
      }
    }
  }
  kvant_token tokens[20] = {0};
  OK(kvant_sequence_advance(sequence, tokens, 20, &error));
  OK(kvant_sequence_apply_policy(sequence, &error));
  CHECK(kvant_sequence_length(sequence) == 20 && kvant_sequence_kept(sequence) == 12);
  uint64_t positions[3] = {0};
  size_t count = 0;
  OK(kvant_sequence_kept_tokens(sequence, 1, 1, positions, 3, &count, &error));
  CHECK(count == 12 && positions[0] == 0 && positions[1] == 1 && positions[2] == 10);
  CHECK(kvant_sequence_keep(sequence, 0, 0, positions, 3, &error) == KVANT_INVALID_ARGUMENT);
  kvant_sequence_close(sequence);
  options.policy = "window:tokens=0";
  CHECK(kvant_sequence_open(store, NULL, 0, &options, &sequence, &error) == KVANT_INVALID_ARGUMENT);
  CHECK(strstr(error.message, "tokens=0") != NULL);
  kvant_store_close(store);
  kvant_client_close(client);
}

/* One process computes a prompt and saves it; the next one, with a daemon of its own, finds it. */
static void PromptCache(void) {
  char folder[] = "/tmp/kvant-c-prompts.XXXXXX";
  CHECK(mkdtemp(folder) != NULL);
  char missing[64], command[64];
  CHECK(snprintf(missing, sizeof(missing), "%s/no/such", folder) > 0);
  CHECK(snprintf(command, sizeof(command), "rm -r %s", folder) > 0);
  kvant_token tokens[8 * kBlock]; /* of which 5 blocks are the prompt; those are sealed by the time that all are there */
  for (size_t i = 0; i < 8 * kBlock; ++i) tokens[i] = (kvant_token)i;
  double computed = 0;
  for (int process = 0; process < 2; ++process) {
    kvant_client* client = Connect();
    kvant_store* store = OpenStore(client, "int8");
    kvant_prompt_cache* cache = NULL;
    OK(kvant_prompt_cache_open(folder, 1 << 20, &cache, &error));
    uint64_t found = 77, saved = 77;
    OK(kvant_prompt_cache_load(cache, store, tokens, 5 * kBlock, &found, &error));
    CHECK(found == (process == 0 ? 0 : 5 * kBlock));
    kvant_sequence* sequence = Open(store, tokens, 5 * kBlock);
    CHECK(kvant_sequence_prefix_hit_tokens(sequence) == found);
    Feed(sequence, 8 * kBlock, 8);
    OK(kvant_sequence_trim(sequence, 8 * kBlock, &error)); /* returns when all that is due is sealed */
    const double worst = Probe(client, sequence, 1);
    CHECK(process == 0 || worst == computed); /* the same codes: the same bits */
    computed = worst;
    CHECK(kvant_prompt_cache_save(cache, store, sequence, tokens, kBlock, &saved, &error) == KVANT_INVALID_ARGUMENT);
    CHECK(strstr(error.message, "sealed blocks") != NULL && saved == 77);
    OK(kvant_prompt_cache_save(cache, store, sequence, tokens, 8 * kBlock, &saved, &error));
    CHECK(process == 0 ? saved > 0 : saved == 0);
    OK(kvant_prompt_cache_save(cache, store, sequence, tokens, 8 * kBlock, NULL, &error));
    OK(kvant_prompt_cache_load(cache, store, tokens, 5 * kBlock, NULL, &error));
    OK(kvant_prompt_cache_load(cache, store, NULL, 0, &found, &error));
    CHECK(found == 0);
    CHECK(kvant_prompt_cache_load(cache, NULL, tokens, 1, &found, &error) == KVANT_INVALID_ARGUMENT);
    CHECK(kvant_prompt_cache_load(NULL, store, tokens, 1, &found, &error) == KVANT_INVALID_ARGUMENT);
    CHECK(kvant_prompt_cache_load(cache, store, NULL, 1, &found, &error) == KVANT_INVALID_ARGUMENT);
    CHECK(kvant_prompt_cache_save(cache, store, NULL, tokens, 1, &saved, &error) == KVANT_INVALID_ARGUMENT);
    CHECK(kvant_prompt_cache_save(cache, store, sequence, NULL, 1, &saved, &error) == KVANT_INVALID_ARGUMENT);
    kvant_sequence_close(sequence);
    kvant_prompt_cache_close(cache);
    kvant_store_close(store);
    kvant_client_close(client);
  }
  kvant_prompt_cache* none = NULL;
  CHECK(kvant_prompt_cache_open(missing, 1 << 20, &none, &error) == KVANT_SYSTEM && none == NULL);
  CHECK(strstr(error.message, missing) != NULL);
  CHECK(kvant_prompt_cache_open(folder, 0, &none, &error) == KVANT_INVALID_ARGUMENT);
  CHECK(kvant_prompt_cache_open(NULL, 1, &none, &error) == KVANT_INVALID_ARGUMENT);
  kvant_prompt_cache_close(NULL);
  CHECK(system(command) == 0);
}

static void Unnamed(void) {
  kvant_client* client = Connect();
  kvant_store* store = OpenStore(client, "f32");
  kvant_sequence* sequence = Open(store, NULL, 0);
  Feed(sequence, 20, 8);
  OK(kvant_sequence_reserve(sequence, 5, &error));
  for (size_t layer = 0; layer < kLayers; ++layer) {
    kvant_tensor keys, values;
    OK(kvant_sequence_rows(sequence, layer, &keys, &values, &error));
    Fill(&keys, 0, layer, 20);
    Fill(&values, 1, layer, 20);
  }
  OK(kvant_sequence_advance_unnamed(sequence, 5, &error));
  CHECK(kvant_sequence_length(sequence) == 25 && kvant_sequence_unnamed(sequence) == 5);
  CHECK(Probe(client, sequence, 1) < kTolerance);
  const kvant_token ids[6] = {20, 21, 22, 23, 24, 25};
  CHECK(kvant_sequence_name(sequence, ids, 6, &error) == KVANT_INVALID_ARGUMENT);
  OK(kvant_sequence_name(sequence, ids, 5, &error));
  CHECK(kvant_sequence_length(sequence) == 25 && kvant_sequence_unnamed(sequence) == 0);
  Feed(sequence, 60, 8);
  CHECK(Probe(client, sequence, 0) < kTolerance);
  kvant_sequence_close(sequence);
  kvant_store_close(store);
  kvant_client_close(client);
}

static void Marks(void) {
  kvant_client* client = Connect();
  kvant_store* store = OpenStore(client, "f32");
  kvant_sequence* sequence = Open(store, NULL, 0);
  Feed(sequence, 50, 8);
  uint64_t mark = 0;
  OK(kvant_sequence_set_mark(sequence, &mark, &error));
  CHECK(mark == 50);
  Feed(sequence, 60, 8);
  OK(kvant_sequence_rewind(sequence, mark, &error));
  CHECK(kvant_sequence_length(sequence) == 50);
  OK(kvant_sequence_release(sequence, mark, &error));
  CHECK(kvant_sequence_release(sequence, mark, &error) == KVANT_NOT_FOUND);
  OK(kvant_sequence_trim(sequence, 33, &error));
  Feed(sequence, 70, 5);
  CHECK(Probe(client, sequence, 1) < kTolerance);
  kvant_sequence_close(sequence);
  kvant_store_close(store);
  kvant_client_close(client);
}

static void States(void) {
  kvant_client* client = Connect();
  kvant_store* store = OpenStore(client, "int8");
  kvant_sequence* sequence = Open(store, NULL, 0);
  uint64_t length = 0;
  size_t bytes = 0;
  const char state[] = "what a recurrent layer holds";
  CHECK(kvant_sequence_find_state(sequence, &length, &bytes, &error) == KVANT_NOT_FOUND);
  CHECK(kvant_sequence_put_state(sequence, state, sizeof(state), &error) == KVANT_INVALID_ARGUMENT); /* no block ends here */
  Feed(sequence, 2 * kBlock, 8);
  OK(kvant_sequence_put_state(sequence, state, sizeof(state), &error));
  Feed(sequence, 100, 8);
  kvant_token tokens[100];
  for (size_t i = 0; i < 100; ++i) tokens[i] = (kvant_token)i;
  kvant_sequence_options options;
  kvant_sequence_options_init(&options, sizeof(options));
  options.want_state = 1;
  kvant_sequence* found = NULL;
  OK(kvant_sequence_open(store, tokens, 100, &options, &found, &error));
  CHECK(kvant_sequence_length(found) == 2 * kBlock);
  OK(kvant_sequence_find_state(found, &length, &bytes, &error));
  CHECK(length == 2 * kBlock && bytes == sizeof(state));
  char copy[sizeof(state)];
  OK(kvant_sequence_copy_state(found, copy, sizeof(copy), &error));
  CHECK(memcmp(copy, state, sizeof(state)) == 0);
  CHECK(kvant_sequence_copy_state(found, copy, 1, &error) == KVANT_INVALID_ARGUMENT);
  kvant_sequence_close(found);
  options.priority = 3;
  OK(kvant_sequence_open(store, tokens, 100, &options, &found, &error));
  kvant_sequence_close(found);
  options.priority = 256; /* and not 0 */
  CHECK(kvant_sequence_open(store, tokens, 100, &options, &found, &error) == KVANT_INVALID_ARGUMENT);
  kvant_sequence_close(sequence);
  kvant_store_close(store);
  kvant_client_close(client);
}

static void Rows(void) {
  kvant_client* client = Connect();
  kvant_store* store = OpenStore(client, "f32"); /* without loss: blocks decode to what was written */
  kvant_sequence* sequence = Open(store, NULL, 0);
  Feed(sequence, 100, 8);
  static float rows[60][kKvHeads][kDim];
  const kvant_tensor out = {rows, KVANT_F32, 60, kKvHeads, kDim, kKvHeads * kDim, kDim};
  for (unsigned side = 0; side < 2; ++side) {
    memset(rows, 0, sizeof(rows));
    OK(kvant_sequence_copy_rows(sequence, 1, 40, 60, side == 0 ? &out : NULL, side == 1 ? &out : NULL, &error));
    for (size_t t = 0; t < 60; ++t) {
      for (size_t h = 0; h < kKvHeads; ++h) {
        for (size_t i = 0; i < kDim; ++i) CHECK(rows[t][h][i] == Number(side, 1, h, 40 + t, i));
      }
    }
  }
  CHECK(kvant_sequence_copy_rows(sequence, 1, 41, 60, &out, NULL, &error) == KVANT_OUT_OF_RANGE);
  CHECK(kvant_sequence_copy_rows(sequence, 1, 40, 60, NULL, NULL, &error) == KVANT_INVALID_ARGUMENT);
  CHECK(kvant_sequence_copy_rows(NULL, 1, 40, 60, &out, NULL, &error) == KVANT_INVALID_ARGUMENT);
  kvant_sequence_close(sequence);
  kvant_store_close(store);
  kvant_client_close(client);
}

static void Errors(void) {
  kvant_client* client = Connect();
  kvant_store* store = OpenStore(client, "f32");
  kvant_sequence* sequence = Open(store, NULL, 0);
  kvant_tensor keys, values;
  CHECK(kvant_sequence_rows(sequence, 0, &keys, &values, &error) == KVANT_INVALID_ARGUMENT);
  CHECK(kvant_sequence_reserve(sequence, 9, &error) == KVANT_OUT_OF_RANGE && strstr(error.message, "max_step_tokens") != NULL);
  CHECK(kvant_sequence_reservable(sequence) == 8);
  OK(kvant_sequence_reserve(sequence, 2, &error));
  CHECK(kvant_sequence_rows(sequence, kLayers, &keys, &values, &error) == KVANT_OUT_OF_RANGE);
  const kvant_token tokens[3] = {1, 2, 3};
  CHECK(kvant_sequence_advance(sequence, tokens, 3, &error) == KVANT_INVALID_ARGUMENT);
  CHECK(kvant_sequence_advance(sequence, tokens, 3, NULL) == KVANT_INVALID_ARGUMENT); /* an error that nobody wants */
  CHECK(kvant_sequence_length(sequence) == 0);
  CHECK(kvant_sequence_trim(sequence, 1, &error) == KVANT_OUT_OF_RANGE);
  /* Nulls. */
  CHECK(kvant_sequence_advance(NULL, tokens, 1, &error) == KVANT_INVALID_ARGUMENT);
  CHECK(kvant_sequence_advance(sequence, NULL, 1, &error) == KVANT_INVALID_ARGUMENT);
  CHECK(kvant_client_connect(NULL, NULL, &client, &error) == KVANT_INVALID_ARGUMENT);
  CHECK(kvant_store_open(client, NULL, &store, &error) == KVANT_INVALID_ARGUMENT);
  CHECK(kvant_sequence_length(NULL) == 0 && kvant_buffer_tensor(NULL).data == NULL);
  kvant_sequence_close(NULL);
  kvant_buffer_close(NULL);
  kvant_store_close(NULL);
  kvant_client_close(NULL);
  /* A daemon that is not there, a codec that is unknown, numbers that are none. */
  kvant_client* nobody = NULL;
  CHECK(kvant_client_connect("unix:/nowhere/kvantd.sock", NULL, &nobody, &error) == KVANT_DISCONNECTED && nobody == NULL);
  kvant_store_spec spec = Spec("no_such_codec");
  kvant_store* other = NULL;
  CHECK(kvant_store_open(client, &spec, &other, &error) == KVANT_INVALID_ARGUMENT && strstr(error.message, "no_such_codec"));
  spec = Spec("f32");
  spec.rope.scaling = (kvant_rope_scaling)9;
  CHECK(kvant_store_open(client, &spec, &other, &error) == KVANT_INVALID_ARGUMENT && strstr(error.message, "9"));
  CHECK(strcmp(kvant_code_name(KVANT_TAIL_FULL), "tail_full") == 0 && strcmp(kvant_code_name((kvant_code)99), "unknown") == 0);
  kvant_sequence_close(sequence);
  kvant_store_close(store);
  kvant_client_close(client);
}

/* Programs built against older and newer headers: structs that are shorter or longer than the library's. */
static void Structs(void) {
  struct {
    kvant_client_options known;
    size_t unknown;
  } longer;
  memset(&longer, 0xAB, sizeof(longer));
  kvant_client_options_init(&longer.known, sizeof(longer));
  CHECK(longer.known.struct_size == sizeof(longer) && longer.known.deadline_ms == 30000 && longer.unknown == 0);
  kvant_client* client = NULL;
  OK(kvant_client_connect("embedded:", &longer.known, &client, &error));
  longer.unknown = 1; /* asks for something that this library does not know */
  kvant_client* other = NULL;
  CHECK(kvant_client_connect("embedded:", &longer.known, &other, &error) == KVANT_INVALID_ARGUMENT);

  kvant_sequence_options options;
  memset(&options, 0xAB, sizeof(options));
  const size_t shorter = offsetof(kvant_sequence_options, tail_type);
  kvant_sequence_options_init(&options, shorter);
  CHECK(options.struct_size == shorter && options.max_step_tokens == 512);
  unsigned char rest[sizeof(options) - sizeof(size_t)];
  memcpy(rest, (const unsigned char*)&options + shorter, sizeof(options) - shorter);
  for (size_t i = 0; i < sizeof(options) - shorter; ++i) CHECK(rest[i] == 0xAB); /* not written beyond its size */
  kvant_store* store = OpenStore(client, "f32");
  kvant_sequence* sequence = NULL;
  OK(kvant_sequence_open(store, NULL, 0, &options, &sequence, &error)); /* the default's tail type, not garbage */
  options.struct_size = 0;
  CHECK(kvant_sequence_open(store, NULL, 0, &options, &sequence, &error) == KVANT_INVALID_ARGUMENT);
  kvant_counters counters;
  memset(&counters, 0xAB, sizeof(counters));
  counters.struct_size = offsetof(kvant_counters, tokens_advanced);
  OK(kvant_client_counters(client, &counters, &error));
  CHECK(counters.attend_calls == 0 && counters.tokens_advanced == 0xABABABABABABABABu);
  kvant_sequence_close(sequence);
  kvant_store_close(store);
  kvant_client_close(client);
}

static kvant_client* shared_client;

static void* ReserveElsewhere(void* sequence) {
  kvant_error in_thread;
  const kvant_code code = kvant_sequence_reserve(sequence, 1, &in_thread);
  kvant_client* client = Connect(); /* a thread may have a client of its own */
  kvant_client_close(client);
  kvant_client* same = NULL; /* and one of another thread's daemon */
  OK(kvant_client_for_this_thread(shared_client, &same, &in_thread));
  kvant_store* store = OpenStore(same, "f32");
  kvant_store_info info = {.struct_size = sizeof(info)};
  OK(kvant_store_get_info(store, &info, &in_thread));
  CHECK(!info.created);
  OK(kvant_client_reconnect(same, &in_thread)); /* what was opened before stays with the old connection */
  CHECK(kvant_client_reconnect(shared_client, &in_thread) == KVANT_WRONG_THREAD);
  CHECK(kvant_client_reconnect(NULL, &in_thread) == KVANT_INVALID_ARGUMENT);
  kvant_store_close(store);
  kvant_client_close(same);
  kvant_sequence_close(sequence); /* and may close what is another's */
  return code == KVANT_WRONG_THREAD ? sequence : NULL;
}

static void Threads(void) {
  kvant_client* client = Connect();
  kvant_store* store = OpenStore(client, "f32");
  kvant_sequence* sequence = Open(store, NULL, 0);
  kvant_sequence_counters counters = {.struct_size = sizeof(counters)};
  Feed(sequence, 10, 8);
  OK(kvant_sequence_get_counters(sequence, &counters, &error));
  CHECK(counters.tokens_advanced == 10 && counters.attend_calls == 0 && counters.bytes_copied == 0);
  shared_client = client;
  pthread_t thread;
  void* answer = NULL;
  CHECK(pthread_create(&thread, NULL, ReserveElsewhere, sequence) == 0);
  CHECK(pthread_join(thread, &answer) == 0 && answer == sequence);
  kvant_store_close(store);
  kvant_client_close(client);
}

static void Fork(void) {
  kvant_client* client = Connect();
  kvant_store* store = OpenStore(client, "f32");
  kvant_sequence* sequence = Open(store, NULL, 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    kvant_error in_child;
    _exit(kvant_sequence_reserve(sequence, 1, &in_child) == KVANT_DISCONNECTED ? 0 : 1);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  Feed(sequence, 20, 8);
  kvant_sequence_close(sequence);
  kvant_store_close(store);
  kvant_client_close(client);
}

int main(int argc, char** argv) {
  static const struct {
    const char* name;
    void (*run)(void);
  } kCases[] = {{"attention", Attention}, {"sharing", Sharing}, {"marks", Marks},   {"rows", Rows},
                {"unnamed", Unnamed},     {"policy", Policy},   {"states", States}, {"errors", Errors},
                {"structs", Structs},     {"threads", Threads}, {"fork", Fork},     {"prompt_cache", PromptCache}};
  for (size_t i = 0; argc == 2 && i < sizeof(kCases) / sizeof(kCases[0]); ++i) {
    if (strcmp(argv[1], kCases[i].name) == 0) {
      kCases[i].run();
      return 0;
    }
  }
  fprintf(stderr,
          "usage: c_interface_test attention|sharing|marks|rows|unnamed|policy|states|errors|structs|threads|fork|"
          "prompt_cache\n");
  return 2;
}
