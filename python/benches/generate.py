"""Times generation in transformers on the CPU, a checkpoint against its archive, and what each takes in memory.

    python python/benches/generate.py CHECKPOINT ARCHIVE [--rounds N] [--prompt N] [--tokens N]

They are loaded in one process and take turns: the checkpoint, the archive, and the archive with NETWEIGHT_FUSED=1, whose
sums are its own. The tokens of the first two must be the same. Memory is the most that a process of its own took (VmHWM)
beyond its imports, for loading and for generating once; pages of a mapped file count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time


def load(path):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()


def ids_of(model, n_tokens):
    import torch

    random = torch.Generator().manual_seed(1)
    return torch.randint(3, model.config.vocab_size, (1, n_tokens), generator=random)


def seconds(model, ids, n_tokens):
    """Of the prompt, and of each token that follows; and the tokens."""
    import torch

    times, inputs, cache, said = [], ids, None, []
    with torch.no_grad():
        for _ in range(1 + n_tokens):
            begin = time.perf_counter()
            out = model(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            inputs, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
            times.append(time.perf_counter() - begin)
            said.append(int(inputs))
    return times[0], statistics.median(times[1:]), said


def peak_bytes(path, is_fused, args):
    """Most memory of a process that loads a model and generates once."""
    command = [sys.executable, __file__, path, path, "--peak", "--prompt", str(args.prompt), "--tokens", str(args.tokens)]
    environment = {**os.environ, "NETWEIGHT_FUSED": str(int(is_fused))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout.split()[-1])


def own_peak_bytes():
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


def spread(values, scale):
    return f"{statistics.median(values) * scale:.1f} ({min(values) * scale:.1f} to {max(values) * scale:.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("archive")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        import transformers.models.llama.modeling_llama  # noqa: F401: as much as any model imports

        before = own_peak_bytes()
        model = load(args.checkpoint)
        seconds(model, ids_of(model, args.prompt), args.tokens)
        print(own_peak_bytes() - before)
        return
    import torch

    from netweight import native

    contenders = {
        "checkpoint": (args.checkpoint, False),
        "archive": (args.archive, False),
        "archive, fused": (args.archive, True),
    }
    peaks = {name: peak_bytes(path, is_fused, args) for name, (path, is_fused) in contenders.items()}
    models = {path: load(path) for path in (args.checkpoint, args.archive)}
    ids = ids_of(models[args.checkpoint], args.prompt)
    taken = {name: ([], []) for name in contenders}
    said = {}
    for _ in range(args.rounds):
        for name, (path, is_fused) in contenders.items():
            native.FUSED = is_fused
            prompt, token, said[name] = seconds(models[path], ids, args.tokens)
            taken[name][0].append(prompt)
            taken[name][1].append(token)
    if said["archive"] != said["checkpoint"]:
        sys.exit("DIFFERENT tokens")
    n_same = sum(a == b for a, b in zip(said["archive, fused"], said["checkpoint"], strict=True))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    print(f"the archive's tokens are the checkpoint's; of the fused kernel's {n_same} of {len(said['checkpoint'])} are")
    print("| | prompt, ms | token, ms | most memory, MiB |\n|---|---|---|---|")
    for name, (prompts, tokens) in taken.items():
        print(f"| {name} | {spread(prompts, 1e3)} | {spread(tokens, 1e3)} | {peaks[name] >> 20} |")


if __name__ == "__main__":
    main()
