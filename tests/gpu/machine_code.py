#!/usr/bin/env python3
"""Checks the machine code of the attention kernels, with no GPU: machine_code.py CUOBJDUMP LIBRARY.

Each kernel multiplies on tensor cores (IMMA), keeps nothing in local memory (LDL, STL) and takes, from the first product of a
step to the last, no more instructions than its budget. Prints a line for each kernel; exits 1 at a breach, 77 without CUOBJDUMP.
"""
import re
import subprocess
import sys

# (bits of keys, of values, dim, rows): instructions from a step's first product to its last, as nvcc 13.0 makes them for sm_90.
# Who makes a kernel faster writes the smaller number here.
BUDGETS = {
    (2, 2, 64, 4): 969,
    (2, 2, 64, 8): 1409,
    (2, 2, 128, 4): 1379,
    (2, 2, 128, 8): 1986,
    (2, 2, 256, 4): 1157,
    (4, 2, 64, 4): 655,
    (4, 2, 64, 8): 892,
    (4, 2, 128, 4): 1027,
    (4, 2, 128, 8): 1278,
    (4, 4, 64, 4): 736,
    (4, 4, 64, 8): 985,
    (4, 4, 128, 4): 1280,
    (4, 4, 128, 8): 1439,
    (4, 4, 256, 4): 1177,
}
SLACK = 1.05  # another nvcc's choice of instructions
KERNEL = re.compile(r"AttendKernel.*AttendShapeILi(\d+)ELi(\d+)ELi(\d+)ELi(\d+)E")
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")


def kernels(text):
    """(architecture, shape, instructions) of each attention kernel."""
    architecture = None
    for part in re.split(r"\n(?=\s*(?:arch =|Function :))", text):
        if match := re.match(r"\s*arch = (\w+)", part):
            architecture = match.group(1)
        elif match := re.match(r"\s*Function : (\S+)", part):
            shape = KERNEL.search(match.group(1))
            if shape:
                yield architecture, tuple(map(int, shape.groups())), INSTRUCTION.findall(part)


def breaches(shape, instructions, budget):
    products = [i for i, name in enumerate(instructions) if name.startswith("IMMA")]
    if not products:
        return 0, ["no tensor-core product"]
    span = products[-1] - products[0] + 1
    found = []
    local = sum(name.split(".")[0] in ("LDL", "STL") for name in instructions)
    if local:
        found.append(f"{local} accesses of local memory")
    if span > budget * SLACK:
        found.append(f"{span} instructions from the first product to the last, {budget} are recorded")
    return span, found


def main():
    try:
        outcome = subprocess.run([sys.argv[1], "-sass", sys.argv[2]], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        print(f"skipped: no {sys.argv[1]}")
        sys.exit(77)
    seen, wrong = set(), 0
    for architecture, shape, instructions in kernels(outcome.stdout):
        if architecture != "sm_90":
            continue
        seen.add(shape)
        span, found = breaches(shape, instructions, BUDGETS.get(shape, 0))
        wrong += bool(found)
        print(f"{'WRONG' if found else 'ok   '} {shape}: {span} of {len(instructions)} instructions; {'; '.join(found)}")
    for shape in sorted(BUDGETS.keys() - seen):
        wrong += 1
        print(f"WRONG {shape}: not there for sm_90")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
