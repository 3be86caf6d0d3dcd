// The page of gcis-serve: submit a CT, follow its job, look at the result. No script but this one and NiiVue runs.
"use strict";

const $ = (id) => document.getElementById(id);

// Windows in HU: name, black, white.
const WINDOWS = [
  ["Soft tissue", -160, 240],
  ["Bone", -500, 1300],
  ["Lung", -1350, 150],
  ["Brain", 0, 80],
];

// Planes of arrays along right, anterior, superior: normal axis, axes across and up, letters at the sides.
const PLANES = [
  { name: "sagittal", axis: 0, across: 1, up: 2, sides: ["A", "P"] },
  { name: "coronal", axis: 1, across: 0, up: 2, sides: ["R", "L"] },
  { name: "axial", axis: 2, across: 0, up: 1, sides: ["R", "L"] },
];

const MOST_SLICES = 240; // slices in memory

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// ---- requests ---------------------------------------------------------------------------------------------

class Problem extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

class Api {
  constructor() {
    this.token = "";
  }

  get headers() {
    return this.token ? { Authorization: `Bearer ${this.token}` } : {};
  }

  async fetch(path, options = {}) {
    const response = await fetch(path, { ...options, headers: this.headers });
    if (!response.ok) throw new Problem(response.status, problemText(response.status, await response.text()));
    return response;
  }

  async json(path, options) {
    return (await this.fetch(path, options)).json();
  }

  // Submit a form with a callback for the share that was sent; fetch has none.
  submit(form, onProgress) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", "/v1/jobs");
      for (const [name, value] of Object.entries(this.headers)) request.setRequestHeader(name, value);
      request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
      request.onerror = () => reject(new Problem(0, "The service cannot be reached."));
      request.onload = () => {
        if (request.status === 202) resolve(JSON.parse(request.responseText));
        else reject(new Problem(request.status, problemText(request.status, request.responseText)));
      };
      request.send(form);
    });
  }

  // Call onEvent with the job after each change. EventSource cannot send a token.
  async follow(job, onEvent, signal) {
    const response = await this.fetch(`/v1/jobs/${job}/events`, { signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      for (const event of events) {
        const data = event.split("\n").find((line) => line.startsWith("data: "));
        if (data) onEvent(JSON.parse(data.slice(6)));
      }
    }
  }
}

function problemText(status, body) {
  try {
    return JSON.parse(body).detail || `Status ${status}`;
  } catch {
    return `Status ${status}`;
  }
}

// ---- viewers ----------------------------------------------------------------------------------------------

// Draws PNG slices of the service: three planes with a cross, each with a slider for the keyboard.
class SliceViewer {
  constructor(api, root, job, view, onError) {
    Object.assign(this, { api, root, job, view, onError });
    this.cache = new Map();
    this.hidden = new Set();
    this.colors = new Map(view.structures.map((s) => [s.value, s.color]));
    this.window = WINDOWS[0].slice(1);
    this.position = view.shape.map((n) => Math.floor(n / 2));
    const side = Math.max(...view.shape.map((n, axis) => n * view.spacing[axis]));
    this.panes = PLANES.map((plane) => this.pane(plane, side));
    root.replaceChildren(...this.panes.map((pane) => pane.figure));
  }

