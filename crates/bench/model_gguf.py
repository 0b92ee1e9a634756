"""Turns a Hugging Face checkpoint of a Llama into GGUF files for llama.cpp.

usage: model_gguf.py MODEL_DIR OUT_DIR bf16|q8_0|q4_k_m

In: a folder with config.json and bf16 safetensors, of the architecture LlamaForCausalLM without rope scaling.
Out: OUT_DIR/FORMAT.gguf, whose path is printed. bf16 keeps every weight bit for bit; the other formats are
made from it by llama.cpp's own quantiser, with its usual mix of types. A file that is newer than the
checkpoint is kept. There is no vocabulary in the file: benchmarks feed token numbers.

Needs numpy and gguf, and llama-cpp-python for the quantised formats.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

FORMATS = ["bf16", "q8_0", "q4_k_m"]

# Names inside a layer: Hugging Face's, and GGUF's.
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def read_config(model):
    """config.json as a dict."""
    return json.loads((model / "config.json").read_text())


def rope_theta(config):
    """The base of the rotary embedding, from either place where transformers writes it."""
    rope = config.get("rope_parameters") or {}
    if config.get("rope_scaling") or rope.get("rope_type", "default") != "default":
        sys.exit("error: rope scaling is not converted")
    return rope.get("rope_theta") or config.get("rope_theta", 10000.0)


def checkpoint_tensors(model):
    """Pairs of a name and a mapped array of bf16 bits, for all safetensors files of a folder."""
    import numpy as np

    for path in sorted(model.glob("*.safetensors")):
        with open(path, "rb") as file:
            n_header = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(n_header))
        data = np.memmap(path, np.uint8, "r", 8 + n_header)
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] != "BF16":
                sys.exit(f"error: {name} is {entry['dtype']}; only bf16 is converted")
            start, end = entry["data_offsets"]
            yield name, data[start:end].view("<u2").reshape(entry["shape"])


def gguf_name(name):
    """The GGUF name of a tensor, or None for one that GGUF does not hold."""
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    parts = name.split(".")
    inner = LAYER_NAMES.get(".".join(parts[3:-1]))
    return inner and f"blk.{parts[2]}.{inner}.weight"


def pair_rows(rows, n_heads):
    """Rows of a q or k projection in llama.cpp's order, where the two rows that rope turns together are neighbours.

    Hugging Face has the first halves of a head's pairs, then the second halves.
    """
    n_rows, n_columns = rows.shape
    return rows.reshape(n_heads, 2, n_rows // n_heads // 2, n_columns).swapaxes(1, 2).reshape(n_rows, n_columns)


def write_bf16(model, path):
    """Writes the checkpoint as a bf16 GGUF file. Norms become f32, which llama.cpp asks for and loses nothing."""
    import gguf
    import numpy as np

    config = read_config(model)
    if config["architectures"] != ["LlamaForCausalLM"]:
        sys.exit(f"error: {config['architectures']} is not converted, only LlamaForCausalLM")
    n_heads = config["num_attention_heads"]
    n_kv_heads = config.get("num_key_value_heads", n_heads)
    head_dim = config.get("head_dim") or config["hidden_size"] // n_heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope_theta(config))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for name, bits in checkpoint_tensors(model):
        new_name = gguf_name(name)
        if new_name is None or (new_name == "output.weight" and config.get("tie_word_embeddings")):
            continue
        if bits.ndim == 1:
            writer.add_tensor(new_name, (bits.astype(np.uint32) << 16).view(np.float32))
            continue
        if ".q_proj." in name or ".k_proj." in name:
            bits = pair_rows(bits, n_heads if ".q_proj." in name else n_kv_heads)
        octets = np.ascontiguousarray(bits).view(np.uint8)
        writer.add_tensor(new_name, octets, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source, path, form):
    """Lets llama.cpp quantise a GGUF file."""
    import llama_cpp

    # The callback has to outlive the call.
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M}[form]
    params.nthread = os.cpu_count()
    if llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(params)) != 0:
        sys.exit(f"error: llama.cpp could not quantise {source} to {form}")


def convert(model, out, form):
    """Makes the GGUF file of a format, and the bf16 one before it, where they are missing or old. Returns its path."""
    path = out / f"{form}.gguf"
    newest = max(file.stat().st_mtime for file in model.iterdir() if file.suffix in (".safetensors", ".json"))
    if path.exists() and path.stat().st_mtime >= newest:
        return path
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f"{form}.gguf.partial"
    if form == "bf16":
        write_bf16(model, partial)
    else:
        quantise(convert(model, out, "bf16"), partial, form)
    partial.rename(path)
    return path


def main():
    if len(sys.argv) != 4 or sys.argv[3] not in FORMATS:
        sys.exit(__doc__.split("\n\n")[1])
    print(convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))


if __name__ == "__main__":
    main()
