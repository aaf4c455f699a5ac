// kvantctl inspect: one sequence with its blocks (checksums verified by the daemon), or one store.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/printable.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

std::optional<SequenceId> ParseId(const std::string& text) {
  SequenceId id = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, id);
  if (error != std::errc() || rest != end) return std::nullopt;
  return id;
}

std::string Text(const SequenceDetail& detail) {
  Listing listing;
  const SequenceRow& row = detail.row;
  listing.Add("sequence", std::to_string(row.id) + (row.read_only ? " (reads another)" : ""));
  listing.Add("store", row.store);
  listing.Add("client", row.client);
  listing.Add("label", row.label);
  listing.Add("tokens", HumanCount(row.length) + "  (" + HumanCount(row.sealed_tokens) + " sealed, " +
                            HumanCount(row.prefix_hit_tokens) + " found at open)");
  listing.Add("tail", "from position " + std::to_string(detail.tail_first_position) + ", room for " +
                          HumanCount(detail.tail_capacity_tokens) + " tokens");
  listing.Add("attends", HumanCount(row.kept_tokens) + " tokens" + (row.policy.empty() ? "" : "  (" + row.policy + ")"));
  listing.Add("marks", HumanCount(row.marks));
  std::string text = listing.ToString();
  if (detail.blocks.empty()) return text;
  Table table({{"POSITION", Align::kRight},
               {"CHAIN"},
               {"SLAB", Align::kRight},
               {"SLOT", Align::kRight},
               {"GENERATION", Align::kRight},
               {"LEASES", Align::kRight},
               {"CHECKSUM"}});
  for (const BlockRow& block : detail.blocks) {
    table.Add({std::to_string(block.first_position), block.chain, std::to_string(block.slab), std::to_string(block.slot),
               std::to_string(block.generation), std::to_string(block.leases), block.checksum_ok ? "ok" : "BAD"});
  }
  return text + "\n" + table.ToString();
}

std::string Number(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3g", value);
  return text.data();
}

/// The lowest and the highest level, in units of a token's scale: "-2.73..2.73, 16 of them".
std::string Levels(const CodecForm& form) {
  if (form.family != "scalar") return "-";
  const double count = std::ldexp(1.0, static_cast<int>(form.bits));
  const double unit = static_cast<double>(form.level_unit);
  const double high = form.magnitudes.empty() ? form.first_level + count - 1 : form.magnitudes.back();
  const double low = form.magnitudes.empty() ? form.first_level : -high;
  return Number(low / unit) + ".." + Number(high / unit) + (form.magnitudes.empty() ? ", evenly spaced" : "");
}

std::string Scales(const CodecForm& form) {
  if (form.scale_format == "none") return "-";
  return form.scale_format + " at byte " + std::to_string(form.scale_offset);
}

std::string Rows(const CodecForm& form) {
  if (form.rotated) return form.centered ? "centred, rotated" : "rotated";
  return form.centered ? "centred" : "as they are";
}

/// What the encoded bytes of a store are.
std::string Text(const std::vector<StoredCodec>& codecs) {
  Table table({{"SIDE"},
               {"CODEC"},
               {"KV HEADS", Align::kRight},
               {"CODES"},
               {"ORDER"},
               {"BITS", Align::kRight},
               {"LEVELS"},
               {"SCALES"},
               {"ROWS"},
               {"BLOCK", Align::kRight}});
  for (const StoredCodec& codec : codecs) {
    const CodecForm& form = codec.form;
    std::string bytes;
    for (const std::uint64_t part : form.part_bytes) bytes += (bytes.empty() ? "" : " + ") + HumanCount(part);
    table.Add({codec.side, codec.spec, HumanCount(codec.heads), form.family, form.order, std::to_string(form.bits),
               Levels(form), Scales(form), Rows(form), bytes + " bytes"});
  }
  return table.ToString();
}

std::string Text(const StoreRow& row) {
  Listing listing;
  listing.Add("store", row.name);
  listing.Add("identity", row.identity);
  listing.Add("model", row.model);
  listing.Add("shape", std::to_string(row.layers) + " layers, " + std::to_string(row.kv_heads) + " KV heads, head size " +
                           std::to_string(row.head_dim) + ", " + std::to_string(row.block_tokens) + " tokens per block");
  listing.Add("keys", row.keys + (row.key_stage == KeyStage::kBeforeRope ? "  (handed over before RoPE)" : ""));
  listing.Add("values", row.values);
  listing.Add("compressed", HumanCompressed(row.figures));
  listing.Add("prefix hit tokens", HumanPrefixHits(row.figures));
  listing.Heading("now");
  listing.Add(row.figures, FigureKind::kGauge);
  listing.Heading("since the store was made");
  listing.Add(row.figures, FigureKind::kCounter);
  std::string text = listing.ToString();
  if (!row.warning.empty()) text += "\nWARNING: " + Printable(row.warning) + "\n";
  if (row.key_heads.empty()) return text;
  Table table({{"LAYER", Align::kRight},
               {"KV HEAD", Align::kRight},
               {"MEAN'S SHARE OF KEYS", Align::kRight},
               {"EFFECTIVE ERROR^2", Align::kRight},
               {"CODEC"}});
  for (const KeyHead& head : row.key_heads) {
    table.Add({std::to_string(head.layer), std::to_string(head.kv_head),
               HumanPartsPerMillion(static_cast<std::uint64_t>(head.mean_share * 1e6f)), Number(head.effective_error),
               head.unfit ? "UNFIT" : "ok"});
  }
  return text + "\n" + table.ToString();
}

int InspectSequence(const Globals& globals, Admin& admin, SequenceId id) {
  const auto detail = admin.Inspect(id);
  if (!detail) return Report(globals, detail.error());
  if (globals.format == Format::kJson) {
    Print(Json{{"sequence", ToJson(*detail)}});
  } else {
    Print(Text(*detail));
  }
  const bool sound = std::all_of(detail->blocks.begin(), detail->blocks.end(), [](const BlockRow& b) { return b.checksum_ok; });
  return sound ? kOk : kFailure;
}

int InspectStore(const Globals& globals, Admin& admin, const std::string& name) {
  const auto rows = admin.Stores();
  if (!rows) return Report(globals, rows.error());
  const auto row =
      std::find_if(rows->begin(), rows->end(), [&](const StoreRow& r) { return r.name == name || r.identity == name; });
  if (row == rows->end()) return Report(globals, {ErrorCode::kNotFound, "inspect: no store has the name or identity " + name});
  const auto codecs = admin.Codecs(row->identity);
  if (!codecs) return Report(globals, codecs.error());
  if (globals.format == Format::kJson) {
    Json store = ToJson(*row);
    for (const StoredCodec& codec : *codecs) store["codecs"].push_back(ToJson(codec));
    Print(Json{{"store", store}});
  } else {
    Print(Text(*row) + "\n" + Text(*codecs));
  }
  return kOk;
}

int Inspect(const Globals& globals, const std::string& what) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    if (const auto id = ParseId(what)) return InspectSequence(globals, admin, *id);
    return InspectStore(globals, admin, what);
  });
}

}  // namespace

void AddInspect(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand(
      "inspect", "Show one sequence with its blocks, or one store; exit code 1 if a block's checksum is wrong");
  auto what = std::make_shared<std::string>();
  command->add_option("target", *what, "A sequence's number (see sequences), or a store's name (see stores) or identity")
      ->required();
  command->callback([&invocation, what] { invocation.exit_code = Inspect(invocation.globals, *what); });
}

}  // namespace kvant::tools
