"""The programs that the wheel carries: kvantd, the daemon, and kvantctl, the administrator's tool."""

import os
import pathlib
import sys

FOLDER = pathlib.Path(__file__).parent / "bin"


def _become(name):
    program = FOLDER / name
    if not program.exists():
        sys.exit(f"{name}: {program} is missing; it comes with kvant's wheel, and with the build in build/<preset>/bin")
    os.execv(program, [name, *sys.argv[1:]])


def kvantd():
    """Becomes the daemon; arguments are its own."""
    _become("kvantd")


def kvantctl():
    """Becomes the administrator's tool; arguments are its own."""
    _become("kvantctl")
