@0xca0cdb18af596cd3;
# The protocol between kvantd and its clients: two-party Cap'n Proto RPC over a unix stream socket. WIRE.md has the rules that
# a schema cannot say (versions, who checks what, file descriptors, ends of connections); this file is the reference of the
# calls. Cap'n Proto's rules for evolution apply: ordinals are never reused or renumbered, fields are only added.
#
# Two conventions:
#  * An outcome that a caller branches on is a union in the result (`Outcome`, `Status`). An RPC exception means a broken
#    connection (DISCONNECTED), an old peer (UNIMPLEMENTED) or a bug.
#  * Tensors never travel in messages. A message names places in an arena, a segment of shared memory that the daemon made for
#    this session and that both sides map. The daemon checks each place against its mapping once and uses the checked copy.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("kvant::wire");

const protocolVersion :UInt32 = 11;
# Raised with every change that a peer of the version before would misunderstand. Added fields and methods do not raise it.

const maxFdsPerMessage :UInt32 = 8;
# A reply carries at most so many file descriptors; both sides give this number to Cap'n Proto. Clients never send any: the
# daemon closes those that come.

const maxBatch :UInt32 = 1024;
# Most items in one attend or advance.

const maxLabelText :UInt32 = 256;
# Bytes of a client's name or a sequence's label that are kept; the rest is dropped.

const maxStateBytes :UInt64 = 268435456;
# Most bytes of one state: 256 MiB.

const maxArtifactBytes :UInt64 = 268435456;
# Most bytes of a plan's artifact: 256 MiB. They are charged to the budget before they are copied.

# ------------------------------------------------------------------------------------------------------------- outcomes

struct Error {
  code @0 :UInt16;     # kvant::ErrorCode (protocol/include/kvant/result.h); an unknown one counts as internal
  message @1 :Text;    # names the operation, the object and the value
}

struct Outcome(T) {
  # A value or an error.
  union {
    error @0 :Error;
    ok @1 :T;
  }
}

struct Status {
  # Success without a value, or an error.
  union {
    ok @0 :Void;
    error @1 :Error;
  }
}

# --------------------------------------------------------------------------------------------------------------- memory

interface Segment {
  # A memfd. Its file descriptor comes with the capability (Capability::Client::getFd); a null descriptor is a fault of the
  # transport. The descriptor belongs to the capability: map or duplicate it before the last reference is dropped. A mapping
  # survives. A segment is sealed SHRINK|GROW|SEAL: its size never changes (protocol/SEGMENT.md has the layout).
}

enum ElementType {
  f32 @0;
  f16 @1;
  bf16 @2;
}

struct Range {
  # Bytes of an arena. Offsets count from the segment's start, its header page included; nothing may lie in that page.
  arena @0 :UInt32;    # as createArena answered
  offset @1 :UInt64;
  bytes @2 :UInt64;
}

struct Tensor {
  # [tokens, heads, dim] in an arena: element (t, h, d) lies at `offset + (t*tokenStride + h*headStride + d) * element bytes`.
  # `offset` must be a multiple of the element's size and every element inside the arena behind its header page.
  # Elements of a tensor the daemon writes must not overlap (nothing breaks but the numbers).
  arena @0 :UInt32;
  elementType @1 :ElementType;
  offset @2 :UInt64;
  tokens @3 :UInt32;
  heads @4 :UInt32;
  dim @5 :UInt32;
  tokenStride @6 :UInt64;  # in elements
  headStride @7 :UInt64;   # in elements
}

struct ArenaInfo {
  arena @0 :UInt32;       # names it in this session
  bytes @1 :UInt64;       # of the segment: as asked, rounded up to whole pages
  segment @2 :Segment;    # readable and writable
}

struct SlabInfo {
  index @0 :UInt32;       # within its store, never reused
  bytes @1 :UInt64;
  segment @2 :Segment;    # a read-only descriptor
}

# --------------------------------------------------------------------------------------------------------------- stores

enum RopePairing {
  none @0;
  halfSplit @1;
  adjacent @2;
}

