"""Valid inputs of every kind, small, for fuzzing to begin with."""

from __future__ import annotations

import base64
import io
import json
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from sceneparse.models import create_segmentation_model


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.copy().save(stream, kind, **options)  # saving leaves traces in an image
    return stream.getvalue()


def opencv_encoded(suffix: str, values: np.ndarray) -> bytes:
    return cv2.imencode(suffix, values)[1].tobytes()


def several(image: Image.Image) -> dict[str, Any]:
    return {"save_all": True, "append_images": [image.rotate(180)]}


def images() -> list[bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    color, grey = Image.fromarray(noise), Image.fromarray(noise[..., 0])
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    floats = Image.fromarray((noise[..., 0] / 255).astype(np.float32))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    return [
        *(encoded(color, kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")),
        encoded(color, "JPEG", progressive=True, exif=exif),
        encoded(color, "JPEG", comment=b"x" * 30, restart_marker_rows=1),
        encoded(color.convert("CMYK"), "JPEG"),
        encoded(color, "PNG", exif=exif, pnginfo=None),
        encoded(color.convert("RGBA"), "PNG"),
        encoded(color.convert("P"), "PNG", transparency=3),
        encoded(grey.convert("1"), "PNG"),
        encoded(deep, "PNG"),
        encoded(color, "PNG", **several(color)),
        encoded(color, "GIF", **several(color)),
        encoded(color, "WEBP", **several(color)),
        encoded(color, "WEBP", lossless=True),
        encoded(color, "MPO", **several(color)),
        *(
            encoded(color, "TIFF", compression=kind)
            for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        ),
        encoded(grey.convert("1"), "TIFF", compression="group4"),
        encoded(deep, "TIFF"),
        encoded(floats, "TIFF"),
        encoded(color.convert("CMYK"), "TIFF", exif=exif, **several(color)),
        *(opencv_encoded(kind, noise.astype(np.uint16) * 16) for kind in (".png", ".tiff")),
        b"P3 2 2 255 " + b"1 2 3 " * 4,
        b"P5 3 2 65535\n" + bytes(12),
        b"Pf\n2 2\n-1.0\n" + np.full(4, 0.5, np.float32).tobytes(),
    ]


def masks() -> list[bytes]:
    labels = np.random.default_rng(0).integers(0, 5, (9, 11), dtype=np.uint8)
    grey, palette = Image.fromarray(labels), Image.fromarray(labels).convert("P")
    palette.putpalette(bytes(range(0, 150, 10)))
    return [
        *(encoded(grey, kind) for kind in ("PNG", "BMP", "GIF", "TIFF", "PPM")),
        encoded(palette, "PNG", transparency=bytes([0, 255, 255])),
        encoded(palette, "PNG", bits=4),
        encoded(grey.point(lambda x: x * 60), "PNG", bits=2),
        encoded(palette, "TIFF", compression="tiff_lzw"),
        encoded(Image.fromarray(labels.astype(np.uint16) * 300), "PNG"),
        encoded(Image.fromarray(labels.astype(np.int32)), "TIFF"),
        encoded(grey.convert("1"), "PNG"),
        encoded(grey.convert("LA"), "PNG"),
        encoded(palette, "GIF", transparency=2),
        opencv_encoded(".tiff", labels.astype(np.float64)),
        opencv_encoded(".tiff", labels.astype(np.int8)),
    ]


CONFIG = b"""\
output: runs/x
seed: 3
data: {root: x, classes: [a, b], mean: [0.1, 0.2, 0.3]}  # comment
augment:
  crop: [161, 241]
  extra: [{name: GaussNoise, p: 0.3}]
model:
  multi_grid: null
  pretrained: "a\\u1234"
loss: {terms: {cross_entropy: 1.0}, class_weights: auto}
optim: &x {lr: 1e-3}
@train.ema=0.9
@loss.terms.dice=0.5
@eval.scales=[0.5, 1]
"""
CLASSES = b"""\
model: timm:resnet18
seeds: 0-4
data:
  dataset: folder
  limit: 100
optim: {milestones: [1, 2], gamma: .1}
? train
: {epochs: 3}
"""
MODEL = {
    "head": "fcn",
    "backbone": "resnet18",
    "num_classes": 2,
    "base_width": 8,
    "stem": "plain",
    "aux": False,
    "attention": "none",
    "multi_grid": [1, 2, 4],
    "width": 8,
}
META = {
    "task": "segmentation",
    "model": MODEL,
    "classes": ["a", "b"],
    "colors": [[1, 2, 3], [4, 5, 6]],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
    "data": {"dataset": "folder", "root": "x", "val_split": "val"},
    "eval": {"name": "slide", "crop": [32, 48], "scales": [1.0], "mirror": True, "base": 99},
    "amp": "off",
    "config": {"train": {"amp": "off", "epochs": 3}},
    "format": 2,
    "sha256": {"model.safetensors": "0", "training.pt": "1"},
}


@cache
def weights() -> dict[str, torch.Tensor]:
    arguments: dict[str, Any] = {**MODEL, "multi_grid": (1, 2, 4)}
    return create_segmentation_model(**arguments).state_dict()


def torch_saved(content: object, *, old: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not old)
    return stream.getvalue()


def pickles() -> list[bytes]:
    """The pickles inside of what torch.save writes; they are put back into whole files."""
    # All of 16 bytes, as the files that they are put into have them.
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    contents: list[object] = [
        {"a": torch.ones(4), "b": torch.arange(2)},
        {"state_dict": {"module.a": parameter, "module.b": torch.ones(2, 2).t()}, "epoch": 3},
        {"stepper": [1, 2.5, None, True, "x", (1, 2)], "position": {"epoch": np.float64(2)}},
    ]
    return [member_of(torch_saved(content), "data.pkl") for content in contents]


def member_of(data: bytes, ending: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(ending)))


def saved_files() -> list[bytes]:
    content = {"a": torch.ones(4), "b": [1, "x"]}
    return [torch_saved(content), torch_saved(content, old=True)]


LISTS = [
    b"a.png b.png\r\nc/d.png\te/f.png\n\xef\xbb\xbfx y,z w\n",
    b"2008_000002\n2008_000003\n",
    b"road\nsky\ncar\n",
    b"1 2 3\n4,5,6\n255 255 255\n",
]
COCO = {
    "images": [{"id": 0, "file_name": "a.png", "height": 6, "width": 8}],
    "categories": [{"id": 1, "name": "x"}, {"id": 7, "name": "y"}],
    "annotations": [
        {"image_id": 0, "category_id": 1, "area": 9.5, "segmentation": [[1.0, 1, 5, 1, 5, 5]]},
        {"image_id": 0, "category_id": 7, "area": 4, "segmentation": {"counts": [3, 2, 43]}},
        {
            "image_id": 0,
            "category_id": 7,
            "area": 2,
            "segmentation": {"counts": "32[1", "size": [6, 8]},
        },
    ],
}
PANOPTIC = {
    **COCO,
    "annotations": [
        {"image_id": 0, "file_name": "a.png", "segments_info": [{"id": 0, "category_id": 1}]}
    ],
}
CVAT = b"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><labels><label><name>road</name></label></labels></task></meta>
<image id="0" name="a.png" width="8" height="6">
<polygon label="road" points="1.0,1.0;6.0,1.0;6.0,4.0" z_order="1"></polygon>
<box label="road" xtl="1.0" ytl="1.0" xbr="3.0" ybr="4.0" rotation="20.0" z_order="0"></box>
<ellipse label="road" cx="3.0" cy="3.0" rx="2.0" ry="1.0"></ellipse>
<mask label="road" rle="2, 3, 1" left="1" top="1" width="3" height="2"></mask>
<points label="road" points="1.0,1.0"></points>
</image></annotations>
"""
# Of 4x2 pixels.
PNG = base64.b64encode(encoded(Image.new("1", (4, 2), 1), "PNG")).decode()
SUPERVISELY = {
    "size": {"height": 6, "width": 8},
    "objects": [
        {
            "id": 1,
            "classTitle": "road",
            "geometryType": "polygon",
            "points": {
                "exterior": [[1, 1], [6, 1], [6, 4]],
                "interior": [[[2, 1], [3, 1], [3, 2]]],
            },
        },
        {
            "id": 2,
            "classTitle": "car",
            "geometryType": "rectangle",
            "points": {"exterior": [[1, 1], [3, 4]], "interior": []},
        },
        {
            "id": 3,
            "classTitle": "car",
            "geometryType": "bitmap",
            "bitmap": {"data": PNG, "origin": [1, 1]},
        },
    ],
}
LABELME = {
    "imagePath": "a.png",
    "imageHeight": 6,
    "imageWidth": 8,
    "shapes": [
        {"label": "x", "points": [[0, 1], [5, 1], [5, 5.5]], "shape_type": "polygon"},
        {"label": "y", "points": [[0, 1], [5, 4]], "shape_type": "rectangle"},
        {"label": "z", "points": [[3, 3], [4, 4]], "shape_type": "circle"},
        {"label": "z", "points": [[3, 3], [4, 4], [5, 2]], "shape_type": "linestrip"},
        {"label": "y", "points": [[3, 3]], "shape_type": "point"},
        {"label": "x", "points": [[3, 2], [6, 3]], "shape_type": "mask", "mask": PNG},
    ],
}
VIA_REGIONS = [
    {"shape_attributes": shape, "region_attributes": {"class": label}}
    for label, shape in (
        ("x", {"name": "polygon", "all_points_x": [0, 5, 5], "all_points_y": [1, 1, 5.5]}),
        ({"y": True, "z": False}, {"name": "rect", "x": 1, "y": 1, "width": 3, "height": 2}),
        ("z", {"name": "ellipse", "cx": 3, "cy": 3, "rx": 2, "ry": 1, "theta": 0.5}),
        ("z", {"name": "circle", "cx": 3, "cy": 3, "r": 2}),
        ("z", {"name": "point", "cx": 3, "cy": 3}),
    )
]
VIA = {"a.png9": {"filename": "a.png", "size": 9, "regions": VIA_REGIONS}}
VIA_PROJECT = {
    "_via_attributes": {"region": {"class": {"type": "radio", "options": {"x": "cat", "y": ""}}}},
    "_via_img_metadata": {"a.png9": {**VIA["a.png9"], "regions": dict(enumerate(VIA_REGIONS))}},
}
VIA_TABLE = b"""\
filename,file_size,region_count,region_id,region_shape_attributes,region_attributes
a.png,9,2,0,"{""name"":""rect"",""x"":1,""y"":1,""width"":3,""height"":2}","{""a"":""x""}"
a.png,9,2,1,"{""name"":""circle"",""cx"":3,""cy"":2,""r"":2}","{""a"":{""y"":true}}"
"""
STUDIO_SIZE = {"original_width": 8, "original_height": 6, "image_rotation": 0}
STUDIO_RESULTS = [
    {**STUDIO_SIZE, "id": str(number), "type": kind, "value": {**value, kind: ["xyz"[number % 3]]}}
    for number, (kind, value) in enumerate(
        {
            "polygonlabels": {"points": [[0, 10], [50, 10], [50, 99.5]]},
            "rectanglelabels": {"x": 1, "y": 1, "width": 30, "height": 20, "rotation": 30},
            "ellipselabels": {"x": 40, "y": 40, "radiusX": 20, "radiusY": 10, "rotation": 5},
            "brushlabels": {
                "format": "rle",
                "rle": [0, 0, 0, 192, 57, 27, 254, 39, 0, 183, 255, 132, 192, 45, 255, 230, 176, 0],
            },
            "keypointlabels": {"x": 1, "y": 1, "width": 0.5},
        }.items()
    )
]
STUDIO = [
    {
        "id": 1,
        "data": {"image": "/data/upload/1/12345678-a.png"},
        "annotations": [{"result": STUDIO_RESULTS, "created_at": "2024-01-01T00:00:00Z"}],
    }
]
STUDIO_MIN = [
    {
        "image": "a.png",
        "tag": [{**STUDIO_SIZE, **result["value"]} for result in STUDIO_RESULTS[:3]],  # type: ignore[dict-item]
        "annotator": 1,
        "annotation_id": 1,
    }
]
SWEEP = b"""\
name: x
config: base.yaml
method: bayes
run_cap: 3
metric: {name: test_loss, goal: minimize}
parameters:
  attention: {values: [none, eca]}
  optim.lr: {min: 1e-4, max: 0.1, distribution: log_uniform_values}
  train.epochs: {value: 5}
  seeds: {values: [[0, 1], 3]}
early_terminate: {type: hyperband, min_iter: 1, eta: 3}
"""


def json_bytes(content: object) -> list[bytes]:
    return [json.dumps(content).encode(), json.dumps(content, indent=1).encode()]


def arrays() -> list[bytes]:
    """Arrays before they are zipped."""
    found = []
    for array in (np.zeros((2, 3, 2), np.int64), np.array(["a", "b\n"])):
        stream = io.BytesIO()
        np.save(stream, array)
        found.append(stream.getvalue())
    return found


def videos() -> list[bytes]:
    found = []
    for suffix, code in (("mp4", "mp4v"), ("avi", "MJPG"), ("mkv", "mp4v")):
        with tempfile.NamedTemporaryFile(suffix=f".{suffix}") as file:
            path = Path(file.name)
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10.0, (32, 24))
            for level in (10, 200):
                writer.write(np.full((24, 32, 3), level, np.uint8))
            writer.release()
            found.append(path.read_bytes())
    return found
