#!/usr/bin/env python3
"""Golden data for LoRA, rsLoRA and DoRA: what PEFT computes on one linear layer and on the tiny policies beside this file.

    python generate_lora.py --out DIR [--threads N] [--compare OTHER]

Writes DIR/linear, DIR/smolvla, DIR/pi0, DIR/pi05 and DIR/meta.json; see lora/README.md for the list of keys. The bases are
smolvla_tiny/, pi0_tiny/ and pi05_tiny/ of generate.py: their weights and inputs are read, not copied. float32 on CPU (but for the
cases with a bfloat16 weight), deterministic, one thread unless asked otherwise: running it again on the same machine
gives the same bytes. --compare prints how far OTHER, another run's output, is from what was written; with --threads 2
or ATEN_CPU_CAPABILITY=default in the environment that is the rounding noise of the reference.

Needs what generate.py needs, and peft==0.21.2 (pip install --no-deps is enough).
"""
import argparse
import json
import math
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import generate

HERE = Path(__file__).resolve().parent
PREFIX = "base_model.model."  # of every name in a file that PEFT writes

# --------------------------------------------------------------------------- one linear layer
IN, OUT, RANK, ALPHA = 12, 20, 4, 5
VARIANTS = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


def linear_cases():
    """Name of the case -> (variant, has a bias, dtype of the base)."""
    for variant in VARIANTS:
        yield variant, (variant, False, torch.float32)
        yield variant + "_bias", (variant, True, torch.float32)
        yield variant + "_bf16", (variant, True, torch.bfloat16)


def run_linear(variant, has_bias, dtype, seed):
    """PEFT's forward, backward and merge of one layer. Every tensor by the name it has in the file."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    base = nn.Sequential()
    base.add_module("layer", nn.Linear(IN, OUT, bias=has_bias).to(dtype))
    kept = {"weight": generate.flat(base.layer.weight)}
    if has_bias:
        kept["bias"] = generate.flat(base.layer.bias)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["layer"], **VARIANTS[variant])
    model = get_peft_model(base, config)  # casts adapters to float32, whatever the base is
    layer = model.base_model.model.layer
    parts = {"lora_A": layer.lora_A["default"].weight, "lora_B": layer.lora_B["default"].weight}
    if variant == "dora":
        parts["magnitude"] = layer.lora_magnitude_vector["default"].weight
        kept["fresh.magnitude"] = generate.flat(parts["magnitude"])
    perturb(parts, seed)
    kept.update({name: generate.flat(p) for name, p in parts.items()})
    kept["scale"] = torch.tensor(layer.scaling["default"], dtype=torch.float64)

    kept["x"] = torch.randn(3, 5, IN).to(dtype)
    kept["target"] = torch.randn(3, 5, OUT)
    x = kept["x"].clone().requires_grad_(True)
    output = model(x)
    loss = (output.float() * kept["target"]).mean()
    loss.backward()
    kept.update({"output": generate.flat(output), "loss": generate.flat(loss), "grad.x": generate.flat(x.grad)})
    kept.update({f"grad.{name}": generate.flat(p.grad) for name, p in parts.items()})
    kept["merged.weight"] = generate.flat(model.merge_and_unload().layer.weight)
    return kept


def closed_form(case):
    """The README's formulas in float64 on the tensors of a case: what PEFT rounds."""
    leaf = {n: case[n].double().requires_grad_(True) for n in ("x", "lora_A", "lora_B", "magnitude") if n in case}
    weight, scale = case["weight"].double(), case["scale"].item()
    delta = scale * leaf["lora_B"] @ leaf["lora_A"]
    base = leaf["x"] @ weight.T
    update = leaf["x"] @ leaf["lora_A"].T @ leaf["lora_B"].T * scale
    merged = weight + delta
    if "magnitude" in leaf:
        factor = leaf["magnitude"] / merged.norm(dim=1).detach()
        output, merged = factor * (base + update), factor[:, None] * merged
    else:
        output = base + update
    if "bias" in case:
        output = output + case["bias"].double()
    loss = (output * case["target"].double()).mean()
    loss.backward()
    exact = {"output": output, "loss": loss, "merged.weight": merged}
    exact.update({f"grad.{name}": tensor.grad for name, tensor in leaf.items()})
    return {name: tensor.detach() for name, tensor in exact.items()}


