"use strict";

// Tables: a button in each head sorts by its column; numbers by their exact value, undefined ones last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      const [x, y] = [a, b].map((row) => row.cells[column].dataset.value ?? row.cells[column].textContent);
      if (x === "" || y === "") return (x === "") - (y === "");
      const [p, q] = [x, y].map((text) => text === "inf" ? Infinity : Number(text));
      return sign * (Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p < q ? -1 : p > q ? 1 : 0);
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
  }));
}

// Pictures: decoded only when they are shown.
for (const image of document.querySelectorAll(".image")) {
  const pictures = image.querySelectorAll(".picture");
  const frame = image.querySelector(".compare");
  const selects = [...image.querySelectorAll("select.side")];
  const update = () => {
    if (!image.open) return;
    for (const select of selects) {
      const shown = frame.querySelector(`img[data-side="${select.dataset.side}"]`);
      shown.src = "data:image/webp;base64," + pictures[select.value].textContent;
      shown.alt = `${select.dataset.side}: ${select.selectedOptions[0].textContent}`;
    }
  };
  selects.forEach((select) => select.addEventListener("change", update));
  image.addEventListener("toggle", update);
  image.querySelectorAll(".show").forEach((button) => button.addEventListener("click", () => {
    selects[1].value = button.dataset.show;
    update();
    frame.scrollIntoView({ block: "nearest" });
  }));
  image.querySelector(".zoom").addEventListener("change", (event) => {
    frame.classList.toggle("zoomed", event.target.checked);
  });
  const slider = frame.querySelector("input");
  const move = () => {
    frame.style.setProperty("--at", slider.value + "%");
    slider.setAttribute("aria-valuetext", `line at ${Math.round(slider.value)} percent of the width`);
  };
  slider.addEventListener("input", move);
  move();
  update();
}

// Plots.
const { metrics, curves } = JSON.parse(document.getElementById("plot-data").textContent);
const plot = document.getElementById("plot");
const WIDTH = 900, HEIGHT = 480, LEFT = 64, RIGHT = 16, TOP = 12, BOTTOM = 48;
// Outlines of matplotlib's markers in a square from -1 to 1.
const OUTLINES = {
  s: "M-.9-.9H.9V.9H-.9Z", "^": "M0-1L1 1H-1Z", v: "M0 1L1-1H-1Z", "<": "M-1 0L1-1V1Z", ">": "M1 0L-1-1V1Z",
  D: "M0-1.2L1.2 0L0 1.2L-1.2 0Z", P: "M-.35-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",
  X: "M-1-.5L-.5-1L0-.5L.5-1L1-.5L.5 0L1 .5L.5 1L0 .5L-.5 1L-1 .5L-.5 0Z",
  p: "M0-1L.95-.31L.59.81H-.59L-.95-.31Z", h: "M0-1L.87-.5V.5L0 1L-.87.5V-.5Z", o: "M-1 0A1 1 0 1 1 1 0A1 1 0 1 1-1 0Z",
};

// Taken from the parser: the file itself then holds no address at all.
const NAMESPACE = new DOMParser().parseFromString("<svg></svg>", "text/html").body.firstChild.namespaceURI;

function svg(name, attributes, ...children) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

for (const curve of curves) {
  curve.measured = curve.origin === "measured";
  curve.visible = curve.measured;
  if (curve.color === "#000000") curve.color = "currentColor"; // seen on dark, too
  curve.stroke = curve.measured ? 2.4 : 1.1;
}

function marker(curve, x, y) {
  const size = curve.measured ? 5.5 : 4.5;
  return svg("path", {
    d: OUTLINES[curve.marker], transform: `translate(${x} ${y}) scale(${size})`, stroke: curve.color,
    "stroke-width": 1.2 / size, fill: curve.measured ? curve.color : "none",
  });
}

function line(curve, d) {
  const dashes = curve.dashes.map((length) => length * curve.stroke).join(" ");
  return svg("path", { class: "curve", d, stroke: curve.color, "stroke-width": curve.stroke, "stroke-dasharray": dashes });
}

