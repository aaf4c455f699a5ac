#!/usr/bin/env python3
"""A real bash completes kvantctl's commands, options and their choices as --help lists them.

  completion_test.py PROGRAMS

PROGRAMS: the folder of kvantd, kvantctl and kvant-generate. Exit code 77 (skipped) without bash.
"""
import pathlib
import re
import shutil
import subprocess
import sys

PATIENCE = 120  # seconds; a loaded machine is slow
SKIPPED = 77
ASK = r"""
eval "$(kvantctl completion bash)"
while IFS= read -r line; do
  eval "COMP_WORDS=($line)"
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  "$(complete -p "${COMP_WORDS[0]}" | sed -E 's/.*-F ([^ ]+).*/\1/')" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
  echo "${COMPREPLY[*]}"
done
"""


def check(good, what):
    if not good:
        sys.exit(f"FAILED: {what}")


def main():
    programs = pathlib.Path(sys.argv[1])
    if not shutil.which("bash"):
        print("skipped, no bash")
        sys.exit(SKIPPED)
    environment = {"PATH": f"{programs}:/usr/bin:/bin"}

    def help_of(*command):
        return subprocess.run([programs / command[0], *command[1:], "--help"], capture_output=True, text=True, check=True, timeout=PATIENCE).stdout

    def options_of(text):
        return {name for line in text.splitlines() if (m := re.match(r"^  (-\S+)", line)) for name in m[1].split(",") if name.startswith("--")}

    def tree_of(*command):
        text = help_of(*command)
        section = re.search(r"^Subcommands:\n(.*?)(?:\n\n|\Z)", text, re.S | re.M)
        names = re.findall(r"^  (\S+)", section[1], re.M) if section else []
        yield command, options_of(text), set(names)
        for name in names:
            yield from tree_of(*command, name)

    questions, answers = [], []
    for command, options, names in tree_of("kvantctl"):
        questions.append(" ".join(command) + " --")
        answers.append(options | {"--socket", "--output", "--timeout"})
        questions.append(" ".join(command) + " ''")
        answers.append(names)
    fixed = {
        "kvantctl -o ''": {"table", "json"},
        "kvantctl evict --output j": {"json"},
        "kvantctl --socket /tmp/x snap": {"snapshot"},
        "kvantctl snapshot -o json sa": {"save"},
        "kvantctl evict --store ''": set(),
        "kvantd --bud": {"--budget"},
        "kvant-generate --max-t": {"--max-tokens"},
    }
    questions += fixed
    done = subprocess.run(["bash", "--norc", "-c", ASK], input="\n".join(questions) + "\n", capture_output=True, text=True, env=environment, timeout=PATIENCE)
    check(done.returncode == 0 and not done.stderr, f"bash: {done.returncode} {done.stderr}")
    offered = [set(line.split()) for line in done.stdout.split("\n")]
    for question, expected, found in zip(questions, answers, offered):
        check(expected <= found, f"'{question}' offers {sorted(found)}, not {sorted(expected - found)}")
    for (question, expected), found in zip(fixed.items(), offered[len(answers) :]):
        check(found == expected, f"'{question}' offers {sorted(found)} instead of {sorted(expected)}")
    print(f"{len(questions)} completions are as they should be")


if __name__ == "__main__":
    main()
