"""A kvantd of its own for a test, on a unix socket in a folder of its own."""

import pathlib
import shutil
import subprocess
import tempfile
import time

import kvant
import pytest
from kvant import _core

_DEADLINE = 30.0


def _program():
    """kvantd of the build that the extension is from."""
    program = pathlib.Path(_core.__file__).resolve().parents[2] / "bin" / "kvantd"
    if not program.exists():
        pytest.skip(f"{program} is not built")
    return program


class Kvantd:
    """Runs until stop() or the end of the with block."""

    def __init__(self, *arguments):
        self._folder = tempfile.mkdtemp(prefix="kvant-")
        self.uri = f"unix:{self._folder}/kvantd.sock"
        self._command = [str(_program()), "--socket", f"{self._folder}/kvantd.sock", "--budget", "512MiB", *arguments]
        self.start()

    def start(self):
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + _DEADLINE
        while True:
            try:
                kvant.Client(self.uri).close()
                return
            except kvant.DaemonGoneError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def kill(self):
        """As a crash would."""
        self._process.kill()
        self._process.wait(_DEADLINE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self._folder)
