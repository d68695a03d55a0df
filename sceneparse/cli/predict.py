"""Predict images, folders, videos or a camera with a trained model: label maps and pictures."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sceneparse.cli.command import command_parser, writing
from sceneparse.cli.options import add_option, add_protocol_options, number, protocol_settings
from sceneparse.errors import InputError, first_few, one_line

if TYPE_CHECKING:
    from sceneparse.inference.inputs import Source
    from sceneparse.inference.predictor import Prediction, Predictor
    from sceneparse.inference.video import VideoReader

EXAMPLES = """\
  sceneparse predict runs/quickstart street.jpg
  sceneparse predict runs/quickstart photos/ "more/*.jpg" --save index color
  sceneparse predict runs/quickstart photos/ --abstain 0.7
  sceneparse predict runs/camvid_mobilenet drive.mp4
  sceneparse predict runs/camvid_mobilenet camera:0 --frames 100
  find photos -name "*.png" | sceneparse predict runs/quickstart -
  sceneparse predict runs/cityscapes_spnet101 leftImg8bit/test --save raw --protocol spnet

Results are OUTPUT/shares.json, the share of each class per image, and OUTPUT/KIND/NAME.png for each
KIND of --save:
  index          class numbers, with a palette (16-bit grey above 256 classes)
  color          the colours of the classes
  overlay        these colours blended with the image, and the names of the classes
  raw            the dataset's own label values, as its submission server expects them
  probabilities  NAME.npz: probabilities (classes, height, width) in float16
With --abstain, pixels without a class are 255 (65535 in 16-bit files) in index and raw, black in
color, and not painted in overlay; shares.json counts them for no class.
A video becomes OUTPUT/overlay/NAME.mp4; the other kinds get a file per frame.
Results of earlier predictions among the inputs are skipped and counted.
Exit code 2: some inputs could not be predicted; all others were."""
KINDS = ("index", "color", "overlay", "raw", "probabilities")


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = command_parser("predict", "Predict images with a trained model.", EXAMPLES)
    result.add_argument("checkpoint", metavar="RUN", help="run folder, checkpoint or exported file")
    result.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image, video, folder, glob, camera:NUMBER, or - to read names from standard input",
    )
    add = partial(add_option, result)
    add("--output FOLDER", "folder for the results", default="predictions")
    add("--save KIND...", "what to write", choices=KINDS, default=["index", "overlay"])
    add("--opacity X", "opacity of overlays, in 0..1", type=number(float, 0, 1), default=0.5)
    unsure = "give no class to pixels whose confidence is below X, see below"
    add("--abstain X", unsure, type=confidence)
    add("--frames N", "stop a video or camera after N frames", type=number(int, 1))
    add("--device NAME", "cpu, cuda or cuda:NUMBER; default a GPU if there is one")
    add_protocol_options(result)
    return result


def confidence(text: str) -> float:
    """Read a number between 0 and 1, both excluded."""
    with suppress(ValueError):
        if 0 < (value := float(text)) < 1:
            return value
    raise argparse.ArgumentTypeError(f"must be above 0 and below 1, got '{text}'")


def main(options: argparse.Namespace) -> None:
    """Predict all inputs; raise InputError if some failed."""
    from sceneparse.inference.inputs import find_sources
    from sceneparse.inference.predictor import Predictor
    from sceneparse.inference.results import EarlierResults

    cameras, names = split_inputs(options.inputs)
    earlier = EarlierResults(KINDS)
    sources = find_sources(names, skip=earlier.contains)
    skipped = ", ".join(
        f"{len(of)} results of earlier predictions in '{folder}'"
        for folder, of in earlier.skipped.items()
    )
    if not sources and not cameras:
        raise InputError(f"the list of inputs is empty{skipped and f'; {skipped} are no inputs'}")
    if skipped:
        print(one_line(f"skipped      {skipped}"))
    writer = Writer(options)
    writer.require_no_overwriting(sources)
    predictor = Predictor(
        options.checkpoint,
        device=options.device,
        abstain=options.abstain,
        **protocol_settings(options),
    )
    print(f"protocol     {predictor.protocol.description}")
    videos: list[tuple[Path | int, str]] = [(s.path, s.name) for s in sources if s.is_video]
    videos += [(camera, f"camera{camera}") for camera in cameras]
    with writing(options.output):
        writer.output.mkdir(parents=True, exist_ok=True)
        try:
            predict_images(predictor, [s for s in sources if not s.is_video], writer)
            for source, name in videos:
                predict_video(predictor, source, name, writer)
        finally:
            writer.close()
    count = len(sources) + len(cameras)
    print(f"predictions  {options.output} ({len(writer.shares)} of {count} inputs)")
    if writer.pixels:
        print_abstained(predictor, options.abstain, writer.abstained / writer.pixels)
    if writer.failures:
        raise InputError(
            f"{len(writer.failures)} inputs could not be predicted: {first_few(writer.failures)}"
        )


def print_abstained(predictor: Predictor, threshold: float, share: float) -> None:
    """Print the share of pixels without a class, and the expected error of the others."""
    import numpy as np

    print(f"abstained    {share:.2%} of the pixels, with a confidence below {threshold:g}")
    calibration = predictor.calibration
    if calibration is None:
        return
    # At some thresholds no pixel was left.
    risk = calibration["risk"]
    pairs = zip(risk["thresholds"], risk["error"], strict=True)
    known = np.array([pair for pair in pairs if pair[1] is not None])
    error = float(np.interp(threshold, known[:, 0], known[:, 1]))
    here = predictor.protocol.description
    other = f" under another protocol ({calibration['protocol']})"
    print(
        f"expected     {error:.2%} of the other pixels are wrong, as on {calibration['images']} "
        f"images of split {calibration['split']}{other if calibration['protocol'] != here else ''}"
    )


def split_inputs(inputs: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the numbers of cameras, and the names of files, also those on standard input."""
    cameras, names = [], []
    for given in inputs:
        kind, _, number = given.partition(":")
        if kind == "camera":
            if not number.isdecimal():
                raise InputError(f"give a camera by its number, as in camera:0; got '{given}'")
            cameras.append(int(number))
        elif given == "-":
            names += [line.strip() for line in sys.stdin if line.strip()]
        else:
            names.append(given)
    return cameras, names


