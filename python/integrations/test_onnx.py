"""Models that `netweight export --to onnx` wrote, in ONNX Runtime against transformers. Needs the program: NETWEIGHT, or
target/release/netweight."""

import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from archives import checkpoint
from onnx import numpy_helper

ROOT = Path(__file__).parents[2]
BOOKWORM = ROOT / "models/bookworm"
PROGRAM = os.environ.get("NETWEIGHT") or Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"), "release/netweight")
PROMPT = "It was a bright morning, and the"
# Of the logits' standard deviation: two programs that add the same numbers in f32, each in its own order.
TOLERANCE = 1e-4
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32)
# Architecture and what differs from archives.FAMILIES.
MODELS = {
    "llama": ("LlamaForCausalLM", {}),
    "llama, biases": ("LlamaForCausalLM", dict(attention_bias=True, mlp_bias=True)),
    "llama 3": ("LlamaForCausalLM", dict(rope_parameters=LLAMA3)),
    "llama, odd width": ("LlamaForCausalLM", dict(hidden_size=72, head_dim=18, intermediate_size=100)),
    "mistral": ("MistralForCausalLM", {}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {}),
    "qwen3, yarn": ("Qwen3ForCausalLM", dict(rope_parameters=YARN)),
    "phi3": ("Phi3ForCausalLM", dict(pad_token_id=0)),
    "phi3, partly rotated": ("Phi3ForCausalLM", dict(partial_rotary_factor=0.5)),
    "gemma2": ("Gemma2ForCausalLM", dict(sliding_window=8)),
    "gemma3": ("Gemma3ForCausalLM", dict(sliding_window=8)),
}


def netweight(*args):
    subprocess.run([PROGRAM, "--quiet", *args], check=True)


def export(model, to, *args):
    netweight("export", model, "-o", to, "--to", "onnx", *args)
    onnx.checker.check_model(to / "model.onnx", full_check=True)
    return to


class Session:
    """A model in ONNX Runtime, called as optimum calls it."""

    def __init__(self, folder):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        options.log_severity_level = 2
        self.session = onnxruntime.InferenceSession(
            folder / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, ids, mask=None, past=None):
        """Outputs by name, of `ids` after what `past`, an earlier answer, has read."""
        mask = np.ones_like(ids) if mask is None else mask
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        for info in self.session.get_inputs()[3:]:
            empty = np.zeros((len(ids), info.shape[1], 0, info.shape[3]), np.float32)
            feeds[info.name] = past[info.name.replace("past_key_values", "present")] if past else empty
        return dict(zip(self.outputs, self.session.run(self.outputs, feeds)))

    def greedy(self, ids, n_tokens):
        answer, mask, out = self(ids), np.ones_like(ids), []
        for _ in range(n_tokens):
            token = answer["logits"][:, -1].argmax(-1)[:, None]
            out.append(int(token[0, 0]))
            mask = np.concatenate([mask, np.ones_like(token)], 1)
            answer = self(token, mask, answer)
        return out


