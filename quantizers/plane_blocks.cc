#include "quantizers/plane_blocks.h"

#include <cstring>
#include <span>
#include <utility>

#include "kernels/lloyd/plane_table.h"
#include "kernels/lloyd/planes.h"
#include "quantizers/byte_codes.h"
#include "quantizers/lloyd_error.h"
#include "quantizers/scratch.h"

namespace kvant::quantizers {
namespace {

/// Queries are prepared, and values summed, for levels of 12 bits, as with 8 bits.
constexpr std::uint32_t kLevelBits = 8;

/// `Base` is KeyCodec or ValueCodec.
template <class Base>
class OfPlanes : public Base {
 public:
  explicit OfPlanes(LloydBlocks plain)
      : plain_(std::move(plain)), levels_(kernels::LloydPlaneTables(plain_.table().bits, plain_.scale())) {}

  [[nodiscard]] std::size_t parts() const noexcept override { return bits(); }
  [[nodiscard]] std::size_t part_bytes(std::size_t part) const noexcept override {
    return plane_bytes() + (part == 0 ? tokens() * sizeof(std::uint16_t) : 0);
  }
  [[nodiscard]] std::size_t memory_bytes() const noexcept override { return plain_.memory_bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return plain_.traits(); }
  [[nodiscard]] CodeForm form() const noexcept override {
    CodeForm form = plain_.form();
    form.order = CodeOrder::kOpaque;
    form.scale_offset = plane_bytes();
    return form;
  }
  [[nodiscard]] std::optional<double> expected_error(std::size_t parts) const override {
    if (parts == bits()) return plain_.expected_error();
    return RotatedPlanesError(plain_.table(), Levels(parts), static_cast<std::uint32_t>(dim()), plain_.scale());
  }

  /// The plain code in scratch, then its planes.
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    Pieces pieces(args.scratch);
    EncodeArgs plain = args;
    plain.block = BlockView(pieces.Bytes(plain_.bytes()));
    plain.scratch = pieces.rest();
    if (Result<void> encoded = plain_.Encode(plain); !encoded) return encoded;
    std::uint8_t* planes[kMaxParts];
    for (std::size_t p = 0; p < args.block.parts; ++p) planes[p] = reinterpret_cast<std::uint8_t*>(args.block.part[p]);
    const std::byte* codes = plain.block.part[0];
    kernels::LloydSplitPlanes(plain_.layout(), bits(), dim(), tokens(), reinterpret_cast<const std::uint8_t*>(codes), planes,
                              static_cast<std::uint32_t>(args.block.parts));
    std::memcpy(args.block.part[0] + plane_bytes(), codes + kernels::LloydCodesBytes(bits(), dim(), tokens()),
                tokens() * sizeof(std::uint16_t));
    return {};
  }

  void Decode(const DecodeArgs& args) const override {
    const kernels::LloydPlanes planes = PlanesOf(args.block);
    const kernels::LloydTable& levels = Levels(planes.count);
    plain_.DecodeRows(args, ScalesOf(args.block), levels.unit, [&](std::size_t token, std::size_t i) {
      return levels.Centroid(kernels::LloydTopBitsAt(plain_.layout(), dim(), planes, token, i) << (8 - planes.count));
    });
  }

 protected:
  [[nodiscard]] std::uint32_t bits() const noexcept { return plain_.table().bits; }
  [[nodiscard]] std::size_t dim() const noexcept { return plain_.dim(); }
  [[nodiscard]] std::size_t tokens() const noexcept { return plain_.tokens(); }
  [[nodiscard]] std::size_t plane_bytes() const noexcept { return kernels::LloydPlaneBytes(1, dim(), tokens()); }
  [[nodiscard]] std::size_t encode_scratch() const noexcept { return Aligned(plain_.bytes()) + plain_.encode_scratch(); }
  [[nodiscard]] const kernels::LloydTable& Levels(std::size_t parts) const noexcept { return levels_[parts - 1]; }
  [[nodiscard]] const std::byte* ScalesOf(const ConstBlockView& block) const noexcept { return block.part[0] + plane_bytes(); }
  [[nodiscard]] static kernels::LloydPlanes PlanesOf(const ConstBlockView& block) noexcept {
    kernels::LloydPlanes planes;
    planes.count = static_cast<std::uint32_t>(block.parts);
    for (std::size_t p = 0; p < block.parts; ++p) planes.plane[p] = reinterpret_cast<const std::uint8_t*>(block.part[p]);
    return planes;
  }

  LloydBlocks plain_;
  std::span<const kernels::LloydTable> levels_;  ///< by parts less one
};

class PlaneKeys final : public OfPlanes<KeyCodec> {
 public:
  using OfPlanes::OfPlanes;

  [[nodiscard]] Needs needs(std::size_t n) const noexcept override { return plain_.KeyNeeds(n, kLevelBits, encode_scratch()); }
  void Prepare(const PrepareArgs& args) const override { plain_.PrepareQueries(args, Levels(bits())); }
  void Score(const ScoreArgs& args) const override {
    const kernels::LloydPlanes planes = PlanesOf(args.block);
    ScoreByteCodes(args, dim(), tokens(), [&](kernels::ByteScoreArgs bytes) {
      bytes.scales = ScalesOf(args.block);
      kernels::LloydPlanesScore(Levels(planes.count), planes, bytes);
    });
  }
};

class PlaneValues final : public OfPlanes<ValueCodec> {
 public:
  using OfPlanes::OfPlanes;

  [[nodiscard]] Needs needs(std::size_t n) const noexcept override { return plain_.ValueNeeds(n, encode_scratch()); }
  [[nodiscard]] std::size_t accumulator_floats(std::size_t) const noexcept override { return dim(); }
  void Accumulate(const AccumulateArgs& args) const override {
    const kernels::LloydPlanes planes = PlanesOf(args.block);
    kernels::ByteAccumulateArgs bytes = ByteAccumulate(args, dim(), tokens());
    bytes.scales = ScalesOf(args.block);
    kernels::LloydPlanesAccumulate(Levels(planes.count), planes, bytes);
  }
  void Finish(const FinishArgs& args) const override { plain_.Unrotate(args, Levels(bits()).unit); }
};

}  // namespace

std::unique_ptr<KeyCodec> MakePlaneKeys(LloydBlocks blocks) { return std::make_unique<PlaneKeys>(std::move(blocks)); }
std::unique_ptr<ValueCodec> MakePlaneValues(LloydBlocks blocks) { return std::make_unique<PlaneValues>(std::move(blocks)); }

}  // namespace kvant::quantizers