class Writer:
    """Writes predictions into the output folder, and records class shares and failures."""

    def __init__(self, options: argparse.Namespace) -> None:
        from sceneparse.inference.results import ResultList

        self.output, self.save = Path(options.output), options.save
        self.opacity, self.frames = options.opacity, options.frames
        self.keep = "probabilities" in self.save
        self.failures: list[InputError] = []
        # With --abstain: pixels in all, and those without a class.
        self.abstain, self.pixels, self.abstained = options.abstain, 0, 0.0
        # Per finished input; a list with an entry per frame for a video.
        self.shares: dict[str, Any] = {}
        self.written = ResultList(self.output)

    def path(self, kind: str, name: str) -> Path:
        """Return the file of a kind for an image."""
        # The Cityscapes server expects names of city, sequence and frame alone.
        short = name.removesuffix("_leftImg8bit") if kind == "raw" else name
        suffix = ".npz" if kind == "probabilities" else ".png"
        return self.output / kind / f"{short}{suffix}"

    def require_no_overwriting(self, sources: Sequence[Source]) -> None:
        """Raise InputError if a result would get the path of an input."""
        inputs = {source.path.resolve() for source in sources}
        for source, kind in itertools.product(sources, self.save):
            path = self.path(kind, source.name)
            if path.is_file() and path.resolve() in inputs:
                raise InputError(
                    f"the {kind} result of '{source.path}' would overwrite the input '{path}'; "
                    "choose another --output"
                )

    def close(self) -> None:
        """Write the shares."""
        from sceneparse.inference.results import SHARES_FILE

        path = self.output / SHARES_FILE
        self.written.add(path)
        path.write_text(json.dumps(self.shares, indent=1) + "\n", encoding="utf-8")

    def write(self, prediction: Prediction, name: str, kinds: Sequence[str]) -> None:
        """Write the files of one image."""
        import numpy as np

        from sceneparse.report.pictures import save_labels

        if self.abstain is not None:
            self.pixels += prediction.labels.size
            self.abstained += prediction.labels.size * prediction.abstained
        for kind in kinds:
            path = self.path(kind, name)
            self.written.add(path)
            if kind == "probabilities":
                probabilities = prediction.probabilities.astype(np.float16)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(path, probabilities=probabilities)
            else:
                labels, table = prediction.labels, prediction.table
                save_labels(kind, path, prediction.image, labels, table, self.opacity)


