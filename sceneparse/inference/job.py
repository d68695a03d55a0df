"""Predict many images, videos and cameras into an output folder; what cannot be read is skipped."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.data.file_names import describe_encoded
from sceneparse.errors import InputError, first_few, one_line
from sceneparse.inference.inputs import Source, equal_size_batches, find_sources
from sceneparse.inference.results import EarlierResults
from sceneparse.inference.video import VideoReader, VideoWriter
from sceneparse.inference.writer import Writer
from sceneparse.runtime.progress import Progress, log_to_stderr

if TYPE_CHECKING:
    from sceneparse.inference.predictor import Prediction, Predictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Predicted:
    """The outcome of predicting many inputs, with results in the folder `output`.

    `inputs`: their number. `shares`: the share of each class, per predicted input; for a video a
    list with an entry per frame. `failures`: an error for each input that was not predicted.
    `skipped`: describes the results of earlier predictions among the inputs. `abstained`: share of
    the pixels without a class; None if the predictor does not abstain or nothing was predicted.
    """

    output: Path
    inputs: int
    shares: Mapping[str, Any]
    failures: Sequence[InputError]
    skipped: str = ""
    abstained: float | None = None

    @property
    def description(self) -> str:
        """How many inputs were predicted, and which were not."""
        failed = f"; not predicted: {first_few(self.failures)}" if self.failures else ""
        return f"{len(self.shares)} of {self.inputs} inputs{failed}"

    def __repr__(self) -> str:
        skipped = f"; skipped {self.skipped}" if self.skipped else ""
        return one_line(f"Predicted({self.description}{skipped}; results in '{self.output}')")


def find_inputs(
    names: Sequence[str], output: Path, cameras: Sequence[int] = ()
) -> tuple[list[Source], str]:
    """Find the files that files, folders and globs name, for results in `output`.

    Also describes the results of earlier predictions among them, which are left out. Raises
    InputError if there is no input.
    """
    earlier = EarlierResults()
    sources = find_sources(names, skip=earlier.contains, output=output)
    skipped = ", ".join(
        f"{len(of)} results of earlier predictions in '{folder}'"
        for folder, of in earlier.skipped.items()
    )
    if not sources and not cameras:
        raise InputError(f"the list of inputs is empty{skipped and f'; {skipped} are no inputs'}")
    return sources, skipped


def predict_folder(
    predictor: Predictor, folder: Path, output: Path, save: Sequence[str], opacity: float
) -> Predicted:
    """Predict the images and videos below a folder; see `Predictor.predict_folder`."""
    writer = Writer(output, save, opacity)
    if not folder.is_dir():
        raise InputError(f"'{folder}' is no folder; give one that holds images")
    sources, skipped = find_inputs([str(folder)], output)
    writer.require_own_files(sources)
    return predict_inputs(predictor, sources, writer, skipped=skipped)


def predict_inputs(
    predictor: Predictor,
    sources: Sequence[Source],
    writer: Writer,
    *,
    cameras: Sequence[int] = (),
    frames: int | None = None,
    skipped: str = "",
) -> Predicted:
    """Predict files, and cameras by their numbers; skip and record those that cannot be read.

    The caller has asked `writer.require_own_files`. `frames`: the most that are taken of a video or
    camera. `skipped`: what `find_inputs` left out.
    """
    if note := describe_encoded(f"{s.name}{'/' if s.is_video else '.png'}" for s in sources):
        logger.info(one_line(note))
    job = _Job(predictor, writer, frames)
    videos: list[tuple[Path | int, str]] = [(s.path, s.name) for s in sources if s.is_video]
    videos += [(camera, f"camera{camera}") for camera in cameras]
    writer.output.mkdir(parents=True, exist_ok=True)
    try:
        with log_to_stderr():
            job.predict_images([s for s in sources if not s.is_video])
            for source, name in videos:
                job.predict_video(source, name)
    finally:
        writer.close()
    unsure = None
    if predictor.abstain is not None and writer.pixels:
        unsure = writer.abstained / writer.pixels
    return Predicted(
        writer.output,
        len(sources) + len(cameras),
        writer.shares,
        job.failures,
        skipped,
        unsure,
    )


class _Job:
    """Predicts inputs with one predictor and writer, at most `frames` of a video or camera."""

    def __init__(self, predictor: Predictor, writer: Writer, frames: int | None) -> None:
        self.predictor, self.writer, self.frames = predictor, writer, frames
        self.failures: list[InputError] = []

    def fail(self, error: InputError) -> None:
        """Record and log an input that could not be predicted."""
        logger.warning(f"skipped: {error}")
        self.failures.append(error)

    def predict_images(self, sources: Sequence[Source]) -> None:
        """Predict images in batches of equal size."""
        predictor, keep = self.predictor, self.writer.needs_probabilities
        with Progress("predict", len(sources), "images") as progress:

            def unreadable(_: Source, error: InputError) -> None:
                self.fail(error)
                progress.advance()

            depth = predictor.model.bit_depth
            for batch in equal_size_batches(sources, predictor.images_at_once, unreadable, depth):
                images = [image for _, image in batch]
                predictions = predictor.batch(images, keep_probabilities=keep)
                for source, _ in batch:
                    # Removed from the list, so that its memory is free once it is written.
                    self._write(source, predictions.pop(0))
                    progress.advance()

    def _write(self, source: Source, prediction: Prediction) -> None:
        if prediction.tiled:
            logger.info(one_line(f"{source.path}: predicted in tiles, because it is large"))
        try:
            self.writer.write(prediction, source.name, self.writer.save)
        except InputError as error:
            self.fail(InputError(f"{source.path}: {error}"))
        else:
            self.writer.shares[source.name] = prediction.shares

    def predict_video(self, source: Path | int, name: str) -> None:
        """Predict a video or camera; what was done before an error is kept and counted."""
        shares: list[dict[str, float]] = []
        try:
            reader = VideoReader(source)
            self._write_frames(reader, name, shares)
            reader.require_all(self.frames)
        except InputError as error:
            self.fail(error)
        finally:
            if shares:
                self.writer.shares[name] = shares

    def _write_frames(self, reader: VideoReader, name: str, shares: list[dict[str, float]]) -> None:
        """Write a video of overlays, other kinds as a file per frame; append to `shares`."""
        writer, video = self.writer, None
        other_kinds = [kind for kind in writer.save if kind != "overlay"]
        path = writer.path("overlay", name).with_suffix(".mp4")
        with ExitStack() as stack:
            total = self.frames or reader.frames_expected
            progress = stack.enter_context(Progress("predict", total, "frames"))
            for prediction in progress.over(self._frames(reader)):
                writer.write(prediction, f"{name}/{len(shares):06d}", other_kinds)
                shares.append(prediction.shares)
                if "overlay" in writer.save:
                    picture = prediction.overlay(writer.opacity, legend="all")
                    size = (picture.shape[0], picture.shape[1])
                    writer.add(path)
                    video = video or stack.enter_context(VideoWriter(path, reader.rate, size))
                    video.write(picture)

    def _frames(self, reader: VideoReader) -> Iterator[Prediction]:
        """Predict the frames of a video in batches, those of a camera one by one."""
        predictor, frames = self.predictor, reader.frames(self.frames)
        for first in frames:
            height, width = first.shape[:2]
            count = 1 if reader.is_camera else predictor.images_at_once(height, width)
            batch = [first, *itertools.islice(frames, count - 1)]
            yield from predictor.batch(batch, keep_probabilities=self.writer.needs_probabilities)
