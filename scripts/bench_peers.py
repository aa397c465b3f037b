#!/usr/bin/env python3
"""Measures thaw beside LeRobot 0.6.1 and writes docs/benchmarks.json and docs/benchmarks.md. Run by scripts/bench-peers.

Both sides run as processes that stay, and take turns: A B A B … A figure is the median over the rounds; a ratio is one of two
medians of the same part. Figures of parts that were not measured this time stay as they were, unless the machine is another.
A part whose process dies is reported, the others go on, and the exit code is 1.
"""
from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench_modes import ModesBench
from bench_report import FIGURES, SETTING, figures, render
from bench_turns import THREADS, Child, ChildFailed, run_command, say, take_turns, warm_up

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "tests/golden/checkpoint_smolvla/tokenizer"
DATA_96 = ROOT / "tests/data/metaworld_tiny/v30_av1"
BATCH = SETTING["batch_size"]
PARTS = ["uncached", "cached", "data_96", "data_480", "modes"]


# --------------------------------------------------------------------------- what is measured
class Bench:
    def __init__(self, a: argparse.Namespace, work: Path):
        self.a, self.work = a, work
        self.thaw, self.python = a.thaw, Path(sys.executable)

    def run(self, command: list) -> str:
        return run_command(command, self.work / "setup.log")

    # --- inputs
    def dataset(self, name: str, *flags) -> Path:
        folder = self.work / name
        if not folder.exists():
            say(f"recording {name}")
            self.run([self.python, ROOT / "scripts/bench_dataset.py", "--out", folder, *flags])
        return folder

    def frames(self) -> Path:
        """One batch of lossless 512x512 pictures: both sides see the same pixels."""
        return self.dataset("frames_512", "--size", 512, "--codec", "png", "--episodes", 1, "--frames", BATCH)

    def checkpoint(self) -> Path:
        folder = self.work / "checkpoint"
        if not folder.exists():
            say("writing a checkpoint of the published size")
            self.run([self.thaw, "init", "--config", "smolvla", "--dataset", self.frames(), "--tokenizer", TOKENIZER,
                      "--output", folder])
        return folder

    # --- processes
    def thaw_child(self, name: str, what: str, *flags) -> Child:
        command = [self.thaw, "bench", what, *flags, "--threads", THREADS, "--interactive"]
        return Child(name, command, self.work / f"{name}.log")

    def step_child(self, name: str, *flags) -> Child:
        return self.thaw_child(name, "step", "--policy", self.checkpoint(), "--dataset", self.frames(), "--batch-size", BATCH,
                               "--precision", "fp32", *flags)

    def filled(self, cut: str) -> tuple:
        """Flags of a cache on disk that `thaw cache` filled beforehand, in a process of its own."""
        flags = ("--cache", cut, "--cache-dir", self.work / f"cache_{cut}")
        self.run([self.thaw, "cache", "--policy", self.checkpoint(), "--dataset", self.frames(), "--batch-size", BATCH, "--precision",
                  "fp32", *flags])
        return flags

    def lerobot_child(self, name: str, what: str, *flags, checkpoint: Path | None = None) -> Child:
        command = [self.python, ROOT / "scripts/bench_lerobot.py", what, "--checkpoint", checkpoint or self.checkpoint(),
                   "--threads", THREADS]
        return Child(name, [*command, *flags], self.work / f"{name}.log")

    def inputs(self) -> Path:
        return self.work / "inputs.safetensors"

    # --- parts
    def uncached(self) -> dict:
        with ExitStack() as stack:
            step = stack.enter_context(self.step_child("thaw_step", "--write-inputs", self.inputs()))
            sample = stack.enter_context(
                self.thaw_child("thaw_sample", "sample", "--policy", self.checkpoint(), "--inputs", self.inputs()))
            peer = stack.enter_context(self.lerobot_child("lerobot", "policy", "--inputs", self.inputs()))
            chunks = {"thaw": sample.ask("go")["chunk_first"], "lerobot": peer.ask("sample")["chunk_first"]}
            losses = {"thaw": step.ask("go")["loss"], "lerobot": peer.ask("step")["loss"]}
            agreement = agree(losses, chunks)
            step.ask("mark"), peer.ask("mark")
            turns = [("lerobot_step", peer, "step"), ("thaw_step", step, "go"), ("lerobot_sample", peer, "sample"),
                     ("thaw_sample", sample, "go"), ("gemm", step, "gemm vision")]
            answers = take_turns(turns, self.a.rounds)
            return {"agreement": agreement, "facts": {"thaw": step.facts, "lerobot": peer.facts}, "rounds": answers,
                    "predicted": {"thaw_step": self.predicted("none")}}

    def cached(self) -> dict:
        if not self.inputs().exists():  # written by the uncached part otherwise
            with self.step_child("thaw_inputs", "--write-inputs", self.inputs()):
                pass
        with ExitStack() as stack:
            children = {}
            for name, flags in {"vision": self.filled("vision"), "vision_draws4": (*self.filled("vision"), "--draws", 4),
                                "kv": self.filled("kv")}.items():
                children[name] = stack.enter_context(self.step_child(f"thaw_{name}", *flags))
                warm_up(children[name])
            peer = stack.enter_context(self.lerobot_child("lerobot", "policy", "--inputs", self.inputs()))
            peer.ask("step"), peer.ask("mark")
            turns = [("lerobot_step", peer, "step")] + [(f"thaw_{name}", child, "go") for name, child in children.items()]
            answers = take_turns([*turns, ("gemm", children["kv"], "gemm step")], self.a.rounds)
            return {"facts": {**{name: child.facts for name, child in children.items()}, "lerobot": peer.facts},
                    "rounds": answers,
                    "predicted": {"thaw_vision": self.predicted("vision"), "thaw_kv": self.predicted("kv")}}

    def data(self, dataset: Path, batches: int) -> dict:
        flags = ("--dataset", dataset, "--batch-size", 32, "--batches", batches)
        with ExitStack() as stack:
            peer = stack.enter_context(self.lerobot_child("lerobot_data", "data", "--workers", 2, *flags))
            mine = stack.enter_context(self.thaw_child("thaw_data", "data", "--num-workers", 2, *flags))
            mine.ask("go")
            answers = take_turns([("lerobot", peer, "data"), ("thaw", mine, "go")], self.a.rounds)
            return {"facts": {"thaw": mine.facts, "lerobot": peer.facts}, "rounds": answers}

    def data_96(self) -> dict:
        return self.data(DATA_96, 20)

    def data_480(self) -> dict:
        return self.data(self.dataset("frames_480", "--size", 480, "--codec", "av1", "--episodes", 4, "--frames", 40), 10)

    def modes(self) -> dict:
        return ModesBench(self, TOKENIZER).measure(self.a.rounds)

    def predicted(self, cache: str, draws: int = 1) -> dict:
        """What `thaw plan` says beforehand: bytes above the process itself, and seconds."""
        plan = json.loads(self.run([self.thaw, "plan", "--policy", self.checkpoint(), "--dataset", self.frames(), "--batch-size", BATCH,
                                    "--draws", draws, "--precision", "fp32", "--cache", cache, "--json"]))
        forecast = next(f for f in plan["forecasts"] if f["cut"]["kind"] == cache)
        return {"peak_bytes": forecast["memory"]["peak_bytes"], "step_seconds": forecast["step_seconds"]}


