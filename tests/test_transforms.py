"""The warp against OpenCV's chain of single steps and against geometry; labels; seeding."""

from __future__ import annotations

import warnings
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sceneparse.data.transforms import RandomWarpCrop, apply_seeded, training_transform
from sceneparse.errors import InputError

FILL = (124, 116, 104)


def warp_and_parameters(
    image: np.ndarray, mask: np.ndarray, seed: int, **options: object
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    ignore = 255 if mask.dtype == np.uint8 else 65535
    warp = RandomWarpCrop(fill=FILL, fill_mask=ignore, **options)
    image, mask = apply_seeded(A.Compose([warp]), image, mask, (seed,))
    return image, mask, warp.params


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red is x and green y, and a mask whose value is y * 256 + x."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)
    return image, (y * 256 + x).astype(np.uint16)


def conventional(
    scaled: np.ndarray,
    mirrored: bool,
    offset: tuple[int, int],
    crop: tuple[int, int],
    fill: tuple[int, ...] | int,
) -> np.ndarray:
    """Mirror, pad right and bottom, crop: one after the other."""
    if mirrored:
        scaled = np.fliplr(scaled)
    bottom, right = (max(crop[axis] - scaled.shape[axis], 0) for axis in (0, 1))
    padded = cv2.copyMakeBorder(
        scaled, 0, bottom, 0, right, borderType=cv2.BORDER_CONSTANT, value=fill
    )
    top, left = offset
    return padded[top : top + crop[0], left : left + crop[1]]


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("factor", [0.3, 0.55, 0.9, 1.37, 2.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_warp_equals_resize_flip_pad_crop(seed: int, factor: float, flip: float) -> None:
    # Odd sizes: no position lies half-way between two pixels, so that nearest is unique.
    crop, (height, width) = (48, 64), (61, 85)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)]
    image = np.stack([127 + 120 * wave for wave in waves], axis=-1).astype(np.uint8)
    mask = np.random.default_rng(seed).integers(0, 200, (height, width), dtype=np.uint8)
    warped, warped_mask, params = warp_and_parameters(
        image, mask, seed, crop=crop, scale=(factor, factor), flip=flip
    )

    size = round(width * factor), round(height * factor)
    (step, _, start), (_, _, top), _ = params["crop_to_scaled"].round().astype(int)
    assert step == (-1 if flip else 1)
    offset = top, (size[0] - start if flip else start)
    shrunk = cv2.INTER_AREA if factor < 0.5 else cv2.INTER_LINEAR
    expected = conventional(
        cv2.resize(image, size, interpolation=shrunk), bool(flip), offset, crop, FILL
    )
    expected_mask = conventional(
        cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT), bool(flip), offset, crop, 255
    )
    assert np.abs(warped.astype(int) - expected).max() <= 3
    assert (warped_mask == expected_mask).mean() >= 0.99


def test_scale_one_gives_every_exact_crop() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (7, 6, 3), dtype=np.uint8)
    mask = np.arange(42, dtype=np.uint8).reshape(7, 6)
    counts = {
        conventional(mask, mirrored, (top, left), (5, 5), 255).tobytes(): 0
        for mirrored in (False, True)
        for top in range(3)
        for left in range(2)
    }
    for seed in range(240):
        warped, warped_mask, _ = warp_and_parameters(image, mask, seed, crop=(5, 5))
        counts[warped_mask.tobytes()] += 1
        np.testing.assert_array_equal(warped, image[np.divmod(warped_mask, 6)])
    # 12 crops, 20 of each expected.
    assert min(counts.values()) >= 8


@pytest.mark.parametrize("seed", range(8))
def test_image_and_mask_move_together(seed: int) -> None:
    image, mask = coordinates(90, 120)
    warped, warped_mask, _ = warp_and_parameters(
        image, mask, seed, crop=(80, 100), scale=(0.6, 2.0), rotate=25
    )
    # Away from the rim, where edge pixels are repeated.
    inside = cv2.erode((warped_mask != 65535).astype(np.uint8), np.ones((5, 5)), borderValue=0)
    assert inside.mean() > 0.2
    y, x = np.divmod(warped_mask[inside == 1].astype(int), 256)
    red, green, _ = warped[inside == 1].astype(int).T
    # Nearest is off by half a pixel at most, rounding of colours by half a level.
    assert max(np.abs(red - x).max(), np.abs(green - y).max()) <= 1


