"""Strict reading: every mode has one defined meaning, every bad file is named."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sceneparse.data import reading
from sceneparse.data.reading import read_image, read_mask
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
@pytest.mark.parametrize("channels", [COLOR, np.dstack([COLOR, GREY]), np.dstack([GREY, GREY])])
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
    assert np.array_equal(read_mask(path), INDICES)


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
    "YCbCr": 3,
    "LAB": 3,
    "I;16": 2,
}


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
