#!/usr/bin/env bash
# check.sh BUILD_FOLDER WORK_FOLDER: installs the build, configures the consumer project against it, builds and runs it.
set -euo pipefail
build=$1 work=$2 here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$work" && mkdir -p "$work"
cmake --install "$build" --prefix "$work/prefix" >/dev/null
cmake -S "$here" -B "$work/consumer" -G Ninja -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$work/consumer"
"$work/consumer/consumer"
"$work/prefix/bin/thaw" inspect --config smolvla
