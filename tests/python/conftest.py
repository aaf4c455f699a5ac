import pathlib
import socket
import subprocess
import time

import kvant
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def byte6m():
    """The small real model of the tree."""
    return ROOT / "tests" / "models" / "byte6m"


@pytest.fixture(scope="session")
def prompt():
    """Some 1500 tokens of a text that the model knows how to go on with."""
    return (ROOT / "client" / "sequence.cc").read_text(encoding="utf-8")[:1500]


class Daemon:
    """A kvantd of a test's own, of the build whose package is tested."""

    def __init__(self, socket_path, *options):
        self.socket, self._options, self._process = str(socket_path), options, None
        self._program = pathlib.Path(kvant._core.__file__).parents[2] / "bin" / "kvantd"
        if not self._program.exists():
            pytest.skip(f"{self._program} is not built")

    def start(self):
        self._process = subprocess.Popen([self._program, "--socket", self.socket, "--log-level", "error", *self._options])
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(self.socket) == 0:
                    return
            time.sleep(0.01)
        self.kill()
        pytest.fail(f"{self._program} does not answer")

    def kill(self):
        self._process.kill()
        self._process.wait()


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path / "kvantd.sock")
    daemon.start()
    yield daemon
    daemon.kill()


@pytest.fixture
def kvantd(daemon):
    """A daemon's socket."""
    return daemon.socket


@pytest.fixture
def kvantd_small(tmp_path):
    """Socket of a daemon whose budget holds some hundred blocks of 100 KiB."""
    daemon = Daemon(tmp_path / "kvantd.sock", "--budget", "24MiB")
    daemon.start()
    yield daemon.socket
    daemon.kill()
