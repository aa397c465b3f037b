"""The part "modes" of bench_peers.py: what a step costs by what trains — all, last blocks, the expert, low-rank adapters.

One SmolVLA of a size between the tiny and the published one, random weights. For every mode three processes take turns: thaw,
thaw with the deepest cache that the mode allows (filled beforehand), and LeRobot, which trains the same tensors by name: frozen
with requires_grad, with PEFT's adapters where the mode has some.
"""
from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from bench_lerobot import PUBLISHED_IDS, PUBLISHED_VLM
from bench_turns import ChildFailed, say, take_turns, warm_up

IMAGE, CAMERAS, BATCH = 256, ("front", "wrist"), 4  # the cameras of bench_dataset.py
RANK = ALPHA = 16
WIDTHS = {"vision": 384, "language": 480, "expert": 360}
BLOCKS = {"vision": 6, "language": 8, "expert": 8}
VOCABULARY = 4096

VLM_CONFIG = {
    **PUBLISHED_VLM, **PUBLISHED_IDS,
    "text_config": {
        **PUBLISHED_VLM["text_config"], "hidden_size": WIDTHS["language"], "intermediate_size": 1280,
        "num_hidden_layers": BLOCKS["language"], "head_dim": 32, "vocab_size": VOCABULARY,
    },
    "vision_config": {
        **PUBLISHED_VLM["vision_config"], "hidden_size": WIDTHS["vision"], "intermediate_size": 1536,
        "num_hidden_layers": BLOCKS["vision"], "num_attention_heads": 6, "image_size": IMAGE,
    },
    "image_token_id": VOCABULARY - 1, "fake_image_token_id": VOCABULARY - 2, "global_image_token_id": VOCABULARY - 3,
}

CONFIG = {
    "type": "smolvla", "device": "cpu", "push_to_hub": False, "load_vlm_weights": False,
    "input_features": {
        **{f"observation.images.{camera}": {"type": "VISUAL", "shape": [3, IMAGE, IMAGE]} for camera in CAMERAS},
        "observation.state": {"type": "STATE", "shape": [6]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [6]}},
    "resize_imgs_with_padding": [IMAGE, IMAGE], "chunk_size": 50, "n_action_steps": 50,
    "pad_language_to": "max_length", "tokenizer_max_length": 48,
    "num_vlm_layers": BLOCKS["language"], "num_expert_layers": 0, "self_attn_every_n_layers": 2,
    "expert_width_multiplier": WIDTHS["expert"] / WIDTHS["language"],
}

SETTING = {
    "policy": "SmolVLA, random weights, " + ", ".join(f"{BLOCKS[s]} {s} blocks of width {WIDTHS[s]}" for s in BLOCKS),
    "cameras": f"{len(CAMERAS)} of {IMAGE}x{IMAGE}", "precision": "fp32", "batch_size": BATCH, "language_tokens": 48,
    "action_chunk": 50, "adapters": f"LoRA, rank {RANK}, alpha {ALPHA}, on every linear layer of the blocks that can learn",
}


class Mode(NamedTuple):
    name: str
    words: str
    freeze: str = ""
    lora: str = ""

    def flags(self) -> list:
        """Of thaw's commands."""
        lora = f"{self.lora},rank={RANK},alpha={ALPHA}" if self.lora else ""
        return [word for flag, value in (("--freeze", self.freeze), ("--lora", lora)) if value for word in (flag, value)]


MODES = [
    Mode("full", "full: all that can learn", "train:*"),
    *[Mode(f"last_{n}", f"last {n} of all stacks", f"freeze:*,*={n}") for n in (1, 2, 4)],
    Mode("expert", "expert only (LeRobot's default)"),
    Mode("last_2_behind_vision", "last 2 of language and expert", "freeze:*,language=2,expert=2"),
    Mode("lora", "LoRA r16 on all blocks", lora="*=all"),
    Mode("lora_last_1", "LoRA r16, last 1 of all stacks at full rank", "*=1", lora="*=all"),
    Mode("lora_expert", "LoRA r16 on the expert", lora="expert=all"),
]