  pane(plane, side) {
    const [width, height] = [this.view.shape[plane.across], this.view.shape[plane.up]];
    const image = make("canvas", { width, height, className: "image" });
    const labels = make("canvas", { width, height, className: "labels" });
    const lines = [make("div", { className: "cross" }), make("div", { className: "cross" })];
    const stack = make("div", { className: "stack" }, image, labels, ...lines);
    stack.style.width = `${(100 * width * this.view.spacing[plane.across]) / side}%`;
    stack.style.height = `${(100 * height * this.view.spacing[plane.up]) / side}%`;
    const letters = plane.sides.map((text, i) =>
      make("span", { className: `side-letter ${i ? "right" : "left"}`, textContent: text, ariaHidden: "true" }),
    );
    const screen = make("div", { className: "screen" }, stack, ...letters);
    screen.dataset.plane = plane.name;
    const slider = make("input", { type: "range", min: 0, max: this.view.shape[plane.axis] - 1 });
    slider.setAttribute("aria-label", `Slice of the ${plane.name} plane`);
    const place = make("output");
    const name = plane.name[0].toUpperCase() + plane.name.slice(1);
    const figure = make("figure", { className: "plane" }, screen, slider, make("figcaption", {}, name, place));
    const pane = { plane, image, labels, lines, stack, slider, place, figure, wanted: null, busy: false };
    slider.addEventListener("input", () => this.move({ [plane.axis]: Number(slider.value) }));
    screen.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.move({ [plane.axis]: this.position[plane.axis] - Math.sign(event.deltaY) });
    }, { passive: false });
    screen.addEventListener("pointerdown", (event) => {
      screen.setPointerCapture(event.pointerId);
      this.point(pane, event);
    });
    screen.addEventListener("pointermove", (event) => event.buttons && this.point(pane, event));
    return pane;
  }

  // Move the other planes to the voxel under the pointer; a picture begins at the highest voxel of both axes.
  point({ plane, stack }, event) {
    const box = stack.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    if (x < 0 || x >= 1 || y < 0 || y >= 1) return;
    const [across, up] = [this.view.shape[plane.across], this.view.shape[plane.up]];
    this.move({ [plane.across]: across - 1 - Math.floor(x * across), [plane.up]: up - 1 - Math.floor(y * up) });
  }

  move(indices) {
    for (const [axis, index] of Object.entries(indices)) {
      this.position[axis] = Math.max(0, Math.min(this.view.shape[axis] - 1, index));
    }
    this.draw();
  }

  goTo(structure) {
    this.move(Object.fromEntries(structure.place.map((index, axis) => [axis, index])));
  }

  setWindow(low, high) {
    this.window = [low, high];
    this.draw();
  }

  setOpacity(share) {
    for (const pane of this.panes) pane.labels.style.opacity = share;
  }

  setVisible(hidden) {
    this.hidden = hidden;
    this.draw();
  }

  draw() {
    for (const pane of this.panes) {
      const { plane, lines, slider, place } = pane;
      const index = this.position[plane.axis];
      slider.value = index;
      place.textContent = `${this.millimetres(plane.axis).toFixed(0)} mm, slice ${index + 1} of ${this.view.shape[plane.axis]}`;
      const [across, up] = [this.view.shape[plane.across], this.view.shape[plane.up]];
      Object.assign(lines[0].style, { left: `${(100 * (across - this.position[plane.across] - 0.5)) / across}%`, top: 0, bottom: 0, width: "1px" });
      Object.assign(lines[1].style, { top: `${(100 * (up - this.position[plane.up] - 0.5)) / up}%`, left: 0, right: 0, height: "1px" });
      this.load(pane);
    }
  }

  millimetres(axis) {
    const row = this.view.affine[axis];
    return this.position.reduce((sum, index, i) => sum + row[i] * index, row[3]);
  }

  // Draw the newest wanted slice; positions that were passed meanwhile are left out.
  async load(pane) {
    pane.wanted = [this.position[pane.plane.axis], ...this.window, this.hidden];
    if (pane.busy) return;
    pane.busy = true;
    try {
      while (pane.wanted) {
        const [index, low, high, hidden] = pane.wanted;
        pane.wanted = null;
        const path = `/v1/jobs/${this.job}/slices/${pane.plane.name}/${index}`;
        const [image, labels] = await Promise.all([
          this.slice(`${path}/image.png?low=${low}&high=${high}`, (bitmap) => bitmap),
          this.slice(`${path}/labels.png`, valuesOf),
        ]);
        pane.image.getContext("2d").drawImage(image, 0, 0);
        this.paint(pane.labels, labels, hidden);
        pane.figure.dataset.drawn = `${index} ${low} ${high} ${[...hidden].join(",")}`;
      }
    } catch (error) {
      this.onError(error);
    } finally {
      pane.busy = false;
    }
  }

  async slice(path, decode) {
    if (!this.cache.has(path)) {
      const found = this.api.fetch(path).then((r) => r.blob())
        .then((blob) => createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" }))
        .then(decode);
      this.cache.set(path, found);
      found.catch(() => this.cache.delete(path));
      if (this.cache.size > MOST_SLICES) this.cache.delete(this.cache.keys().next().value);
    }
    return this.cache.get(path);
  }

  paint(canvas, values, hidden) {
    const context = canvas.getContext("2d");
    const picture = context.createImageData(canvas.width, canvas.height);
    for (let i = 0; i < values.length; i += 1) {
      const value = values[i];
      const color = value && !hidden.has(value) ? this.colors.get(value) : undefined;
      if (color) picture.data.set([...color, 255], 4 * i);
    }
    context.putImageData(picture, 0, 0);
  }

  close() {
    this.root.replaceChildren();
  }
}

