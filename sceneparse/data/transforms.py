"""Training augmentation: an albumentations pipeline whose geometry is one affine warp."""

import difflib
import inspect
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from sceneparse.data.labels import Labels
from sceneparse.errors import InputError, first_few

Matrix = NDArray[np.float64]
# If an image shrinks by more than this, bilinear sampling skips pixels (aliasing).
_MAX_BILINEAR_SHRINK = 2.0


class RandomWarpCrop(A.DualTransform):  # type: ignore[misc]
    """Scale, rotate, mirror and crop at random, in one warp; image bilinear, mask nearest.

    The image is scaled by a factor uniform in `scale`, rotated about its centre with probability
    0.5 by an angle uniform in +-`rotate` degrees, mirrored with probability `flip`, padded at
    the right and bottom if it is smaller than `crop` (height, width), and cropped at random.

    Shape: image (H, W, 3) uint8, mask (H, W) -> image (h, w, 3), mask (h, w) for crop (h, w).
    """

    def __init__(
        self,
        crop: tuple[int, int],
        scale: tuple[float, float] = (1.0, 1.0),
        rotate: float = 0.0,
        flip: float = 0.5,
        fill: Sequence[int] = (0, 0, 0),
        fill_mask: int = 255,
    ) -> None:
        super().__init__(p=1.0)
        self.crop, self.scale, self.rotate, self.flip = crop, scale, rotate, flip
        self.fill, self.fill_mask = tuple(fill), fill_mask

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw the random numbers of one sample and compose the matrix crop -> scaled image."""
        height, width = params["shape"][:2]
        factor = self.py_random.uniform(*self.scale)
        scaled = max(round(height * factor), 1), max(round(width * factor), 1)
        rotated = self.rotate > 0 and self.py_random.random() < 0.5
        angle = self.py_random.uniform(-self.rotate, self.rotate) if rotated else 0.0
        mirrored = self.py_random.random() < self.flip
        middle = scaled[1] / 2, scaled[0] / 2
        mirror = np.diag([-1.0 if mirrored else 1.0, 1.0, 1.0])
        turned = _about(*middle, _rotation(angle)) @ _about(*middle, mirror)
        x, y = self._draw_position(data, _scaling(scaled, (height, width)) @ turned)
        top = self._draw_start(y, self.crop[0], scaled[0])
        left = self._draw_start(x, self.crop[1], scaled[1])
        return {"crop_to_scaled": turned @ _translation(left, top), "scaled": scaled}

    def _draw_position(
        self, data: Mapping[str, Any], to_source: Matrix
    ) -> tuple[float | None, float | None]:
        """Draw a pixel (x, y) of the wanted class for the crop to show; None if any crop fits."""
        wanted = data.get("wanted_class")
        if wanted is None:
            return None, None
        rows, columns = np.nonzero(data["mask"] == wanted)
        chosen = self.py_random.randrange(len(rows))
        source = np.array([columns[chosen] + 0.5, rows[chosen] + 0.5, 1.0])
        x, y, _ = np.linalg.solve(to_source, source)
        return float(x), float(y)

    def _draw_start(self, position: float | None, crop: int, size: int) -> int:
        """Draw the start of the crop along one axis, so that the crop holds `position`, if any.

        A rotation may move the position out of the image; the crop then comes as near as it can.
        """
        last = max(size - crop, 0)
        if position is None:
            return int(self.py_random.randint(0, last))
        low = min(max(math.floor(position) - crop + 1, 0), last)
        high = max(min(math.floor(position), last), low)
        return int(self.py_random.randint(low, high))

    def apply(
        self, img: NDArray[Any], crop_to_scaled: Matrix, scaled: tuple[int, int], **_: object
    ) -> NDArray[Any]:
        """Warp the image, bilinear; area-filtered first if it shrinks much."""
        if img.shape[0] > _MAX_BILINEAR_SHRINK * scaled[0]:
            img = cv2.resize(img, scaled[::-1], interpolation=cv2.INTER_AREA)
        size = img.shape[:2]
        to_source = _to_source(crop_to_scaled, scaled, size)
        # Edge pixels are repeated, so that the border keeps its colours; then padding is filled.
        warped = self._warp(img, to_source, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
        if not _covers(size, to_source, self.crop):
            warped[self._warp(np.ones(size, np.uint8), to_source) == 0] = self.fill
        return warped

    def apply_to_mask(
        self, mask: Labels, crop_to_scaled: Matrix, scaled: tuple[int, int], **_: object
    ) -> Labels:
        """Warp the mask, nearest neighbour."""
        to_source = _to_source(crop_to_scaled, scaled, mask.shape)
        return self._warp(mask, to_source, fill=self.fill_mask)

    def _warp(
        self,
        pixels: NDArray[Any],
        to_source: Matrix,
        interpolation: int = cv2.INTER_NEAREST,
        border: int = cv2.BORDER_CONSTANT,
        fill: int = 0,
    ) -> NDArray[Any]:
        flags = interpolation | cv2.WARP_INVERSE_MAP
        matrix, size = to_source[:2], self.crop[::-1]
        return cv2.warpAffine(
            pixels, matrix, size, flags=flags, borderMode=border, borderValue=(fill,)
        )


def _covers(size: tuple[int, ...], to_source: Matrix, crop: tuple[int, int]) -> bool:
    """Return whether all pixels of the crop come from inside an image of `size` (height, width)."""
    right, bottom = crop[1] - 1, crop[0] - 1
    corners = np.array([[0, right, 0, right], [0, 0, bottom, bottom], [1, 1, 1, 1]])
    x, y, _ = to_source @ corners
    inside = min(x.min(), y.min()) >= 0 and x.max() <= size[1] - 1 and y.max() <= size[0] - 1
    return bool(inside)


def _about(x: float, y: float, matrix: Matrix) -> Matrix:
    """Return the matrix that does about the point (x, y) what `matrix` does about the origin."""
    return np.asarray(_translation(x, y) @ matrix @ _translation(-x, -y))


def _to_source(crop_to_scaled: Matrix, scaled: tuple[int, int], size: tuple[int, ...]) -> Matrix:
    """Return the matrix crop -> image of `size`, in OpenCV's convention: pixel centres at +0."""
    return _about(-0.5, -0.5, _scaling(scaled, size) @ crop_to_scaled)


