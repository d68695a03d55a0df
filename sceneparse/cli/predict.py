"""Predict images, folders, videos or a camera with a trained model: label maps and pictures."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.command import command_parser
from sceneparse.cli.options import add_protocol_options, protocol_settings

if TYPE_CHECKING:
    from sceneparse.errors import InputError
    from sceneparse.inference.inputs import Source
    from sceneparse.inference.predictor import Prediction, Predictor
    from sceneparse.report.pictures import Picture

EXAMPLES = """\
  sceneparse predict runs/quickstart street.jpg
  sceneparse predict runs/quickstart photos/ "more/*.jpg" --save index color
  sceneparse predict runs/camvid_mobilenet drive.mp4
  sceneparse predict runs/camvid_mobilenet camera:0 --frames 100
  find photos -name "*.png" | sceneparse predict runs/quickstart -
  sceneparse predict runs/cityscapes_spnet101 leftImg8bit/test --save raw --protocol spnet

OUTPUT/KIND/NAME.png for every kind of --save, and shares.json with the share of each class:
  index          class numbers, with a palette (16-bit grey above 256 classes)
  color, overlay colours of the classes; on the image, with their names
  raw            the data set's own label values, as its submission server wants them
  probabilities  NAME.npz with probabilities (classes, height, width), float16
A video becomes OUTPUT/overlay/NAME.mp4, and a PNG per frame for the other kinds.
exit code 2: some inputs could not be predicted; all others were"""
KINDS = ("index", "color", "overlay", "raw", "probabilities")


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser(
        "predict", "Predict images with a trained segmentation model.", EXAMPLES
    )
    result.add_argument("checkpoint", metavar="RUN", help="run, checkpoint or exported file")
    result.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image, video, folder, glob, camera:NUMBER, or - for a list on standard input",
    )
    result.add_argument("--output", default="predictions", metavar="FOLDER", help="(predictions)")
    result.add_argument(
        "--save", nargs="+", choices=KINDS, default=["index", "overlay"], help="(index overlay)"
    )
    result.add_argument("--opacity", type=float, default=0.5, help="of colours in overlays (0.5)")
    result.add_argument("--frames", type=int, metavar="N", help="at most so many frames of a video")
    result.add_argument("--device", help="cuda or cpu (cuda where there is one)")
    add_protocol_options(result)
    return result


def main(options: argparse.Namespace) -> None:
    """Find the inputs, predict them all, then say which ones failed."""
    from sceneparse.errors import InputError, first_few
    from sceneparse.inference.inputs import find_sources
    from sceneparse.inference.predictor import Predictor

    check_options(options)
    cameras, words = split_inputs(options.inputs)
    sources = find_sources(words)
    if not sources and not cameras:
        raise InputError("the list of inputs is empty")
    predictor = Predictor(
        options.checkpoint,
        device=options.device,
        **protocol_settings(options),
    )
    print(f"protocol     {predictor.protocol.description}")
    writer = Writer(Path(options.output), options)
    try:
        writer.open()
        try:
            predict_images(predictor, [s for s in sources if not s.is_video], writer)
            for source in sources:
                if source.is_video:
                    predict_video(predictor, source.path, source.name, writer)
            for number in cameras:
                predict_video(predictor, number, f"camera{number}", writer)
        finally:
            writer.close()
    except OSError as error:
        raise InputError(f"cannot write to '{options.output}': {error.strerror}") from error
    print(f"predictions  {options.output} ({writer.done} of {len(sources) + len(cameras)} inputs)")
    if writer.failures:
        raise InputError(
            f"{len(writer.failures)} inputs could not be predicted: {first_few(writer.failures)}"
        )


def check_options(options: argparse.Namespace) -> None:
    """Raise InputError for numbers out of range."""
    from sceneparse.errors import InputError

    if not 0 <= options.opacity <= 1:
        raise InputError(f"--opacity must be in 0..1, got {options.opacity}")
    if options.frames is not None and options.frames < 1:
        raise InputError(f"--frames must be 1 or more, got {options.frames}")


def split_inputs(inputs: Sequence[str]) -> tuple[list[int], list[str]]:
    """Tell cameras from names of files; - stands for the names on standard input."""
    from sceneparse.errors import InputError

    cameras, words = [], []
    for word in inputs:
        kind, _, number = word.partition(":")
        if kind == "camera":
            if not number.isdecimal():
                raise InputError(f"a camera goes by its number, as in camera:0; got '{word}'")
            cameras.append(int(number))
        elif word == "-":
            words += [line.strip() for line in sys.stdin if line.strip()]
        else:
            words.append(word)
    return cameras, words


class Writer:
    """Writes predictions as the options ask, and remembers what failed."""

    def __init__(self, output: Path, options: argparse.Namespace) -> None:
        self.output, self.save = output, options.save
        self.opacity, self.frames = options.opacity, options.frames
        self.done = 0
        self.failures: list[InputError] = []
        self._shares: dict[str, Any] = {}

    def write(self, prediction: Prediction, name: str, kinds: Sequence[str]) -> None:
        """Write the files of one image."""
        import numpy as np

        from sceneparse.report.pictures import save_labels

        for kind in kinds:
            # The Cityscapes server knows files by city, sequence and frame.
            short = name.removesuffix("_leftImg8bit") if kind == "raw" else name
            path = self.output / kind / f"{short}.png"
            if kind == "probabilities":
                probabilities = prediction.probabilities.astype(np.float16)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(path.with_suffix(".npz"), probabilities=probabilities)
            else:
                labels, table = prediction.labels, prediction.table
                save_labels(kind, path, prediction.image, labels, table, self.opacity)

    def finish(self, name: str, shares: dict[str, float] | list[dict[str, float]]) -> None:
        """Count an input as done, with its shares of classes (one per frame)."""
        self.done += 1
        self._shares[name] = shares

    def open(self) -> None:
        """Make the folder, before any work is done for it."""
        self.output.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Write shares.json, also of what was done before an interruption."""
        text = json.dumps(self._shares, indent=1)
        (self.output / "shares.json").write_text(text + "\n", encoding="utf-8")


