#!/usr/bin/env bash
# Tests of the Python package and of its adapters, against the engines themselves:
#   tools/test_engines.sh [PYTEST OPTIONS]
# Makes a virtual environment in build/engines (numpy, nanobind, mlx_lm: some 400 MB from PyPI, once), builds the package for its Python and
# runs tests/python. Installs Debian packages that are missing, as root or with sudo.
set -euo pipefail
kvant_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$kvant_root/tools/ci/setup.sh"

kvant_install_packages
environment=$kvant_root/build/engines
if [ ! -x "$environment/bin/pytest" ]; then
  kvant_say "Making the virtual environment build/engines"
  python3 -m venv "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check -r "$kvant_root/tests/python/requirements.txt" </dev/null ||
    kvant_fail "pip install -r tests/python/requirements.txt"
fi
(cd "$kvant_root" && cmake --preset release -DKVANT_PYTHON=ON "-DPython_EXECUTABLE=$environment/bin/python" </dev/null >build/release.configure.log 2>&1) ||
  kvant_fail "cmake --preset release -DKVANT_PYTHON=ON (all of it in build/release.configure.log)"
kvant_say "Building the package with $(kvant_jobs) jobs in build/release"
cmake --build "$kvant_root/build/release" --parallel "$(kvant_jobs)" --target kvant_python kvantd </dev/null
kvant_say "Running tests/python"
PYTHONPATH="$kvant_root/build/release/python" exec "$environment/bin/python" -m pytest -q "$kvant_root/tests/python" "$@"
