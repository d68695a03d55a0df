"""Fuzz for long: python -m tests.fuzz.run --count 100000 [TARGET ...]

Inputs are valid files changed in a few places, the same ones for the same seed. They run in a child
process: a crash, an error of another type than ours, over 10 seconds, or over 1 GB is a finding,
written to OUTPUT/TARGET-NUMBER with what happened.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from sceneparse.errors import Explained
from tests.fuzz.targets import TARGETS

SECONDS, KILOBYTES = 10, 1 << 20
# Children end now and then, so that the most memory they ever took is known of few inputs.
BATCH = 2000
# Above what is a finding, below what would freeze the machine.
_LARGEST_GROWTH = 6 << 30


class TookOverTenSeconds(BaseException):
    """Raised by the alarm; no handler of errors may catch it."""


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)} (all)")
    result.add_argument("--count", type=int, default=1000, help="inputs of each target (1000)")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--output", type=Path, default=Path("runs/fuzz"))
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.targets or TARGETS:
        start = time.monotonic()
        found = fuzz(name, options.count, options.seed, options.output)
        seconds = round(time.monotonic() - start, 1)
        row = {"target": name, "inputs": options.count, "seconds": seconds, "findings": found}
        rows.append(row)
        sys.stdout.write(f"{json.dumps(row)}\n")
        sys.stdout.flush()
        (options.output / "fuzz.json").write_text(json.dumps(rows, indent=1))
    return int(any(row["findings"] for row in rows))


def fuzz(name: str, count: int, seed: int, output: Path) -> dict[str, int]:
    """Run all inputs of a target; return the distinct findings and how often each occurred."""
    found: Counter[str] = Counter()
    context = multiprocessing.get_context("fork")
    done = 0
    while done < count:
        ours, theirs = context.Pipe()
        last = min(done + BATCH, count)
        child = context.Process(target=run_inputs, args=(name, range(done, last), seed, theirs))
        child.start()
        theirs.close()
        done, finding = watch(ours, child, done)
        if finding is not None:
            if finding not in found:
                save(output / f"{name}-{done - 1}", input_of(name, done - 1, seed), finding)
            found[finding] += 1
        child.join()
    return dict(found)


def watch(
    pipe: Connection, child: multiprocessing.process.BaseProcess, done: int
) -> tuple[int, str | None]:
    """Follow a child until it ends; return how many inputs are done, and what the last one did."""
    while True:
        try:
            # What is stuck outside of Python hears no alarm.
            if not pipe.poll(3 * SECONDS):
                child.kill()
                return done + 1, f"over {3 * SECONDS} s outside of Python"
            kind, value = pipe.recv()
        except EOFError:
            child.join()
            return done + 1, f"the process died with code {child.exitcode}"
        if kind == "done":
            done = value
        elif kind == "finding":
            return done + 1, value
        else:
            return done, None


def input_of(name: str, number: int, seed: int) -> bytes:
    return TARGETS[name].draw(random.Random(f"{name} {seed} {number}"))


def run_inputs(name: str, numbers: range, seed: int, pipe: Connection) -> None:
    """Run inputs until one is a finding; the child's side of `watch`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries in C print warnings
    signal.signal(signal.SIGALRM, ring)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _LARGEST_GROWTH,) * 2)
    target = TARGETS[name]
    for number in numbers:
        data = input_of(name, number, seed)
        signal.alarm(SECONDS)
        try:
            with suppress(Explained):
                target.fuzz(data)
        except BaseException as error:
            pipe.send(("finding", f"{type(error).__name__}: {place_of(error)}"))
            return
        finally:
            signal.alarm(0)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if most > KILOBYTES:
            pipe.send(("finding", f"over 1 GB: {most // 1024} MB"))
            return
        pipe.send(("done", number + 1))
    pipe.send(("end", None))


def ring(*_: object) -> None:
    raise TookOverTenSeconds


def place_of(error: BaseException) -> str:
    """Name the innermost line of ours, and the innermost of all, so that findings can be told."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/sceneparse/" in frame.filename] or frames
    lines = (ours[-1], frames[-1])
    return ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in lines)


def save(path: Path, data: bytes, finding: str) -> None:
    path.write_bytes(data)
    path.with_suffix(".txt").write_text(finding + "\n")


if __name__ == "__main__":
    sys.exit(main())
