#!/usr/bin/env python3
"""Actions of a merged thaw checkpoint: LeRobot's own policy against `thaw sample`, same frames, same initial noise.

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


def smolvla_class(checkpoint: Path):
    """SmolVLAPolicy whose backbone sizes come from the checkpoint's own file instead of the hub."""
    import lerobot.policies.smolvla.smolvlm_with_expert as backbone
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMConfig

    sizes = json.loads((checkpoint / "vlm_config.json").read_text())
    ids = SimpleNamespace(**{k: sizes[k] for k in ("fake_image_token_id", "global_image_token_id")})
    backbone.AutoConfig = SimpleNamespace(from_pretrained=lambda *a, **k: SmolVLMConfig.from_dict(sizes))
    backbone.AutoProcessor = SimpleNamespace(from_pretrained=lambda *a, **k: SimpleNamespace(tokenizer=ids))
    return SmolVLAPolicy


def pi_class(model: str, checkpoint: Path):
    """PI0Policy or PI05Policy of the sizes in the checkpoint's own file."""
    if model == "pi0":
        import lerobot.policies.pi0.modeling_pi0 as module

        policy = module.PI0Policy
    else:
        import lerobot.policies.pi05.modeling_pi05 as module

        policy = module.PI05Policy
    sizes = json.loads((checkpoint / "vlm_config.json").read_text())
    paligemma, expert = module.PaliGemmaForConditionalGenerationWithPiGemma, module.PiGemmaForCausalLM

    def make_paligemma(config):
        config._vocab_size = config.image_token_index = config.text_config.vocab_size = sizes["vocab_size"]
        for key, value in sizes["vision"].items():
            setattr(config.vision_config, key, value)
        config.vision_config.projection_dim = sizes["paligemma"]["width"]
        return paligemma(config)

    def make_expert(config):
        config.vocab_size = sizes["vocab_size"]
        return expert(config)

    module.PaliGemmaForConditionalGenerationWithPiGemma = make_paligemma
    module.PiGemmaForCausalLM = make_expert
    module.get_gemma_config = lambda variant: module.GemmaConfig(
        **sizes["paligemma" if variant == "gemma_2b" else "expert"]
    )
    return policy


class Pieces:
    """SentencePiece with the call signature of a transformers tokenizer: BOS in front, zeros behind."""

    def __init__(self, file: Path):
        import sentencepiece

        self.model = sentencepiece.SentencePieceProcessor(model_file=str(file))

    def __call__(self, texts, max_length, **_):
        rows = [([2] + self.model.encode(text))[:max_length] for text in texts]
        ids = torch.zeros(len(rows), max_length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}


def use_tokenizer(folder: Path):
    """Processors find the tokenizer of `folder` whatever name they ask for."""
    import lerobot.processor.tokenizer_processor as processor
    from transformers import PreTrainedTokenizerFast

    def load(*_, **__):
        if (folder / "tokenizer.model").exists():
            return Pieces(folder / "tokenizer.model")
        return PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), pad_token="<|im_end|>", padding_side="right"
        )

    processor.AutoTokenizer = SimpleNamespace(from_pretrained=load)


def predict(model: str, policy, batch, noise):
    """LeRobot's chunk from this initial noise."""
    if model == "smolvla":
        return policy.predict_action_chunk(batch, noise=noise)
    policy.model.sample_noise = lambda shape, device: noise.clone()
    return policy.predict_action_chunk(batch)


def thaw_chunk(a, policy, frame):
    """What thaw samples for a frame; `policy` are the flags that name the policy."""
    command = [a.thaw, "sample", *policy, "--tokenizer", a.tokenizer, "--dataset", a.dataset,
               "--index", str(frame), "--allow-missing-cameras", "--json"]
    return json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout)


def noise_of(mine):
    """The initial noise that thaw drew, (1, T, A)."""
    return torch.tensor(mine["noise"], dtype=torch.float32).unsqueeze(0)


def frame_batch(raw):
    """A dataset's frame as the batch of one that LeRobot's preprocessor takes."""
    batch = {k: v.unsqueeze(0) for k, v in raw.items() if isinstance(v, torch.Tensor) and k.startswith("observation")}
    return dict(batch, task=[raw["task"]])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--thaw", required=True, type=Path)
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--tokenizer", required=True, type=Path)
    parser.add_argument("--dataset", required=True, type=Path)
    parser.add_argument("--frames", default="0,1")
    parser.add_argument("--tolerance", type=float, default=5e-5)
    a = parser.parse_args()

    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.policies.factory import make_pre_post_processors

    model = json.loads((a.checkpoint / "config.json").read_text())["type"]
    policy_class = smolvla_class(a.checkpoint) if model == "smolvla" else pi_class(model, a.checkpoint)
    policy = policy_class.from_pretrained(a.checkpoint, strict=True).float().eval()
    use_tokenizer(a.tokenizer)
    pre, post = make_pre_post_processors(policy.config, pretrained_path=str(a.checkpoint))
    dataset = LeRobotDataset(repo_id="local/check", root=a.dataset)

    worst = 0.0
    for frame in (int(f) for f in a.frames.split(",")):
        mine = thaw_chunk(a, ["--policy", a.checkpoint], frame)
        batch, noise = frame_batch(dataset[frame]), noise_of(mine)
        with torch.no_grad():
            actions = post(predict(model, policy, pre(batch), noise)).squeeze(0)
        difference = (actions - torch.tensor(mine["predicted"], dtype=actions.dtype)).abs().max().item()
        scale = max(1.0, actions.abs().max().item())
        worst = max(worst, difference / scale)
        print(f"frame {frame:>4}: largest action difference {difference:.3g} (actions up to {scale:.3g})")
    print(f"worst, relative to the largest action: {worst:.3g}; allowed {a.tolerance:g}")
    sys.exit(0 if worst <= a.tolerance else 1)


if __name__ == "__main__":
    main()
