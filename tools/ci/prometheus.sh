#!/usr/bin/env bash
# Prints the path of a prometheus program: the installed one, or Debian's package unpacked in FOLDER. (Installing the package would start a
# server on all interfaces, which is not for a test to do.) Exit code 1, and why on standard error, if there is none to be had.
#   tools/ci/prometheus.sh FOLDER
set -euo pipefail
command -v prometheus && exit
mkdir -p "$1"
cd "$1"
if [ ! -x usr/bin/prometheus ]; then
  apt-get download -q prometheus >download.log 2>&1 || {
    tail -n 3 download.log >&2
    exit 1
  }
  dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb
fi
echo "$PWD/usr/bin/prometheus"
