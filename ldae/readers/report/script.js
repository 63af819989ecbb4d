"use strict";

// The colours: the system's, or light, or dark.
const root = document.documentElement;
const theme = document.getElementById("theme");
const THEMES = ["system", "light", "dark"];

function remember(value) {
  try {
    if (value !== undefined) localStorage.setItem("ldae-theme", value);
    return localStorage.getItem("ldae-theme");
  } catch {
    return null; // where a file may keep nothing
  }
}

function paint(name) {
  if (name === "system") delete root.dataset.theme;
  else root.dataset.theme = name;
  theme.querySelector("span").textContent = name;
  theme.setAttribute("aria-label", `Theme: ${name}`);
}

let current = THEMES.includes(remember()) ? remember() : "system";
paint(current);
theme.hidden = false;
theme.addEventListener("click", () => {
  current = THEMES[(THEMES.indexOf(current) + 1) % THEMES.length];
  remember(current);
  paint(current);
});

// What scrolls sideways: a mark at each edge behind which something is hidden.
const scrollers = document.querySelectorAll(".scroller");
function markEdges(scroller) {
  const hidden = scroller.scrollWidth - scroller.clientWidth;
  const frame = scroller.parentElement;
  frame.classList.toggle("more-left", scroller.scrollLeft > 1);
  frame.classList.toggle("more-right", hidden - scroller.scrollLeft > 1);
}
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) markEdges(target.closest(".scroller"));
});
for (const scroller of scrollers) {
  scroller.addEventListener("scroll", () => markEdges(scroller), { passive: true });
  resized.observe(scroller);
  resized.observe(scroller.firstElementChild);
}

// Tables: a heading sorts upwards, then downwards, then as it was. What has no value comes last.
function compare(a, b, column, sign) {
  const [x, y] = [a, b].map((line) => line.cells[column].dataset.sort);
  if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
  const [p, q] = [Number(x), Number(y)];
  return sign * (Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[heading.getAttribute("aria-sort")];
      const order = next === undefined ? "ascending" : next;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      if (order) heading.setAttribute("aria-sort", order);
      const sign = order === "descending" ? -1 : 1;
      body.append(...(order ? [...original].sort((a, b) => compare(a, b, column, sign)) : original));
    });
  });
}

// Figures, enlarged.
const large = document.getElementById("large");
for (const button of document.querySelectorAll(".enlarge")) {
  button.addEventListener("click", () => {
    const shown = button.querySelector("img");
    const image = large.querySelector("img");
    image.src = shown.src;
    image.alt = shown.alt;
    image.className = shown.className;
    large.querySelector("p").textContent = shown.alt;
    large.showModal();
  });
}
large.addEventListener("click", (event) => {
  if (event.target === large) large.close();
});

// Rows: one that is linked to opens.
function reveal() {
  const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (row instanceof HTMLDetailsElement) {
    row.open = true;
    row.scrollIntoView();
  }
}
addEventListener("hashchange", reveal);
reveal();

// Training curves.
const source = document.getElementById("curves");
if (source) drawCurves(JSON.parse(source.textContent));

