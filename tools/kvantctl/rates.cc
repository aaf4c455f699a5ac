#include "tools/kvantctl/rates.h"

#include <cmath>

#include "tools/kvantctl/render.h"

namespace kvant::tools {

std::optional<std::uint64_t> Rates::Rise(std::string_view name) const {
  if (before_ == nullptr || seconds_ <= 0) return std::nullopt;
  const auto from = before_->Find(name);
  const auto to = now_->Find(name);
  if (!from || !to || *to < *from) return std::nullopt;
  return *to - *from;
}

std::string Rates::PerSecond(std::string_view name, std::uint64_t each) const {
  const auto rise = Rise(name);
  if (!rise) return "-";
  return HumanCount(static_cast<std::uint64_t>(std::llround(static_cast<double>(*rise * each) / seconds_)));
}

std::string Rates::Hits() const {
  return HumanShare(Rise("prefix_hit_tokens").value_or(0), Rise("prefix_lookup_tokens").value_or(0));
}

}  // namespace kvant::tools
