"""Strict reading: every mode has one defined meaning, every bad file is named."""

from __future__ import annotations

import io
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sceneparse.data import decoding, reading
from sceneparse.data.reading import (
    image_size,
    largest_value,
    read_colors,
    read_image,
    read_labels,
    read_mask,
)
from sceneparse.errors import InputError

GREY = np.array([[0, 1, 127], [128, 254, 255]], dtype=np.uint8)
COLOR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
SIXTEEN_BIT = np.array([[0, 255, 256], [511, 40000, 65535]], dtype=np.uint16)
ORIENTATION = 0x0112


def with_alpha(values: np.ndarray) -> Image.Image:
    """The values of hidden pixels must survive: alpha is dropped, not composed."""
    return Image.fromarray(np.dstack([values, 255 - GREY]))


def palette_image(indices: np.ndarray, palette: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices).convert("L")
    image.putpalette(palette.astype(np.uint8).tobytes())
    assert image.mode == "P"
    return image


def grey_rgb(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, axis=2)


PALETTE = np.array([[200, 10, 30], [0, 90, 255], [7, 8, 9], [255, 255, 0]])
INDICES = np.array([[0, 1, 2], [3, 2, 1]], dtype=np.uint8)


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(COLOR), COLOR),
        (with_alpha(COLOR), COLOR),
        (with_alpha(GREY), grey_rgb(GREY)),
        (Image.fromarray(GREY), grey_rgb(GREY)),
        (palette_image(INDICES, PALETTE), PALETTE[INDICES]),
        (Image.fromarray(GREY > 127), grey_rgb(np.where(GREY > 127, 255, 0))),
    ],
    ids=["RGB", "RGBA", "LA", "L", "P", "1"],
)
def test_image_of_any_mode_becomes_rgb(
    tmp_path: Path, request: pytest.FixtureRequest, image: Image.Image, expected: np.ndarray
) -> None:
    assert image.mode == request.node.callspec.id
    image.save(tmp_path / "x.png")
    decoded = read_image(tmp_path / "x.png")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.fault(9)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_image_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    assert cv2.imwrite(str(path), SIXTEEN_BIT)
    np.testing.assert_array_equal(read_image(path), grey_rgb(SIXTEEN_BIT // 256))


@pytest.mark.fault(9)
def test_cmyk_jpeg_has_its_colors(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 8), (0, 200, 100, 51)).save(tmp_path / "x.jpg", quality=95)
    decoded = read_image(tmp_path / "x.jpg")
    # (255 - ink) x (255 - black) / 255 by hand; JPEG is off by a few levels.
    assert decoded.shape == (8, 16, 3)
    assert np.abs(decoded - np.array([204.0, 44.0, 124.0])).max() <= 4


@pytest.mark.fault(9)
def test_float_image_is_scaled_from_0_to_1(tmp_path: Path) -> None:
    Image.fromarray((GREY / 255).astype(np.float32)).save(tmp_path / "x.tif")
    assert np.array_equal(read_image(tmp_path / "x.tif"), grey_rgb(GREY))


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan])
def test_float_image_outside_0_to_1_is_refused(tmp_path: Path, value: float) -> None:
    Image.fromarray(np.array([[0.5, value]], np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match=r"x\.tif: floating-point values .* outside 0\.\.1"):
        read_image(tmp_path / "x.tif")


@pytest.mark.fault(11)
@pytest.mark.parametrize("suffix", [".gif", ".tif"])
def test_first_of_several_frames_is_used_and_said(tmp_path: Path, suffix: str) -> None:
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    path = tmp_path / f"x{suffix}"
    first.save(path, save_all=True, append_images=[second])
    with pytest.warns(UserWarning, match=r"x\..*: several frames or pages, the first is used"):
        assert np.array_equal(read_image(path), grey_rgb(GREY))


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: np.rot90(np.fliplr(stored), 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(np.fliplr(stored), -1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.fault(10)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_turns_image_and_mask(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(COLOR).save(tmp_path / "image.png", exif=exif)
    Image.fromarray(GREY).save(tmp_path / "mask.png", exif=exif)
    Image.fromarray(COLOR).save(tmp_path / "image.jpg", exif=exif)
    expected = UPRIGHT[orientation](COLOR)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), expected)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), UPRIGHT[orientation](GREY))
    for name in ("image.png", "image.jpg"):
        assert read_image(tmp_path / name).shape == expected.shape