struct Rope {
  # kvant::RopeSpec (protocol/include/kvant/rope.h has the formulas and the range of each number).
  pairing @0 :RopePairing;
  theta @1 :Float64;
  rotaryDims @2 :UInt32;
  scaling :union {
    none @3 :Void;
    linear @4 :RopeLinear;
    dynamic @5 :RopeDynamic;
    yarn @6 :RopeYarn;
    llama3 @7 :RopeLlama3;
    long @8 :RopeLong;
  }
}

const maxRopeFactors :UInt32 = 512;
# Most numbers in one list of RopeLong: the pairs of the largest head.

struct RopeLinear {
  factor @0 :Float64;
}

struct RopeDynamic {
  factor @0 :Float64;
  originalPositions @1 :UInt32;
  contextTokens @2 :UInt32;
}

struct RopeYarn {
  factor @0 :Float64;
  originalPositions @1 :UInt32;
  betaFast @2 :Float64;
  betaSlow @3 :Float64;
  truncate @4 :Bool;
  attentionFactor @5 :Float64;
}

struct RopeLlama3 {
  factor @0 :Float64;
  originalPositions @1 :UInt32;
  lowFreqFactor @2 :Float64;
  highFreqFactor @3 :Float64;
}

struct RopeLong {
  factor @0 :Float64;
  originalPositions @1 :UInt32;
  contextTokens @2 :UInt32;
  shortFactors @3 :List(Float64);
  longFactors @4 :List(Float64);
  attentionFactor @5 :Float64;
}

enum KeyStage {
  # Whether rows of keys are handed over before or after their rotation.
  afterRope @0;
  beforeRope @1;
}

struct LayerPlan {
  firstLayer @0 :UInt32;
  lastLayer @1 :UInt32;                # inclusive
  firstHead @2 :UInt32;
  lastHead @3 :UInt32 = 0xffffffff;    # inclusive; all ones: up to the last KV head there is
  keys @4 :Text;
  values @5 :Text;
}

const maxOverrides :UInt32 = 4096;
# Most layer plans in one store spec.

const maxIdentityText :UInt32 = 4096;
# Most bytes in each of a store spec's name, model, tokenizer, adapter and salt.

const maxCodecText :UInt32 = 1048576;
# Most bytes in all codec specs of a store spec together.

struct StoreSpec {
  # kvant::StoreSpec (protocol/include/kvant/store_spec.h has the meaning of each field). All of it but the name is the identity.
  name @0 :Text;
  model @1 :Text;
  tokenizer @2 :Text;
  adapter @3 :Text;
  salt @4 :Text;
  rope @5 :Rope;
  keyStage @6 :KeyStage;
  layers @7 :UInt32;
  kvHeads @8 :UInt32;
  headDim @9 :UInt32;
  dtype @10 :ElementType;
  blockTokens @11 :UInt32;
  sinkTokens @12 :UInt32;
  keys @13 :Text;             # codec specs of the plan
  values @14 :Text;
  overrides @15 :List(LayerPlan);
  artifact @16 :Range;        # the plan's safetensors image; copied during the call; absent or 0 bytes for none
}

struct StoreOpened {
  store @0 :UInt32;               # names the open store in this session
  identity @1 :Text;              # hex digest over the whole spec but its name
  created @2 :Bool;               # by this call
  plan @3 :Text;                  # canonical text of every layer's codecs; a client with local placement compares its own
  slotBytes @4 :UInt64;           # of one sealed block: header, token ids, codes, padding
  payloadBytes @5 :UInt64;        # of its codes and side data
  logicalBlockBytes @6 :UInt64;   # the same tokens as f16
  keyBitsPerElement @7 :Float64;  # side information included, mean over layers
  valueBitsPerElement @8 :Float64;
  warning @9 :Text;               # as StoreRow.warning
  relabelled @10 :Bool;            # the name meant a store of another identity until now
}

# ------------------------------------------------------------------------------------------------------------ sequences

enum Placement {
  service @0;
  local @1;
}

