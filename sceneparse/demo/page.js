// The page of `sceneparse demo`: sends a picture, and draws what the models found over it.
"use strict";

const byId = (id) => document.getElementById(id);
const LETTERS = ["A", "B"];
// Alpha, blue, green, red: red on a faded picture.
const DIFFERENT = 0xff1414dc;
const EQUAL = 0xfff4f4f4;

let about; // models, samples and limits, from the server
let panes = []; // the elements of each model
let off = []; // per model: the numbers of the classes that are switched off
let result = null; // what is shown
let latest = 0; // the number of the last request; answers to earlier ones are dropped

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.001 ? 2 : 1)}%`;
const color = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
const packed = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
const prefix = (number) => (about.models.length > 1 ? `${LETTERS[number]}: ` : "");
// The most probable of N classes has at least 1 / N.
const lowestConfidence = () => Math.min(...about.models.map(({ classes }) => 1 / classes.length));
const title = (number) => prefix(number) + about.models[number].name;

function setStatus(kind, text) {
  byId("status").className = kind;
  byId("status").textContent = text;
}

const noAnswer = (error) => `No answer (${error.message}). Is \`sceneparse demo\` still running?`;

// The page before the first picture.

async function start() {
  about = await (await fetch("description")).json();
  off = about.models.map((model) => new Set(model.unpainted.flatMap((is, k) => (is ? [k] : []))));
  panes = about.models.map(makePane);
  byId("panes").append(...panes.map((pane) => pane.figure));
  const { bytes, pixels, whole } = about.limits;
  byId("limits").textContent =
    `up to ${bytes >> 20} MB and ${pixels / 1e6} million pixels; above ${whole / 1e6} million in tiles`;
  byId("samples-title").textContent = `Samples: ${about.samples_are}`;
  byId("samples").append(...about.samples.map(makeSample));
  byId("differences-label").hidden = about.order === null;
  byId("ramp-low").textContent = lowestConfidence().toFixed(2);
  const ramp = byId("ramp-colors").getContext("2d");
  about.ramp.forEach((rgb, x) => {
    ramp.fillStyle = color(rgb);
    ramp.fillRect(x, 0, 1, 1);
  });
}

function makePane(model, number) {
  const image = element("img", { alt: "" });
  const canvas = element("canvas");
  const picture = element("div", { className: "picture" }, image, canvas);
  const readout = element("p", { className: "readout quiet" });
  const caption = element("figcaption", {}, element("strong", { textContent: title(number) }));
  caption.append(element("span", { textContent: model.facts }));
  const figure = element("figure", {}, caption, picture, readout);
  for (const kind of ["pointermove", "pointerdown"]) picture.addEventListener(kind, readPixel);
  picture.addEventListener("pointerleave", () => panes.forEach(clearReadout));
  return { figure, image, canvas, picture, readout };
}

function makeSample({ name, thumbnail }, number) {
  const image = element("img", { src: thumbnail, alt: name });
  const button = element("button", { type: "button", title: name }, image);
  button.addEventListener("click", () => predict(name, { sample: number }, undefined, button));
  return button;
}

// From a picture to its result.

function takeFiles(files) {
  if (!about) return;
  const [file] = files;
  const limit = about.limits.bytes;
  if (!file) return showError("This was no file; save the picture and drop the file.");
  if (file.size <= limit) return predict(file.name, { name: file.name }, file, null, files.length);
  const sizes = `${Math.round(file.size / 2 ** 20)} MB, over ${limit >> 20}`;
  showError(`${file.name}: the file has ${sizes}; make it smaller, or use sceneparse predict`);
}

function showError(text) {
  latest += 1; // a picture on its way is no longer wanted
  byId("result").hidden = true;
  setStatus("error", text);
}

async function predict(name, query, body, button = null, dropped = 1) {
  const number = ++latest;
  for (const other of byId("samples").children) other.setAttribute("aria-pressed", other === button);
  setStatus("busy", `Predicting ${name} ...`);
  byId("result").classList.add("pending");
  let answer;
  try {
    const target = `predict?${new URLSearchParams(query)}`;
    answer = await (await fetch(target, { method: "POST", body })).json();
    if (!answer.error) await unpackMaps(answer);
  } catch (error) {
    answer = { error: noAnswer(error) };
  }
  if (number !== latest) return;
  byId("result").classList.remove("pending");
  byId("result").hidden = Boolean(answer.error);
  if (answer.error) return showError(answer.error);
  if (dropped > 1) answer.notes.push(`only the first of ${dropped} files is shown`);
  document.body.classList.add("done");
  result = answer;
  setStatus("", describe());
  showPictures();
  showLegends();
  showDownloads();
  setOpacity();
  draw();
}

