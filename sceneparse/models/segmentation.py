"""A segmentation network: backbone, head and, for training, an auxiliary head."""

from __future__ import annotations

from torch import Tensor, nn

from sceneparse.layers.blocks import resize


class SegmentationModel(nn.Module):
    """Join finished parts: a backbone of four maps, a head, an auxiliary head or none.

    The auxiliary head runs in training mode only. With `upsample=False` the logits stay at the
    backbone's stride, so that nobody needs to hold K full-size maps.

    Shape: (B, 3, H, W) normalised images -> {"out": (B, K, H, W)} and, in training, "aux" alike;
    with `upsample=False` (B, K, h, w)
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, aux_head: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.aux_head = aux_head
        self.frozen_stages = 0

    def freeze_stages(self, count: int) -> None:
        """Keep stem and first `count` stages of the backbone as they are, batch statistics too."""
        self.frozen_stages = count
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> SegmentationModel:
        """Switch between training and evaluation; frozen stages stay in evaluation."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages == 0:
            return []
        modules: list[nn.Module] = self.backbone.first_stages(self.frozen_stages)  # type: ignore[operator]
        return modules

    @property
    def output_stride(self) -> int:
        """Input pixels per logit."""
        return int(self.backbone.output_stride)  # type: ignore[arg-type]

    def forward(self, images: Tensor, upsample: bool = True) -> dict[str, Tensor]:
        maps = self.backbone(images)
        outputs = {"out": self.head(maps)}
        if self.training and self.aux_head is not None:
            outputs["aux"] = self.aux_head(maps)
        if upsample:
            return {name: resize(logits, images.shape[-2:]) for name, logits in outputs.items()}
        return outputs
