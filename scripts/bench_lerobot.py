#!/usr/bin/env python3
"""LeRobot's side of scripts/bench-peers: one process that loads once and then answers commands, one a line.

  bench_lerobot.py policy --checkpoint DIR --inputs FILE.safetensors     commands: step, sample, mark, memory
                                                                         with --mode FILE.json also trained, saved
  bench_lerobot.py data --checkpoint DIR --dataset DIR                   commands: data, mark, memory

Every answer is one line of JSON on stdout; the first, unasked, says that loading is done. `thaw bench ... --interactive` speaks
the same way. What is timed is LeRobot's own code, called as its trainer (lerobot/scripts/lerobot_train.py) calls it.
"""
from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

from bench_lerobot_mode import Mode

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Sizes of the published SmolVLM2-500M-Video-Instruct, which LeRobot would read from the hub.
PUBLISHED_VLM = {
    "text_config": {
        "model_type": "llama", "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32,
        "num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64, "vocab_size": 49280, "pad_token_id": 2,
        "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "max_position_embeddings": 8192, "hidden_act": "silu",
        "attention_bias": False, "tie_word_embeddings": False,
    },
    "vision_config": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 512, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
    },
    "scale_factor": 4, "image_token_id": 49190, "pad_token_id": 2, "tie_word_embeddings": False,
}
PUBLISHED_IDS = {"fake_image_token_id": 49189, "global_image_token_id": 49152}


# --------------------------------------------------------------------------- memory
def status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


class Memory:
    """Peak resident memory since mark(), which comes behind loading, and above what the process had before it."""

    def __init__(self) -> None:
        self.baseline = status_kib("VmRSS")
        self.loading_peak = 0

    def mark(self) -> None:
        self.loading_peak = status_kib("VmHWM")
        try:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
        except OSError:
            pass  # then the peak includes loading

    def report(self) -> dict:
        peak = status_kib("VmHWM")
        return {
            "baseline_bytes": self.baseline * 1024, "loading_peak_bytes": self.loading_peak * 1024,
            "resident_bytes": status_kib("VmRSS") * 1024, "peak_bytes": peak * 1024,
            "peak_above_baseline_bytes": (peak - self.baseline) * 1024,
        }


# --------------------------------------------------------------------------- the policy
def backbone_without_network(checkpoint: Path) -> None:
    """The backbone's configuration from the checkpoint, or the published one, instead of from the hub."""
    import lerobot.policies.smolvla.smolvlm_with_expert as backbone
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMConfig

    file = checkpoint / "vlm_config.json"
    sizes = json.loads(file.read_text()) if file.exists() else {**PUBLISHED_VLM, **PUBLISHED_IDS}
    ids = SimpleNamespace(**{key: sizes[key] for key in PUBLISHED_IDS})
    backbone.AutoConfig = SimpleNamespace(from_pretrained=lambda *a, **k: SmolVLMConfig.from_dict(dict(sizes)))
    backbone.AutoProcessor = SimpleNamespace(from_pretrained=lambda *a, **k: SimpleNamespace(tokenizer=ids))


class PolicyBench:
    def __init__(self, a: argparse.Namespace) -> None:
        import torch
        from safetensors.torch import load_file

        backbone_without_network(a.checkpoint)
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

        self.torch = torch
        self.memory = Memory()
        config = PreTrainedConfig.from_pretrained(a.checkpoint)
        config.load_vlm_weights = False  # all weights are the checkpoint's; these would only be fetched to be replaced
        self.policy = SmolVLAPolicy.from_pretrained(a.checkpoint, config=config, strict=True).float()
        self.mode = Mode(self.policy, json.loads(a.mode.read_text())) if a.mode else None
        preset = config.get_optimizer_preset()
        self.clip = preset.grad_clip_norm
        self.optimizer = preset.build(self.policy.get_optim_params())
        self.scheduler = config.get_scheduler_preset().build(self.optimizer, a.steps)
        inputs = load_file(a.inputs)
        for key, value in inputs.items():
            if value.dtype == torch.uint8:
                inputs[key] = value.to(torch.float32) / 255.0  # the trainer does so before its processors
        self.draw = {"noise": inputs.pop("noise"), "time": inputs.pop("time")}
        self.sample_noise = inputs.pop("sample_noise")
        self.batch = {key: value for key, value in inputs.items() if key.startswith(("observation", "action"))}
        self.memory.mark()

    def facts(self) -> dict:
        trainable = sum(p.numel() for p in self.policy.parameters() if p.requires_grad)
        vision = self.policy.model.vlm_with_expert.get_vlm_model().vision_model
        return {
            "trainable_parameters": trainable, "parameters": sum(p.numel() for p in self.policy.parameters()),
            "vision_attention": vision.config._attn_implementation,
        }

    def step(self) -> dict:
        """lerobot_train.update_policy on one device, without mixed precision."""
        clock = time.perf_counter
        begin = clock()
        self.policy.train()
        loss, _ = self.policy.forward(dict(self.batch), **self.draw)
        forward = clock()
        loss.backward()
        backward = clock()
        norm = self.torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        end = clock()
        return {
            "total_ms": 1e3 * (end - begin), "forward_ms": 1e3 * (forward - begin), "backward_ms": 1e3 * (backward - forward),
            "update_ms": 1e3 * (end - backward), "loss": loss.item(), "grad_norm": norm.item(), **self.memory.report(),
        }

    def trained(self) -> dict:
        """Behind the first step: what the optimizer moved is what the mode trains."""
        return self.mode.check(self.optimizer)

    def saved(self) -> dict:
        return self.mode.saved_file()

    def sample(self) -> dict:
        """sample_actions for one sample, by way of predict_action_chunk."""
        one = {key: value[:1] for key, value in self.batch.items() if key.startswith("observation")}
        self.policy.eval()
        begin = time.perf_counter()
        chunk = self.policy.predict_action_chunk(one, noise=self.sample_noise)
        return {"total_ms": 1e3 * (time.perf_counter() - begin), "chunk_first": chunk[0, 0].tolist()}

    def close(self) -> None:
        pass