@pytest.mark.fault(12, 13)
@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY), GREY),
        (palette_image(INDICES, PALETTE), INDICES),
        (Image.fromarray(SIXTEEN_BIT), SIXTEEN_BIT),
        (Image.fromarray(GREY > 127), (GREY > 127).astype(np.uint8)),
    ],
    ids=["8-bit", "palette", "16-bit", "1-bit"],
)
def test_mask_gives_exact_indices(tmp_path: Path, image: Image.Image, expected: np.ndarray) -> None:
    image.save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png")
    assert mask.dtype == expected.dtype
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.fault(14)
@pytest.mark.parametrize("channels", [COLOR, np.dstack([COLOR, GREY])])
def test_mask_of_colors_is_refused(tmp_path: Path, channels: np.ndarray) -> None:
    image = Image.fromarray(channels)
    image.save(tmp_path / "m.png")
    with pytest.raises(InputError, match=rf"m\.png: a mask must hold .* this one is {image.mode};"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize("value", [-1, 65536])
def test_mask_value_no_16_bits_hold_is_refused(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.array([[0, value]], dtype=np.int32)).save(tmp_path / "m.tif")
    with pytest.raises(InputError, match=rf"m\.tif: values .*{value}.* outside 0\.\.65535"):
        read_mask(tmp_path / "m.tif")


HIDDEN = np.array([[False, True, False], [True, False, False]])


def hiding(kind: str, partly: int = 0) -> Image.Image:
    """A mask whose HIDDEN pixels are transparent; `partly`: the opacity of one more pixel."""
    alpha = np.where(HIDDEN, 0, 255).astype(np.uint8)
    alpha[1, 2] = partly or 255
    if kind in {"LA", "RGBA"}:
        return Image.fromarray(np.dstack([GREY if kind == "LA" else COLOR, alpha]))
    values = np.where(HIDDEN, 7, INDICES).astype(np.uint8)
    if kind == "RGB":
        return Image.fromarray(np.where(HIDDEN[..., None], [7, 8, 9], COLOR).astype(np.uint8))
    palette = np.arange(24, dtype=np.uint8).reshape(8, 3)
    return Image.fromarray(values).convert("L") if kind == "L" else palette_image(values, palette)


@pytest.mark.parametrize("suffix", ["png", "tif", "gif"])
@pytest.mark.parametrize("kind", ["LA", "L", "P"])
def test_transparent_pixels_of_a_mask_are_ignored(tmp_path: Path, kind: str, suffix: str) -> None:
    if (suffix == "tif" and kind != "LA") or (suffix == "gif" and kind != "P"):
        pytest.skip("the format has no such transparency")
    image, path = hiding(kind), tmp_path / f"m.{suffix}"
    image.save(path, **({} if kind == "LA" else {"transparency": 7}))
    labels, transparent = read_labels(path)
    np.testing.assert_array_equal(transparent, HIDDEN)
    expected = GREY if kind == "LA" else INDICES
    np.testing.assert_array_equal(labels[~HIDDEN], expected[~HIDDEN])
    np.testing.assert_array_equal(read_mask(path), np.where(HIDDEN, 255, expected))
    image = image.convert("L") if kind == "LA" else image
    image.save(path)  # opaque
    assert not read_labels(path)[1].any()


def test_opacity_of_palette_entries(tmp_path: Path) -> None:
    palette_image(INDICES, PALETTE).save(tmp_path / "m.png", transparency=bytes([255, 0, 255, 128]))
    with pytest.raises(InputError, match=r"m\.png: 1 pixels are partly transparent"):
        read_mask(tmp_path / "m.png")
    palette_image(INDICES, PALETTE).save(tmp_path / "m.png", transparency=bytes([255, 0, 255]))
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 255, 2], [3, 2, 255]]
    palette_image(INDICES, PALETTE).save(tmp_path / "m.png", transparency=bytes([255] * 4))
    assert np.array_equal(read_mask(tmp_path / "m.png"), INDICES)


