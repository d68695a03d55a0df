"""Losses and gradients that are not finite: left out, named, given up on, and never saved."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim.lr_scheduler import LambdaLR

import sceneparse.training.segmentation as building
from sceneparse.cli import train as train_command
from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.data.loader import Batch
from sceneparse.errors import NumericalError
from sceneparse.losses import LOSSES, LossSettings, segmentation_loss
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.precision import Compute
from sceneparse.training.ema import MovingAverage
from sceneparse.training.loop import train_one_epoch
from sceneparse.training.optim import Stepped, Stepper
from sceneparse.training.run import save
from sceneparse.training.segmentation import prepare_training
from tests.conftest import newest_undamaged
from tests.processes import forkserver
from tests.test_train_seg import QUICKSTART, call, folder_of

BAD_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda loss: loss * math.nan,
    "infinite with finite gradients": lambda loss: loss + math.inf,
    "finite with gradients that are not": lambda loss: (
        loss.detach() + (loss - loss.detach()).sqrt()
    ),
}


def learner(scaler: torch.amp.GradScaler | None = None) -> tuple[nn.Module, Stepper]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    return model, Stepper(
        optimizer,
        LambdaLR(optimizer, lambda step: 0.9**step),
        scaler or torch.amp.GradScaler(enabled=False),
        averaged=MovingAverage(model, decay=0.9),
    )


def take_steps(
    model: nn.Module,
    stepper: Stepper,
    count: int,
    change: Callable[[Tensor], Tensor] = lambda loss: loss,
    pixel: float = 1.0,
) -> list[tuple[Stepped, list[str]]]:
    """Train on some random batches; return what became of the steps."""
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    steps = train_one_epoch(
        model,
        [Batch(images, torch.zeros(2), ("a", "b")) for _ in range(count)],
        stepper,
        forward=lambda net, x: net(x),
        loss_function=lambda outputs, _: change(outputs.square().mean()),
        normalize=lambda x: x / 255 * pixel,
        compute=Compute(torch.device("cpu"), channels_last=False),
        accumulate=1,
        seed=(0,),
        first_step=0,
    )
    return [(stepped, names) for _, stepped, names in steps]


def all_state(model: nn.Module, stepper: Stepper) -> dict[str, Any]:
    return copy.deepcopy({"model": model.state_dict(), **stepper.state_dict()})


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.fault(27)
@pytest.mark.parametrize("bad", BAD_LOSSES)
def test_bad_step_leaves_everything_as_it_was(bad: str) -> None:
    model, stepper = learner()
    take_steps(model, stepper, 3)
    before = all_state(model, stepper)
    (done,) = take_steps(model, stepper, 1, BAD_LOSSES[bad])
    assert not done[0].moved
    assert not done[0].overflow
    assert done[1] == ["a", "b"]
    assert_same(all_state(model, stepper), before)
    take_steps(model, stepper, 1)
    with pytest.raises(AssertionError):
        assert_same(all_state(model, stepper), before)


@pytest.mark.fault(27)
def test_bad_images_do_not_reach_the_statistics_of_norms() -> None:
    model, stepper = learner()
    take_steps(model, stepper, 2)
    before = all_state(model, stepper)
    take_steps(model, stepper, 1, pixel=math.nan)
    assert_same(all_state(model, stepper), before)


def one_sick_of_two(rank: int, store: str, results: Any) -> None:
    """Be one of two processes, of which the second has an infinite loss in its second step."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model, stepper = learner()
    parallel = nn.parallel.DistributedDataParallel(model)
    take_steps(parallel, stepper, 1)
    before = all_state(model, stepper)
    change = BAD_LOSSES["infinite with finite gradients"] if rank else abs
    ((stepped, _),) = take_steps(parallel, stepper, 1, change)
    assert_same(all_state(model, stepper), before)
    results.put((rank, stepped.moved, math.isfinite(stepped.loss)))
    dist.destroy_process_group()


