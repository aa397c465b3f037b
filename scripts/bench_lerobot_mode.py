"""LeRobot's side of a mode of bench_modes.py: which of a policy's parameters train, with PEFT's adapters where it has some."""
from __future__ import annotations

import tempfile
from pathlib import Path

LORA_A = ".lora_A.weight"


def saved_name(name: str) -> str:
    """A parameter's name in a checkpoint or in adapter_model.safetensors, without PEFT's prefix."""
    return (name.replace(".modules_to_save.default.", ".").replace(".lora_A.default.", ".lora_A.")
            .replace(".lora_B.default.", ".lora_B.").replace(".base_layer.", "."))


class Mode:
    """wanted: {"trained": [names as thaw plans them], "rank": r, "alpha": a}. Changes the policy in place."""

    def __init__(self, policy, wanted: dict) -> None:
        self.policy, self.expected = policy, set(wanted["trained"])
        self.linears = sorted(name.removesuffix(LORA_A) for name in self.expected if name.endswith(LORA_A))
        self.wrapped = self.adapted(wanted["rank"], wanted["alpha"]) if self.linears else None
        if self.wrapped is None:
            for name, parameter in policy.named_parameters():
                parameter.requires_grad_(name in self.expected)

    def adapted(self, rank: int, alpha: float):
        """PEFT's model around the policy. What trains at full rank are modules that PEFT copies and saves whole."""
        from peft import LoraConfig, get_peft_model

        full_rank = {name.rpartition(".")[0] for name in self.expected if ".lora_" not in name}
        return get_peft_model(self.policy, LoraConfig(r=rank, lora_alpha=alpha, target_modules=self.linears,
                                                      modules_to_save=sorted(full_rank) or None))

    def check(self, optimizer) -> dict:
        """Behind a step: AdamW keeps moments for what had a gradient, and for nothing else."""
        moved = {saved_name(name): p.numel() for name, p in self.policy.named_parameters() if p in optimizer.state}
        for what, names in (("does not train", self.expected - set(moved)), ("trains", set(moved) - self.expected)):
            if names:
                raise RuntimeError(f"LeRobot {what} {min(names)} (of such tensors: {len(names)}), unlike thaw")
        return {"trainable_parameters": sum(moved.values())}

    def saved_file(self) -> dict:
        """What saving writes of weights in this mode: the adapter, or the whole policy."""
        with tempfile.TemporaryDirectory(prefix="thaw-bench-") as folder:
            if self.wrapped is None:
                self.policy.save_pretrained(folder)
            else:
                self.wrapped.save_pretrained(folder, save_embedding_layers=False)
            file = next(Path(folder).glob("*.safetensors"))
            return {"file": file.name, "bytes": file.stat().st_size}