def _translation(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def _scaling(size_from: tuple[int, int], size_to: tuple[int, ...]) -> Matrix:
    return np.diag([size_to[1] / size_from[1], size_to[0] / size_from[0], 1.0])


def _rotation(degrees: float) -> Matrix:
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def training_transform(  # noqa: PLR0913 - one argument per augmentation
    *,
    crop: tuple[int, int],
    scale: tuple[float, float],
    rotate: float,
    flip: float,
    blur: float,
    color_jitter: float,
    extra: Sequence[Mapping[str, Any]] = (),
    fill: Sequence[int],
    ignore_index: int,
) -> A.Compose:
    """Build the training pipeline: warp and crop, 5x5 Gaussian blur, colour jitter, then `extra`.

    `blur` and `flip` are probabilities, `color_jitter` is a strength in 0..1, `fill` the RGB
    colour of padding. `extra` are albumentations transforms by name and arguments. Images stay
    uint8; normalisation happens on the device. Raises InputError for a transform that is unknown,
    has unknown arguments, or changes sizes or types.
    """
    steps: list[A.BasicTransform] = [
        RandomWarpCrop(crop, scale, rotate, flip, fill=fill, fill_mask=ignore_index)
    ]
    if blur:
        # Sigma 1.1 is OpenCV's choice for a 5x5 kernel, as the SPNet recipe has it.
        steps.append(A.GaussianBlur(blur_limit=(5, 5), sigma_limit=(1.1, 1.1), p=blur))
    if color_jitter:
        strengths = dict.fromkeys(("brightness", "contrast", "saturation"), color_jitter)
        steps.append(A.ColorJitter(**strengths, hue=0, p=1.0))
    steps += [_named_transform(settings, ignore_index) for settings in extra]
    pipeline = A.Compose(steps)
    if extra:
        _validate_pipeline(pipeline, crop)
    return pipeline


def _named_transform(settings: Mapping[str, Any], ignore_index: int) -> A.BasicTransform:
    """Build the transform {"name": "GaussNoise", "p": 0.3, ...}; masks are filled with ignore."""
    arguments = dict(settings)
    name = arguments.pop("name", None)
    types = {n: k for n, k in vars(A).items() if isinstance(k, type)}
    kind = types.get(str(name))
    if kind is None or not issubclass(kind, A.BasicTransform):
        near = ", ".join(difflib.get_close_matches(str(name), types, n=3)) or "none"
        raise InputError(
            f"augment.extra: albumentations has no transform '{name}'; nearest: {near}"
        )
    known = inspect.signature(kind).parameters
    unknown = [argument for argument in arguments if argument not in known]
    if unknown:
        # albumentations itself would only warn.
        raise InputError(
            f"augment.extra: {name} has no argument {first_few(unknown)}; it has {', '.join(known)}"
        )
    if "fill_mask" in known and known["fill_mask"].default is not None:
        arguments.setdefault("fill_mask", ignore_index)
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"augment.extra: {name} cannot be built: {reason}") from error


def _validate_pipeline(pipeline: A.Compose, crop: tuple[int, int]) -> None:
    """Try the pipeline on a grey image: crops must keep their size, and images 8 bits."""
    image, mask = np.full((*crop, 3), 127, np.uint8), np.zeros(crop, np.uint8)
    for seed in range(8):
        try:
            changed, labels = apply_seeded(pipeline, image, mask, (seed,))
        except Exception as error:  # transforms raise types of their own
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"augment.extra cannot be applied: {reason}") from error
        if changed.shape != image.shape or changed.dtype != np.uint8 or labels.shape != mask.shape:
            raise InputError(
                f"augment.extra turns crops of {image.shape} uint8 into {changed.shape} "
                f"{changed.dtype}; sizes and types must stay the same; normalisation is done later"
            )


def apply_seeded(
    transform: A.Compose,
    image: NDArray[np.uint8],
    mask: Labels,
    seed: tuple[int, ...],
    wanted_class: int | None = None,
) -> tuple[NDArray[np.uint8], Labels]:
    """Apply `transform` with random numbers that depend on `seed` alone.

    With `wanted_class`, the crop is drawn from those that show this class. All steps share one
    generator: with albumentations' own set_random_seed, every step would draw the same numbers, and
    e.g. exactly the mirrored images would be blurred.
    """
    generator = np.random.default_rng(seed)
    transform.set_random_state(generator, random.Random(int(generator.integers(2**62))))  # noqa: S311
    result = transform(image=image, mask=mask, wanted_class=wanted_class)
    return result["image"], result["mask"]