async function unpackMaps(answer) {
  const { width, height } = answer.view;
  for (const map of answer.maps) {
    map.labels = await unpack(map.labels, width * height);
    map.confidence = map.confidence && (await unpack(map.confidence, width * height));
  }
}

async function unpack(text, pixels) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  return buffer.byteLength === pixels ? new Uint8Array(buffer) : new Uint16Array(buffer);
}

function describe() {
  const { name, width, height, seconds, tiled, notes, view } = result;
  const whole = about.limits.whole / 1e6;
  const facts = [`${name}: ${width} x ${height} pixels, predicted in ${seconds.toFixed(2)} s`];
  if (tiled) facts.push(`in tiles, since it has over ${whole} million pixels`);
  if (view.width < width) facts.push(`shown at ${view.width} x ${view.height}; downloads have full size`);
  return [facts.join("; "), ...notes].join("\n");
}

// What is drawn.

function showPictures() {
  const { width, height } = result.view;
  for (const { image, canvas, picture, readout } of panes) {
    image.src = result.picture;
    image.alt = result.name;
    Object.assign(canvas, { width, height });
    picture.style.aspectRatio = `${width} / ${height}`;
    picture.style.width = `min(100%, ${(78 * width) / height}vh)`;
    clearReadout({ readout });
  }
}

const currentView = () => document.querySelector("input[name=view]:checked").value;

function draw() {
  const view = currentView();
  byId("ramp").hidden = view !== "confidence";
  showComparison();
  panes.forEach(({ canvas }, number) => {
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    paint(new Uint32Array(image.data.buffer), view, number);
    context.putImageData(image, 0, 0);
  });
}

function setOpacity() {
  const { value } = byId("opacity");
  byId("opacity-value").textContent = `${value}%`;
  for (const { canvas } of panes) canvas.style.opacity = value / 100;
}

function paint(pixels, view, number) {
  const { labels, confidence } = result.maps[number];
  const { colors } = about.models[number];
  if (view === "classes") {
    const palette = Uint32Array.from(colors, (rgb, k) => (off[number].has(k) ? 0 : packed(rgb)));
    labels.forEach((label, index) => (pixels[index] = palette[label]));
  } else if (view === "differences") {
    const [first, second] = result.maps.map((map) => map.labels);
    first.forEach((label, index) => {
      pixels[index] = label === about.order[second[index]] ? EQUAL : DIFFERENT;
    });
  } else if (confidence) {
    const low = 255 * lowestConfidence();
    const shade = (level) => Math.max(Math.round((255 * (level - low)) / (255 - low)), 0);
    const palette = Uint32Array.from({ length: 256 }, (_, level) => packed(about.ramp[shade(level)]));
    confidence.forEach((level, index) => (pixels[index] = palette[level]));
  }
}

function showComparison() {
  const compared = byId("compared");
  compared.hidden = about.models.length < 2 && currentView() !== "confidence";
  const lines = [];
  if (about.models.length > 1) {
    lines.push(about.order === null
      ? "The models have different classes, so their labels cannot be compared."
      : `A and B differ in ${percent(result.differing)} of the pixels.`);
  }
  if (currentView() === "confidence") {
    result.maps.forEach(({ mean_confidence: mean }, number) => {
      const none = "this file gives labels without confidences";
      lines.push(prefix(number) + (mean === null ? none : `mean confidence ${mean.toFixed(3)}`));
    });
  }
  compared.replaceChildren(...lines.flatMap((line, k) => (k ? [element("br"), line] : [line])));
}

// The class and confidence under the pointer, in all panes.

function readPixel(event) {
  const box = event.currentTarget.getBoundingClientRect();
  const { width, height } = result.view;
  const place = (share, size) => Math.min(Math.max(Math.floor(share * size), 0), size - 1);
  const x = place((event.clientX - box.left) / box.width, width);
  const index = place((event.clientY - box.top) / box.height, height) * width + x;
  panes.forEach(({ readout }, number) => {
    const { labels, confidence } = result.maps[number];
    const name = about.models[number].classes[labels[index]];
    const sure = confidence ? `, confidence ${(confidence[index] / 255).toFixed(2)}` : "";
    readout.textContent = name + sure;
  });
}