function ticks(low, high) {
  const raw = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const result = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) result.push([k * step, (k * step).toFixed(digits)]);
  return result;
}

function logTicks(low, high) {
  const result = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const factor of [1, 2, 5]) {
      const value = factor * 10 ** power;
      if (value >= low && value <= high) result.push([value, String(Number(value.toPrecision(2)))]);
    }
  }
  return result;
}

const tip = Object.assign(document.createElement("div"), { id: "tip", hidden: true });
tip.setAttribute("role", "status");

function draw() {
  const metric = metrics.find(({ key }) => key === document.getElementById("metric").value);
  const visible = curves.filter((curve) => curve.visible);
  const points = visible.flatMap((curve) => curve.points.filter(({ values }) => metric.key in values).map((point) => {
    const [value, low, high] = point.values[metric.key];
    return { curve, quality: point.quality, bpp: point.bpp, value, low, high };
  }));
  const root = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": `${metric.label} over the rate; its points can be focused`,
  });
  plot.replaceChildren(root, tip);
  tip.hidden = true;
  if (!points.length) {
    root.append(svg("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "No codec chosen has figures of this metric."));
    return;
  }
  // The rates of what was measured, unless nothing measured is shown.
  const leading = points.some(({ curve }) => curve.measured) ? points.filter(({ curve }) => curve.measured) : points;
  const x0 = Math.min(...leading.map(({ bpp }) => bpp)) / 1.3, x1 = Math.max(...leading.map(({ bpp }) => bpp)) * 1.3;
  const inside = points.filter(({ bpp }) => bpp >= x0 && bpp <= x1);
  const seen = inside.flatMap(({ value, low, high }) => [value, low, high]).filter(Number.isFinite);
  const [least, most] = [Math.min(...seen), Math.max(...seen)];
  const pad = 0.04 * (most - least) || 0.05 * Math.abs(most) || 0.1;
  const y0 = least - pad, y1 = most + pad;
  const x = (bpp) => LEFT + (WIDTH - LEFT - RIGHT) * Math.log(bpp / x0) / Math.log(x1 / x0);
  const y = (value) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - y0) / (y1 - y0);

  for (const [value, label] of logTicks(x0, x1)) {
    root.append(svg("path", { class: "grid", d: `M${x(value)} ${TOP}V${HEIGHT - BOTTOM}` }));
    root.append(svg("text", { x: x(value), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, label));
  }
  for (const [value, label] of ticks(y0, y1)) {
    root.append(svg("path", { class: "grid", d: `M${LEFT} ${y(value)}H${WIDTH - RIGHT}` }));
    root.append(svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, label));
  }
  root.append(svg("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, "rate [bits per pixel]"));
  const label = metric.label + (metric.higher ? "" : ", lower is better");
  root.append(svg("text", { transform: `translate(14 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle" }, label));

  const area = { x: LEFT, y: TOP, width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM };
  root.append(svg("clipPath", { id: "area" }, svg("rect", area)));
  const inner = svg("g", { "clip-path": "url(#area)" });
  root.append(inner);
  const path = (list, value) => list.map((point) => `${x(point.bpp)} ${y(value(point))}`).join("L");
  const layers = visible.map((curve) => points.filter((point) => point.curve === curve)).filter((list) => list.length);
  for (const list of layers) {
    const banded = list.filter(({ low, high }) => Number.isFinite(low) && Number.isFinite(high));
    if (banded.length < 2) continue;
    const d = `M${path(banded, ({ high }) => high)}L${path(banded.slice().reverse(), ({ low }) => low)}Z`;
    inner.append(svg("path", { class: "band", d, fill: list[0].curve.color }));
  }
  layers.sort((a, b) => a[0].curve.measured - b[0].curve.measured);
  for (const list of layers) inner.append(line(list[0].curve, "M" + path(list, ({ value }) => value)));

  const { digits } = metric;
  const nameOf = ({ name, trained }) => name + (trained.includes(metric.key) ? "†" : "");
  const show = (point) => {
    const name = document.createElement("strong");
    name.textContent = `${nameOf(point.curve)} ${point.quality}`;
    const interval = Number.isFinite(point.low) ? ` [${point.low.toFixed(digits)}, ${point.high.toFixed(digits)}]` : "";
    const origin = point.curve.measured ? "" : `, ${point.curve.origin}`;
    tip.replaceChildren(name, `: ${point.bpp.toFixed(4)} bpp, ${point.value.toFixed(digits)}${interval}${origin}`);
    tip.hidden = false;
    const scale = root.getBoundingClientRect().width / WIDTH;
    const left = Math.min(x(point.bpp) * scale + 12, plot.clientWidth - tip.offsetWidth);
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${Math.max(0, y(point.value) * scale - tip.offsetHeight - 12)}px`;
  };
  const within = inside.filter(({ value }) => value >= y0 && value <= y1);
  for (const list of layers) {
    for (const point of list.filter((candidate) => within.includes(candidate))) {
      const mark = marker(point.curve, x(point.bpp), y(point.value));
      mark.setAttribute("tabindex", "0");
      mark.setAttribute("role", "img");
      mark.setAttribute("aria-label", `${nameOf(point.curve)} ${point.quality}: ${point.bpp.toFixed(4)} bpp, ${point.value.toFixed(digits)}`);
      mark.addEventListener("focus", () => show(point));
      mark.addEventListener("blur", () => { tip.hidden = true; });
      inner.append(mark);
    }
  }
  root.addEventListener("pointermove", (event) => {
    const box = root.getBoundingClientRect();
    const [px, py] = [(event.clientX - box.left) * WIDTH / box.width, (event.clientY - box.top) * HEIGHT / box.height];
    const distance = (point) => Math.hypot(x(point.bpp) - px, y(point.value) - py);
    const nearest = within.reduce((a, b) => distance(b) < distance(a) ? b : a);
    if (distance(nearest) < 30) show(nearest);
    else tip.hidden = true;
  });
  root.addEventListener("pointerleave", () => { tip.hidden = true; });
}

function legend() {
  for (const [title, group] of [["measured", curves.filter(({ measured }) => measured)], ["published", curves.filter(({ measured }) => !measured)]]) {
    if (!group.length) continue;
    const fieldset = document.createElement("fieldset");
    fieldset.append(Object.assign(document.createElement("legend"), { textContent: title }));
    const boxes = group.map((curve) => {
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: curve.visible });
      box.addEventListener("change", () => { curve.visible = box.checked; draw(); });
      const swatch = svg("svg", { width: 44, height: 14, viewBox: "0 -7 44 14", "aria-hidden": "true" }, line(curve, "M1 0H43"), marker(curve, 22, 0));
      swatch.querySelector(".curve").setAttribute("fill", "none");
      const label = document.createElement("label");
      label.append(box, swatch, curve.name);
      fieldset.append(label);
      return box;
    });
    if (group.length > 1) {
      const all = Object.assign(document.createElement("input"), { type: "checkbox", checked: group[0].visible });
      all.addEventListener("change", () => {
        boxes.forEach((box) => { box.checked = all.checked; });
        group.forEach((curve) => { curve.visible = all.checked; });
        draw();
      });
      const label = Object.assign(document.createElement("label"), { className: "all" });
      label.append(all, `all ${title}`);
      fieldset.querySelector("legend").after(label);
    }
    document.getElementById("legend").append(fieldset);
  }
}

if (metrics.length) {
  const select = document.getElementById("metric");
  for (const { key, label } of metrics) select.append(new Option(label, key));
  // A perceptual metric first, where there is one.
  select.value = metrics.some(({ key }) => key === "lpips") ? "lpips" : metrics[0].key;
  select.addEventListener("change", draw);
  legend();
  draw();
}
