#!/usr/bin/env bash
# Tests of the Python package, of its wheel and of its adapters, against the engines themselves:
#   tools/test_engines.sh [PYTEST OPTIONS]
# Makes a virtual environment in build/engines (numpy, nanobind, mlx_lm: some 400 MB from PyPI, once), builds the package for its Python,
# builds the wheel, and runs tests/python. With KVANT_TORCH=1 in the environment torch comes too (4.2 GB), and the tests of
# transformers run; without it they are skipped. KVANT_TEST_GGUF names a GGUF file of a Llama-like model for the tests that want a larger one.
# Installs Debian packages that are missing, as root or with sudo.
set -euo pipefail
kvant_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$kvant_root/tools/ci/setup.sh"
. "$kvant_root/tools/ci/engines.sh"

kvant_install_packages
lists=(requirements.txt)
[ "${KVANT_TORCH:-0}" = 1 ] && lists+=(requirements-torch.txt)
kvant_engines "${lists[@]}"
wheel=$("$kvant_root/tools/build_wheel.sh" "$environment/bin/python")
kvant_say "Running tests/python"
KVANT_WHEEL=$wheel PYTHONPATH="$kvant_root/build/release/python" exec "$environment/bin/python" -m pytest -q "$kvant_root/tests/python" "$@"
