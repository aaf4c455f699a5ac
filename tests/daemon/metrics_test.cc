// Metrics as text, where they may be asked for, and an HTTP server that nobody holds up. tests/integration has a real
// Prometheus.
#include <future>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include "daemon/metrics/metrics_server.h"
#include "daemon/metrics/metrics_socket.h"
#include "daemon/metrics/prometheus_text.h"
#include "protocol/socket_address.h"

namespace kvant::daemon {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(PrometheusTextTest, EveryFigureStandsOnceWithItsKind) {
  ServiceFigures figures;
  figures.stores.blocks = 7;
  figures.counters.attend_calls = 9;
  const std::string text = PrometheusText(figures, {}, "1.2.3");
  EXPECT_THAT(text, HasSubstr("kvant_build_info{version=\"1.2.3\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE kvant_blocks gauge\nkvant_blocks 7\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE kvant_attend_calls_total counter\nkvant_attend_calls_total 9\n"));
  std::size_t types = 0;
  for (std::size_t at = text.find("# TYPE"); at != std::string::npos; at = text.find("# TYPE", at + 1)) ++types;
  constexpr std::size_t kFamilies = 3;  // refusals, room_refusals, lookup_ends
  EXPECT_EQ(types, 1 + kServiceGauges.size() + kStoreGauges.size() + kCounters.size() + kServiceCounters.size() + kFamilies +
                       kBlockTimes.size());
  EXPECT_THAT(text, Not(HasSubstr("per_store")));
}

TEST(PrometheusTextTest, ReasonsAreLabelsAndTimesAreCumulativeHistograms) {
  ServiceFigures figures;
  figures.refusals.version = 3;
  figures.room_refusals.tenant_quota = 4;
  figures.lookup_ends.evicted = 5;
  for (const std::uint64_t ms : {400U, 1000U, 1001U, 3'000'000'000U}) figures.times.lifetime.Add(ms);
  const std::string text = PrometheusText(figures, {}, "1");
  EXPECT_THAT(text, HasSubstr("# TYPE kvant_refusals_total counter\nkvant_refusals_total{reason=\"connection_limit\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("\nkvant_refusals_total{reason=\"version\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("\nkvant_room_refusals_total{limit=\"tenant_quota\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("\nkvant_lookup_ends_total{reason=\"evicted\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE kvant_block_lifetime_seconds histogram\n"));
  EXPECT_THAT(text, HasSubstr("\nkvant_block_lifetime_seconds_bucket{le=\"1\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("\nkvant_block_lifetime_seconds_bucket{le=\"5\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("\nkvant_block_lifetime_seconds_bucket{le=\"2592000\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("\nkvant_block_lifetime_seconds_bucket{le=\"+Inf\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("\nkvant_block_lifetime_seconds_count 4\n"));
}

TEST(PrometheusTextTest, NamesOfStoresAreEscapedAndAlwaysUtf8) {
  StoreFigures store;
  store.blocks = 3;
  store.counters.evicted_blocks = 5;
  const std::string text =
      PrometheusText({}, {{.name = "a\"b\\c\nd", .figures = store}, {.name = "\xc3\xa9\xff", .figures = {}}}, "1");
  EXPECT_THAT(text, HasSubstr("kvant_per_store_blocks{store=\"a\\\"b\\\\c\\nd\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("kvant_per_store_evicted_blocks_total{store=\"a\\\"b\\\\c\\nd\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("kvant_per_store_blocks{store=\"\xc3\xa9\xef\xbf\xbd\"} 0\n"));
}

TEST(MetricsSocketTest, OnlyThisMachineMayAsk) {
  for (const char* address : {"0.0.0.0:9464", "192.168.0.1:9464", "[::]:9464", ":9464", "9464", "", "127.0.0.1", "127.0.0.1:",
                              "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:1x", "localhost.example:80", "/tmp/socket"}) {
    const auto socket = MetricsSocket::Open(address);
    ASSERT_FALSE(socket) << address;
    EXPECT_EQ(socket.error().code, ErrorCode::kInvalidArgument) << address;
    EXPECT_THAT(socket.error().message, HasSubstr("\"" + std::string(address) + "\""));
  }
}

TEST(MetricsSocketTest, APortInUseIsNamed) {
  const auto first = MetricsSocket::Open("127.0.0.1:0");
  ASSERT_TRUE(first);
  EXPECT_THAT(first->address(), Not(HasSubstr(":0")));
  const auto second = MetricsSocket::Open(first->address());
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().message, HasSubstr(first->address()));
}

class MetricsServerTest : public ::testing::Test {
 protected:
  MetricsServer::Callbacks Answering(const std::string& text) {
    return {.post = [](const std::function<void()>& work) { work(); },
            .collect = [text] { return [text] { return text; }; },
            .failed = [](const std::string& what) { ADD_FAILURE() << what; }};
  }
  std::unique_ptr<MetricsServer> Serve(MetricsServer::Callbacks callbacks) {
    return std::make_unique<MetricsServer>(MetricsSocket::Open("unix:" + path_).value(), std::move(callbacks));
  }
  [[nodiscard]] protocol::UniqueFd Connect() const {
    return protocol::ConnectUnixSocket(path_, std::chrono::seconds(20)).value();
  }
  static void Send(int fd, const std::string& text) {
    ASSERT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  /// Up to the end of the connection.
  static std::string Read(int fd) {
    std::string answer;
    char buffer[4096];
    for (;;) {
      pollfd polled{.fd = fd, .events = POLLIN, .revents = 0};
      if (::poll(&polled, 1, 60'000) != 1) return answer + " (and no end)";
      const ssize_t n = ::read(fd, buffer, sizeof buffer);
      if (n <= 0) return answer;
      answer.append(buffer, static_cast<std::size_t>(n));
    }
  }
  std::string Ask(const std::string& request) const {
    const auto socket = Connect();
    Send(socket.get(), request + "\r\nHost: here\r\nConnection: close\r\n\r\n");
    return Read(socket.get());
  }

  const std::string path_ = ::testing::TempDir() + "metrics-" + std::to_string(::getpid());
};

TEST_F(MetricsServerTest, AnswersWhatItIsAskedFor) {
  const auto server = Serve(Answering("kvant_answer 42\n"));
  EXPECT_THAT(Ask("GET /metrics HTTP/1.1"), HasSubstr("\r\n\r\nkvant_answer 42\n"));
  EXPECT_THAT(Ask("GET /metrics HTTP/1.1"), HasSubstr("text/plain; version=0.0.4"));
  EXPECT_THAT(Ask("HEAD /metrics HTTP/1.1"), Not(HasSubstr("kvant_answer")));
  EXPECT_THAT(Ask("GET / HTTP/1.1"), HasSubstr("404"));
  EXPECT_THAT(Ask("POST /metrics HTTP/1.1\r\nContent-Length: 0"), HasSubstr("405"));
  EXPECT_THAT(Ask("nonsense"), HasSubstr("HTTP/1.1 "));
}

TEST_F(MetricsServerTest, WhoSaysNothingOrReadsNothingHoldsNobodyUp) {
  const auto server = Serve(Answering(std::string(8 << 20, 'x') + "end"));
  const auto silent = Connect();
  const auto deaf = Connect();
  Send(deaf.get(), "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
  EXPECT_THAT(Ask("GET /metrics HTTP/1.1"), ::testing::EndsWith("xend"));
}

TEST_F(MetricsServerTest, MoreThanSixteenAtOnceAreTurnedAway) {
  const auto server = Serve(Answering("kvant_answer 42\n"));
  std::vector<protocol::UniqueFd> silent;
  for (int i = 0; i < 16; ++i) silent.push_back(Connect());
  EXPECT_EQ(Ask("GET /metrics HTTP/1.1"), "");
  silent.clear();
  std::string answer;
  for (int i = 0; i < 600 && answer.empty(); ++i) {  // until the server has seen them go
    answer = Ask("GET /metrics HTTP/1.1");
    if (answer.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_THAT(answer, HasSubstr("kvant_answer 42"));
}

TEST_F(MetricsServerTest, WhenTheLoopTakesNoWorkTheAnswerIsThatItIsUnavailable) {
  auto callbacks = Answering("never");
  callbacks.post = [](const std::function<void()>&) {};
  const auto server = Serve(callbacks);
  EXPECT_THAT(Ask("GET /metrics HTTP/1.1"), HasSubstr("503"));
}

TEST_F(MetricsServerTest, EndsWhileItIsAskedAndWhileWorkIsStillPosted) {
  std::vector<std::function<void()>> posted;
  auto callbacks = Answering("late");
  std::promise<void> asked;
  callbacks.post = [&](std::function<void()> work) {
    posted.push_back(std::move(work));
    asked.set_value();
  };
  auto server = Serve(callbacks);
  const auto socket = Connect();
  Send(socket.get(), "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
  asked.get_future().wait();
  server.reset();
  posted.front()();  // nobody listens any more
  posted.clear();
}

}  // namespace
}  // namespace kvant::daemon
