"""More processes and less memory: what is trained stays the same."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist

from sceneparse.cli import train as train_command
from sceneparse.layers.checkpointing import checkpoint_blocks
from sceneparse.models import create_segmentation_model
from sceneparse.runtime.distributed import Process, parallel_network
from sceneparse.studies.costs import saved_bytes
from sceneparse.training.loop import _sync_gradients
from tests.conftest import ROOT
from tests.processes import forkserver
from tests.test_train_seg import QUICKSTART, call

CPU = torch.device("cpu")


def make(backbone: str) -> nn.Module:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"width": 16, "output_stride": 16}
    if backbone == "resnet50":
        settings["base_width"] = 8
    return create_segmentation_model("strip_pooling", backbone, 3, **settings)


def trained(model: nn.Module, steps: int = 2) -> dict[str, Tensor]:
    """Take some steps; return all that training has changed."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(steps):
        torch.manual_seed(0)  # of dropout
        outputs = model(torch.randn(2, 3, 65, 65, generator=generator), upsample=False)
        sum(logits.square().mean() for logits in outputs.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize(
    ("backbone", "blocks"), [("resnet50", 3 + 4 + 6 + 3), ("mobilenetv2_035", 17)]
)
def test_checkpointed_blocks_train_the_same_with_less_memory(backbone: str, blocks: int) -> None:
    plain = make(backbone)
    thrifty = copy.deepcopy(plain)
    assert checkpoint_blocks(thrifty.backbone) == blocks  # type: ignore[arg-type]
    # Statistics of batch norms are counted once, though the blocks are computed twice.
    torch.testing.assert_close(trained(thrifty), trained(plain), rtol=0, atol=0)
    assert saved_bytes(thrifty, 64, 2) < 0.7 * saved_bytes(plain, 64, 2)
    images = torch.randn(1, 3, 65, 65)
    with torch.inference_mode():
        ours, expected = (net.eval()(images)["out"] for net in (thrifty, plain))
    assert torch.equal(ours, expected)


def images_of(rank: int, step: int, piece: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * rank + 10 * step + piece)
    return torch.randn(2, 3, 16, 16, generator=generator)


def learner() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def one_of_two(rank: int, store: str, accumulate: int, results: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model, optimizer = learner()
    parallel = parallel_network(model, Process(rank, 2, CPU), accumulate=accumulate)
    for step in range(4):
        for piece in range(accumulate):
            with _sync_gradients(parallel, piece == accumulate - 1):
                loss = parallel(images_of(rank, step, piece)).square().mean() / accumulate
                loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    results.put({name: tensor.tolist() for name, tensor in model.state_dict().items()})
    dist.destroy_process_group()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_train_as_one(accumulate: int, tmp_path: Path) -> None:
    results = forkserver.Queue()
    ranks = [
        forkserver.Process(
            target=one_of_two, args=(rank, str(tmp_path / "store"), accumulate, results)
        )
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    found = [results.get(timeout=60) for _ in ranks]
    for process in ranks:
        process.join(30)
    model, optimizer = learner()
    for step in range(4):
        for rank in range(2):
            for piece in range(accumulate):
                loss = model(images_of(rank, step, piece)).square().mean()
                (loss / (2 * accumulate)).backward()
        optimizer.step()
        optimizer.zero_grad()
    for state in found:
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(torch.tensor(state[name]), tensor, rtol=1e-5, atol=1e-6)


def test_run_with_checkpointed_blocks_ends_with_the_same_weights(
    tiny: list[str], tmp_path: Path
) -> None:
    weights = []
    for number, thrifty in enumerate(("true", "false")):
        output = tmp_path / str(number)
        settings = [*tiny, "train.epochs=1", "train.amp=off", f"output={output}"]
        settings.append(f"train.gradient_checkpointing={thrifty}")
        assert call(train_command, "--config", QUICKSTART, *settings) == 0
        (saved,) = output.glob("checkpoints/*/model.safetensors")
        weights.append(saved.read_bytes())
    assert weights[0] == weights[1]


def test_slurm_script_is_valid_shell() -> None:
    script = ROOT / "docs/slurm_train.sh"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


@pytest.mark.slow
def test_run_with_compiled_network_learns_the_same(tiny: list[str], tmp_path: Path) -> None:
    losses = []
    for compiled in ("true", "false"):
        output = tmp_path / compiled
        settings = [*tiny, "train.amp=off", f"output={output}", f"train.compile={compiled}"]
        assert call(train_command, "--config", QUICKSTART, *settings) == 0
        lines = (output / "metrics.jsonl").read_text().splitlines()
        losses.append([row["loss"] for row in map(json.loads, lines) if row["kind"] == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
