#!/usr/bin/env python3
"""`kvantctl top` on a terminal, driven as a person would: what it shows, its keys, another size, a daemon that goes and comes back.

  top_test.py PROGRAMS      the folder of kvantd, kvantctl and kvant_test_client
"""
import contextlib
import fcntl
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

PATIENCE = 60  # seconds; a loaded machine is slow


def check(good, what):
    if not good:
        sys.exit(f"FAILED: {what}")


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command, rows, columns):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", LC_ALL="C.UTF-8")
            os.execv(command[0], [str(word) for word in command])
        self.seen = ""
        self.resize(rows, columns)

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds):
        """What arrives meanwhile, without control sequences."""
        seen, until = b"", time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and select.select([self.fd], [], [], left)[0]:
            try:
                piece = os.read(self.fd, 65536)
            except OSError:  # its other end is closed
                break
            if not piece:
                break
            seen += piece
        return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>])", " ", seen.decode("utf-8", "replace"))

    def until(self, what):
        """Reads on until the words stand in what was shown since the last of forget."""
        deadline = time.monotonic() + PATIENCE
        while what not in self.seen:
            if time.monotonic() > deadline:
                sys.exit(f"FAILED: {what!r} is not shown but {self.seen!r}")
            self.seen += self.read(0.1)

    def forget(self):
        """What comes from now on counts: curses writes only what has changed."""
        self.read(0)
        self.seen = ""

    def redraw(self):
        """Smaller, and then as large as at first: what is shown then."""
        for rows in (4, 24):
            self.forget()
            self.resize(rows, 160)
            os.kill(self.pid, signal.SIGWINCH)
            self.until("clients" if rows == 4 else "STORE")  # of the lines that are there, or come to fit
        return self.seen

    def press(self, key):
        os.write(self.fd, key.encode())

    def exit_code(self):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.read(0.1)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        sys.exit("FAILED: it does not end")


@contextlib.contextmanager
def daemon(programs, address):
    process = subprocess.Popen([programs / "kvantd", "--socket", address, "--log-level", "warn"])
    try:
        deadline = time.monotonic() + PATIENCE
        while subprocess.run([programs / "kvantctl", "--socket", address, "ping"], capture_output=True).returncode != 0:
            check(time.monotonic() < deadline, "the daemon answers")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)


def main():
    programs = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as work:
        address = pathlib.Path(work) / "kvantd.sock"
        top = [programs / "kvantctl", "--socket", address, "top", "--interval", "0.2"]
        check(Terminal(top, 24, 80).exit_code() == 3, "without a daemon it ends with exit code 3")
        with daemon(programs, address):
            piped = subprocess.run(top, capture_output=True, text=True)
            check(piped.returncode == 1 and "terminal" in piped.stderr, f"without a terminal it says so: {piped}")
            client = subprocess.Popen(
                [programs / "kvant_test_client", address, "service"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            check(client.stdout.readline().startswith("ok ready"), "the client is ready")
            terminal = Terminal(top, 24, 160)
            for words in ("kvantd 0", "STORE", "1 clients", "s: sort by tokens sealed"):
                terminal.until(words)
            for order in ("open 1 0", "feed 1 300 50"):
                client.stdin.write(order + "\n")
                client.stdin.flush()
                check("ok" in client.stdout.readline(), order)
            terminal.forget()
            terminal.press("s")
            terminal.until("name")  # of the next order
            terminal.redraw()
            client.stdin.close()
            client.wait(PATIENCE)
        terminal.until("no answer: ")
        with daemon(programs, address):
            deadline = time.monotonic() + PATIENCE
            while "no answer" in terminal.redraw():
                check(time.monotonic() < deadline, "the next daemon is shown")
            terminal.press("q")
            check(terminal.exit_code() == 0, "q ends it with exit code 0")
            for ending in (signal.SIGTERM, signal.SIGINT):
                terminal = Terminal(top, 24, 80)
                terminal.until("STORE")
                os.kill(terminal.pid, ending)
                check(terminal.exit_code() == 0, f"{ending} ends it with exit code 0")
            lines = subprocess.run(
                [programs / "kvantctl", "--socket", address, "stats", "--watch", "0.05", "--count", "3"], capture_output=True, text=True
            ).stdout.splitlines()
            check(len(lines) == 4 and lines[0].split()[0] == "CLIENTS" and len(lines[3].split()) >= 9, f"stats --watch: {lines}")


if __name__ == "__main__":
    main()
