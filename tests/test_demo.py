"""The page of `sceneparse demo`: what it finds, shows and writes, its server, and a browser."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax
from test_inference import EveryPixel, model_of
from test_train_seg import call

from sceneparse.cli import demo as demo_command
from sceneparse.data.labels import palette
from sceneparse.data.reading import read_image
from sceneparse.demo import results as results_module
from sceneparse.demo import server as server_module
from sceneparse.demo.local import Address, free_address, temporary_files
from sceneparse.demo.page import Page
from sceneparse.demo.results import Result
from sceneparse.demo.samples import Samples, given_samples, usual_samples
from sceneparse.demo.server import served
from sceneparse.demo.session import Demo
from sceneparse.errors import InputError
from sceneparse.inference import predictor as predictor_module
from sceneparse.inference.predictor import Predictor
from sceneparse.report.pictures import overlay
from tests.browser import Browser
from tests.conftest import ROOT, MakeRun

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "background": (9, 9, 9)}


def pointwise(*names: str) -> Predictor:
    """Return a network whose logits are 2v - 1 of the red, green and blue values v in 0..1."""
    model = model_of(EveryPixel())
    model.meta = {
        "classes": list(names),
        "colors": [COLORS[name] for name in names],
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    return Predictor(model, amp="off")


@pytest.fixture
def image() -> np.ndarray[Any, Any]:
    """A picture (64, 96, 3) of noise, with a region for each class."""
    random = np.random.default_rng(0)
    image = random.integers(0, 120, (64, 96, 3), dtype=np.uint8)
    for channel, rows in enumerate((slice(0, 30), slice(30, 50), slice(50, 64))):
        image[rows, :, channel] += 100
    return image


def png(image: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def scene_samples(scenes: Path) -> Samples:
    return given_samples([str(scenes / "val/images")], None)


@pytest.fixture
def alone(scene_samples: Samples) -> Demo:
    return Demo([("runs/a", pointwise("red", "green", "blue"))], scene_samples)


@pytest.fixture
def comparing(scene_samples: Samples) -> Demo:
    """Two models that see the same, and call it by different names."""
    names = ("red", "green", "blue"), ("green", "red", "blue")
    models = [(f"runs/{k}", pointwise(*classes)) for k, classes in enumerate(names)]
    return Demo(models, scene_samples)


class Visit:
    """A page without a server, and the state of a visitor."""

    def __init__(self, demo: Demo) -> None:
        with gr.Blocks(analytics_enabled=False):
            self.page = Page(demo, share=False)
        self.view = "classes"
        self.hidden: list[set[int]] = self.page.hidden.value
        self.updates: Any = {}

    @property
    def result(self) -> Result:
        found: Result = self.updates[self.page.result]
        return found

    @property
    def status(self) -> str:
        """The line on the page, without its tag."""
        return re.sub("<[^>]*>", "", self.updates[self.page.status])

    def show(self, found: Any) -> None:
        """Show what an event found, as the page does next."""
        shown = self.page.show(found[self.page.result], self.view, self.hidden)
        self.updates = {**found, **shown}

    def layer(self, model: int = 0) -> np.ndarray[Any, Any]:
        """What is drawn over the picture, RGBA (H, W, 4)."""
        address = self.updates[self.page.panes[model]]["layer"]
        content = base64.b64decode(address.partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))

    def upload(self, path: Path) -> None:
        self.show(self.page.take_file(str(path)))


@pytest.fixture
def photo(tmp_path: Path, image: Any) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(png(image))
    return path


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"MAX_WHOLE": 5000, "TILE": 32, "MARGIN": 8, "_PART": 48}
    for name, value in sizes.items():
        monkeypatch.setattr(predictor_module, name, value)


@pytest.mark.parametrize("tiled", [False, True])
def test_confidence_is_the_probability_of_each_label(
    tiled: bool, image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tiled:
        small_tiles(monkeypatch)
    predictor = pointwise("red", "green", "blue")
    (found,) = predictor.batch([image], keep_confidence=True)
    assert found.tiled is tiled
    assert found.confidence is not None
    expected = softmax(image / 127.5, axis=2)
    np.testing.assert_allclose(found.confidence, expected.max(axis=2), atol=1e-6)
    assert np.array_equal(found.labels, image.argmax(axis=2))
    assert predictor(image).confidence is None


BAD_FILES = {
    "notes.txt": b"no picture",
    "empty.png": b"",
    "cut.png": png(np.arange(9000, dtype=np.uint8).reshape(50, 60, 3))[:90],
    "large.pgm": b"P5 60000 60000 255\n" + bytes(100),
}


@pytest.mark.parametrize("tiled", [False, True])
def test_an_upload_is_predicted(
    alone: Demo, photo: Path, image: Any, tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tiled:
        small_tiles(monkeypatch)
    visit = Visit(alone)
    visit.upload(photo)
    labels = image.argmax(axis=2)
    assert visit.status.startswith("photo.png: 96 x 64 pixels, predicted in ")
    assert ("in tiles" in visit.status) is tiled
    assert np.array_equal(visit.layer()[..., :3], np.array(list(COLORS.values()))[labels])
    assert (visit.layer()[..., 3] == 255).all()
    sure = softmax(image / 127.5, axis=2).max(axis=2)
    assert visit.result.mean_confidences == [pytest.approx(sure.mean())]
    (shares,) = visit.result.shares
    assert shares == pytest.approx(np.bincount(labels.ravel()) / labels.size)
    listed = visit.updates[visit.page.switches[0]]["choices"]
    order = np.argsort(shares)[::-1]
    names = ("red", "green", "blue")
    assert listed == [(f"{names[k]}: {100 * shares[k]:.1f}%", k) for k in order]


def test_confidence_is_drawn_from_the_least_there_can_be(
    alone: Demo, photo: Path, image: Any
) -> None:
    visit = Visit(alone)
    visit.view = "confidence"
    visit.upload(photo)
    sure = softmax(image / 127.5, axis=2).max(axis=2)
    viridis = mpl.colormaps["viridis"]((sure - 1 / 3) * 1.5, bytes=True)
    assert np.abs(visit.layer().astype(int) - viridis).max() <= 8
    assert f"mean confidence {sure.mean():.3f}" in visit.updates[visit.page.facts]["value"]


def test_classes_are_switched_off_and_stay_off(comparing: Demo, photo: Path, image: Any) -> None:
    visit, labels = Visit(comparing), image.argmax(axis=2)
    visit.upload(photo)
    result = visit.result
    # Red and green are listed in the first model's order, and have the same switch in both.
    visit.updates = visit.page.switch(0, result, "classes", visit.hidden, [1, 2])
    for model, red in enumerate((0, 1)):
        assert np.array_equal(visit.layer(model)[..., 3] == 0, labels == red)
    visit.hidden = visit.updates[visit.page.hidden]
    assert visit.hidden == [{0}]
    visit.upload(photo)
    assert np.array_equal(visit.layer()[..., 3] == 0, labels == 0)
    assert set(visit.updates[visit.page.switches[0]]["value"]) == {1, 2}


def test_models_are_compared_by_the_names_of_classes(
    comparing: Demo, photo: Path, image: Any
) -> None:
    visit, different = Visit(comparing), image.argmax(axis=2) < 2
    visit.view = "differences"
    visit.upload(photo)
    for model in (0, 1):
        assert np.array_equal(visit.layer(model)[..., 1] < 99, different)
    facts = visit.updates[visit.page.facts]["value"]
    assert facts == f"A and B differ in {different.mean():.1%} of the pixels."
    (listed,) = [visit.updates[switches]["choices"] for switches in visit.page.switches]
    red, green = ((image.argmax(axis=2) == k).mean() for k in (0, 1))
    assert (f"red: A {red:.1%}, B {green:.1%}", 0) in listed
    place = SimpleNamespace(x=0.5, y=0.0)
    found: Any = visit.page.read(visit.result, place)  # type: ignore[arg-type]
    assert [line.partition(",")[0] for line in found] == ["red", "green"]


def test_models_of_different_classes_stand_side_by_side(
    scene_samples: Samples, photo: Path
) -> None:
    names = ("red", "green", "blue"), ("red", "green", "background")
    demo = Demo(
        [(f"runs/{k}", pointwise(*classes)) for k, classes in enumerate(names)], scene_samples
    )
    visit = Visit(demo)
    # Backgrounds are not drawn, until they are switched on.
    assert visit.hidden == [set(), {2}]
    visit.upload(photo)
    assert "different classes" in visit.updates[visit.page.facts]["value"]
    titles = [visit.updates[switches]["label"] for switches in visit.page.switches]
    assert titles == ["A: runs/0", "B: runs/1"]
    assert (visit.layer(0)[..., 3] == 255).all()
    assert np.array_equal(visit.layer(1)[..., 3] == 0, visit.result.predictions[1].labels == 2)


def test_a_file_without_confidences_has_no_map(scene_samples: Samples, photo: Path) -> None:
    predictor = pointwise("red", "green", "blue")
    predictor.model.gives_confidence = False
    visit = Visit(Demo([("a.onnx", predictor)], scene_samples))
    visit.view = "confidence"
    visit.upload(photo)
    assert visit.updates[visit.page.panes[0]]["layer"] == ""
    assert visit.updates[visit.page.facts]["value"] == "labels without confidences"
    assert visit.result.at(0, 0.5, 0.0) == "red"


def test_large_pictures_are_shown_small_and_downloaded_whole(
    alone: Demo, photo: Path, image: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_module, "MAX_VIEW", 32)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    visit = Visit(alone)
    visit.upload(photo)
    nearest = Image.fromarray(image.argmax(axis=2).astype(np.uint8))
    expected = np.asarray(nearest.resize((32, 21), Image.Resampling.NEAREST))
    shown = visit.layer()[..., :3].argmax(axis=2)
    assert shown.shape == (21, 32)
    assert (shown == expected).mean() > 0.99
    assert "shown with 32 pixels a side; downloads have full size" in visit.status
    written = visit.page.write(0, "Index PNG", visit.result, visit.hidden, 50)
    assert Image.open(written).size == (96, 64)


def test_downloads_are_what_the_page_shows(
    comparing: Demo, photo: Path, image: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    visit = Visit(comparing)
    visit.upload(photo)
    prediction = pointwise("green", "red", "blue").batch([image])[0]

    def written(kind: str, opacity: float = 50, hidden: set[int] | None = None) -> Path:
        return Path(visit.page.write(1, kind, visit.result, [hidden or set()], opacity))

    assert written("Index PNG").name == "photo_B_index.png"
    opened = Image.open(written("Index PNG"))
    assert np.array_equal(opened, prediction.labels)
    assert opened.getpalette()[:9] == [0, 255, 0, 255, 0, 0, 0, 0, 255]  # type: ignore[index]
    assert np.array_equal(Image.open(written("Overlay PNG")), prediction.overlay())
    # Class 0 of the first model, red, is class 1 of the second.
    painted = np.asarray(Image.open(written("Overlay PNG", 100, {0})))[30:50]
    unpainted = (prediction.labels == 1)[..., None]
    assert np.array_equal(painted, np.where(unpainted, image, prediction.color())[30:50])
    facts = json.loads(written("JSON").read_text(encoding="utf-8"))
    assert (facts["image"], facts["width"], facts["height"]) == ("photo.png", 96, 64)
    assert {row["name"]: row["share"] for row in facts["classes"]} == prediction.shares


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gets_the_line_of_the_command(
    name: str, alone: Demo, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(BAD_FILES[name])
    with pytest.raises(InputError) as expected:
        read_image(tmp_path / name)
    visit = Visit(alone)
    visit.upload(tmp_path / name)
    assert visit.status == str(expected.value).replace(f"{tmp_path}/", "")
    assert visit.updates[visit.page.shown]["visible"] is False
    assert "Traceback" not in capfd.readouterr().err


def test_names_are_text_and_notes_of_the_reader_are_shown(
    alone: Demo, image: Any, tmp_path: Path
) -> None:
    path = tmp_path / "<b>.gif"
    frames = [Image.fromarray(image), Image.fromarray(image[::-1])]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    visit = Visit(alone)
    visit.upload(path)
    note = "&lt;b&gt;.gif: several frames or pages, the first is used"
    assert visit.status.splitlines()[1] == note


def test_a_failure_of_ours_is_one_line_too(
    alone: Demo, photo: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no memory\nat all")

    monkeypatch.setattr(alone, "predict", fail)
    visit = Visit(alone)
    visit.upload(photo)
    assert visit.status == "it failed unexpectedly: no memory; see the terminal of the command"
    assert "MemoryError" in capfd.readouterr().err


def test_samples_are_predicted(alone: Demo, scenes: Path) -> None:
    visit = Visit(alone)
    visit.show(visit.page.take_sample(3))
    name = alone.samples.pictures[3].name
    assert visit.status.startswith(f"{name}: ")
    picture = read_image(scenes / f"val/images/{name}.jpg")
    assert np.array_equal(visit.layer()[..., :3].argmax(axis=2), picture.argmax(axis=2))


def test_a_forgotten_result_says_so(alone: Demo) -> None:
    visit = Visit(alone)
    with pytest.raises(gr.Error, match="choose the picture again"):
        visit.page.draw(None, "classes", visit.hidden)


class Client:
    """Requests to a page that is served."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def ask(self, verb: str, path: str, body: bytes | None = None, **headers: str) -> Any:
        """Return the status, the headers and the content of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.address.port, timeout=60)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(verb, path, body, names)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, response.headers, content

    def upload(self, content: bytes, **headers: str) -> int:
        body = b"--x\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n"
        body += content + b"\r\n--x--\r\n"
        kind = {"Content_Type": "multipart/form-data; boundary=x", **headers}
        status: int = self.ask("POST", "/gradio_api/upload", body, **kind)[0]
        return status


@pytest.fixture
def client(comparing: Demo) -> Iterator[Client]:
    address = free_address("127.0.0.1", 0)
    with temporary_files(), served(comparing, address) as public:
        assert public is None
        yield Client(address)


def test_requests_of_other_sites_are_refused(client: Client, image: Any) -> None:
    port, content = client.address.port, png(image)
    assert client.upload(content, Origin=f"http://127.0.0.1:{port}") == 200
    for origin in ("http://evil.example", "null", f"http://evil.example:{port}", "http://["):
        assert client.upload(content, Origin=origin) == 403
    for verb, host in [("GET", "evil.example"), ("POST", f"evil.example:{port}"), ("GET", "[")]:
        assert client.ask(verb, "/", Host=host)[0] == 403
    for host in ("localhost", f"127.0.0.1:{port}", "[::1]:9000"):
        assert client.ask("GET", "/", Host=host)[0] == 200


def test_the_browser_is_told_to_load_and_keep_nothing(client: Client) -> None:
    for path in ("/", "/config", "/theme.css"):
        status, headers, _ = client.ask("GET", path)
        assert status == 200
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self' data: blob: ")
        assert "http" not in policy
        assert headers["Cache-Control"] == "no-store"


def test_files_of_the_machine_are_not_served(client: Client) -> None:
    for path in (ROOT / "setup.py", Path("/etc/passwd")):
        assert client.ask("GET", f"/gradio_api/file={path}")[0] == 403


def test_uploads_are_limited(alone: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_UPLOAD", 1000)
    address = free_address("127.0.0.1", 0)
    with temporary_files(), served(alone, address):
        assert Client(address).upload(bytes(900)) == 200
        assert Client(address).upload(bytes(2000)) == 413


def test_nothing_is_asked_of_the_network_or_left(
    alone: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    look_up, temporary = socket.getaddrinfo, tmp_path / "temporary"

    def record(host: Any, *rest: Any, **options: Any) -> Any:
        asked.append(host)
        return look_up(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", record)
    # A proxy does not serve this machine.
    monkeypatch.setenv("HTTP_PROXY", "http://203.0.113.5:1")
    # Nor may the environment open files of this machine.
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", str(ROOT))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    temporary.mkdir()
    address = free_address("127.0.0.1", 0)
    with temporary_files(), served(alone, address):
        client = Client(address)
        assert client.upload(bytes(900)) == 200
        assert client.ask("GET", f"/gradio_api/file={ROOT / 'setup.py'}")[0] == 403
        assert list(temporary.rglob("*.png"))
    assert set(asked) <= {"127.0.0.1", None}
    assert list(temporary.iterdir()) == []
    assert "GRADIO_TEMP_DIR" not in os.environ
    assert os.environ["GRADIO_ALLOWED_PATHS"] == str(ROOT)


def test_a_shared_page_says_so(
    alone: Demo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The tunnel needs the network.
    public = "https://0123456789abcdef.gradio.live"
    monkeypatch.setattr("gradio.networking.setup_tunnel", lambda **_: public)
    address = free_address("127.0.0.1", 0)
    with temporary_files(), served(alone, address, share=True) as found:
        assert found == public
        client, name = Client(address), public.removeprefix("https://")
        _, _, page = client.ask("GET", "/", Host=name)
        assert b"Pictures pass through Gradio" in page
        assert client.upload(b"x", Host=name, Origin=public) == 200
        # The tunnel may name this machine as the host.
        assert client.upload(b"x", Origin=public) == 200
        assert client.upload(b"x", Origin="https://evil.example") == 403


def test_a_share_link_that_cannot_be_made_is_one_line(
    alone: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("gradio.networking.setup_tunnel", fail)
    with (
        temporary_files(),
        pytest.raises(InputError, match="no share link could be made: Could not create share link"),
        served(alone, free_address("127.0.0.1", 0), share=True),
    ):
        pass


def test_samples_come_from_where_they_are(
    make_run: MakeRun, scenes: Path, tmp_path: Path, logged: list[str]
) -> None:
    model = Predictor(make_run()).model
    found = usual_samples(model)
    assert found.description == f"5 of 5 images, split val of {scenes}"
    assert [s.name for s in found.pictures] == sorted(
        p.stem for p in (scenes / "val/images").iterdir()
    )
    model.meta["data"]["root"] = str(tmp_path / "gone")
    drawn = usual_samples(model)
    assert drawn.description == "drawn street scenes"
    assert all(sample.load(None).shape == (384, 576, 3) for sample in drawn.pictures)
    assert re.search("does not exist.*--samples FOLDER offers others", logged[-1])
    (tmp_path / "photos").mkdir()
    shutil.copy(next((scenes / "val/images").iterdir()), tmp_path / "photos/a.jpg")
    (tmp_path / "photos/b.jpg").write_bytes(b"no picture")
    assert [s.name for s in given_samples([str(tmp_path / "photos")], None).pictures] == ["a"]
    assert logged[-1].startswith("skipped sample: ")
    with pytest.raises(InputError, match="no image of --samples"):
        given_samples([str(tmp_path / "photos/b.jpg")], None)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one line with which the command refuses to start."""
    assert call(demo_command, *arguments) == 2
    captured = capsys.readouterr()
    assert "page  " not in captured.out
    (line,) = captured.err.splitlines()
    return line


