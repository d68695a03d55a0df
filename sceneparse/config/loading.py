"""Read settings strictly from YAML and `section.key=value`, and write them with their meaning."""

import difflib
import re
import reprlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from sceneparse.config.types import Section
from sceneparse.errors import InputError, refusing
from sceneparse.files import read_text

Config = TypeVar("Config", bound=Section)


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2 (`1e-3` is a float, `off` a text), no key twice.

    No references either: a few lines of them can stand for more than fits into memory.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            problem = "references (*name) are not supported; write the value again"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            is_text = isinstance(key, yaml.ScalarNode)
            if not is_text or key.value in seen:
                problem = f"duplicate key '{key.value}'" if is_text else "a key must be plain text"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_SCALARS = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "null": r"~|null|Null|NULL|",
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)|[-+]?(inf|nan)",
}
for _type, _pattern in _SCALARS.items():
    _StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_type}", re.compile(f"^(?:{_pattern})$"), None
    )

# A configuration has a few thousand characters; reading millions takes minutes.
_MAX_CHARACTERS = 100_000
# Messages quote wrong values, but not all of a long one.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def _parse_yaml(text: str, source: str) -> Any:  # noqa: ANN401 - YAML holds anything
    if len(text) > _MAX_CHARACTERS:
        raise InputError(f"{source}: larger than {_MAX_CHARACTERS:,} characters")
    with refusing(source, "not YAML"):
        try:
            return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
        except yaml.MarkedYAMLError as error:
            line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
            escape = "escape" in str(error.problem)  # as in "C:\Users"
            hint = "; write paths with /, or between single quotes" if escape else ""
            raise InputError(f"{source}{line}: {error.problem}{hint}") from error


def read_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Return the values of texts "section.key=value", by dotted key; raises InputError."""
    settings = {}
    for override in overrides:
        path, equals, value = override.partition("=")
        if not equals or not path:
            raise InputError(f"'{override}' is not of the form section.key=value")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(
                f"{path}: {value!r} is not UTF-8 text; call the command in that folder, with a "
                "relative path"
            )
        read = _parse_yaml(value, path)
        # A folder "photos #2": nobody comments on a command line.
        is_cut = isinstance(read, str) and " #" in value and value.strip().startswith(f"{read} ")
        settings[path] = value.strip() if is_cut else read
    return settings


def set_key(settings: dict[str, Any], path: str, value: object) -> None:
    """Set the key at a dotted path; raises InputError if a section on the path is a value."""
    *parents, key = path.split(".")
    section = settings
    for parent in parents:
        if section.get(parent) is None:  # absent, or null: a table that is off
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise InputError(f"{path}: '{parent}' is a value, not a section")
    section[key] = value


def _allowed_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the names of the keys beside the one at `location`."""
    place = iter(location[:-1])
    for name in place:
        annotation = model.model_fields[str(name)].annotation
        if get_origin(annotation) is dict:
            next(place, None)  # a table of sections
        sections = [part for part in (annotation, *get_args(annotation)) if _is_section(part)]
        if not sections:
            return []
        model = sections[0]
    return list(model.model_fields)


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _describe(kind: type[BaseModel], problem: Any) -> str:  # noqa: ANN401 - ErrorDetails
    path = ".".join(str(part) for part in problem["loc"])
    given = _SHORT.repr(problem["input"])
    match problem["type"]:
        case "extra_forbidden":
            keys = _allowed_keys(kind, problem["loc"])
            (nearest,) = difflib.get_close_matches(str(problem["loc"][-1]), keys, n=1, cutoff=0.0)
            return f"{path}: unknown key, did you mean '{nearest}'? (allowed: {', '.join(keys)})"
        case "missing":
            return f"{path}: required, but not given"
        case "dict_type":
            return f"{path}: expected keys with values, e.g. {path}.KEY=VALUE, got {given}"
        case "model_type":
            return f"{path}: expected a section with keys, got {given}"
        case "value_error":
            return f"{path}: {problem['ctx']['error']}"
    return f"{path}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {given}"


def load_config(path: str | Path, overrides: Sequence[str], kind: type[Config]) -> Config:
    """Read a YAML file, apply `section.key=value` overrides and check everything.

    Raises InputError that names every problem: unknown keys, wrong types, values out of range.
    """
    settings = read_settings(path, overrides, kind)
    if settings.get("output") is None:
        settings["output"] = f"runs/{Path(path).stem}"
    return validate(settings, kind, path, overrides)


def read_settings(
    path: str | Path, overrides: Iterable[str], kind: type[Section]
) -> dict[str, Any]:
    """Read a YAML file and apply overrides, without checking keys and values."""
    settings = _parse_yaml(read_text(Path(path), _MAX_CHARACTERS), str(path))
    settings = {} if settings is None else settings
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected sections with keys, got {type(settings).__name__}")
    for key, value in settings.items():
        field = kind.model_fields.get(key)
        # A section whose keys are all commented out.
        if value is None and field is not None and _is_section(field.annotation):
            settings[key] = {}
    for key, value in read_overrides(overrides).items():
        set_key(settings, key, value)
    return settings


def validate(
    settings: Mapping[str, Any], kind: type[Config], source: object, overrides: Sequence[str] = ()
) -> Config:
    """Turn settings into a configuration; raises InputError that names every problem.

    It names `source` too, or the command line if all problems are of keys in `overrides`.
    """
    if problems := problems_of(settings, kind):
        given = [override.partition("=")[0] for override in overrides]
        if all(any(_is_about(problem, name) for name in given) for problem in problems):
            source = "the command line"
        raise one_or_many(str(source), problems)
    return kind.model_validate(settings)


def _is_about(problem: str, name: str) -> bool:
    """Return whether a problem is one of the key `name`, or of an unknown section that it is in."""
    key, _, what = problem.partition(": ")
    in_unknown = what.startswith("unknown key") and name.startswith(f"{key}.")
    return in_unknown or f"{key}.".startswith(f"{name}.")


def problems_of(settings: Mapping[str, Any], kind: type[Section]) -> list[str]:
    """Describe every problem of settings: dotted path, given value and what is allowed."""
    try:
        kind.model_validate(settings)
    except ValidationError as error:
        return [_describe(kind, problem) for problem in error.errors()]
    return []


def one_or_many(source: str, problems: Sequence[str]) -> InputError:
    """Build the error for one problem, on one line, or for several, below each other."""
    if len(problems) == 1:
        return InputError(f"{source}: {problems[0]}")
    return InputError(f"{source}: {len(problems)} problems", *problems)


def render_config(config: Section, *, explain: bool = False) -> str:
    """Write the resolved configuration as YAML that load_config reads back to the same values.

    With `explain`, every key is followed by its meaning as a comment.
    """
    lines = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Section):
            lines.append(f"{name}:" + (f"  # {value.__doc__}" if explain else ""))
            lines += [f"  {line}" for line in render_config(value, explain=explain).splitlines()]
            continue
        plain = list(value) if isinstance(value, tuple) else value
        text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True)
        line = f"{name}: " + text.removesuffix("\n").removesuffix("\n...")
        if explain and field.description:
            line = f"{line:<40}  # {field.description}"
        lines.append(line)
    return "\n".join(lines) + "\n"
