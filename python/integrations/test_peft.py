"""Adapters on packed weights: trained, merged and saved as on ordinary ones."""

import pytest
import torch
from test_transformers import IDS, logits, packed_names, raw_model
from transformers import AutoModelForCausalLM

peft = pytest.importorskip("peft")

TARGETS = ["q_proj", "v_proj", "down_proj"]


def with_lora(model, **options):
    torch.manual_seed(5)
    config = peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    return peft.get_peft_model(model, config)


def train(model, steps=3):
    """The losses, and the gradients of the last step."""
    model.train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses, [weight.grad.clone() for weight in trained]


def models(llama):
    return AutoModelForCausalLM.from_pretrained(llama[1]), raw_model(llama[0])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training(llama, checkpointing):
    packed, plain = (with_lora(model) for model in models(llama))
    base = {name: weight for name, weight in packed.named_parameters() if name in packed_names(packed)}
    before = {name: weight.packed_bytes.clone() for name, weight in base.items()}
    if checkpointing:
        for model in (packed, plain):
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable()
    (losses, grads), (wanted_losses, wanted_grads) = train(packed), train(plain)
    assert losses == wanted_losses and losses[-1] < losses[0]
    assert all(torch.equal(a, b) for a, b in zip(grads, wanted_grads, strict=True))
    assert len(before) == 16 and all(torch.equal(weight.packed_bytes, before[name]) for name, weight in base.items())
    assert torch.equal(logits(packed), logits(plain))


def test_adapters_are_saved_alone(llama, tmp_path):
    packed, _ = models(llama)
    tuned = with_lora(packed)
    train(tuned)
    tuned.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 100_000
    again = peft.PeftModel.from_pretrained(models(llama)[0], tmp_path)
    assert torch.equal(logits(again), logits(tuned))


def test_merging(llama):
    """The base is packed anew with the adapter inside, and is restored when that is taken out."""
    merged, wanted = (with_lora(model).merge_and_unload() for model in models(llama))
    assert len(packed_names(merged)) == 16 and torch.equal(logits(merged), logits(wanted))


def test_adapters_on_all_layers_of_experts(tmp_path):
    from archives import archive, checkpoint

    raw = checkpoint("MixtralForCausalLM", tmp_path / "raw")
    packed = with_lora(AutoModelForCausalLM.from_pretrained(archive(raw, tmp_path / "nw")))
    plain = with_lora(raw_model(raw, "MixtralForCausalLM"))
    (losses, grads), (wanted_losses, wanted_grads) = train(packed), train(plain)
    assert losses == wanted_losses and all(torch.equal(a, b) for a, b in zip(grads, wanted_grads, strict=True))
