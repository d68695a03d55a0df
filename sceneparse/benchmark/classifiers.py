"""What a classifier costs: counted (parameters, multiply-adds, saved bytes) and measured here."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from statistics import median
from timeit import timeit
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sceneparse.benchmark.memory import in_a_process, peak_memory
from sceneparse.models.classification import Classifier, create_classifier
from sceneparse.models.costs import count_multiply_adds, count_parameters
from sceneparse.runtime.precision import Compute

# Arguments of create_classifier.
Arguments = Mapping[str, Any]
_SECONDS_PER_ROUND, _ROUNDS = 0.5, 5


def count_costs(arguments: Arguments, size: int, batch: int = 4) -> dict[str, float]:
    """Count what does not depend on the machine, for RGB images of `size` x `size`.

    parameters; macs, the multiply-adds of convolutions and matrices on one image; saved_bytes,
    what a training step in float32 keeps for its backward pass, for each image of a batch.
    """
    with torch.device("meta"):
        model = create_classifier(**arguments).eval()
    return {
        "parameters": count_parameters(model),
        "macs": count_multiply_adds(model, (1, 3, size, size)),
        "saved_bytes": saved_bytes(create_classifier(**arguments), size, batch) / batch,
    }


def saved_bytes(model: nn.Module, size: int, batch: int) -> int:
    """Add up the tensors that a forward pass in training keeps, each storage once, no weights."""
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
    models: Mapping[str, Arguments],
    size: int,
    batch: int,
    compute: Compute,
    say: Callable[[str], None],
) -> dict[str, dict[str, float]]:
    """Measure all models on this machine, speeds in turns so that its noise hits them alike.

    peak_bytes: most memory that training steps took beside the libraries; forward and training:
    images per second, medians.
    """
    costs: dict[str, dict[str, float]] = {}
    for name, arguments in models.items():
        say(f"memory of {name}")
        peak = in_a_process(training_peak, dict(arguments), size, batch, compute)
        costs[name] = {"peak_bytes": peak}
    works = {
        (name, kind): work
        for name, arguments in models.items()
        for kind, work in _works(create_classifier(**arguments), size, batch, compute).items()
    }
    calls = {key: _calls_per_round(work) for key, work in works.items()}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    for turn in range(_ROUNDS):
        say(f"speed, round {turn + 1} of {_ROUNDS}")
        for key, work in works.items():
            seconds[key].append(timeit(work, number=calls[key]) / calls[key])
    for (name, kind), times in seconds.items():
        costs[name][kind] = batch / median(times)
    return costs


def _calls_per_round(work: Callable[[], None]) -> int:
    work()
    return max(1, min(100, round(_SECONDS_PER_ROUND / timeit(work, number=1))))


def _works(
    model: Classifier, size: int, batch: int, compute: Compute
) -> dict[str, Callable[[], None]]:
    """Make a forward pass and a training step, each waiting until the device is done."""
    compute.place_model(model)
    images = compute.place_images(torch.randn(batch, 3, size, size))
    targets = torch.zeros(batch, dtype=torch.long, device=compute.device)
    # The weights stay as they are: trained on noise, numbers would become slow to compute with.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    @torch.inference_mode()
    def forward() -> None:
        model.eval()
        with compute.autocast():
            model(images)
        _wait(compute.device)

    def training() -> None:
        model.train()
        with compute.autocast():
            logits = model(images)
        functional.cross_entropy(logits.float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _wait(compute.device)

    return {"forward": forward, "training": training}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training_peak(arguments: Arguments, size: int, batch: int, compute: Compute) -> int:
    """Return the bytes that training steps take at most, for a process that has done nothing else.

    On a GPU what the allocator handed out, elsewhere the growth of the process.
    """
    on_gpu = compute.device.type == "cuda"
    # What the libraries load at their first use is not the net's.
    tiny = create_classifier("resnet20", 2)
    _works(tiny, 32, 2, compute)["training"]()
    del tiny
    gc.collect()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(compute.device)
    before = torch.cuda.memory_allocated(compute.device) if on_gpu else peak_memory()
    training = _works(create_classifier(**arguments), size, batch, compute)["training"]
    for _ in range(2):
        training()
    after = torch.cuda.max_memory_allocated(compute.device) if on_gpu else peak_memory()
    return after - before
