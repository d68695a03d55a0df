"""Find properties of readable images and masks that often lead to wrong results."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base as Tag

from sceneparse.data.decoding import open_image, raw_mode_of
from sceneparse.data.pairing import Pair
from sceneparse.data.reading import largest_value
from sceneparse.errors import InputError

# A smoothed or compressed mask has many values, most of them in few pixels.
_MANY_VALUES, _RARE_SHARE, _MAX_COLORS = 16, 0.002, 300


@dataclass(frozen=True)
class Trait:
    """What a property means, as "N images TEXT", and what to do about it."""

    text: str
    remedy: str


def traits_of(pair: Pair) -> frozenset[str]:
    """Return the names in TRAITS that hold for a pair; files that cannot be opened have none."""
    try:
        with open_image(pair.image) as image, open_image(pair.mask) as mask:
            found = {
                "turned": _is_turned(image),
                "transparent": _is_transparent(image),
                "transparent mask": mask.mode in {"RGBA", "LA", "PA"} and _is_transparent(mask),
                "lossy mask": mask.format in {"JPEG", "MPO"},
                "decomposed name": _is_decomposed(pair.image) or _is_decomposed(pair.mask),
            }
    except (InputError, OSError, ValueError):  # reported as the sample's problem
        return frozenset()
    return frozenset(name for name, holds in found.items() if holds)


def bits_of(path: Path) -> tuple[int, int]:
    """Return the bits per channel that an image has, and those that its largest value needs.

    (8, 8) for all images of 8 bits and for floating-point ones.
    """
    with open_image(path) as image:
        raw_mode = raw_mode_of(image)
        deep = image.mode.startswith("I") or ";16" in raw_mode
    largest = largest_value(path) if deep else None
    return (8, 8) if largest is None else (16, max(largest.bit_length(), 1))


def explain(pair: Pair, problem: str) -> str:
    """Add to a problem of a sample what its mask shows about the cause, if anything."""
    try:
        with open_image(pair.mask) as mask:
            cause = ""
            if "outside the table" in problem and (kinds := _smoothed(mask)):
                cause = (
                    f"{kinds} values, most in few pixels, look like smoothed edges or JPEG noise: "
                    "export the mask again as PNG without smoothing, and resize masks with nearest "
                    "neighbour only"
                )
            elif "one label value per pixel" in problem:
                cause = _describe_colors(np.asarray(mask.convert("RGB")).reshape(-1, 3))
    except (InputError, OSError, ValueError):
        return problem
    return f"{problem}; {cause}" if cause else problem


def _describe_colors(pixels: NDArray[np.uint8]) -> str:
    """Return what the colours (N, 3) of a mask are, and the command that makes them labels."""
    if (pixels == pixels[:, :1]).all():
        return "its channels are equal, so save one of them as 8-bit grey"
    count = len(np.unique(pixels @ np.array([1 << 16, 1 << 8, 1])))
    noise = " (so many are smoothed edges or JPEG noise)" if count > _MAX_COLORS else ""
    return (
        f"it has {count} colours{noise}: sceneparse convert DATA NEW --classes colors.csv, a line "
        "name,r,g,b per class, with --unknown-colors nearest if colours are noisy"
    )


def _is_turned(image: Image.Image) -> bool:
    # Pillow would decode all pixels of a PNG to find EXIF data behind them.
    known = image.format != "PNG" or "exif" in image.info
    # Some cameras write 0: unknown.
    return known and image.getexif().get(Tag.Orientation) in range(2, 9)


def _is_transparent(image: Image.Image) -> bool:
    if image.mode not in {"RGBA", "LA", "PA"} and "transparency" not in image.info:
        return False
    return bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


def _is_decomposed(path: Path) -> bool:
    return unicodedata.normalize("NFC", path.name) != path.name


def _smoothed(mask: Image.Image) -> int:
    """Return how many values a mask of smoothed edges or compression noise has; 0 if it is none."""
    if mask.mode != "L":
        return 0
    counts = np.bincount(np.asarray(mask).ravel(), minlength=256)
    counts = counts[counts > 0]
    noise = (counts < _RARE_SHARE * counts.sum()).sum()
    return len(counts) if len(counts) > _MANY_VALUES and noise > len(counts) / 2 else 0


TRAITS = {
    "turned": Trait(
        "are stored sideways or upside down and turned by their EXIF orientation",
        "nothing, if the masks have the size and direction of the upright photos",
    ),
    "transparent": Trait(
        "have transparent pixels; the colours hidden in them are used",
        "save them without transparency (RGB), on the background that the network will see",
    ),
    "transparent mask": Trait(
        "have masks with transparent pixels",
        "convert them: sceneparse convert takes transparent pixels of colour masks as ignored",
    ),
    "lossy mask": Trait(
        "have masks that are JPEG files, whose compression changes label values at every edge",
        "export the masks again as PNG",
    ),
    "decomposed name": Trait(
        "have names with letters and accents stored apart (NFD, as macOS writes them)",
        "nothing here; for list files and other programs rename them: convmv -f utf8 -t utf8 "
        "--nfc --notest -r DATA",
    ),
}
