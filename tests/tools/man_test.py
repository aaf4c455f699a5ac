#!/usr/bin/env python3
"""The manual pages and --help say the same: each command and option of the programs is on its page, and each option on a page is there.

  man_test.py SOURCE PROGRAMS

SOURCE: the checkout. PROGRAMS: the folder of kvantd, kvantctl and kvant-generate. Where man is installed, its warnings are errors, too.
"""
import pathlib
import re
import shutil
import subprocess
import sys

PATIENCE = 60  # seconds; a loaded machine is slow
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
# Of every command, and told once.
EVERYWHERE = {"--help", "--version"}

wrong = []


def check(good, what):
    if not good:
        wrong.append(what)


def text_of(page):
    """A page's words without troff's signs."""
    text = re.sub(r"\\f[BIRP]|\\&", "", page.read_text())
    return text.replace("\\-", "-").replace("\\e", "\\")


def help_of(program, *command):
    done = subprocess.run([program, *command, "--help"], capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout


def options_of(text):
    """Those that a help text declares: at the beginnings of lines."""
    names = set()
    for line in text.splitlines():
        if match := re.match(r"^  (-\S+)", line):
            names |= set(OPTION.findall(match[1]))
    return names - EVERYWHERE


def subcommands_of(text):
    section = re.search(r"^Subcommands:\n(.*?)(?:\n\n|\Z)", text, re.S | re.M)
    return re.findall(r"^  (\S+)", section[1], re.M) if section else []


def tree_of(program, *command):
    """(words of the command, its options) of every command below."""
    text = help_of(program, *command)
    yield command, options_of(text)
    for name in subcommands_of(text):
        yield from tree_of(program, *command, name)


def check_page(page, words, where):
    """Options of the help are on the page and the other way round."""
    there = set(OPTION.findall(page)) - EVERYWHERE
    for name in sorted(words - there):
        check(False, f"{where} does not mention {name}")
    return there


def main():
    source, programs = map(pathlib.Path, sys.argv[1:])
    pages = source / "tools/man"
    daemon = options_of(help_of(programs / "kvantd"))
    there = check_page(text_of(pages / "kvantd.8"), daemon, "kvantd.8")
    check(there <= daemon, f"kvantd.8 has options that kvantd has not: {sorted(there - daemon)}")

    keys = set(re.findall(r"^\.TP\n([a-z-]+) = ", text_of(pages / "kvant.toml.5").replace(".B ", ""), re.M))
    meant = {name.removeprefix("--") for name in daemon} - {"config"}
    check(keys == meant, f"kvant.toml.5 lacks {sorted(meant - keys)}, has {sorted(keys - meant)} besides")

    generate = options_of(help_of(programs / "kvant-generate"))
    there = check_page(text_of(pages / "kvant-generate.1"), generate, "kvant-generate.1")
    check(there <= generate, f"kvant-generate.1 has options that kvant-generate has not: {sorted(there - generate)}")

    page = text_of(pages / "kvantctl.1")
    sections = dict(re.findall(r"^\.SS (.+)\n((?:(?!\.S[SH] ).*\n?)*)", page, re.M))
    all_commands = list(tree_of(programs / "kvantctl"))
    known = set()
    for command, options in all_commands:
        known |= options
        if not command:
            check_page(page, options, "kvantctl.1")
            continue
        name = " ".join(command)
        check(name in sections, f"kvantctl.1 has no section of {name}")
        check_page(sections.get(name, ""), options, f"kvantctl.1, {name}")
    commands = {" ".join(command) for command, _ in all_commands if command}
    check(set(sections) <= commands, f"kvantctl.1 has commands that kvantctl has not: {sorted(set(sections) - commands)}")
    there = set(OPTION.findall(page)) - EVERYWHERE
    check(there <= known | daemon, f"kvantctl.1 has options that nothing has: {sorted(there - known - daemon)}")

    if shutil.which("man"):
        for path in sorted(pages.glob("*.[158]")):
            done = subprocess.run(["man", "--warnings=w", "-P", "cat", "-l", str(path)], capture_output=True, text=True, timeout=PATIENCE, env={"LC_ALL": "C.UTF-8", "MANWIDTH": "100", "PATH": "/usr/bin:/bin"})  # fmt: skip
            check(done.returncode == 0 and not done.stderr, f"man {path.name}: {done.stderr.strip()}")
    for line in wrong:
        print(line)
    if not wrong:
        print(f"{len(commands)} commands and {len(known | daemon | generate)} options are on their pages")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
