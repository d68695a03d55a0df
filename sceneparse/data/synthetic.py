"""Synthetic street scenes: perspective roads with kerbs, lane marks, poles, signs, cars and people.

A scene depends on (seed, index) alone; it has many long, thin objects, drawn from far to near.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sceneparse.data.labels import Color

CLASSES: dict[str, Color] = {
    "sky": (70, 130, 180),
    "building": (110, 70, 70),
    "road": (128, 64, 128),
    "kerb": (244, 35, 232),
    "lane mark": (255, 255, 255),
    "pole": (153, 153, 153),
    "car": (0, 0, 142),
    "pedestrian": (220, 20, 60),
    "sign": (220, 220, 0),
}
_IDS = {name: index for index, name in enumerate(CLASSES)}
_SUBPIXEL = 4  # bits

Point = tuple[float, float]
Paint = NDArray[np.float64]


class _Scene:
    """An unfinished picture: image RGB float (H, W, 3), mask (H, W), and the perspective."""

    def __init__(self, height: int, width: int, random: np.random.Generator) -> None:
        self.height, self.width, self.random = height, width, random
        self.image = np.zeros((height, width, 3), np.float32)
        self.mask = np.zeros((height, width), np.uint8)
        self.horizon = height * random.uniform(0.36, 0.5)
        self.vanishing = width * random.uniform(0.35, 0.65)
        self.half_road = width * random.uniform(0.42, 0.62)

    def place(self, side: float, depth: float) -> Point:
        """Return x, y of a ground point; `side` 0: road axis, +-1: kerbs; depth 1: near."""
        y = self.horizon + (self.height - self.horizon) * depth
        x = self.vanishing + (self.width / 2 - self.vanishing) * depth
        return x + side * self.half_road * depth, y

    def fill(self, points: Sequence[Point], name: str, color: Paint) -> None:
        """Paint a polygon into image and mask."""
        corners = np.round(np.array(points) * 2**_SUBPIXEL).astype(np.int32)
        rgb = [float(c) for c in color]
        cv2.fillPoly(self.mask, [corners], _IDS[name], shift=_SUBPIXEL)
        cv2.fillPoly(self.image, [corners], rgb, lineType=cv2.LINE_AA, shift=_SUBPIXEL)

    def strip(self, sides: Point, depths: Point, name: str, color: Paint) -> None:
        """Paint a piece of the ground, between two sides and two depths as `place` has them."""
        (left, right), (far, near) = sides, depths
        ground = ((left, far), (right, far), (right, near), (left, near))
        self.fill([self.place(*point) for point in ground], name, color)

    def box(self, x: float, bottom: float, size: Point, name: str, color: Paint) -> None:
        """Paint an upright rectangle of size (height, width) standing at (x, bottom)."""
        left, right, top = x - size[1] / 2, x + size[1] / 2, bottom - size[0]
        self.fill([(left, top), (right, top), (right, bottom), (left, bottom)], name, color)

    def shade(self, low: float, high: float) -> Paint:
        """Draw a grey with a slight tint."""
        return self.random.uniform(low, high) + self.random.uniform(-14, 14, 3)

    def paint(self) -> Paint:
        """Draw a saturated colour."""
        color = self.random.uniform(30, 235, 3)
        color[self.random.integers(3)] *= 0.3
        return color


def render_scene(
    height: int, width: int, seed: int, index: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw scene number `index`: image uint8 RGB (H, W, 3) and mask of ids into CLASSES (H, W)."""
    random = np.random.default_rng((seed, index))
    scene = _Scene(height, width, random)
    for draw in (_sky, _buildings, _road, _lane_marks):
        draw(scene)
    for depth in np.sort(random.uniform(0.25, 1.0, random.integers(10, 16))):
        _OBJECTS[random.integers(len(_OBJECTS))](scene, float(depth))
    # Light falls off to one side, and the sensor adds noise.
    left, right = random.uniform(0.75, 1.15, 2)
    light = np.linspace(left, right, width)[None, :, None]
    noise = random.normal(0, random.uniform(3, 9), scene.image.shape)
    return np.clip(scene.image * light + noise, 0, 255).astype(np.uint8), scene.mask


def _sky(scene: _Scene) -> None:
    top = np.array([90, 140, 205]) * scene.random.uniform(0.7, 1.15)
    bottom = scene.shade(170, 235)
    ramp = np.linspace(0, 1, scene.height)[:, None, None]
    scene.image[:] = top * (1 - ramp) + bottom * ramp
    for _ in range(scene.random.integers(0, 4)):
        centre = scene.random.uniform((0, 0), (scene.width, scene.horizon * 0.6))
        axes = scene.random.uniform((18, 4), (60, 12))
        cloud = tuple(map(float, centre)), tuple(map(float, axes)), 0.0
        cv2.ellipse(scene.image, cloud, (238, 240, 242), -1)


def _buildings(scene: _Scene) -> None:
    base = scene.horizon + 2
    left = float(-scene.random.uniform(0, 20))
    while left < scene.width:
        wide = float(scene.random.uniform(0.1, 0.26)) * scene.width
        # Nearer the edges of the picture the street's houses are nearer, so larger.
        nearness = abs(left + wide / 2 - scene.vanishing) / scene.width
        tall = scene.horizon * min(scene.random.uniform(0.25, 0.5) + nearness * 0.7, 0.95)
        if scene.random.random() < 0.88:
            color = scene.shade(75, 165)
            scene.box(left + wide / 2, base, (tall, wide), "building", color)
            _windows(scene, (left, base - tall), (tall, wide), color)
        left += wide


