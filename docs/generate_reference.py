"""Write the pages that follow from the code: settings, commands, functions, and list of modules.

Run it from the root of the repository after a change of a setting, an option, a public function, or
the name or first line of a module:

    python docs/generate_reference.py

tests/test_docs.py fails if the committed pages differ from what this script writes.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import sceneparse
from sceneparse.cli.main import COMMANDS
from sceneparse.config.classification import ClsConfig
from sceneparse.config.segmentation import SegConfig
from sceneparse.config.types import Section
from sceneparse.data.datasets import SegmentationDataset
from sceneparse.inference.predictor import Prediction
from sceneparse.models.heads import HEADS, Options
from sceneparse.studies.segmentation import StudyConfig
from sceneparse.studies.sweep.settings import SweepConfig

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# Rooms of the list of modules, with everything below them.
PLACES = ("sceneparse", "benchmarks", "tools")
BEGIN, END = "<!-- modules: begin -->\n", "<!-- modules: end -->\n"
NOTE = "<!-- Written by docs/generate_reference.py; do not edit. -->"

# Title, command, class.
CONFIGURATIONS: list[tuple[str, str, type[Section]]] = [
    ("Segmentation", "train", SegConfig),
    ("Classification", "classify", ClsConfig),
    ("Study", "study", StudyConfig),
    ("Sweep", "sweep", SweepConfig),
]
SETTINGS = """\
# Settings

Every setting of every configuration file: its allowed values, its default and its meaning. On the
command line, a setting of a section is written as `section.key`, for example `train.batch_size=8`.
`required` means that there is no default. `sceneparse train --config NAME --print-config` prints
the same list with the values of one recipe.
"""
COMMAND_LINE = """\
# Commands

`sceneparse COMMAND --help` prints the same text in the terminal.

Every command also takes `--help`, `--version` (the versions that a bug report needs) and `--debug`
(the traceback of an error).

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a bug in sceneparse, or an exported file that differs from its model |
| 2 | a problem with the input; one line explains it |
| 3 | the loss was not finite in too many steps in a row |
| 75 | a signal stopped the run after it was saved; run the same command with `--resume` |
| 130, 141 | Ctrl-C without a run to save; the reader of the output closed it |
"""
PYTHON = """\
# Python

The names below are importable from `sceneparse`; `Prediction` and `SegmentationDataset` are what
they return. B is the batch, H and W are height and width, C the channels, K the number of classes.