def test_transparent_pixels_of_16_bit_masks(tmp_path: Path) -> None:
    Image.fromarray(SIXTEEN_BIT).save(tmp_path / "m.png", transparency=511)
    expected = np.where(SIXTEEN_BIT == 511, 65535, SIXTEEN_BIT)
    assert np.array_equal(read_mask(tmp_path / "m.png"), expected)
    cv2.imwrite(str(tmp_path / "m.png"), np.dstack([SIXTEEN_BIT] * 4))
    with pytest.raises(InputError, match="a mask must hold one label value"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("kind", ["RGBA", "RGB", "P", "LA"])
def test_transparent_pixels_of_colors(tmp_path: Path, kind: str, suffix: str) -> None:
    if (suffix == "tif" and kind in {"RGB", "P"}) or (suffix == "webp" and kind != "RGBA"):
        pytest.skip("the format has no such transparency")
    path = tmp_path / f"m.{suffix}"
    key = {"RGB": {"transparency": (7, 8, 9)}, "P": {"transparency": 7}}.get(kind, {})
    if suffix == "webp":
        key = {"lossless": True, "exact": True}
    image = hiding(kind)
    image.save(path, **key)
    colors, transparent = read_colors(path)
    np.testing.assert_array_equal(transparent, HIDDEN)
    np.testing.assert_array_equal(colors[~HIDDEN], np.asarray(image.convert("RGB"))[~HIDDEN])
    Image.fromarray(COLOR).save(path, **({"lossless": True} if suffix == "webp" else {}))
    colors, transparent = read_colors(path)
    assert np.array_equal(colors, COLOR)
    assert not transparent.any()


@pytest.mark.parametrize("kind", ["RGBA", "LA"])
def test_partly_transparent_pixels_are_counted(tmp_path: Path, kind: str) -> None:
    hiding(kind, partly=254).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=r"m\.png: 1 pixels are partly transparent"):
        (read_colors if kind == "RGBA" else read_mask)(tmp_path / "m.png")


def tiff_of(
    values: np.ndarray, *, big: bool = False, photometric: int = 1, extra: int = 0
) -> bytes:
    """Write an uncompressed TIFF by hand, from the specification (TIFF 6.0, section 2)."""
    order, kind = (">" if big else "<"), {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    height, width, *bands = values.shape
    count = bands[0] if bands else 1
    pixels = values.astype(values.dtype.newbyteorder(order)).tobytes()
    pixels += b"\0" * (len(pixels) % 2)
    bits = 8 * values.dtype.itemsize
    tags = [(256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * count), (259, 3, [1])]
    tags += [(262, 3, [photometric]), (273, 4, [8]), (277, 3, [count]), (278, 4, [height])]
    tags += [(279, 4, [values.nbytes]), (338, 3, [0] * extra), (339, 3, [kind] * count)]
    tags = [tag for tag in tags if tag[2]]
    start = 8 + len(pixels)
    end, directory, tail = start + 6 + 12 * len(tags), b"", b""
    for tag, size, numbers in tags:
        content = struct.pack(f"{order}{len(numbers)}{'H' if size == 3 else 'I'}", *numbers)
        if len(content) > 4:
            content, tail = struct.pack(f"{order}I", end + len(tail)), tail + content
        directory += struct.pack(f"{order}HHI", tag, size, len(numbers)) + content.ljust(4, b"\0")
    head = (b"MM" if big else b"II") + struct.pack(f"{order}HI", 42, start)
    return head + pixels + struct.pack(f"{order}H", len(tags)) + directory + b"\0" * 4 + tail


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "u8", "i8", "f8"])
def test_mask_of_any_number_type_is_exact(tmp_path: Path, kind: str, big: bool) -> None:
    if kind in {"u4", "u8", "i8"} and int(cv2.__version__.partition(".")[0]) < 5:
        pytest.skip("before OpenCV 5, such masks are refused")
    largest = min(2 ** (8 * int(kind[1]) - (kind[0] == "i")) - 1, 65535)
    values = np.array([[0, 1, 2], [100, largest, 127]])
    (tmp_path / "m.tif").write_bytes(tiff_of(values.astype(kind), big=big))
    mask = read_mask(tmp_path / "m.tif")
    assert mask.dtype in (np.uint8, np.uint16)
    assert np.array_equal(mask, values)
    bad = {"u": 65536, "i": -1, "f": 0.5}[kind[0]]
    if kind in {"u1", "u2"}:
        return
    values = np.array([[0, 1, bad], [2, 3, bad]])
    (tmp_path / "m.tif").write_bytes(tiff_of(values.astype(kind), big=big))
    expected = r"2 pixels hold no whole number, e\.g\. 0\.5" if bad == 0.5 else rf"values .*{bad}"
    with pytest.raises(InputError, match=rf"m\.tif: {expected}"):
        read_mask(tmp_path / "m.tif")


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_mask_of_nan_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "m.tif").write_bytes(tiff_of(np.array([[0, np.nan, 1]], kind)))
    with pytest.raises(InputError, match=r"m\.tif: 1 pixels hold no whole number, e\.g\. nan"):
        read_mask(tmp_path / "m.tif")