def test_rotation_turns_about_the_centre() -> None:
    height, width, limit = 81, 101, 40
    image, mask = coordinates(height, width)
    y, x = np.mgrid[:height, :width] - np.array([40, 50])[:, None, None]
    degrees = []
    for seed in range(60):
        warped, warped_mask, _ = warp_and_parameters(
            image, mask, seed, crop=(height, width), rotate=limit, flip=0.0
        )
        inside = (
            cv2.erode((warped_mask != 65535).astype(np.uint8), np.ones((5, 5)), borderValue=0) == 1
        )
        source = warped[inside][:, :2] - np.array([50.0, 40.0])
        positions = np.stack([x[inside], y[inside]], axis=-1)
        # The angle by least squares over the picture, then every pixel against the formula.
        angle = np.arctan2(
            (positions[:, 0] * source[:, 1] - positions[:, 1] * source[:, 0]).sum(),
            (positions * source).sum(),
        )
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        # Half a level is the rounding of colours.
        assert np.abs(positions @ turn - source).max() < 0.6
        degrees.append(np.rad2deg(angle))
    turned = np.array(degrees)[np.abs(degrees) > 0.1]
    assert 20 <= len(turned) <= 40
    assert -limit - 0.1 <= turned.min() < -limit / 2
    assert limit / 2 < turned.max() <= limit + 0.1


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
SEEDS = st.integers(0, 2**31)
PROPERTY = settings(max_examples=80, deadline=None, derandomize=True)


@pytest.mark.fault(24)
@PROPERTY
@given(SIZES, SIZES, st.floats(0.2, 3), st.floats(1, 2), st.floats(0, 45), st.booleans(), SEEDS)
def test_labels_stay_a_subset_and_shapes_are_the_crop(
    size: tuple[int, int],
    crop: tuple[int, int],
    smallest: float,
    spread: float,
    rotate: float,
    wide: bool,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    dtype, ignore = (np.uint16, 65535) if wide else (np.uint8, 255)
    mask = random.choice([0, 3, 7, ignore - 1], size).astype(dtype)
    transform = training_transform(
        crop=crop,
        scale=(smallest, smallest * spread),
        rotate=rotate,
        flip=0.5,
        blur=0.5,
        color_jitter=0.4,
        fill=FILL,
        ignore_index=ignore,
    )
    warped, warped_mask = apply_seeded(transform, image, mask, (seed,))
    assert warped.shape == (*crop, 3)
    assert warped_mask.shape == crop
    assert (warped.dtype, warped_mask.dtype) == (np.uint8, dtype)
    assert set(np.unique(warped_mask)) <= {*np.unique(mask), ignore}


@pytest.mark.fault(24)
@PROPERTY
@given(SIZES, SIZES, st.floats(0.2, 3), SEEDS)
def test_padding_is_ignored_and_of_the_fill_colour(
    size: tuple[int, int], crop: tuple[int, int], factor: float, seed: int
) -> None:
    warped, warped_mask, _ = warp_and_parameters(
        np.zeros((*size, 3), np.uint8),
        np.ones(size, np.uint8),
        seed,
        crop=crop,
        scale=(factor, factor),
    )
    scaled = [max(round(length * factor), 1) for length in size]
    expected = np.full(crop, 255)
    expected[: scaled[0], : scaled[1]] = 1
    np.testing.assert_array_equal(warped_mask, expected)
    np.testing.assert_array_equal((warped == FILL).all(axis=-1), expected == 255)


@pytest.mark.fault(22)
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 2)])
def test_tiny_image_keeps_its_pixels(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.random.default_rng(1).integers(0, 9, size, dtype=np.uint8)
    warped, warped_mask, _ = warp_and_parameters(image, mask, 0, crop=(50, 50), flip=0.0)
    expected, expected_mask = np.full((50, 50, 3), FILL), np.full((50, 50), 255)
    expected[: size[0], : size[1]], expected_mask[: size[0], : size[1]] = image, mask
    np.testing.assert_array_equal(warped, expected)
    np.testing.assert_array_equal(warped_mask, expected_mask)


def photo_and_mask() -> tuple[np.ndarray, np.ndarray]:
    """Noise, which blur flattens, beside a mask that tells left from right."""
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return image, np.tile(np.arange(32, dtype=np.uint8), (32, 1))


def full_transform(**changes: object) -> A.Compose:
    options: dict[str, Any] = {
        "scale": (0.5, 2.0),
        "rotate": 10,
        "flip": 0.5,
        "blur": 0.5,
        "color_jitter": 0.4,
    }
    options.update(changes)
    return training_transform(crop=(32, 32), fill=FILL, ignore_index=255, **options)


@pytest.mark.fault(23)
def test_seed_alone_decides() -> None:
    image, mask = photo_and_mask()
    used, fresh = full_transform(), full_transform()
    apply_seeded(used, image, mask, (9, 9, 9))
    results = set()
    for epoch in range(25):
        first = apply_seeded(used, image, mask, (0, epoch, 3))
        again = apply_seeded(fresh, image, mask, (0, epoch, 3))
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, other)
        results.add(first[0].tobytes())
    for seed in ((1, 0, 3), (0, 0, 4)):
        results.add(apply_seeded(used, image, mask, seed)[0].tobytes())
    assert len(results) == 27


