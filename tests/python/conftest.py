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


def _daemon(folder, *options):
    """A daemon of this test's own, of the build whose package is tested; its socket is `.socket`."""
    program = pathlib.Path(kvant._core.__file__).parents[2] / "bin" / "kvantd"
    if not program.exists():
        pytest.skip(f"{program} is not built")
    process = subprocess.Popen([program, "--socket", folder / "kvantd.sock", "--log-level", "warn", *options])
    process.socket = str(folder / "kvantd.sock")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(process.socket) == 0:
                return process
        time.sleep(0.01)
    process.kill()
    pytest.fail(f"{program} does not answer")


@pytest.fixture
def kvantd_process(tmp_path):
    process = _daemon(tmp_path)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def kvantd(kvantd_process):
    """The daemon's socket."""
    return kvantd_process.socket


@pytest.fixture
def kvantd_small(tmp_path):
    """Socket of a daemon whose budget holds some hundred blocks of 100 KiB."""
    process = _daemon(tmp_path, "--budget", "24MiB")
    yield process.socket
    process.kill()
    process.wait()
