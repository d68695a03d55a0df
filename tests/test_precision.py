"""What "auto" stands for, on machines of every kind; a resumed run keeps what it began with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sceneparse.config.loading import load_config
from sceneparse.config.segmentation import SegConfig
from sceneparse.errors import InputError
from sceneparse.runtime import precision
from sceneparse.runtime.distributed import Process
from sceneparse.runtime.precision import amp_name, choose_dtype
from sceneparse.training.run import train
from sceneparse.training.segmentation import prepare_training
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
    monkeypatch.setattr(precision, "_bfloat16_pays", lambda _: pays)
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
        monkeypatch.setattr(precision, "_fast_dtype", lambda *_, fast=fast: fast)
        training = prepare_training(config, process, resume=resume)
        train(training)
        assert training.compute.dtype == torch.bfloat16
    assert capsys.readouterr().out.count("in bfloat16") == 2


@pytest.mark.parametrize("pays", [True, False])
def test_auto_measures_the_network_and_leaves_it_as_it_is(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, pays: bool
) -> None:
    kept: list[torch.Tensor] = []

    def measured(work: Any) -> bool:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            work()
        return pays

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(precision, "_bfloat16_pays", measured)
    trainings = [
        prepare_training(
            load_config(ROOT / "configs/quickstart.yaml", [*tiny, f"train.amp={amp}"], SegConfig),
            Process(0, 1, CPU),
            overwrite=amp == "off",
        )
        for amp in ("auto", "off")
    ]
    assert [t.compute.dtype for t in trainings] == [torch.bfloat16 if pays else None, None]
    assert any(tensor.shape == (2, 3, 48, 64) for tensor in kept)  # two images of the crop
    states = [training.model.state_dict() for training in trainings]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert all(parameter.grad is None for parameter in trainings[0].model.parameters())