@pytest.mark.fault(27)
def test_processes_leave_a_step_out_together(tmp_path: Path) -> None:
    results = forkserver.Queue()
    ranks = [
        forkserver.Process(target=one_sick_of_two, args=(rank, str(tmp_path / "store"), results))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    found = {results.get(timeout=60) for _ in ranks}
    for process in ranks:
        process.join(30)
    assert found == {(0, False, True), (1, False, False)}


@pytest.mark.fault(28)
def test_overflow_of_the_scale_moves_neither_weights_nor_schedule() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    model, stepper = learner(scaler)
    before = copy.deepcopy(model.state_dict())
    # The gradient is scale x 1000 on its way, which overflows from 2**119 on.
    done = [stepped for stepped, _ in take_steps(model, stepper, 12, lambda x: x * 1e-3 * 1e3)]
    moved = [stepped.moved for stepped in done]
    left_out = moved.index(True)
    assert left_out == 127 - 118
    assert moved == [False] * left_out + [True] * (12 - left_out)
    assert all(stepped.overflow for stepped in done[:left_out])
    assert all(math.isfinite(stepped.loss) for stepped in done)
    assert stepper.schedule.last_epoch == 12 - left_out
    assert scaler.get_scale() == 2.0**118
    assert not torch.equal(model.state_dict()["0.weight"], before["0.weight"])


@pytest.mark.fault(28)
def test_scale_below_one_is_no_excuse() -> None:
    model, stepper = learner(torch.amp.GradScaler("cpu", init_scale=1.5))
    bad = BAD_LOSSES["finite with gradients that are not"]
    done = [stepped for stepped, _ in take_steps(model, stepper, 2, bad)]
    assert [stepped.overflow for stepped in done] == [False, False]


@pytest.mark.fault(27)
def test_run_gives_up_after_bad_steps_in_a_row(
    tiny: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def sick(*arguments: Any, **settings: Any) -> Tensor:
        nonlocal steps
        steps += 1
        # one bad step that is got over, and no good one after the sixth
        return segmentation_loss(*arguments, **settings) * (
            math.nan if steps in {2, 7, 8, 9} else 1
        )

    settings = [*tiny, "train.most_bad_steps=3", "train.epochs=4", "train.amp=off"]
    monkeypatch.setattr(building, "segmentation_loss", sick)
    assert call(train_command, "--config", QUICKSTART, *settings) == 3
    said = capsys.readouterr().err
    assert "error: 3 steps in a row, up to step 9, without a finite loss and gradient" in said
    assert "step 2 skipped: its loss (nan) or a gradient is not finite; samples: scene_" in said
    folder = folder_of(settings)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    left_out = [line for line in lines if line["kind"] == "left_out"]
    assert [line["step"] for line in left_out] == [2, 7, 8, 9]
    assert all(line["losses"] == ["nan"] and len(line["samples"]) == 4 for line in left_out)
    # means are those of the good steps
    assert all(math.isfinite(line["loss"]) for line in lines if line["kind"] == "train")
    saved = newest_undamaged(folder)
    assert saved is not None
    assert saved.meta["step"] == 6
    monkeypatch.undo()
    assert call(train_command, "--config", QUICKSTART, *settings, "--resume") == 0


@pytest.mark.fault(27)
def test_weights_that_are_not_finite_are_never_saved(tiny: list[str]) -> None:
    config = load_config(QUICKSTART, tiny, SegConfig)
    training = prepare_training(config, Process(0, 1, torch.device("cpu")))
    next(training.model.parameters()).data[0] = math.inf
    with pytest.raises(NumericalError, match="weights are not finite after step 0"):
        save(training)
    assert not (Path(config.output) / "checkpoints").exists()
    training.lock.release()


@pytest.mark.fault(26)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_classes_that_weigh_nothing_is_zero(name: str) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    settings = LossSettings(class_weights=torch.tensor([0.0, 0.0, 1.0]))
    targets = torch.randint(0, 2, (2, 8, 8))
    loss = segmentation_loss({"out": logits}, targets, terms={name: 1.0}, settings=settings)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))  # type: ignore[arg-type]
