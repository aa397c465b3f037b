"""Processes that stay and take turns: A B A B … Measures nothing itself."""
from __future__ import annotations

import json
import os
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path

from bench_report import SETTING

THREADS = SETTING["threads"]


def say(text: str) -> None:
    print(f"bench-peers: {text}", file=sys.stderr, flush=True)


def environment() -> dict:
    return {**os.environ, "OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}


class ChildFailed(Exception):
    pass


class Child:
    """A process that answers a line with a line of JSON. Its stderr is kept for when it dies."""

    def __init__(self, name: str, command: list, log: Path, timeout: float = 600.0):
        self.name, self.timeout, self.buffer = name, timeout, b""
        self.log = log
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=log.open("wb"), env=environment())
        begin = time.monotonic()
        self.facts = self.answer()
        say(f"{name} is ready after {time.monotonic() - begin:.0f} s")

    def fail(self, what: str):
        self.process.poll()
        tail = self.log.read_text(errors="replace").strip().splitlines()[-12:]
        raise ChildFailed(f"{self.name}: {what} (exit code {self.process.returncode})\n  " + "\n  ".join(tail))

    def answer(self) -> dict:
        deadline = time.monotonic() + self.timeout
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                self.fail(f"no answer within {self.timeout:.0f} s")
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            if not piece:
                try:
                    self.process.wait(10)
                except subprocess.TimeoutExpired:
                    pass
                self.fail("ended")
            self.buffer += piece
        line, self.buffer = self.buffer.split(b"\n", 1)
        try:
            answer = json.loads(line)
        except ValueError:
            self.fail(f"answered {line[:200]!r}")
        if "error" in answer:
            self.fail(answer["error"])
        return answer

    def ask(self, word: str) -> dict:
        try:
            self.process.stdin.write(word.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            self.fail("ended")
        return self.answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.process.stdin.close()
            self.process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def take_turns(turns: list, rounds: int) -> dict:
    """turns: (name, child, command). Every round asks each in order; name -> list of answers."""
    answers = {name: [] for name, _, _ in turns}
    for number in range(rounds):
        for name, child, command in turns:
            answers[name].append(child.ask(command))
        shown = ", ".join(f"{name} {shown_of(answers[name][-1])}" for name, _, _ in turns)
        say(f"round {number + 1} of {rounds}: {shown}")
    return answers


def shown_of(answer: dict) -> str:
    for key, unit in (("total_ms", "ms"), ("frames_per_s", "frames/s"), ("gflops_per_s", "GFLOP/s")):
        if key in answer:
            return f"{answer[key]:.0f} {unit}"
    return "?"


def warm_up(child: Child, step: str = "go") -> None:
    """Two steps, and the peak so far is forgotten: packing weights and the loader's first batches are no steady step."""
    child.ask(step), child.ask(step), child.ask("mark")


def run_command(command: list, log: Path) -> str:
    """What a command that ends says on stdout; its stderr is added to `log`."""
    with log.open("ab") as err:
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=err, text=True, env=environment())
    if done.returncode != 0:
        tail = log.read_text(errors="replace").strip().splitlines()[-12:]
        raise ChildFailed(f"{shlex.join(str(w) for w in command)} ended with {done.returncode}\n  " + "\n  ".join(tail))
    return done.stdout