// Return the label values of a PNG: red + 256 * green.
function valuesOf(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const values = new Uint16Array(data.length / 4);
  for (let i = 0; i < values.length; i += 1) values[i] = data[4 * i] + 256 * data[4 * i + 1];
  return values;
}

// Draws the same planes with NiiVue, which loads image and labels as a whole.
class NiiVueViewer {
  static async open(api, canvas, job, view) {
    await loadScript("/assets/niivue/niivue.umd.js");
    const nv = await NiiVueViewer.attached(canvas);
    const headers = api.headers;
    const [, low, high] = WINDOWS[0];
    await nv.loadVolumes([
      { url: `/v1/jobs/${job}/image.nii.gz`, name: "image.nii.gz", headers, cal_min: low, cal_max: high },
      { url: `/v1/jobs/${job}/label.nii.gz`, name: "label.nii.gz", headers },
    ]);
    nv.setSliceType(nv.sliceTypeMultiplanar);
    const viewer = Object.assign(new NiiVueViewer(), { nv, view });
    viewer.setVisible(new Set());
    return viewer;
  }

  // One instance serves all cases: a canvas has one WebGL context.
  static async attached(canvas) {
    if (!NiiVueViewer.instance) {
      const nv = new niivue.Niivue({
        isRadiologicalConvention: true, sagittalNoseLeft: true, dragAndDropEnabled: false, crosshairWidth: 1,
        crosshairColor: [0.94, 0.64, 0.01, 0.75], backColor: [0, 0, 0, 1], multiplanarShowRender: 0, logLevel: "silent",
      });
      await nv.attachToCanvas(canvas);
      NiiVueViewer.instance = nv;
    }
    return NiiVueViewer.instance;
  }

  setWindow(low, high) {
    Object.assign(this.nv.volumes[0], { cal_min: low, cal_max: high });
    this.nv.updateGLVolume();
  }

  setOpacity(share) {
    this.nv.setOpacity(1, share);
  }

  setVisible(hidden) {
    const all = [{ value: 0, name: "background", color: [0, 0, 0] }, ...this.view.structures];
    this.nv.volumes[1].setColormapLabel({
      R: all.map((s) => s.color[0]), G: all.map((s) => s.color[1]), B: all.map((s) => s.color[2]),
      A: all.map((s) => (s.value && !hidden.has(s.value) ? 255 : 0)), I: all.map((s) => s.value),
      labels: all.map((s) => s.name),
    });
    this.nv.updateGLVolume();
  }

  goTo(structure) {
    const place = this.view.affine.map((row) => structure.place.reduce((sum, k, i) => sum + row[i] * k, row[3]));
    this.nv.scene.crosshairPos = this.nv.mm2frac(place);
    this.nv.drawScene();
  }

  close() {
    while (this.nv.volumes.length) this.nv.removeVolumeByIndex(0);
  }
}

function loadScript(source) {
  if (document.querySelector(`script[src="${source}"]`)) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const script = make("script", { src: source });
    script.onload = resolve;
    script.onerror = () => { script.remove(); reject(new Error("NiiVue cannot be loaded.")); };
    document.head.append(script);
  });
}