@pytest.mark.parametrize(
    ("values", "photometric", "extra", "expected"),
    [
        (np.zeros((2, 3, 5), np.uint8), 1, 4, "a TIFF with 5 bands of 8-bit unsigned integers"),
        (np.zeros((2, 3, 4), np.uint16), 1, 3, "a TIFF with 4 bands of 16-bit unsigned integers"),
        (np.zeros((2, 3, 3), np.float32), 2, 0, "3 bands of 32-bit floating-point numbers"),
        (np.zeros((2, 3), np.int64), 1, 0, "a TIFF with a band of 64-bit signed integers"),
    ],
)
def test_tiff_that_pillow_cannot_open_is_described(
    tmp_path: Path, values: np.ndarray, photometric: int, extra: int, expected: str
) -> None:
    content = tiff_of(values, photometric=photometric, extra=extra)
    (tmp_path / "x.tif").write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(InputError, match=rf"x\.tif: .*{expected}, which cannot be read; save"):
            read(tmp_path / "x.tif")


@pytest.mark.parametrize("bands", [4, 5, 6])
def test_dropped_bands_are_said_once(tmp_path: Path, bands: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 3, bands), dtype=np.uint8)
    for name in "ab":
        content = tiff_of(values, photometric=2, extra=bands - 3)
        (tmp_path / f"{name}.tif").write_bytes(content)
    decoding.warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in "ab":
            assert np.array_equal(read_image(tmp_path / f"{name}.tif"), values[..., :3])
    (text,) = [str(warning.message) for warning in caught]
    assert text == f"images have {bands} bands; only the first 3 are used"


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3)], ids=["grey", "color"])
def test_bit_depth_scales_to_white(
    tmp_path: Path, shape: tuple[int, ...], suffix: str, orientation: int
) -> None:
    values = np.random.default_rng(0).integers(0, 4096, shape, dtype=np.uint16)
    values.flat[0] = 4095
    path = tmp_path / f"x.{suffix}"
    cv2.imwrite(str(path), values if len(shape) == 2 else values[..., ::-1])
    if orientation > 1:
        path = turned(path, orientation)
    scaled = np.floor(values / 4095 * 255 + 0.5).astype(np.uint8)
    rgb = grey_rgb(scaled) if len(shape) == 2 else scaled
    expected = UPRIGHT[orientation](rgb)
    np.testing.assert_array_equal(read_image(path, 12), expected)
    assert image_size(path) == expected.shape[:2] or suffix == "png"
    assert largest_value(path) == 4095
    assert read_image(path).max() == 4095 >> 8
    with pytest.raises(InputError, match=rf"x\.{suffix}: values up to 4095 are more than 11 bits"):
        read_image(path, 11)