struct Tail {
  # Where the newest rows lie: [layer][K, V][kv_head][capacityTokens + spareTokens][head_dim] of elementType in an arena,
  # 64-byte aligned; the first capacityTokens rows of a head are a ring, in which the row of position p is p % capacityTokens.
  # The client writes rows there, then makes them visible with `advance`; rows at positions >= the sequence's length are the
  # client's to write, those below are not. For `attend` the new rows are adjacent: they begin at row length % capacityTokens
  # and go on into the spare rows where the ring ends. For `advance` they lie in the ring.
  # capacityTokens: a multiple of blockTokens, at least recentTokens + blockTokens/4 + blockTokens + maxStepTokens.
  arena @0 :UInt32;
  elementType @1 :ElementType;
  capacityTokens @2 :UInt32;
  offset @3 :UInt64;
  spareTokens @4 :UInt32;
}

struct SequenceOptions {
  placement @0 :Placement;
  recentTokens @1 :UInt32;    # newest tokens that stay raw
  maxStepTokens @2 :UInt32;   # most tokens of one advance
  label @3 :Text;             # shown to operators; maxLabelText
  tail @4 :Tail;
  wantState @5 :Bool;         # openSequence: the longest sealed prefix at whose end a state stands
  policy @7 :Text;            # which tokens its owner attends, shown to operators; maxLabelText
  priority @6 :UInt8;         # 0 to 3: how much longer than others' the blocks stay that it finds and seals, once nobody uses them
}

struct BlockRef {
  # A slot of the store's slabs. Valid, and not rewritten, while the sequence it was listed for holds it.
  slab @0 :UInt32;
  slot @1 :UInt32;
  generation @2 :UInt64;      # as in the slot's header
}

struct BlockTable {
  # A piece of a sequence's block table: blocks[i] holds the tokens [(first+i)*blockTokens, (first+i+1)*blockTokens).
  first @0 :UInt32;           # index of blocks[0]
  blocks @1 :List(BlockRef);
  sinks @2 :BlockRef;         # companion slot with the raw rows of the first sinkTokens tokens; present with block 0
}

struct SequenceState {
  # After open, fork, read and trim. The tail's rows that count are the positions [switchedBlocks*blockTokens, length).
  sequence @0 :UInt64;         # names the live sequence, in this session and for others (fork, read, inspect)
  length @1 :UInt64;           # tokens held
  prefixHitTokens @2 :UInt64;  # of those, found already sealed at open
  switchedBlocks @3 :UInt32;   # blocks that attention reads as codes
  table @4 :BlockTable;        # with local placement: all of those; else empty
}

struct KeptTokens {
  # Which of the tokens that a query would see take part: all, but for what its fields hide. A token keeps its position.
  window @0 :UInt32;          # not 0: only so many newest ones, the query's own included, and the first `sinks`
  sinks @1 :UInt32;
  wholeBelow @2 :UInt32;      # queries at positions below this have no such window
  bits @3 :Range;             # 64-bit words [kv_heads, words], 8-byte aligned: token p of a head is hidden if p < end and bit p % 64 of its
  end @4 :UInt64;             # word p / 64 is clear. Absent: no list. Any bits will do; they are read while the call lasts
}

struct AttendItem {
  # out = softmax(scale * q K^T + mask) V. The queries stand at positions length .. length + q.tokens. With newTokens = n, the
  # n rows behind the sequence's length must be written in this layer's tail, and query t sees those up to its own position
  # (q.tokens <= n). With newTokens = 0 (a reader, a probe) the query must be alone (q.tokens = 1) and sees the sequence's
  # length tokens (of them, with a window, the last window - 1); if that is none the call is refused.
  # unnamed: so many rows behind the sequence's length count as its own in this call: everything above is meant with a length
  # that is larger by them. They lie in the ring, as rows of the sequence do. Of the session's own sequences only.
  sequence @0 :UInt64;
  layer @1 :UInt32;
  newTokens @2 :UInt32;
  q @3 :Tensor;               # [tokens, q_heads, head_dim], q_heads a multiple of kv_heads
  out @4 :Tensor;             # the same shape; any element type
  lse @5 :Range;              # f32 [tokens, q_heads]: natural log of the softmax denominator; absent if not wanted
  sinkLogits @6 :Range;       # f32 [q_heads]: learned attention sinks; absent for none
  scale @7 :Float32;
  softcap @8 :Float32;        # 0: off
  window @9 :UInt32;          # tokens; 0: unlimited
  unnamed @10 :UInt32;
  kept @11 :KeptTokens;       # absent: everything takes part
  votes @12 :Range;           # f32 [kv_heads, tokens], up to the last query's own at least: each number grows by the softmax weights that
                              # this call's queries give the token, summed over the head's group. Needs lse; absent if not wanted
  fromEnd @13 :UInt32;        # not 0: the queries are those of tokens of the sequence, the first of them so many before its end;
                              # newTokens is 0 then and q.tokens at most fromEnd
}

