# To be sourced by the demos: a working folder with a place for a socket, and processes (children) that end with the script.

work=$(mktemp -d "${TMPDIR:-/tmp}/kvant-demo.XXXXXX") || exit 1
socket="$work/kvantd.sock"
children=()
clean_up() {
  local child
  for child in "${children[@]}"; do kill "$child" 2>/dev/null; done
  wait 2>/dev/null
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 1' INT TERM
