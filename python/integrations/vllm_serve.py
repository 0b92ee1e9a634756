"""Starts vLLM's OpenAI server for models, one after the other, and prints its answers: python vllm_serve.py MODEL..."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

PORT = 8731


def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read()


def wait(server):
    for _ in range(300):
        try:
            return ask("/health")
        except (urllib.error.URLError, ConnectionError):
            if server.poll() is not None:
                sys.exit(f"the server ended with {server.returncode}")
            time.sleep(1)
    sys.exit("the server did not start in 300 s")


for model in sys.argv[1:]:
    start = time.time()
    command = [
        sys.executable,
        "-P",
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        model,
        "--port",
        str(PORT),
        "--max-model-len",
        "64",
        "--max-num-seqs",
        "4",
        "--enforce-eager",
        "--served-model-name",
        "m",
    ]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    server = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    try:
        wait(server)
        started = time.time()
        body = {
            "model": "m",
            "prompt": [[5, 9, 77, 130, 3, 200], [42] * 20],
            "max_tokens": 8,
            "temperature": 0,
            "logprobs": 5,
            "ignore_eos": True,
        }
        answer = json.loads(ask("/v1/completions", body))
        print(
            "RESULT "
            + json.dumps(
                {
                    "model": model,
                    "packed": None,
                    "answers": answer["choices"],
                    "load_s": started - start,
                    "generate_s": time.time() - started,
                }
            ),
            flush=True,
        )
    finally:
        server.terminate()
        server.wait()
