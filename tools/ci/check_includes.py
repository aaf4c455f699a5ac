#!/usr/bin/env python3
"""Checks the tree's own rules: who may include whom, what installed headers may name, which tests are built, names and sizes.

  check_includes.py ROOT [--compile-commands FILE]

Prints one line per breach, `file:line: what`, and exits 1 if there are any. Without compile commands the last rule is skipped.
"""
import json
import pathlib
import re
import sys

# folder: folders whose private headers it may include, their subfolders with them, and single headers. What is not listed here is not allowed. A folder inside
# another has a border of its own; the longest name counts.
ARROWS = {
    "protocol": {"protocol"},
    # A file format on top of both: nothing else in protocol knows it.
    "protocol/snapshot": {"protocol", "quantizers/safetensors.h"},
    "kernels": {"kernels"},
    "kernels/bytes": {"kernels/bytes", "kernels/machine", "kernels/ufloat16.h", "kernels/ufloat16-inl.h"},
    "kernels/machine": {"kernels/machine"},
    "kernels/raw": {"kernels/raw", "kernels/machine"},
    "kernels/rotation": {"kernels/rotation", "kernels/raw", "kernels/machine"},
    "quantizers": {"quantizers", "kernels", "protocol/digest.h"},
    "quantizers/sequence": {"quantizers", "kernels"},
    "daemon": {"daemon", "quantizers", "kernels", "protocol"},
    "daemon/memory": {"daemon/memory", "quantizers", "kernels", "protocol"},
    "daemon/holder": {"daemon/holder", "daemon/listener.h", "daemon/memory", "protocol"},
    "daemon/store": {"daemon/store", "daemon/memory", "quantizers", "kernels", "protocol"},
    "daemon/snapshot": {"daemon/snapshot", "daemon/store", "daemon/memory", "quantizers", "kernels", "protocol"},
    "daemon/serve": {"daemon", "quantizers", "kernels", "protocol"},
    "daemon/metrics": {"daemon", "protocol"},
    "client": {"client", "quantizers", "kernels", "protocol"},
    "tools": {"tools", "client", "daemon", "quantizers", "kernels", "protocol"},
    # Some of its parts measure codecs of the tests.
    "tools/bench": {"tools", "client", "daemon", "quantizers", "kernels", "protocol", "tests/quantizers/toy_codecs.h", "tests/quantizers/yardsticks.h"},
    "tools/kvantctl": {"tools", "client", "quantizers", "protocol/byte_size.h", "protocol/duration.h"},
    "tests": {"tests", "tools", "client", "daemon", "quantizers", "kernels", "protocol"},
}
FOLDERS = {name.split("/")[0] for name in ARROWS}
# Installed headers <kvant/...> by who provides them, and the folders that may include them.
TYPES = {"result.h", "rope.h", "store_spec.h", "tensor.h"}
INSTALLED = {
    "client.h": {"client", "tools", "tests"},
    "admin.h": {"client", "tools", "tests"},
    "snapshot.h": {"client", "tools", "tests"},
    "daemon.h": {"daemon", "client", "tools", "tests"},
    "eviction.h": {"daemon", "client", "tools", "tests"},
    "kvant.capnp.h": {"protocol", "daemon", "client", "tests"},
}
# Third-party headers that only some folders may use. Tools and tests may use anything.
FOREIGN = {
    r"(kj|capnp)/": {"protocol", "daemon", "client"},
    r"boost/": {"protocol", "daemon", "client"},
    r"spdlog/": {"daemon"},
    r"prometheus/": {"daemon"},
    r"hwy/": {"kernels", "quantizers"},
}
HIDDEN = re.compile(r"\b(kj|capnp|boost|hwy|spdlog)\b")
# What an installed header may name all the same: a forward declaration of the logger that an embedder passes in.
HIDDEN_EXCEPTIONS = {("daemon/include/kvant/daemon.h", "spdlog")}
# The reference engine stands for a user's program: it may not look behind the installed headers. What it reads files and sizes with is
# the project's own all the same: a second parser of hostile bytes would be a second place for each fault.
EXAMPLES = "client/examples/"
READERS = {"protocol/byte_size.h", "protocol/digest.h", "quantizers/bounded_json.h", "quantizers/safetensors.h"}
BAD_NAMES = re.compile(r"^(utils?|common|misc|helpers?)$")
MAX_LINES = 800
SOURCES = {".h", ".cc", ".cpp", ".hpp"}
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')


