"""What all pages share: sorting, large pictures, the phone, the dark, and images of many scenes."""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from test_train_seg import call

from sceneparse.cli import auto as auto_command
from sceneparse.cli import check as check_command
from sceneparse.cli import compare as compare_command
from sceneparse.cli import score as score_command
from sceneparse.data.datasets import Sample, create_dataset
from sceneparse.data.labels import load_label_table, palette
from sceneparse.data.synthetic import CLASSES as SCENE_CLASSES
from sceneparse.metrics.confusion import PREDICTED, RIGHT, TRUTH
from sceneparse.report.pages import (
    example_layers,
    figure_of_layers,
    figure_uri,
    made_now,
    write_page,
)
from sceneparse.report.pictures import Example
from sceneparse.report.tables import Table
from sceneparse.runtime.versions import describe_device
from sceneparse.training.examples import KeptExamples
from tests.browser import dom_of

CELLS = ["-", "10.5%", "9", "-3", "1,200", "2.5e-3 M"]


def write_example(path: Path) -> Path:
    """Write a page with a table of numbers, a layered picture and two plots."""
    table = load_label_table("camvid")
    image = np.full((30, 40, 3), 90, np.uint8)
    labels = np.zeros((30, 40), np.uint8)
    labels[:, 20:] = 3
    layers = example_layers(Example("x", image, labels, labels[:, ::-1]), table)
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([0, 1], color="black")
    wide = [f"a column of a long name {k}" for k in range(9)]
    values = {
        "title": "A <b> title",
        "verdicts": ["B is better."],
        "notes": [],
        "galleries": {"Worst images": [figure_of_layers("photo", image, {"A": layers})]},
        "classes": table.classes,
        "tables": [
            Table("Numbers", ["name", "value"], [[f"row {k}", c] for k, c in enumerate(CELLS)]),
            Table("Wide", wide, [["-"] * 9]),
        ],
        "plots": {"First": figure_uri(figure), "Second": figure_uri(figure)},
        "facts": {"rule": "cityscapes"},
    }
    write_page("comparison.html", path, values)
    return path


PROBE = """<script>
  const found = {}, key = name => new KeyboardEvent("keydown", {key: name, bubbles: true});
  const button = document.querySelectorAll("table")[0].querySelectorAll("th button")[1];
  const column = () => [...document.querySelector("tbody").rows].map(r => r.cells[1].textContent);
  button.click(); found.rising = column(); found.sorted = button.parentElement.ariaSort;
  button.click(); found.falling = column();
  const pictures = document.querySelectorAll("main figure");
  pictures[0].focus(); pictures[0].dispatchEvent(key("Enter"));
  const caption = () => dialog.querySelector("figcaption").textContent;
  found.open = dialog.open; found.first = caption();
  found.within = dialog.contains(controls) && !controls.hidden;
  dialog.querySelector("input[value=errors]").click();
  found.shown = [...dialog.querySelectorAll(".layer")].filter(
    image => getComputedStyle(image).visibility == "visible").map(image => image.className);
  dialog.dispatchEvent(key("ArrowRight")); found.second = caption(); found.hidden = controls.hidden;
  dialog.dispatchEvent(key("ArrowLeft")); dialog.dispatchEvent(key("ArrowLeft"));
  found.last = caption();
  dialog.querySelector(".close").click();
  addEventListener("load", () => setTimeout(() => {
    found.closed = !dialog.open; found.focus = document.activeElement === pictures[2];
    found.back = document.querySelector("main").contains(controls) && !controls.hidden;
    found.fits = document.documentElement.scrollWidth <= innerWidth;
    found.box = [...document.querySelectorAll(".wide")].at(-1).tabIndex;
    document.title = JSON.stringify(found);
  }, 500));
</script></body>"""