def reference(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@torch.no_grad()
def reference_logits(model, ids, mask):
    positions = torch.tensor(np.maximum(mask.cumsum(1) - 1, 0))
    return model(torch.tensor(ids), attention_mask=torch.tensor(mask), position_ids=positions).logits.numpy()


def error(found, wanted):
    return float(np.abs(found - wanted).max() / wanted.std())


def check(session, model, tolerance=TOLERANCE):
    """A batch of which one text is padded on the left: whole, and its last two tokens after the others."""
    generator = np.random.default_rng(5)
    ids = generator.integers(3, model.config.get_text_config().vocab_size, (2, 33))
    mask = np.ones_like(ids)
    mask[1, :5] = 0
    wanted = reference_logits(model, ids, mask)
    answer = session(ids, mask)["logits"]
    worst = error(answer[mask > 0], wanted[mask > 0])
    before = session(ids[:, :-2], mask[:, :-2])
    after = session(ids[:, -2:], mask, before)
    worst = max(worst, error(after["logits"], wanted[:, -2:]))
    one = session(ids[:, -1:], mask, session(ids[:, -2:-1], mask[:, :-1], before))
    worst = max(worst, error(one["logits"], wanted[:, -1:]))
    print(f"worst logit: {worst:.1e} standard deviations off")
    assert worst <= tolerance, worst
    return worst


def matrices(folder, model):
    """f32 values of the matrices of integers, as the operators' definitions give them, by their names in `model`."""
    tensors = {t.name: numpy_helper.to_array(t, str(folder)) for t in onnx.load(folder / "model.onnx").graph.initializer}
    names = {name.rsplit("_", 1)[0] for name in tensors if name.endswith("_indices")}
    names |= {name.split("_digits")[0] for name in tensors if "_digits" in name}
    values = {}
    for name in names:
        digits = lambda part: np.stack([tensors[name + part] & 15, tensors[name + part] >> 4], -1).astype(np.int32)
        if name + "_indices" in tensors:
            index = tensors[name + "_indices"].astype(np.int32)
        elif name + "_digits" in tensors:
            index = digits("_digits") - 8
        else:
            index = 16 * (digits("_digits_high") - 8) + digits("_digits_low")
        n_cols = model.get_parameter(name).shape[1]  # without those that fill a block
        index = index.reshape(len(index), -1)[:, :n_cols].astype(np.float32)
        if name + "_row_steps" in tensors:
            rows = tensors[name + "_row_steps"]
        else:
            scales = tensors.get(name + "_digits_scales", tensors.get(name + "_digits_low_scales"))
            rows = scales.reshape(len(index), -1)[:, 0]
        cols = tensors.get(name + "_col_steps", np.ones(n_cols, np.float32))
        values[name] = rows[:, None] * (cols * index)
    return values


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    architecture, changes = MODELS[request.param]
    folder = tmp_path_factory.mktemp("model") / "raw"
    return checkpoint(architecture, folder, **changes)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """(archive, what it restores to)"""
    folder = tmp_path_factory.mktemp("tuned")
    few = ("--sequences", "8", "--window", "128", "--eval-tokens", "600")
    netweight("tune", BOOKWORM, "-o", folder / "nw", "--bits", "4", *few)
    netweight("restore", folder / "nw", "-o", folder / "raw")
    return folder / "nw", folder / "raw"


def test_every_family(model, tmp_path):
    check(Session(export(model, tmp_path / "onnx")), reference(model))


def test_integers_of_every_family(model, tmp_path):
    """Both spellings of weights rounded to int8 compute with the same weights."""
    ours = export(model, tmp_path / "digits", "--weights", "int8")
    standard = export(model, tmp_path / "indices", "--weights", "int8", "--standard-ops")
    rounded = reference(model)
    values, by_digits = matrices(standard, rounded), matrices(ours, rounded)
    assert values.keys() == by_digits.keys() and len(values) >= 2 * 4
    for name, value in values.items():
        assert (value == by_digits[name]).all()
        rounded.get_parameter(name).data = torch.tensor(value)
    check(Session(ours), rounded)
    check(Session(standard), rounded)


def test_types_of_floats(tmp_path):
    for weights in ("f32", "f16"):
        folder, model = export(BOOKWORM, tmp_path / weights, "--weights", weights), reference(BOOKWORM)
        for parameter in model.parameters():
            if weights == "f16" and parameter.dim() == 2:
                parameter.data = parameter.half().float()
        check(Session(folder), model)


def test_an_exact_archive_gives_the_same_files(tmp_path):
    netweight("compress", BOOKWORM, "-o", tmp_path / "nw")
    ours, theirs = export(tmp_path / "nw", tmp_path / "a"), export(BOOKWORM, tmp_path / "b")
    for path in theirs.iterdir():
        assert (ours / path.name).read_bytes() == path.read_bytes(), path.name
    check(Session(ours), reference(BOOKWORM))


@pytest.mark.parametrize("standard", [(), ("--standard-ops",)], ids=["digits", "indices"])
def test_integers_of_a_tuned_archive(tuned, standard, tmp_path):
    archive, restored = tuned
    folder, model = export(archive, tmp_path / "onnx", *standard), reference(restored)
    values = matrices(folder, model)
    assert len(values) == 7 * 6 + 2
    session = Session(folder)
    # Values of `restore` are those of the grids, rounded to bf16: that, and no more, is the difference.
    check(session, model, 0.05)
    for name, value in values.items():
        parameter = model.get_parameter(name)
        assert (torch.tensor(value).bfloat16().float() == parameter).all(), name
        parameter.data = torch.tensor(value)
    check(session, model)


@pytest.mark.parametrize("which", ["exact", "tuned"])
def test_texts_are_the_same(which, request, tmp_path):
    archive, raw = (BOOKWORM, BOOKWORM) if which == "exact" else request.getfixturevalue("tuned")
    session, model = Session(export(archive, tmp_path / "onnx")), reference(raw)
    ids = transformers.AutoTokenizer.from_pretrained(raw)(PROMPT, return_tensors="np")["input_ids"].astype(np.int64)
    with torch.no_grad():
        wanted = model.generate(torch.tensor(ids), max_new_tokens=48, do_sample=False, use_cache=True)
    assert session.greedy(ids, 48) == wanted[0, ids.shape[1] :].tolist()
