// Runs a fuzz target without a fuzzer: every file of a corpus, then seeded mutations of them. What libFuzzer found once stays
// found in every test run, with any compiler.
//   replay_<target> CORPUS [MUTATIONS [SEED]]
// A failure names the file or the seed; the target itself aborts, so that the input is the last one that was named.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;
constexpr std::size_t kMostBytes = std::size_t{1} << 16;

Bytes ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

/// One change of the kinds that libFuzzer makes too: a bit, a byte, an interesting number, a cut, a repeat, a splice.
void Mutate(Bytes& input, const std::vector<Bytes>& corpus, std::mt19937_64& random) {
  const auto below = [&random](std::size_t n) { return n == 0 ? 0 : static_cast<std::size_t>(random() % n); };
  const std::size_t at = below(input.size() + 1);
  switch (random() % 7) {
    case 0:
      if (at < input.size()) input[at] ^= static_cast<std::uint8_t>(1U << below(8));
      break;
    case 1:
      if (at < input.size()) input[at] = static_cast<std::uint8_t>(random());
      break;
    case 2: {  // a number at any place, little endian: 0, -1, the largest signed, powers of two and their neighbours
      const std::uint64_t number = (std::uint64_t{1} << below(64)) + below(3) - 1;
      const std::size_t bytes = std::size_t{1} << below(4);
      for (std::size_t i = 0; i < bytes && at + i < input.size(); ++i) {
        input[at + i] = static_cast<std::uint8_t>(number >> (8 * i));
      }
      break;
    }
    case 3: input.resize(at); break;
    case 4: {
      const std::size_t end = std::min(input.size(), at + 1 + below(64));
      input.erase(input.begin() + static_cast<std::ptrdiff_t>(at), input.begin() + static_cast<std::ptrdiff_t>(end));
      break;
    }
    case 5: {
      const std::size_t end = std::min(input.size(), at + 1 + below(64));
      const Bytes piece(input.begin() + static_cast<std::ptrdiff_t>(at), input.begin() + static_cast<std::ptrdiff_t>(end));
      for (std::size_t i = 0; i <= below(8); ++i) input.insert(input.end(), piece.begin(), piece.end());
      break;
    }
    default: {
      const Bytes& other = corpus[below(corpus.size())];
      const std::size_t from = below(other.size() + 1);
      input.resize(at);
      input.insert(input.end(), other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
    }
  }
  if (input.size() > kMostBytes) input.resize(kMostBytes);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s CORPUS [MUTATIONS [SEED]]\n", argv[0]);
    return 2;
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    std::fprintf(stderr, "%s: the corpus is empty\n", argv[1]);
    return 1;
  }
  std::vector<Bytes> corpus;
  for (const auto& file : files) {
    std::fprintf(stderr, "%s\n", file.filename().c_str());
    corpus.push_back(ReadFile(file));
    LLVMFuzzerTestOneInput(corpus.back().data(), corpus.back().size());
  }
  const unsigned long mutations = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 3000;
  const unsigned long seed = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 1;
  for (unsigned long i = 0; i < mutations; ++i) {
    std::mt19937_64 random(seed + i);
    Bytes input = corpus[random() % corpus.size()];
    for (std::uint64_t left = 1 + random() % 4; left > 0; --left) Mutate(input, corpus, random);
    if (i % 500 == 0) std::fprintf(stderr, "seeds from %lu\n", seed + i);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%zu files and %lu mutations\n", files.size(), mutations);
  return 0;
}