struct AdvanceItem {
  sequence @0 :UInt64;
  tokens @1 :List(UInt32);    # ids of the next rows, no more than the tail has room for; every layer's rows must be written. May be
                              # empty
  waitSealed @2 :Bool;        # answer when every block that is due is encoded, and list those too (local placement: ask when a
                              # block falls due, use it when it switches: one call per block)
  keptTokens @3 :UInt64;      # how many tokens its owner attends then, mean over layers and KV heads: shown to operators
}

struct Advanced {
  length @0 :UInt64;          # now
  switchedBlocks @1 :UInt32;  # now
  table @2 :BlockTable;       # with local placement: blocks that this session was not told of yet
  status @3 :Status;          # storeFull, notFinite: the tokens are part of the sequence and attention over them works, but a
                              # block could not be sealed; it is tried again with the next advance. Other errors: nothing changed
  warning @4 :Text;           # as StoreRow.warning, once per session and store
}

struct Mark {
  length @0 :UInt64;
}

struct StateInfo {
  length @0 :UInt64;          # tokens behind which it stands
  bytes @1 :UInt64;
  place @2 :BlockRef;         # of its slot, as long as the sequence holds that length
}

struct SavedBlock {
  # Slots of a block; generation 0 for what it does not have.
  codes @0 :BlockRef;
  sinks @1 :BlockRef;
  state @2 :BlockRef;
  parent @3 :UInt64;          # index of the block before it, in the same list; all ones for a first block
}

struct SavedBlocks {
  blocks @0 :List(SavedBlock);
  all @1 :UInt64;             # of them there are
}

interface Snapshot {
  # Sealed blocks of a store, leased as long as this lives: they stay as they are while whoever holds it copies them from the
  # slabs. The daemon does nothing meanwhile, others go on.
  manifest @0 () -> (segment :Segment);
  # The store's (SEGMENT.md), read-only.
  slabs @1 (from :UInt32) -> Outcome(List(SlabInfo));
  # As Session.slabs.
  blocks @2 (first :UInt64) -> SavedBlocks;
  # From block number `first` on, some thousands in one answer. Parents stand before their children.
}

struct RestoredBlock {
  # A block that a client has from elsewhere, a file for example.
  tokens @0 :List(UInt32);
  parent @1 :UInt64;          # the number of the block before it; all ones for a first block. Blocks are numbered as they are offered
  sinkType @2 :ElementType;   # of sinks: at position 0 of a store with sinks
  stateBytes @3 :UInt64;      # 0: it has no state
  codesBytes @4 :UInt64;      # fewer than the plan's: some of its planes are gone (kvantctl demote). 0: all are there
}

struct RestoredPayload {
  block @0 :UInt64;           # its number
  codes @1 :Range;
  codesChecksum @2 :UInt64;   # XXH3-64
  sinks @3 :Range;
  sinksChecksum @4 :UInt64;
  state @5 :Range;
  stateChecksum @6 :UInt64;
}

struct RestoreReport {
  restored @0 :UInt64;        # blocks that came in
  present @1 :UInt64;         # blocks that were there already
}

interface Restore {
  # Blocks of open stores that come in together or not at all. Dropping it before commit leaves nothing.
  offer @0 (store :UInt32, blocks :List(RestoredBlock)) -> Outcome(Data);
  # Names blocks, parents before their children, at most maxOffered in a call. One byte for each: 1 if its bytes are wanted, 0 if
  # the store has that block (which is leased from now on).
  reserve @1 () -> Status;
  # After all offers: takes room for what is wanted. Evicts nothing: storeFull says how many bytes are missing.
  put @2 (payloads :List(RestoredPayload)) -> Status;
  # Copies bytes that are wanted from the session's arenas, at most maxBatch blocks; corrupt names a block whose bytes differ from
  # its checksum. Each block once.
  commit @3 () -> Outcome(RestoreReport);
  # Once everything wanted was put: all blocks are part of their stores from now on. The Restore can do nothing more.
}