def turned(path: Path, orientation: int) -> Path:
    """Add an EXIF orientation to a 16-bit file, whose pixels Pillow cannot write."""
    content = bytearray(path.read_bytes())
    if path.suffix == ".png":
        exif = (
            b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"
            + bytes([orientation, 0, 0])
            + b"\0" * 4
        )
        chunk = b"eXIf" + exif
        chunk = struct.pack(">I", len(exif)) + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        content[33:33] = chunk
    else:
        (start,) = struct.unpack_from("<I", content, 4)
        (count,) = struct.unpack_from("<H", content, start)
        entries = [bytes(content[start + 2 + 12 * k :][:12]) for k in range(count)]
        entries = [e for e in entries if struct.unpack("<H", e[:2])[0] != ORIENTATION]
        entries.append(struct.pack("<HHIHH", ORIENTATION, 3, 1, orientation, 0))
        entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
        content[4:8] = struct.pack("<I", len(content))
        content += struct.pack("<H", len(entries)) + b"".join(entries) + b"\0" * 4
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3)], ids=["grey", "color"])
@pytest.mark.parametrize(("largest", "bit_depth"), [(4095, None), (4095, 12), (16384, None)])
def test_dark_images_of_16_bits_are_named_once(
    tmp_path: Path, shape: tuple[int, ...], suffix: str, largest: int, bit_depth: int | None
) -> None:
    values = np.zeros(shape, np.uint16)
    values.flat[5] = largest
    path = tmp_path / f"x.{suffix}"
    cv2.imwrite(str(path), values)
    decoding.warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            read_image(path, bit_depth)
    dark = [w for w in caught if "its values stay below 16384 of 65535" in str(w.message)]
    assert len(dark) == (largest == 4095 and bit_depth is None)


def test_bit_depth_changes_nothing_else(tmp_path: Path) -> None:
    Image.fromarray(COLOR).save(tmp_path / "x.png")
    assert np.array_equal(read_image(tmp_path / "x.png", 12), COLOR)
    assert largest_value(tmp_path / "x.png") is None
    cv2.imwrite(str(tmp_path / "y.png"), SIXTEEN_BIT)
    exact = np.floor(SIXTEEN_BIT / 65535 * 255 + 0.5)
    assert np.array_equal(read_image(tmp_path / "y.png", 16), grey_rgb(exact.astype(np.uint8)))
    assert largest_value(tmp_path / "y.png") == 65535


def encoded(image_format: str, **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, image_format, **options)
    return stream.getvalue()


CUT_FILES = {
    "a.png": lambda: encoded("PNG"),
    "a.jpg": lambda: encoded("JPEG"),
    "progressive.jpg": lambda: encoded("JPEG", progressive=True),
}


@pytest.mark.fault(7)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.99])
@pytest.mark.parametrize("name", CUT_FILES)
def test_truncated_file_is_named(tmp_path: Path, name: str, kept: float) -> None:
    whole = CUT_FILES[name]()
    (tmp_path / name).write_bytes(whole)
    assert read_image(tmp_path / name).shape == (40, 50, 3)
    (tmp_path / name).write_bytes(whole[: int(kept * len(whole))])
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match=rf"{name}: [^\n]*(?i:truncated)[^\n]*\Z"):
            read(tmp_path / name)


def with_preview() -> bytes:
    """A JPEG whose EXIF segment holds another JPEG, as those of cameras."""
    preview = encoded("JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 8 + len(preview)) + b"Exif\0\0" + preview
    return preview[:2] + segment + preview[2:]


@pytest.mark.fault(7)
@pytest.mark.parametrize("make", [*CUT_FILES.values(), with_preview], ids=[*CUT_FILES, "preview"])
def test_no_byte_at_the_end_may_be_missing(tmp_path: Path, make: Callable[[], bytes]) -> None:
    whole, path = make(), tmp_path / "x"
    path.write_bytes(whole + b"some editors append notes")
    read_image(path)
    for missing in range(1, 60):
        path.write_bytes(whole[:-missing])
        with pytest.raises(InputError, match=r"x: damaged or truncated"):
            read_image(path)


def test_any_flipped_bit_of_a_png_is_noticed(tmp_path: Path) -> None:
    whole, path = encoded("PNG"), tmp_path / "x.png"
    for position in np.random.default_rng(0).integers(0, len(whole), 200):
        changed = bytearray(whole)
        changed[position] ^= 1 << int(position % 8)
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"x\.png: "):
            read_image(path)


NOT_IMAGES: dict[str, Callable[[Path], object]] = {
    "zero_bytes.png": lambda path: path.write_bytes(b""),
    "html.jpg": lambda path: path.write_text("<!DOCTYPE html><html><body>404</body></html>"),
    "folder.jpg": lambda path: path.mkdir(),
    "dangling.jpg": lambda path: path.symlink_to(path.with_name("nowhere.jpg")),
    # A file that nobody can read, not even root.
    "unreadable.jpg": lambda path: path.symlink_to("/proc/self/mem"),
}