# --------------------------------------------------------------------------- policies
def smolvla(stack, block, linear):
    layers = {"language": "vlm.model.text_model.layers", "expert": "lm_expert.layers",
              "vision": "vlm.model.vision_model.encoder.layers"}[stack]
    return f"model.vlm_with_expert.{layers}.{block}.{linear}"


def pi(stack, block, linear):
    layers = {"language": "paligemma.model.language_model.layers", "expert": "gemma_expert.model.layers",
              "vision": "paligemma.model.vision_tower.vision_model.encoder.layers"}[stack]
    return f"model.paligemma_with_expert.{layers}.{block}.{linear}"


# Linear layer -> (rank, alpha), in the order of the model. Of language block 3, the last, the loss reads keys and values alone.
SMOLVLA_LINEARS = {
    smolvla("language", 0, "self_attn.q_proj"): (4, 6),
    smolvla("language", 0, "self_attn.v_proj"): (4, 6),
    smolvla("language", 1, "self_attn.o_proj"): (2, 6),
    smolvla("language", 1, "mlp.down_proj"): (8, 5),
    smolvla("language", 2, "mlp.gate_proj"): (4, 6),
    smolvla("language", 3, "self_attn.k_proj"): (4, 3),
    smolvla("expert", 0, "self_attn.q_proj"): (4, 6),
    smolvla("expert", 0, "mlp.up_proj"): (2, 6),
    smolvla("expert", 1, "self_attn.k_proj"): (8, 5),
    smolvla("expert", 1, "self_attn.v_proj"): (4, 6),
    smolvla("expert", 3, "self_attn.o_proj"): (2, 3),
    smolvla("expert", 3, "mlp.down_proj"): (4, 6),
}
NOT_IN_THE_LAST_BLOCK = {n: v for n, v in SMOLVLA_LINEARS.items() if not n.startswith(smolvla("expert", 3, ""))}
WITH_A_BIAS = {
    smolvla("vision", 0, "self_attn.q_proj"): (4, 6),
    smolvla("vision", 1, "mlp.fc1"): (2, 6),
    "model.vlm_with_expert.vlm.model.connector.modality_projection.proj": (4, 6),  # without one, and in no block
    "model.state_proj": (4, 6),
    "model.action_time_mlp_in": (4, 6),
}
PI0_LINEARS = {
    pi("language", 0, "self_attn.q_proj"): (4, 6),
    pi("language", 1, "mlp.down_proj"): (8, 5),
    pi("language", 3, "self_attn.v_proj"): (4, 6),
    pi("expert", 0, "self_attn.q_proj"): (2, 6),
    pi("expert", 0, "self_attn.k_proj"): (4, 6),
    pi("expert", 3, "self_attn.o_proj"): (4, 3),
    pi("expert", 3, "mlp.gate_proj"): (4, 6),
}
PI_VISION = {
    pi("vision", 0, "self_attn.out_proj"): (4, 6),
    pi("vision", 1, "mlp.fc2"): (2, 6),
    "model.paligemma_with_expert.paligemma.model.multi_modal_projector.linear": (4, 6),
}
PI0_WITH_A_BIAS = PI_VISION | {"model.state_proj": (4, 6), "model.action_time_mlp_out": (4, 6)}
PI05_WITH_A_BIAS = PI_VISION | {
    pi("expert", 0, "input_layernorm.dense"): (4, 6),
    pi("expert", 3, "post_attention_layernorm.dense"): (2, 6),
    "model.paligemma_with_expert.gemma_expert.model.norm.dense": (4, 6),
    "model.time_mlp_in": (4, 6),
}

