"use strict";

const $ = (id) => document.getElementById(id);
const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
// In base64, so that a look at the source does not tell who is A.
const study = JSON.parse(new TextDecoder().decode(bytesOf($("study").textContent)));
const fingerprint = $("study").dataset.fingerprint;
const KEY = `compressai-gen study ${fingerprint}`;
const HOLD_MS = 350; // a longer press of the picture shows the original

// JSON with sorted keys and no spaces, as the program that scores the votes writes it. All numbers are whole.
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value && typeof value === "object") {
    return `{${Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

// FIPS 180-4. The browser's own is missing in pages that some browsers open from disk.
function sha256(text) {
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
  const fraction = (x) => ((x - Math.floor(x)) * 2 ** 32) | 0;
  const k = primes.map((p) => fraction(Math.cbrt(p)));
  const state = primes.slice(0, 8).map((p) => fraction(Math.sqrt(p)));
  const data = new TextEncoder().encode(text);
  const padded = new DataView(new ArrayBuffer((((data.length + 8) >> 6) + 1) * 64));
  data.forEach((byte, i) => padded.setUint8(i, byte));
  padded.setUint8(data.length, 0x80);
  padded.setUint32(padded.byteLength - 8, Math.floor(data.length / 2 ** 29));
  padded.setUint32(padded.byteLength - 4, data.length * 8);
  const rotate = (x, n) => (x >>> n) | (x << (32 - n));
  const w = new Int32Array(64);
  for (let start = 0; start < padded.byteLength; start += 64) {
    for (let i = 0; i < 16; i++) w[i] = padded.getInt32(start + 4 * i);
    for (let i = 16; i < 64; i++) {
      const s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ (w[i - 15] >>> 3);
      const s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ (w[i - 2] >>> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + k[i] + w[i]) | 0;
      const s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + t1) | 0, c, b, a, (t1 + t2) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => { state[i] = (state[i] + value) | 0; });
  }
  return state.map((value) => (value >>> 0).toString(16).padStart(8, "0")).join("");
}

// Chance that no seed repeats.
function below(count) {
  const limit = Math.floor(2 ** 32 / count) * count;
  const draw = new Uint32Array(1);
  do crypto.getRandomValues(draw); while (draw[0] >= limit);
  return draw[0] % count;
}

function fresh() {
  const order = study.trials.map((_, index) => index);
  for (let i = order.length - 1; i > 0; i--) {
    const j = below(i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  const rater = [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  // `flipped`: whether the second side of a trial is A.
  return { rater, order, flipped: order.map(() => below(2)), votes: [] };
}

function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY));
    return found && Array.isArray(found.votes) && found.order.length === study.trials.length ? found : null;
  } catch {
    return null;
  }
}

function keep() {
  try {
    localStorage.setItem(KEY, JSON.stringify(state));
  } catch {
    $("warning").textContent = "This browser does not keep votes of a page like this: please finish in one go.";
    $("warning").hidden = false;
  }
}

let state = kept() ?? fresh();
let current = null; // what is on the stage
let exact = true; // one pixel of the picture is one of the screen

function open(screen) {
  for (const id of ["welcome", "trial", "end"]) $(id).hidden = id !== screen;
}

async function next() {
  current = null;
  if (state.votes.length === study.trials.length) return finish();
  open("trial");
  const position = state.votes.length;
  const index = state.order[position];
  const trial = study.trials[index];
  const first = state.flipped[position];
  const names = { a: trial.sides[first].picture, b: trial.sides[1 - first].picture, o: trial.original };
  for (const button of ["choose-a", "choose-b", "show-a", "show-b", "show-o"]) $(button).disabled = true;
  $("count").textContent = `Comparison ${position + 1} of ${study.trials.length}`;
  $("progress").value = position;
  await Promise.all(Object.entries(names).map(([side, name]) => {
    const image = $(`picture-${side}`);
    image.src = `data:image/webp;base64,${$(`data-${name}`).textContent}`;
    return image.decode();
  }));
  current = { trial: index, first, seen: new Set(), side: "a", switches: 0, originals: 0, fitted: 0, since: performance.now() };
  for (const button of ["show-a", "show-b", "show-o"]) $(button).disabled = false;
  place();
  show("a");
  $("stage").scrollTo(0, 0);
  $("stage").focus({ preventScroll: true });
}

// Sizes and places in whole pixels of the screen, of which a pixel of CSS has devicePixelRatio.
function place() {
  if (!current) return;
  const stage = $("stage"), ratio = window.devicePixelRatio;
  const { naturalWidth: width, naturalHeight: height } = $("picture-o");
  const scale = exact ? 1 : Math.min(stage.clientWidth * ratio / width, stage.clientHeight * ratio / height);
  const box = stage.getBoundingClientRect();
  for (const image of stage.querySelectorAll("img")) {
    image.style.width = `${Math.round(width * scale) / ratio}px`;
    image.style.height = `${Math.round(height * scale) / ratio}px`;
    for (const [side, room, start] of [["left", stage.clientWidth, box.left], ["top", stage.clientHeight, box.top]]) {
      const size = (side === "left" ? width : height) * scale;
      const offset = Math.max(0, Math.floor((room * ratio - size) / 2));
      // The stage itself may begin between two pixels.
      const rest = Math.ceil(start * ratio - 1e-6) - start * ratio;
      image.style[side] = `${(offset + rest) / ratio}px`;
    }
  }
  stage.classList.toggle("exact", exact);
  $("zoom").textContent = exact ? "Zoom: 100 %" : `Zoom: whole picture, ${Math.round(scale * 100)} %`;
  if (!exact) current.fitted = 1;
}

function show(side) {
  if (!current) return;
  for (const name of ["a", "b", "o"]) $(`picture-${name}`).classList.toggle("visible", name === side);
  $("shown").textContent = side === "o" ? "Original" : side.toUpperCase();
  for (const name of ["a", "b"]) $(`show-${name}`).setAttribute("aria-pressed", String(name === side));
  if (side === "o") {
    current.originals += 1;
    return;
  }
  if (current.seen.size && side !== current.side) current.switches += 1;
  current.side = side;
  current.seen.add(side);
  for (const name of ["a", "b"]) $(`choose-${name}`).disabled = current.seen.size < 2;
}

function choose(side) {
  if (!current || current.seen.size < 2) return;
  const { trial, first, switches, originals, fitted, since } = current;
  const chosen = side === "a" ? first : 1 - first;
  state.votes.push({ trial, first, chosen, switches, originals, fitted, ms: Math.round(performance.now() - since) });
  keep();
  next();
}

function record() {
  const votes = { format: "compressai-gen votes 1", study, fingerprint, rater: state.rater, votes: state.votes };
  return JSON.stringify({ ...votes, digest: sha256(canonical(votes)) }, null, 1);
}

function finish() {
  open("end");
  $("text").value = record();
  $("save").focus();
}

$("start").addEventListener("click", () => { keep(); next(); });
$("save").addEventListener("click", () => {
  const address = URL.createObjectURL(new Blob([record()], { type: "application/json" }));
  const name = `votes-${fingerprint.slice(0, 8)}-${state.rater}.json`;
  Object.assign(document.createElement("a"), { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
});
$("again").addEventListener("click", () => {
  if (!confirm("Have the votes been saved? They are forgotten now.")) return;
  state = fresh();
  keep();
  open("welcome");
  $("start").textContent = "Start";
});
for (const side of ["a", "b"]) {
  $(`show-${side}`).addEventListener("click", () => show(side));
  $(`choose-${side}`).addEventListener("click", () => choose(side));
}

function toggleZoom() {
  exact = !exact;
  place();
}
$("zoom").addEventListener("click", toggleZoom);
window.addEventListener("resize", place); // also when the browser's zoom changes

// Original: while a button, the picture or a key is held.
const release = () => { if (current && $("picture-o").classList.contains("visible")) show(current.side); };
$("show-o").addEventListener("pointerdown", () => show("o"));
for (const event of ["pointerup", "pointercancel", "pointerleave"]) $("show-o").addEventListener(event, release);
let press = null;
$("stage").addEventListener("pointerdown", (event) => {
  if (event.button) return;
  const timer = setTimeout(() => { press.held = true; show("o"); }, HOLD_MS);
  press = { timer, held: false, x: event.clientX, y: event.clientY };
});
$("stage").addEventListener("pointermove", (event) => {
  if (press && !press.held && Math.hypot(event.clientX - press.x, event.clientY - press.y) > 8) {
    clearTimeout(press.timer); // the picture is dragged or scrolled
    press = null;
  }
});
const lift = (tapped) => () => {
  if (!press) return;
  clearTimeout(press.timer);
  if (press.held) release();
  else if (tapped && current) show(current.side === "a" ? "b" : "a");
  press = null;
};
$("stage").addEventListener("pointerup", lift(true));
for (const event of ["pointercancel", "pointerleave"]) $("stage").addEventListener(event, lift(false));
$("stage").addEventListener("contextmenu", (event) => event.preventDefault());

const KEYS = { ArrowLeft: "a", a: "a", 1: "a", ArrowRight: "b", b: "b", 2: "b", ArrowUp: "o", o: "o" };
document.addEventListener("keydown", (event) => {
  if (!current || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const onButton = event.target.closest("button") !== null;
  if (key in KEYS) {
    if (!event.repeat) show(KEYS[key]);
  } else if (key === "Enter" && !onButton) {
    if (!event.repeat) choose(current.side);
  } else if (key === "z") {
    if (!event.repeat) toggleZoom();
  } else if (key === " " && event.target === $("show-o")) {
    if (!event.repeat) show("o");
  } else {
    return;
  }
  event.preventDefault();
});
document.addEventListener("keyup", (event) => {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (KEYS[key] === "o" || key === " ") release();
});
window.addEventListener("blur", release);

if (state.votes.length) $("start").textContent = `Go on: ${state.votes.length} of ${study.trials.length} are done`;
