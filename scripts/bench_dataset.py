#!/usr/bin/env python3
"""Records a LeRobotDataset v3.0 of moving textured pictures with LeRobot's own writer, for scripts/bench-peers.

  bench_dataset.py --out DIR --size 480 --codec av1 --episodes 8 --frames 50

Two cameras, one that stands and one that moves, state and action of width 6, one task whose text is longer than any policy reads.
Texture, motion and a sensor's noise, so that a frame is no flat picture that costs nothing to decode; the encoder's settings are
LeRobot's defaults. A pure function of its arguments.
"""
from __future__ import annotations

import argparse
import logging
import os
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("SVT_LOG", "1")

import av
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

CAMERAS = ("front", "wrist")
TASK = "pick up the red cube and put it into the box, " * 20


def texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of four sizes, coarse ones stronger, as in a photograph. (2 size, 2 size, 3) float32"""
    side = 2 * size
    image = np.full((side, side, 3), 128.0, np.float32)
    for cell, strength in ((64, 45), (16, 20), (4, 6), (1, 2)):
        coarse = rng.normal(0, strength, (side // cell + 1, side // cell + 1, 3)).astype(np.float32)
        image += np.kron(coarse, np.ones((cell, cell, 1), np.float32))[:side, :side]
    return image


def picture(background: np.ndarray, size: int, frame: int, moves: bool, rng: np.random.Generator) -> np.ndarray:
    shift = (2 * frame) % size if moves else 0
    image = background[shift // 2:shift // 2 + size, shift:shift + size].copy()
    y, x = np.mgrid[0:size, 0:size]
    disc = (y - size * 0.5) ** 2 + (x - size * ((0.1 + 0.02 * frame) % 0.9)) ** 2 < (0.12 * size) ** 2
    image[disc] = (200, 60, 50)
    image += rng.normal(0, 1.5, image.shape).astype(np.float32)  # a sensor's
    return image.clip(0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="new directory")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--codec", choices=["av1", "png"], default="av1")
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--frames", type=int, default=50, help="of each episode")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    av.logging.set_libav_level(av.logging.ERROR)

    vector = {"dtype": "float32", "shape": (6,), "names": None}
    image = {"dtype": "image" if a.codec == "png" else "video", "shape": (a.size, a.size, 3),
             "names": ["height", "width", "channels"]}
    features = {"observation.state": vector, "action": vector, **{f"observation.images.{c}": image for c in CAMERAS}}
    dataset = LeRobotDataset.create(repo_id="local/bench", fps=30, features=features, root=a.out, use_videos=a.codec == "av1")
    rng = np.random.default_rng(a.seed)
    backgrounds = {camera: texture(a.size, rng) for camera in CAMERAS}
    for _ in range(a.episodes):
        for frame in range(a.frames):
            item = {key: rng.normal(size=6).astype(np.float32) for key in ("observation.state", "action")}
            for camera in CAMERAS:
                item[f"observation.images.{camera}"] = picture(backgrounds[camera], a.size, frame, camera == "wrist", rng)
            dataset.add_frame({**item, "task": TASK})
        dataset.save_episode()
    dataset.finalize()


if __name__ == "__main__":
    main()
