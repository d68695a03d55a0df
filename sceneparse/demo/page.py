"""The page of the demo, built from Gradio's components: what it shows, and what its events do."""

from __future__ import annotations

import re
import tempfile
import traceback
from functools import partial
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from sceneparse.data.decoding import MAX_IMAGE_PIXELS
from sceneparse.data.reading import read_image
from sceneparse.demo.files import FILES, Choice
from sceneparse.demo.results import RAMP, Result
from sceneparse.demo.samples import Load, Sample
from sceneparse.demo.session import Demo
from sceneparse.errors import InputError, reason_of
from sceneparse.inference.predictor import MAX_WHOLE

# Bytes of an upload.
MAX_UPLOAD = 128 * 2**20
# A picture below the layer that is drawn over it.
_PANE = """
<div class="picture" style="aspect-ratio: ${ratio}; width: min(100%, calc(72vh * ${ratio}))">
  <img src="${picture}" alt="${alt}">
  <img class="layer" src="${layer}" alt="" ${layer ? '' : 'hidden'}>
</div>"""
_POINT = """
element.addEventListener('click', (event) => {
  const box = element.querySelector('.picture').getBoundingClientRect();
  const share = (distance, size) => Math.min(Math.max(distance / size, 0), 1);
  const x = share(event.clientX - box.left, box.width);
  trigger('click', { x, y: share(event.clientY - box.top, box.height) });
});"""
# The layers fade in the browser, without a question to the server.
_FADE = """(percent) => {
  if (percent !== null) document.body.style.setProperty('--opacity', percent / 100);
}"""
_SAVE = """({ url, orig_name: name }) => {
  const link = document.createElement('a');
  Object.assign(link, { href: url, download: name }).click();
}"""
# So that screen readers say what happened.
_LIVE = "element.setAttribute('aria-live', 'polite')"
_POINT_HERE = "Click on the picture to read a class."

# Per legend, the numbers of the classes that are not drawn.
Hidden = list[set[int]]
# What changes on the page, by component.
Updates = dict[Any, Any]


def create_page(demo: Demo, *, share: bool = False) -> gr.Blocks:
    """Build the page of some models. `share`: it says that pictures pass through other servers."""
    page = gr.Blocks(
        title="sceneparse demo",
        analytics_enabled=False,
        fill_width=True,
        # Seconds: how often uploads and downloads are deleted, and their age.
        delete_cache=(600, 600),
    )
    with page:
        Page(demo, share=share)
    return page


def style(demo: Demo) -> str:
    """Return the style sheet of a page, with the colours of the classes in its legends."""
    rules = [
        f".legend-{number} input[name='{k}'] + span::before {{ background: rgb{color} }}"
        for number, legend in enumerate(demo.legends)
        for k, color in enumerate(legend.table.colors)
    ]
    return "\n".join([(resources.files(__package__) / "page.css").read_text("utf-8"), *rules])