def test_tables_sort_and_pictures_open_by_keyboard(tmp_path: Path) -> None:
    page = write_example(tmp_path / "page.html").read_text()
    (tmp_path / "probe.html").write_text(page.replace("</body>", PROBE))
    title = re.findall(r"<title>(.*?)</title>", dom_of(tmp_path / "probe.html", width=500))[0]
    found = json.loads(html.unescape(title))
    numbers = ["-3", "2.5e-3 M", "9", "10.5%", "1,200"]
    assert (found["rising"], found["sorted"]) == ([*numbers, "-"], "ascending")
    assert found["falling"] == [*numbers[::-1], "-"]
    assert (found["open"], found["within"], found["hidden"]) == (True, True, True)
    assert (found["first"], found["second"], found["last"]) == ("photo", "First", "Second")
    assert found["shown"] == ["layer errors"]
    assert (found["closed"], found["focus"], found["back"]) == (True, True, True)
    # The wide table scrolls in its own box, which the keyboard reaches.
    assert (found["fits"], found["box"]) == (True, 0)


def test_a_phone_shows_the_page_without_scrolling_sideways(tmp_path: Path) -> None:
    page = html.escape(write_example(tmp_path / "page.html").read_text())
    phone = f"""<iframe width="360" height="700" srcdoc="{page}"></iframe><script>
      addEventListener("load", () => {{
        const page = document.querySelector("iframe").contentDocument.documentElement;
        document.title = `${{page.offsetWidth <= 360}} ${{page.scrollWidth <= page.clientWidth}}`;
      }});</script>"""
    (tmp_path / "phone.html").write_text(f"<!doctype html><title></title>{phone}")
    assert "<title>true true</title>" in dom_of(tmp_path / "phone.html", width=500)


def test_a_page_needs_nothing_else_and_ends_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/sceneparse", "compare", "a run", "b"])
    page = write_example(tmp_path / "page.html").read_text()
    assert "<code>sceneparse compare &#39;a run&#39; b</code>" in page
    assert "A &lt;b&gt; title" in page
    sources = re.findall(r"(?:src|href)=\"([^\"]*)\"|url\(([^)]*)\)", page)
    assert len(sources) == 6
    assert all("".join(pair).startswith("data:image/") for pair in sources)
    assert page.count("<th") - page.count("<thead") == page.count('<th scope="col"')
    monkeypatch.setattr(sys, "argv", ["tools/eval_miou.py", "run"])
    assert (
        "<code>python tools/eval_miou.py run</code>"
        in write_example(tmp_path / "page.html").read_text()
    )


def test_plots_are_readable_on_light_and_dark() -> None:
    figure = Figure()
    plain, matrix = figure.subplots(1, 2)
    (black,) = plain.plot([0, 1], color="black", label="line")
    (blue,) = plain.plot([1, 0], color="tab:blue")
    legend = plain.legend()
    matrix.imshow(np.eye(2))
    number = matrix.text(0, 0, "50", color="black")
    figure_uri(figure)
    assert to_hex(black.get_color()) == to_hex(plain.xaxis.label.get_color()) == "#808080"
    assert to_hex(legend.get_texts()[0].get_color()) == "#808080"
    assert to_hex(blue.get_color()) == to_hex("tab:blue")
    assert number.get_color() == "black"
    assert figure.patch.get_alpha() == plain.patch.get_alpha() == 0