const maxOffered :UInt32 = 8192;
# Most blocks in one offer.

interface Session {
  # What one connection holds: arenas, open stores, sequences. Dropping it, or the end of the connection, frees all of it.
  # Calls that change something can only name what belongs to their own session, so none can reach another daemon by mistake:
  # a session dies with its daemon, and ids of sequences of an earlier daemon are told apart (staleDaemon).

  ping @0 () -> ();

  createArena @1 (bytes :UInt64) -> Outcome(ArenaInfo);

  openStore @2 (spec :StoreSpec) -> Outcome(StoreOpened);
  # Creates the store of that identity, or attaches where it exists. The name is a label: it means this store from now on, whatever
  # it meant before. A store that was dropped, or went while it held nothing, answers notFound to later calls: open it again.

  slabs @3 (store :UInt32, from :UInt32) -> Outcome(List(SlabInfo));
  # Slabs of a store with index >= from, ascending, at most maxFdsPerMessage; ask again from the last index + 1 until empty.

  openSequence @4 (store :UInt32, tokens :List(UInt32), options :SequenceOptions) -> Outcome(SequenceState);
  # A sequence that already holds the longest sealed prefix of `tokens`, in whole blocks. As many tokens as a message holds
  # (16 million, WIRE.md).

  fork @5 (store :UInt32, source :UInt64, length :UInt64, options :SequenceOptions) -> Outcome(SequenceState);
  # Copy-on-write copy of a live sequence of any session that has the same store open, at `length` tokens (all ones: all of
  # them). Blocks are shared, tail rows copied into the new tail.

  read @6 (store :UInt32, source :UInt64) -> Outcome(SequenceState);
  # A reader of a live sequence: attend sees what its owner has advanced. Service placement only.

  close @7 (sequence :UInt64) -> Status;

  attend @8 (items :List(AttendItem)) -> (outcomes :List(Status));
  advance @9 (items :List(AdvanceItem)) -> (outcomes :List(Advanced));
  # One outcome per item, in order. An item that fails does not touch the others. Items of one advance take effect in order.

  trim @10 (sequence :UInt64, length :UInt64) -> Outcome(SequenceState);
  # Drops tokens from the end. Inside a sealed block the rows that stay are decoded into the tail.

  mark @11 (sequence :UInt64) -> Outcome(Mark);
  # Marks the present length. While a mark is held nothing newer switches, so that rewind restores the point exactly.
  rewind @12 (sequence :UInt64, mark :Mark) -> Outcome(SequenceState);
  release @13 (sequence :UInt64, mark :Mark) -> Advanced;
  # Lets go of a mark. Sealing goes on from here, so blocks may switch as in an advance without tokens.

  copyRows @14 (sequence :UInt64, layer :UInt32, first :UInt64, keys :Tensor, values :Tensor, unnamed :UInt32) -> Status;
  # Copies the rows of positions first .. first + tokens of one layer to `keys` and `values`, [tokens, kv_heads, head_dim] of any
  # element type; either may be absent. Raw rows and sinks come as they were written, those of switched blocks decoded. Of a
  # reader too. unnamed as in AttendItem.

  putState @15 (sequence :UInt64, state :Range) -> Status;
  # Copies an engine's private bytes (1..maxStateBytes) to the end of the sequence, whose length must be a positive multiple of
  # blockTokens. They go with that block: forks and whoever opens the prefix find them, its eviction ends them. Where a state
  # stands already it stays.
  getState @16 (sequence :UInt64) -> Outcome(StateInfo);
  # The newest state of a sequence of the session's own; notFound if it holds none.
  snapshot @17 (store :UInt32, sequence :UInt64) -> Outcome(Snapshot);
  # Of the store's blocks, or of those that a live sequence of that store holds (0: of all).
  restore @18 () -> Outcome(Restore);
}

# ----------------------------------------------------------------------------------------------------------- bootstrap

