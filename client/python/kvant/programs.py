"""The programs that the wheel carries: kvantd, the daemon, and kvantctl, the administrator's tool."""

import os
import pathlib
import sys

_PACKAGE = pathlib.Path(__file__).parent


def path_of(name):
    """Where a program lies: in the wheel, or in the build that made the package. FileNotFoundError if it is in neither."""
    for folder in (_PACKAGE / "bin", _PACKAGE.parent.parent / "bin"):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{name}: missing in {_PACKAGE / 'bin'}; it comes with kvant's wheel, and with the build in build/<preset>/bin")


def _become(name):
    try:
        program = path_of(name)
    except FileNotFoundError as error:
        sys.exit(str(error))
    os.execv(program, [name, *sys.argv[1:]])


def kvantd():
    """Becomes the daemon; arguments are its own."""
    _become("kvantd")


def kvantctl():
    """Becomes the administrator's tool; arguments are its own."""
    _become("kvantctl")
