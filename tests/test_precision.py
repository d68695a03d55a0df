"""What "auto" stands for, on machines of every kind; a resumed run keeps what it began with."""

from __future__ import annotations

import pytest
import torch

from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.errors import InputError
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.precision import amp_name, auto_dtype, choose_dtype
from sceneparse.training.run import train
from sceneparse.training.segmentation import prepare_training
from tests.conftest import ROOT

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected", "reason"),
    [
        ({}, None, "the CPU has no AMX"),
        ({"avx2": True}, None, "the CPU has no AMX"),
        ({"avx512_bf16": True, "amx_bf16": False}, None, "the CPU has no AMX"),
        ({"amx_bf16": True}, torch.bfloat16, "the CPU has AMX"),
    ],
)
def test_auto_on_cpus(
    monkeypatch: pytest.MonkeyPatch,
    capabilities: dict[str, bool],
    expected: torch.dtype | None,
    reason: str,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert auto_dtype(CPU) == (expected, reason)
    assert choose_dtype("auto", CPU) == expected
    assert choose_dtype(amp_name(expected), CPU) == expected


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_auto_on_gpus(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    major, minor = capability
    reason = f"the GPU has compute capability {major}.{minor}"
    assert auto_dtype(torch.device("cuda")) == (expected, reason)
    assert choose_dtype("auto", torch.device("cuda")) == expected


def test_explicit_types() -> None:
    assert (choose_dtype("bf16", CPU), choose_dtype("off", CPU)) == (torch.bfloat16, None)
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        choose_dtype("fp16", CPU)


def test_resumed_run_keeps_its_type(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    config = load_config(ROOT / "configs/quickstart.yaml", [*tiny, "train.epochs=1"], SegConfig)
    process = Process(0, 1, CPU)
    for resume, has_amx in ((False, True), (True, False)):
        capabilities = {"amx_bf16": has_amx}
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False
        )
        training = prepare_training(config, process, resume=resume)
        train(training)
        assert training.compute.dtype == torch.bfloat16
    said = "\n".join(logged)
    assert said.count("in bfloat16") == 2
    assert said.count("precision: bfloat16 (the CPU has AMX)") == 1
    assert said.count("precision: bfloat16 (as the run began)") == 1
