""
    "Writes data/reference.safetensors with the reference implementation (written with torch 2.11, safetensors 0.8.0).

    One tensor of every element type,
    names that JSON must escape,
    an empty tensor and a scalar.One metadata entry
    : the reference writes several in no fixed order.Run in this folder by hand; the tests read the file only.
"""

import safetensors.torch
import torch

NUMBERS = [0.0, 1.0, -2.0, 3.5]
TYPES = {
    "float": [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2],
    "signed": [torch.int64, torch.int32, torch.int16, torch.int8],
    "unsigned": [torch.uint64, torch.uint32, torch.uint16, torch.uint8],
}


def main():
    tensors = {}
    for dtype in TYPES["float"]:
        tensors[str(dtype)] = torch.tensor(NUMBERS).to(dtype)
    for dtype in TYPES["signed"]:
        tensors[str(dtype)] = torch.tensor([[torch.iinfo(dtype).min, 0, torch.iinfo(dtype).max]], dtype=dtype)
    for dtype in TYPES["unsigned"]:
        tensors[str(dtype)] = torch.tensor([0, 1, 7], dtype=dtype)
    tensors["torch.bool"] = torch.tensor([True, False, True])
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(2, 0, 3)
    tensors['quote " backslash \\ tab \t bell \x07 delete \x7f é 😀 /'] = torch.arange(6.0).reshape(2, 3)
    tensors["Z"] = torch.zeros(1)
    tensors["a"] = torch.ones(1)
    safetensors.torch.save_file(tensors, "data/reference.safetensors", metadata={"format": 'pt "\n'})


if __name__ == "__main__":
    main()