# Folder -> model, linears (None: LeRobot's own choice), options of LoraConfig.
SETS = {
    "smolvla/lora": ("smolvla", SMOLVLA_LINEARS, {}),
    "smolvla/rslora": ("smolvla", SMOLVLA_LINEARS, {"use_rslora": True}),
    "smolvla/dora": ("smolvla", SMOLVLA_LINEARS, {"use_dora": True}),
    "smolvla/dora_bias": ("smolvla", WITH_A_BIAS, {"use_dora": True}),
    "smolvla/full_linear": ("smolvla", SMOLVLA_LINEARS, {"modules_to_save": ["model.action_out_proj"]}),
    "smolvla/full_block": (
        "smolvla", NOT_IN_THE_LAST_BLOCK, {"modules_to_save": [smolvla("expert", 3, "")[:-1]]}),
    "smolvla/lerobot": ("smolvla", None, {"r": 4, "lora_alpha": 8}),
    "pi0/lora": ("pi0", PI0_LINEARS, {}),
    "pi0/dora_bias": ("pi0", PI0_WITH_A_BIAS, {"use_dora": True}),
    "pi05/dora_bias": ("pi05", PI05_WITH_A_BIAS, {"use_dora": True}),
}


def load_base(model):
    """The policy of MODEL_tiny with the weights and the inputs recorded there."""
    folder = HERE / f"{model}_tiny"
    c = generate.CONFIGS[model]["tiny"]
    policy = generate.build(model, c, "default")
    policy.load_state_dict(load_file(folder / "weights.safetensors"))
    policy.name_or_path = f"tests/golden/{model}_tiny"  # what adapter_config.json names as the base
    return policy, load_file(folder / "inputs.safetensors"), c


def lora_config(linears, options):
    from peft import LoraConfig

    rank, alpha = 4, 6
    return LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(linears),
        rank_pattern={n: r for n, (r, _) in linears.items() if r != rank},
        alpha_pattern={n: a for n, (_, a) in linears.items() if a != alpha}, **options)


def wrap(policy, linears, options):
    """PEFT's model around the policy, as LeRobot makes it. `policy` is changed in place."""
    from peft import get_peft_model

    if linears is not None:
        return get_peft_model(policy, lora_config(linears, options))
    policy.config.pretrained_path = Path(policy.name_or_path)
    return policy.wrap_with_peft(peft_cli_overrides=dict(options, method_type="LORA"))


@torch.no_grad()
def perturb(parameters, seed):
    """Values that matter for all that PEFT starts at zero or at the base's value."""
    g = torch.Generator().manual_seed(9_000_011 * (seed + 1))
    for name, p in parameters.items():
        r = torch.randn(p.shape, generator=g)
        if "lora_B" in name:
            p.copy_(0.2 * r)
        elif "magnitude" in name:
            p.mul_(1 + 0.1 * r)
        elif "lora_A" not in name:  # a module trained at full rank
            p.add_(0.05 * r)


def saved_name(name):
    """A parameter's name in adapter_model.safetensors, without its prefix."""
    name = name.replace(".modules_to_save.default.", ".").replace(".lora_magnitude_vector.default.weight",
                                                                  ".lora_magnitude_vector")
    return name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")


def trained(policy):
    return {saved_name(n): p for n, p in policy.named_parameters() if p.requires_grad}


def save_adapter(wrapped, folder, with_policy_config):
    for config in wrapped.peft_config.values():
        if isinstance(config.target_modules, set):
            config.target_modules = sorted(config.target_modules)  # PEFT writes a set in the order of its hashes
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()  # a model card
    if with_policy_config:
        wrapped.get_base_model().config.save_pretrained(folder)  # as LeRobot does beside it
    names = {n.removeprefix(PREFIX) for n in load_file(folder / "adapter_model.safetensors")}
    assert names == set(trained(wrapped.get_base_model())), "PEFT saves something else than it trains"


def sampled(model, policy, inputs):
    batch = generate.batch_of(inputs)
    for name in ("action", "action_is_pad"):
        batch.pop(name)
    with torch.no_grad():
        return generate.flat(policy.predict_action_chunk(batch, noise=inputs["sample.noise"].clone()))