class Frames:
    """Images (N, H, W) in grey, as a dataset."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __getitem__(self, number: int) -> Sample:
        image = np.dstack([self.images[number]] * 3)
        return image, np.zeros(image.shape[:2], np.uint8), f"frame-{number:03}"


def frames_of(scenes: NDArray[np.float64], kept: float, seed: int) -> NDArray[np.uint8]:
    """Return a frame per scene: the share `kept` of its pattern, and noise."""
    noise = np.random.default_rng(seed).normal(size=scenes.shape)
    mixed = kept * scenes + np.sqrt(1 - kept**2) * noise
    return np.clip(128 + 40 * mixed, 0, 255).astype(np.uint8)


def test_worst_images_are_of_different_scenes() -> None:
    random = np.random.default_rng(0)
    scene_of = np.repeat(np.arange(8), 5)
    patterns = random.normal(size=(8, 32, 32))
    images = frames_of(patterns[scene_of], 0.98, 1)
    for _ in range(5):
        ranked = random.permutation(len(images)).tolist()[:16]
        kept = KeptExamples(Frames(images), [])
        found = kept.of_different_scenes(ranked, 4, len(images))
        # The first of all choices, in the order of ranks, whose scenes differ.
        expected = next(
            [*choice]
            for choice in itertools.combinations(ranked, 4)
            if len({scene_of[k] for k in choice}) == 4
        )
        assert found == expected
        one_scene = [k for k in ranked if scene_of[k] == scene_of[ranked[0]]]
        assert kept.of_different_scenes(one_scene, 9, len(images)) == one_scene[:3]


def test_images_that_look_a_little_alike_are_one_scene_if_they_are_neighbours() -> None:
    patterns = np.random.default_rng(0).normal(size=(1, 32, 32)).repeat(40, axis=0)
    images = frames_of(patterns, 0.85, 1)  # a correlation of about 0.7
    kept = KeptExamples(Frames(images), [])
    assert kept.of_different_scenes([7, 8, 10, 30, 33], 2, 40) == [7, 30]
    # If more are needed, nearer ones are taken: 3 apart, not 1.
    assert kept.of_different_scenes([7, 8, 10, 30, 33], 4, 40) == [7, 10, 30, 33]
    # Of other images, however near their names are, the worst are shown.
    others = frames_of(np.random.default_rng(2).normal(size=(40, 32, 32)), 1, 1)
    assert KeptExamples(Frames(others), []).of_different_scenes([7, 8, 10], 2, 40) == [7, 8]


def test_scenes_of_worst_and_best_images() -> None:
    images = frames_of(np.random.default_rng(0).normal(size=(12, 32, 32)), 1, 1)
    kept = KeptExamples(Frames(images), [])
    scores = np.random.default_rng(3).permutation(12) / 12
    for number, score in enumerate(scores):
        kept.add(number, np.zeros((32, 32), np.uint8), float(score))
    found = kept.scenes(6, 3, 12)
    ranked = np.argsort(scores).tolist()
    assert found == {"Worst images": ranked[:6], "Best images": ranked[:-4:-1]}
    # If the best are of one scene, no image that is far from the best takes their place.
    images = frames_of(np.random.default_rng(0).normal(size=(1, 32, 32)).repeat(40, 0), 0.98, 1)
    kept = KeptExamples(Frames(images), [])
    for number in range(40):
        kept.add(number, np.zeros((32, 32), np.uint8), number / 40)
    found = kept.scenes(6, 3, 40)
    assert found == {"Worst images": [0, 1, 2], "Best images": [39, 38, 37]}


def evaluated(folder: Path, root: Path, seed: int, names: list[str]) -> NDArray[np.float64]:
    """Write an evaluation with predictions, wrong where a seed says; return images' mean IoU."""
    dataset = create_dataset("folder", str(root), "val")
    count, random, scores = dataset.table.num_classes, np.random.default_rng(seed), []
    by_image = np.zeros((len(dataset), 3, count), dtype=np.int64)
    (folder / "index").mkdir(parents=True)
    for number in range(len(dataset)):
        _, truth, name = dataset[number]
        found = np.where(random.random(truth.shape) < 0.1 * (number % 3), 0, truth)
        Image.fromarray(found.astype(np.uint8)).save(folder / "index" / f"{name}.png")
        for k in range(count):
            by_image[number, RIGHT, k] = ((truth == k) & (found == k)).sum()
            by_image[number, TRUTH, k] = (truth == k).sum()
            by_image[number, PREDICTED, k] = (found[truth < count] == k).sum()
        right, true, predicted = by_image[number]
        union = true + predicted - right
        scores.append(np.mean(right[union > 0] / union[union > 0]))
    np.savez(folder / "counts.npz", by_image=by_image, images=names, classes=dataset.table.names)
    settings = {"dataset": "folder", "data": str(root), "split": "val"}
    about = {"protocol": "whole", "absent_class_rule": "cityscapes: ...", "settings": settings}
    (folder / "eval.json").write_text(json.dumps(about))
    return np.array(scores)


