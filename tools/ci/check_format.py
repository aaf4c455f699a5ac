#!/usr/bin/env python3
"""Checks that clang-format would change nothing: check_format.py ROOT CLANG_FORMAT. Prints what it would change; exits 1 if anything."""
import pathlib
import subprocess
import sys

FOLDERS = ("protocol", "kernels", "quantizers", "daemon", "client", "tools", "tests")


def main():
    root, program = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
    files = [str(p) for folder in FOLDERS for p in sorted((root / folder).rglob("*")) if p.suffix in (".h", ".cc")]
    if not files:
        sys.exit(f"no sources under {root}")
    outcome = subprocess.run([program, "--dry-run", "-Werror", "--style=file", *files], cwd=root, check=False)
    print(f"{len(files)} files, {program}: exit {outcome.returncode}")
    sys.exit(1 if outcome.returncode else 0)


if __name__ == "__main__":
    main()