class Page:
    """The components of a page, and what its events do.

    Each visitor has an own result, and own hidden classes.
    """

    def __init__(self, demo: Demo, *, share: bool) -> None:
        self.demo = demo
        self.result = gr.State(None)
        self.hidden = gr.State([legend.backgrounds for legend in demo.legends])
        way = "pass through Gradio's servers to this machine" if share else "stay on this machine"
        about = f"Pictures {way}; nothing is kept when the command ends."
        gr.HTML(f"<h1>sceneparse demo</h1><p>{about}</p>", elem_id="title")
        with gr.Row():
            self._lay_out_choice()
        self.status = gr.HTML(elem_id="status", js_on_load=_LIVE)
        with gr.Row(visible=False, elem_id="result") as self.shown:
            with gr.Column(scale=3, min_width=320):
                self._lay_out_pictures()
            with gr.Column(scale=1, min_width=280):
                self._lay_out_legends()
        self._connect()

    def _lay_out_choice(self) -> None:
        with gr.Column(scale=1, min_width=280):
            self.file = gr.File(label="Picture", height=140, elem_id="file")
            gr.HTML(
                f"Up to {MAX_UPLOAD >> 20} MB and {MAX_IMAGE_PIXELS // 10**6} million pixels; "
                f"above {MAX_WHOLE // 10**6} million in tiles.",
                elem_classes="quiet",
            )
        offered = self.demo.samples
        self.samples = gr.Dataset(
            label=f"Samples: {offered.description}",
            components=[gr.HTML(visible=False)],
            samples=[[_thumbnail(sample)] for sample in offered.pictures],
            type="index",
            samples_per_page=len(offered.pictures),
            scale=3,
            elem_id="samples",
        )

    def _lay_out_pictures(self) -> None:
        views = ["classes", "confidence", *(["differences"] if self.demo.order else [])]
        with gr.Row():
            self.view = gr.Radio(views, value=views[0], label="Show", elem_id="view")
            self.opacity = gr.Slider(0, 100, 50, step=1, label="Opacity in %", elem_id="opacity")
        self.panes, self.readouts = [], []
        with gr.Row(elem_id="panes"):
            for model, predictor in enumerate(self.demo.predictors):
                with gr.Column(min_width=300):
                    facts = f"{predictor.compute.device}, {predictor.precision}, "
                    facts = escape(facts + predictor.protocol.description)
                    gr.HTML(f"<strong>{escape(self._title(model))}</strong><p>{facts}</p>")
                    empty: dict[str, Any] = {"picture": "", "layer": "", "alt": "", "ratio": 1}
                    self.panes.append(gr.HTML(html_template=_PANE, js_on_load=_POINT, **empty))
                    self.readouts.append(gr.HTML(elem_classes="readout"))

    def _lay_out_legends(self) -> None:
        self.facts = gr.HTML()
        self.switches = [
            gr.CheckboxGroup(show_select_all=True, elem_classes=["legend", f"legend-{number}"])
            for number in range(len(self.demo.legends))
        ]
        self.rest = gr.HTML()
        self.buttons = []
        for model, letter in enumerate(self.demo.letters):
            gr.HTML(f"Download {letter}")
            with gr.Row(elem_classes="downloads"):
                for kind in FILES:
                    button = gr.Button(kind, size="sm", min_width=70)
                    self.buttons.append((model, kind, button))
        # What the browser saves; nobody sees them.
        with gr.Row(elem_id="files"):
            self.saved = [gr.File() for _ in self.buttons]

    def _connect(self) -> None:
        """Say which function answers which event."""
        choice = [self.result, self.view, self.hidden]
        drawn = [self.facts, *self.panes]
        found = [self.result, self.status, self.file]
        shown = [self.shown, self.rest, *drawn, *self.switches, *self.readouts]
        private: dict[str, Any] = {"api_visibility": "private"}
        # One picture after the other, in the order in which they were given.
        slow = {**private, "concurrency_id": "models", "trigger_mode": "multiple"}
        slow["show_progress_on"] = self.status
        quick = {**private, "show_progress": "hidden", "trigger_mode": "always_last"}
        for asked in (
            self.file.upload(self.take_file, self.file, found, **slow),
            self.samples.click(self.take_sample, self.samples, found, **slow),
        ):
            # With the view and the switches of now: they may have changed meanwhile.
            asked.then(self.show, choice, shown, **private, show_progress="hidden")
        self.view.input(self.draw, choice, drawn, **quick)
        for number, switches in enumerate(self.switches):
            switched = [*choice, switches], [self.hidden, *drawn]
            switches.input(partial(self.switch, number), *switched, **quick)
        self.opacity.change(None, self.opacity, js=_FADE, **private)
        for pane in self.panes:
            pane.click(self.read, self.result, self.readouts, **quick)
        for (model, kind, button), file in zip(self.buttons, self.saved, strict=True):
            asked = button.click(
                partial(self.write, model, kind),
                [self.result, self.hidden, self.opacity],
                file,
                **private,
                show_progress_on=self.status,
            )
            asked.success(None, file, js=_SAVE, **private)

    def take_file(self, path: str) -> Updates:
        """Predict an uploaded file; it may be that of another visitor too, so it stays a while."""
        name, content = Path(path).name, Path(path).read_bytes()
        return self._predict(name, partial(read_image, Path(name), content=content))

    def take_sample(self, number: int) -> Updates:
        """Predict one of the samples."""
        sample = self.demo.samples.pictures[number]
        return self._predict(sample.name, sample.load)

    def _predict(self, name: str, load: Load) -> Updates:
        try:
            result = self.demo.predict(name, load)
        except InputError as error:
            return self._refused(str(error))
        except Exception as error:
            traceback.print_exc()
            reason = f"it failed unexpectedly: {reason_of(error)}"
            return self._refused(f"{reason}; see the terminal of the command")
        return {self.result: result, self.status: escape(result.description), self.file: None}

    def _refused(self, text: str) -> Updates:
        status = f'<p class="error">{escape(text)}</p>'
        return {self.result: None, self.status: status, self.file: None}

    def show(self, result: Result | None, view: str, hidden: Hidden) -> Updates:
        """Show a new result, or hide the old one if there is none."""
        if result is None:
            return {self.shown: gr.update(visible=False)}
        height, width = result.predictions[0].labels.shape
        fixed = {"picture": result.picture, "alt": escape(result.name), "ratio": width / height}
        return {
            self.shown: gr.update(visible=True),
            **self._drawn(result, view, hidden, fixed),
            **self._switches(result, hidden),
            **dict.fromkeys(self.readouts, _POINT_HERE),
        }

    def draw(self, result: Result | None, view: str, hidden: Hidden) -> Updates:
        """Draw another view."""
        return self._drawn(_present(result), view, hidden)

    def switch(
        self, number: int, result: Result | None, view: str, hidden: Hidden, shown: list[int]
    ) -> Updates:
        """Show these of the classes that a legend lists, and hide its others."""
        found = _present(result)
        listed = {k for _, k in self.demo.legends[number].choices(found)}
        changed = [*hidden]
        changed[number] = (hidden[number] | listed) - set(shown)
        return {self.hidden: changed, **self._drawn(found, view, changed)}

    def read(self, result: Result | None, event: gr.EventData) -> list[str]:
        """Name the class at the place that was clicked, for each model."""
        found = _present(result)
        return [escape(found.at(model, event.x, event.y)) for model in range(len(self.panes))]

    def write(
        self, model: int, kind: str, result: Result | None, hidden: Hidden, opacity: float | None
    ) -> str:
        """Write a file to download, which the browser then fetches."""
        found = _present(result)
        if opacity is None:
            raise gr.Error("give the opacity a number in 0 to 100")
        end, write = FILES[kind]
        stem = re.sub(r"[^\w.-]+", "_", Path(found.name).stem) or "picture"
        parts = [stem, self.demo.letters[model], end]
        path = Path(tempfile.mkdtemp(dir=get_upload_folder()), "_".join(filter(None, parts)))
        write(path, found, model, Choice(opacity / 100, self._hidden_in(model, hidden)))
        return str(path)

    def _drawn(
        self, result: Result, view: str, hidden: Hidden, fixed: Updates | None = None
    ) -> Updates:
        """Draw the layers over the pictures; `fixed`: what else of the panes changes."""
        layers = {}
        for model, pane in enumerate(self.panes):
            layer = result.layer(model, view, self._hidden_in(model, hidden))
            layers[pane] = gr.update(layer=layer, **(fixed or {}))
        facts = self._facts(result, view)
        return {**layers, self.facts: gr.update(value="<br>".join(facts), visible=bool(facts))}

    def _facts(self, result: Result, view: str) -> list[str]:
        """Return how the models differ and how sure they are, where the view shows it."""
        facts = []
        if result.differences is not None:
            facts.append(f"A and B differ in {result.differences.mean():.1%} of the pixels.")
        elif len(self.panes) == 2:
            facts.append("The models have different classes, so their labels cannot be compared.")
        if view == "confidence":
            means = zip(self.demo.letters, result.mean_confidences, strict=True)
            facts += [f"{letter} {_sure(mean)}".strip() for letter, mean in means]
            if any(mean is not None for mean in result.mean_confidences):
                facts.append(_ramp(result.lowest_confidence))
        return facts

    def _switches(self, result: Result, hidden: Hidden) -> Updates:
        """List the classes in the picture, and count the others."""
        updates: Updates = {}
        rest = []
        for number, legend in enumerate(self.demo.legends):
            choices = legend.choices(result)
            shown = [k for _, k in choices if k not in hidden[number]]
            title = "Classes" if len(self.switches) == 1 else self._title(number)
            listed = gr.update(choices=choices, value=shown, label=title)
            updates[self.switches[number]] = listed
            classes = legend.table.num_classes
            if absent := classes - len(choices):
                rest.append(f"Not in the picture: {absent} of {classes} classes.")
        return {**updates, self.rest: gr.update(value="<br>".join(rest), visible=bool(rest))}

    def _hidden_in(self, model: int, hidden: Hidden) -> list[int]:
        for legend, classes in zip(self.demo.legends, hidden, strict=True):
            if model in legend.models:
                return legend.own_numbers(model, classes)
        raise AssertionError(model)

    def _title(self, model: int) -> str:
        letter, name = self.demo.letters[model], self.demo.names[model]
        return f"{letter}: {name}" if letter else name


def _present(result: Result | None) -> Result:
    """Return a visitor's result; raises an error that the page shows if it was forgotten."""
    if result is None:
        raise gr.Error("this result is no longer in memory; choose the picture again")
    return result


def _sure(mean: float | None) -> str:
    return "labels without confidences" if mean is None else f"mean confidence {mean:.3f}"


def _ramp(lowest: float) -> str:
    colors = ", ".join(f"rgb{rgb}" for rgb in RAMP[::15])
    style = f"background: linear-gradient(to right, {colors})"
    bar = f'<span class="ramp" role="img" aria-label="from dark to light" style="{style}"></span>'
    return f'<span class="scale">{lowest:.2f}{bar}1</span>'


def _thumbnail(sample: Sample) -> str:
    name = escape(sample.name)
    return f'<img src="{sample.thumbnail}" alt="{name}" title="{name}">'
