#!/usr/bin/env python3
"""Actions of a low-rank adapter: LeRobot's policy with the adapter in PEFT's hands against thaw, same frames, same initial noise.

Run by scripts/check-peft. The adapter folder (adapter_config.json, adapter_model.safetensors) is loaded by
peft.PeftModel.from_pretrained on the base; a tensor that PEFT misses or does not know is an error here, where PEFT would warn or say
nothing. The policy configuration and the processors that lie in it, as LeRobot keeps them, are used. thaw's actions come from
`thaw sample --json`, as in check_lerobot.py:

    check_peft.py --base FOLDER --adapter FOLDER --thaw BINARY --head RUN --tokenizer FOLDER --dataset FOLDER [--frames 0,1]

or from files, without a dataset: --inputs holds a preprocessed batch (observation.*) and its initial noise (sample.noise),
--actions the chunk that was sampled from it, before the postprocessor (actions, (B, T, D)):

    check_peft.py --base FOLDER --adapter FOLDER --inputs FILE.safetensors --actions FILE.safetensors

Exit code 1 when an action differs by more than the tolerance, or when the adapter changes no action, so that nothing was checked.
"""
import argparse
import json
import sys
from pathlib import Path

import check_lerobot as lerobot_side
import torch
from safetensors.torch import load_file


def load_base(folder: Path, adapter: Path):
    """LeRobot's policy in float32, with the configuration that lies beside the adapter, and its type."""
    from lerobot.configs import PreTrainedConfig

    model = json.loads((folder / "config.json").read_text())["type"]
    policy = lerobot_side.smolvla_class(folder) if model == "smolvla" else lerobot_side.pi_class(model, folder)
    config = PreTrainedConfig.from_pretrained(adapter) if (adapter / "config.json").exists() else None
    if config is not None and not config.use_peft:
        sys.exit(f"{adapter}/config.json: use_peft is false, LeRobot would look for a whole model beside it")
    return model, policy.from_pretrained(folder, config=config, strict=True).float().eval()


def load_adapter(policy, folder: Path):
    """PEFT's model around the policy, which now computes with the adapter. Exits when names differ."""
    from peft import PeftModel, get_peft_model_state_dict

    found = set(load_file(folder / "adapter_model.safetensors"))
    try:
        wrapped = PeftModel.from_pretrained(policy, folder)
    except KeyError as missing:  # a module of modules_to_save that is not whole
        sys.exit(f"{folder}: PEFT misses {missing}")
    expected = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    for what, names in (("misses", expected - found), ("does not know", found - expected)):
        if names:
            sys.exit(f"{folder}: PEFT {what} {min(names)} (of such tensors: {len(names)})")
    config = wrapped.peft_config["default"]
    print(f"PEFT loads {len(found)} tensors (r {config.r}, DoRA {config.use_dora}, rsLoRA {config.use_rslora}, "
          f"at full rank: {config.modules_to_save or 'nothing'})")
    return wrapped


class Worst:
    """The largest difference from thaw, and from the base without its adapter, relative to the largest action."""

    def __init__(self):
        self.thaw = self.base = 0.0

    def see(self, what, actions, mine, without):
        scale = max(1.0, actions.abs().max().item())
        apart = (actions - mine.to(actions.dtype)).abs().max().item()
        self.thaw = max(self.thaw, apart / scale)
        self.base = max(self.base, (actions - without).abs().max().item() / scale)
        print(f"{what}: largest action difference {apart:.3g} (actions up to {scale:.3g})")


def chunks(model, wrapped, batch, noise):
    """Normalised chunks (B, T, D) with the adapter and without it."""
    policy = wrapped.get_base_model()
    with torch.no_grad():
        adapted = lerobot_side.predict(model, policy, batch, noise)
        with wrapped.disable_adapter():
            return adapted, lerobot_side.predict(model, policy, batch, noise)


def check_files(a, model, wrapped, worst):
    inputs = load_file(a.inputs)
    batch = {name: tensor for name, tensor in inputs.items() if name.startswith("observation.")}
    actions, without = chunks(model, wrapped, batch, inputs["sample.noise"])
    worst.see(a.inputs.name, actions, load_file(a.actions)["actions"], without)


def check_frames(a, model, wrapped, worst):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.policies.factory import make_pre_post_processors

    lerobot_side.use_tokenizer(a.tokenizer)
    processors = a.adapter if (a.adapter / "policy_preprocessor.json").exists() else a.base
    pre, post = make_pre_post_processors(wrapped.get_base_model().config, pretrained_path=str(processors))
    dataset = LeRobotDataset(repo_id="local/check", root=a.dataset)
    for frame in (int(f) for f in a.frames.split(",")):
        mine = lerobot_side.thaw_chunk(a, ["--policy", a.base, "--head", a.head], frame)
        batch, noise = lerobot_side.frame_batch(dataset[frame]), lerobot_side.noise_of(mine)
        actions, without = (post(chunk).squeeze(0) for chunk in chunks(model, wrapped, pre(batch), noise))
        worst.see(f"frame {frame:>4}", actions, torch.tensor(mine["predicted"]), without)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--adapter", required=True, type=Path)
    parser.add_argument("--inputs", type=Path)
    parser.add_argument("--actions", type=Path)
    parser.add_argument("--thaw", type=Path)
    parser.add_argument("--head", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--frames", default="0,1")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    a = parser.parse_args()
    files, frames = (a.inputs, a.actions), (a.thaw, a.head, a.tokenizer, a.dataset)
    if not (all(files) and not any(frames)) and not (all(frames) and not any(files)):
        parser.error("give --inputs and --actions, or --thaw, --head, --tokenizer and --dataset")
    return a


def main():
    a = parse()
    model, policy = load_base(a.base, a.adapter)
    wrapped = load_adapter(policy, a.adapter)
    worst = Worst()
    (check_files if a.inputs else check_frames)(a, model, wrapped, worst)
    print(f"worst, relative to the largest action: {worst.thaw:.3g}; allowed {a.tolerance:g}")
    print(f"the adapter moves actions by {worst.base:.3g}")
    sys.exit(0 if worst.thaw <= a.tolerance < worst.base else 1)


if __name__ == "__main__":
    main()
