"""The page of `sceneparse demo`: what its server answers, and the page itself in a browser."""

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
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
from sceneparse.demo import session as session_module
from sceneparse.demo.samples import Samples, given_samples, usual_samples
from sceneparse.demo.server import DemoServer
from sceneparse.demo.session import Demo
from sceneparse.errors import InputError
from sceneparse.inference import predictor as predictor_module
from sceneparse.inference.predictor import Predictor
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


class Client:
    """A server at work, and requests to it."""

    def __init__(self, demo: Demo) -> None:
        self.server = DemoServer("127.0.0.1", 0)
        self.server.demo = demo
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def ask(self, verb: str, path: str, body: bytes | None = None, **headers: str) -> Any:
        """Return the status, the headers and the content of an answer, parsed if it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=60)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(verb, path, body, names)
        response = connection.getresponse()
        content: Any = response.read()
        connection.close()
        if response.headers["Content-Type"] == "application/json":
            content = json.loads(content)
        return response.status, response.headers, content

    def predict(self, image: np.ndarray[Any, Any], name: str = "a.png") -> Any:
        status, _, answer = self.ask("POST", f"/predict?name={quote(name)}", png(image))
        assert status == 200, answer
        return answer


@pytest.fixture
def client(scene_samples: Samples) -> Iterator[Client]:
    made = Client(Demo([("runs/a", pointwise("red", "green", "blue"))], scene_samples))
    yield made
    made.close()


@pytest.fixture
def comparing(scene_samples: Samples) -> Iterator[Client]:
    """Two models that see the same, and call it by different names."""
    names = ("red", "green", "blue"), ("green", "red", "blue")
    models = [(f"runs/{k}", pointwise(*classes)) for k, classes in enumerate(names)]
    made = Client(Demo(models, scene_samples))
    yield made
    made.close()


def unpacked(text: str, shape: tuple[int, ...], kind: str = "u1") -> np.ndarray[Any, Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind).reshape(shape)


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


@pytest.mark.parametrize("tiled", [False, True])
def test_an_upload_is_predicted(
    client: Client, image: Any, tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tiled:
        small_tiles(monkeypatch)
    # The name of a file may come with folders of any system.
    answer = client.predict(image, r"C:\photos\straße <b>.png")
    assert answer["name"] == "straße <b>.png"
    assert (answer["width"], answer["height"], answer["tiled"]) == (96, 64, tiled)
    (maps,) = answer["maps"]
    labels = image.argmax(axis=2)
    assert np.array_equal(unpacked(maps["labels"], (64, 96)), labels)
    sure = softmax(image / 127.5, axis=2).max(axis=2)
    assert np.abs(unpacked(maps["confidence"], (64, 96)) / 255 - sure).max() < 0.51 / 255
    assert maps["mean_confidence"] == pytest.approx(sure.mean())
    assert maps["shares"] == pytest.approx(np.bincount(labels.ravel()) / labels.size)
    shown = Image.open(io.BytesIO(base64.b64decode(answer["picture"].partition(",")[2])))
    assert shown.size == (96, 64)


def test_large_pictures_are_shown_small_and_downloaded_whole(
    client: Client, image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (results_module, session_module):
        monkeypatch.setattr(module, "MAX_VIEW", 32)
    answer = client.predict(image)
    assert answer["view"] == {"width": 32, "height": 21}
    shown = unpacked(answer["maps"][0]["labels"], (21, 32))
    nearest = Image.fromarray(image.argmax(axis=2).astype(np.uint8))
    expected = np.asarray(nearest.resize((32, 21), Image.Resampling.NEAREST))
    assert (shown == expected).mean() > 0.99
    _, _, content = client.ask("GET", f"/results/{answer['key']}/0/index.png")
    assert Image.open(io.BytesIO(content)).size == (96, 64)


def test_downloads_are_what_the_page_shows(client: Client, image: Any) -> None:
    place = f"/results/{client.predict(image)['key']}/0"
    prediction = pointwise("red", "green", "blue").batch([image])[0]
    status, _, index = client.ask("GET", f"{place}/index.png")
    assert status == 200
    opened = Image.open(io.BytesIO(index))
    assert np.array_equal(opened, prediction.labels)
    assert opened.getpalette()[:9] == [255, 0, 0, 0, 255, 0, 0, 0, 255]
    _, _, plain = client.ask("GET", f"{place}/overlay.png")
    assert np.array_equal(Image.open(io.BytesIO(plain)), prediction.overlay())
    _, _, hidden = client.ask("GET", f"{place}/overlay.png?opacity=1&hidden=1")
    painted = np.asarray(Image.open(io.BytesIO(hidden)))[:64]
    assert np.array_equal(
        painted[30:50],
        np.where((prediction.labels == 1)[..., None], image, prediction.color())[30:50],
    )
    _, _, facts = client.ask("GET", f"{place}/result.json")
    assert (facts["image"], facts["width"], facts["height"]) == ("a.png", 96, 64)
    assert {row["name"]: row["share"] for row in facts["classes"]} == prediction.shares
    for bad in ("?opacity=2", "?opacity=nan", "?hidden=x"):
        status, _, answer = client.ask("GET", f"{place}/overlay.png{bad}")
        assert (status, answer["error"][:7]) == (422, "opacity")


def test_only_the_latest_results_are_kept(
    client: Client, image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_KEPT_PIXELS", 2 * image[..., 0].size)
    keys = [client.predict(image)["key"] for _ in range(3)]
    found = [client.ask("GET", f"/results/{key}/0/index.png")[0] for key in keys]
    assert found == [422, 200, 200]
    monkeypatch.setattr(session_module, "_KEPT_PIXELS", 1)
    assert client.ask("GET", f"/results/{client.predict(image)['key']}/0/index.png")[0] == 200


def test_models_are_compared_by_the_names_of_classes(comparing: Client, image: Any) -> None:
    answer = comparing.predict(image)
    assert answer["differing"] == pytest.approx((image.argmax(axis=2) < 2).mean())
    _, _, page = comparing.ask("GET", "/description")
    assert page["order"] == [1, 0, 2]
    assert comparing.ask("GET", f"/results/{answer['key']}/1/index.png")[0] == 200
    assert comparing.ask("GET", f"/results/{answer['key']}/2/index.png")[0] == 404


def test_models_of_different_classes_stand_side_by_side(scene_samples: Samples, image: Any) -> None:
    names = ("red", "green", "blue"), ("red", "green", "background")
    demo = Demo(
        [(f"runs/{k}", pointwise(*classes)) for k, classes in enumerate(names)], scene_samples
    )
    assert demo.order is None
    answer = demo.predict("a", lambda _: image)
    assert answer["differing"] is None
    assert [model["unpainted"] for model in demo.description()["models"]] == [
        [False, False, False],
        [False, False, True],
    ]


def test_a_file_without_confidences_has_no_map(scene_samples: Samples, image: Any) -> None:
    predictor = pointwise("red", "green", "blue")
    predictor.model.gives_confidence = False
    maps = Demo([("a.onnx", predictor)], scene_samples).predict("a", lambda _: image)["maps"]
    assert (maps[0]["confidence"], maps[0]["mean_confidence"]) == (None, None)


BAD_FILES = {
    "notes.txt": b"no picture",
    "empty.png": b"",
    "cut.png": png(np.arange(9000, dtype=np.uint8).reshape(50, 60, 3))[:90],
    "large.pgm": b"P5 60000 60000 255\n" + bytes(100),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gets_the_line_of_the_command(
    name: str, client: Client, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(BAD_FILES[name])
    with pytest.raises(InputError) as expected:
        read_image(tmp_path / name)
    status, _, answer = client.ask("POST", f"/predict?name={name}", BAD_FILES[name])
    assert (status, answer) == (422, {"error": str(expected.value).replace(f"{tmp_path}/", "")})
    assert "Traceback" not in capfd.readouterr().err


def test_a_note_of_the_reader_is_shown(client: Client, image: Any) -> None:
    stream = io.BytesIO()
    frames = [Image.fromarray(image), Image.fromarray(image[::-1])]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    _, _, answer = client.ask("POST", "/predict?name=a.gif", stream.getvalue())
    assert answer["notes"] == ["a.gif: several frames or pages, the first is used"]


def test_a_failure_of_ours_is_one_line_too(
    client: Client, image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no memory\nat all")

    monkeypatch.setattr(client.server.demo, "predict", fail)
    status, _, answer = client.ask("POST", "/predict?name=a.png", png(image))
    assert status == 500
    assert answer["error"].startswith("it failed unexpectedly: no memory; see the terminal")


def test_samples_are_predicted(client: Client, scenes: Path) -> None:
    _, _, page = client.ask("GET", "/description")
    assert len(page["samples"]) == 5
    assert page["samples"][3]["thumbnail"].startswith("data:image/jpeg;base64,")
    status, _, answer = client.ask("POST", "/predict?sample=3")
    assert (status, answer["name"]) == (200, page["samples"][3]["name"])
    picture = read_image(scenes / f"val/images/{answer['name']}.jpg")
    assert np.array_equal(unpacked(answer["maps"][0]["labels"], (64, 96)), picture.argmax(axis=2))
    for wrong in ("5", "-1", "x", "9" * 5000):
        assert client.ask("POST", f"/predict?sample={wrong}")[0] == 404


def test_requests_of_other_sites_are_refused(client: Client, image: Any) -> None:
    port, body = client.server.server_port, png(image)
    assert client.ask("POST", "/predict", body, Origin=f"http://127.0.0.1:{port}")[0] == 200
    for origin in ("http://evil.example", "null", f"http://evil.example:{port}", "http://["):
        assert client.ask("POST", "/predict", body, Origin=origin)[0] == 403
    for verb, host in [("GET", "evil.example"), ("POST", f"evil.example:{port}"), ("GET", "[")]:
        assert client.ask(verb, "/", Host=host)[0] == 403
    for host in ("localhost", f"127.0.0.1:{port}", "[::1]:9000"):
        assert client.ask("GET", "/", Host=host)[0] == 200
    for path in (
        "/page.py",
        "/../setup.py",
        "/results/x/0/index.png/y",
        "/results/x/0/other",
        "/%",
    ):
        assert client.ask("GET", path)[0] == 404
    assert client.ask("POST", "/", body)[0] == 404


def test_uploads_are_limited(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_UPLOAD", 100)
    status, _, answer = client.ask("POST", "/predict?name=a.png", bytes(101))
    assert (status, answer["error"][:13]) == (413, "the file has ")
    assert client.ask("POST", "/predict?name=a.png", bytes(100))[0] == 422
    with socket.create_connection(client.server.server_address[:2]) as raw:
        raw.sendall(b"POST /predict HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.0 411 ")


def test_the_page_names_no_other_place(client: Client) -> None:
    for path in ("/", "/page.css", "/page.js"):
        status, headers, content = client.ask("GET", path)
        assert status == 200
        assert not re.search(rb"(?:https?:)?//[\w.-]+\.\w|@import|url\(", content), path
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "http" not in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"


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


def test_an_open_page_is_warned_of(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DemoServer, "serve", lambda *_: None)
    run = make_run()
    assert call(demo_command, run, "--port", 0, "--host", "0.0.0.0") == 0
    out = capsys.readouterr().out
    assert "warning      everyone who can connect to 0.0.0.0" in out
    assert re.search(r"^page         http://127\.0\.0\.1:\d+/ ", out, re.MULTILINE)
    assert call(demo_command, run, "--port", 0) == 0
    out = capsys.readouterr().out
    assert "warning" not in out
    assert re.search(r"^device       (cpu|cuda)", out, re.MULTILINE)


def test_classes_have_the_colors_that_are_asked_for(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Demo] = []
    monkeypatch.setattr(DemoServer, "serve", lambda _, demo: served.append(demo))
    run = make_run()
    for name in ("dataset", "safe"):
        assert call(demo_command, run, "--port", 0, "--palette", name) == 0
    own, safe = (demo.predictors[0].table for demo in served)
    assert own.colors != safe.colors == palette(own.names)


def test_ctrl_c_ends_it_and_leaves_nothing(make_run: MakeRun, tmp_path: Path, image: Any) -> None:
    run, temporary = make_run(), tmp_path / "temporary"
    temporary.mkdir()
    before = sorted(tmp_path.rglob("*"))
    # Shells let what runs in the background ignore it, and so would the command.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [sys.executable, "-m", "sceneparse", "demo", str(run), "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        port = next(
            int(m[1]) for line in lines if (m := re.search(r"http://127.0.0.1:(\d+)/", line))
        )
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/predict?name=a.png", png(image))
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        try:
            out, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, error) == (0, "")
    assert out.endswith("stopped      nothing was kept on disk\n")
    assert sorted(tmp_path.rglob("*")) == before


class Browser:
    """Headless Chromium, driven by its DevTools protocol through two pipes."""

    def __init__(self, program: str, folder: Path) -> None:
        reads, self._to = os.pipe()
        self._from, writes = os.pipe()
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars"
        )
        command = [program, *flags.split(), "--disable-background-networking"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
        # It reads commands from descriptor 3 and writes to 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{reads} 4>&{writes}', "bash", *command],
            pass_fds=(reads, writes),
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self._rest, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and return its result; events are collected."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._from, 2**16)
            assert part, "the browser ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def run(self, code: str) -> Any:
        """Evaluate JavaScript, wait for a promise, and return the value."""
        found = self.call(
            "Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until JavaScript gives true."""
        end = time.monotonic() + 60
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, condition
            time.sleep(0.05)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def choose_file(self, path: Path) -> None:
        """Give the page a file, and wait for what comes of it."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
        self.wait(f"document.getElementById('status').textContent.startsWith({path.name + ': '!r})")

    def screenshot(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def canvas(self, number: int) -> np.ndarray[Any, Any]:
        """Return what is drawn over a picture: RGBA (H, W, 4)."""
        found = self.run(f"""(() => {{
            const canvas = document.querySelectorAll(".picture canvas")[{number}];
            const {{ width, height }} = canvas;
            const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
            return [height, width, [...data]];
        }})()""")
        height, width, values = found
        return np.array(values, np.uint8).reshape(height, width, 4)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs chromium")
    made = Browser(program, tmp_path / "browser")
    yield made
    made.close()


@pytest.mark.slow
def test_the_page_works_in_a_browser(
    comparing: Client, browser: Browser, image: Any, tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(png(image))
    (tmp_path / "broken.png").write_bytes(png(image)[:300])
    labels, names = image.argmax(axis=2), ("red", "green", "blue")
    browser.resize(1400, 900)
    browser.call("Page.navigate", url=comparing.server.url)
    browser.wait("document.querySelectorAll('#samples img').length === 5")
    # Classes, opacity, switches: without another request.
    browser.choose_file(tmp_path / "photo.png")
    for number, order in enumerate((names, ("green", "red", "blue"))):
        expected = np.array([COLORS[name] for name in order])[labels]
        drawn = browser.canvas(number)
        assert np.array_equal(drawn[..., :3], expected)
        assert (drawn[..., 3] == 255).all()
    asked = len([e for e in browser.events if e["method"] == "Network.requestWillBeSent"])
    browser.run("opacity.value = 25; opacity.dispatchEvent(new Event('input'))")
    styles = (
        "[...document.querySelectorAll('.picture canvas')].map(c => getComputedStyle(c).opacity)"
    )
    assert browser.run(styles) == ["0.25", "0.25"]
    row = "[...document.querySelectorAll('td label')].find(l => l.textContent === 'red')"
    browser.run(f"{row}.click()")
    for number, red in enumerate((0, 1)):
        assert np.array_equal(browser.canvas(number)[..., 3] == 0, labels == red)
    browser.run("document.querySelector('input[value=differences]').click()")
    assert np.array_equal(browser.canvas(0)[..., 1] < 99, labels < 2)
    assert f"{100 * (labels < 2).mean():.1f}% of the pixels" in browser.run("compared.textContent")
    browser.run("document.querySelector('input[value=confidence]').click()")
    sure = softmax(image / 127.5, axis=2).max(axis=2)
    viridis = mpl.colormaps["viridis"]((sure - 1 / 3) * 1.5, bytes=True)
    assert np.abs(browser.canvas(0).astype(int) - viridis).max() <= 8
    now = len([e for e in browser.events if e["method"] == "Network.requestWillBeSent"])
    assert now == asked
    # The overlay to download has the opacity and the classes of the page.
    browser.run("window.links = [...document.querySelectorAll('#downloads a')]")
    browser.run("document.addEventListener('click', event => event.preventDefault(), {once: true})")
    browser.run("links[1].click()")
    assert browser.run("links[1].href").endswith("/0/overlay.png?opacity=0.25&hidden=0")
    assert browser.run("fetch(links[1].href).then(r => r.status)") == 200
    # A phone; then a sample and a broken file.
    browser.resize(390, 844)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    browser.run("document.querySelectorAll('#samples button')[2].click()")
    browser.wait("/^scene.*predicted/.test(document.getElementById('status').textContent)")
    browser.choose_file(tmp_path / "broken.png")
    with pytest.raises(InputError) as error:
        read_image(tmp_path / "broken.png")
    shown = browser.run("document.getElementById('status').textContent")
    assert shown == str(error.value).replace(f"{tmp_path}/", "")
    assert browser.run("result.hidden")
    # Nothing but this server was asked, and nothing went wrong in the page.
    sent = [e for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    addresses = {e["params"]["request"]["url"] for e in sent}
    assert {a for a in addresses if not a.startswith((comparing.server.url, "data:"))} == set()
    kinds = {e["method"] for e in browser.events}
    assert "Runtime.exceptionThrown" not in kinds
    logged = [e["params"]["entry"] for e in browser.events if e["method"] == "Log.entryAdded"]
    problems = [entry["text"] for entry in logged if entry["level"] == "error"]
    assert [text for text in problems if "422" not in text] == []
