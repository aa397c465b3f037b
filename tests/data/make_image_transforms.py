#!/usr/bin/env python3
"""Golden data for the image transforms: what torchvision's v2 functions, and LeRobot's ImageTransforms, make of pictures.

    pip install lerobot==0.6.1 torchvision==0.26.0
    python make_image_transforms.py image_transforms

Writes pictures.safetensors (inputs "picture/<name>", results "<case>/<dtype>") and cases.json. Runs again to the same bytes.
"""
import json
import sys
from pathlib import Path

import torch
import torchvision
from lerobot.transforms import ImageTransformConfig, ImageTransforms, ImageTransformsConfig
from safetensors.torch import save_file
from torchvision.transforms.v2 import functional as F

torch.set_num_threads(1)
HEIGHT, WIDTH = 13, 18


def pictures():
    """uint8 (3, H, W): random colours with greys, black, white and pure colours among them; a smooth gradient; two steps."""
    random = torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    random[:, 0, :6] = torch.tensor([[0, 255, 128, 255, 0, 0], [0, 255, 128, 0, 255, 0], [0, 255, 128, 0, 0, 255]])
    rows, columns = torch.linspace(0, 1, HEIGHT)[:, None], torch.linspace(0, 1, WIDTH)[None]
    smooth = torch.stack([0.2 + 0.6 * rows * columns, 0.9 - 0.5 * rows + 0 * columns, 0.3 + 0 * rows + 0.4 * columns])
    smooth = (smooth * 255).round().to(torch.uint8)
    return {"random": random, "smooth": smooth, "steps": torch.stack([random, smooth])}


CALLS = [
    ("adjust_brightness", {"brightness_factor": 0.73}),
    ("adjust_brightness", {"brightness_factor": 1.41}),
    ("adjust_contrast", {"contrast_factor": 0.6}),
    ("adjust_contrast", {"contrast_factor": 1.7}),
    ("adjust_saturation", {"saturation_factor": 0.0}),
    ("adjust_saturation", {"saturation_factor": 1.45}),
    ("adjust_hue", {"hue_factor": -0.5}),
    ("adjust_hue", {"hue_factor": -0.037}),
    ("adjust_hue", {"hue_factor": 0.21}),
    ("adjust_sharpness", {"sharpness_factor": 0.3}),
    ("adjust_sharpness", {"sharpness_factor": 1.9}),
    ("affine", {"angle": 0.0, "translate": [2, -1], "scale": 1.0, "shear": [0.0, 0.0]}),
    ("affine", {"angle": 4.3, "translate": [-1, 0], "scale": 1.0, "shear": [0.0, 0.0]}),
    ("affine", {"angle": -31.0, "translate": [0, 3], "scale": 1.3, "shear": [8.0, -5.0]}),
]


def all_six():
    """LeRobot's six transforms, each certain and of one strength only, so that nothing is left to chance."""
    def one(type_name, **kwargs):
        return ImageTransformConfig(type=type_name, kwargs=kwargs)

    return {
        "brightness": one("ColorJitter", brightness=(0.9, 0.9)),
        "contrast": one("ColorJitter", contrast=(1.15, 1.15)),
        "saturation": one("ColorJitter", saturation=(0.7, 0.7)),
        "hue": one("ColorJitter", hue=(0.04, 0.04)),
        "sharpness": one("SharpnessJitter", sharpness=(1.4, 1.4)),
        "affine": one("RandomAffine", degrees=(3.0, 3.0), translate=(0.0, 0.0)),
    }


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    tensors, cases = {}, []
    inputs = pictures()
    for name, picture in inputs.items():
        tensors[f"picture/{name}"] = picture

    def record(case, picture, function):
        tensors[f"{case}/uint8"] = function(inputs[picture]).contiguous()
        tensors[f"{case}/float32"] = function(inputs[picture].float() / 255).contiguous()

    for number, (function, kwargs) in enumerate(CALLS):
        for picture in ("random", "smooth"):
            case = f"{number:02}_{picture}"
            record(case, picture, lambda image: getattr(F, function)(image, **kwargs))
            cases.append({"case": case, "picture": picture, "function": function, "kwargs": kwargs})
    record("contrast_steps", "steps", lambda image: F.adjust_contrast(image, 0.5))
    six = ImageTransforms(ImageTransformsConfig(enable=True, max_num_transforms=6, tfs=all_six()))
    record("all_six", "steps", six)

    save_file(tensors, out / "pictures.safetensors")
    versions = {"torch": torch.__version__.split("+")[0], "torchvision": torchvision.__version__.split("+")[0], "lerobot": "0.6.1"}
    (out / "cases.json").write_text(json.dumps({"versions": versions, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