def strip_comments(text):
    """Comments become spaces, line numbers stay."""
    keep_lines = lambda match: re.sub(r"[^\n]", " ", match.group(0))
    return re.sub(r"//[^\n]*|/\*.*?\*/", keep_lines, text, flags=re.S)


def border_of(path):
    """The name in ARROWS that holds `path`: the longest."""
    return max((name for name in ARROWS if path.startswith(name + "/")), key=len)


def check_include(path, folder, quoted, angled):
    """The breach that this include is, or None."""
    if quoted and quoted.startswith("hwy/"):
        quoted, angled = None, quoted  # Highway's own way of writing it; foreach_target.h depends on it
    if quoted:
        target = quoted.split("/")[0]
        if target not in FOLDERS:
            if "/" not in quoted and path.startswith(EXAMPLES):
                return None  # an example's own files lie beside it, as a user's would
            return f'"{quoted}": private headers are included from the root of the tree'
        if path.startswith(EXAMPLES) and not quoted.startswith(EXAMPLES) and quoted not in READERS:
            return f'"{quoted}": examples see installed headers and the readers of files only'
        border = border_of(path)
        if quoted not in ARROWS[border] and not any(quoted.startswith(name + "/") for name in ARROWS[border]):
            return f'"{quoted}": {border} may not include it'
        return None
    if angled.startswith("kvant/"):
        name = angled.removeprefix("kvant/")
        if name not in TYPES and folder not in INSTALLED.get(name, {"client", "tools", "tests"}):
            return f"<{angled}>: {folder} may not include it"
        return None
    for pattern, folders in FOREIGN.items():
        if re.match(pattern, angled) and folder not in folders and folder not in {"tools", "tests"}:
            return f"<{angled}>: {folder} may not include it"
    return None


def check_source(path, text):
    folder = path.split("/")[0]
    installed = "/include/kvant/" in path
    lines = strip_comments(text).splitlines()
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if match:
            breach = check_include(path, folder, *match.groups())
            if breach:
                yield number, breach
        if installed:
            for name in HIDDEN.findall(line):
                if (path, name) not in HIDDEN_EXCEPTIONS:
                    yield number, f"an installed header names {name}"
    if path.endswith(".h") and "#pragma once" not in text and not path.endswith("-inl.h"):
        yield 1, "no #pragma once"
    if len(lines) > MAX_LINES:
        yield len(lines), f"{len(lines)} lines; split above {MAX_LINES}"


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    commands = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 and sys.argv[2] == "--compile-commands" else None
    breaches = []
    files = [p for folder in sorted(FOLDERS) for p in sorted((root / folder).rglob("*")) if "__pycache__" not in p.parts]
    for file in files:
        path = file.relative_to(root).as_posix()
        if BAD_NAMES.match(file.stem if file.is_file() else file.name):
            breaches.append(f"{path}:1: a name that says nothing")
        if file.is_file() and file.suffix in SOURCES:
            text = file.read_text(encoding="utf-8")
            breaches += [f"{path}:{number}: {what}" for number, what in check_source(path, text)]
    if commands:
        compiled = {str(pathlib.Path(entry["directory"], entry["file"]).resolve()) for entry in json.loads(commands.read_text())}
        for file in files:
            # Separate projects (a consumer of the installed library, code that must not compile) are built by their own tests.
            separate = {"install", "compile_fail"} & set(file.relative_to(root).parts)
            if file.name.endswith("_test.cc") and not separate and str(file) not in compiled:
                breaches.append(f"{file.relative_to(root).as_posix()}:1: no target compiles this test")
    print("\n".join(breaches) if breaches else f"{len(files)} files and folders keep the rules")
    sys.exit(1 if breaches else 0)


if __name__ == "__main__":
    main()