struct DaemonInfo {
  version @0 :Text;
  bootToken @1 :UInt64;       # differs between any two daemon processes
  pid @2 :UInt64;
  budgetBytes @3 :UInt64;
  protocolVersion @4 :UInt32;
  segmentLayoutVersion @5 :UInt32;
  leaseMs @6 :UInt32;         # an arena whose heartbeat stands still so long ends its session; count it up every quarter
}

struct Welcome {
  session @0 :Session;
  daemon @1 :DaemonInfo;
}

struct AdminWelcome {
  admin @0 :Admin;
  daemon @1 :DaemonInfo;
}

struct Hello {
  protocolVersion @0 :UInt32;       # both must be the daemon's, else versionMismatch naming both sides' numbers
  segmentLayoutVersion @1 :UInt32;
  bootToken @2 :UInt64;             # 0, or the daemon the client was connected to before: staleDaemon if it is another
  clientName @3 :Text;              # shown to operators; maxLabelText
}

interface Daemon {
  # The bootstrap capability of a connection.
  hello @0 (hello :Hello) -> Outcome(Welcome);
  admin @1 (hello :Hello) -> Outcome(AdminWelcome);
  # permissionDenied unless the peer runs under the daemon's own uid or as root (SO_PEERCRED).
}

# --------------------------------------------------------------------------------------------------------------- admin

enum FigureKind {
  gauge @0;     # as it is now
  counter @1;   # since the daemon began; only grows
}

enum FigureUnit {
  count @0;
  tokens @1;
  bytes @2;
  seconds @3;
  partsPerMillion @4;
}

struct FigureInfo {
  # Describes one number. A reader shows numbers it has never heard of: a new one changes nothing in this file.
  name @0 :Text;              # snake_case, as scripts and metrics call it
  kind @1 :FigureKind;
  unit @2 :FigureUnit;
  help @3 :Text;              # one line for operators
}

struct KeyHead {
  # The keys of one KV head. Their common mean is invisible to softmax, but a codec that does not subtract it loses precision.
  layer @0 :UInt32;
  kvHead @1 :UInt32;
  meanShare @2 :Float32;      # |mean key|^2 over mean |key|^2
  effectiveError @3 :Float32; # the codec's squared error relative to what tokens' keys differ by
  unfit @4 :Bool;             # the codec cannot serve these keys
}

struct StoreRow {
  name @0 :Text;
  identity @1 :Text;
  model @2 :Text;
  keys @3 :Text;
  values @4 :Text;
  layers @5 :UInt32;
  kvHeads @6 :UInt32;
  headDim @7 :UInt32;
  blockTokens @8 :UInt32;
  figures @9 :List(UInt64);   # one per StorePage.figures, in their order
  keyHeads @10 :List(KeyHead);  # those whose common mean holds half of their keys' energy or more: the worst few
  warning @11 :Text;          # what is wrong with the store, in a sentence; empty if nothing is known to be
  keyStage @12 :KeyStage;
  tenant @13 :Text;           # whose it is
}

struct StorePage {
  figures @0 :List(FigureInfo);
  rows @1 :List(StoreRow);
  next @2 :Data;              # cursor of the next page; empty after the last
}

struct SequenceRow {
  sequence @0 :UInt64;
  store @1 :Text;
  client @2 :Text;
  label @3 :Text;
  length @4 :UInt64;
  sealedTokens @5 :UInt64;
  prefixHitTokens @6 :UInt64;
  marks @7 :UInt64;
  readOnly @8 :Bool;
  policy @9 :Text;            # as it was opened with
  keptTokens @10 :UInt64;     # that its owner attends, as it said last
}

struct SequencePage {
  rows @0 :List(SequenceRow);
  next @1 :UInt64;            # ask from this number for the next page; 0 after the last
}

struct BlockRow {
  firstPosition @0 :UInt64;
  chain @1 :Text;
  slab @2 :UInt32;
  slot @3 :UInt32;
  generation @4 :UInt64;
  leases @5 :UInt32;
  checksumOk @6 :Bool;        # verified during the call
}

struct SequenceDetail {
  row @0 :SequenceRow;
  blocks @1 :List(BlockRow);  # from the block that was asked for
  sealedBlocks @2 :UInt64;    # of the whole sequence
  tailFirstPosition @3 :UInt64;
  tailCapacityTokens @4 :UInt64;
}

