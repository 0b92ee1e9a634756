"""Archives in transformers against the checkpoints they were made of."""

import copy
import json
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from archives import archive, checkpoint
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.quantizers import auto

import netweight
from netweight.transformers import NetweightConfig
from netweight.weights import PackedWeight

IDS = torch.randint(3, 256, (2, 17), generator=torch.Generator().manual_seed(1))


def raw_model(folder, architecture="LlamaForCausalLM", **options):
    return getattr(transformers, architecture).from_pretrained(folder, dtype=torch.bfloat16, **options)


def packed_names(model):
    return [name for name, weight in model.named_parameters() if isinstance(weight, PackedWeight)]


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS.to(model.device)).logits.cpu()


def test_every_family(family, tmp_path):
    architecture, raw, packed = family
    model_class = getattr(transformers, architecture)
    wanted, model = raw_model(raw, architecture), model_class.from_pretrained(packed)
    assert len(packed_names(model)) >= 10
    assert torch.equal(logits(model), logits(wanted))
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(IDS, **options), wanted.generate(IDS, **options))

    model.save_pretrained(tmp_path / "saved")
    again = model_class.from_pretrained(tmp_path / "saved")
    assert packed_names(again) == packed_names(model)
    assert torch.equal(logits(again), logits(wanted))
    saved = {k: v for file in sorted((tmp_path / "saved").glob("*.safetensors")) for k, v in load_file(file).items()}
    original = {k: v for file in sorted(raw.glob("*.safetensors")) for k, v in load_file(file).items()}
    assert saved.keys() == original.keys() and all(torch.equal(saved[name], original[name]) for name in saved)

    plain = model.dequantize()
    assert not packed_names(plain) and not hasattr(plain.config, "quantization_config")
    assert torch.equal(logits(plain), logits(wanted))


def test_packs_an_ordinary_checkpoint(llama):
    model = LlamaForCausalLM.from_pretrained(llama[0], quantization_config=NetweightConfig())
    assert packed_names(model) and torch.equal(logits(model), logits(raw_model(llama[0])))


def test_an_undeclared_archive_loads_unpacked(llama, tmp_path):
    shutil.copytree(llama[1], tmp_path / "nw")
    shutil.copy(llama[0] / "config.json", tmp_path / "nw")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "nw", dtype=torch.bfloat16)
    assert not packed_names(model) and torch.equal(logits(model), logits(raw_model(llama[0])))


def test_tied_embeddings_are_packed_once(tmp_path):
    raw = checkpoint("Qwen2ForCausalLM", tmp_path / "raw")
    model = AutoModelForCausalLM.from_pretrained(archive(raw, tmp_path / "nw"))
    assert model.lm_head.weight is model.model.embed_tokens.weight and isinstance(model.lm_head.weight, PackedWeight)
    plain = model.dequantize()
    assert plain.lm_head.weight is plain.model.embed_tokens.weight


def test_copies_of_a_model(llama):
    model = LlamaForCausalLM.from_pretrained(llama[1])
    wanted = logits(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.to("cpu")):
        assert packed_names(other) == packed_names(model) and torch.equal(logits(other), wanted)
    other = LlamaForCausalLM._from_config(model.config, dtype=torch.bfloat16)
    other.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(logits(other.eval()), wanted)


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_device_map(llama, device_map):
    model = LlamaForCausalLM.from_pretrained(llama[1], device_map=device_map)
    assert packed_names(model) and torch.equal(logits(model), logits(raw_model(llama[0], device_map=device_map)))


def test_no_offload_to_disk(llama, tmp_path):
    device_map = {
        "model.embed_tokens": "cpu",
        "model.layers": "disk",
        "model.norm": "cpu",
        "lm_head": "cpu",
        "model.rotary_emb": "cpu",
    }
    with pytest.raises(ValueError, match="disk"):
        LlamaForCausalLM.from_pretrained(llama[1], device_map=device_map, offload_folder=tmp_path)


@pytest.mark.skipif(not hasattr(auto, "LOADING_ATTRIBUTES_CONFIG_TYPES"), reason="transformers takes the archive's own")
def test_dequantize_while_loading(llama):
    model = LlamaForCausalLM.from_pretrained(llama[1], quantization_config=NetweightConfig(dequantize=True))
    assert not packed_names(model) and torch.equal(logits(model), logits(raw_model(llama[0])))


def test_left_out_modules(llama):
    options = {"quantization_config": NetweightConfig(modules_to_not_convert=["lm_head", "layers.0."])}
    names = packed_names(LlamaForCausalLM.from_pretrained(llama[0], **options))
    assert names and not any("lm_head" in name or "layers.0." in name for name in names)


def test_another_number_format_loads_unpacked(llama, caplog):
    model = LlamaForCausalLM.from_pretrained(llama[1], dtype=torch.float32)
    wanted = LlamaForCausalLM.from_pretrained(llama[0], dtype=torch.float32)
    assert not packed_names(model) and torch.equal(logits(model), logits(wanted))


def changed_config(archive_folder, to, **changes):
    shutil.copytree(archive_folder, to)
    config = json.loads((to / "config.json").read_text())
    config.update(changes)
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_newer_format(llama, tmp_path):
    newer = changed_config(llama[1], tmp_path / "nw", quantization_config={"quant_method": "netweight", "format": 3})
    with pytest.raises(ValueError, match="pip install --upgrade netweight"):
        LlamaForCausalLM.from_pretrained(newer)


def test_truncated_shard(llama, tmp_path):
    """A download that broke off: the reader of archives says so, and not safetensors, which does not know them."""
    shutil.copytree(llama[1], tmp_path / "nw")
    shard = sorted((tmp_path / "nw").glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(netweight.DamagedError, match="truncated"):
        LlamaForCausalLM.from_pretrained(tmp_path / "nw")


@pytest.mark.parametrize("number", [0, "1", None, True])
def test_no_format(llama, tmp_path, number):
    bad = changed_config(llama[1], tmp_path / "nw", quantization_config={"quant_method": "netweight", "format": number})
    with pytest.raises(ValueError, match="netweight compress"):
        LlamaForCausalLM.from_pretrained(bad)


def test_config_of_another_model(llama, tmp_path, capfd):
    other = changed_config(llama[1], tmp_path / "nw", intermediate_size=128)
    with pytest.raises((RuntimeError, ValueError), match=r"do not belong together|report"):
        LlamaForCausalLM.from_pretrained(other)


def test_missing_tensor(llama, tmp_path):
    """A tensor that is not there is filled and reported as with any checkpoint."""
    shutil.copytree(llama[0], tmp_path / "raw")
    name = "model.layers.1.mlp.up_proj.weight"
    index = json.loads((tmp_path / "raw" / "model.safetensors.index.json").read_text())
    file = tmp_path / "raw" / index["weight_map"].pop(name)
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    (tmp_path / "raw" / "model.safetensors.index.json").write_text(json.dumps(index))
    packed = archive(tmp_path / "raw", tmp_path / "nw")
    model, info = LlamaForCausalLM.from_pretrained(packed, output_loading_info=True)
    assert set(info["missing_keys"]) == {name}
    assert logits(model).isfinite().all()


def test_training_needs_adapters(llama):
    model = LlamaForCausalLM.from_pretrained(llama[1])
    assert not any(weight.requires_grad for name, weight in model.named_parameters() if name in packed_names(model))


def test_imported_by_itself(llama):
    """A new process that imports nothing but transformers; `netweight.pth` has to be installed."""
    program = f"""
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(llama[1])!r})
assert type(model.lm_head.weight).__name__ == "PackedWeight"
"""
    run = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
