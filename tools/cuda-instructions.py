#!/usr/bin/env python3
"""Counts the instructions of a CUDA kernel's innermost loops, from its disassembly: what decoding a weight costs.

    tools/cuda-instructions.py KERNEL                     in the artefact for sm_90a
    tools/cuda-instructions.py KERNEL --image sm_80.cubin --weights 64
    tools/cuda-instructions.py KERNEL --image PATH        any cubin
    tools/cuda-instructions.py --list                     kernels, with registers, spills and shared memory

What goes in: a cubin, deflated or not. What comes out: for each loop that has no loop inside, how many instructions of
each class one iteration has, and how many those are for each weight that a lane decodes in it. That number is --weights;
without it, 8 for each 16x8x16 matrix instruction, whose operand they fill. A loop is what lies between a label and a
later branch back to it. The disassemblers come from PyPI, unless they are in the PATH.
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
    ("SEL, MNMX", "int", r"F?SEL|[IFV]MNMX\w*|FSETP|FSET"),
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
    for begin, end in innermost(find_loops(instructions)):
        body = [each for each in instructions if begin <= each.address <= end]
        report(body, arguments.weights)
        if arguments.disassembly:
            for each in body:
                print(f"    {each.address:05x}  {each.text}")


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


def find_loops(instructions):
    """First and last address of each; a branch to itself is the end of a kernel and no loop."""
    last = {}
    for each in instructions:
        if each.target is not None and each.target < each.address:
            last[each.target] = max(each.address, last.get(each.target, 0))
    return sorted(last.items())


def innermost(loops):
    def holds_another(loop):
        return any(other != loop and loop[0] <= other[0] and other[1] <= loop[1] for other in loops)

    return [loop for loop in loops if not holds_another(loop)]


def class_of(opcode):
    base, *modifiers = opcode.split(".")
    for name, units, pattern in CLASSES:
        if re.fullmatch(pattern, base):
            widths = [modifier for modifier in modifiers if modifier in ("64", "128", "256", "U8", "U16", "S8", "S16")]
            width = f"{widths[0].lstrip('US')} bit" if widths else "matrix" if base == "LDSM" else "32 bit"
            return name.format(width=width), units
    return f"other: {base}", "other"


def report(body, weights):
    counts, units = collections.Counter(), collections.Counter()
    for each in body:
        name, unit = class_of(each.opcode)
        counts[name] += 1
        units[unit] += 1
    n_mma = counts["matrix"]
    weights = weights or WEIGHTS_PER_MMA * n_mma
    print(f"\nloop {body[0].address:#x} to {body[-1].address:#x}: {len(body)} instructions", end="")
    print(f", {weights:g} weights of a lane" if weights else "")
    order = [name.split(",")[0] for name, _, _ in CLASSES]
    for name in sorted(counts, key=lambda name: (order + [name]).index(name.split(",")[0])):
        per_weight = f"{counts[name] / weights:9.3f} a weight" if weights else ""
        per_mma = f"{counts[name] / n_mma:9.2f} a matrix instruction" if n_mma else ""
        print(f"  {name:<24}{counts[name]:>6}{per_weight}{per_mma}")
    if weights:
        sums = [f"{units[unit] / weights:.3f} {unit}" for unit in ("int", "fma", "quarter", "uniform") if units[unit]]
        print(f"  a weight: {len(body) / weights:.3f} issued; by units: {', '.join(sums)}")


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
