// Places in an arena as hostile messages name them: what is accepted lies inside, to the last element, and everything that lies
// inside is accepted. The reference walks the corners in 128 bits.
#include <algorithm>
#include <cstdint>
#include <memory>

#include "daemon/memory/arena.h"
#include "daemon/memory/budget.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using namespace kvant;  // NOLINT(google-build-using-namespace)
using Wide = unsigned __int128;
constexpr std::uint64_t kHeaderPage = 4096;
constexpr std::uint64_t kArenaBytes = std::uint64_t{1} << 16;

bool Inside(Wide first, Wide end) { return first >= kHeaderPage && end <= kArenaBytes; }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static daemon::Budget all(kArenaBytes);
  static const auto arena =
      daemon::Arena::Create(kArenaBytes, 1, std::make_shared<daemon::ArenaAllowance>(kArenaBytes), all).value();
  static const std::byte* const begin = *arena->CheckRange("begin", kHeaderPage, 1, 1) - kHeaderPage;
  fuzz::Input input(data, size);

  daemon::TensorPlace place;
  place.offset = input.Take<std::uint64_t>();
  place.type = static_cast<ElementType>(input.Take<std::uint8_t>() % 3);
  place.tokens = input.Take<std::uint32_t>();
  place.heads = input.Take<std::uint32_t>();
  place.dim = input.Take<std::uint32_t>();
  place.token_stride = input.Take<std::uint64_t>();
  place.head_stride = input.Take<std::uint64_t>();
  const std::uint64_t element = ElementBytes(place.type);
  const auto tensor = arena->CheckTensor("tensor", place);
  const bool empty = place.tokens == 0 || place.heads == 0 || place.dim == 0;
  bool right = !empty && place.offset % element == 0;
  if (right) {
    const Wide last = Wide{place.tokens - 1} * place.token_stride + Wide{place.heads - 1} * place.head_stride + (place.dim - 1);
    right = Inside(place.offset, Wide{place.offset} + (last + 1) * element);
    // Elements may coincide, but no more of them may be named than an arena could hold.
    right = right && Wide{place.tokens} * place.heads * place.dim * element <= kArenaBytes;
  }
  fuzz::Expect(tensor.has_value() == right, "CheckTensor differs from the reference");
  if (tensor) fuzz::Expect(static_cast<const std::byte*>(tensor->data) == begin + place.offset, "the tensor lies elsewhere");

  const auto offset = input.Take<std::uint64_t>();
  const auto bytes = input.Take<std::uint64_t>();
  const std::uint64_t alignment = std::uint64_t{1} << (input.Take<std::uint8_t>() % 13);
  const auto range = arena->CheckRange("range", offset, bytes, alignment);
  fuzz::Expect(range.has_value() == (offset % alignment == 0 && Inside(offset, Wide{offset} + bytes)),
               "CheckRange differs from the reference");

  StoreSpec spec;
  spec.layers = input.Take<std::uint32_t>() % 1025;
  spec.kv_heads = input.Take<std::uint32_t>() % 1025;
  spec.head_dim = input.Take<std::uint32_t>() % 1025;
  const daemon::TailPlace tail{.offset = input.Take<std::uint64_t>(),
                               .type = static_cast<ElementType>(input.Take<std::uint8_t>() % 3),
                               .capacity_tokens = input.Take<std::uint32_t>(),
                               .spare_tokens = input.Take<std::uint32_t>()};
  const auto view = daemon::CheckTail(arena, tail, spec);
  const Wide ring = Wide{spec.layers} * 2 * spec.kv_heads * spec.head_dim * (Wide{tail.capacity_tokens} + tail.spare_tokens) *
                    ElementBytes(tail.type);
  const bool fits = ring != 0 && tail.offset % 64 == 0 && Inside(tail.offset, Wide{tail.offset} + ring);
  fuzz::Expect(view.has_value() == fits, "CheckTail differs from the reference");
  return 0;
}
