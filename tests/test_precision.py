"""What "auto" stands for, on machines of every kind; a resumed run keeps what it began with."""

from __future__ import annotations

import pytest
import torch

from sceneparse import precision
from sceneparse.assembly.segmentation import prepare_training
from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.distributed import Process
from sceneparse.errors import InputError
from sceneparse.precision import amp_name, choose_dtype
from sceneparse.training import train
from tests.conftest import ROOT

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "pays", "expected"),
    [
        ({"avx2": True}, True, None),
        ({"avx512_bf16": True}, True, torch.bfloat16),
        ({"avx512_bf16": True}, False, None),
        ({"amx_bf16": True}, True, torch.bfloat16),
    ],
)
def test_auto_on_cpus(
    monkeypatch: pytest.MonkeyPatch,
    capabilities: dict[str, bool],
    pays: bool,
    expected: torch.dtype | None,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(precision, "_bfloat16_pays", lambda: pays)
    assert choose_dtype("auto", CPU) == expected
    assert choose_dtype(amp_name(expected), CPU) == expected


def test_explicit_types() -> None:
    assert (choose_dtype("bf16", CPU), choose_dtype("off", CPU)) == (torch.bfloat16, None)
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        choose_dtype("fp16", CPU)


def test_resumed_run_keeps_its_type(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(ROOT / "configs/quickstart.yaml", [*tiny, "train.epochs=1"], SegConfig)
    process = Process(0, 1, CPU)
    for resume, fast in ((False, torch.bfloat16), (True, None)):
        monkeypatch.setattr(precision, "_fast_dtype", lambda _, fast=fast: fast)
        training = prepare_training(config, process, resume=resume)
        train(training)
        assert training.compute.dtype == torch.bfloat16
    assert capsys.readouterr().out.count("in bfloat16") == 2
