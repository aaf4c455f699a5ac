"""The wheel in a fresh environment, on a machine that seems to lack every library of Debian's that kvant is built with."""

import glob
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

WHEEL = os.environ.get("KVANT_WHEEL")
pytestmark = pytest.mark.skipif(not WHEEL, reason="KVANT_WHEEL names no wheel; tools/test_engines.sh builds one")

# What tools/ci/packages.txt installs to link with.
LIBRARIES = ("libcapnp", "libkj", "libhwy", "libspdlog", "libfmt", "libxxhash", "libboost", "libkvant")

THREE_LINES = """
import kvant
store = kvant.Client().open_store(kvant.StoreSpec(name="tour", model="waves", tokenizer="none", layers=1, kv_heads=2, head_dim=64))
sequence = store.open((1, 2, 3))
"""

SHOW = """
assert sequence.length == 0 and sequence.cached_tokens == 0
mapped = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
print("\\n".join(sorted(mapped)))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel") / "environment"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", WHEEL], check=True)
    return folder


def hidden(command):
    """The command in a mount namespace of its own, in which Debian's copies of LIBRARIES are empty files."""
    found = [path for name in LIBRARIES for folder in ("/usr/lib/*/", "/usr/local/lib/") for path in glob.glob(f"{folder}{name}*.so*")]
    hide = "".join(f"mount --bind /dev/null {path}\n" for path in found if not os.path.islink(path))
    return ["unshare", "--map-root-user", "--mount", "sh", "-ec", hide + 'exec "$@"', "sh", *map(str, command)]


CLEAN = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


def run(command, **options):
    return subprocess.run(hidden(command), capture_output=True, text=True, env=CLEAN, timeout=120, **options)


def test_libraries_are_really_hidden():
    if not shutil.which("capnp"):
        pytest.skip("this machine has no library to hide")
    assert run(["capnp", "--version"]).returncode != 0


def test_three_lines_of_python_work_with_nothing_running(environment, tmp_path):
    done = run([environment / "bin" / "python", "-c", THREE_LINES + SHOW], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours = [path for path in done.stdout.split() if os.path.basename(path).startswith(LIBRARIES)]
    assert len(ours) >= 5  # the client library, Cap'n Proto and its kin
    assert all(path.startswith(str(environment)) for path in ours), ours


def test_programs_ride_along(environment, tmp_path):
    with open(tmp_path / "log", "w") as log:
        socket = tmp_path / "kvantd.sock"
        command = [environment / "bin" / "kvantd", "--socket", socket, "--budget", "64MiB"]
        daemon = subprocess.Popen(hidden(command), stdout=log, stderr=log, env=CLEAN)
        try:
            for _ in range(200):
                done = run([environment / "bin" / "kvantctl", "--socket", socket, "ping"])
                if done.returncode == 0 or daemon.poll() is not None:
                    break
            assert done.returncode == 0, (done.stderr, (tmp_path / "log").read_text())
        finally:
            daemon.terminate()
            daemon.wait(20)
    assert run([environment / "bin" / "kvantd", "--version"]).returncode == 0


def test_types_are_in_it():
    with zipfile.ZipFile(WHEEL) as wheel:
        names = wheel.namelist()
        assert "kvant/py.typed" in names
        stub = wheel.read("kvant/_core.pyi").decode()
    for name in ("class Client", "class Store", "class Sequence", "class StoreFullError", "def rope_frequencies"):
        assert name in stub, name
    assert "manylinux_2_35" in os.path.basename(WHEEL)