function drawCurves(curves) {
  const plot = document.getElementById("plot");
  const legend = document.getElementById("legend");
  const measure = document.getElementById("measure");
  const readout = document.getElementById("readout");
  const HEIGHT = 360;
  const MARGIN = { top: 16, right: 16, bottom: 40, left: 56 };
  const shown = new Set(curves.slice(0, 8).map((curve) => curve.row));
  let chosen = null; // {curve, point} that is read out
  let frame = null; // of the last drawing

  function element(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const number = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });
  const colour = (curve) => curves.indexOf(curve) % 8;
  const dashes = (curve) => ["none", "6 3", "2 3", "9 3 2 3"][Math.floor(curves.indexOf(curve) / 8) % 4];

  const computed = new Map();

  /** The points of a curve, where the logarithmic axis has them. */
  function points(curve) {
    const key = `${measure.value} ${curve.row}`;
    if (!computed.has(key)) {
      const all = (curve[measure.value] ?? []).map((y, place) => ({ x: curve.images[place], y }));
      computed.set(key, all.filter((point) => point.y !== null && point.y > 0));
    }
    return computed.get(key);
  }

  /** Values of a logarithmic axis: 1, 2 and 5 of each power of ten, or round steps where those are too few. */
  function ticks(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const digit of [1, 2, 5]) {
        const value = Number(`${digit}e${power}`);
        if (value >= low && value <= high) found.push(value);
      }
    }
    if (found.length > 3) return found;
    const rough = (high - low) / 6;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 5, 10].find((digit) => digit * unit >= rough);
    const steps = [];
    for (let count = Math.ceil(low / step); count * step <= high; count++) steps.push(count * step);
    return steps;
  }

  function draw() {
    const width = Math.max(280, plot.clientWidth);
    const visible = curves.filter((curve) => shown.has(curve.row) && points(curve).length);
    const all = visible.flatMap(points);
    const svg = element("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, "aria-hidden": "true" });
    plot.replaceChildren(svg);
    frame = null;
    if (!all.length) {
      svg.append(element("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "No row is shown"));
      return;
    }
    const last = Math.max(...all.map((point) => point.x));
    const [low, high] = [Math.min(...all.map((point) => point.y)) / 1.05, Math.max(...all.map((point) => point.y)) * 1.05];
    const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
    const x = (value) => MARGIN.left + (value / last) * inner.width;
    const y = (value) => MARGIN.top + (1 - Math.log(value / low) / Math.log(high / low)) * inner.height;
    for (const value of ticks(low, high)) {
      svg.append(element("path", { class: "grid", d: `M${MARGIN.left} ${y(value)}H${width - MARGIN.right}` }));
      svg.append(element("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)));
    }
    const count = width < 500 ? 2 : 4;
    for (let part = 0; part <= count; part++) {
      const anchor = part === count ? "end" : "middle";
      svg.append(element("text", { x: x((last * part) / count), y: HEIGHT - 20, "text-anchor": anchor }, number((last * part) / count)));
    }
    svg.append(element("text", { x: MARGIN.left + inner.width / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "images seen"));
    for (const curve of visible) {
      const d = points(curve).map((point, place) => `${place ? "L" : "M"}${x(point.x).toFixed(1)} ${y(point.y).toFixed(1)}`);
      const faint = chosen && chosen.curve !== curve ? " faint" : "";
      svg.append(element("path", { class: `curve c${colour(curve)}${faint}`, "stroke-dasharray": dashes(curve), d: d.join("") }));
    }
    if (chosen && visible.includes(chosen.curve)) {
      const place = points(chosen.curve)[chosen.point];
      svg.append(element("path", { class: "cross", d: `M${x(place.x)} ${MARGIN.top}V${HEIGHT - MARGIN.bottom}` }));
      svg.append(element("circle", { class: `dot d${colour(chosen.curve)}`, cx: x(place.x), cy: y(place.y), r: 5 }));
    }
    frame = { visible, x, y };
  }

  function choose(curve, point) {
    chosen = { curve, point };
    const { x, y } = points(curve)[point];
    const what = measure.value === "loss" ? "loss" : "gradient norm";
    readout.textContent = `${curve.label}: ${what} ${number(y)} after ${number(x)} images`;
    draw();
  }

  function forget() {
    chosen = null;
    readout.textContent = "";
    draw();
  }

  plot.addEventListener("pointermove", (event) => {
    if (!frame) return;
    const box = plot.getBoundingClientRect();
    const [left, top] = [event.clientX - box.left, event.clientY - box.top];
    let best = null;
    for (const curve of frame.visible) {
      points(curve).forEach((point, place) => {
        const distance = Math.hypot(2 * (frame.x(point.x) - left), frame.y(point.y) - top);
        if (!best || distance < best.distance) best = { curve, place, distance };
      });
    }
    if (best && !(chosen && chosen.curve === best.curve && chosen.point === best.place)) choose(best.curve, best.place);
  });
  plot.addEventListener("pointerleave", forget);
  plot.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1e9], End: [0, 1e9] };
    if (event.key === "Escape") forget();
    if (!(event.key in moves) || !frame) return;
    event.preventDefault();
    const [across, along] = moves[event.key];
    if (!chosen) return choose(frame.visible[0], 0);
    const { length } = frame.visible;
    const next = frame.visible[(frame.visible.indexOf(chosen.curve) + across + length) % length];
    choose(next, Math.min(points(next).length - 1, Math.max(0, chosen.point + along)));
  });

  for (const curve of curves) {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.value = curve.row;
    box.checked = shown.has(curve.row);
    box.addEventListener("change", () => {
      if (box.checked) shown.add(curve.row);
      else shown.delete(curve.row);
      forget();
    });
    const swatch = element("svg", { width: 24, height: 8, "aria-hidden": "true" });
    swatch.append(element("path", { class: `c${colour(curve)}`, "stroke-width": 2.5, "stroke-dasharray": dashes(curve), d: "M0 4H24" }));
    label.append(box, swatch, curve.label);
    legend.append(label);
  }

  function showOnly(wanted) {
    shown.clear();
    for (const box of legend.querySelectorAll("input")) {
      box.checked = wanted;
      if (wanted) shown.add(box.value);
    }
    forget();
  }
  document.getElementById("all-curves").addEventListener("click", () => showOnly(true));
  document.getElementById("no-curves").addEventListener("click", () => showOnly(false));
  measure.addEventListener("change", forget);
  document.getElementById("chart").hidden = false;
  new ResizeObserver(draw).observe(plot);
  draw();
}
