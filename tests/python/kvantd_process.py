"""Programs of the build that the package is from, and a kvantd of its own for a test."""

import pathlib
import shutil
import subprocess
import tempfile
import time

import kvant
import pytest
from kvant import _core

_DEADLINE = 60.0


def program(name):
    """A program of the build that the extension is from; skips the test where it is not built."""
    path = pathlib.Path(_core.__file__).parents[2] / "bin" / name
    if not path.exists():
        pytest.skip(f"{path} is not built")
    return path


class Kvantd:
    """On a unix socket in a folder of its own, until kill() or the end of the with block. `process`: what runs at present."""

    def __init__(self, budget="512MiB"):
        self._folder = tempfile.mkdtemp(prefix="kvant-")
        self.socket = f"{self._folder}/kvantd.sock"
        self.uri = f"unix:{self.socket}"
        self._command = [program("kvantd"), "--socket", self.socket, "--budget", budget, "--holder", "off"]

    def start(self):
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + _DEADLINE
        while True:
            try:
                kvant.Client(self.uri).close()
                return
            except kvant.DaemonGoneError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise
                time.sleep(0.02)

    def kill(self):
        """As a crash would."""
        self.process.kill()
        self.process.wait(_DEADLINE)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self._folder)