# --------------------------------------------------------------------------- data loading
class DataBench:
    PREFETCH = 4  # of LeRobot's trainer (TrainPipelineConfig.prefetch_factor), for each worker

    def __init__(self, a: argparse.Namespace) -> None:
        import torch
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.datasets.factory import resolve_delta_timestamps
        from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata
        from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig  # noqa: F401 (registers the type)

        self.memory = Memory()
        config = PreTrainedConfig.from_pretrained(a.checkpoint)
        meta = LeRobotDatasetMetadata("local/bench", root=a.dataset)
        dataset = LeRobotDataset("local/bench", root=a.dataset, return_uint8=True,
                                 delta_timestamps=resolve_delta_timestamps(config, meta))
        self.cameras = len(meta.camera_keys)
        self.workers, self.batch_size, self.batches = a.workers, a.batch_size, a.batches
        samples = a.batch_size * 100_000  # one endless epoch: an iterator that begins anew would lose what it read ahead
        sampler = torch.utils.data.RandomSampler(dataset, num_samples=samples, generator=torch.Generator().manual_seed(a.seed))
        self.loader = torch.utils.data.DataLoader(
            dataset, batch_size=a.batch_size, sampler=sampler, num_workers=a.workers, prefetch_factor=self.PREFETCH,
            persistent_workers=True, multiprocessing_context="spawn")
        self.iterator = iter(self.loader)
        self.data()
        self.memory.mark()

    def facts(self) -> dict:
        return {"cameras": self.cameras, "workers": self.workers, "batch_size": self.batch_size}

    def data(self) -> dict:
        """Batches as fast as they come, behind those that were read ahead while nobody asked."""
        for _ in range(self.workers * self.PREFETCH):
            batch = next(self.iterator)
        begin = time.perf_counter()
        for _ in range(self.batches):
            batch = next(self.iterator)
        seconds = time.perf_counter() - begin
        time.sleep(1.5 * self.workers * self.PREFETCH * seconds / self.batches)  # until the workers rest again
        images = [value for key, value in batch.items() if key.startswith("observation.images.") and not key.endswith("_is_pad")]
        frames = self.batches * self.batch_size * len(images)
        return {"seconds": seconds, "frames": frames, "frames_per_s": frames / seconds, "image_dtype": str(images[0].dtype),
                "image_shape": list(images[0].shape), "action_shape": list(batch["action"].shape), **self.memory.report()}

    def close(self) -> None:
        self.iterator._shutdown_workers()


def versions() -> dict:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for package in ("lerobot", "torch", "transformers", "accelerate", "torchcodec", "peft"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["policy", "data"])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--inputs", type=Path, help="what thaw bench step --write-inputs wrote")
    parser.add_argument("--mode", type=Path, help="what trains, as bench_modes.py writes it; else what config.json says")
    parser.add_argument("--steps", type=int, default=100_000, help="length of the run that the schedule is made for")
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=20, help="timed batches of one round")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1000)
    a = parser.parse_args()

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # LeRobot and transformers print as they load

    def answer(line: dict) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    import torch

    torch.set_num_threads(a.threads)
    begin = time.perf_counter()
    bench = PolicyBench(a) if a.what == "policy" else DataBench(a)
    answer({"ready": True, "seconds": time.perf_counter() - begin, "threads": torch.get_num_threads(),
            "versions": versions(), **bench.facts(), **bench.memory.report()})
    def mark() -> dict:
        bench.memory.mark()
        return bench.memory.report()

    commands = {"memory": bench.memory.report, "mark": mark}
    commands.update({name: getattr(bench, name) for name in ("step", "sample", "trained", "saved", "data") if hasattr(bench, name)})
    for line in sys.stdin:
        word = line.strip()
        if word not in commands:
            answer({"error": f"unknown command '{word}'; known: {', '.join(sorted(commands))}"})
            continue
        try:
            answer(commands[word]())
        except Exception as error:  # the driver keeps what it has
            traceback.print_exc()
            answer({"error": f"{type(error).__name__}: {error}"})
            sys.exit(1)
    bench.close()


if __name__ == "__main__":
    main()
