"""What timm backbones of each family do at images of 97x161: trained, validated, predicted.

`python -m tests.backbones` tries them all (20 minutes on one core) and writes
results/backbones.json and the table in docs/reference/backbones.md.
`python -m tests.backbones NAME ...` tries some and replaces their rows.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn import functional as F

from sceneparse.data.datasets import create_dataset
from sceneparse.data.synthetic import write_dataset
from sceneparse.errors import InputError
from sceneparse.inference.protocols import PROTOCOLS, create_protocol
from sceneparse.models import create_segmentation_model
from sceneparse.models.segmentation import SegmentationModel
from sceneparse.report.tables import Table
from sceneparse.training.sizes import validate_sizes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "backbones.json"
PAGE = ROOT / "docs" / "reference" / "backbones.md"
BEGIN, END = "<!-- backbones: begin -->\n", "<!-- backbones: end -->\n"
SIZE, CLASSES = (97, 161), 9

# A small member of each family of timm: its module, or a kind of network within one.
BACKBONES = {
    "beit": "beit_base_patch16_224",
    "byoanet (halonet)": "halonet_h1",
    "byoanet (botnet)": "botnet26t_256",
    "byoanet (lambda)": "lambda_resnet26t",
    "byobnet (gernet)": "gernet_s",
    "byobnet (repvgg)": "repvgg_a0",
    "byobnet (mobileone)": "mobileone_s0",
    "byobnet (resnext)": "resnext26ts",
    "cait": "cait_xxs24_224",
    "coat": "coat_lite_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto",
    "convnextv2": "convnextv2_atto",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cspresnet50",
    "cspnet (cs3darknet)": "cs3darknet_s",
    "cspnet (darknet)": "darknet17",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "efficientnet_b0",
    "efficientnet (fbnet)": "fbnetc_100",
    "efficientnet (mixnet)": "mixnet_s",
    "efficientnet (mnasnet)": "mnasnet_small",
    "efficientnet (mobilenetv2)": "mobilenetv2_035",
    "efficientnet (spnasnet)": "spnasnet_100",
    "efficientnet (tinynet)": "tinynet_e",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224",
    "eva (dinov3)": "vit_small_patch16_dinov3",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_a",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit (coatnet)": "coatnet_nano_rw_224",
    "maxxvit (maxvit)": "maxvit_pico_rw_256",
    "metaformer (caformer)": "caformer_s18",
    "metaformer (poolformer)": "poolformer_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv3 (lcnet)": "lcnet_035",
    "mobilenetv3 (mobilenetv4)": "mobilenetv4_conv_small",
    "mobilevit": "mobilevit_xxs",
    "mobilevit (v2)": "mobilevitv2_050",
    "mvitv2": "mvitv2_tiny",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nf_regnet_b0",
    "pit": "pit_ti_224",
    "pvt_v2": "pvt_v2_b0",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "res2net": "res2net50_14w_8s",
    "resnest": "resnest14d",
    "resnet": "resnet10t",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_pcpvt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224",
    "vision_transformer (dinov2)": "vit_small_patch14_reg4_dinov2",
    "vision_transformer (small)": "vit_small_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41",
    "xcit": "xcit_nano_12_p8_224",
}


@dataclass
class Outcome:
    """What a backbone needs, or why it was refused before training.

    `parameters`: in millions. `unused`: tensors of parameters that get no gradient.
    """

    backbone: str
    parameters: float = 0.0
    output_strides: list[int] = field(default_factory=list)
    size_multiple: int = 0
    min_size: int = 0
    max_size: int | None = None
    unused: int = 0
    refused: str = ""


def try_backbone(name: str, scenes: Path) -> Outcome:
    """Train, validate and predict with a backbone; errors other than a refusal are raised.

    scenes: a dataset whose images have SIZE.
    """
    outcome = Outcome(name)
    for stride in (32, 16, 8):
        try:
            with torch.device("meta"):
                create(name, stride)
        except InputError as error:
            outcome.refused = outcome.refused or str(error)
        else:
            outcome.output_strides.append(stride)
    if not outcome.output_strides:
        return outcome
    outcome.refused = ""
    model = create(name, outcome.output_strides[0])
    outcome.parameters = round(sum(p.numel() for p in model.backbone.parameters()) / 1e6, 1)
    outcome.size_multiple = model.size_multiple
    outcome.min_size, outcome.max_size = model.min_size, model.max_size
    check_sizes(model, scenes)
    outcome.unused = train_step(model)
    for protocol in PROTOCOLS:
        predict(model, protocol)
    return outcome


def create(name: str, output_stride: int) -> SegmentationModel:
    """Create a small model with a backbone."""
    torch.manual_seed(0)
    return create_segmentation_model(
        "strip_pooling", name, CLASSES, output_stride=output_stride, width=16
    )


def check_sizes(model: SegmentationModel, scenes: Path) -> None:
    """Check the sizes as training does before its first step."""
    validate_sizes(
        model,
        lambda network, images: network(images, upsample=False),
        crops=(2, *model.fitting_size(*SIZE)),
        protocol=create_protocol("whole"),
        dataset=create_dataset("folder", scenes, "val"),
    )


def train_step(model: SegmentationModel) -> int:
    """Compute a loss and its gradients, which must be finite; return how many are missing."""
    generator = torch.Generator().manual_seed(0)
    size = model.fitting_size(*SIZE)
    images = torch.randn(2, 3, *size, generator=generator)
    targets = torch.randint(CLASSES, (2, *size), generator=generator)
    outputs = model.train()(images)
    assert [tuple(logits.shape[2:]) for logits in outputs.values()] == [size] * 2
    loss = sum(F.cross_entropy(logits, targets) for logits in outputs.values())
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad.isfinite().all() for p in trained if p.grad is not None)
    return sum(p.grad is None for p in trained)


@torch.inference_mode()
def predict(model: SegmentationModel, protocol: str) -> None:
    """Predict an image by a protocol, with windows and scales that no stride divides."""
    scales = (0.9, 1.3) if len(PROTOCOLS[protocol].scales) > 1 else None
    chosen = create_protocol(protocol, crop=(83, 97), base=SIZE[0], scales=scales)
    images = torch.randint(256, (1, 3, *SIZE), dtype=torch.uint8)
    scores = chosen(model.eval(), images, lambda pixels: pixels.float() / 128 - 1)
    assert scores.labels().shape == (1, *SIZE)


def page_table(outcomes: list[Outcome]) -> str:
    """Return the table of the page, a row per backbone: those that work, then the others."""
    families = {name: family for family, name in BACKBONES.items()}
    works, refused = list[list[str]](), list[list[str]]()
    for outcome in outcomes:
        names = [families[outcome.backbone], f"`{outcome.backbone}`"]
        if outcome.refused:
            refused.append([*names, outcome.refused])
            continue
        sizes = "any" if outcome.size_multiple == 1 else f"multiples of {outcome.size_multiple}"
        sizes += f" from {outcome.min_size}" if outcome.min_size > outcome.size_multiple else ""
        sizes = f"{outcome.max_size}x{outcome.max_size}" if outcome.max_size else sizes
        remark = f"{outcome.unused} tensors get no gradient" if outcome.unused else ""
        strides = ", ".join(map(str, sorted(outcome.output_strides)))
        works.append([*names, f"{outcome.parameters:.1f} M", strides, sizes, remark])
    heads = ["family", "backbone", "parameters", "output strides", "sizes", "remark"]
    tables = [
        Table("Work", heads, works),
        Table("Refused", ["family", "backbone", "refused before training because"], refused),
    ]
    shown = [table.as_markdown(numbers=False) for table in tables if table.rows]
    return "\n\n".join(shown) + "\n"


def with_table(text: str, table: str) -> str:
    """Return the page with a new table between its marks."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table + END + rest.split(END)[1]


def read_outcomes() -> list[Outcome]:
    """Return the recorded outcomes, in the order of BACKBONES."""
    return [Outcome(**row) for row in json.loads(RESULTS.read_text(encoding="utf-8"))]


def main(names: list[str]) -> None:
    """Try backbones, print and record what they do; the rows of others stay."""
    torch.set_num_threads(1)
    outcomes = {outcome.backbone: outcome for outcome in read_outcomes()}
    with TemporaryDirectory() as folder:
        write_dataset(Path(folder), {"val": 1}, size=SIZE)
        for name in names or BACKBONES.values():
            try:
                outcomes[name] = try_backbone(name, Path(folder))
            except Exception as error:  # to be mended; the others are tried all the same
                outcomes[name] = Outcome(name, refused=f"FAILED {type(error).__name__}: {error}")
            print(*asdict(outcomes[name]).values(), sep="  ", flush=True)
    recorded = [outcomes[name] for name in BACKBONES.values() if name in outcomes]
    RESULTS.write_text(json.dumps([asdict(o) for o in recorded], indent=1) + "\n", "utf-8")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_table(page, page_table(recorded)), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
