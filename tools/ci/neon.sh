#!/usr/bin/env bash
# Builds tests for aarch64 in build/neon and runs them under qemu: each kernel's NEON body against its scalar twin.
#   tools/ci/neon.sh                     the tests of kernels/
#   tools/ci/neon.sh kernels quantizers  of these folders; codecs and their golden bytes take qemu several minutes
# Debian's arm64 libraries are unpacked in build/neon/root; the machine's own packages and architectures stay as they are.
# Exit 0: all passed; 77: not run, with the reason: no compiler, no emulator or no network.
set -uo pipefail
kvant_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd) || exit 1
. "$kvant_root/tools/ci/setup.sh"
build="$kvant_root/build/neon"
root="$build/root"
folders=("${@:-kernels}")
packages=(capnproto libboost1.74-dev libcapnp-dev libcli11-dev libeigen3-dev libfmt-dev libgmock-dev libgtest-dev
  libcapnp-0.9.2 libfmt9 libhwy-dev libhwy1 libspdlog-dev libspdlog1.10 libssl-dev libssl3 libxxhash-dev libxxhash0
  nlohmann-json3-dev)

skip() {
  echo "SKIPPED: $*" >&2
  exit 77
}

# apt-get with lists and a cache of its own, for arm64 alone.
apt_arm64() {
  mkdir -p "$build/apt/lists" "$build/apt/cache"
  apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User="$(id -un)" -o Dir::State::status=/dev/null \
    -o Dir::State::Lists="$build/apt/lists" -o Dir::Cache="$build/apt/cache" "$@" </dev/null >>"$build/packages.log" 2>&1
}

unpack_packages() {
  [ "$(cat "$root/unpacked" 2>/dev/null)" = "${packages[*]}" ] && return 0
  kvant_say "Fetching ${#packages[@]} arm64 packages"
  rm -rf "$root" "$build/debs"
  mkdir -p "$root" "$build/debs"
  : >"$build/packages.log"
  { apt_arm64 update && (cd "$build/debs" && apt_arm64 download "${packages[@]}"); } ||
    skip "arm64 packages could not be fetched: $(grep -m 1 -E '^[EW]:' "$build/packages.log") (build/neon/packages.log)"
  local deb
  for deb in "$build"/debs/*.deb; do dpkg-deb -x "$deb" "$root" || kvant_fail "unpacking $deb"; done
  echo "${packages[*]}" >"$root/unpacked"
}

for tool in aarch64-linux-gnu-g++:g++-aarch64-linux-gnu qemu-aarch64:qemu-user apt-get:apt dpkg-deb:dpkg; do
  command -v "${tool%%:*}" >/dev/null || skip "${tool%%:*} is missing (Debian package ${tool##*:})"
done
unpack_packages
kvant_build neon "${folders[@]/%/_test}"

outcome=0
for folder in "${folders[@]}"; do
  kvant_say "Running ${folder}_test under qemu-aarch64"
  (cd "$build" && qemu-aarch64 -L /usr/aarch64-linux-gnu "bin/${folder}_test" --gtest_brief=1 </dev/null) || outcome=1
done
exit "$outcome"
