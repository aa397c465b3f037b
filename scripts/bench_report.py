"""From raw runs to figures, and the page that shows them (docs/benchmarks.md). Measures nothing."""
from __future__ import annotations

import statistics
from pathlib import Path

SETTING = {
    "policy": "SmolVLA, published size, random weights", "cameras": "2 of 512x512", "precision": "fp32", "threads": 2,
    "batch_size": 4, "language_tokens": 48, "action_chunk": 50, "freeze": "LeRobot's default (expert and state_proj train)",
    "sampling": "batch 1, 10 steps", "data": "batch 32, two cameras, random order, 2 workers",
}


class Figure:
    """One ratio: which part measures it, what it should be, and how it is worded."""

    def __init__(self, name, part, aim, words, unit, scale=1.0):
        self.name, self.part, self.words, self.unit, self.scale = name, part, words, unit, scale
        self.sign, self.bound = aim

    def holds(self, value: float) -> bool:
        return value <= self.bound if self.sign == "<=" else value >= self.bound

    def aim(self) -> str:
        return f"{'≤' if self.sign == '<=' else '≥'} {self.bound:.3g}"


FIGURES = [
    Figure("uncached_step", "uncached", ("<=", 0.85), "training step, nothing cached", "s", 1e-3),
    Figure("vision_cache_step", "cached", ("<=", 1 / 5), "training step, vision output cached", "s", 1e-3),
    Figure("kv_cache_step", "cached", ("<=", 1 / 11), "training step, all prefix keys and values cached", "s", 1e-3),
    Figure("sampling", "uncached", ("<=", 0.80), "sampling an action chunk", "s", 1e-3),
    Figure("draws4", "cached", ("<=", 0.45), "one step of 4 draws, against four of 1 (both thaw, vision cached)", "s", 1e-3),
    Figure("data_96", "data_96", (">=", 3.0), "loader, 96x96 AV1", "frames/s"),
    Figure("data_480", "data_480", (">=", 1.5), "loader, 480x480 AV1", "frames/s"),
    Figure("peak_memory", "uncached", ("<=", 0.85), "peak memory of training, nothing cached", "GB", 1e-9),
    Figure("peak_memory_kv", "cached", ("<=", 0.60), "peak memory of training, keys and values cached", "GB", 1e-9),
    Figure("plan_memory_error", "plan", ("<=", 0.05), "thaw plan's peak memory against the measured (largest error)", "GB", 1e-9),
    Figure("gemm_share_vision", "uncached", (">=", 0.90), "vision tower, share of the GEMM rate of its shapes", "GFLOP/s"),
    Figure("gemm_share_expert", "cached", (">=", 0.60), "step with cached keys and values, share of the GEMM rate", "GFLOP/s"),
]


def median(answers: list, key: str) -> float:
    return statistics.median(answer[key] for answer in answers)


# --------------------------------------------------------------------------- from runs to figures
def figures(runs: dict) -> dict:
    """name -> {"thaw", "lerobot", "ratio"}: of what was measured, and nothing else."""
    result = {}

    def put(name, thaw, other, ratio=None):
        result[name] = {"thaw": thaw, "lerobot": other, "ratio": thaw / other if ratio is None else ratio}

    if "uncached" in runs:
        r = runs["uncached"]["rounds"]
        put("uncached_step", median(r["thaw_step"], "total_ms"), median(r["lerobot_step"], "total_ms"))
        put("sampling", median(r["thaw_sample"], "total_ms"), median(r["lerobot_sample"], "total_ms"))
        put("peak_memory", peak(r["thaw_step"]), peak(r["lerobot_step"]))
        put_share(result, "gemm_share_vision", r["gemm"])
    if "cached" in runs:
        r = runs["cached"]["rounds"]
        peer = median(r["lerobot_step"], "total_ms")
        put("vision_cache_step", median(r["thaw_vision"], "total_ms"), peer)
        put("kv_cache_step", median(r["thaw_kv"], "total_ms"), peer)
        put("draws4", median(r["thaw_vision_draws4"], "total_ms"), 4 * median(r["thaw_vision"], "total_ms"))
        put("peak_memory_kv", peak(r["thaw_kv"]), peak(r["lerobot_step"]))
        put_share(result, "gemm_share_expert", r["gemm"])
    for part in ("data_96", "data_480"):
        if part in runs:
            r = runs[part]["rounds"]
            put(part, median(r["thaw"], "frames_per_s"), median(r["lerobot"], "frames_per_s"))
    worst = max(((abs(p["bytes"] / p["measured_bytes"] - 1), p["bytes"], p["measured_bytes"]) for p in predictions(runs)),
                default=None)
    if worst:
        put("plan_memory_error", worst[1], worst[2], ratio=worst[0])
    return result


