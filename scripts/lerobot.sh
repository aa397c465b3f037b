# Sourced behind setup.sh by the scripts that need LeRobot 0.6.1: makes sure that a Python environment with it is there, says what
# it will install before it does, and sets LEROBOT_PYTHON. It is left as it is when it is set already.

thaw_lerobot_python() {
  local venv=${XDG_CACHE_HOME:-$HOME/.cache}/thaw/venv-lerobot-0.6.1 python
  [ -z "${LEROBOT_PYTHON:-}" ] || return 0
  if [ ! -x "$venv/bin/python" ]; then
    for python in python3.12 python3.13 ''; do
      [ -n "$python" ] || thaw_die "LeRobot 0.6.1 needs Python 3.12 or newer"
      "$python" -c '' 2>/dev/null && break
    done
    thaw_say "will install with pip into $venv: lerobot 0.6.1 and what it needs (several GB)"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install -q 'lerobot[dataset]==0.6.1' 'transformers>=5.4.0,<5.6.0' 'num2words>=0.5.14,<0.6' 'accelerate>=1.14,<2' sentencepiece protobuf
  fi
  export LEROBOT_PYTHON=$venv/bin/python
}

# PEFT as LeRobot 0.6.1 allows it, for what compares adapters; all that it needs is there with LeRobot.
thaw_peft() {
  "$LEROBOT_PYTHON" -c 'import peft' 2>/dev/null && return 0
  thaw_say "will install with pip for $LEROBOT_PYTHON: peft 0.21.2"
  "$LEROBOT_PYTHON" -m pip install -q --no-deps 'peft==0.21.2'
}
