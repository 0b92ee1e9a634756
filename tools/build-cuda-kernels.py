#!/usr/bin/env python3
"""Compiles the CUDA kernels ahead of time, without a GPU: crates/kernels-cuda/cu -> crates/kernels-cuda/artefacts.

    tools/build-cuda-kernels.py             compiles, and replaces the artefacts
    tools/build-cuda-kernels.py --check     compiles, and fails where that gives other bytes than the artefacts have
    tools/build-cuda-kernels.py --stale     compares hashes only: needs no compiler, and takes no time
    tools/build-cuda-kernels.py --fetch     fetches the compiler only; exit status 3 where it is not to be had

What goes in: netweight.cu, which includes the rest. What comes out: a cubin for each kind of GPU in TARGETS and PTX for
all others, each deflated, and manifest.txt, which says what they were made of. The compiler is NVRTC in the version
below, fetched from PyPI into a folder under the target directory, or the library that --nvrtc names. It gives the same
bytes on every machine. A warning is an error.
"""

import argparse
import concurrent.futures
import ctypes
import hashlib
import os
import pathlib
import subprocess
import sys
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
CRATE = ROOT / "crates" / "kernels-cuda"
SOURCES = CRATE / "cu"
ARTEFACTS = CRATE / "artefacts"
PACKAGE, VERSION = "nvidia-cuda-nvrtc-cu12", "12.9.86"
# Every GPU with tensor cores for bf16 runs one of the cubins; what is newer compiles the PTX when it is loaded.
TARGETS = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120", "compute_80"]
OPTIONS = ["-std=c++17", "--fmad=false", "-default-device"]
UNAVAILABLE = 3  # exit status: there is no compiler to be had


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where the artefacts are not what compiling gives")
    parser.add_argument("--stale", action="store_true", help="fail where the sources are not those of the artefacts")
    parser.add_argument("--fetch", action="store_true", help="fetch the compiler and do nothing else")
    parser.add_argument("--nvrtc", help="libnvrtc.so.12 of CUDA 12.9, in place of the one from PyPI")
    arguments = parser.parse_args()
    if arguments.fetch:
        print(fetch_nvrtc())
        return
    hashes = hash_sources()
    if arguments.stale or arguments.check:
        check_sources(hashes)
        if arguments.stale:
            return
    path = arguments.nvrtc or fetch_nvrtc()
    Nvrtc(path)  # which checks its version
    # A process for each target: the compiler takes one program at a time, and half a minute for each.
    with concurrent.futures.ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        try:
            images = dict(zip(map(name_of, TARGETS), pool.map(compile_target, [path] * len(TARGETS), TARGETS)))
        except RuntimeError as error:
            fail(str(error))
    manifest = write_manifest(hashes, images)
    if arguments.check:
        if manifest != read_manifest():
            differ = sorted(set(manifest.splitlines()) ^ set(read_manifest().splitlines()))
            fail("the artefacts are not what compiling the sources gives:\n" + "\n".join(differ))
        check_files(images)
    else:
        replace_artefacts(manifest, images)
    for name, image in images.items():
        print(f"{name:<14} {len(image):>9} bytes, {(ARTEFACTS / (name + '.z')).stat().st_size:>8} deflated")


def compile_target(path, target):
    return Nvrtc(path).compile(target)


def name_of(target):
    return f"{target}.cubin" if target.startswith("sm_") else f"{target}.ptx"


def fail(what):
    sys.exit(f"{what}\n\nTo renew them: tools/build-cuda-kernels.py")


def hash_sources():
    """A line for each file, in the order of their names."""
    files = sorted(path for path in SOURCES.rglob("*") if path.suffix in (".cu", ".cuh", ".h"))
    return [f"source {path.relative_to(SOURCES)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]


def write_manifest(hashes, images):
    head = ["# Written by tools/build-cuda-kernels.py.", f"compiler nvrtc {VERSION}", f"options {' '.join(OPTIONS)}"]
    outputs = [f"image {name} {len(image)} {hashlib.sha256(image).hexdigest()}" for name, image in images.items()]
    return "\n".join(head + hashes + outputs) + "\n"


def read_manifest():
    path = ARTEFACTS / "manifest.txt"
    return path.read_text() if path.exists() else ""


def check_sources(hashes):
    known = [line for line in read_manifest().splitlines() if line.startswith("source ")]
    if known != hashes:
        differ = sorted({line.split()[1] for line in set(known) ^ set(hashes)})
        fail(f"the artefacts were made of other sources; changed since: {', '.join(differ)}")


def check_files(images):
    for name, image in images.items():
        path = ARTEFACTS / (name + ".z")
        if not path.exists() or zlib.decompress(path.read_bytes()) != image:
            fail(f"{path.name} is not what the manifest says")
    extra = {path.name for path in ARTEFACTS.iterdir()} - {name + ".z" for name in images} - {"manifest.txt"}
    if extra:
        fail(f"files that nobody made: {', '.join(sorted(extra))}")


def replace_artefacts(manifest, images):
    ARTEFACTS.mkdir(exist_ok=True)
    for path in ARTEFACTS.iterdir():
        path.unlink()
    for name, image in images.items():
        (ARTEFACTS / (name + ".z")).write_bytes(zlib.compress(image, 9))
    (ARTEFACTS / "manifest.txt").write_text(manifest)


def fetch_nvrtc():
    """The compiler's library, in a virtual environment of its own."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    folder = target / f"nvrtc-{VERSION}"
    pattern = "lib/python3*/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
    if not list(folder.glob(pattern)):
        commands = [
            [sys.executable, "-m", "venv", str(folder)],
            [str(folder / "bin" / "pip"), "install", "--quiet", "--no-deps", "--disable-pip-version-check",
             f"{PACKAGE}=={VERSION}"],
        ]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
                print(f"{PACKAGE} {VERSION} cannot be fetched: {' '.join(last)}", file=sys.stderr)
                sys.exit(UNAVAILABLE)
    found = list(folder.glob(pattern))
    if not found:
        print(f"{PACKAGE} {VERSION} has no library for this machine", file=sys.stderr)
        sys.exit(UNAVAILABLE)
    return found[0]


class Nvrtc:
    """The compiler."""

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        if VERSION.split(".")[:2] != [str(major.value), str(minor.value)]:
            sys.exit(f"{path} is version {major.value}.{minor.value}; {VERSION} is wanted")

    def call(self, name, *arguments):
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise RuntimeError(f"{name}: {self.library.nvrtcGetErrorString(status).decode()}")

    def text(self, program, what):
        """The compiler's output of a kind: "ProgramLog", "CUBIN", "PTX"."""
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(max(size.value, 1))
        self.call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw[: size.value]

    def compile(self, target):
        """The image of all kernels for a target."""
        source = (SOURCES / "netweight.cu").read_bytes()
        options = [f"-arch={target}", *OPTIONS, f"-I{SOURCES}"]
        encoded = [option.encode() for option in options]
        program = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(program), source, b"netweight.cu", 0, None, None)
        status = self.library.nvrtcCompileProgram(program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded))
        log = self.text(program, "ProgramLog").rstrip(b"\0").decode().strip()
        if log or status != 0:
            raise RuntimeError(f"{target}: {log or f'status {status}'}")
        image = self.text(program, "CUBIN" if target.startswith("sm_") else "PTX")
        self.call("nvrtcDestroyProgram", ctypes.byref(program))
        return image


if __name__ == "__main__":
    main()
