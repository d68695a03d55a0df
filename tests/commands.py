"""Find the commands that pages show, and check that they are true."""

from __future__ import annotations

import re
import shlex
from importlib import import_module

from sceneparse.cli.main import COMMANDS
from sceneparse.config.classification import ClsConfig
from sceneparse.config.loading import load_config
from sceneparse.config.recipes import find_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.studies.segmentation import read_study
from sceneparse.studies.sweep.plan import read_plan

# Files that pages make by `sceneparse recipes NAME > FILE`.
OWN_RECIPES = {"mine.yaml": "own_data"}


def commands_in(text: str) -> dict[str, list[list[str]]]:
    """Return the arguments of each `sceneparse VERB ...` in shell lines, by verb."""
    found: dict[str, list[list[str]]] = {verb: [] for verb in COMMANDS}
    text = re.sub(r"\$\((\w+)\)", r"\1", text)  # variables of make
    uses = r"(?:^|[\s/@])sceneparse ([a-z][^\n;|&>]*)"
    for words in re.findall(uses, text.replace("\\\n", " "), flags=re.MULTILINE):
        verb, *arguments = shlex.split(words, comments=True)
        found[verb].append(arguments)
    return found


def check_commands(commands: dict[str, list[list[str]]]) -> None:
    """Parse every command; settings and recipes are checked as the command itself would."""
    for verb, uses in commands.items():
        parser = import_module(f"sceneparse.cli.{verb}").parser()
        for words in uses:
            options = parser.parse_intermixed_args(words)
            if verb in {"train", "classify"}:
                kind = SegConfig if verb == "train" else ClsConfig
                recipe = OWN_RECIPES.get(options.config, options.config)
                load_config(find_config(recipe), options.overrides, kind)
            if verb == "study":
                assert read_study(find_config(options.study), options.overrides).runs
            if verb == "sweep":
                plan = read_plan(find_config(options.sweep), options.overrides, options.trials)
                assert plan.starts()


def shell_blocks(page: str) -> str:
    return "\n".join(re.findall(r"```(?:bash|sh)\n(.*?)```", page, flags=re.DOTALL))
