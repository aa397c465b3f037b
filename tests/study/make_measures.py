#!/usr/bin/env python3
"""Golden values of the measures and of CLP's choice, restated in plain NumPy from their definitions.

    pip install numpy==2.2.6 safetensors==0.8.0
    python make_measures.py measures

Writes measures.safetensors (inputs "stream/<state>", results beside them) and choices.json. Runs again to the same bytes.
Nothing here is shared with thaw: loops follow the formulas, not the code under test.
"""
import itertools
import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ROWS, WIDTH, STATES, MINIBATCH, RATIO = 90, 24, 5, 32, 100.0


def linear_cka(x, y):
    """Kornblith et al. 2019, equation 3 with linear kernels: column-centred, feature form."""
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def hsic_0(x, y):
    n = len(x)
    centring = np.eye(n) - 1.0 / n
    return np.trace(x @ x.T @ centring @ y @ y.T @ centring) / (n - 1) ** 2


def hsic_1(x, y):
    """Song et al. 2012, equation 5."""
    n = len(x)
    k, l, one = x @ x.T, y @ y.T, np.ones(n)
    np.fill_diagonal(k, 0.0)
    np.fill_diagonal(l, 0.0)
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + middle - 2.0 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def minibatches(n):
    """Full ones in order, then what is left when it is at least four rows."""
    edges = list(range(0, n - n % MINIBATCH, MINIBATCH))
    parts = [slice(at, at + MINIBATCH) for at in edges]
    left = slice(len(edges) * MINIBATCH, n)
    return parts + ([left] if n - left.start >= 4 else [])


def minibatch_cka(states, hsic, prepare=lambda x: x):
    size = len(states)
    values = np.zeros((size, size))
    for i, j in itertools.product(range(size), repeat=2):
        sums = [0.0, 0.0, 0.0]
        for part in minibatches(ROWS):
            x, y = prepare(states[i][part]), prepare(states[j][part])
            for place, (a, b) in enumerate([(x, y), (x, x), (y, y)]):
                sums[place] += hsic(a, b)
        values[i, j] = sums[0] / np.sqrt(sums[1] * sums[2])
    return values


def lower_median(values):
    return np.sort(values)[(len(values) - 1) // 2]


def trimmed(x):
    """Without the dimensions whose variance is more than RATIO times the median one."""
    variance = x.var(0)
    return x[:, variance <= RATIO * lower_median(variance)]


def cosines(states):
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in states]
    return np.array([[(a * b).sum(1) for b in units] for a in units])


def streams():
    """A residual stream of five states with a mean, one massive dimension, and a block that hardly does anything."""
    random = np.random.default_rng(20260620)
    x = random.normal(size=(ROWS, WIDTH)) + random.normal(size=WIDTH)
    x[:, 7] = 300.0 + 60.0 * random.normal(size=ROWS)
    states = [x]
    for scale in [0.9, 0.02, 1.5, 0.4]:
        x = x + scale * np.tanh(x @ random.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH))
        states.append(x)
    return states


def gate_probe(states, gradients, samples):
    """Mean over samples of |sum over rows <gradient behind the block, what the block added>|."""
    per_sample = ROWS // samples
    values = []
    for block in range(STATES - 1):
        total = 0.0
        for sample in range(samples):
            rows = slice(sample * per_sample, (sample + 1) * per_sample)
            total += abs((gradients[block + 1][rows] * (states[block + 1] - states[block])[rows]).sum())
        values.append(total / samples)
    return np.array(values)


def weights():
    """Two matrices of each of three blocks, gradients of seven samples, and a base that they moved from."""
    random = np.random.default_rng(7)
    shapes = [(6, 5), (5, 6)]
    now = [[random.normal(size=s) for s in shapes] for _ in range(3)]
    base = [[w + scale * random.normal(size=w.shape) for w in block] for block, scale in zip(now, [0.01, 0.3, 1.0])]
    gradients = [[[scale * random.normal(size=s) for s in shapes] for scale in [1.0, 0.1, 3.0]] for _ in range(7)]
    return now, base, gradients


def squared(block):
    return sum((w**2).sum() for w in block)


def weight_measures(now, base, gradients, batch):
    fisher = [np.mean([squared(sample[b]) for sample in gradients]) for b in range(3)]
    relative = []
    for b in range(3):
        norms = []
        for begin in range(0, len(gradients), batch):
            samples = gradients[begin : begin + batch]
            mean = [np.mean([s[b][m] for s in samples], axis=0) for m in range(2)]
            norms.append(np.sqrt(squared(mean)) / np.sqrt(squared(now[b])))
        relative.append(np.mean(norms))
    moved = [np.sqrt(squared([w - v for w, v in zip(n, o)]) / squared(o)) for n, o in zip(now, base)]
    return np.array(fisher), np.array(relative), np.array(moved)


# --- CLP, section 3 of arXiv 2606.20246 ---


