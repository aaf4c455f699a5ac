// Seeds of tests that do random work: fixed ones in an ordinary run, so that a failure is the change's; others on demand.
//   KVANT_TEST_SEEDS=random:50   fifty new ones (printed)
//   KVANT_TEST_SEEDS=12345       this one again
#pragma once

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <vector>

namespace kvant::testing {

inline std::vector<std::uint32_t> Seeds(std::vector<std::uint32_t> fixed) {
  const char* const asked = std::getenv("KVANT_TEST_SEEDS");
  if (asked == nullptr) return fixed;
  const std::string text = asked;
  if (!text.starts_with("random")) return {static_cast<std::uint32_t>(std::stoul(text))};
  std::vector<std::uint32_t> seeds(text.starts_with("random:") ? std::stoul(text.substr(7)) : 1);
  std::random_device device;
  std::cout << "seeds:";
  for (std::uint32_t& seed : seeds) std::cout << ' ' << (seed = device());
  std::cout << std::endl;
  return seeds;
}

}  // namespace kvant::testing