def agree(losses: dict, chunks: dict) -> dict:
    """Both sides computed the same, or what follows compares different work."""
    loss = abs(losses["thaw"] - losses["lerobot"]) / abs(losses["lerobot"])
    largest = max(abs(value) for value in chunks["lerobot"])
    chunk = max(abs(a - b) for a, b in zip(chunks["thaw"], chunks["lerobot"], strict=True)) / largest
    say(f"first loss {losses['thaw']:.6f} and {losses['lerobot']:.6f}, sampled actions differ by {chunk:.1e} of the largest")
    if not (loss <= 1e-4 and chunk <= 1e-3):
        raise ChildFailed(f"the two sides do not compute the same: losses {losses}, first actions {chunks}")
    return {"first_loss": losses, "first_loss_relative_difference": loss, "sampled_action_relative_difference": chunk}


def machine() -> dict:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 1024**2
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].split("\n", 1)[0].split()
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory, 1),
            "isa": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if flag in flags],
            "system": f"{platform.system()} {platform.release().split('-')[0]}"}


def thaw_version(thaw: Path) -> str:
    text = subprocess.run([str(thaw), "--version"], capture_output=True, text=True).stdout.strip()
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
    code = ["src", "include", "apps", "cmake"]
    changed = subprocess.run([*git, "status", "--porcelain", "--", *code], capture_output=True, text=True).stdout.strip()
    return f"{text} ({commit}{', with changes' if changed else ''})"


