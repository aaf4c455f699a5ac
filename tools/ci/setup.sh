# Shell functions of tools/test.sh and tools/demo.sh, to be sourced: install packages, configure, build.
# Nothing here needs HOME, a terminal or standard input. Requires: kvant_root names the checkout.

kvant_cmake_options=()

kvant_say() { printf '\n== %s\n' "$*"; }

kvant_fail() {
  printf '\nFAILED: %s\n' "$*" >&2
  exit 1
}

# Installs what tools/ci/packages.txt names and this machine lacks; leaves apt alone when nothing is missing.
kvant_install_packages() {
  mkdir -p "$kvant_root/build"
  local package missing=()
  while read -r package; do
    case "$package" in '' | '#'*) continue ;; esac
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done <"$kvant_root/tools/ci/packages.txt"
  [ "${#missing[@]}" -eq 0 ] && return 0

  kvant_say "Installing ${#missing[@]} Debian packages: ${missing[*]}"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || kvant_fail "these packages are missing and neither root nor sudo is at hand: ${missing[*]}"
    as_root=(sudo)
  fi
  local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends
    -o DPkg::Lock::Timeout=300 "${missing[@]}")
  local log="$kvant_root/build/packages.log"
  # The package lists may be absent or stale: fetch them only when the first try fails.
  "${install[@]}" </dev/null >"$log" 2>&1 && return 0
  "${as_root[@]}" apt-get update -q </dev/null >>"$log" 2>&1
  "${install[@]}" </dev/null >>"$log" 2>&1 || {
    tail -n 30 "$log" >&2
    kvant_fail "apt-get install ${missing[*]} (all of it in build/packages.log)"
  }
}

# Compile jobs: one per core, but no more than memory carries (1.5 GiB each).
kvant_jobs() {
  local cores memory_kib jobs
  cores=$(nproc)
  memory_kib=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
  jobs=$((memory_kib / 1572864))
  [ "$jobs" -lt 1 ] && jobs=1
  [ "$jobs" -gt "$cores" ] && jobs=$cores
  echo "$jobs"
}

# kvant_build PRESET [targets...]: configures and builds; without targets, everything. Programs come to build/PRESET/bin.
# kvant_cmake_options, an array, holds more options for the configuration.
kvant_build() {
  local preset=$1
  shift
  mkdir -p "$kvant_root/build"
  # ccache wants a home; without a writable one its files go beside the checkout's other generated files.
  if [ -z "${CCACHE_DIR:-}" ] && { [ -z "${HOME:-}" ] || [ ! -w "${HOME:-}" ]; }; then
    export CCACHE_DIR="$kvant_root/.cache/ccache"
  fi
  export CCACHE_BASEDIR="$kvant_root" CCACHE_NOHASHDIR=1  # the same answers for a checkout in another place
  kvant_say "Configuring preset $preset"
  (cd "$kvant_root" && cmake --preset "$preset" "${kvant_cmake_options[@]}" </dev/null >"$kvant_root/build/$preset.configure.log" 2>&1) || {
    tail -n 40 "$kvant_root/build/$preset.configure.log" >&2
    kvant_fail "cmake --preset $preset (all of it in build/$preset.configure.log)"
  }
  kvant_say "Building ${*:-everything} with $(kvant_jobs) jobs in build/$preset"
  local target arguments=()
  for target in "$@"; do arguments+=(--target "$target"); done
  (cd "$kvant_root" && cmake --build "build/$preset" --parallel "$(kvant_jobs)" "${arguments[@]}" </dev/null) || kvant_fail "build of preset $preset"
}