class ModesBench:
    """Runs the modes by way of `bench` (bench_peers.Bench), whose work folder holds what they need."""

    def __init__(self, bench, tokenizer: Path):
        self.bench, self.tokenizer = bench, tokenizer
        self.work = bench.work / "modes"
        self.work.mkdir(exist_ok=True)

    # --- inputs
    def frames(self) -> Path:
        return self.bench.dataset("frames_256", "--size", IMAGE, "--codec", "png", "--episodes", 1, "--frames", BATCH)

    def checkpoint(self) -> Path:
        folder = self.work / "checkpoint"
        if not folder.exists():
            say("writing a checkpoint of the size of the modes")
            sizes = self.work / "sizes"
            sizes.mkdir(exist_ok=True)
            (sizes / "config.json").write_text(json.dumps(CONFIG, indent=2))
            (sizes / "vlm_config.json").write_text(json.dumps(VLM_CONFIG, indent=2))
            self.thaw("init", "--config", sizes, "--dataset", self.frames(), "--tokenizer", self.tokenizer, "--output", folder)
        return folder

    def thaw(self, *words) -> str:
        return self.bench.run([self.bench.thaw, *words])

    def data(self) -> list:
        return ["--policy", self.checkpoint(), "--dataset", self.frames(), "--batch-size", BATCH, "--precision", "fp32"]

    def plan(self, mode: Mode) -> dict:
        """Names that train, how many elements, and the deepest cut."""
        plan = json.loads(self.thaw("plan", "--policy", self.checkpoint(), *mode.flags(), "--calibrate", 0, "--json"))
        trained = [p for p in plan["parameters"] if p["class"] == "trainable"]
        return {"trained": [p["name"] for p in trained], "trainable_parameters": sum(elements(p["shape"]) for p in trained),
                "cut": plan["forecasts"][-1]["cut"]["kind"], "boundary": plan["line"][plan["boundary"]["stage"]]["name"]}

    def head_bytes(self, mode: Mode) -> int:
        """Of the head that a run of one step leaves."""
        run = self.work / "run"
        shutil.rmtree(run, ignore_errors=True)
        self.thaw("train", *self.data(), *mode.flags(), "--steps", 1, "--output", run, "--no-tensorboard", "--quiet")
        return (run / "heads/last/head.safetensors").stat().st_size

    # --- processes
    def thaw_child(self, mode: Mode, cut: str, *flags):
        if cut != "none":
            flags = (*flags, "--cache", cut, "--cache-dir", self.work / f"cache_{mode.name}")
            self.thaw("cache", *self.data(), *mode.flags(), *flags)
        return self.bench.thaw_child(f"thaw_{mode.name}_{cut}", "step", *self.data(), *mode.flags(), *flags)

    def lerobot_child(self, mode: Mode, trained: list):
        file = self.work / f"{mode.name}.json"
        file.write_text(json.dumps({"trained": trained, "rank": RANK, "alpha": ALPHA}))
        return self.bench.lerobot_child(f"lerobot_{mode.name}", "policy", "--inputs", self.inputs(), "--mode", file,
                                        checkpoint=self.checkpoint())

    def inputs(self) -> Path:
        """The first batch and draw, which no mode changes."""
        return self.work / "inputs.safetensors"

    # --- measuring
    def mode(self, mode: Mode, rounds: int) -> dict:
        plan = self.plan(mode)
        with ExitStack() as stack:
            sides = {"thaw": stack.enter_context(self.thaw_child(mode, "none", "--write-inputs", self.inputs()))}
            if plan["cut"] != "none":
                sides["thaw_cached"] = stack.enter_context(self.thaw_child(mode, plan["cut"]))
            peer = sides["lerobot"] = stack.enter_context(self.lerobot_child(mode, plan["trained"]))
            commands = {name: "step" if child is peer else "go" for name, child in sides.items()}
            losses = agree({name: child.ask(commands[name])["loss"] for name, child in sides.items()})
            trained = [facts["trainable_parameters"] for facts in (plan, sides["thaw"].facts, peer.ask("trained"))]
            if len(set(trained)) != 1:
                raise ChildFailed(f"{mode.name}: plan, thaw and LeRobot train {trained} elements")
            for name, child in sides.items():
                warm_up(child, commands[name])
            answers = take_turns([(name, child, commands[name]) for name, child in sides.items()], rounds)
            return {"words": mode.words, "freeze": mode.freeze, "lora": mode.lora, "cut": plan["cut"],
                    "boundary": plan["boundary"], "trainable_parameters": trained[0], "first_loss": losses,
                    "head_bytes": self.head_bytes(mode), "lerobot_saves": peer.ask("saved"),
                    "facts": {name: child.facts for name, child in sides.items()}, "rounds": answers}

    def measure(self, rounds: int) -> dict:
        modes = {}
        for mode in MODES:
            say(f"mode {mode.name}")
            modes[mode.name] = self.mode(mode, rounds)
        return {"setting": SETTING, "facts": {"lerobot": modes["full"]["facts"]["lerobot"]}, "modes": modes}


def elements(shape: list) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def agree(losses: dict) -> dict:
    """All sides compute the same first loss: a fresh adapter changes nothing."""
    worst = max(abs(loss / losses["lerobot"] - 1) for loss in losses.values())
    if not worst <= 1e-4:
        raise ChildFailed(f"the sides do not compute the same: first losses {losses}")
    return losses
