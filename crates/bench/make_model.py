"""A Llama checkpoint with random weights, for measuring how fast a model of some shape runs.

usage: make_model.py OUT_DIR [--shape 0.45b|tiny] [--seed 0] [--shard-mib 2048] [--tokenizer DIR]

In: the name of a shape and a seed. Out: a folder as Hugging Face writes it: config.json, bf16 weights in
model.safetensors (or in numbered shards with an index, where one shard would be larger than --shard-mib), and
tokenizer.json and tokenizer_config.json, copied from --tokenizer (models/bookworm of this repository, whose
4096 tokens are the first ones of the model's vocabulary). The last line printed is JSON: the number of parameters,
and the number of weights that one decoded token reads, which is all linear layers and the output layer without
the embedding table.

The weights of a row are normal, with a standard deviation of 0.02 * exp(0.2 g), g normal and drawn once a row;
norms are 1. That gives exponents like those of a trained model. The same shape and seed give the same bytes.

Needs numpy; safetensors files are simple enough to be written here.
"""

import argparse
import json
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np

SIGMA = 0.02
ROW_SPREAD = 0.2
BOOKWORM = Path(__file__).resolve().parents[2] / "models" / "bookworm"

# 0.45b reads 452 million weights for a token. Every row length is a multiple of 256, which llama.cpp's
# K quantisations ask for.
SHAPES = {
    "0.45b": dict(vocab=32000, hidden=1536, layers=16, heads=12, kv_heads=4, intermediate=4096, context=2048),
    "tiny": dict(vocab=4096, hidden=256, layers=2, heads=4, kv_heads=2, intermediate=512, context=512),
}


def config(shape):
    """The text of config.json, as a dict, for a row of SHAPES."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "head_dim": shape["hidden"] // shape["heads"],
        "hidden_act": "silu",
        "hidden_size": shape["hidden"],
        "initializer_range": SIGMA,
        "intermediate_size": shape["intermediate"],
        "max_position_embeddings": shape["context"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape["heads"],
        "num_hidden_layers": shape["layers"],
        "num_key_value_heads": shape["kv_heads"],
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape["vocab"],
    }


def tensor_shapes(shape):
    """Names and shapes of all tensors, in the order of the layers."""
    hidden, inner = shape["hidden"], shape["intermediate"]
    kv = hidden // shape["heads"] * shape["kv_heads"]
    layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes = {"model.embed_tokens.weight": (shape["vocab"], hidden)}
    for i in range(shape["layers"]):
        shapes |= {f"model.layers.{i}.{name}.weight": size for name, size in layer.items()}
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (shape["vocab"], hidden)}


def to_bf16(values):
    """f32 to the bit patterns of bf16, rounded to nearest, ties to even. Only finite values come here."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def draw(name, size, seed):
    """The bits of one tensor. They depend on its name, its shape and the seed alone."""
    if len(size) == 1:
        return to_bf16(np.ones(size, np.float32))
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    sigma = SIGMA * np.exp(ROW_SPREAD * rng.standard_normal((size[0], 1), np.float32))
    return to_bf16(rng.standard_normal(size, np.float32) * sigma)


def cut_shards(shapes, shard_bytes):
    """Lists of names, each at most shard_bytes of weights (a larger tensor has a shard of its own)."""
    shards, used = [[]], 0
    for name, size in shapes.items():
        n_bytes = 2 * int(np.prod(size))
        if shards[-1] and used + n_bytes > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += n_bytes
    return shards


def write_shard(path, names, shapes, seed):
    """Draws the tensors of a shard and writes them as one safetensors file, one tensor in memory at a time."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        end = at + 2 * int(np.prod(shapes[name]))
        header[name] = {"dtype": "BF16", "shape": list(shapes[name]), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(draw(name, shapes[name], seed))


def write_model(out, shape, seed, shard_bytes, tokenizer):
    """Writes the whole folder and returns its figures."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("model*.safetensors*"):
        old.unlink()
    shapes = tensor_shapes(shape)
    shards = cut_shards(shapes, shard_bytes)
    weight_map = {}
    for i, names in enumerate(shards):
        one = len(shards) == 1
        file = "model.safetensors" if one else f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_shard(out / file, names, shapes, seed)
        weight_map |= {name: file for name in names}
    n_params = sum(int(np.prod(size)) for size in shapes.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": 2 * n_params}, "weight_map": weight_map}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (out / "config.json").write_text(json.dumps(config(shape), indent=2) + "\n")
    for file in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copyfile(tokenizer / file, out / file)
    n_read = sum(int(np.prod(size)) for name, size in shapes.items() if len(size) == 2 and "embed" not in name)
    return {"out": str(out), "n_params": n_params, "n_weights_per_token": n_read, "shards": len(shards)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="0.45b")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-mib", type=float, default=2048)
    parser.add_argument("--tokenizer", type=Path, default=BOOKWORM)
    args = parser.parse_args()
    if not (args.tokenizer / "tokenizer.json").is_file():
        sys.exit(f"error: no tokenizer.json in {args.tokenizer}; name a folder that has one with --tokenizer")
    shard_bytes = int(args.shard_mib * (1 << 20))
    print(json.dumps(write_model(args.out, SHAPES[args.shape], args.seed, shard_bytes, args.tokenizer)))


if __name__ == "__main__":
    main()
