#!/usr/bin/env python3
"""Records a LeRobotDataset v3.0 of drawn pictures with LeRobot's own writer: no simulator needed, any layout wanted.

  python make_synthetic_dataset.py --out DIR [--episodes 6] [--cameras front:48x64,wrist:40x40] [--codec av1] [--fps 30]
      [--gop 2] [--data-file-mb 0.01] [--video-file-mb 0.01] [--files-per-chunk 2] [--seed 0]

Needs lerobot 0.6.1. Each picture is a smooth gradient with a disc whose place tells episode and frame, so a frame that is
off by one is seen. Episode lengths are odd and even. One action dimension is constant within each episode (averaged
quantiles go wrong there), one state is motionless. Follow with make_expected.py.
"""

from __future__ import annotations

import argparse
import json
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
from lerobot.configs.video import RGBEncoderConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset

TASKS = ["Fold the towel", "Stack the cups", "Open the drawer"]


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, help="new directory")
    p.add_argument("--episodes", type=int, default=6)
    p.add_argument("--cameras", default="front:48x64,wrist:40x40", help="NAME:HEIGHTxWIDTH, comma-separated")
    p.add_argument("--codec", choices=["av1", "h264", "hevc", "png"], default="av1")
    p.add_argument("--fps", type=int, default=30)
    p.add_argument("--gop", type=int, default=2)
    p.add_argument("--longest", type=int, default=31, help="frames of the longest episode")
    p.add_argument("--data-file-mb", type=float, default=0, help="roll-over target (0: LeRobot's)")
    p.add_argument("--video-file-mb", type=float, default=0, help="roll-over target (0: LeRobot's)")
    p.add_argument("--files-per-chunk", type=int, default=0, help="chunks_size (0: LeRobot's)")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


def picture(height: int, width: int, camera: int, episode: int, frame: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    image = np.stack([60 + 120 * x / width, 60 + 120 * y / height, np.full_like(x, 90 + 20 * camera)], axis=-1)
    row = (0.2 + 0.1 * episode) % 0.8 * height
    column = (0.1 + 0.027 * frame) % 0.9 * width
    disc = (y - row) ** 2 + (x - column) ** 2 < (0.12 * min(height, width)) ** 2
    image[disc] = (210, 50 + 15 * (episode % 8), 40)
    return image.round().astype(np.uint8)


def record(dataset: LeRobotDataset, cameras: list[tuple[str, int, int]], episode: int, length: int, rng) -> None:
    grip = np.float32(rng.uniform(-1, 1))
    for frame in range(length):
        phase = 2 * np.pi * frame / length + episode
        state = np.array([np.sin(phase), np.cos(phase), 0.25 * episode, 0.5, rng.normal(), frame], np.float32)
        action = np.array([np.cos(phase), rng.normal(), grip], np.float32)
        item = {"observation.state": state, "action": action, "task": TASKS[episode % len(TASKS)],
                "next.done": np.array([frame == length - 1]), "grid": rng.integers(0, 9, (2, 3))}
        for number, (name, height, width) in enumerate(cameras):
            item[f"observation.images.{name}"] = picture(height, width, number, episode, frame)
        dataset.add_frame(item)
    dataset.save_episode()


def main() -> None:
    a = arguments()
    logging.getLogger().setLevel(logging.ERROR)
    av.logging.set_libav_level(av.logging.ERROR)
    cameras = []
    for text in a.cameras.split(","):
        name, size = text.split(":")
        height, width = size.split("x")
        cameras.append((name, int(height), int(width)))
    features = {
        "observation.state": {"dtype": "float32", "shape": (6,), "names": None},
        "action": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "grip"]},
        "next.done": {"dtype": "bool", "shape": (1,), "names": None},
        "grid": {"dtype": "int64", "shape": (2, 3), "names": None},
    }
    for name, height, width in cameras:
        features[f"observation.images.{name}"] = {
            "dtype": "image" if a.codec == "png" else "video", "shape": (height, width, 3),
            "names": ["height", "width", "channels"]}
    encoder = {"av1": "libsvtav1", "h264": "h264", "hevc": "hevc", "png": None}[a.codec]
    dataset = LeRobotDataset.create(
        repo_id="thaw/" + a.out.name, fps=a.fps, features=features, root=a.out, use_videos=a.codec != "png",
        rgb_encoder=RGBEncoderConfig(vcodec=encoder, g=a.gop) if encoder else None, encoder_threads=1,
        data_files_size_in_mb=a.data_file_mb or None, video_files_size_in_mb=a.video_file_mb or None)
    if a.files_per_chunk:
        dataset.meta.update_chunk_settings(chunks_size=a.files_per_chunk)
    rng = np.random.default_rng(a.seed)
    for episode in range(a.episodes):
        record(dataset, cameras, episode, a.longest - 3 * (episode % 7), rng)
    dataset.finalize()
    for file in a.out.rglob("*.mp4"):
        file.chmod(0o644)  # LeRobot leaves concatenated files readable by their owner only
    info = json.loads((a.out / "meta" / "info.json").read_text())
    print(a.out.name, info["total_episodes"], "episodes", info["total_frames"], "frames")


if __name__ == "__main__":
    main()