A segmentation network is a `torch.nn.Module` that maps normalised images (B, 3, H, W) to
`{"out": logits}` with logits (B, K, H, W). In training mode there is `"aux"` as well.
`model(images, upsample=False)` returns logits at the head's stride. A classifier maps images to
logits (B, K). The keywords of `create_segmentation_model` are the settings of the section
[`model`](settings.md#model).

Input that cannot be used raises `sceneparse.errors.InputError`, a `ValueError`, with one line that
names the problem and the remedy.
"""
# Of every command; described once at the top of the page.
SHARED = {"help", "version", "debug"}


def settings_page() -> str:
    """Return the page of all settings as Markdown."""
    parts = [NOTE, SETTINGS]
    for title, command, kind in CONFIGURATIONS:
        parts.append(f"## {title}: `sceneparse {command}`\n")
        parts += _sections(kind.model_json_schema())
        parts += [_heads()] if kind is SegConfig else []
    return "\n".join(parts)


def _heads() -> str:
    """Return the table of the heads and their options."""
    rows = [
        [f"`{name}`", str(inspect.getdoc(head)).splitlines()[0], _options(head)]
        for name, head in HEADS.items()
    ]
    return "### Heads\n\n" + _markdown(["`model.head`", "what it is", "`model.head_options`"], rows)


def _options(head: object) -> str:
    """List the options of a head, each with its values, the default first."""
    options: Options = getattr(head, "options", {})
    return "; ".join(
        f"`{name}`: {', '.join(f'`{_plain(value)}`' for value in values)}"
        for name, values in options.items()
    )


def _sections(schema: Mapping[str, Any]) -> list[str]:
    """Return a table of the top level, then one per section, in the order of the class."""
    definitions = schema.get("$defs", {})
    plain, sections = {}, []
    for name, field in schema["properties"].items():
        section = _section_of(field)
        if section is None:
            plain[name] = field
        else:
            path = f"{name}.NAME" if "additionalProperties" in field else name
            sections.append((path, definitions[section]))
    parts = [_table("", {**schema, "properties": plain})] if plain else []
    for path, section_schema in sections:
        parts.append(f"### `{path}`\n\n{section_schema['description']}\n")
        parts.append(_table(f"{path}.", section_schema))
    return parts


def _section_of(field: Mapping[str, Any]) -> str | None:
    """Return the name of the section that a field holds, if it holds one."""
    places = [field, *field.get("anyOf", []), field.get("additionalProperties")]
    links = [place["$ref"] for place in places if isinstance(place, Mapping) and "$ref" in place]
    return str(links[0]).rpartition("/")[2] if links else None


def _table(prefix: str, schema: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{prefix}{name}`",
            _allowed(field),
            f"`{_plain(field['default'])}`" if "default" in field else "required",
            field.get("description", ""),
        ]
        for name, field in schema["properties"].items()
    ]
    return _markdown(["setting", "values", "default", "meaning"], rows)


def _allowed(field: Mapping[str, Any]) -> str:
    """Describe what a field allows; "names" in its schema are those of the table it takes."""
    values = _values(field)
    if "names" not in field:
        return values
    names = ", ".join(f"`{name}`" for name in field["names"])
    return values.replace("text", names) if "text" in values else f"{values}, keys: {names}"


def _values(field: Mapping[str, Any]) -> str:
    """Describe what a JSON schema allows."""
    if "anyOf" in field:
        options = [_values(option) for option in field["anyOf"]]
        return " or ".join(sorted(options, key=lambda option: option != "`null`"))
    if "enum" in field or "const" in field:
        values = field.get("enum", [field.get("const")])
        return ", ".join(f"`{_plain(value)}`" for value in values)
    kind = field.get("type", "any value")
    if kind in {"integer", "number"}:
        return {"integer": "whole number", "number": "number"}[kind] + _range(field)
    if "prefixItems" in field:
        items = field["prefixItems"]
        return f"list of {len(items)}: {_values(items[0])}"
    if kind == "array":
        return f"list of: {_values(field['items'])}" if field.get("items") else "list"
    names = {"boolean": "`true`, `false`", "string": "text", "null": "`null`", "object": "mapping"}
    return str(names.get(kind, kind))


def _range(field: Mapping[str, Any]) -> str:
    """Describe the bounds of a number; those of the computer's integers are no news."""
    words = {
        "exclusiveMinimum": "above",
        "minimum": "from",
        "exclusiveMaximum": "below",
        "maximum": "to",
    }
    bounds = [
        f"{word} {field[key]:.10g}"  # older pydantic gives 1.0 for 1
        for key, word in words.items()
        if key in field and field[key] not in {2**31, 2**32}
    ]
    return f" {' '.join(bounds)}" if bounds else ""


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def commands_page() -> str:
    """Return the page of all commands as Markdown."""
    parts = [NOTE, COMMAND_LINE]
    for verb, purpose in COMMANDS.items():
        parser: argparse.ArgumentParser = import_module(f"sceneparse.cli.{verb}").parser()
        parts += [f"## `sceneparse {verb}`\n", f"{_sentence(purpose)}\n", *_arguments(parser)]
        parts += _examples(parser.epilog or "")
    return "\n".join(parts)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def _arguments(parser: argparse.ArgumentParser) -> list[str]:
    """Return the usage and a table of the arguments; a named group begins with its title."""
    shown = [action for action in parser._actions if action.dest not in SHARED]
    positional = [_usage(action) for action in shown if not action.option_strings]
    required = [_usage(action) for action in shown if action.option_strings and action.required]
    usage = " ".join([str(parser.prog), *required, "[OPTIONS]", *positional])
    rows = []
    for number, group in enumerate(parser._action_groups):
        if number > 1:  # after positional arguments and options
            rows.append([f"**{group.title}**", group.description or ""])
        rows += [[_form(a), _meaning(a)] for a in group._group_actions if a.dest not in SHARED]
    return [f"```text\n{usage}\n```\n", _markdown(["argument", "meaning"], rows)]


def _usage(action: argparse.Action) -> str:
    """Write an argument in a line of usage."""
    name = _placeholder(action, lower=not action.option_strings)
    if action.option_strings:
        return f"{action.option_strings[0]} {name}"
    return f"[{name}]" if action.nargs in {"?", "*"} else name


def _form(action: argparse.Action) -> str:
    """Write an argument as it is typed."""
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    value = "" if action.nargs == 0 else f" {_placeholder(action)}"
    return ", ".join(f"`{name}{value}`" for name in action.option_strings)


def _placeholder(action: argparse.Action, *, lower: bool = False) -> str:
    name = action.metavar or (action.dest if lower else action.dest.upper())
    if isinstance(name, tuple):
        return " ".join(name)
    return f"{name} ..." if action.nargs in {"+", "*"} else name


def _meaning(action: argparse.Action) -> str:
    """Return an option's help, which names its choices, and whether it may be omitted."""
    text = (action.help or "").replace("%%", "%")
    if action.option_strings:
        return f"{text} (required)" if action.required else text
    counts = {"?": "optional", "*": "any number", "+": "one or more"}
    count = counts.get(str(action.nargs))
    return f"{text} ({count})" if count else text


def _examples(epilog: str) -> list[str]:
    """Split the text below the options into examples, as a shell block, and notes."""
    lines = epilog.removeprefix("examples:\n").splitlines()
    count = next((n for n, line in enumerate(lines) if not line.startswith("  ")), len(lines))
    examples = "\n".join(line.strip() for line in lines[:count])
    notes = "\n".join(lines[count:]).strip("\n")
    parts = [f"```bash\n{examples}\n```\n"] if examples else []
    return [*parts, f"```text\n{notes}\n```\n"] if notes else parts


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped) + "\n"


