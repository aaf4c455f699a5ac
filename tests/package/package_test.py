#!/usr/bin/env python3
"""The Debian package is built, installed, started as its unit would, removed and purged; the machine is afterwards as it was.

  package_test.py BUILD

BUILD: the build folder, everything built. Exit code 77 (skipped) where this is not root on Debian, or kvant is installed already.
"""
import contextlib
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time

PATIENCE = 120  # seconds; a loaded machine is slow
SKIPPED = 77
CONFIG = pathlib.Path("/etc/kvant/kvantd.toml")
STATE = pathlib.Path("/var/lib/kvant")
FILES = [
    "usr/bin/kvantd", "usr/bin/kvantctl", "usr/bin/kvant-generate", "usr/lib/systemd/system/kvantd.service", "usr/lib/systemd/system/kvantd.socket",
    "etc/kvant/kvantd.toml", "usr/share/man/man1/kvantctl.1.gz", "usr/share/man/man1/kvant-generate.1.gz", "usr/share/man/man5/kvant.toml.5.gz",
    "usr/share/man/man8/kvantd.8.gz", "usr/share/bash-completion/completions/kvantctl", "usr/share/bash-completion/completions/kvantd",
    "usr/share/doc/kvant/copyright", "usr/include/kvant/client.h", "usr/include/kvant/c.h",
]  # fmt: skip


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=PATIENCE, **options)
    if done.returncode != 0:
        sys.exit(f"FAILED: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def check(good, what):
    if not good:
        sys.exit(f"FAILED: {what}")


def user_exists():
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam("kvant"))
    return False


def skip(why):
    print(f"skipped, {why}")
    sys.exit(SKIPPED)


@contextlib.contextmanager
def started_as_its_unit_would(work):
    """kvantd as the user of the unit, with the unit's command line; the holder is its own, for there is no systemd here. Gives what
    runs kvantctl; ends when that has drained the daemon."""
    unit = pathlib.Path("/usr/lib/systemd/system/kvantd.service").read_text()
    command = re.search(r"^ExecStart=(.+)$", unit, re.M)[1].replace("--holder systemd", "--holder on").split()
    check(command[0] == "/usr/bin/kvantd", f"the unit starts {command[0]}")
    check(str(CONFIG) in command, "the unit reads the configuration")
    address = work / "kvantd.sock"
    command[command.index("--socket") + 1] = str(address)
    user = re.search(r"^User=(.+)$", unit, re.M)[1]
    shutil.chown(work, user, user)
    daemon = subprocess.Popen(["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + PATIENCE
        ping = ["/usr/bin/kvantctl", "--socket", str(address), "ping"]
        while subprocess.run(ping, capture_output=True).returncode != 0:
            check(daemon.poll() is None, f"kvantd ended: {daemon.poll()}")
            check(time.monotonic() < deadline, "kvantd answers")
            time.sleep(0.05)
        yield lambda *words: run("/usr/bin/kvantctl", "--socket", address, *words)
        check(daemon.wait(PATIENCE) == 0, "kvantd ends with 0")
    finally:
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait(PATIENCE)


def keeps_blocks_in_its_state_directory(work):
    """With the line of the configuration that is commented out: what is drained is saved, where the unit lets the daemon write."""
    unit = pathlib.Path("/usr/lib/systemd/system/kvantd.service").read_text()
    check(re.search(r"^StateDirectory=(.+)$", unit, re.M)[1] == STATE.name, "the unit has the state directory")
    mode, owner = STATE.stat().st_mode & 0o777, STATE.owner()
    check((mode, owner) == (0o700, "kvant"), f"{STATE} is {owner}'s with mode {mode:o}")
    with_state, lines = re.subn(r"^# (state-dir = .*)$", r"\1", CONFIG.read_text(), flags=re.M)
    check(lines == 1, "the configuration names the state directory")
    CONFIG.write_text(with_state)
    file = STATE / "state.safetensors"
    with started_as_its_unit_would(work) as kvantctl:
        check(f"its blocks are in {file}" in kvantctl("drain"), "the drain says where the blocks are")
    check(file.owner() == "kvant" and file.stat().st_mode & 0o077 == 0, f"{file} is {file.owner()}'s with mode {file.stat().st_mode:o}")
    run("/usr/bin/kvantctl", "snapshot", "verify", file)
    with started_as_its_unit_would(work) as kvantctl:
        kvantctl("drain")


def main():
    build = pathlib.Path(sys.argv[1])
    if os.geteuid() != 0 or not shutil.which("dpkg") or not shutil.which("dpkg-shlibdeps"):
        skip("this wants to be root on Debian, with dpkg-dev")
    if CONFIG.exists() or STATE.exists() or user_exists() or "install ok" in subprocess.run(["dpkg", "-s", "kvant"], capture_output=True, text=True).stdout:
        skip("kvant is installed here, or was")
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        work.chmod(0o755)
        run("cpack", "-G", "DEB", "-B", work / "packed", cwd=build)
        (package,) = (work / "packed").glob("kvant_*.deb")
        listed = {line.split()[5].removeprefix("./") for line in run("dpkg-deb", "-c", package).splitlines()}
        listed |= {re.sub("^lib/", "usr/lib/", name) for name in listed}
        check(not set(FILES) - listed, f"the package lacks {sorted(set(FILES) - listed)}")
        check(any(re.fullmatch(r"usr/lib/.*libkvant_client\.so\.[0-9.]+", name) for name in listed), "the package has the library")
        fields = run("dpkg-deb", "-f", package)
        check("libcapnp" in fields and "adduser" in fields, f"the package names what it needs: {fields}")
        try:
            run("dpkg", "-i", package)
            check(user_exists() and CONFIG.exists(), "the user and the configuration are there")
            check("kvantctl " in run("/usr/bin/kvantctl", "--version"), "kvantctl runs")
            (work / "run").mkdir()
            with started_as_its_unit_would(work / "run") as kvantctl:
                check("2.0 GiB" in kvantctl("info"), "the budget is the configuration's")
                kvantctl("upgrade")
                kvantctl("drain")
            keeps_blocks_in_its_state_directory(work / "run")
            CONFIG.write_text('budget = "64MiB"\n')
            run("dpkg", "-i", package)  # once more: what the operator has written stays
            check(CONFIG.read_text() == 'budget = "64MiB"\n', "an operator's configuration stays over an upgrade")
            run("dpkg", "-r", "kvant")
            left = [name for name in FILES if pathlib.Path("/", name).exists()]
            check(left == ["etc/kvant/kvantd.toml"], f"after removal there is {left}")
            check((STATE / "state.safetensors").exists(), "removal keeps saved blocks")
        finally:
            purged = subprocess.run(["dpkg", "-P", "kvant"], capture_output=True, text=True)
        check(purged.returncode == 0, f"purge: {purged.stderr}")
        check(not CONFIG.parent.exists() and not STATE.exists() and not user_exists(), "purging takes the configuration, saved blocks and the user")
    print("built, installed, started, upgraded, removed, purged")


if __name__ == "__main__":
    main()
