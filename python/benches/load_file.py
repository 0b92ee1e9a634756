#!/usr/bin/env python3
"""How long loading takes: an archive by netweight beside the original by safetensors, in rounds in which all take turns.

    python python/benches/load_file.py MODEL [ARCHIVE] [--rounds N] [--cold] [--threads N]

MODEL is a `.safetensors` file or a folder of them; its archive is MODEL.nw unless named. What is measured ends up as
torch tensors that own their memory ("owned"): safetensors maps the file, so its tensors are also cloned, and read with
`pread` where it can. Its own way ("mapped") touches nothing yet and is shown beside. `--cold` drops the files from the
page cache before each turn (posix_fadvise), as after a start. Medians, least and most, and the ratio to safetensors.
"""

from __future__ import annotations

import argparse
import gc
import os
import pathlib
import statistics
import time

import safetensors.torch
import torch

import netweight


def files_of(path: pathlib.Path) -> list[pathlib.Path]:
    return [path] if path.is_file() else sorted(path.glob("*.safetensors"))


def drop_from_cache(path: pathlib.Path) -> None:
    for file in files_of(path):
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def mapped(path: pathlib.Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for file in files_of(path):
        tensors.update(safetensors.torch.load_file(file))
    return tensors


def cloned(path: pathlib.Path) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in mapped(path).items()}


def read(path: pathlib.Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for file in files_of(path):
        tensors.update(safetensors.torch.load_file(file, backend="pread"))
    return tensors


def has_pread() -> bool:
    return "backend" in safetensors.torch.load_file.__kwdefaults__ if safetensors.torch.load_file.__kwdefaults__ else False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("archive", type=pathlib.Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    model = args.model
    archive = args.archive or model.with_name(model.name + ".nw")
    ways = {
        "netweight, archive": (archive, lambda: netweight.torch.load_file(archive, threads=args.threads)),
        "netweight, original": (model, lambda: netweight.torch.load_file(model, threads=args.threads)),
        "safetensors, owned (clone)": (model, lambda: cloned(model)),
        "safetensors, mapped": (model, lambda: mapped(model)),
    }
    if has_pread():
        ways["safetensors, owned (pread)"] = (model, lambda: read(model))
    expected = cloned(model)
    found = netweight.torch.load_file(archive)
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
    assert set(found) == set(expected), "the archive has other tensors"
    for name, tensor in expected.items():
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), f"{name} differs"
    del found, expected
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, (path, load) in ways.items():
            gc.collect()
            if args.cold:
                drop_from_cache(path)
            begin = time.perf_counter()
            tensors = load()
            seconds[name].append(time.perf_counter() - begin)
            del tensors
    state = "files dropped from the cache before each turn" if args.cold else "files in the page cache"
    print(f"{model}: {n_bytes / 1e9:.3f} GB of tensors, {args.rounds} rounds, {state}, {os.cpu_count()} cores")
    base = min(statistics.median(times) for name, times in seconds.items() if "owned" in name)
    print(f"{'':28}{'median s':>10}{'least':>9}{'most':>9}{'GB/s':>8}{'of best owned':>15}")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:28}{median:10.3f}{min(times):9.3f}{max(times):9.3f}{n_bytes / median / 1e9:8.2f}{median / base:15.2f}")


if __name__ == "__main__":
    main()