@pytest.mark.fault(7)
@pytest.mark.parametrize("name", NOT_IMAGES)
def test_what_is_no_image_file_is_named(tmp_path: Path, name: str) -> None:
    NOT_IMAGES[name](tmp_path / name)
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match=rf"{name}: [^\n]+\Z"):
            read(tmp_path / name)


@pytest.mark.parametrize("bits", [2, 4])
def test_mask_of_few_bits_keeps_its_values(tmp_path: Path, bits: int) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + checksum

    values = list(range(2**bits))
    packed = sum(value << (bits * (2**bits - 1 - value)) for value in values)
    row = b"\0" + packed.to_bytes(2**bits * bits // 8, "big")
    header = (2**bits).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    (tmp_path / "x.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )
    assert read_mask(tmp_path / "x.png").tolist() == [values]


def test_damaged_exif_is_named(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x0100] = 6, 7
    Image.new("RGB", (4, 3)).save(tmp_path / "x.jpg", exif=exif)
    content = bytearray((tmp_path / "x.jpg").read_bytes())
    content[content.index(b"Exif") + 19] = 2
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.jpg: damaged"):
        read_image(tmp_path / "x.jpg")


def test_missing_palette_is_named(tmp_path: Path) -> None:
    """Found by fuzzing: Pillow looks for the palette only when colours are wanted."""
    stream = io.BytesIO()
    palette_image(INDICES, PALETTE).save(stream, "PNG", transparency=3)
    whole = stream.getvalue()
    start = whole.index(b"PLTE") - 4
    (length,) = struct.unpack_from(">I", whole, start)
    path = tmp_path / "x.png"
    path.write_bytes(whole[:start] + whole[start + 12 + length :])
    with pytest.raises(InputError, match=r"x\.png: damaged or truncated"):
        read_image(path)
    assert np.array_equal(read_mask(path), np.where(INDICES == 3, 255, INDICES))  # transparent


def test_a_name_cannot_forge_lines(tmp_path: Path) -> None:
    path = tmp_path / "x\nerror: all is well\x1b[2K\u202e.png"
    path.write_bytes(b"")
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert r"x\nerror: all is well\x1b[2K\u202e.png: not an image" in str(caught.value)
    assert str(caught.value).isprintable()


# Modes that Pillow can write as TIFF, and the bytes of one pixel.
MODES = {
    "1": 1,
    "L": 1,
    "LA": 2,
    "P": 1,
    "RGB": 3,
    "RGBA": 4,
    "CMYK": 4,
    "LAB": 3,
    "I;16": 2,
}
if int(PIL.__version__.partition(".")[0]) >= 13:  # older ones write files that they cannot read
    MODES["YCbCr"] = 3


@pytest.mark.parametrize("mode", [*MODES, "F", "I"])
def test_bands_are_the_whole(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    if mode in MODES:
        stored = -(-7 // 8) * 50 if mode == "1" else 7 * 50 * MODES[mode]
        image = Image.frombytes(mode, (7, 50), random.bytes(stored))
    else:
        values = random.random((50, 7)) if mode == "F" else random.integers(0, 65536, (50, 7))
        image = Image.fromarray(values.astype(np.float32 if mode == "F" else np.int32))
    image.save(tmp_path / "x.tif")
    expected = read_image(tmp_path / "x.tif")
    monkeypatch.setattr(reading, "_PIXELS_AT_ONCE", 7 * 16)
    assert np.array_equal(read_image(tmp_path / "x.tif"), expected)
    if mode in {"I", "I;16"}:
        assert np.array_equal(read_mask(tmp_path / "x.tif"), np.asarray(image))


@pytest.mark.fault(9)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(MODES)), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_any_mode_in_rgb_uint8_out(mode: str, width: int, height: int, seed: int) -> None:
    stored = -(-width // 8) * height if mode == "1" else width * height * MODES[mode]
    content = np.random.default_rng(seed).bytes(stored)
    image = Image.frombytes(mode, (width, height), content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.tif"
        image.save(path)
        decoded = read_image(path)
    assert decoded.shape == (height, width, 3)
    assert decoded.dtype == np.uint8
    if mode in {"L", "RGB"}:
        expected = np.frombuffer(content, np.uint8).reshape(height, width, -1)
        assert np.array_equal(decoded, np.broadcast_to(expected, decoded.shape))
