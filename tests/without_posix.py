"""The life of a run without what only POSIX has: train, stop, resume, evaluate, predict.

Usage: without_posix.py FOLDER SETTING ... It is a process of its own, since it hides modules and
functions before anything can import them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

import psutil  # noqa: F401 - whose part for Linux needs the module `resource`

HIDDEN = {
    os: ("symlink", "link", "getuid", "geteuid"),
    signal: ("SIGUSR1", "SIGUSR2", "SIGHUP", "pthread_sigmask", "sigtimedwait"),
}


def hide() -> None:
    """Make the process as poor as one on Windows."""
    for name in ("fcntl", "resource", "pwd", "grp", "termios"):
        sys.modules[name] = None  # type: ignore[assignment]
    for owner, names in HIDDEN.items():
        for name in names:
            delattr(owner, name)


def call(verb: str, *arguments: object) -> int:
    """Run a command in this process; return its exit code."""
    from sceneparse.cli.command import run  # noqa: PLC0415 - after hiding

    module = import_module(f"sceneparse.cli.{verb}")
    try:
        run(module.parser(), module.main, [str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def interrupt_after_a_checkpoint(run: Path) -> None:
    """Press Ctrl-C once a run has saved its first checkpoint."""
    while not (run / "last").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    """Train twice, once with a stop; evaluate and predict."""
    hide()
    folder, *settings = sys.argv[1:]
    whole, parts = Path(folder, "whole"), Path(folder, "parts")
    train = ["--config", "quickstart", *settings]
    assert call("train", *train, f"output={whole}") == 0
    threading.Thread(target=interrupt_after_a_checkpoint, args=(parts,), daemon=True).start()
    assert call("train", *train, f"output={parts}") == 75
    assert call("train", *train, f"output={parts}", "--resume") == 0
    for place in (whole, parts / "last"):
        assert call("evaluate", place, "--workers", 0) == 0
    images = Path(next(s for s in settings if s.startswith("data.root=")).partition("=")[2])
    assert call("predict", parts / "best", images / "val/images", "--output", f"{folder}/out") == 0


if __name__ == "__main__":
    main()
