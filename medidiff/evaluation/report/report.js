"use strict";
(function () {
  document.documentElement.classList.add("live");
  const data = JSON.parse(document.getElementById("data").textContent);
  const OUTLINE = { 1: [80, 200, 255], 2: [124, 252, 0] };
  const scratch = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const number = (value) => (Math.abs(value) >= 1000 ? value.toFixed(0) : Number(value.toPrecision(3)).toString());

  // A colour map: 256 colours between its stops.
  function table(stops) {
    const rgb = stops.map((stop) => [1, 3, 5].map((at) => parseInt(stop.slice(at, at + 2), 16)));
    const found = new Uint8Array(256 * 3);
    for (let i = 0; i < 256; i++) {
      const place = (i / 255) * (rgb.length - 1);
      const low = Math.min(Math.floor(place), rgb.length - 2);
      for (let c = 0; c < 3; c++) {
        found[3 * i + c] = Math.round(rgb[low][c] + (place - low) * (rgb[low + 1][c] - rgb[low][c]));
      }
    }
    return found;
  }
  const tables = {};
  for (const scale of Object.keys(data.colours)) tables[scale] = table(data.colours[scale]);

  // The bytes of one slice of a strip.
  function bytes(image, slice) {
    const width = Number(image.dataset.width);
    const height = Number(image.dataset.height);
    scratch.canvas.width = width;
    scratch.canvas.height = height;
    scratch.drawImage(image, 0, slice * Number(image.dataset.pitch), width, height, 0, 0, width, height);
    const pixels = scratch.getImageData(0, 0, width, height).data;
    const found = new Uint8Array(width * height);
    for (let i = 0; i < found.length; i++) found[i] = pixels[4 * i];
    return found;
  }

  function ready(image) {
    if (image.complete && image.naturalWidth) return Promise.resolve();
    return image.decode ? image.decode() : new Promise((done) => image.addEventListener("load", done));
  }

  // Byte -> position on the colour map, 0 to 255, at the present settings.
  function mapping(scale, info, state) {
    const found = new Uint8ClampedArray(256);
    for (let i = 0; i < 256; i++) {
      if (scale === "grey") found[i] = (255 * (info.values[i] - state.level)) / state.window + 127.5;
      else if (scale === "signed") found[i] = (127.5 * info.signed * (i / 127.5 - 1)) / state.signed + 127.5;
      else if (scale === "heat") found[i] = (i * info.heat) / state.heat;
      else found[i] = i;
    }
    return found;
  }

  class View {
    constructor(figure, title) {
      this.scale = figure.dataset.scale;
      this.image = figure.querySelector("img.strip");
      this.box = figure.querySelector(".view");
      this.canvas = document.createElement("canvas");
      this.canvas.width = Number(this.image.dataset.width);
      this.canvas.height = Number(this.image.dataset.height);
      this.canvas.setAttribute("role", "img");
      this.title = title;
      this.over = document.createElement("canvas");
      this.over.className = "over";
      this.box.append(this.canvas, this.over);
      this.slice = -1;
    }
    async draw(slice, map, label) {
      await ready(this.image);
      if (slice !== this.slice) {
        this.bytes = bytes(this.image, slice);
        this.slice = slice;
        this.canvas.setAttribute("aria-label", `${this.title}, ${label}`);
      }
      const context = this.canvas.getContext("2d");
      const picture = context.createImageData(this.canvas.width, this.canvas.height);
      const colours = tables[this.scale];
      for (let i = 0; i < this.bytes.length; i++) {
        const at = 3 * map[this.bytes[i]];
        picture.data[4 * i] = colours[at];
        picture.data[4 * i + 1] = colours[at + 1];
        picture.data[4 * i + 2] = colours[at + 2];
        picture.data[4 * i + 3] = 255;
      }
      context.putImageData(picture, 0, 0);
      this.box.classList.add("drawn");
    }
    outline(codes, width, height) {
      this.over.width = width;
      this.over.height = height;
      const context = this.over.getContext("2d");
      const picture = context.createImageData(width, height);
      for (let i = 0; i < codes.length; i++) {
        const colour = OUTLINE[codes[i]];
        if (colour) picture.data.set([...colour, 255], 4 * i);
      }
      context.putImageData(picture, 0, 0);
    }
  }

  class Plane {
    constructor(element, info) {
      this.info = info;
      this.slider = element.querySelector("[data-control=slice]");
      this.where = element.querySelector(".where");
      this.outlines = element.querySelector("img.outlines");
      const name = element.querySelector("h4").textContent;
      this.views = [...element.querySelectorAll("figure")].map(
        (figure) => new View(figure, `${figure.querySelector("h5").textContent}, ${name.toLowerCase()}`)
      );
    }
    async draw(maps, outlined) {
      const slice = Number(this.slider.value);
      const label = `${this.info.slices[slice] + 1} of ${this.info.count}`;
      this.where.textContent = `${label} (${this.info.places[slice].toFixed(1)} mm)`;
      this.slider.setAttribute("aria-valuetext", `slice ${label}`);
      await Promise.all(this.views.map((view) => view.draw(slice, maps[view.scale], `slice ${label}`)));
      if (!this.outlines) return;
      await ready(this.outlines);
      const codes = outlined ? bytes(this.outlines, slice) : new Uint8Array(0);
      const { width, height } = this.outlines.dataset;
      for (const view of this.views) view.outline(codes, Number(width), Number(height));
    }
  }

  class Case {
    constructor(element, info) {
      this.element = element;
      this.info = info;
      this.planes = [];
      element.addEventListener("toggle", () => this.show());
      this.show();
    }
    // The pictures are made when the case is unfolded for the first time.
    show() {
      if (!this.element.open || !this.info.planes) return Promise.resolve();
      if (!this.planes.length) this.make();
      return this.draw();
    }
    make() {
      const { info, element } = this;
      this.planes = [...element.querySelectorAll(".plane")].map((each, i) => new Plane(each, info.planes[i]));
      const low = info.values[0];
      const span = info.values[255] - low;
      this.controls = {};
      const control = (kind, least, most) => {
        const input = element.querySelector(`[data-control=${kind}]`);
        if (!input) return;
        [input.min, input.max, input.step] = [least, most, "any"];
        input.addEventListener("input", () => this.draw());
        this.controls[kind] = input;
      };
      control("level", low, low + span);
      control("window", span / 200, span);
      control("signed", info.signed / 100, info.signed);
      control("heat", info.heat / 100, info.heat);
      this.outlined = element.querySelector("[data-control=outlines]");
      if (this.outlined) this.outlined.addEventListener("change", () => this.draw());
      element.querySelector("[data-control=reset]").addEventListener("click", () => this.reset());
      for (const preset of element.querySelectorAll("[data-level]")) {
        preset.addEventListener("click", () => {
          this.controls.level.value = preset.dataset.level;
          this.controls.window.value = preset.dataset.window;
          this.draw();
        });
      }
      for (const plane of this.planes) plane.slider.addEventListener("input", () => this.draw());
      this.initial();
    }
    initial() {
      const { info } = this;
      const first = { level: info.level, window: info.window, signed: info.signedShown, heat: info.heatShown };
      for (const kind of Object.keys(this.controls)) this.controls[kind].value = first[kind];
    }
    reset() {
      this.initial();
      this.planes.forEach((plane) => (plane.slider.value = plane.info.first));
      this.draw();
    }
    draw() {
      const { info } = this;
      const unit = info.units ? ` ${info.units}` : "";
      const state = { level: info.level, window: info.window, signed: info.signedShown, heat: info.heatShown };
      for (const kind of Object.keys(this.controls)) {
        state[kind] = Number(this.controls[kind].value);
        const shown = number(state[kind]) + unit;
        this.controls[kind].parentElement.querySelector("output").textContent = shown;
        this.controls[kind].setAttribute("aria-valuetext", shown);
      }
      const ends = {
        grey: [state.level - state.window / 2, state.level + state.window / 2],
        signed: [-state.signed, state.signed],
        heat: [0, state.heat],
        share: [0, 1],
      };
      for (const bar of this.element.querySelectorAll(".bar")) {
        let [low, high] = ends[bar.dataset.scale];
        if (Math.abs(low) < 1e-6 * (high - low)) low = 0; // what rounding left of it
        bar.querySelector(".low").textContent = number(low);
        bar.querySelector(".high").textContent = number(high) + (bar.dataset.scale === "share" ? "" : unit);
      }
      const maps = {};
      for (const scale of Object.keys(tables)) maps[scale] = mapping(scale, info, state);
      const outlined = !this.outlined || this.outlined.checked;
      return Promise.all(this.planes.map((plane) => plane.draw(maps, outlined)));
    }
  }

  const cases = [...document.querySelectorAll("details.case")].map(
    (element) => new Case(element, data.cases[Number(element.dataset.case)])
  );
  const fold = (open) => () => cases.forEach((each) => (each.element.open = open));
  document.getElementById("unfold").addEventListener("click", fold(true));
  document.getElementById("fold").addEventListener("click", fold(false));
  function unfoldTarget() {
    const target = document.getElementById(location.hash.slice(1));
    if (target && target.matches("details")) target.open = true;
  }
  window.addEventListener("hashchange", unfoldTarget);
  unfoldTarget();

  // Paper shows everything.
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((each) => (each.open = true));
    cases.forEach((each) => each.show());
  });
  window.addEventListener("afterprint", () => folded.forEach((each) => (each.open = false)));

  // Ratings: kept in this browser where that is allowed, and saved as files.
  const KEY = `medidiff-ratings-${data.digest}`;
  const state = document.getElementById("rating-state");
  let ratings = {};
  try {
    ratings = JSON.parse(localStorage.getItem(KEY)) || {};
  } catch {
    state.textContent = "This browser keeps no ratings: save them before you close the page.";
  }
  const rated = (index) => ratings[data.cases[index].name] || {};
  function excludeList() {
    const lines = [`# rejected in: ${data.title}`];
    data.cases.forEach((each, index) => {
      const { rating, note } = rated(index);
      if (rating !== "reject") return;
      if (note) lines.push(`# ${each.name}: ${note}`);
      lines.push(...(each.pattern ? [each.pattern] : [each.name, `${each.name}.nii`, `${each.name}.nii.gz`]));
    });
    return lines.join("\n") + "\n";
  }
  function allRatings() {
    const listed = data.cases.map((each, index) => ({ name: each.name, rating: "", note: "", ...rated(index) }));
    return JSON.stringify({ report: data.title, figures: data.digest, cases: listed }, null, 2) + "\n";
  }
  function rate(index, change) {
    const name = data.cases[index].name;
    ratings[name] = { ...rated(index), ...change };
    try {
      localStorage.setItem(KEY, JSON.stringify(ratings));
    } catch {
      state.textContent = "This browser keeps no ratings: save them before you close the page.";
    }
    showRatings();
  }
  const fields = [...document.querySelectorAll(".rating")];
  function showRatings() {
    for (const field of fields) {
      const { rating = "", note = "" } = rated(Number(field.dataset.rate));
      for (const radio of field.querySelectorAll("[type=radio]")) radio.checked = radio.value === rating;
      const remark = field.querySelector(".remark input");
      if (remark && remark !== document.activeElement) remark.value = note;
      const shown = field.querySelector(".remark-shown");
      if (shown) shown.textContent = note;
      field.classList.toggle("rejected", rating === "reject");
    }
    document.getElementById("list").value = excludeList();
  }
  for (const field of fields) {
    const index = Number(field.dataset.rate);
    field.addEventListener("change", (event) => {
      if (event.target.type === "radio") rate(index, { rating: event.target.value });
    });
    field.querySelector(".clear").addEventListener("click", () => rate(index, { rating: "" }));
    const remark = field.querySelector(".remark input");
    if (remark) remark.addEventListener("input", () => rate(index, { note: remark.value }));
  }
  function save(name, text, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  document.getElementById("save-list").addEventListener("click", () => save("exclude.txt", excludeList(), "text/plain"));
  document
    .getElementById("save-ratings")
    .addEventListener("click", () => save("ratings.json", allRatings(), "application/json"));
  showRatings();
})();
