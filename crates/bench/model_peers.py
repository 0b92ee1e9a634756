"""Other engines that run a language model on the CPU, measured on request.

usage: model_peers.py MODEL_DIR [--threads 2] [--prompt 128] [--generate 64] [--rounds 5] [--peers A,B,...] [--json]
       model_peers.py MODEL_DIR --serve PEER [--threads 2] [--prompt 128] [--generate 64]

In: a Hugging Face folder of a Llama in bf16, such as make_model.py writes. Peers, all by default:

    llama.cpp-bf16, llama.cpp-q8_0, llama.cpp-q4_k_m    through llama-cpp-python; GGUF files are made once, in
                                                        MODEL_DIR-gguf beside the model, or where --gguf says
    torch-bf16                                          transformers, compiled by torch, with a static cache
    torch-bf16-eager                                    transformers, not compiled, with a cache that grows

Out of the first form: one table, or with --json one JSON object; progress goes to stderr. Each peer lives in a child
process of its own and the rounds go round the peers, so that a slow minute of the machine hits all alike. A peer
that is not installed is skipped, with the command that installs it.

What is measured, for every peer the same
    prefill     the prompt in one call, from an empty cache to the logits of its last token on the host
    decode      with the prompt in the cache, GENERATE times: the likeliest token so far in, logits out and their
                maximum found; one sequence, no sampling, no text
    load_s      from the libraries being imported to the logits of a first single token; the file is in the page
                cache in most runs, and making GGUF files is not counted
    import_s    importing the libraries
    warm_up_s   the first prefill and decode, which is where torch compiles (its own cache makes a second run faster)
    peak MiB    the highest resident memory of the process (VmHWM), with mapped files; `rss` is that after the rounds
    cosine      of the logits after the prompt with those of the first peer in bf16: the same model was run

Token I of the prompt is (I * 7919 + 13) mod 4096, mod the vocabulary where that is smaller.

The protocol of --serve: one JSON object a line, on stdin and stdout; what libraries print goes to stderr.
First the child writes, once it is warm,

    {"peer": "llama.cpp-q8_0", "ready": true, "version": "...", "settings": {...}, "threads": 2, "prompt": 128,
     "generate": 64, "import_s": 0.3, "load_s": 1.2, "warm_up_s": 3.4, "file_mib": 507.8}

or {"peer": ..., "skipped": "not installed (pip install ...)"} or {"peer": ..., "error": "..."}, and ends. Then it
answers each line that it reads:

    {"cmd": "prefill"}    {"seconds": 0.11, "cpu_s": 0.22, "tokens": 128, "tokens_per_s": 1163.6}; cpu_s well under
                          threads * seconds means that others had the cores
    {"cmd": "decode"}     {"seconds": 2.9, "cpu_s": 5.8, "tokens": 64, "tokens_per_s": 22.1, "ids": [...]}; the prompt
                          is read again before, which is not timed
    {"cmd": "logits"}     {"logits": [...]} after the prompt, one for each token of the vocabulary
    {"cmd": "memory"}     {"peak_mib": 1100.2, "rss_mib": 1090.0, "huge_mib": 980.0}; huge_mib lies in huge pages
    {"cmd": "quit"}, or the end of stdin, ends it. A line that it cannot answer gets {"error": "..."}.

An idle child waits for its stdin and uses no CPU (some OpenMP libraries spin for a while after work; they are told
to stop after 5 ms).

Settings are each peer's fastest on a Xeon with AMX; --set NAME=VALUE changes one (values are JSON):
    huge_pages    true: weights lie in huge pages, by way of malloc's environment (glibc 2.35 or newer) and, for
                  torch, of reading the file instead of mapping it as from_pretrained does. A quarter more memory
                  bandwidth where the kernel gives huge pages to those who ask ("madvise").
    mmap          false: llama.cpp reads the file into memory, which huge pages need
    repack        llama.cpp may rearrange weights for AMX and wide vectors
    flash         llama.cpp's flash attention
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

PEERS = ["llama.cpp-bf16", "llama.cpp-q8_0", "llama.cpp-q4_k_m", "torch-bf16", "torch-bf16-eager"]
SETTINGS = {"huge_pages": True, "mmap": False, "repack": True, "flash": True}
# llama.cpp is to be built for the machine: AMX and AVX-512 are not in a wheel for all. Clang, because GCC before
# 13.3 drops stores to the tile configuration, and what it makes of the AMX kernels crashes.
PIP_LLAMA = "CC=clang CXX=clang++ CMAKE_ARGS='-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF' pip install llama-cpp-python gguf"
PIP_TORCH = "pip install torch transformers"
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "THP_MEM_ALLOC_ENABLE": "1"}
MIB = 1 << 20


def prompt_tokens(n_tokens, n_vocab):
    """The prompt that every peer reads."""
    return [(i * 7919 + 13) % min(4096, n_vocab) for i in range(n_tokens)]


class Llama:
    """llama.cpp, through the C interface that llama-cpp-python exposes; its Python class adds copies."""

    pip = PIP_LLAMA

    def __init__(self, args, settings):
        import ctypes

        import llama_cpp
        import numpy as np

        self.ctypes, self.lib, self.np = ctypes, llama_cpp, np
        self.quiet = llama_cpp.llama_log_callback(self.log)
        self.lines = []
        self.settings = settings
        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        self.args = args

    def log(self, level, text, data):
        self.lines.append(text.decode(errors="replace"))

    def prepare(self):
        """Makes the GGUF file in a process of its own, so that its memory is not counted here."""
        form = self.args.serve.removeprefix("llama.cpp-")
        out = self.args.gguf or self.args.model.with_name(self.args.model.name + "-gguf")
        script = Path(__file__).with_name("model_gguf.py")
        made = subprocess.run([sys.executable, script, self.args.model, out, form], stdout=subprocess.PIPE, text=True)
        if made.returncode != 0:
            raise RuntimeError(f"making the GGUF file ended with {made.returncode}")
        self.path = Path(made.stdout.splitlines()[-1])
        return self.path.stat().st_size

    def load(self):
        lib, args = self.lib, self.args
        lib.llama_log_set(self.quiet, self.ctypes.c_void_p(0))
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        if hasattr(params, "load_mode"):
            params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if self.settings["mmap"] else lib.LLAMA_LOAD_MODE_NONE
        else:
            params.use_mmap = self.settings["mmap"]
        params.use_extra_bufts = self.settings["repack"]
        self.model = lib.llama_model_load_from_file(str(self.path).encode(), params)
        if not self.model:
            raise RuntimeError("llama.cpp did not load the model: " + "".join(self.lines[-5:]))
        params = lib.llama_context_default_params()
        params.n_ctx = args.prompt + args.generate
        params.n_batch = params.n_ubatch = max(512, args.prompt)
        params.n_threads = params.n_threads_batch = args.threads
        params.flash_attn_type = int(self.settings["flash"])
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp made no context: " + "".join(self.lines[-5:]))
        self.n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        buffers = [line.split(":", 1)[1].split() for line in self.lines if "model buffer size" in line]
        self.settings["buffers_mib"] = {words[0]: float(words[5]) for words in buffers}
        self.settings["system"] = lib.llama_print_system_info().decode().strip(" |")
        self.prefill(prompt_tokens(1, self.n_vocab))

    def forward(self, tokens):
        """The logits after the last of some tokens, as an array that lives until the next call."""
        array = (self.lib.llama_token * len(tokens))(*tokens)
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(array, len(tokens))) != 0:
            raise RuntimeError("llama_decode failed")
        return self.np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, -1), (self.n_vocab,))

    def prefill(self, tokens):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), False)
        self.last = self.forward(tokens)

    def decode(self, n_tokens):
        ids = []
        for _ in range(n_tokens):
            ids.append(int(self.last.argmax()))
            self.last = self.forward(ids[-1:])
        return ids

    def logits(self):
        return self.last.tolist()


class Torch:
    """transformers. Compiled, prefill and decode become a graph each, for shapes that never change."""

    pip = PIP_TORCH

    def __init__(self, args, settings):
        import torch
        import transformers

        self.torch, self.transformers = torch, transformers
        self.compiled = not args.serve.endswith("eager")
        self.args = args
        self.version = f"torch {torch.__version__}, transformers {transformers.__version__}"
        self.settings = {"huge_pages": settings["huge_pages"], "compiled": self.compiled, "attention": "sdpa"}
        self.settings["cpu"] = torch.backends.cpu.get_cpu_capability()

    def prepare(self):
        return sum(file.stat().st_size for file in self.args.model.glob("*.safetensors"))

    def load(self):
        torch = self.torch
        torch.set_num_threads(self.args.threads)
        torch.set_grad_enabled(False)
        auto, how = self.transformers.AutoModelForCausalLM, {"dtype": torch.bfloat16, "attn_implementation": "sdpa"}
        if self.settings["huge_pages"]:
            from transformers.initialization import no_init_weights

            config = self.transformers.AutoConfig.from_pretrained(self.args.model)
            with no_init_weights():
                self.model = auto.from_config(config, **how).eval()
            self.read_weights()
        else:
            self.model = auto.from_pretrained(self.args.model, **how).eval()
        self.call, self.n_vocab = self.model.forward, self.model.config.vocab_size
        self.prefill(prompt_tokens(1, self.n_vocab))
        if self.compiled:
            self.call = torch.compile(self.model.forward, dynamic=False)

    def read_weights(self):
        """Fills the model from the checkpoint. Tensors of from_pretrained lie in the mapped file, in small pages."""
        places = dict(self.model.named_parameters())
        for path in self.args.model.glob("*.safetensors"):
            with open(path, "rb") as file:
                n_header = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(n_header))
                header.pop("__metadata__", None)
                for name, entry in header.items():
                    place = places.pop(name).data
                    if entry["dtype"] != "BF16" or list(place.shape) != entry["shape"]:
                        raise RuntimeError(f"{name} is not what config.json says")
                    file.seek(8 + n_header + entry["data_offsets"][0])
                    file.readinto(place.view(self.torch.uint8).numpy())
        if places:
            raise RuntimeError(f"no {next(iter(places))} in the checkpoint")

    def forward(self, tokens):
        torch = self.torch
        n_tokens = len(tokens)
        answer = self.call(
            input_ids=torch.tensor([tokens]),
            position_ids=torch.arange(self.at, self.at + n_tokens)[None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.at += n_tokens
        return answer.logits[0, -1]

    def prefill(self, tokens):
        if self.compiled:
            room = self.args.prompt + self.args.generate
            self.cache = self.transformers.StaticCache(config=self.model.config, max_cache_len=room)
        else:
            self.cache = self.transformers.DynamicCache(config=self.model.config)
        self.at = 0
        self.last = self.forward(tokens)

    def decode(self, n_tokens):
        ids = []
        for _ in range(n_tokens):
            ids.append(int(self.last.argmax()))
            self.last = self.forward(ids[-1:])
        return ids

    def logits(self):
        return self.last.float().tolist()


def memory_mib(file, key):
    """A memory figure of this process, in MiB; None where the system does not tell."""
    try:
        lines = Path(f"/proc/self/{file}").read_text().splitlines()
    except OSError:
        return None
    return next((round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith(key)), None)


def answer(peer, args, command):
    """What the child says to a command, or None to end."""
    tokens = prompt_tokens(args.prompt, peer.n_vocab)
    if command in ("prefill", "decode"):
        start, cpu = time.perf_counter(), time.process_time()
        peer.prefill(tokens)
        found = {"tokens": len(tokens)}
        if command == "decode":
            start, cpu = time.perf_counter(), time.process_time()
            ids = peer.decode(args.generate)
            found = {"tokens": len(ids), "ids": ids}
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        return {"seconds": seconds, "cpu_s": cpu, "tokens_per_s": found["tokens"] / seconds} | found
    if command == "logits":
        peer.prefill(tokens)
        return {"logits": peer.logits()}
    if command == "memory":
        found = {"peak_mib": memory_mib("status", "VmHWM"), "rss_mib": memory_mib("status", "VmRSS")}
        return found | {"huge_mib": memory_mib("smaps_rollup", "AnonHugePages")}
    return None if command == "quit" else {"error": f"no command {command!r}"}


def start_peer(args, settings):
    """Loads a peer and warms it up. Returns it and the child's first line; it is None where that says why."""
    hello = {"peer": args.serve}
    kind = Llama if args.serve.startswith("llama.cpp") else Torch
    start = time.perf_counter()
    try:
        peer = kind(args, settings)
    except ImportError as error:
        return None, hello | {"skipped": f"not installed ({kind.pip}): {error}"}
    hello["import_s"] = time.perf_counter() - start
    try:
        n_file = peer.prepare()
        start = time.perf_counter()
        peer.load()
        hello["load_s"] = time.perf_counter() - start
        start = time.perf_counter()
        answer(peer, args, "decode")
        hello["warm_up_s"] = time.perf_counter() - start
    except Exception as error:
        return None, hello | {"error": f"{type(error).__name__}: {error}"}
    sizes = {name: getattr(args, name) for name in ("threads", "prompt", "generate")}
    about = {"ready": True, "version": peer.version, "settings": peer.settings, "file_mib": round(n_file / MIB, 1)}
    return peer, hello | about | sizes


