// A step that fails is followed by the next.
#include "daemon/repeated_step.h"

#include <stdexcept>

#include <gtest/gtest.h>
#include <kj/async-io.h>
#include <kj/debug.h>

namespace kvant::daemon {
namespace {

TEST(RepeatedStepTest, GoesOnAfterAStepThatThrows) {
  kj::AsyncIoContext io = kj::setupAsyncIo();
  int steps = 0;
  int failures = 0;
  auto done = kj::newPromiseAndFulfiller<void>();
  RepeatedStep step(
      io.provider->getTimer(), 1 * kj::MILLISECONDS,
      [&] {
        ++steps;
        if (steps == 2) KJ_FAIL_REQUIRE("a step that fails");
        if (steps == 3) throw std::runtime_error("another");
        if (steps == 5) done.fulfiller->fulfill();
        return 1 * kj::MILLISECONDS;
      },
      [&](const kj::Exception&) { ++failures; });
  auto chain = step.chain().eagerlyEvaluate(nullptr);
  done.promise.wait(io.waitScope);
  EXPECT_EQ(steps, 5);
  EXPECT_EQ(failures, 2);
}

}  // namespace
}  // namespace kvant::daemon
