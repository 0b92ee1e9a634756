"""Tiny checkpoints of every family and archives of them."""

from pathlib import Path

import torch
import transformers

import netweight

COMMON = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=256,
    max_position_embeddings=128,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
MOE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48, decoder_sparse_step=1)
FAMILIES = {
    "LlamaForCausalLM": dict(COMMON),
    "MistralForCausalLM": dict(COMMON, sliding_window=8),
    "Qwen2ForCausalLM": dict(COMMON, tie_word_embeddings=True),
    "Qwen3ForCausalLM": dict(COMMON, head_dim=16),
    "Phi3ForCausalLM": dict(COMMON),
    "Gemma2ForCausalLM": dict(COMMON, head_dim=16),
    "Gemma3ForCausalLM": dict(COMMON, head_dim=16),
    "Gemma3ForConditionalGeneration": dict(
        text_config=dict(COMMON, head_dim=16),
        vision_config=dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        ),
        mm_tokens_per_image=4,
    ),
    "MixtralForCausalLM": dict(COMMON, num_local_experts=4, num_experts_per_tok=2),
    "Qwen3MoeForCausalLM": dict(COMMON, head_dim=16, **MOE),
    "GptOssForCausalLM": dict(COMMON, head_dim=16, num_local_experts=4, num_experts_per_tok=2),
}


def checkpoint(architecture: str, folder: Path, max_shard_size: str = "100kB", **changes: object) -> Path:
    """Writes a checkpoint with random bf16 weights, in several shards."""
    model_class = getattr(transformers, architecture)
    torch.manual_seed(11)
    config = model_class.config_class(**{**FAMILIES[architecture], **changes})
    model = model_class(config).to(torch.bfloat16)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def archive(folder: Path, to: Path, **options: object) -> Path:
    """Compresses a checkpoint; its config.json declares it as an archive."""
    netweight.compress(folder, to, **options)
    return to