def serve(args, settings):
    """The child: answers commands from stdin until it ends."""
    environment = {"OMP_NUM_THREADS": str(args.threads), "KMP_BLOCKTIME": "5"}
    if settings["huge_pages"]:
        environment |= HUGE_PAGES
    if any(os.environ.get(name) != value for name, value in environment.items()):
        # malloc reads its tunables when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | environment)
    # Libraries print to stdout too, oneDNN's trace for one.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer, hello = start_peer(args, settings)
    print(json.dumps(hello), file=out, flush=True)
    if peer is None:
        return
    for line in sys.stdin:
        try:
            reply = answer(peer, args, json.loads(line)["cmd"])
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        if reply is None:
            return
        print(json.dumps(reply), file=out, flush=True)


class Child:
    """The parent's end of a peer."""

    def __init__(self, name, args):
        command = [sys.executable, __file__, args.model, "--serve", name]
        for option in ("threads", "prompt", "generate"):
            command += [f"--{option}", str(getattr(args, option))]
        command += ["--gguf", args.gguf] if args.gguf else []
        for setting in args.set:
            command += ["--set", setting]
        self.replies = {"prefill": [], "decode": []}
        self.threads = args.threads
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self.read() | {"peer": name}

    def read(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": f"ended with {self.process.wait()}"}

    def ask(self, command):
        try:
            print(json.dumps({"cmd": command}), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass
        reply = self.read()
        if "error" in reply:
            self.about["error"] = reply["error"]
        return reply

    def alive(self):
        return "ready" in self.about and "error" not in self.about

    def round(self):
        for command, replies in self.replies.items():
            reply = self.ask(command)
            if not self.alive():
                return
            replies.append(reply)

    def figures(self):
        """For prefill and decode: the median of tokens a second, how far rounds were from it, and the share of
        its cores that the peer had. A share well under 1 tells of a machine with other work to do."""
        return {command: spread(replies, self.threads) for command, replies in self.replies.items()}

    def quit(self):
        self.process.stdin.close()
        self.process.wait()


def spread(replies, threads):
    rates = [reply["tokens_per_s"] for reply in replies]
    shares = [reply["cpu_s"] / reply["seconds"] / threads for reply in replies]
    found = {"median": statistics.median(rates), "min": min(rates), "max": max(rates)}
    return found | {"cpu_share": round(statistics.median(shares), 3)}


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def measure(args):
    """Runs all peers and returns a dict for each."""
    children = []
    for name in args.peers:
        print(f"starting {name}", file=sys.stderr)
        children.append(Child(name, args))
    for i in range(args.rounds):
        print(f"round {i + 1} of {args.rounds}", file=sys.stderr)
        turn = i % len(children)
        for child in children[turn:] + children[:turn]:
            if child.alive():
                child.round()
    reference = None
    for child in children:
        if child.alive():
            child.about |= child.ask("memory")
            child.about |= child.figures()
            logits = child.ask("logits").get("logits")
            if reference is None and "bf16" in child.about["peer"]:
                reference = logits
            if reference is not None:
                child.about["cosine"] = cosine(logits, reference)
        child.quit()
    return [child.about for child in children]


def table(found, args):
    """The figures as text."""
    heads = ["decode", "prefill", "load s", "peak MiB", "rss MiB", "file MiB", "cosine", "CPU share"]
    widths = [21, 27, 8, 10, 9, 10, 9, 11]
    sizes = f"{args.threads} threads, prompt of {args.prompt}, {args.generate} generated"
    lines = [f"{sizes}; tokens a second: median [min, max]"]
    lines.append(" " * 18 + "".join(f"{head:>{width}}" for head, width in zip(heads, widths)))
    for peer in found:
        if "decode" not in peer:
            lines.append(f"{peer['peer']:18}{peer.get('skipped') or peer.get('error')}")
            continue
        cells = ["{median:.1f} [{min:.1f}, {max:.1f}]".format(**peer[key]) for key in ("decode", "prefill")]
        cells.append(f"{peer['load_s']:.2f}")
        cells += [f"{peer[key] or math.nan:.0f}" for key in ("peak_mib", "rss_mib", "file_mib")]
        cells += [f"{peer.get('cosine', math.nan):.5f}", f"{peer['decode']['cpu_share']:.2f}"]
        lines.append(f"{peer['peer']:18}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths)))
    return "\n".join(lines + [f"{peer['peer']}: {peer['version']}" for peer in found if "version" in peer])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--serve", choices=PEERS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.model = args.model.absolute()
    args.peers = args.peers.split(",")
    for name in args.peers:
        if name not in PEERS:
            parser.error(f"no peer {name}; there are {', '.join(PEERS)}")
    if min(args.threads, args.prompt, args.generate, args.rounds) < 1:
        parser.error("sizes are at least 1")
    if not (args.model / "config.json").is_file():
        parser.error(f"no config.json in {args.model}")
    settings = SETTINGS | {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in args.set)}
    if args.serve:
        return serve(args, settings)
    found = measure(args)
    sizes = {name: getattr(args, name) for name in ("threads", "prompt", "generate", "rounds")}
    print(json.dumps({"model": args.model.name, **sizes, "peers": found}) if args.json else table(found, args))


if __name__ == "__main__":
    main()
