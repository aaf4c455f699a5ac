#!/usr/bin/env bash
# Tests of the Python package, of its wheel and of its adapters, against the engines themselves:
#   tools/test_engines.sh [PYTEST OPTIONS]
# Makes a virtual environment in build/engines (numpy, nanobind, mlx_lm: some 400 MB from PyPI, once), builds the package for its Python,
# builds the wheel, and runs tests/python. With KVANT_TEST_TORCH=1 in the environment torch comes too (4.2 GB), and the tests of
# transformers run; without it they are skipped. Installs Debian packages that are missing, as root or with sudo.
set -euo pipefail
kvant_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$kvant_root/tools/ci/setup.sh"

kvant_install_packages
environment=$kvant_root/build/engines
wanted=("$kvant_root/tests/python/requirements.txt")
[ "${KVANT_TEST_TORCH:-0}" = 1 ] && wanted+=("$kvant_root/tests/python/requirements-torch.txt")
for list in "${wanted[@]}"; do
  installed=$environment/$(basename "$list")
  cmp -s "$list" "$installed" && continue
  kvant_say "Installing $(basename "$list") in the virtual environment build/engines"
  [ -x "$environment/bin/python" ] || python3 -m venv "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check -r "$list" </dev/null || kvant_fail "pip install -r ${list#"$kvant_root/"}"
  cp "$list" "$installed"
done
export CCACHE_BASEDIR="$kvant_root" CCACHE_NOHASHDIR=1
(cd "$kvant_root" && cmake --preset release -DKVANT_PYTHON=ON "-DPython_EXECUTABLE=$environment/bin/python" </dev/null >build/release.configure.log 2>&1) ||
  kvant_fail "cmake --preset release -DKVANT_PYTHON=ON (all of it in build/release.configure.log)"
kvant_say "Building the package with $(kvant_jobs) jobs in build/release"
cmake --build "$kvant_root/build/release" --parallel "$(kvant_jobs)" --target kvant_python kvantd kvant_generate </dev/null
wheel=$("$kvant_root/tools/build_wheel.sh" "$environment/bin/python")
kvant_say "Running tests/python"
KVANT_WHEEL=$wheel PYTHONPATH="$kvant_root/build/release/python" exec "$environment/bin/python" -m pytest -q "$kvant_root/tests/python" "$@"
