"""Read frames of video files and cameras, and write videos, with OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sceneparse.data.decoding import MAX_IMAGE_PIXELS
from sceneparse.errors import InputError, refusing
from sceneparse.report.pictures import Picture

_DEFAULT_RATE = 25.0
# Larger values in headers are ignored.
_MAX_RATE, _MAX_FRAMES = 1000, 10**9
# First bytes of MKV and WebM files; types of the first box of MP4 and MOV files.
_MATROSKA = b"\x1a\x45\xdf\xa3"
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


class VideoReader:
    """Frames of a video file, or of a camera by its number, as uint8 RGB (H, W, 3).

    `frames_expected` is None if unknown, as for a camera. Raises InputError if it cannot be opened.
    """

    def __init__(self, source: Path | int) -> None:
        self.is_camera = isinstance(source, int)
        self.source = f"camera {source}" if self.is_camera else str(source)
        with refusing(self.source, "cannot be opened"):
            self._capture = cv2.VideoCapture(source) if isinstance(source, int) else _open(source)
        if not self._capture.isOpened():
            raise InputError(f"{self.source}: cannot be opened as a video")
        width = self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)
        height = self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if width * height > MAX_IMAGE_PIXELS:
            raise InputError(
                f"{self.source}: frames of {width:.0f}x{height:.0f} are over "
                f"{MAX_IMAGE_PIXELS / 1e6:.0f} million pixels"
            )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= _MAX_RATE else _DEFAULT_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames_read = 0
        known = 0 < count < _MAX_FRAMES and not self.is_camera
        self.frames_expected = int(count) if known else None

    def frames(self, limit: int | None = None) -> Iterator[Picture]:
        """Yield the frames, at most `limit`."""
        try:
            while limit is None or self.frames_read < limit:
                there, frame = self._capture.read()
                if not there:
                    return
                self.frames_read += 1
                yield _swapped(frame)
        finally:
            self._capture.release()

    def require_all(self, limit: int | None = None) -> None:
        """Raise InputError if the video ended too early, before `limit` frames, or had none."""
        if self.frames_read == 0:
            raise InputError(f"{self.source}: no frame of the video can be read")
        wanted = min(self.frames_expected or 0, limit or self.frames_expected or 0)
        # Frame counts in headers may be slightly wrong.
        if self.frames_read < 0.95 * wanted - 1:
            raise InputError(
                f"{self.source}: breaks off after {self.frames_read} of {wanted} frames; only "
                "these were predicted"
            )


def _open(path: Path) -> cv2.VideoCapture:
    """Open a video file, but not an address or a list of other files, which FFmpeg takes too."""
    if not path.is_file():
        raise InputError(f"{path}: no file")
    with path.open("rb") as file:
        start = file.read(12)
    is_avi = start.startswith(b"RIFF") and start.endswith(b"AVI ")
    if not is_avi and start[:4] != _MATROSKA and start[4:8] not in _MP4_BOXES:
        raise InputError(f"{path}: cannot be opened as a video (AVI, MKV, MOV, MP4 or WebM)")
    return cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)  # noqa: PTH100


class VideoWriter:
    """Writes frames of one size as an MP4 file; use as a context manager.

    MP4 needs even sizes: odd ones get another black row or column.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._odd = size[0] % 2, size[1] % 2
        even = size[1] + self._odd[1], size[0] + self._odd[0]
        self._writer = cv2.VideoWriter(str(path), code, rate, even)
        if not self._writer.isOpened():
            raise InputError(f"cannot write the video {path}")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.release()

    def write(self, frame: Picture) -> None:
        """Append an RGB frame (H, W, 3)."""
        rows, columns = self._odd
        self._writer.write(_swapped(np.pad(frame, ((0, rows), (0, columns), (0, 0)))))


def _swapped(frame: Any) -> Picture:  # noqa: ANN401 - OpenCV's arrays
    """Convert BGR to RGB, or RGB to BGR."""
    return np.ascontiguousarray(frame[..., ::-1])