// ---- the page ---------------------------------------------------------------------------------------------

class Page {
  constructor(api) {
    this.api = api;
    this.names = new Map(); // names of files that were chosen here; the service does not store them
    this.hidden = new Set();
    this.viewer = null; // null while a viewer is being opened
    this.opening = Promise.resolve();
    this.bundles = [];
    this.features = {};
  }

  async start() {
    this.features = await this.api.json("/v1/page");
    this.bundles = (await this.api.json("/v1/bundles")).bundles;
    $("login").hidden = true;
    $("app").hidden = false;
    $("bundle-choice").hidden = this.bundles.length < 2;
    $("bundle").replaceChildren(...this.bundles.map((b) => make("option", { value: b.name, textContent: b.name })));
    $("window").replaceChildren(...WINDOWS.map(([name, low, high], i) => make("option", { value: i, textContent: `${name} (${low} to ${high} HU)` })));
    this.listPrompts();
    this.listen();
    await this.listJobs();
  }

  listen() {
    $("bundle").addEventListener("change", () => this.listPrompts());
    $("file").addEventListener("change", () => this.submit([...$("file").files]));
    const drop = $("drop");
    for (const name of ["dragenter", "dragover"]) {
      drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
    }
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      this.submit([...event.dataTransfer.files]);
    });
    $("cancel").addEventListener("click", () => this.cancel());
    $("window").addEventListener("change", () => this.applyWindow());
    $("opacity").addEventListener("input", () => this.applyOpacity());
    $("viewer").addEventListener("change", () => this.openViewer());
    $("all").addEventListener("click", () => this.show(() => true));
    $("none").addEventListener("click", () => this.show(() => false));
  }

  listPrompts() {
    const bundle = this.bundles.find((b) => b.name === $("bundle").value);
    const boxes = bundle.labels.map((label) =>
      make("label", {}, make("input", { type: "checkbox", checked: true, value: label.prompt }), ` ${label.name}`),
    );
    $("prompts").replaceChildren($("prompts").querySelector("legend"), ...boxes);
  }

  // -- jobs

  async submit(files) {
    $("submit-error").textContent = "";
    if (!files.length) return;
    const form = new FormData();
    const boxes = [...$("prompts").querySelectorAll("input")];
    if (!boxes.some((box) => box.checked)) {
      $("submit-error").textContent = "No structure is selected.";
      return;
    }
    form.append("bundle", $("bundle").value);
    if (!boxes.every((box) => box.checked)) {
      boxes.filter((box) => box.checked).forEach((box) => form.append("prompt", box.value));
    }
    form.append("format", "nii.gz");
    if (files.length > 1 || /\.(zip|dcm|ima)$/i.test(files[0].name) || !files[0].name.includes(".")) {
      form.append("format", "dicom-seg");
    }
    form.append("statistics", "true");
    form.append("preview", "true");
    if (this.features.report) form.append("report_html", "true");
    files.forEach((file) => form.append("image", file, "image"));
    this.progress("Sending the image", 0);
    try {
      const job = await this.api.submit(form, (share) => this.progress("Sending the image", share));
      this.names.set(job.id, files.length > 1 ? `${files.length} files` : files[0].name);
      this.follow(job.id);
    } catch (error) {
      $("progress").hidden = true;
      $("submit-error").textContent = error.message;
    } finally {
      $("file").value = "";
    }
  }

  async follow(job) {
    this.followed = job;
    await this.listJobs();
    let last = null;
    try {
      await this.api.follow(job, (view) => { last = view; if (this.followed === job) this.update(view); });
      if (!last || !["done", "failed", "cancelled"].includes(last.state)) last = await this.api.json(`/v1/jobs/${job}`);
    } catch (error) {
      $("submit-error").textContent = error.message;
    }
    if (this.followed === job) {
      this.followed = null;
      $("progress").hidden = true;
      if (last && last.error) $("submit-error").textContent = last.error.detail;
      if (last && last.state === "done") await this.open(job);
    }
    await this.listJobs();
  }

  update(view) {
    const { state, progress, forecast } = view;
    let text = { queued: `Queued${view.position ? `, ${view.position} before this one` : ""}`, done: "Done" }[state] || "";
    let share;
    if (state === "running" && progress) {
      text = { reading: "Reading the image", waiting: "Another job computes", writing: "Writing the results" }[progress.stage]
        || (progress.total ? `Window ${progress.windows} of ${progress.total}` : "Computing");
      if (progress.stage === "computing" && progress.total) share = progress.windows / progress.total;
    }
    this.progress(text, share);
    $("forecast").textContent = forecast ? `Forecast: ${forecast.text}` : "";
  }

  progress(text, share) {
    $("progress").hidden = false;
    $("progress-text").textContent = text;
    if (share === undefined) $("progress-bar").removeAttribute("value");
    else $("progress-bar").value = share;
    $("cancel").disabled = !this.followed;
  }

  async cancel() {
    if (this.followed) await this.api.fetch(`/v1/jobs/${this.followed}`, { method: "DELETE" }).catch(() => {});
  }

  async listJobs() {
    const jobs = (await this.api.json("/v1/jobs")).jobs.reverse();
    $("no-jobs").hidden = jobs.length > 0;
    $("jobs").replaceChildren(...jobs.slice(0, 50).map((job) => this.jobRow(job)));
  }

  jobRow(job) {
    const when = new Date(job.created * 1000).toLocaleTimeString();
    const name = this.names.get(job.id) || job.id.slice(0, 8);
    const row = make("li", {}, make("span", { className: `what ${job.state}`, textContent: `${name}, ${when}: ${job.state}` }));
    if (job.state === "done") {
      const show = make("button", { type: "button", className: "quiet", textContent: "Show" });
      show.setAttribute("aria-label", `Show ${name}`);
      show.addEventListener("click", () => this.open(job.id));
      row.append(show);
    }
    if (["done", "failed", "cancelled"].includes(job.state)) {
      const remove = make("button", { type: "button", className: "quiet", textContent: "Remove" });
      remove.setAttribute("aria-label", `Remove ${name} and its results from the service`);
      remove.addEventListener("click", () => this.remove(job.id));
      row.append(remove);
    }
    return row;
  }

  async remove(job) {
    await this.api.fetch(`/v1/jobs/${job}`, { method: "DELETE" }).catch((error) => { $("submit-error").textContent = error.message; });
    if (this.job === job) this.closeResult();
    await this.listJobs();
  }

  // -- result

  closeResult() {
    this.dropViewer();
    this.job = null;
    $("result").hidden = true;
    $("empty").hidden = false;
  }

  async open(job) {
    this.closeResult();
    try {
      const [details, view] = await Promise.all([this.api.json(`/v1/jobs/${job}`), this.api.json(`/v1/jobs/${job}/view`)]);
      Object.assign(this, { job, view, hidden: new Set() });
      $("result-title").textContent = this.names.get(job) || `Job ${job.slice(0, 8)}`;
      $("empty").hidden = true;
      $("result").hidden = false;
      const niivuePossible = this.features.niivue && "label.nii.gz" in details.links;
      $("viewer-choice").hidden = !niivuePossible;
      $("viewer").value = niivuePossible ? "niivue" : "slices";
      this.listStructures();
      this.listDownloads(details.links);
      const warnings = details.report.warnings || [];
      $("warnings").replaceChildren(...warnings.map((text) => make("p", { className: "warning", textContent: `Warning: ${text}` })));
      await this.openViewer();
    } catch (error) {
      $("submit-error").textContent = error.message;
    }
  }

  // Viewers are opened one after the other: NiiVue has one instance, and its volumes load for a while.
  openViewer() {
    const job = this.job;
    this.dropViewer();
    this.opening = this.opening.then(() => (this.job === job ? this.openNow(job) : null));
    return this.opening;
  }

  dropViewer() {
    if (this.viewer) this.viewer.close();
    this.viewer = null;
    delete $("result").dataset.viewer;
  }

  async openNow(job) {
    this.dropViewer();
    $("viewer-error").textContent = "";
    let wanted = $("viewer").value;
    let viewer = null;
    if (wanted === "niivue") {
      $("niivue").hidden = false;
      $("planes").hidden = true;
      try {
        viewer = await NiiVueViewer.open(this.api, $("niivue-canvas"), job, this.view);
      } catch (error) {
        $("viewer-error").textContent = `NiiVue: ${error.message} The slices are drawn by the service instead.`;
        $("viewer").value = wanted = "slices";
      }
    }
    if (this.job !== job || $("viewer").value !== wanted) {
      if (viewer) viewer.close();
      return;
    }
    if (wanted === "slices") {
      $("niivue").hidden = true;
      $("planes").hidden = false;
      viewer = new SliceViewer(this.api, $("planes"), job, this.view, (error) => { $("viewer-error").textContent = error.message; });
    }
    this.viewer = viewer;
    this.applyWindow();
    this.applyOpacity();
    this.viewer.setVisible(new Set(this.hidden));
    const first = this.view.structures.find((s) => s.place);
    if (first) this.viewer.goTo(first);
    $("result").dataset.viewer = wanted;
  }

  listStructures() {
    const rows = this.view.structures.map((s) => {
      const box = make("input", { type: "checkbox", checked: true, id: `structure-${s.value}` });
      box.addEventListener("change", () => this.show((value) => (value === s.value ? box.checked : !this.hidden.has(value))));
      const go = make("button", { type: "button", className: "quiet", textContent: "Go", disabled: !s.place });
      go.setAttribute("aria-label", `Go to ${s.name}`);
      go.addEventListener("click", () => this.viewer?.goTo(s));
      const label = make("label", { htmlFor: box.id, textContent: s.name });
      const swatch = make("span", { className: "swatch" });
      swatch.style.background = `rgb(${s.color.join(",")})`;
      return make("li", {}, box, swatch, label, make("span", { className: "ml", textContent: s.place ? `${s.volume_ml.toFixed(1)} mL` : "not found" }), go);
    });
    $("structures").replaceChildren(...rows);
  }

  show(visible) {
    this.hidden = new Set(this.view.structures.map((s) => s.value).filter((value) => !visible(value)));
    for (const s of this.view.structures) $(`structure-${s.value}`).checked = !this.hidden.has(s.value);
    this.viewer?.setVisible(new Set(this.hidden));
  }

  applyWindow() {
    const [, low, high] = WINDOWS[Number($("window").value) || 0];
    this.viewer?.setWindow(low, high);
  }

  applyOpacity() {
    $("opacity-text").textContent = `${$("opacity").value}%`;
    this.viewer?.setOpacity(Number($("opacity").value) / 100);
  }

  listDownloads(links) {
    const names = Object.keys(links).filter((name) => !["self", "events", "job"].includes(name));
    $("downloads").replaceChildren(...names.map((name) => {
      const button = make("button", { type: "button", textContent: name });
      button.addEventListener("click", () => this.download(links[name], name));
      return make("li", {}, button);
    }));
  }

  // A link cannot send the token.
  async download(path, name) {
    try {
      const blob = await (await this.api.fetch(path)).blob();
      const link = make("a", { href: URL.createObjectURL(blob), download: name.replaceAll("/", "_") });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    } catch (error) {
      $("viewer-error").textContent = error.message;
    }
  }
}

async function main() {
  const api = new Api();
  const page = new Page(api);
  $("login-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    api.token = $("token").value.trim();
    try {
      await page.start();
      $("token").value = "";
    } catch (error) {
      $("login-error").textContent = error.status === 401 ? "This is not the token of the service." : error.message;
    }
  });
  try {
    await page.start();
  } catch (error) {
    $("login").hidden = false;
    if (error.status !== 401) $("login-error").textContent = error.message;
    $("token").focus();
  }
}

main();
