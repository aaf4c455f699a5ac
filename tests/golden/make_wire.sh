#!/bin/sh
# Writes the golden messages of tests/protocol/wire_golden_test.cc with the schema compiler's own encoder.
# Run it from the root of the tree, and only when a new message is added: what is here must never change.
set -eu
encode() {
  capnp encode -I /usr/include protocol/schema/kvant.capnp "$1" | od -An -v -tx1 -w8 | sed 's/^ //' >"tests/golden/$2.capnp.hex"
}
echo '(protocolVersion = 1, segmentLayoutVersion = 2, bootToken = 0x1122334455667788, clientName = "golden")' | encode Hello wire_hello
echo '(sequence = 0x0102030405060708, layer = 9, newTokens = 10,
  q = (arena = 1, elementType = bf16, offset = 4096, tokens = 2, heads = 3, dim = 4, tokenStride = 12, headStride = 5),
  out = (arena = 6, elementType = f16, offset = 8192, tokens = 7, heads = 8, dim = 9, tokenStride = 72, headStride = 10),
  lse = (arena = 11, offset = 12288, bytes = 24), sinkLogits = (arena = 13, offset = 16384, bytes = 12),
  scale = 0.5, softcap = 30, window = 14)' | encode AttendItem wire_attend
echo '(name = "n", model = "m", tokenizer = "t", adapter = "a", salt = "s",
  rope = (pairing = halfSplit, theta = 10000, rotaryDims = 16,
    scaling = (yarn = (factor = 4, originalPositions = 8192, betaFast = 32, betaSlow = 1, truncate = true, attentionFactor = 1.25))),
  keyStage = beforeRope, layers = 2, kvHeads = 3, headDim = 64, dtype = bf16, blockTokens = 32, sinkTokens = 4, keys = "k", values = "v",
  overrides = [(firstLayer = 1, lastLayer = 2, firstHead = 3, lastHead = 4, keys = "f16", values = "f32")], artifact = (arena = 5, offset = 6, bytes = 7))' |
  encode StoreSpec wire_store_spec
echo '(pairing = adjacent, theta = 20000, rotaryDims = 4, scaling = (long = (factor = 2, originalPositions = 3, contextTokens = 5,
  shortFactors = [1, 1.5], longFactors = [2, 2.5], attentionFactor = 1.125)))' | encode Rope wire_rope_long
echo '(pairing = adjacent, theta = 20000, rotaryDims = 4, scaling = (llama3 = (factor = 8, originalPositions = 8192, lowFreqFactor = 1,
  highFreqFactor = 4)))' | encode Rope wire_rope_llama3
echo '(pairing = adjacent, theta = 20000, rotaryDims = 4, scaling = (dynamic = (factor = 2, originalPositions = 4096,
  contextTokens = 16384)))' | encode Rope wire_rope_dynamic
echo '(length = 100, switchedBlocks = 3, table = (first = 2, blocks = [(slab = 4, slot = 5, generation = 6)],
  sinks = (slab = 7, slot = 8, generation = 9)), status = (error = (code = 5, message = "full")))' | encode Advanced wire_advanced