def test_flip_and_blur_are_independent() -> None:
    image, mask = photo_and_mask()
    transform = full_transform(scale=(1.0, 1.0), rotate=0, color_jitter=0)
    counts = {(mirrored, blurred): 0 for mirrored in (False, True) for blurred in (False, True)}
    for index in range(200):
        warped, warped_mask = apply_seeded(transform, image, mask, (0, 0, index))
        counts[bool(warped_mask[0, 0]), bool(warped.std() < image.std() / 2)] += 1
    # 50 of each expected.
    assert min(counts.values()) >= 30


def test_steps_draw_independently() -> None:
    image, mask = photo_and_mask()
    transform = full_transform(rotate=0)
    warp, _, jitter = transform.transforms
    draws = []
    for index in range(200):
        apply_seeded(transform, image, mask, (0, 0, index))
        mirrored = warp.params["crop_to_scaled"][0, 0] < 0
        colors = [jitter.params[name] for name in ("brightness", "contrast", "saturation")]
        draws.append([warp.params["scaled"][0], mirrored, *colors])
    correlations = np.corrcoef(np.array(draws, dtype=float).T) - np.eye(5)
    # Chance alone gives 0.07 on average.
    assert np.abs(correlations).max() < 0.25


def test_blur_is_opencvs() -> None:
    image, mask = photo_and_mask()
    transform = full_transform(scale=(1.0, 1.0), rotate=0, flip=0, blur=1.0, color_jitter=0)
    blurred, _ = apply_seeded(transform, image, mask, (0,))
    expected = cv2.GaussianBlur(image, (5, 5), 1.1)
    assert np.abs(blurred.astype(int) - expected).max() <= 1


def test_albumentations_accepts_every_argument() -> None:
    # It only warns of arguments that it does not know.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full_transform()


def with_extra(*extra: dict[str, Any]) -> A.Compose:
    return training_transform(
        crop=(32, 48),
        scale=(1.0, 1.0),
        rotate=0,
        flip=0,
        blur=0,
        color_jitter=0,
        extra=extra,
        fill=FILL,
        ignore_index=255,
    )


@pytest.mark.fault(24)
def test_named_transforms_are_applied_and_what_they_add_is_ignored() -> None:
    image, mask = np.full((40, 60, 3), 90, np.uint8), np.full((40, 60), 3, np.uint8)
    noisy = with_extra({"name": "GaussNoise", "std_range": [0.1, 0.2], "p": 1.0})
    assert apply_seeded(noisy, image, mask, (0,))[0].std() > 5
    moved = with_extra({"name": "Affine", "translate_px": {"x": 9, "y": 0}, "p": 1.0})
    _, labels = apply_seeded(moved, image, mask, (0,))
    assert (labels[:, :9] == 255).all()
    assert (labels[:, 9:] == 3).all()


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"name": "GausNoise"}, "no transform 'GausNoise'; nearest: GaussNoise"),
        ({"p": 0.5}, "no transform 'None'"),
        ({"name": "Compose", "transforms": []}, "no transform 'Compose'"),
        ({"name": "GaussNoise", "var_limit": 3, "q": 1}, "GaussNoise has no argument var_limit, q"),
        ({"name": "GaussNoise", "std_range": "much"}, "GaussNoise cannot be built"),
        ({"name": "Resize", "height": 8, "width": 8}, "sizes and types must stay"),
        (
            {"name": "Normalize"},
            "float32; sizes and types must stay the same; normalisation is done later",
        ),
        ({"name": "RandomCrop", "height": 99, "width": 99}, "cannot be applied"),
    ],
)
def test_transforms_that_do_not_fit_are_refused(extra: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        with_extra(extra)


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.7])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_crop_shows_the_wanted_class(scale: float, flip: float) -> None:
    random = np.random.default_rng(0)
    tops = set()
    for seed in range(60):
        mask = np.zeros((70, 90), np.uint8)
        y, x = random.integers(0, 68), random.integers(0, 88)
        mask[y : y + 3, x : x + 3] = 7
        warp = RandomWarpCrop((20, 24), (scale, scale), 0.0, flip, fill=FILL)
        image = np.zeros((70, 90, 3), np.uint8)
        _, labels = apply_seeded(A.Compose([warp]), image, mask, (seed,), wanted_class=7)
        assert (labels == 7).any()
        tops.add(int(np.argwhere(labels == 7)[0][0]))
    # anywhere in the crop, not always in one place
    assert len(tops) > 8