def predictions(runs: dict) -> list:
    """What thaw plan said of each measured training, beside what it took."""
    rows = []
    for part in ("uncached", "cached"):
        for side, predicted in runs.get(part, {}).get("predicted", {}).items():
            answers = runs[part]["rounds"][side]
            rows.append({"side": side, "bytes": predicted["peak_bytes"], "measured_bytes": peak(answers),
                         "seconds": predicted["step_seconds"], "measured_seconds": 1e-3 * median(answers, "total_ms")})
    return rows


def peak(answers: list) -> float:
    return max(answer["peak_above_baseline_bytes"] for answer in answers)


def put_share(result: dict, name: str, answers: list) -> None:
    """The "lerobot" side of a share is the machine's own rate."""
    rate = statistics.median(max(a["plain_gemm_gflops_per_s"], a["library_gemm_gflops_per_s"]) for a in answers)
    result[name] = {"thaw": median(answers, "gflops_per_s"), "lerobot": rate, "ratio": median(answers, "share")}


# --------------------------------------------------------------------------- docs/benchmarks.md
def number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def row(figure: Figure, measured: dict) -> str:
    if figure.name not in measured:
        return f"| {figure.words} | not measured | | | {figure.aim()} | |"
    m = measured[figure.name]
    return (f"| {figure.words} | {number(m['thaw'] * figure.scale)} {figure.unit} | {number(m['lerobot'] * figure.scale)} "
            f"{figure.unit} | {m['ratio']:.3g} | {figure.aim()} | {'yes' if figure.holds(m['ratio']) else '**no**'} |")


def parts_table(runs: dict) -> list:
    names = [("data", "data_ms"), ("prefix", "prefix_ms"), ("suffix forward", "suffix_forward_ms"), ("backward", "backward_ms"),
             ("update", "update_ms"), ("total", "total_ms")]
    rows = []
    for part, side, words in (("uncached", "thaw_step", "thaw, nothing cached"), ("cached", "thaw_vision", "thaw, vision cached"),
                              ("cached", "thaw_vision_draws4", "thaw, vision cached, 4 draws"),
                              ("cached", "thaw_kv", "thaw, keys and values cached")):
        if part in runs:
            answers = runs[part]["rounds"][side]
            rows.append(f"| {words} | " + " | ".join(f"{median(answers, key):.0f}" for _, key in names) + " |")
    for part in ("uncached", "cached"):
        if part in runs:
            answers = runs[part]["rounds"]["lerobot_step"]
            cells = ["", f"forward, whole: {median(answers, 'forward_ms'):.0f}", "", f"{median(answers, 'backward_ms'):.0f}",
                     f"{median(answers, 'update_ms'):.0f}", f"{median(answers, 'total_ms'):.0f}"]
            rows.append(f"| LeRobot (beside {'the first' if part == 'uncached' else 'the cached ones'}) | " + " | ".join(cells) + " |")
    if not rows:
        return []
    head = "| step, ms | " + " | ".join(name for name, _ in names) + " |"
    return ["## A step, part by part", "", head, "|---" * (len(names) + 1) + "|", *rows, ""]


SIDES = {"thaw_step": "nothing cached", "thaw_vision": "vision cached", "thaw_kv": "keys and values cached"}


def prediction_lines(runs: dict) -> list:
    lines = []
    for p in predictions(runs):
        seconds = "" if p["seconds"] is None else f"{p['seconds']:.2f}"
        lines.append(f"| {SIDES[p['side']]} | {p['bytes'] * 1e-9:.2f} | {p['measured_bytes'] * 1e-9:.2f} | "
                     f"{p['bytes'] / p['measured_bytes'] - 1:+.1%} | {seconds} | {p['measured_seconds']:.2f} |")
    if not lines:
        return []
    return ["## What `thaw plan` says beforehand", "", "| | peak, GB: predicted | measured | error | step, s: predicted | measured |",
            "|---|---|---|---|---|---|", *lines, ""]