def test_two_runs_are_compared_with_the_images_that_differ_most(
    scenes: Path, tmp_path: Path
) -> None:
    names = [pair.name for pair in create_dataset("folder", str(scenes), "val").pairs]
    gains: Any = -evaluated(tmp_path / "a", scenes, 0, names)
    gains += evaluated(tmp_path / "b", scenes, 5, names[:])
    runs = [tmp_path / "a", tmp_path / "b"]
    assert call(compare_command, *runs, "--output", tmp_path / "out") == 0
    page = (tmp_path / "out/compare.html").read_text()
    for heading, order in (("gain", np.argsort(-gains)), ("lose", np.argsort(gains))):
        wanted = [names[k] for k in order if (gains[k] > 0) == (heading == "gain") and gains[k]]
        table = page.partition(f"<h2>Images that {heading} most</h2>")[2].partition("</table>")[0]
        assert re.findall(r"<tr><td><span class=.name.>(scene_\d+)</span></td>", table) == wanted
        gallery = page.partition(f"<h3>Images that {heading} most</h3>")[2].partition("<h")[0]
        assert gallery.count("<figure") == min(len(wanted), 4)
    assert 'alt="prediction of scene_' in page
    assert call(compare_command, *runs, "--output", tmp_path / "out", "--palette", "safe") == 0
    assert swatches(tmp_path / "out/compare.html") == {*palette(SCENE_CLASSES)}
    shutil.rmtree(tmp_path / "b/index")
    assert call(compare_command, *runs, "--output", tmp_path / "out") == 0
    page = html.unescape((tmp_path / "out/compare.html").read_text())
    assert "There are no pictures of the images: " in page
    assert "b has no predictions; evaluate it with --save index and compare again." in page
    assert "<h2>Images that gain most</h2>" in page


@pytest.mark.parametrize("name", ["dataset", "safe"])
def test_the_page_about_data_has_the_colors_that_are_asked_for(
    scenes: Path, tmp_path: Path, name: str
) -> None:
    assert call(check_command, scenes, "--output", tmp_path / "out", "--palette", name) == 0
    expected = {*palette(SCENE_CLASSES)} if name == "safe" else {*SCENE_CLASSES.values()}
    assert swatches(tmp_path / "out/data.html") == expected


def test_the_end_of_a_page_names_the_device_that_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", str)
    assert made_now(torch.device("cuda", 1))["machine"] == "cuda:1"
    assert made_now(None)["machine"] == describe_device(torch.device("cpu"))


def swatches(page: Path) -> set[tuple[int, ...]]:
    """Return the colours of classes on a page."""
    found = re.findall(r'class="swatch" style="background: rgb\((.*?)\)', page.read_text())
    return {tuple(map(int, color.split(", "))) for color in found}


def test_colors_of_pictures_that_are_not_written_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (tmp_path, "--time", "1m", "--plan-only", "--palette", "safe")
    assert call(auto_command, *words) == 2
    assert "--palette is for the page, which --plan-only does not write" in capsys.readouterr().err
    assert call(score_command, tmp_path, tmp_path, "--palette", "safe") == 2
    assert "--palette is for the pictures of --report; add it" in capsys.readouterr().err


def test_safe_colors_are_those_of_the_palette() -> None:
    table = load_label_table("cityscapes")
    safe = table.with_palette("safe")
    assert safe.colors == palette(table.names)
    assert safe.colors != table.colors
    assert [label.raw_id for label in safe.labels] == [label.raw_id for label in table.labels]
    assert np.array_equal(safe.decode(np.arange(19)), table.decode(np.arange(19)))
