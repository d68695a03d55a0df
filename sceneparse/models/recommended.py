"""Backbones to start with: small to middling, with weights under a permissive licence.

Their costs take a minute to compute, so they are stored: `python -m tests.recommended` writes them.
"""

from pathlib import Path

# ResNets of this package.
RECOMMENDED_RESNETS = ("resnet18", "resnet50")
# timm's names with the tag of the weights, by rising multiply-adds.
RECOMMENDED = (
    "mobilenetv4_conv_small.e2400_r224_in1k",
    "mobilenetv3_large_100.ra_in1k",
    "mobilenetv2_100.ra_in1k",
    "hgnetv2_b0.ssld_stage2_ft_in1k",
    "efficientnet_b0.ra4_e3600_r224_in1k",
    "efficientvit_b1.r288_in1k",
    "mobilenetv4_conv_medium.e500_r256_in1k",
    "edgenext_small.usi_in1k",
    "hgnetv2_b2.ssld_stage2_ft_in1k",
    "repvit_m1_1.dist_450e_in1k",
    "tf_efficientnetv2_b3.in21k_ft_in1k",
    "convnext_nano.in12k_ft_in1k",
    "tf_efficientnetv2_s.in21k_ft_in1k",
    "regnety_040.ra3_in1k",
    "convnext_tiny.in12k_ft_in1k",
    "swin_tiny_patch4_window7_224.ms_in22k_ft_in1k",
    "caformer_s18.sail_in22k_ft_in1k",
    "sam2_hiera_tiny.fb_r896_2pt1",
    "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_small_patch14_dinov2.lvd142m",
    "convnext_small.in12k_ft_in1k",
)
COSTS_FILE = Path(__file__).with_name("recommended.csv")
# Mean IoU on CamVid's validation images of the recipe camvid_mobilenet; the others are unmeasured.
CAMVID_MEAN_IOU = {"mobilenetv2_100.ra_in1k": 0.666}
