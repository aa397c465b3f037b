# Sourced by the other scripts: makes sure that a C++ toolchain, the libraries and a Python environment with LibTorch and
# Arrow are there. Says what it will install before it does; installs nothing that is present. Sets THAW_PYTHON.
#
# Environment: THAW_PYTHON  a Python whose environment already has torch 2.11 and pyarrow (nothing is installed with pip)
#              THAW_VENV    where to make the environment (default: ~/.cache/thaw/venv-<versions>)

thaw_torch_version=2.11.0
thaw_pip_packages="torch==${thaw_torch_version} nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 pyarrow==26.0.1"
thaw_apt_packages="g++ cmake ninja-build ccache pkg-config git python3 python3-venv
  nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev libtomlplusplus-dev libssl-dev libgtest-dev libgmock-dev
  libavformat-dev libavcodec-dev libavutil-dev libswscale-dev libsentencepiece-dev libpcre2-dev"

thaw_say() { printf 'thaw: %s\n' "$*" >&2; }
thaw_die() { thaw_say "$*"; exit 2; }

thaw_install_apt() {  # thaw_install_apt PACKAGE...
  command -v dpkg-query >/dev/null || { thaw_say "no dpkg here: assuming that the libraries are installed ($*)"; return; }
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || thaw_die "missing packages, and neither root nor sudo to install them. Ask for:
  apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  thaw_say "will install with apt: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq || thaw_die "apt-get update failed"
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    thaw_die "apt-get install failed for: ${missing[*]}"
}

thaw_python_has_wheels() {  # thaw_python_has_wheels PYTHON: torch of our version and pyarrow, without importing them
  [ -n "$1" ] && "$1" - "$thaw_torch_version" <<'PY' 2>/dev/null
import importlib.metadata as m, importlib.util as u, sys
ok = sys.version_info >= (3, 10) and u.find_spec("torch") and u.find_spec("pyarrow")
sys.exit(0 if ok and m.version("torch").split("+")[0] == sys.argv[1] else 1)
PY
}

thaw_find_python() {
  local candidate venv=${THAW_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/thaw/venv-${thaw_torch_version}-cpu}
  for candidate in "${THAW_PYTHON:-}" "$venv/bin/python" "$(command -v python3 || true)"; do
    if thaw_python_has_wheels "$candidate"; then
      export THAW_PYTHON=$candidate
      return
    fi
  done
  [ -z "${THAW_PYTHON:-}" ] || thaw_die "THAW_PYTHON=$THAW_PYTHON has no torch $thaw_torch_version and pyarrow"
  for candidate in python3 python3.13 python3.12 python3.11 python3.10 /usr/bin/python3; do
    "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && break
    candidate=
  done
  [ -n "$candidate" ] || thaw_die "no Python 3.10 or newer that runs (apt-get install python3 python3-venv)"
  thaw_say "will install with pip into $venv: $thaw_pip_packages (about 600 MB to fetch, 1.4 GB on disk)"
  rm -rf "$venv.partial" && mkdir -p "$(dirname "$venv")"
  "$candidate" -m venv "$venv.partial" || thaw_die "cannot make a Python environment at $venv"
  # Without dependencies: a C++ program needs neither torch's Python packages nor the large CUDA libraries.
  # shellcheck disable=SC2086
  "$venv.partial/bin/python" -m pip install -q --disable-pip-version-check --no-deps $thaw_pip_packages ||
    thaw_die "pip install failed"
  rm -rf "$venv" && mv "$venv.partial" "$venv"
  export THAW_PYTHON=$venv/bin/python
}

thaw_setup() {  # thaw_setup [EXTRA_APT_PACKAGE...]
  # shellcheck disable=SC2086
  thaw_install_apt $thaw_apt_packages "$@"
  thaw_find_python
  thaw_say "using LibTorch and Arrow of $THAW_PYTHON"
}
