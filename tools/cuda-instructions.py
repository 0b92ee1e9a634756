#!/usr/bin/env python3
"""Counts the instructions of a CUDA kernel's loops, from its disassembly: what decoding a weight costs.

    tools/cuda-instructions.py KERNEL                     in the artefact for sm_90a
    tools/cuda-instructions.py KERNEL --image sm_80.cubin --weights 64
    tools/cuda-instructions.py KERNEL --image PATH        any cubin
    tools/cuda-instructions.py --list                     kernels, with registers, spills and shared memory

What goes in: a cubin, deflated or not. What comes out: for each loop, how many instructions of each class stand in it
and in no loop inside it; those that every iteration comes by apart from those that only some do; and how many that is for
each weight that a lane decodes in an iteration. That number is --weights; without it, 8 for each 16x8x16 matrix
instruction, whose operand they fill. Where a kernel has loops with matrix instructions, the others want --all. The
disassemblers come from PyPI, unless they are in the PATH.
"""

import argparse
import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
ARTEFACTS = ROOT / "crates" / "kernels-cuda" / "artefacts"
PACKAGES = ["nvidia-cuda-nvdisasm==13.5.37", "nvidia-cuda-cuobjdump==13.5.37"]
WEIGHTS_PER_MMA = 8  # of a lane, as the 16x16 operand of a matrix instruction

