"""Averaged weights are those of PyTorch's own averaging; counts are the network's."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sceneparse.training.ema import MovingAverage


def test_average_is_that_of_pytorch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4))
    ours = MovingAverage(model, decay=0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(4):
        model(torch.randn(2, 3, 8, 8))
        for parameter in model.parameters():
            parameter.data += torch.randn_like(parameter)
        ours.update_parameters(model)
        theirs.update_parameters(model)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for own, expected in zip(ours.module.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=0)
    norm, expected_norm = ours.module[1], theirs.module[1]
    torch.testing.assert_close(norm.running_var, expected_norm.running_var, rtol=0, atol=0)
    assert norm.num_batches_tracked == model[1].num_batches_tracked == 4