struct Histogram {
  # How often something took how long.
  name @0 :Text;              # snake_case, ends with _seconds
  help @1 :Text;              # one line for operators
  bounds @2 :List(Float64);   # seconds, ascending
  counts @3 :List(UInt64);    # one more than bounds: of what took so long at most and longer than the bound before; the rest
  sum @4 :Float64;            # seconds, of all
}

struct StatsReport {
  daemon @0 :DaemonInfo;
  figures @1 :List(FigureInfo);
  values @2 :List(UInt64);    # one per figure, in their order
  histograms @3 :List(Histogram);
}

struct StoredCodec {
  # A codec of a store's plan and what the bytes are that it writes: enough to read a block without it (quantizers/code_form.h
  # has the words and the formula).
  side @0 :Text;              # keys or values
  spec @1 :Text;              # canonical
  heads @2 :UInt64;           # KV heads that it serves, over all layers
  family @3 :Text;
  order @4 :Text;
  bits @5 :UInt8;             # of one code
  magnitudes @6 :List(Int16);
  firstLevel @7 :Int32;
  levelUnit @8 :Float32;
  scaleFormat @9 :Text;
  scaleOffset @10 :UInt64;
  rotated @11 :Bool;
  centered @12 :Bool;
  partBytes @13 :List(UInt64);  # of one head's block
}

struct DemoteReport {
  blocks @0 :UInt64;
  bytes @1 :UInt64;    # given back; of a dry run, those that payloads would lose
  corrupt @2 :UInt64;  # blocks left as they are, for their checksums differ
}

struct EvictReport {
  blocks @0 :UInt64;
  bytes @1 :UInt64;
  held @2 :UInt64;            # blocks that were meant, too, and that somebody holds
}

struct BlockFilter {
  # Every condition narrows. `chain` and `tokens` need a store and name a block: it and all that continue it are meant.
  tenant @0 :Text;            # empty: every
  store @1 :Text;             # name or identity; empty: every
  sequence @2 :UInt64;        # a live one: its sealed blocks, and no other condition but the limits; 0: none
  chain @3 :Text;             # a block's digest in hexadecimal
  tokens @4 :List(UInt32);    # from position 0; whole blocks of them
  idleMs @5 :UInt64;          # not used for so long
  maxBlocks @6 :UInt64;       # 0: no limit
  maxBytes @7 :UInt64;        # as many as it takes to make so many bytes; 0: no limit
}

struct PinRow {
  pin @0 :UInt64;
  tenant @1 :Text;
  store @2 :Text;
  blocks @3 :UInt64;
  bytes @4 :UInt64;
  leftMs @5 :UInt64;          # until it ends by itself
}

struct Quota {
  # Of a tenant, or of one of its stores.
  tenant @0 :Text;
  store @1 :Text;             # empty: of the tenant
  limitBytes @2 :UInt64;      # all ones: none; to setQuota, 0: as it is
  ttlMs @3 :UInt64;           # of a store: blocks that nobody uses so long go; 0: they stay; to setQuota, all ones: as it is
  usedBytes @4 :UInt64;       # answered
}

struct ClientRow {
  # A connection, of an engine or an operator.
  connection @0 :UInt64;
  pid @1 :UInt64;
  uid @2 :UInt32;
  tenant @3 :Text;            # whose stores its session opens; empty without a session
  name @4 :Text;              # as it said at hello
  admin @5 :Bool;             # it was given Admin
  connectedMs @6 :UInt64;     # so long ago
  idleMs @7 :UInt64;          # since its last message
  calls @8 :UInt64;
  refused @9 :UInt64;         # of the session's calls
  stores @10 :UInt64;         # open ones
  sequences @11 :UInt64;      # readers included
  leases @12 :UInt64;         # blocks that they hold
  arenas @13 :UInt64;
  arenaBytes @14 :UInt64;
  silentMs @15 :UInt64;       # since one of its heartbeats moved; at DaemonInfo.leaseMs it is dropped
}

struct ClientPage {
  rows @0 :List(ClientRow);
  next @1 :UInt64;            # ask from this connection for the next page; 0 after the last
}

