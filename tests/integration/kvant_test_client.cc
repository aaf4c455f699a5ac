// A client process for tests. Reads commands from standard input, one a line, answers each with one line: "ok ..." or
// "error CODE MESSAGE".
//   kvant_test_client SOCKET service|local
//     open SEED N            open a sequence on N random tokens   -> ok ID LENGTH
//     feed SEED N CHUNK      feed N random tokens                 -> ok LENGTH DIGEST-OF-OUTPUTS
//     fork ID SEED LENGTH    fork a live sequence of any process  -> ok ID LENGTH
//     look                   attend to one row more             -> ok looked
//     spin N                 attend N times to the last row, then answer
//     ping
//     reconnect              -> ok BOOT-TOKEN
//     flood SEED             feeds kFloodTokens random tokens of this seed and of each larger one to a sequence of their own
//                            -> done SEED, again and again; -> lost when the daemon went away, then waits for a line; -> back
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iostream>
#include <optional>
#include <span>
#include <sstream>
#include <string>

#include <kvant/client.h>

#include "tests/support/conversation.h"

namespace kvant::testing {
namespace {

std::uint64_t DigestOf(const std::vector<float>& numbers) {
  std::uint64_t hash = 1469598103934665603ULL;  // FNV-1a
  for (const float number : numbers) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &number, sizeof(bits));
    hash = (hash ^ bits) * 1099511628211ULL;
  }
  return hash;
}

void Answer(const Error& error) { std::cout << "error " << ErrorCodeName(error.code) << " " << error.message << std::endl; }

constexpr std::size_t kFloodTokens = 400;

/// False if the daemon went away meanwhile.
bool FloodOnce(Client& client, Store& store, const SequenceOptions& options, const FakeModel& model, std::uint64_t seed) {
  const std::vector<TokenId> text = RandomTokens(kFloodTokens, seed);
  auto sequence = store.Open(text, options);
  if (!sequence) return false;
  std::vector<TokenId> held(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(sequence->length()));
  Conversation talk(client, std::move(*sequence), model, held, options.max_step_tokens);
  while (talk.sequence().length() < text.size()) {
    const std::size_t at = talk.sequence().length();
    const std::size_t n = std::min<std::size_t>(options.max_step_tokens, text.size() - at);
    if (!talk.Step(std::span(text).subspan(at, n), WriteMode::kInPlace, {})) return false;
  }
  return true;
}

int Run(const std::string& socket, Placement placement) {
  const FakeModel model{ModelShape{}};
  constexpr std::uint32_t kMaxStep = 64;
  const SequenceOptions options{.placement = placement,
                                .recent_tokens = 16,
                                .max_step_tokens = kMaxStep,
                                .tail_type = ElementType::kF16,
                                .label = "child"};
  auto client = Client::Connect(socket, {.arena_bytes = std::size_t{32} << 20});
  if (!client) {
    Answer(client.error());
    return 1;
  }
  const StoreSpec spec = SpecOf(model.shape(), "turboquant_mse:bits=4", "turboquant_mse:bits=4");
  auto store = client->OpenStore(spec);
  if (!store) {
    Answer(store.error());
    return 1;
  }
  std::cout << "ok ready" << std::endl;
  std::optional<Conversation> talk;
  std::vector<TokenId> text;
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    if (command == "open") {
      std::uint64_t seed = 0;
      std::size_t n = 0;
      words >> seed >> n;
      text = RandomTokens(n, seed);
      auto sequence = store->Open(text, options);
      if (!sequence) {
        Answer(sequence.error());
        continue;
      }
      text.resize(sequence->length());
      talk.emplace(*client, std::move(*sequence), model, text, kMaxStep);
      std::cout << "ok " << talk->sequence().id() << " " << talk->sequence().length() << std::endl;
    } else if (command == "fork") {
      std::uint64_t id = 0;
      std::uint64_t seed = 0;
      std::uint64_t length = 0;
      words >> id >> seed >> length;
      auto sequence = store->Fork(id, length, options);
      if (!sequence) {
        Answer(sequence.error());
        continue;
      }
      talk.emplace(*client, std::move(*sequence), model, RandomTokens(length, seed), kMaxStep);
      std::cout << "ok " << talk->sequence().id() << " " << talk->sequence().length() << std::endl;
    } else if (command == "feed") {
      std::uint64_t seed = 0;
      std::size_t n = 0;
      std::size_t chunk = 1;
      words >> seed >> n >> chunk;
      // The same stream of tokens whatever is held already: those behind the sequence's length.
      std::vector<TokenId> stream = RandomTokens(talk->sequence().length() + n, seed);
      stream.erase(stream.begin(), stream.begin() + static_cast<std::ptrdiff_t>(talk->sequence().length()));
      const std::vector<float> outputs = talk->Feed(stream, chunk);
      std::cout << "ok " << talk->sequence().length() << " " << DigestOf(outputs) << std::endl;
    } else if (command == "reconnect") {
      talk.reset();
      if (auto done = client->Reconnect(); !done) {
        Answer(done.error());
        continue;
      }
      if (store = client->OpenStore(spec); !store) {
        Answer(store.error());
        continue;
      }
      std::cout << "ok " << client->daemon().boot_token << std::endl;
    } else if (command == "flood") {
      std::uint64_t seed = 0;
      words >> seed;
      for (;; ++seed) {
        const auto flooded = [&] {
          try {
            return FloodOnce(*client, *store, options, model, seed);
          } catch (const std::exception&) {
            return false;  // the daemon went away under the conversation's tensors
          }
        };
        while (!flooded()) {
          std::cout << "lost" << std::endl;
          if (!std::getline(std::cin, line)) return 0;
          do {
            while (!client->Reconnect()) {
            }
            store = client->OpenStore(spec);
          } while (!store);
          std::cout << "back" << std::endl;
        }
        std::cout << "done " << seed << std::endl;
      }
    } else if (command == "look") {
      const TokenId token = 1;
      if (auto attended = talk->AttendOnly({&token, 1}, WriteMode::kInPlace, {}); !attended) {
        Answer(attended.error());
      } else {
        std::cout << "ok looked" << std::endl;
      }
    } else if (command == "spin") {
      std::size_t n = 0;
      words >> n;
      for (std::size_t i = 0; i < n; ++i) {
        const TokenId token = 1;
        if (auto attended = talk->AttendOnly({&token, 1}, WriteMode::kInPlace, {}); !attended) {
          Answer(attended.error());
          break;
        }
        if (i == 0) std::cout << "ok spinning" << std::endl;
      }
    } else if (auto ping = client->Ping(); ping) {
      std::cout << "ok pong" << std::endl;
    } else {
      Answer(ping.error());
    }
  }
  return 0;
}

}  // namespace
}  // namespace kvant::testing

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: kvant_test_client SOCKET service|local\n";
    return 2;
  }
  return kvant::testing::Run(argv[1], std::string(argv[2]) == "local" ? kvant::Placement::kLocal : kvant::Placement::kService);
}
