#!/usr/bin/env python3
"""Actions of a merged thaw checkpoint: LeRobot's SmolVLAPolicy against `thaw sample`, same frames, same initial noise.

Run by scripts/check-lerobot. The dataset should hold PNG images: video decoders differ by a few levels, PNG decoders do not.
Exit code 1 when an action differs by more than the tolerance.
"""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch


def local_backbone(checkpoint: Path):
    """Backbone sizes and tokenizer come from the checkpoint's own files instead of the hub."""
    import lerobot.policies.smolvla.smolvlm_with_expert as backbone
    import lerobot.processor.tokenizer_processor as processor
    from transformers import PreTrainedTokenizerFast
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMConfig

    sizes = json.loads((checkpoint / "vlm_config.json").read_text())
    ids = SimpleNamespace(**{k: sizes[k] for k in ("fake_image_token_id", "global_image_token_id")})
    backbone.AutoConfig = SimpleNamespace(from_pretrained=lambda *a, **k: SmolVLMConfig.from_dict(sizes))
    backbone.AutoProcessor = SimpleNamespace(from_pretrained=lambda *a, **k: SimpleNamespace(tokenizer=ids))

    def tokenizer(folder):
        return PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), pad_token="<|im_end|>", padding_side="right"
        )

    return lambda folder: setattr(
        processor, "AutoTokenizer", SimpleNamespace(from_pretrained=lambda *a, **k: tokenizer(folder))
    )


def thaw_chunk(a, frame):
    command = [a.thaw, "sample", "--policy", a.checkpoint, "--tokenizer", a.tokenizer, "--dataset", a.dataset,
               "--index", str(frame), "--allow-missing-cameras", "--json"]
    return json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--thaw", required=True, type=Path)
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--tokenizer", required=True, type=Path)
    parser.add_argument("--dataset", required=True, type=Path)
    parser.add_argument("--frames", default="0,1")
    parser.add_argument("--tolerance", type=float, default=5e-5)
    a = parser.parse_args()

    use_tokenizer = local_backbone(a.checkpoint)
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    policy = SmolVLAPolicy.from_pretrained(a.checkpoint, strict=True).float().eval()
    use_tokenizer(a.tokenizer)
    pre, post = make_pre_post_processors(policy.config, pretrained_path=str(a.checkpoint))
    dataset = LeRobotDataset(repo_id="local/check", root=a.dataset)

    worst = 0.0
    for frame in (int(f) for f in a.frames.split(",")):
        mine = thaw_chunk(a, frame)
        raw = dataset[frame]
        batch = {k: v.unsqueeze(0) for k, v in raw.items() if isinstance(v, torch.Tensor) and k.startswith("observation")}
        batch["task"] = [raw["task"]]
        noise = torch.tensor(mine["noise"], dtype=torch.float32).unsqueeze(0)
        with torch.no_grad():
            actions = post(policy.predict_action_chunk(pre(batch), noise=noise)).squeeze(0)
        difference = (actions - torch.tensor(mine["predicted"], dtype=actions.dtype)).abs().max().item()
        scale = max(1.0, actions.abs().max().item())
        worst = max(worst, difference / scale)
        print(f"frame {frame:>4}: largest action difference {difference:.3g} (actions up to {scale:.3g})")
    print(f"worst, relative to the largest action: {worst:.3g}; allowed {a.tolerance:g}")
    sys.exit(0 if worst <= a.tolerance else 1)


if __name__ == "__main__":
    main()