def keeps_period(removed, blocks, period):
    kept = [b for b in range(blocks) if b not in removed]
    return all((b - i) % period == 0 for i, b in enumerate(kept))


def clp(scores, remove, tau, period, first_anchors):
    """scores[l]: CKA of the outputs of blocks l-1 and l; scores[0] does not exist. None when it cannot be done."""
    blocks = len(scores)
    thresholds = [tau] + sorted({s for s in scores[1:] if s < tau}, reverse=True)
    for threshold in thresholds:
        similar = [l for l in range(1, blocks) if scores[l] >= threshold]
        if first_anchors and 1 in similar:
            similar = [0] + similar
        groups = []
        for l in similar:
            if groups and groups[-1][-1] == l - 1:
                groups[-1].append(l)
            else:
                groups.append([l])
        candidates = [l for group in groups for l in group[1:]]
        if len(candidates) < remove:
            continue
        if period == 1:
            chosen = sorted(sorted(candidates, key=lambda l: -scores[l])[:remove])
            return {"removed": chosen, "threshold": threshold, "candidates": candidates}
        valid = [c for c in itertools.combinations(candidates, remove) if keeps_period(c, blocks, period)]
        if valid:
            best = max(valid, key=lambda c: sum(scores[l] for l in c))
            return {"removed": list(best), "threshold": threshold, "candidates": candidates}
    return None


def clp_cases(count):
    random = np.random.default_rng(1000)
    cases = []
    for number in range(count):
        period = 1 if number % 3 else 2
        blocks = int(random.integers(2, 33 if period == 1 else 13))
        # runs of like blocks, as real models have them, and pure noise in turn
        if number % 2:
            scores = random.uniform(0.2, 1.0, size=blocks)
        else:
            scores = np.clip(0.98 - np.abs(np.cumsum(random.normal(scale=0.03, size=blocks))), 0.0, 1.0)
            scores += 1e-6 * random.uniform(size=blocks)
        scores = [round(float(s), 7) for s in scores]
        case = {
            "scores": scores,
            "remove": int(random.integers(1, max(2, blocks * 2 // 3))) if blocks > 2 else 1,
            "threshold": float(random.choice([0.8, 0.9, 0.95, 0.99])),
            "period": period,
            "first_block_anchors": bool(random.integers(0, 2)),
        }
        case["remove"] = min(case["remove"], blocks - 1)
        case["choice"] = clp(scores, case["remove"], case["threshold"], period, case["first_block_anchors"])
        cases.append(case)
    return cases


def least_cases(count):
    random = np.random.default_rng(2000)
    cases = []
    for number in range(count):
        period = 1 + number % 3
        blocks = int(random.integers(2, 12))
        scores = [round(float(s), 7) for s in random.uniform(size=blocks)]
        remove = int(random.integers(1, blocks))
        valid = [c for c in itertools.combinations(range(blocks), remove) if keeps_period(c, blocks, period)]
        best = min(valid, key=lambda c: sum(scores[l] for l in c)) if valid else None
        cases.append({"scores": scores, "remove": remove, "period": period, "removed": best and list(best)})
    return cases


def main(folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    states = streams()
    random = np.random.default_rng(3)
    gradients = [random.normal(size=(ROWS, WIDTH)) for _ in states]
    angles = cosines(states)
    tensors = {f"stream/{i}": x for i, x in enumerate(states)}
    tensors |= {f"gradient/{i}": g for i, g in enumerate(gradients)}
    tensors |= {
        "biased": minibatch_cka(states, hsic_0),
        "unbiased": minibatch_cka(states, hsic_1),
        "trimmed": minibatch_cka(states, hsic_1, trimmed),
        "pairs": np.array([[linear_cka(a, b) for b in states] for a in states]),
        "concatenated": np.array([linear_cka(a, b) for a, b in zip(states, states[1:])]),
        "cosine": angles.mean(-1),
        "angular": (np.arccos(np.clip(angles, -1, 1)) / np.pi).mean(-1) * (1 - np.eye(STATES)),
        "block_influence": np.array([1 - angles[b, b + 1].mean() for b in range(STATES - 1)]),
        "mean_square": np.array([(x**2).mean(0) for x in states]),
        "variance": np.array([x.var(0) for x in states]),
        "gate_probe": gate_probe(states, gradients, samples=9),
    }
    now, base, by_sample = weights()
    fisher, relative, moved = weight_measures(now, base, by_sample, batch=3)
    tensors |= {"fisher": fisher, "relative_gradient": relative, "divergence": moved}
    for b, m in itertools.product(range(3), range(2)):
        tensors[f"weight/{b}.{m}"] = now[b][m]
        tensors[f"base/{b}.{m}"] = base[b][m]
        tensors[f"weight_gradient/{b}.{m}"] = np.stack([sample[b][m] for sample in by_sample])
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, folder / "measures.safetensors")
    choices = {"clp": clp_cases(1000), "least": least_cases(200)}
    lines = [f'"{kind}": [\n' + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]" for kind, cases in choices.items()]
    (folder / "choices.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