def memory_lines(runs: dict) -> list:
    lines = []
    for part, side, words in (("uncached", "lerobot_step", "LeRobot"), ("uncached", "thaw_step", "thaw, nothing cached"),
                              ("cached", "thaw_vision", "thaw, vision cached"),
                              ("cached", "thaw_kv", "thaw, keys and values cached")):
        if part in runs:
            answers = runs[part]["rounds"][side]
            lines.append(f"| {words} | {peak(answers) * 1e-9:.2f} | {max(x['peak_bytes'] for x in answers) * 1e-9:.2f} |")
    if not lines:
        return []
    return ["## Memory", "", "Peak resident memory of the steady steps, in GB: above what the process held before it loaded anything "
            "(which the ratios compare), and as a whole.", "", "| | above the start | whole process |", "|---|---|---|", *lines, ""]


# --------------------------------------------------------------------------- by what trains
MODES_HEAD = ["trains", "parameters", "thaw's head, MB", "LeRobot's file, MB", "step, ms: thaw", "thaw, cached (cut)", "LeRobot",
              "thaw / LeRobot", "cached / LeRobot", "peak, MB: thaw", "thaw, cached", "LeRobot"]


def modes_lines(runs: dict) -> list:
    if "modes" not in runs:
        return []
    run = runs["modes"]
    setting = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in run["setting"].items())
    worst = max(abs(loss / mode["first_loss"]["lerobot"] - 1) for mode in run["modes"].values()
                for loss in mode["first_loss"].values())
    return ["## By what trains: all, last blocks, the expert, low-rank adapters", "", f"Another setting: {setting}.", "",
            "| " + " | ".join(MODES_HEAD) + " |", "|---" * len(MODES_HEAD) + "|",
            *[mode_row(mode) for mode in run["modes"].values()], "",
            "thaw and LeRobot train the same tensors, checked by name against AdamW's moments. LeRobot has no cache, and saves the "
            "whole policy unless PEFT saves an adapter (with modules at full rank where there are some). Without an entry under "
            "\"cached\", the gradient boundary lies before everything that a cache could keep. First losses of a mode differ by at "
            f"most {worst:.1e} of their value.", "", *lora_lines(run["modes"])]


def mode_row(mode: dict) -> str:
    r, peer = mode["rounds"], median(mode["rounds"]["lerobot"], "total_ms")
    mine, cached = median(r["thaw"], "total_ms"), r.get("thaw_cached")
    cells = [mode["words"], f"{mode['trainable_parameters']:,}", number(mode["head_bytes"] * 1e-6),
             f"{number(mode['lerobot_saves']['bytes'] * 1e-6)} ({'adapter' if mode['lora'] else 'policy'})", f"{mine:.0f}",
             f"{median(cached, 'total_ms'):.0f} ({mode['cut']})" if cached else "", f"{peer:.0f}", f"{mine / peer:.2f}",
             f"{median(cached, 'total_ms') / peer:.2f}" if cached else "", f"{peak(r['thaw']) * 1e-6:.0f}",
             f"{peak(cached) * 1e-6:.0f}" if cached else "", f"{peak(r['lerobot']) * 1e-6:.0f}"]
    return "| " + " | ".join(cells) + " |"


def share(modes: dict, part: str, whole: str, side: str, key: str) -> str:
    """A median of one mode, as a share of the same of another."""
    return f"{median(modes[part]['rounds'][side], key) / median(modes[whole]['rounds'][side], key):.2f}"


def lora_lines(modes: dict) -> list:
    """What adapters cost, in figures of the table alone."""
    lora, expert = modes["lora"], modes["lora_expert"]
    trained = lora["trainable_parameters"] / modes["full"]["trainable_parameters"]
    text = (f"**What LoRA costs.** On all blocks it trains {trained:.1%} of the parameters that full training does. Its backward "
            f"starts at the loss and walks everything down to the first adapter, in stage {lora['boundary']}: "
            f"{share(modes, 'lora', 'full', 'thaw', 'backward_ms')} of the time of full training's, and "
            f"{share(modes, 'lora', 'last_2', 'thaw', 'backward_ms')} of what the last 2 blocks of every stack take at full rank "
            f"(LeRobot with PEFT: {share(modes, 'lora', 'full', 'lerobot', 'backward_ms')} and "
            f"{share(modes, 'lora', 'last_2', 'lerobot', 'backward_ms')}); the whole step takes "
            f"{share(modes, 'lora', 'full', 'thaw', 'total_ms')} of the full one.")
    if lora["cut"] == "none" and expert["cut"] != "none":
        cached, plain = (median(expert["rounds"][side], "total_ms") for side in ("thaw_cached", "thaw"))
        text += (f" Below the first adapter lies no cut, so that no cache helps it. On the expert alone all before the expert can be "
                 f"kept ({expert['cut']}): a step with the cache takes {cached / plain:.2f} of one without, and "
                 f"{share(modes, 'lora_expert', 'expert', 'thaw_cached', 'total_ms')} of the cached step that trains the expert whole.")
    return [text, ""]


