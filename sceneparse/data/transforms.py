"""Training augmentation: an albumentations pipeline whose geometry is one affine warp.

Random scale, rotation, mirror and crop are composed into one matrix, and only the pixels of the
output crop are computed, once. The result equals resizing, rotating, mirroring, padding and
cropping one after the other, up to interpolation.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from sceneparse.data.labels import Labels

Matrix = NDArray[np.float64]
# Bilinear samples of an image shrunk by more than this skip pixels (aliasing).
_LARGEST_BILINEAR_SHRINK = 2.0


class RandomWarpCrop(A.DualTransform):  # type: ignore[misc]
    """Scale, rotate, mirror and crop at random, in one warp; image bilinear, mask nearest.

    The image is scaled by a factor uniform in `scale`, rotated about its centre with probability
    0.5 by an angle uniform in +-`rotate` degrees, mirrored with probability `flip`, padded at
    the right and bottom where it is smaller than `crop` (height, width), and cropped at random.

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
        self.crop = crop
        self.scale = scale
        self.rotate = rotate
        self.flip = flip
        self.fill = tuple(fill)
        self.fill_mask = fill_mask

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
        top = self.py_random.randint(0, max(scaled[0] - self.crop[0], 0))
        left = self.py_random.randint(0, max(scaled[1] - self.crop[1], 0))
        matrix = (
            _rotation(angle, scaled)
            @ (_mirror(scaled[1]) if mirrored else np.eye(3))
            @ _translation(left, top)
        )
        return {"crop_to_scaled": matrix, "scaled": scaled}

    def apply(
        self,
        img: NDArray[np.uint8],
        crop_to_scaled: Matrix,
        scaled: tuple[int, int],
        **_: Any,  # noqa: ANN401
    ) -> NDArray[np.uint8]:
        """Warp the image, bilinear; area-filtered first where it shrinks much."""
        if img.shape[0] > _LARGEST_BILINEAR_SHRINK * scaled[0]:
            img = cv2.resize(img, scaled[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        size = img.shape[:2]
        to_source = _between_pixel_centres(_scaling(scaled, size) @ crop_to_scaled)
        # Edge pixels are repeated, so that the rim keeps its colours; then all beyond is filled.
        warped: Any = cv2.warpAffine(
            img,
            to_source[:2],
            self.crop[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        warped[self._nearest(np.ones(size, np.uint8), to_source, 0) == 0] = self.fill
        filled: NDArray[np.uint8] = warped
        return filled

    def apply_to_mask(
        self,
        mask: Labels,
        crop_to_scaled: Matrix,
        scaled: tuple[int, int],
        **_: Any,  # noqa: ANN401
    ) -> Labels:
        """Warp the mask, nearest neighbour."""
        to_source = _between_pixel_centres(_scaling(scaled, mask.shape[:2]) @ crop_to_scaled)
        return self._nearest(mask, to_source, self.fill_mask)

    def _nearest(self, mask: Labels, to_source: Matrix, fill: int) -> Labels:
        warped: Any = cv2.warpAffine(
            mask,
            to_source[:2],
            self.crop[::-1],
            flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(fill,),
        )
        labels: Labels = warped
        return labels

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        """Name the constructor's arguments, for albumentations' own repr and serialisation."""
        return "crop", "scale", "rotate", "flip", "fill", "fill_mask"


def _between_pixel_centres(matrix: Matrix) -> Matrix:
    """Let a matrix for positions with pixel centres at +0.5 take and give OpenCV's, at +0."""
    result: Matrix = _translation(-0.5, -0.5) @ matrix @ _translation(0.5, 0.5)
    return result


def _translation(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def _scaling(size_from: tuple[int, int], size_to: tuple[int, ...]) -> Matrix:
    return np.diag([size_to[1] / size_from[1], size_to[0] / size_from[0], 1.0])


def _mirror(width: int) -> Matrix:
    return np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]], dtype=np.float64)


def _rotation(degrees: float, size: tuple[int, int]) -> Matrix:
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    x, y = size[1] / 2, size[0] / 2
    rotation: Matrix = _translation(x, y) @ turn @ _translation(-x, -y)
    return rotation


def training_transform(  # noqa: PLR0913 - one argument per augmentation
    *,
    crop: tuple[int, int],
    scale: tuple[float, float],
    rotate: float,
    flip: float,
    blur: float,
    color_jitter: float,
    fill: Sequence[int],
    ignore_index: int,
) -> A.Compose:
    """Build the training pipeline: warp and crop, 5x5 Gaussian blur, colour jitter.

    `blur` and `flip` are probabilities, `color_jitter` is a strength in 0..1, `fill` the RGB
    colour of padding. Images stay uint8; normalisation happens on the device.
    """
    steps: list[A.BasicTransform] = [
        RandomWarpCrop(crop, scale, rotate, flip, fill=fill, fill_mask=ignore_index)
    ]
    if blur:
        # Sigma 1.1 is OpenCV's choice for a 5x5 kernel, as the SPNet recipe has it.
        steps.append(A.GaussianBlur(blur_limit=(5, 5), sigma_limit=(1.1, 1.1), p=blur))
    if color_jitter:
        limits = (1 - color_jitter, 1 + color_jitter)
        steps.append(
            A.ColorJitter(brightness=limits, contrast=limits, saturation=limits, hue=(0, 0), p=1.0)
        )
    return A.Compose(steps)


def apply_seeded(
    transform: A.Compose, image: NDArray[np.uint8], mask: Labels, seed: tuple[int, ...]
) -> tuple[NDArray[np.uint8], Labels]:
    """Apply `transform` with random numbers that depend on `seed` alone.

    All steps share one generator: albumentations' own set_random_seed gives every step the same
    numbers, so that e.g. exactly the mirrored images would be blurred.
    """
    generator = np.random.default_rng(seed)
    transform.set_random_state(generator, random.Random(int(generator.integers(2**62))))  # noqa: S311
    result = transform(image=image, mask=mask)
    return result["image"], result["mask"]
