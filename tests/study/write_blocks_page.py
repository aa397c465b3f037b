#!/usr/bin/env python3
"""Writes the page of `thaw inspect` for a policy of the published depth, 16 blocks a stack, with everything else small.

    write_blocks_page.py THAW PAGE.html
"""

import json
import pathlib
import subprocess
import sys
import tempfile

TESTS = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = TESTS / "golden" / "checkpoint_smolvla"
BLOCKS = 16


def main():
    thaw, page = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        config = json.loads((GOLDEN / "pretrained_model" / "config.json").read_text())
        vlm = json.loads((GOLDEN / "pretrained_model" / "vlm_config.json").read_text())
        config["num_vlm_layers"] = vlm["text_config"]["num_hidden_layers"] = BLOCKS
        (root / "config.json").write_text(json.dumps(config))
        (root / "vlm_config.json").write_text(json.dumps(vlm))
        tokenizer = ["--tokenizer", GOLDEN / "tokenizer"]
        subprocess.run([thaw, "init", "--config", root / "config.json", *tokenizer, "--output", root / "base"], check=True)
        subprocess.run([thaw, "inspect", root / "base", *tokenizer, "--dataset", TESTS / "data/metaworld_tiny/v30_av1",
                        "--samples", "6", "--similarity", "--plasticity", "--html", page], check=True)


if __name__ == "__main__":
    main()
