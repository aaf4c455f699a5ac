#!/usr/bin/env bash
# Installs what is missing, builds the release preset, runs every test and says how it went. Exit 0: all passed.
#   tools/test.sh            everything, the engines' tests (tools/test_engines.sh) included
#   tools/test.sh -R Sealing ctest's own options choose tests
set -uo pipefail
kvant_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
. "$kvant_root/tools/ci/setup.sh"
started=$SECONDS

kvant_install_packages
kvant_build release all all_verify_interface_header_sets
built=$SECONDS

kvant_say "Running the tests"
log="$kvant_root/build/release/test.log"
(cd "$kvant_root/build/release" && ctest --output-on-failure --no-tests=error --parallel "$(nproc)" "$@" </dev/null 2>&1) | tee "$log" |
  grep --line-buffered -vE '^ *(Start +[0-9]+:|[0-9]+/[0-9]+ Test +#[0-9]+: .* Passed )|^Test project '
outcome=${PIPESTATUS[0]}

counts=$(sed -nE 's/^([0-9]+)% tests passed, ([0-9]+) tests failed out of ([0-9]+)$/\3 tests, \2 failed/p' "$log")
if [ $# -eq 0 ]; then
  "$kvant_root/tools/test_engines.sh" -rs | tee "$kvant_root/build/engines.log"
  engines=${PIPESTATUS[0]}
  counts="${counts:-no summary} by ctest; engines: $(tail -n 1 "$kvant_root/build/engines.log")"
  [ "$engines" -eq 0 ] || outcome=$engines
fi
kvant_say "Built in $((built - started)) s, tested in $((SECONDS - built)) s. Every result: build/release/test.log"
if [ "$outcome" -eq 0 ]; then
  echo "PASSED: ${counts:-no summary}"
else
  echo "FAILED: ${counts:-ctest ended with $outcome}"
fi
exit "$outcome"