def run_set(name, seed, out):
    """Adapter, forward and trajectory of one entry of SETS, written into its folder. Returns what meta.json says of it."""
    from peft import PeftModel

    model, linears, options = SETS[name]
    folder = out / name
    torch.manual_seed(seed)
    policy, inputs, c = load_base(model)
    wrapped = wrap(policy, linears, options)
    perturb(trained(policy), seed)
    save_adapter(wrapped, folder / "adapter", with_policy_config=linears is None)

    policy.train()
    loss, _ = generate.run_forward(model, policy, inputs)
    loss.backward()
    parameters = trained(policy)
    without = [n for n, p in parameters.items() if p.grad is None]
    assert not without, f"nothing that the loss reads: {without}"
    kept = {"loss": generate.flat(loss), "actions": sampled(model, policy, inputs)}
    kept.update({f"grad/{n}": generate.flat(p.grad) for n, p in parameters.items()})
    scales = {n: m.scaling["default"] for n, m in policy.named_modules() if hasattr(m, "scaling") and hasattr(m, "lora_A")}
    merged = wrapped.merge_and_unload()
    with torch.no_grad():
        kept["merged.loss"] = generate.flat(generate.run_forward(model, merged, inputs)[0])
    kept["merged.actions"] = sampled(model, merged, inputs)
    save_file(kept, folder / "forward.safetensors")

    policy, inputs, c = load_base(model)
    PeftModel.from_pretrained(policy, folder / "adapter", is_trainable=True)
    steps, optimizer = generate.trajectory(model, policy, inputs, c)
    steps.update({f"final/{n}": generate.flat(p) for n, p in trained(policy).items()})
    save_file(steps, folder / "trajectory.safetensors")
    schedule = policy.config.get_scheduler_preset()
    return {
        "base": f"{model}_tiny", "trainable_parameters": sum(p.numel() for p in parameters.values()), "scales": scales,
        "loss": kept["loss"].item(), "gradient_norm": math.sqrt(sum(p.grad.double().pow(2).sum().item() for p in parameters.values())),
        "optimizer": {"type": "adamw", "lr": optimizer.lr, "betas": list(optimizer.betas), "eps": optimizer.eps,
                      "weight_decay": optimizer.weight_decay, "grad_clip_norm": optimizer.grad_clip_norm},
        "scheduler": {"num_warmup_steps": schedule.num_warmup_steps, "num_decay_steps": schedule.num_decay_steps,
                      "peak_lr": schedule.peak_lr, "decay_lr": schedule.decay_lr, "num_training_steps": c["train_steps_total"]},
    }


# --------------------------------------------------------------------------- comparing
def difference(a, b):
    """Largest difference, as a part of the largest value."""
    return ((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-30)).item()


def quantity(file, key):
    """What a tensor is, for one line of a report."""
    return f"{file.with_suffix('')}: {'adapter' if key.startswith(PREFIX) else key.split('/')[0]}"


def compare(mine, other):
    worst = {}
    for path in sorted(mine.rglob("*.safetensors")):
        file = path.relative_to(mine)
        theirs = load_file(other / file)
        for key, tensor in load_file(path).items():
            what = quantity(file, key)
            worst[what] = max(worst.get(what, 0.0), difference(theirs[key], tensor))
    for what, value in worst.items():
        if value:
            print(f"{value:9.2e}  {what}")
    print(f"{max(worst.values()):9.2e}  largest of {len(worst)} quantities")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--out", required=True, type=Path)
    ap.add_argument("--compare", type=Path)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)

    import lerobot
    import peft
    import transformers

    (args.out / "linear").mkdir(parents=True, exist_ok=True)
    for i, (name, case) in enumerate(linear_cases()):
        kept = run_linear(*case, seed=args.seed + i)
        save_file(kept, args.out / "linear" / f"{name}.safetensors")
        rounded = {key: difference(kept[key], value) for key, value in closed_form(kept).items()}
        print(f"linear/{name}: largest difference from float64 {max(rounded.values()):.2e} ({max(rounded, key=rounded.get)})")
    meta = {
        "seed": args.seed, "linear": {"in": IN, "out": OUT, "rank": RANK, "alpha": ALPHA},
        "versions": {"peft": peft.__version__, "lerobot": lerobot.__version__, "torch": torch.__version__,
                     "transformers": transformers.__version__},
        "sets": {name: run_set(name, args.seed + i, args.out) for i, name in enumerate(SETS)},
    }
    (args.out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(f"{sum(f.stat().st_size for f in args.out.rglob('*') if f.is_file())} bytes in {args.out}")
    if args.compare:
        compare(args.out, args.compare)


if __name__ == "__main__":
    main()