def _windows(scene: _Scene, corner: Point, size: Point, color: Paint) -> None:
    (left, top), (tall, wide) = corner, size
    pane = np.clip(color * scene.random.choice([0.55, 1.35]), 0, 255)
    step = scene.random.uniform(7, 12)
    for y in np.arange(top + 4, top + tall - 6, step):
        for x in np.arange(left + 4, left + wide - 4, step):
            scene.box(float(x + 2), float(y + 4), (4.5, 3.5), "building", pane)


def _road(scene: _Scene) -> None:
    ground = scene.shade(95, 145)
    corner = [(0.0, scene.horizon), (scene.width, scene.horizon)]
    # Ground beyond the kerbs has the colour of the road and counts as road.
    scene.fill([*corner, (scene.width, scene.height), (0, scene.height)], "road", ground)
    for side in (-1, 1):
        scene.strip((side, side * 1.16), (0.02, 1.15), "kerb", scene.shade(185, 215))


def _lane_marks(scene: _Scene) -> None:
    color = scene.shade(215, 245)
    for side in scene.random.choice([-0.34, 0.0, 0.34], scene.random.integers(1, 3), replace=False):
        dash = scene.random.uniform(0.08, 0.2)
        for start in np.arange(0.05, 1.05, dash * 2):
            end = min(start + dash * (0.5 + start), start + dash * 1.6)
            scene.strip((side - 0.055, side + 0.055), (start, end), "lane mark", color)


def _car(scene: _Scene, depth: float) -> None:
    side = float(scene.random.choice([-0.62, -0.2, 0.22, 0.62]) + scene.random.uniform(-0.08, 0.08))
    x, y = scene.place(side, depth)
    wide, tall = 0.36 * scene.half_road * depth, 0.24 * scene.half_road * depth
    body = scene.paint()
    scene.box(x, y - 0.12 * tall, (0.5 * tall, wide), "car", body)
    cabin = [(-0.42, 0.6), (-0.28, 1.05), (0.28, 1.05), (0.42, 0.6)]
    scene.fill([(x + a * wide, y - b * tall) for a, b in cabin], "car", body * 0.75)
    glass = [(-0.32, 0.64), (-0.23, 0.98), (0.23, 0.98), (0.32, 0.64)]
    scene.fill([(x + a * wide, y - b * tall) for a, b in glass], "car", scene.shade(40, 90))
    for wheel in (-0.36, 0.36):
        scene.box(x + wheel * wide, y, (0.26 * tall, 0.16 * wide), "car", np.full(3, 25.0))


def _pedestrian(scene: _Scene, depth: float) -> None:
    side = float(scene.random.choice([-1, 1]) * scene.random.uniform(0.75, 1.5))
    x, y = scene.place(side, depth)
    tall = 0.56 * scene.half_road * depth
    wide = 0.3 * tall
    trousers, shirt, skin = scene.shade(30, 90), scene.paint(), np.array([205.0, 160.0, 130.0])
    for leg in (-0.25, 0.25):
        scene.box(x + leg * wide, y, (0.48 * tall, 0.34 * wide), "pedestrian", trousers)
    scene.box(x, y - 0.45 * tall, (0.38 * tall, wide), "pedestrian", shirt)
    head = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    radius = 0.1 * tall
    points = [(x + radius * np.cos(a), y - 0.91 * tall + radius * np.sin(a)) for a in head]
    scene.fill(points, "pedestrian", skin)


def _pole(scene: _Scene, depth: float) -> None:
    x, y = scene.place(float(scene.random.choice([-1.08, 1.08])), depth)
    tall = scene.random.uniform(0.85, 1.25) * scene.half_road * depth
    scene.box(x, y, (tall, max(0.06 * scene.half_road * depth, 5.0)), "pole", scene.shade(18, 45))


def _sign(scene: _Scene, depth: float) -> None:
    x, y = scene.place(float(scene.random.choice([-1.1, 1.1])), depth)
    tall, size = 0.6 * scene.half_road * depth, max(0.22 * scene.half_road * depth, 9.0)
    scene.box(x, y, (tall, max(0.05 * scene.half_road * depth, 4.0)), "pole", scene.shade(18, 45))
    colors = np.array([(205, 35, 35), (30, 70, 190), (230, 190, 30)], float)
    scene.box(x, y - tall + size / 2, (size, size), "sign", colors[scene.random.integers(3)])
    scene.box(x, y - tall + size / 4, (size / 2, size / 2), "sign", np.full(3, 235.0))


_OBJECTS: tuple[Callable[[_Scene, float], None], ...] = (_car, _pedestrian, _pole, _sign)


def write_dataset(
    root: Path,
    counts: dict[str, int],
    *,
    size: tuple[int, int] = (256, 384),
    seed: int = 0,
    after_scene: Callable[[], None] = lambda: None,
) -> None:
    """Write ROOT/SPLIT/images/*.jpg, ROOT/SPLIT/labels/*.png, classes.txt and colors.txt.

    `counts` gives the number of scenes per split; no scene is in two splits. `after_scene` is
    called for each.
    """
    index = 0
    for split, count in counts.items():
        images, labels = root / split / "images", root / split / "labels"
        for folder in (images, labels):
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("scene_*"):
                old.unlink()
        for _ in range(count):
            image, mask = render_scene(*size, seed, index)
            Image.fromarray(image).save(images / f"scene_{index:05d}.jpg", quality=92)
            Image.fromarray(mask).save(labels / f"scene_{index:05d}.png")
            index += 1
            after_scene()
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")
    colors = "".join(f"{r} {g} {b}\n" for r, g, b in CLASSES.values())
    (root / "colors.txt").write_text(colors, encoding="utf-8")
