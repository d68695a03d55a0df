"""Networks from .pt2 files (torch.export), run op by op; nothing in the file is unpickled.

`torch.export.load` unpickles, evaluates strings as formulas, and calls any function of torch that
the file names, `torch.os.system` too. So the graph is read here as the plain JSON that it is, its
weights as bytes, and it can call the functions of one table and nothing else.
"""

from __future__ import annotations

import json
import math
import operator
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sceneparse.errors import refusing
from sceneparse.models.exported import (
    META_KEY,
    NOT_OURS,
    ExportedNetwork,
    read_description,
    require_file,
)

# Functions without side effects; those of aten in all their overloads. (A line per name if a list.)
_ATEN = """
    __and__ _assert_tensor_metadata _softmax abs adaptive_avg_pool2d add amax amin arange argmax
    avg_pool2d bmm cat chunk clamp clone constant_pad_nd contiguous conv1d conv2d div eq exp expand
    expand_as flatten floor_divide ge gelu group_norm gt hardsigmoid hardsigmoid_ hardswish
    hardswish_ hardtanh hardtanh_ layer_norm le leaky_relu leaky_relu_ linear lt matmul max
    max_pool2d mean min mish mul neg numpy_T pad permute pow relu relu_ reshape rsqrt
    scaled_dot_product_attention select sigmoid sigmoid_ silu silu_ slice softmax split
    split_with_sizes sqrt square squeeze stack sub sum sym_size t tanh to transpose unbind unsqueeze
    upsample_bilinear2d upsample_nearest2d view where
""".split()  # noqa: SIM905
_NUMBERS: dict[str, Callable[..., Any]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "neg")},
    **{f"_operator.{name}": getattr(operator, name) for name in ("floordiv", "mod")},
    "torch.sym_max": max,
    "torch.sym_min": min,
}
# Numbers that the format has for types of tensors and for their layout in memory.
_DTYPES = {
    1: torch.uint8,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
_PLAIN = {"as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string"}

Values = dict[str, Any]


class GraphNetwork(ExportedNetwork):
    """A .pt2 file of tools/export.py, run by PyTorch on any device.

    Raises InputError where the file is not one, or calls a function that is not in the table.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        require_file(path)
        with refusing(f"'{path}'", NOT_OURS):
            archive = _Archive(path)
            super().__init__(path, read_description(archive.entries[f"extra/{META_KEY}"], path))
            graph = archive.json("models/model.json")["graph_module"]
            sources = _sources(graph["signature"]["input_specs"])
            (output,) = graph["signature"]["output_specs"]
            self._output = output["user_output"]["arg"]["as_tensor"]["name"]
            self._steps = _steps(graph["graph"]["nodes"], self._output)
            tensors = archive.tensors("weights") | archive.tensors("constants")
            names = {name for name in sources.values() if name is not None}
            own = {name: f"tensor{number}" for number, name in enumerate(sorted(names))}
            for name in names:
                self.register_buffer(own[name], tensors[name])
        # The buffer of each of the graph's inputs; None stands for the images.
        self._buffers_of = {key: name and own[name] for key, name in sources.items()}

    def run(self, images: Tensor) -> Tensor:
        values: Values = {
            name: images.contiguous() if buffer is None else getattr(self, buffer)
            for name, buffer in self._buffers_of.items()
        }
        with refusing(f"'{self.path}'", "cannot run"):
            for step in self._steps:
                step.call(values, images.device)
            found: Tensor = values[self._output]
        return found


class _Archive:
    """The entries of an archive as torch.save lays them out: below one folder, not compressed."""

    def __init__(self, path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if sum(info.file_size for info in infos) > path.stat().st_size:
                raise ValueError("compressed, or its entries overlap")
            self.entries = {info.filename.partition("/")[2]: archive.read(info) for info in infos}

    def json(self, name: str) -> Any:  # noqa: ANN401 - plain values of any kind
        return json.loads(self.entries[name])

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """Read the named weights or constants."""
        table = self.json(f"data/{kind}/model_{kind}_config.json")["config"]
        return {name: self._tensor(kind, name, facts) for name, facts in table.items()}

    def _tensor(self, kind: str, name: str, facts: Mapping[str, Any]) -> Tensor:
        if facts["use_pickle"]:
            raise ValueError(f"refused: '{name}' is pickled, which could run code")
        meta = facts["tensor_meta"]
        sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        content = bytearray(self.entries[f"data/{kind}/{facts['path_name']}"])
        flat = torch.frombuffer(content, dtype=_DTYPES[meta["dtype"]])
        if math.prod(sizes) > len(flat):
            raise ValueError(f"refused: '{name}' shows more numbers than the file holds")
        return flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"]).clone()


def _sources(specs: list[Mapping[str, Any]]) -> dict[str, str | None]:
    """Map the graph's inputs to names of tensors; None stands for the images."""
    sources: dict[str, str | None] = {}
    for spec in specs:
        ((kind, facts),) = spec.items()
        if kind == "user_input":
            sources[facts["arg"]["as_tensor"]["name"]] = None
        else:
            sources[facts["arg"]["name"]] = facts[f"{kind}_name"]
    if list(sources.values()).count(None) != 1:
        raise ValueError("refused: the graph must have one input")
    return sources


class _Step(NamedTuple):
    """A call: its function, arguments, the names of its results, and of values not needed after."""

    function: Callable[..., Any]
    positional: list[Mapping[str, Any]]
    named: Mapping[str, Mapping[str, Any]]
    results: list[str]
    several: bool
    last_used: list[str]

    def call(self, values: Values, device: torch.device) -> None:
        found = self.function(
            *(_value(argument, values, device) for argument in self.positional),
            **{name: _value(argument, values, device) for name, argument in self.named.items()},
        )
        if self.results:  # checks return nothing
            values.update(zip(self.results, found if self.several else [found], strict=True))
        for name in self.last_used:
            values.pop(name, None)


def _steps(nodes: list[Mapping[str, Any]], output: str) -> list[_Step]:
    """Turn the graph's nodes into calls, checked before any of them is made."""
    steps: list[_Step] = []
    needed = {output}
    for node in reversed(nodes):
        results, several = _results(node["outputs"])
        inputs = [(given["name"], given["arg"]) for given in node["inputs"]]
        used = {name for _, argument in inputs for name in _names(argument)}
        # Python's own functions know no names.
        are_named = node["target"] not in _NUMBERS
        steps.append(
            _Step(
                function=_function(node["target"]),
                positional=[] if are_named else [argument for _, argument in inputs],
                named=dict(inputs) if are_named else {},
                results=results,
                several=several,
                last_used=[name for name in {*used, *results} if name not in needed],
            )
        )
        needed |= used
    return steps[::-1]


def _function(target: str) -> Callable[..., Any]:
    if target in _NUMBERS:
        return _NUMBERS[target]
    parts = target.split(".")
    if parts[:3] != ["torch", "ops", "aten"] or len(parts) != 5 or parts[3] not in _ATEN:
        raise ValueError(f"refused: the graph calls '{target}', which is not among the allowed")
    packet = getattr(torch.ops.aten, parts[3])
    if parts[4] not in packet.overloads():
        raise ValueError(f"refused: this PyTorch has no '{target}'")
    function: Callable[..., Any] = getattr(packet, parts[4])
    return function


def _results(outputs: list[Mapping[str, Any]]) -> tuple[list[str], bool]:
    """Name the results of a call, and whether it returns several."""
    if len(outputs) != 1:
        return [name for output in outputs for name in _names(output)], True
    return _names(outputs[0]), "as_tensors" in outputs[0]


def _names(argument: Mapping[str, Any]) -> list[str]:
    """Name the values that an argument or a result stands for."""
    ((kind, content),) = argument.items()
    if kind == "as_tensor":
        return [content["name"]]
    if kind == "as_tensors":
        return [tensor["name"] for tensor in content]
    numbers = content if kind == "as_sym_ints" else [content] if kind == "as_sym_int" else []
    return [number["as_name"] for number in numbers if "as_name" in number]


def _value(argument: Mapping[str, Any], values: Values, device: torch.device) -> Any:  # noqa: ANN401
    """Return what an argument stands for."""
    ((kind, content),) = argument.items()
    if kind in _PLAIN:
        return content
    readers: dict[str, Callable[[], Any]] = {
        "as_none": lambda: None,
        "as_tensor": lambda: values[content["name"]],
        "as_tensors": lambda: [values[tensor["name"]] for tensor in content],
        "as_sym_int": lambda: _number(content, values),
        "as_sym_ints": lambda: [_number(number, values) for number in content],
        "as_scalar_type": lambda: _DTYPES[content],
        "as_memory_format": lambda: _FORMATS[content],
        "as_layout": lambda: torch.strided,
        # The graph runs where its images are, wherever it was traced.
        "as_device": lambda: device,
    }
    if kind not in readers:
        raise ValueError(f"refused: the graph has an argument of kind '{kind}'")
    return readers[kind]()


def _number(content: Mapping[str, Any], values: Values) -> Any:  # noqa: ANN401 - an int, as all know
    return values[content["as_name"]] if "as_name" in content else content["as_int"]
