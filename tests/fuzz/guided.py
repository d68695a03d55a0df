"""Fuzz one target guided by coverage: python -m tests.fuzz.guided TARGET [libFuzzer's options]"""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sceneparse", "PIL", "yaml"]):
    from sceneparse.errors import Explained
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, *options = sys.argv[1:]
    target = TARGETS[name]
    # The last argument is the folder of inputs to begin with, and to add to.
    corpus = Path(options[-1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    def check(data: bytes) -> None:
        with suppress(Explained):
            target.fuzz(target.repair(data))

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        """Let libFuzzer and our own changes take turns: ours know lengths and words."""
        if seed % 2:
            return atheris.Mutate(data, largest)
        return target.changed(data, random.Random(seed))[:largest]

    atheris.Setup(
        [sys.argv[0], *options],
        check,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