NOTES = ("<!-- notes: kept when this page is written again -->", "<!-- /notes -->")


def kept_notes(page: Path) -> str:
    if page.exists() and NOTES[0] in (text := page.read_text()) and NOTES[1] in text:
        return text.split(NOTES[0], 1)[1].split(NOTES[1], 1)[0].strip("\n")
    return ""


def render(document: dict, page: Path) -> str:
    m, runs = document["machine"], document["runs"]
    measured = figures(runs)
    lines = [
        "# Benchmarks: thaw beside LeRobot", "",
        "Written by `scripts/bench-peers`; raw runs in [benchmarks.json](benchmarks.json). Nothing here was not measured.", "",
        f"Machine: {m['cpu']}, {m['cores']} cores, {m['memory_gib']:g} GiB, {', '.join(m['isa'])}, {m['system']}. "
        f"LeRobot {document['versions'].get('lerobot', '?')} with PyTorch {document['versions'].get('torch', '?')}; "
        f"{document['versions'].get('thaw', 'thaw')}.", "",
        "Setting: " + "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in SETTING.items()) + ".", "",
        "| | thaw | LeRobot | ratio | aim | held |", "|---|---|---|---|---|---|",
        *[row(figure, measured) for figure in FIGURES], "",
        "Each figure is the median of its rounds. In one part the two sides take turns, step by step, in processes that stay "
        "loaded; a ratio compares medians of one part. For the two shares, the column LeRobot holds the machine's GEMM rate; for "
        "the draws, four steps of one draw; for the plan, the measured peak.", "",
    ]
    agreement = runs.get("uncached", {}).get("agreement")
    if agreement:
        lines += [f"The same work on both sides: from the same weights, batch, noise and time, the first losses differ by "
                  f"{agreement['first_loss_relative_difference']:.1e} of their value and the first sampled actions by "
                  f"{agreement['sampled_action_relative_difference']:.1e} of the largest.", ""]
    lines += parts_table(runs) + memory_lines(runs) + prediction_lines(runs) + modes_lines(runs)
    lines += [
        "## How it is measured", "",
        "* **Step**: thaw's `Trainer::step` on a dataset of four frames with LeRobot's default freeze, and LeRobot's forward, "
        "backward, clipping, AdamW, scheduler and zero_grad as its trainer makes them, on that batch. thaw's total includes waiting "
        "for its loader, LeRobot's does not. A cache was "
        "filled on disk by `thaw cache` beforehand.",
        "* **Memory**: `VmHWM`, set back after loading and warming up, less `VmRSS` before anything was loaded.",
        "* **GEMM rate**: in thaw's process, between rounds, with the same threads, as `thaw plan` calibrates: every matrix product "
        "of the stages that ran, at the shapes it had, with weights that are in no cache, once as `at::linear` on plain float32 "
        "tensors and once as the library's own `nn::linear`; of the two, the faster sum. The vision tower's share counts the FLOPs "
        "of its blocks, attention included, over the time of its stages. The cached step's share counts forward and backward "
        "FLOPs of the stages that ran, over the whole step, optimizer included.",
        "* **Data**: a frame is one decoded picture. Both loaders read uint8 pictures of two cameras, state, and chunks of 50 "
        "actions, in random order, with two workers. Batches that were read ahead before a round are not counted.",
        "* **By what trains**: as a step above; for each mode thaw, thaw with the deepest cache that its plan allows, and LeRobot "
        "take turns. LeRobot's parameters outside the mode are frozen with `requires_grad` (its own flags for full training would freeze "
        "keys, values and a norm of the last language block too); adapters are made by `peft.get_peft_model`, modules at full rank "
        "by its `modules_to_save`. A head is what one step of `thaw train` leaves.", "",
        "Parts: " + "; ".join(f"{name} on {run['date']}, load {run['load_average']:.2f} when it began" for name, run in
                              runs.items()) + ".", "",
        "## Again", "",
        "    scripts/bench-peers                                    # all, about twenty minutes on two cores",
        "    scripts/bench-peers --only data_96,data_480 --rounds 9 # some figures, merged into the others",
        "    scripts/bench-peers --only modes                       # the table by what trains", "",
        NOTES[0], kept_notes(page), NOTES[1], "",
    ]
    return "\n".join(lines)