struct EventField {
  name @0 :Text;
  union {
    number @1 :UInt64;
    text @2 :Text;            # shortened beyond 256 bytes
  }
}

struct Event {
  number @0 :UInt64;          # ascending
  timeMs @1 :UInt64;          # since 1970
  kind @2 :Text;
  fields @3 :List(EventField);
}

interface EventWatch {
  take @0 (most :UInt32) -> (events :List(Event), lost :UInt64);
  # Those that have not been taken yet, oldest first; at once, there may be none. lost: so many came after these while nobody took
  # and too many waited.
}

interface Admin {
  # Lists come in pages of about 256 KiB, however many rows there are and however long their texts: no answer outgrows what a
  # client reads, and the daemon serves others between two pages. What is opened or closed meanwhile may be missed; what lives
  # all the while is listed once.

  ping @0 () -> ();
  stats @1 () -> (stats :StatsReport);
  stores @2 (cursor :Data) -> (page :StorePage);
  # From the beginning with an empty cursor, else behind the page that answered it. Others are no cursors.
  sequences @3 (from :UInt64) -> (page :SequencePage);
  # Those with numbers >= from, ascending.
  inspect @4 (sequence :UInt64, firstBlock :UInt64) -> Outcome(SequenceDetail);
  # Reads and verifies the blocks that it lists: as many as take a few milliseconds, at least one. Ask again with a larger
  # firstBlock until all sealedBlocks are seen.
  obsoleteEvict @5 (store :Text, maxBlocks :UInt64, dryRun :Bool) -> Outcome(EvictReport);
  # Until version 9; not implemented any more: evictBlocks says it all.
  drop @6 (store :Text, tenant :Text) -> Outcome(EvictReport);
  # The store of that name, or of that identity in hexadecimal, with all its blocks: what went. Of one tenant, or of any if
  # `tenant` is empty. notFound where there is none, invalidArgument, naming them, where several tenants have one, unavailable
  # while sequences of it are open. Sessions that have it open must open it again.
  codecs @7 (store :Text) -> Outcome(List(StoredCodec));
  # Every distinct codec of a store's plan, keys first. The store by name or identity, as in drop.
  evictBlocks @8 (filter :BlockFilter, dryRun :Bool) -> Outcome(EvictReport);
  # What the filter means and nobody holds, each block after those that continue it, else as the eviction policy ranks them. Held
  # blocks of a sequence go as soon as nobody holds them, unless somebody finds them before.
  pin @9 (filter :BlockFilter, timeMs :UInt64) -> Outcome(PinRow);
  # Keeps the blocks of one store and all that they continue. All pins together hold a quarter of the budget at most.
  unpin @10 (pin :UInt64) -> Status;
  pins @11 () -> (pins :List(PinRow));
  setQuota @12 (quota :Quota) -> Outcome(Quota);
  # What is used beyond a new limit is evicted as far as nobody holds it; nothing further is taken until it is within.
  quotas @13 (from :UInt32) -> (quotas :List(Quota), next :UInt32);
  # Of every tenant and, behind it, of its stores. Ask again from `next` until it is 0.
  demote @14 (store :Text, planes :UInt8, maxBlocks :UInt64, dryRun :Bool, tenant :Text) -> Outcome(DemoteReport);
  # Drops all but the first planes of blocks that no sequence holds, least recently used first, in place. Of codes that have no
  # planes, or fewer, nothing goes. The store and its tenant as in drop; maxBlocks 0: no limit. invalidArgument for 0 planes.
  snapshot @15 (store :Text, sequence :UInt64) -> Outcome(Snapshot);
  # As Session.snapshot. The store by name or identity, as in drop; empty: the one that the sequence is of.
  drain @16 () -> ();
  # Ends the daemon as SIGTERM does: once the calls that wait are answered.
  clients @17 (from :UInt64) -> (page :ClientPage);
  # Connections with numbers >= from, ascending.
  watch @18 () -> Outcome(EventWatch);
  # What happens from now on. unavailable if too many watch already.
  upgrade @19 () -> Status;
  # Hands over to a new process of the program that lies at the daemon's path now: stores stay, connections end. unsupported where
  # nobody holds the memory (--holder off).
}
