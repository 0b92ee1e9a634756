"""Archives in vLLM against the checkpoints they were made of: tokens and logprobs, exactly. Slow: engines start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from archives import archive, checkpoint
from tiny_tokenizer import write as write_tokenizer

HERE = Path(__file__).parent
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "head_dim": 32,
    "vocab_size": 512,
    "num_hidden_layers": 2,
    "mlp_only_layers": [0],  # One layer without experts, one with.
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(checkpoint, archive) with dense and expert layers."""
    folder = tmp_path_factory.mktemp("vllm")
    raw = checkpoint("Qwen3MoeForCausalLM", folder / "raw", **SIZES)
    write_tokenizer(raw, SIZES["vocab_size"])
    return raw, archive(raw, folder / "nw")


def run(script, *arguments):
    """The results that a script prints."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    results = [
        json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if line.startswith("RESULT ")
    ]
    assert done.returncode == 0 and results, done.stderr[-5000:]
    return results


@pytest.mark.parametrize("ranks", [1, 2])
def test_offline(model, ranks):
    raw, packed = run("vllm_run.py", ranks, "eager", *model)
    assert packed["answers"] == raw["answers"]
    assert all(count == 10 for count, _ in packed["packed"]) and all(count == 0 for count, _ in raw["packed"])


@pytest.mark.slow
def test_compiled(model):
    raw, packed = run("vllm_run.py", 1, *model)
    assert packed["answers"] == raw["answers"]


def test_server(model):
    (offline,) = run("vllm_run.py", 1, "eager", model[0])
    (served,) = run("vllm_serve.py", model[1])
    for choice, wanted in zip(served["answers"], offline["answers"], strict=True):
        steps = wanted["logprobs"][-len(wanted["tokens"]) :]
        logprobs = [float(step[str(token)]) for token, step in zip(wanted["tokens"], steps, strict=True)]
        assert choice["logprobs"]["token_logprobs"] == logprobs


@pytest.mark.parametrize("number, advice", [(3, "pip install --upgrade netweight"), (0, "netweight compress")])
def test_other_formats(number, advice):
    from netweight.vllm.config import NetweightVllmConfig

    with pytest.raises(ValueError, match=advice):
        NetweightVllmConfig.from_config({"quant_method": "netweight", "format": number})