function clearReadout({ readout }) {
  readout.textContent = "Point at the picture to read a class.";
}

// Legends: one for all models if their classes agree, otherwise one for each.

function showLegends() {
  const groups = about.order === null ? about.models.map((_, number) => [number]) : [[0, 1]];
  byId("legends").replaceChildren(...groups.map(makeLegend));
}

// The number of a class of the first model of a group, in each of its models.
const numbersOf = (group, k) => group.map((_, place) => (place ? about.order.indexOf(k) : k));

function makeLegend(group) {
  const [first] = group;
  const { classes } = about.models[first];
  const rows = classes.map((_, k) => {
    const numbers = numbersOf(group, k);
    const shares = numbers.map((number, place) => result.maps[group[place]].shares[number]);
    return { numbers, shares };
  });
  const seen = rows.filter(({ shares }) => Math.max(...shares) > 0);
  seen.sort((one, other) => Math.max(...other.shares) - Math.max(...one.shares));
  const body = element("tbody", {}, ...seen.map((row) => makeRow(group, row)));
  const heads = group.length > 1 ? group.map((number) => LETTERS[number]) : ["share"];
  const head = element("tr", {}, element("th", { textContent: "class" }));
  head.append(...heads.map((text) => element("th", { textContent: text })));
  const table = element("table", {}, element("thead", {}, head), body);
  const name = group.length < about.models.length ? title(first) : "Classes";
  const heading = element("h2", { textContent: name });
  const absent = classes.length - seen.length;
  const rest = element("p", { className: "quiet" });
  rest.textContent = absent ? `Not in the picture: ${absent} of ${classes.length} classes.` : "";
  return element("section", {}, heading, makeSwitches(group, rows), table, rest);
}

function makeSwitches(group, rows) {
  const made = ["Show all", "Hide all"].map((text, hide) => {
    const button = element("button", { type: "button", textContent: text });
    button.addEventListener("click", () => {
      for (const { numbers } of rows) switchClass(group, numbers, !hide);
      showLegends();
      draw();
    });
    return button;
  });
  return element("div", { className: "buttons" }, ...made);
}

function makeRow(group, { numbers, shares }) {
  const { classes, colors } = about.models[group[0]];
  const box = element("input", { type: "checkbox", checked: !off[group[0]].has(numbers[0]) });
  const swatch = element("span", { className: "swatch" });
  swatch.style.background = color(colors[numbers[0]]);
  const name = element("span", { textContent: classes[numbers[0]], className: box.checked ? "" : "off" });
  box.addEventListener("change", () => {
    switchClass(group, numbers, box.checked);
    name.className = box.checked ? "" : "off";
    draw();
  });
  const row = element("tr", {}, element("td", {}, element("label", {}, box, swatch, name)));
  row.append(...shares.map((share) => element("td", { textContent: percent(share) })));
  return row;
}

function switchClass(group, numbers, on) {
  group.forEach((model, place) => off[model][on ? "delete" : "add"](numbers[place]));
}

// Downloads: an overlay has the opacity and the classes that are shown.

function showDownloads() {
  const stem = result.name.replace(/\.[^.]*$/, "").replace(/[^\w.-]+/g, "_") || "picture";
  const parts = about.models.map((_, number) => {
    const links = KINDS.map(([kind, text]) => {
      const link = element("a", { textContent: text, href: `results/${result.key}/${number}/${kind}` });
      link.download = `${stem}_${prefix(number).replace(": ", "_")}${kind}`;
      return link;
    });
    const [, overlay] = links;
    overlay.addEventListener("click", () => (overlay.search = shownClasses(number)));
    const heading = element("h2", { textContent: `${prefix(number)}Download` });
    return element("section", {}, heading, element("div", { className: "buttons" }, ...links));
  });
  byId("downloads").replaceChildren(...parts);
}

const KINDS = [["index.png", "Index PNG"], ["overlay.png", "Overlay PNG"], ["result.json", "JSON"]];

function shownClasses(number) {
  const opacity = byId("opacity").value / 100;
  return String(new URLSearchParams({ opacity, hidden: [...off[number]].join() }));
}

// Events of the page.

byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) takeFiles(event.target.files);
  event.target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  takeFiles(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) takeFiles(event.clipboardData.files);
});
byId("tools").addEventListener("submit", (event) => event.preventDefault());
byId("opacity").addEventListener("input", setOpacity);
byId("views").addEventListener("change", draw);
start().catch((error) => setStatus("error", noAnswer(error)));
