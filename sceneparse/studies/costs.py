"""What networks cost: counted, measured on this machine, and shown beside what they gain."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from timeit import timeit
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor, nn
from torch.nn import functional

from sceneparse.metrics.significance import MeanDifference
from sceneparse.models.classification import Classifier, create_classifier
from sceneparse.models.costs import count_multiply_adds, count_parameters
from sceneparse.report.plots import add_legend
from sceneparse.report.tables import Table, points, verdict_word
from sceneparse.runtime.devices import peak_bytes, reset_peak, synchronize
from sceneparse.runtime.memory import in_a_process, peak_memory
from sceneparse.runtime.precision import Compute
from sceneparse.runtime.progress import Progress
from sceneparse.studies.seeds import Spread

_SECONDS_PER_ROUND, _ROUNDS = 0.5, 5

# Arguments of create_classifier.
Arguments = Mapping[str, Any]
# Costs of one network by the keys of COSTS.
Costs = Mapping[str, float]


@dataclass(frozen=True)
class Kind:
    """A kind of cost: head of its column, unit as a number, and whether more is better."""

    head: str
    unit: float
    more_is_better: bool = False


COSTS = {
    "multiply_adds": Kind("multiply-adds (G)", 1e9),
    "parameters": Kind("parameters (M)", 1e6),
    "macs": Kind("multiply-adds (M)", 1e6),
    "saved_bytes": Kind("kept for backward (MB/image)", 2**20),
    "peak_bytes": Kind("peak training memory (MB)", 2**20),
    "forward": Kind("forward (images/s)", 1, more_is_better=True),
    "training": Kind("training (images/s)", 1, more_is_better=True),
}


def count_costs(arguments: Arguments, size: int, batch: int = 4) -> dict[str, float]:
    """Count the costs that do not depend on the machine, for RGB images of `size` x `size`.

    parameters; macs: multiply-adds of convolutions and matrices on one image; saved_bytes: bytes
    per image that a training step in float32 keeps for the backward pass.
    """
    with torch.device("meta"):
        model = create_classifier(**arguments).eval()
    return {
        "parameters": count_parameters(model),
        "macs": count_multiply_adds(model, (1, 3, size, size)),
        "saved_bytes": saved_bytes(create_classifier(**arguments), size, batch) / batch,
    }


def saved_bytes(model: nn.Module, size: int, batch: int) -> int:
    """Return the bytes of the tensors that a forward pass in training keeps, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model.train()(torch.zeros(batch, 3, size, size))
    # The tensors must live until here, or a freed address could be counted for another one.
    del logits
    return sum(saved.values())


def measure_costs(
    models: Mapping[str, Arguments], size: int, batch: int, compute: Compute
) -> dict[str, dict[str, float]]:
    """Measure all models on this machine, speeds in turns so that its noise affects all alike.

    peak_bytes: peak memory of training steps without the libraries; forward and training: images
    per second, medians.
    """
    costs: dict[str, dict[str, float]] = {}
    with Progress("measure memory", len(models), "networks") as progress:
        for name, arguments in progress.over(models.items()):
            peak = in_a_process(training_peak, dict(arguments), size, batch, compute)
            costs[name] = {"peak_bytes": peak}
    works = {
        (name, kind): work
        for name, arguments in models.items()
        for kind, work in _works(create_classifier(**arguments), size, batch, compute).items()
    }
    calls = {}
    for key, work in works.items():
        work()  # the first call is slower
        calls[key] = max(1, min(100, round(_SECONDS_PER_ROUND / timeit(work, number=1))))
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    with Progress("measure speed", _ROUNDS, "rounds") as progress:
        for _ in progress.over(range(_ROUNDS)):
            for key, work in works.items():
                seconds[key].append(timeit(work, number=calls[key]) / calls[key])
    for (name, kind), times in seconds.items():
        costs[name][kind] = batch / median(times)
    return costs