# --------------------------------------------------------------------------- the whole
def parts_of(only: str) -> list:
    if not only:
        return PARTS
    by_name = {figure.name: figure.part for figure in FIGURES}
    chosen = set()
    for name in only.split(","):
        if name not in by_name and name not in PARTS:
            sys.exit(f"bench-peers: --only: no figure or part '{name}'; there are {', '.join([*PARTS, *by_name])}")
        part = name if name in PARTS else by_name[name]
        chosen |= {"uncached", "cached"} if part == "plan" else {part}
    return [part for part in PARTS if part in chosen]


def read_document(path: Path) -> dict:
    fresh = {"machine": machine(), "setting": SETTING, "versions": {}, "ratios": {}, "runs": {}}
    if not path.exists():
        return fresh
    document = json.loads(path.read_text())
    if document.get("machine") != fresh["machine"] or document.get("setting") != SETTING:
        say("the figures that are there are another machine's or another setting's: beginning anew")
        return fresh
    return document


def write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def save(document: dict, folder: Path) -> None:
    measured = figures(document["runs"])
    document["ratios"] = {figure.name: measured[figure.name]["ratio"] for figure in FIGURES if figure.name in measured}
    write(folder / "benchmarks.json", json.dumps(document, indent=1) + "\n")
    write(folder / "benchmarks.md", render(document, folder / "benchmarks.md"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thaw", type=Path, required=True, help="the thaw command")
    parser.add_argument("--only", default="", help="figures or parts, comma-separated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="folder of benchmarks.json and benchmarks.md")
    parser.add_argument("--work", type=Path, help="folder for data sets and checkpoint, used again when it holds them")
    a = parser.parse_args()
    if a.rounds < 1:
        parser.error("--rounds must be at least 1")
    parts = parts_of(a.only)

    with ExitStack() as stack:
        work = a.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thaw-bench-")))
        work.mkdir(parents=True, exist_ok=True)
        a.output.mkdir(parents=True, exist_ok=True)
        bench = Bench(a, work)
        document = read_document(a.output / "benchmarks.json")
        failures = []
        for part in parts:
            load = os.getloadavg()[0]
            say(f"=== {part} (load {load:.2f}{', the machine is busy' if load > 0.7 else ''})")
            try:
                run = getattr(bench, part)()
            except (ChildFailed, OSError, KeyError) as error:
                failures.append(part)
                say(f"{part} was not measured: {error if not isinstance(error, KeyError) else f'no {error} in an answer'}")
                continue
            lerobot = run["facts"]["lerobot"]["versions"]
            document["versions"] = {**lerobot, "thaw": thaw_version(a.thaw)}
            document["runs"][part] = {"date": datetime.date.today().isoformat(), "load_average": round(load, 2), **run}
            save(document, a.output)
        measured = figures(document["runs"])
        for figure in FIGURES:
            if figure.name in measured:
                ratio = measured[figure.name]["ratio"]
                say(f"{figure.name:<18} {ratio:8.3f}  aim {figure.aim():<8} {'held' if figure.holds(ratio) else 'NOT held'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
