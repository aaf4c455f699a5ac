# Shell functions of tools/test_engines.sh and tools/demo_engines.sh, to be sourced after setup.sh.

# kvant_engines LIST...: a virtual environment in build/engines with the packages of tests/python/LIST, and the Python package built for it
# in build/release/python.
kvant_engines() {
  environment=$kvant_root/build/engines
  local list installed
  for list in "$@"; do
    installed=$environment/$list
    cmp -s "$kvant_root/tests/python/$list" "$installed" && continue
    kvant_say "Installing tests/python/$list in the virtual environment build/engines"
    [ -x "$environment/bin/python" ] || python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check -r "$kvant_root/tests/python/$list" </dev/null ||
      kvant_fail "pip install -r tests/python/$list"
    cp "$kvant_root/tests/python/$list" "$installed"
  done
  kvant_cmake_options=(-DKVANT_PYTHON=ON "-DPython_EXECUTABLE=$environment/bin/python")  # seen by kvant_build
  kvant_build release kvant_python kvantd kvantctl kvant_generate
}
