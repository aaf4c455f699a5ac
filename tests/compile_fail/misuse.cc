// Misuse of the installed interface that the compiler must refuse: one case per value of CASE. Case 0 is the control that must
// compile, so that a case cannot "pass" because a header is missing.
#include <kvant/admin.h>
#include <kvant/client.h>

#include <utility>

#ifndef CASE
#error "define CASE"
#endif

[[maybe_unused]] static void Use([[maybe_unused]] kvant::Client& client, [[maybe_unused]] kvant::Sequence& sequence,
                                 [[maybe_unused]] kvant::Store& store, [[maybe_unused]] kvant::Tensor& tensor,
                                 [[maybe_unused]] kvant::Admin& admin) {
#if CASE == 0
  kvant::Sequence moved = std::move(sequence);
  (void)moved.Trim(0).has_value();
#elif CASE == 1  // an outcome that nobody looks at
  sequence.Trim(0);
#elif CASE == 2  // two owners of one sequence
  kvant::Sequence copy = sequence;
#elif CASE == 3  // two owners of one connection
  kvant::Client copy = client;
#elif CASE == 4  // two owners of one tensor
  kvant::Tensor copy = tensor;
#elif CASE == 5  // a value taken without asking whether there is one
  kvant::Mark mark = sequence.SetMark();
#elif CASE == 6  // writing through a read-only view
  kvant::ConstTensorView view;
  kvant::AttendArgs args;
  args.out = view;
#elif CASE == 7  // an element type out of an integer
  (void)client.Allocate(1, 1, 8, 0).has_value();
#elif CASE == 8  // two owners of one store
  kvant::Store copy = store;
#elif CASE == 9  // a failed outcome counted as a number
  int ok = sequence.Trim(0);
#endif
}
