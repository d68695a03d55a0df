"""Pascal VOC's palette masks."""

from functools import partial
from pathlib import Path

from sceneparse.data.formats.shared.source import Item, Source, pair_by_name
from sceneparse.data.reading import read_mask

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)


def read(masks: Path, images: Path) -> Source:
    """Read palette masks (SegmentationClass) of images (JPEGImages); index 255 is void."""
    pairs = pair_by_name(images, masks)
    items = [Item(pair.image, partial(read_mask, pair.mask)) for pair in pairs]
    return Source(VOC_CLASSES, items)