def test_the_command_refuses_before_it_serves(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run()
    assert "give one model, or two" in refusal(capsys, run, run, run)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        expected = f"port {port} of 127.0.0.1 is in use; give another --port, or --port 0"
        assert expected in refusal(capsys, run, "--port", port)
    assert "cannot listen at --host '203.0.113.5'" in refusal(capsys, run, "--host", "203.0.113.5")
    assert "cannot listen at --host 'a..b'" in refusal(capsys, run, "--host", "a..b")
    assert "does not exist" in refusal(capsys, tmp_path / "no", "--port", 0)
    nothing = tmp_path / "nothing.jpg"
    assert "no image of" in refusal(capsys, run, "--port", 0, "--samples", nothing)
    weights = next(run.rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    assert refusal(capsys, run, "--port", 0).startswith("error: ")


def test_without_gradio_the_command_names_what_installs_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(demo_command, "find_spec", lambda _: None)
    line = refusal(capsys, "runs/any")
    assert line == "error: gradio is not installed; run: pip install 'sceneparse[demo]'"
    assert call(demo_command, "--help") == 0
    assert 'pip install "sceneparse[demo]"' in capsys.readouterr().out


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Demo]:
    """What would be served; the command ends at once."""
    found: list[Demo] = []

    def serve(demo: Demo, *_: object, **__: object) -> Any:
        found.append(demo)
        return nullcontext()

    monkeypatch.setattr(server_module, "served", serve)
    monkeypatch.setattr(server_module, "wait_for_end", lambda: None)
    return found


@pytest.mark.usefixtures("shown")
def test_an_open_page_is_warned_of(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    assert call(demo_command, run, "--port", 0, "--host", "0.0.0.0") == 0
    out = capsys.readouterr().out
    assert "warning      everyone who can connect to 0.0.0.0" in out
    assert re.search(r"^page         http://127\.0\.0\.1:\d+/ ", out, re.MULTILINE)
    assert call(demo_command, run, "--port", 0) == 0
    out = capsys.readouterr().out
    assert "warning" not in out
    assert re.search(r"^device       (cpu|cuda)", out, re.MULTILINE)


def test_classes_have_the_colors_that_are_asked_for(make_run: MakeRun, shown: list[Demo]) -> None:
    run = make_run()
    for name in ("dataset", "safe"):
        assert call(demo_command, run, "--port", 0, "--palette", name) == 0
    own, safe = (demo.predictors[0].table for demo in shown)
    assert own.colors != safe.colors == palette(own.names)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_end_leaves_nothing(number: int, make_run: MakeRun, tmp_path: Path) -> None:
    run, temporary = make_run(), tmp_path / "temporary"
    temporary.mkdir()
    before = sorted(tmp_path.rglob("*"))
    # Shells and nohup let what runs in the background ignore some, and so would the command.
    own = signal.signal(number, signal.SIG_DFL)
    with subprocess.Popen(
        [sys.executable, "-m", "sceneparse", "demo", str(run), "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        signal.signal(number, own)
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        port = next(
            int(m[1]) for line in lines if (m := re.search(r"http://127.0.0.1:(\d+)/", line))
        )
        assert Client(Address("127.0.0.1", port)).upload(b"x") == 200
        process.send_signal(number)
        try:
            out, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, error) == (0, "")
    assert out.endswith("stopped      nothing was kept on disk\n")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs chromium")
    made = Browser(program, tmp_path / "browser")
    yield made
    made.close()


@pytest.fixture
def visited(browser: Browser, client: Client) -> Iterator[Browser]:
    """A browser on the page; at the end nothing but its server was asked, and nothing failed."""
    browser.resize(1400, 900)
    browser.call("Page.navigate", url=client.address.url)
    browser.wait("document.querySelectorAll('#samples img').length === 5")
    yield browser
    own = (client.address.url, "data:", "blob:")
    assert {address for address in browser.requests() if not address.startswith(own)} == set()
    assert "Runtime.exceptionThrown" not in {e["method"] for e in browser.events}
    logged = [e["params"]["entry"] for e in browser.events if e["method"] == "Log.entryAdded"]
    problems = [entry for entry in logged if entry["level"] == "error"]
    # A small upload may have ended before Gradio asks how far it is.
    assert [e["text"] for e in problems if "upload_progress" not in e.get("url", "")] == []


def test_a_browser_draws_fades_switches_and_downloads(
    visited: Browser, photo: Path, image: Any, tmp_path: Path
) -> None:
    labels, names = image.argmax(axis=2), ("red", "green", "blue")
    visited.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "got"))
    visited.choose_file(photo)
    visited.wait("document.querySelectorAll('.layer[src]').length === 2")
    for number, order in enumerate((names, ("green", "red", "blue"))):
        expected = np.array([COLORS[name] for name in order])[labels]
        assert np.array_equal(visited.layer(number)[..., :3], expected)
    asked = len(visited.requests())
    visited.run("""(() => {
        const slider = document.querySelector('#opacity input[type=range]');
        slider.value = 25;
        slider.dispatchEvent(new Event('input', { bubbles: true }));
    })()""")
    styles = "[...document.querySelectorAll('.layer')].map(l => getComputedStyle(l).opacity).join()"
    visited.wait(f"{styles} === '0.25,0.25'")
    # Fading asks the server for nothing.
    assert len(visited.requests()) == asked
    visited.click(".legend label", "red: ")
    visited.wait_for_layer(0, lambda drawn: np.array_equal(drawn[..., 3] == 0, labels == 0))
    visited.wait_for_layer(1, lambda drawn: np.array_equal(drawn[..., 3] == 0, labels == 1))
    swatch = "document.querySelector('.legend-0 input[name=\"0\"] + span')"
    painted = visited.run(f"getComputedStyle({swatch}, '::before').backgroundColor")
    assert painted == "rgb(255, 0, 0)"
    # The overlay has the opacity and the classes of the page.
    # Several files can be asked for at once.
    for kind in ("Overlay PNG", "Index PNG", "JSON"):
        visited.click(".downloads button", kind)
    got = tmp_path / "got" / "photo_A_overlay.png"
    ends = ("overlay.png", "index.png", "result.json")
    visited.wait_until(lambda: all((got.parent / f"photo_A_{end}").exists() for end in ends))
    table = pointwise(*names).table
    drawn = overlay(image, labels, table, 0.25, unpainted=[True, False, False])
    assert np.array_equal(Image.open(got), drawn)
    visited.run("document.querySelector('.legend .select-all-checkbox').click()")
    visited.wait_for_layer(0, lambda drawn: bool((drawn[..., 3] == 255).all()))


def test_a_browser_compares_and_reads_pixels(visited: Browser, photo: Path, image: Any) -> None:
    labels = image.argmax(axis=2)
    visited.choose_file(photo)
    visited.wait("document.querySelectorAll('.layer[src]').length === 2")
    visited.click("#view label", "differences")
    visited.wait_for_layer(0, lambda drawn: np.array_equal(drawn[..., 1] < 99, labels < 2))
    share = f"{100 * (labels < 2).mean():.1f}% of the pixels"
    assert share in visited.run("document.body.innerText")
    visited.click("#view label", "confidence")
    sure = softmax(image / 127.5, axis=2).max(axis=2)
    viridis = mpl.colormaps["viridis"]((sure - 1 / 3) * 1.5, bytes=True).astype(int)
    visited.wait_for_layer(1, lambda drawn: bool(np.abs(drawn - viridis).max() <= 8))
    visited.run("""(() => {
        const picture = document.querySelector('.picture');
        const box = picture.getBoundingClientRect();
        const [clientX, clientY] = [box.left + box.width / 2, box.top + box.height * 0.95];
        picture.dispatchEvent(new MouseEvent('click', { bubbles: true, clientX, clientY }));
    })()""")
    name = ("red", "green", "blue")[labels[60, 48]]
    visited.wait(f"document.querySelector('.readout').innerText.startsWith('{name}, confidence ')")


def test_a_browser_shows_the_last_picture_and_the_choice_of_now(
    visited: Browser, comparing: Demo, photo: Path, image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, predict, goes_on = image.argmax(axis=2), comparing.predict, threading.Event()
    visited.choose_file(photo)
    visited.wait("document.querySelectorAll('.layer[src]').length === 2")

    def wait(*given: Any) -> Result:
        assert goes_on.wait(60)
        return predict(*given)

    monkeypatch.setattr(comparing, "predict", wait)
    for number in (2, 3):
        visited.run(f"document.querySelectorAll('#samples button')[{number}].click()")
    visited.click(".legend label", "red: ")
    visited.wait_for_layer(0, lambda drawn: np.array_equal(drawn[..., 3] == 0, labels == 0))
    goes_on.set()
    red = comparing.samples.pictures[3].load(None).argmax(axis=2) == 0
    visited.wait_for_layer(0, lambda drawn: np.array_equal(drawn[..., 3] == 0, red))
    name = comparing.samples.pictures[3].name
    assert visited.run("document.querySelector('#status').innerText").startswith(name)


def test_a_phone_shows_samples_and_errors(visited: Browser, image: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(png(image)[:300])
    with pytest.raises(InputError) as error:
        read_image(broken)
    visited.resize(390, 844)
    visited.run("document.querySelectorAll('#samples button')[2].click()")
    visited.wait("/^scene.*predicted/.test(document.querySelector('#status').innerText.trim())")
    visited.wait("document.querySelectorAll('.layer[src]').length === 2")
    assert visited.run("document.documentElement.scrollWidth") <= 390
    visited.choose_file(broken)
    visited.wait("document.querySelector('#status .error')")
    shown = visited.run("document.querySelector('#status').innerText").strip()
    assert shown == str(error.value).replace(f"{tmp_path}/", "")
    visited.wait("!document.querySelector('.picture')?.offsetParent")