def _works(
    model: Classifier, size: int, batch: int, compute: Compute
) -> dict[str, Callable[[], None]]:
    """Return a forward pass and a training step, each of which waits for the device."""
    compute.place_model(model)
    images = compute.place_images(torch.randn(batch, 3, size, size))
    targets = torch.zeros(batch, dtype=torch.long, device=compute.device)
    # No learning rate: weights trained on noise become denormal, which is slow.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    @torch.inference_mode()
    def forward() -> None:
        model.eval()
        with compute.autocast():
            model(images)
        synchronize(compute.device)

    def training() -> None:
        model.train()
        with compute.autocast():
            logits = model(images)
        functional.cross_entropy(logits.float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize(compute.device)

    return {"forward": forward, "training": training}


def training_peak(arguments: Arguments, size: int, batch: int, compute: Compute) -> int:
    """Return the peak memory of training steps in bytes; needs a process of its own.

    On a GPU: what the allocator handed out; elsewhere: the growth of the process.
    """
    # Libraries load more at their first use, which the network does not cost.
    _works(create_classifier("resnet20", 2), 32, 2, compute)["training"]()
    gc.collect()
    reset_peak(compute.device)
    before = _bytes_held(compute.device)
    training = _works(create_classifier(**arguments), size, batch, compute)["training"]
    for _ in range(2):
        training()
    return _bytes_held(compute.device) - before


def _bytes_held(device: torch.device) -> int:
    """Return the peak memory of a GPU, or that of this process on a CPU."""
    on_gpu = peak_bytes(device)
    return peak_memory() if on_gpu is None else on_gpu


def cost_table(gains: Sequence[MeanDifference], costs: Mapping[str, Costs]) -> Table:
    """Lay out the gain over the first network beside each cost and its ratio to the first's."""
    first = next(iter(costs))
    kinds = {key: kind for key, kind in COSTS.items() if key in costs[first]}
    found = {gain.second: [points(gain.value), verdict_word(gain)] for gain in gains}
    rows = [
        [
            name,
            *found.get(name, ["", ""]),
            *(_cell(kind, own[key], costs[first][key]) for key, kind in kinds.items()),
        ]
        for name, own in costs.items()
    ]
    heads = ["", f"points over {first}", "", *(kind.head for kind in kinds.values())]
    return Table("Gain beside cost", heads, rows)


def _cell(kind: Kind, value: float, reference: float) -> str:
    digits = 2 if value / kind.unit < 100 else 0
    return f"{value / kind.unit:.{digits}f} ({value / reference:.2f}x)"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the (cost, gain) that no other point beats in both."""

    def beaten(cost: float, gain: float) -> bool:
        return any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)

    return [k for k, point in enumerate(points) if not beaten(*point)]


def draw_trade_offs(
    spreads: Mapping[str, Spread],
    costs: Mapping[str, Costs],
    label: str,
    *,
    with_intervals: bool = True,
) -> Figure:
    """Draw mean scores in percent, with intervals over seeds, against each kind of cost.

    Networks on the Pareto front are dots joined by a dashed line, the others crosses.
    """
    known = next(iter(costs.values()))
    kinds = {key: kind for key, kind in COSTS.items() if key in known}
    columns = min(len(kinds), 3)
    rows, lines = -(-len(kinds) // columns), {}
    figure = Figure(figsize=(4.5 * columns, 4 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for axes, (key, kind) in zip(panels, kinds.items(), strict=False):
        values = [costs[name][key] / kind.unit for name in spreads]
        lines = _draw_panel(axes, kind, spreads, values, with_intervals)
    for axes in panels[len(kinds) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel(label)
    add_legend(figure, lines, loc="outside lower center", ncols=min(len(lines), 6))
    return figure


def _draw_panel(
    axes: Axes, kind: Kind, spreads: Mapping[str, Spread], costs: list[float], with_intervals: bool
) -> dict[str, Line2D]:
    """Draw scores against one kind of cost; return the lines for the legend."""
    means = [100 * spread.mean for spread in spreads.values()]
    signed = [-cost if kind.more_is_better else cost for cost in costs]
    front = sorted(pareto_front([*zip(signed, means, strict=True)]), key=lambda k: costs[k])
    lines = {}
    for k, (name, spread) in enumerate(spreads.items()):
        # The colours of the other plots, which are drawn in the same order.
        ink, shape = f"C{k}", "o" if k in front else "x"
        if with_intervals and len(spread.values) > 1:
            ends = [100 * max(spread.low, 0), 100 * min(spread.high, 1)]
            axes.plot([costs[k]] * 2, ends, color=ink, linewidth=1.5, alpha=0.5)
        (lines[name],) = axes.plot(costs[k], means[k], shape, color=ink, markersize=7)
    dashes: dict[str, Any] = {"color": "#777", "linestyle": "--", "linewidth": 1, "zorder": 0}
    stairs = [costs[k] for k in front], [means[k] for k in front]
    (lines["Pareto front of the means"],) = axes.plot(*stairs, **dashes)
    axes.set_xlabel(kind.head + (", more is better" if kind.more_is_better else ""))
    axes.locator_params(axis="x", nbins=5)
    axes.grid(alpha=0.3)
    return lines