def predict_images(predictor: Predictor, sources: Sequence[Source], writer: Writer) -> None:
    """Predict images in batches of equal size; skip and record those that cannot be read."""
    from sceneparse.inference.inputs import equal_size_batches
    from sceneparse.runtime.progress import Progress

    progress = Progress(len(sources), "images")

    def failed(_: Source, error: InputError) -> None:
        progress.write(f"skipped: {error}")
        writer.failures.append(error)
        progress.advance(1)

    depth = predictor.model.bit_depth
    for batch in equal_size_batches(sources, predictor.images_at_once, failed, depth):
        images = [image for _, image in batch]
        predictions = predictor.batch(images, keep_probabilities=writer.keep)
        for source, _ in batch:
            # Removed from the list, so that its memory is free again once it is written.
            prediction = predictions.pop(0)
            if prediction.tiled:
                progress.write(one_line(f"{source.path}: predicted in tiles, because it is large"))
            try:
                writer.write(prediction, source.name, writer.save)
            except InputError as error:
                failed(source, InputError(f"{source.path}: {error}"))
                continue
            writer.shares[source.name] = prediction.shares
            progress.advance(1)
    progress.close()


def predict_video(predictor: Predictor, source: Path | int, name: str, writer: Writer) -> None:
    """Predict a video or camera; what was done before an error is kept and counted."""
    from sceneparse.inference.video import VideoReader

    shares: list[dict[str, float]] = []
    try:
        reader = VideoReader(source)
        write_frames(predictor, reader, name, writer, shares)
        reader.require_all(writer.frames)
    except InputError as error:
        writer.failures.append(error)
    finally:
        if shares:
            writer.shares[name] = shares


def write_frames(
    predictor: Predictor,
    reader: VideoReader,
    name: str,
    writer: Writer,
    shares: list[dict[str, float]],
) -> None:
    """Write a video of overlays, and files per frame for the other kinds; append to `shares`."""
    from sceneparse.inference.video import VideoWriter
    from sceneparse.runtime.progress import Progress

    other_kinds = [kind for kind in writer.save if kind != "overlay"]
    path = writer.path("overlay", name).with_suffix(".mp4")
    progress = Progress(writer.frames or reader.frames_expected, "frames")
    with ExitStack() as stack:
        video: VideoWriter | None = None
        for prediction in predict_frames(predictor, reader, writer):
            writer.write(prediction, f"{name}/{len(shares):06d}", other_kinds)
            shares.append(prediction.shares)
            if "overlay" in writer.save:
                picture = prediction.overlay(writer.opacity, legend="all")
                size = (picture.shape[0], picture.shape[1])
                writer.written.add(path)
                video = video or stack.enter_context(VideoWriter(path, reader.rate, size))
                video.write(picture)
            progress.advance(1)
    progress.close()


def predict_frames(
    predictor: Predictor, reader: VideoReader, writer: Writer
) -> Iterator[Prediction]:
    """Predict the frames of a video in batches, those of a camera one by one."""
    frames = reader.frames(writer.frames)
    for first in frames:
        count = 1 if reader.is_camera else predictor.images_at_once(first.shape[0], first.shape[1])
        batch = [first, *itertools.islice(frames, count - 1)]
        yield from predictor.batch(batch, keep_probabilities=writer.keep)
