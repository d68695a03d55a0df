"""A segmentation network: backbone, head and, for training, an auxiliary head."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors.torch import save_file
from torch import Tensor, nn

from sceneparse.errors import refusing
from sceneparse.files import LARGEST_DESCRIPTION, read_json
from sceneparse.layers.blocks import resize
from sceneparse.models.described import Described, check_description

_DOWNLOAD_OPTIONS = ("revision", "cache_dir", "force_download", "local_files_only", "token")
WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"


class SegmentationNetwork(nn.Module, Described):
    """Whatever gives logits for images: a model, or a file that was exported from one.

    `precision` names the type of a network that computes in no other, `device_types` where it runs.
    Shape: (B, 3, H, W) normalised images, with `upsample=False` -> {"out": (B, K, h, w)}
    """

    precision: str | None = None
    device_types: tuple[str, ...] = ("cpu", "cuda")

    @property
    def output_stride(self) -> int:
        """Input pixels per logit."""
        raise NotImplementedError


class SegmentationModel(SegmentationNetwork, ModelHubMixin, library_name="sceneparse"):
    """Join finished parts: a backbone of four maps, a head, an auxiliary head or none.

    The auxiliary head runs in training mode only. With `upsample=False` the logits stay at the
    head's stride, so that nobody needs to hold K full-size maps.

    `meta` describes the model in plain values: "model" holds the arguments that
    create_segmentation_model rebuilds it with; a trained model has "classes", "colors", "mean" and
    "std" as well. `save_pretrained`, `push_to_hub` and `from_pretrained` (a folder or a repository
    of the Hugging Face hub) are huggingface_hub's.

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
        self.meta: dict[str, Any] = {}
        self._frozen: list[nn.Module] = []

    def freeze_stages(self, count: int) -> None:
        """Keep stem and first `count` stages of the backbone as they are, batch statistics too."""
        if count:
            self._freeze(self.backbone.first_stages(count))  # type: ignore[operator]

    def freeze_norms(self) -> None:
        """Keep weights and statistics of the backbone's batch norms, but those of attention."""
        self._freeze(
            module
            for name, module in self.backbone.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and "attention" not in name.split(".")
        )

    def _freeze(self, modules: Iterable[nn.Module]) -> None:
        for module in modules:
            module.requires_grad_(False)
            module.eval()
            self._frozen.append(module)

    def train(self, mode: bool = True) -> SegmentationModel:
        """Switch between training and evaluation; what is frozen stays in evaluation."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _save_pretrained(self, save_directory: Path) -> None:
        save_file(
            {name: tensor.contiguous() for name, tensor in self.state_dict().items()},
            save_directory / WEIGHTS_FILE,
        )
        text = json.dumps(self.meta, indent=1)
        (save_directory / CONFIG_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, place: str | Path, **options: Any) -> SegmentationModel:  # type: ignore[override]  # noqa: ANN401
        """Load a model from a folder, or a repository of the hub; raises InputError.

        `options` are huggingface_hub's, for downloads.
        """
        # The hub's own code reads config.json as well, and trusts it.
        with refusing(place, "holds no model of ours"):
            model: SegmentationModel = super().from_pretrained(place, **options)
        return model

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> SegmentationModel:  # noqa: ANN401
        # The builder imports this module.
        from sceneparse.models import create_segmentation_model  # noqa: PLC0415
        from sceneparse.models.pretrained import read_weights  # noqa: PLC0415
        from sceneparse.models.rebuilding import rebuild  # noqa: PLC0415

        folder = Path(model_id)
        if not folder.is_dir():
            known = {k: v for k, v in options.items() if k in _DOWNLOAD_OPTIONS}
            folder = Path(snapshot_download(model_id, **known))
        config = folder / CONFIG_FILE
        meta = check_description(read_json(config, LARGEST_DESCRIPTION), config)
        weights = read_weights(folder / WEIGHTS_FILE)
        model = rebuild(create_segmentation_model, meta["model"], weights, str(folder))
        model.meta = meta
        return model.eval()

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
