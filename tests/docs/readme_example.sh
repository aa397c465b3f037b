#!/usr/bin/env bash
# The C++ program in README.md is examples/finetune_smolvla/main.cpp, line by line: what is shown is what is compiled.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
diff <(sed -n '/^```cpp$/,/^```$/p' "$root/README.md" | sed '1d;$d') "$root/examples/finetune_smolvla/main.cpp"
