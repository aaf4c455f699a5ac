#!/usr/bin/env bash
# Tests of the Python package and of its adapters, against the engines themselves:
#   tools/test_engines.sh [PYTEST OPTIONS]
# Makes a virtual environment in build/engines (numpy, nanobind, mlx_lm: some 400 MB from PyPI, once), builds the package for its Python and
# runs tests/python. KVANT_TORCH=1 adds torch and transformers (another 4.2 GB) in build/engines-torch, and with them the tests of
# kvant.transformers; KVANT_TEST_GGUF names a GGUF file of a Llama-like model for the tests that want a larger one. Installs Debian packages that
# are missing, as root or with sudo.
set -euo pipefail
kvant_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$kvant_root/tools/ci/setup.sh"

kvant_install_packages
environment=$kvant_root/build/engines
requirements=(-r "$kvant_root/tests/python/requirements.txt")
if [ "${KVANT_TORCH:-0}" = 1 ]; then
  environment=$kvant_root/build/engines-torch
  requirements+=(-r "$kvant_root/tests/python/requirements-transformers.txt")
fi
if [ ! -x "$environment/bin/pytest" ]; then
  kvant_say "Making the virtual environment ${environment#"$kvant_root/"}"
  python3 -m venv "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check "${requirements[@]}" </dev/null ||
    kvant_fail "pip install ${requirements[*]}"
fi
(cd "$kvant_root" && cmake --preset release -DKVANT_PYTHON=ON "-DPython_EXECUTABLE=$environment/bin/python" </dev/null >build/release.configure.log 2>&1) ||
  kvant_fail "cmake --preset release -DKVANT_PYTHON=ON (all of it in build/release.configure.log)"
kvant_say "Building the package with $(kvant_jobs) jobs in build/release"
cmake --build "$kvant_root/build/release" --parallel "$(kvant_jobs)" --target kvant_python kvantd kvant-generate </dev/null
kvant_say "Running tests/python"
PYTHONPATH="$kvant_root/build/release/python" exec "$environment/bin/python" -m pytest -q "$kvant_root/tests/python" "$@"