# Class, units, opcodes: the first row that fits. "int" is what the integer units do, 64 lanes of a multiprocessor a
# clock; IMAD and the like go to those that multiply floats, which decoding leaves idle.
CLASSES = [
    ("PRMT", "int", r"PRMT"),
    ("LOP3", "int", r"LOP3?|PLOP3|BMSK"),
    ("IADD3", "int", r"IADD3?|VIADD\w*|IABS"),
    ("SHF", "int", r"SHF|SHL|SHR"),
    ("LEA", "int", r"LEA"),
    ("ISETP", "int", r"ISETP|VOTE"),
    ("SEL, MNMX", "int", r"F?SEL|V?[IF]MNMX\w*|FSETP|FSET"),
    ("IMAD", "fma", r"IMAD|IMUL"),
    ("MOV", "int", r"MOV|CS2R|P2R|R2P|UR2R"),
    ("POPC, FLO, BREV", "quarter", r"POPC|FLO|BREV"),
    ("conversions", "quarter", r"F2F|F2I|I2F\w*|F2FP|I2FP|MUFU|HADD2\w*|HMUL2\w*|HFMA2\w*"),
    ("FP32", "fma", r"FFMA|FADD|FMUL|FFMA2|FADD2|FMUL2"),
    ("matrix", "matrix", r"\w*MMA"),
    ("loads, {width}", "memory", r"LDG|LD|LDGSTS|UBLKCP"),
    ("shared loads, {width}", "memory", r"LDS|LDSM|LDS_\w*"),
    ("stores", "memory", r"ST[GS]?|RED|ATOM\w*|STL"),
    ("spill loads", "memory", r"LDL"),
    ("constants", "memory", r"LDC|LDCU|ULDC"),
    ("shuffles", "memory", r"SHFL"),
    ("branches, barriers", "control", r"BRA|BRX|BSSY|BSYNC|BREAK|EXIT|BAR|WARPSYNC|NANOSLEEP|DEPBAR|SYNCS|CALL|RET"),
    ("uniform", "uniform", r"U\w+|R2UR|S2UR|S2R|REDUX"),
    ("NOP", "control", r"NOP"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernel", nargs="?")
    parser.add_argument("--image", default="sm_90a.cubin", help="an artefact's name, or the path of a cubin")
    parser.add_argument("--weights", type=float, help="weights that a lane decodes in one iteration")
    parser.add_argument("--list", action="store_true", help="kernels and what they need")
    parser.add_argument("--without", help="leave out what runs only along with an instruction like this, as of a tail")
    parser.add_argument("--all", action="store_true", help="loops without matrix instructions, too")
    parser.add_argument("--disassembly", action="store_true", help="print the loops, too")
    arguments = parser.parse_args()
    tools = find_tools()
    with tempfile.TemporaryDirectory() as folder:
        cubin = unpack(arguments.image, pathlib.Path(folder))
        resources = read_resources(run(tools["cuobjdump"], "-res-usage", cubin))
        if arguments.list or not arguments.kernel:
            for name, text in resources.items():
                print(f"{name:<40} {text}")
            return
        instructions = parse(run(tools["nvdisasm"], "-c", cubin), arguments.kernel)
    if not instructions:
        sys.exit(f"there is no kernel {arguments.kernel}; there are {', '.join(resources)}")
    print(f"{arguments.kernel}, {arguments.image}: {len(instructions)} instructions; {resources[arguments.kernel]}")
    loops = find_loops(instructions)
    has_matrix = [any(class_of(instructions[place].opcode)[0] == "matrix" for place in loop.own) for loop in loops]
    rare = find_rare(instructions, arguments.without) if arguments.without else set()
    for loop, is_hot in zip(loops, has_matrix):
        loop.own -= rare
        loop.always -= rare
        if not is_hot and any(has_matrix) and not arguments.all:
            continue
        report(instructions, loop, arguments.weights)
        if arguments.disassembly:
            for place in sorted(loop.own):
                mark = " " if place in loop.always else "?"
                print(f"  {mark} {instructions[place].address:05x}  {instructions[place].text}")


Instruction = collections.namedtuple("Instruction", "address opcode text target")


def parse(text, kernel):
    """The instructions of a kernel; `target` is the address that a branch goes to."""
    labels, rows, inside, waiting = {}, [], False, []
    for line in text.splitlines():
        line = line.strip()
        section = re.match(r"\.section\s+\.text\.([^,\s]+)", line)
        if section:
            inside = section.group(1) == kernel
        elif inside and re.fullmatch(r"\.L_\w+:", line):
            waiting.append(line[:-1])
        elif inside and (found := re.match(r"/\*([0-9a-f]+)\*/\s+(.*?)\s*;", line)):
            address, text_of_it = int(found.group(1), 16), found.group(2)
            labels.update({label: address for label in waiting})
            waiting.clear()
            rows.append((address, text_of_it))
    instructions = []
    for address, text_of_it in rows:
        opcode = re.sub(r"^@\S+\s+", "", text_of_it).split()[0]
        label = re.search(r"`\((\.L_\w+)\)", text_of_it)
        is_branch = opcode.split(".")[0] in ("BRA", "BRX")
        target = labels.get(label.group(1)) if label and is_branch else None
        instructions.append(Instruction(address, opcode, text_of_it, target))
    return instructions


class Loop:
    """Instructions, by place: all of a loop, those in no loop inside it, and of these those of every iteration."""

    def __init__(self, header, body, latches):
        self.header, self.body, self.latches = header, body, latches
        self.own = self.always = body
        self.n_inside = 0


def find_loops(instructions):
    """The natural loops of the flow graph, by address, with those that have the same header as one."""
    successors = find_successors(instructions)
    dominators = find_dominators(successors)
    predecessors = collections.defaultdict(list)
    for place, nexts in enumerate(successors):
        for following in nexts:
            predecessors[following].append(place)
    latches = collections.defaultdict(list)
    for place, nexts in enumerate(successors):
        for header in nexts:
            is_end = header == place  # a branch to itself stands behind a kernel's end
            if not is_end and dominators[place] is not None and header in dominators[place]:
                latches[header].append(place)
    loops = []
    for header, sources in sorted(latches.items()):
        body, waiting = {header}, list(sources)
        while waiting:
            place = waiting.pop()
            if place not in body:
                body.add(place)
                waiting.extend(predecessors[place])
        loops.append(Loop(header, body, sources))
    for loop in loops:
        inner = [other.body for other in loops if other is not loop and other.body < loop.body]
        loop.own = loop.body - set().union(*inner)
        loop.n_inside = len(loop.body) - len(loop.own)
        always = frozenset.intersection(*(dominators[latch] for latch in loop.latches))
        loop.always = loop.own & always
    return loops


def find_rare(instructions, pattern):
    """Instructions in a straight line with one that is like `pattern`, and those that come only after such."""
    successors = find_successors(instructions)
    starts = {0} | {place for nexts in successors if len(nexts) > 1 for place in nexts}
    targets = collections.Counter(place for nexts in successors for place in nexts)
    starts |= {place for place, n_ways in targets.items() if n_ways > 1}
    starts |= {place for place, before in enumerate(successors[:-1], 1) if before != [place]}
    lines, current = {}, 0
    for place in range(len(instructions)):
        current = place if place in starts else current
        lines[place] = current
    rare_lines = {lines[place] for place, each in enumerate(instructions) if re.search(pattern, each.text)}
    dominators = find_dominators(successors)
    return {place for place in lines if dominators[place] is not None and not rare_lines.isdisjoint(dominators[place])}


def find_successors(instructions):
    """For each instruction, the places that come after it."""
    places = {each.address: place for place, each in enumerate(instructions)}
    successors = []
    for place, each in enumerate(instructions):
        nexts = []
        base = each.opcode.split(".")[0]
        # A branch says under which predicate it is taken, in front of it or as its first operand.
        has_operand = re.search(rf"{re.escape(each.opcode)}\s+!?U?P\d", each.text)
        is_conditional = each.text.startswith("@") or ".DIV" in each.opcode or has_operand
        if each.target is not None:
            nexts.append(places[each.target])
        if (base not in ("BRA", "EXIT", "RET", "BRX") or is_conditional) and place + 1 < len(instructions):
            nexts.append(place + 1)
        successors.append(nexts)
    return successors


def find_dominators(successors):
    """For each place, the places that every way from the start to it goes through; None where there is no way."""
    predecessors = collections.defaultdict(list)
    for place, nexts in enumerate(successors):
        for following in nexts:
            predecessors[following].append(place)
    dominators = [None] * len(successors)
    dominators[0] = frozenset([0])
    changed = True
    while changed:
        changed = False
        for place in range(1, len(successors)):
            known = [dominators[before] for before in predecessors[place] if dominators[before] is not None]
            if known:
                # Along a straight line, one more than before: quick, and most of a kernel.
                met = frozenset.intersection(*known) if len(known) > 1 else known[0]
                if dominators[place] is None or len(dominators[place]) != len(met | {place}):
                    dominators[place] = met | {place}
                    changed = True
    return dominators


def class_of(opcode):
    base, *modifiers = opcode.split(".")
    for name, units, pattern in CLASSES:
        if re.fullmatch(pattern, base):
            widths = [modifier for modifier in modifiers if modifier in ("64", "128", "256", "U8", "U16", "S8", "S16")]
            width = f"{widths[0].lstrip('US')} bit" if widths else "matrix" if base == "LDSM" else "32 bit"
            return name.format(width=width), units
    return f"other: {base}", "other"


def report(instructions, loop, weights):
    always, rest = collections.Counter(), collections.Counter()
    units = collections.Counter()

    def is_matrix(place):
        return class_of(instructions[place].opcode)[0] == "matrix"

    # Where all products stand behind conditions, as those of a pipeline's steps do, as if each held.
    counted = loop.always if any(map(is_matrix, loop.always)) or not any(map(is_matrix, loop.own)) else loop.own
    for place in loop.own:
        name, unit = class_of(instructions[place].opcode)
        if place in counted:
            always[name] += 1
            units[unit] += 1
        else:
            rest[name] += 1
    n_mma = always["matrix"]
    weights = weights or WEIGHTS_PER_MMA * n_mma
    first, last = (instructions[pick(loop.body)].address for pick in (min, max))
    which = "in every iteration" if counted is loop.always else "where every condition holds"
    print(f"\nloop {first:#x} to {last:#x}: {len(counted)} instructions {which}", end="")
    print(f", {len(loop.own) - len(counted)} more in some" if len(loop.own) > len(counted) else "", end="")
    print(f", {loop.n_inside} in loops inside", end="")
    print(f"; {weights:g} weights of a lane" if weights else "")
    order = [name.split(",")[0] for name, _, _ in CLASSES]
    for name in sorted(always | rest, key=lambda name: (order + [name]).index(name.split(",")[0])):
        per_weight = f"{always[name] / weights:9.3f} a weight" if weights else ""
        per_mma = f"{always[name] / n_mma:9.2f} a matrix instruction" if n_mma else ""
        at_times = f"   {rest[name]:>5} in some" if rest[name] else ""
        print(f"  {name:<24}{always[name]:>6}{per_weight}{per_mma}{at_times}")
    if weights:
        sums = [f"{units[unit] / weights:.3f} {unit}" for unit in ("int", "fma", "quarter", "uniform") if units[unit]]
        print(f"  a weight: {len(counted) / weights:.3f} issued; by units: {', '.join(sums)}")


def read_resources(text):
    """A kernel's registers and memory, by its name."""
    found = re.findall(r"Function (\S+?):\s*\n\s*(.+)", text)
    wanted = ("REG", "STACK", "SHARED", "LOCAL")
    return {
        name: ", ".join(pair.replace(":", " ").lower() for pair in line.split() if pair.split(":")[0] in wanted)
        for name, line in found
    }


def unpack(image, folder):
    for path in (pathlib.Path(image), ARTEFACTS / image, ARTEFACTS / f"{image}.z"):
        if path.is_file():
            data = path.read_bytes()
            cubin = folder / "image.cubin"
            cubin.write_bytes(zlib.decompress(data) if path.suffix == ".z" else data)
            return cubin
    sys.exit(f"there is no {image}")


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout


def find_tools():
    names = ("nvdisasm", "cuobjdump")
    if all(shutil.which(name) for name in names):
        return {name: shutil.which(name) for name in names}
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    folder = target / "cuda-disassemblers"
    pattern = "lib/python3*/site-packages/nvidia/cu13/bin"
    if not list(folder.glob(pattern)):
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--no-deps", *PACKAGES], check=True)
    binaries = next(iter(folder.glob(pattern)))
    # cuobjdump looks for nvdisasm in the PATH.
    os.environ["PATH"] = f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"
    return {name: binaries / name for name in names}


if __name__ == "__main__":
    main()