def predict_images(predictor: Predictor, sources: Sequence[Source], writer: Writer) -> None:
    """Predict images; what cannot be read is reported, and the rest done."""
    from sceneparse.errors import InputError, one_line
    from sceneparse.inference.inputs import equal_size_batches
    from sceneparse.runtime.progress import Progress

    progress = Progress(len(sources), "images")

    def failed(_: Source, error: InputError) -> None:
        progress.write(f"left out: {error}")
        writer.failures.append(error)
        progress.advance(1)

    keep = "probabilities" in writer.save
    for batch in equal_size_batches(sources, predictor.images_at_once, failed):
        predictions = predictor.batch([image for _, image in batch], keep_probabilities=keep)
        for source, _ in batch:
            # Taken off the list, so that its memory is free again when it is written.
            prediction = predictions.pop(0)
            if prediction.tiled:
                large = f"{source.path}: so large that it was predicted in tiles"
                progress.write(one_line(large))
            try:
                writer.write(prediction, source.name, writer.save)
            except InputError as error:
                failed(source, InputError(f"{source.path}: {error}"))
                continue
            writer.finish(source.name, prediction.shares)
            progress.advance(1)
    progress.close()


def predict_video(predictor: Predictor, source: Path | int, name: str, writer: Writer) -> None:
    """Predict a video frame by frame, into a video of overlays and pictures of each frame."""
    from sceneparse.errors import InputError
    from sceneparse.inference.video import VideoReader, VideoWriter
    from sceneparse.runtime.progress import Progress

    shares: list[dict[str, float]] = []
    keep = "probabilities" in writer.save
    other_kinds = [kind for kind in writer.save if kind != "overlay"]
    try:
        reader = VideoReader(source)
        progress = Progress(writer.frames or reader.frames_expected, "frames")
        with ExitStack() as stack:
            video: VideoWriter | None = None
            at_once = 1 if isinstance(source, int) else None
            for frames in chunks(reader.frames(writer.frames), predictor, at_once):
                for prediction in predictor.batch(frames, keep_probabilities=keep):
                    writer.write(prediction, f"{name}/{len(shares):06d}", other_kinds)
                    shares.append(prediction.shares)
                    if "overlay" in writer.save:
                        picture = prediction.overlay(writer.opacity, legend="all")
                        if video is None:
                            path = writer.output / "overlay" / f"{name}.mp4"
                            size = (picture.shape[0], picture.shape[1])
                            video = stack.enter_context(VideoWriter(path, reader.rate, size))
                        video.write(picture)
                    progress.advance(1)
        progress.close()
        reader.require_all(writer.frames)
    except InputError as error:
        writer.failures.append(error)
    finally:
        if shares:
            writer.finish(name, shares)


def chunks(
    frames: Iterator[Picture], predictor: Predictor, at_once: int | None
) -> Iterator[list[Picture]]:
    """Take `at_once` frames together; None: as many as images of their size."""
    for frame in frames:
        count = at_once or predictor.images_at_once(frame.shape[0], frame.shape[1])
        yield [frame, *itertools.islice(frames, count - 1)]
