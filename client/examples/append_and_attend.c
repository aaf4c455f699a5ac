/* A tour of the C interface in one page: keys and values in, attention out, and the second reader finds the first one's work.
 *
 *   append_and_attend_c [unix:PATH]        (without an argument the daemon runs inside this process) */
#include <math.h>
#include <stdio.h>

#include <kvant/c.h>

enum { kTokens = 300, kHeads = 2, kDim = 64 };

/* Stands for a model: some smooth numbers. */
static void FillRows(const kvant_tensor* rows, size_t first_token) {
  for (size_t t = 0; t < rows->tokens; ++t) {
    for (size_t h = 0; h < rows->heads; ++h) {
      float* row = (float*)rows->data + t * rows->token_stride + h * rows->head_stride;
      for (size_t i = 0; i < rows->dim; ++i) {
        row[i] = sinf(0.1f * (float)(first_token + t + 1) + 0.3f * (float)(h * kDim + i));
      }
    }
  }
}

static kvant_code Feed(kvant_sequence* sequence, const kvant_token* tokens, kvant_error* error) {
  while (kvant_sequence_length(sequence) < kTokens) {
    const size_t length = (size_t)kvant_sequence_length(sequence);
    const size_t most = kvant_sequence_reservable(sequence);
    const size_t step = kTokens - length < most ? kTokens - length : most;
    kvant_tensor keys;
    kvant_tensor values;
    kvant_code code = kvant_sequence_reserve(sequence, step, error); /* rows in shared memory: written in place */
    if (code == KVANT_OK) code = kvant_sequence_rows(sequence, 0, &keys, &values, error);
    if (code != KVANT_OK) return code;
    FillRows(&keys, length);
    FillRows(&values, length);
    code = kvant_sequence_advance(sequence, tokens + length, step, error);
    if (code != KVANT_OK) return code;
  }
  return KVANT_OK;
}

static kvant_code Read(kvant_client* client, kvant_store* store, const char* reader, kvant_error* error) {
  kvant_token tokens[kTokens];
  for (size_t i = 0; i < kTokens; ++i) tokens[i] = 7;
  kvant_sequence_options options;
  kvant_sequence_options_init(&options, sizeof(options));
  options.tail_type = KVANT_F32;
  kvant_sequence* sequence = NULL;
  kvant_buffer* q = NULL;
  kvant_buffer* out = NULL;
  kvant_code code = kvant_sequence_open(store, tokens, kTokens, &options, &sequence, error);
  if (code == KVANT_OK) {
    printf("%s reader: %zu tokens found\n", reader, (size_t)kvant_sequence_prefix_hit_tokens(sequence));
    code = kvant_buffer_allocate(client, 1, kHeads, kDim, KVANT_F32, &q, error);
  }
  if (code == KVANT_OK) code = kvant_buffer_allocate(client, 1, kHeads, kDim, KVANT_F32, &out, error);
  if (code == KVANT_OK) code = Feed(sequence, tokens, error);
  if (code == KVANT_OK) {
    const kvant_tensor question = kvant_buffer_tensor(q);
    FillRows(&question, kTokens);
    kvant_attend_args args;
    kvant_attend_args_init(&args, sizeof(args));
    args.q = (kvant_const_tensor){question.data,         question.type,        question.tokens, question.heads, question.dim,
                                  question.token_stride, question.head_stride};
    args.out = kvant_buffer_tensor(out);
    args.scale = 0.125f;
    code = kvant_sequence_attend(sequence, 0, &args, error);
  }
  if (code == KVANT_OK) {
    const float* answer = (const float*)kvant_buffer_tensor(out).data;
    kvant_counters counters = {.struct_size = sizeof(counters)};
    code = kvant_client_counters(client, &counters, error);
    printf("%s reader: output starts %.4f %.4f %.4f; %zu tensor bytes copied so far\n", reader, answer[0], answer[1], answer[2],
           (size_t)counters.bytes_copied);
  }
  kvant_buffer_close(out);
  kvant_buffer_close(q);
  kvant_sequence_close(sequence);
  return code;
}

int main(int argc, char** argv) {
  kvant_error error = {KVANT_OK, ""};
  kvant_client* client = NULL;
  kvant_store* store = NULL;
  kvant_code code = kvant_client_connect(argc > 1 ? argv[1] : "embedded:", NULL, &client, &error);
  if (code == KVANT_OK) {
    kvant_store_spec spec;
    kvant_store_spec_init(&spec, sizeof(spec));
    spec.name = "tour";
    spec.model = "smooth numbers";
    spec.tokenizer = "none";
    spec.layers = 1;
    spec.kv_heads = kHeads;
    spec.head_dim = kDim;
    spec.dtype = KVANT_F32;
    code = kvant_store_open(client, &spec, &store, &error);
  }
  if (code == KVANT_OK) code = Read(client, store, "first", &error);
  if (code == KVANT_OK) code = Read(client, store, "second", &error);
  kvant_store_close(store);
  kvant_client_close(client);
  if (code != KVANT_OK) fprintf(stderr, "append_and_attend_c: %s: %s\n", kvant_code_name(code), error.message);
  return code == KVANT_OK ? 0 : 1;
}