def python_page() -> str:
    """Return the page of the public functions and classes as Markdown."""
    names = sorted(set(sceneparse.__all__) - {"__version__"}, key=str.lower)
    public = {name: getattr(sceneparse, name) for name in names}
    returned = {kind.__name__: kind for kind in (Prediction, SegmentationDataset)}
    parts = [NOTE, PYTHON]
    for name, thing in (public | returned).items():
        text = f"{_call(name, thing)}\n\n" if name in public else ""
        parts.append(f"## `{name}`\n\n{text}{_documentation(thing)}\n")
        parts += [_members(thing)] if inspect.isclass(thing) else []
    return "\n".join(parts)


def _call(name: str, function: Callable[..., Any]) -> str:
    """Write a call with all parameters and defaults, without types, which the text gives."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    plain = signature.replace(parameters=parameters, return_annotation=signature.empty)
    return f"`{name}{plain}`"


def _members(kind: type) -> str:
    """Return a table of what a class offers besides its parameters."""
    rows = []
    for name, member in vars(kind).items():
        if isinstance(member, property | cached_property):
            rows.append([f"`{name}`", _documentation(member)])
        elif inspect.isfunction(member) and (name == "__call__" or not name.startswith("_")):
            form = _call(kind.__name__.lower() if name == "__call__" else name, member)
            rows.append([form, _documentation(member)])
    one_line = [[form, " ".join(text.split())] for form, text in rows]
    return _markdown(["member", "what it is or does"], one_line)


def _documentation(thing: object) -> str:
    """Return a docstring as Markdown, its example as a block of code."""
    text, mark, example = (inspect.getdoc(thing) or "").partition(">>> ")
    return text + (f"```python\n{example.replace(mark, '')}\n```" if example else "")


def architecture_page() -> str:
    """Return docs/architecture.md with a fresh list of modules between its marks."""
    before, _, rest = (DOCS / "architecture.md").read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    folders = {path.parent for place in PLACES for path in (ROOT / place).rglob("*.py")}
    return before + BEGIN + "\n".join(_room(folder) for folder in sorted(folders)) + END + after


def _room(folder: Path) -> str:
    """Return a heading and a table of the modules of a folder, by the first line of each."""
    rows = [
        [f"`{path.name}`", _first_line(path)]
        for path in sorted(folder.glob("*.py"))
        if path.name != "__init__.py"
    ]
    start = folder / "__init__.py"
    parts = [f"### `{folder.relative_to(ROOT).as_posix()}/`\n"]
    parts += [f"{_first_line(start)}\n"] if start.exists() else []
    parts += [_markdown(["module", "what it is"], rows)] if rows else []
    return "\n".join(parts)


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


PAGES = {
    "reference/settings.md": settings_page,
    "reference/commands.md": commands_page,
    "reference/python.md": python_page,
    "architecture.md": architecture_page,
}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
