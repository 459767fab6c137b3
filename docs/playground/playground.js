// The playground's page: its knobs, the two pictures, and the address that keeps all.
//
// worker.js draws. This page shows each step, remembers the walk for the slider below,
// and writes every knob into the address, so that a link draws the same sprites.

import { Noise, splitWords } from "./sampler.js";

const part = (id) => document.getElementById(id);
const playground = part("playground");
const form = playground.querySelector("form");
const walkSlider = part("walk");
const card = part("card"); // the switch
const still = matchMedia("(prefers-reduced-motion: reduce)");
const SIDE = 16; // pixels of a sprite
const LOADING = part("status").textContent;
const FIRST = "a hero with pink hair in a blue robe";

let settings; // what export.py wrote
let frames = []; // the walk so far: {t, x, picture}
let request = { id: 0 }; // what is being drawn
let started; // when
let worker; // draws; see start()

// ---- Knobs and the address -----------------------------------------------------------

function knobs() {
  const { network, words, seed, steps, guidance, n, sampler, eta } = form.elements;
  return {
    network: network.value,
    words: words.value.trim(),
    seed: Number(seed.value),
    steps: Number(steps.value),
    guidance: Number(guidance.value),
    n: Number(n.value),
    sampler: sampler.value,
    eta: Number(eta.value),
  };
}

function readAddress() {
  const wanted = new URLSearchParams(location.search);
  const { network, sampler, words, guidance } = form.elements;
  words.value = FIRST;
  guidance.value = settings.guidance;
  turnTo(wanted);
  if (!sampler.value) sampler.value = "ddpm";
  if (!network.value) network.value = "strong";
  if (!wanted.has("steps")) takeItsSteps();
}

/** As many steps as the network is made for. */
function takeItsSteps() {
  const { network, steps } = form.elements;
  steps.value = settings.networks[network.value].steps;
}

/** Turn the knobs that an address or a button names. */
function turnTo(wanted) {
  for (const [name, value] of wanted) {
    if (Object.hasOwn(knobs(), name)) form.elements[name].value = value;
  }
}

function writeAddress() {
  const address = new URL(location.href);
  address.search = new URLSearchParams(knobs());
  history.replaceState(null, "", address);
}

function showKnobs() {
  const { network, words, seed, steps, guidance, n, sampler } = knobs();
  for (const output of form.querySelectorAll(".knobs output")) {
    output.value = part(output.htmlFor.value).value;
  }
  form.elements.eta.disabled = sampler !== "ddim";
  const known = settings.vocabulary;
  const unknown = splitWords(words).filter((word) => !known.includes(word));
  part("unknown").textContent = unknown.length
    ? `The network has never read: ${[...new Set(unknown)].join(", ")}`
    : "";
  const text = JSON.stringify(words);
  const call = `draw(${text}, n=${n}, seed=${seed}, guidance=${guidance}, steps=${steps})`;
  part("python").textContent = call;
  const isDraw = network === "strong" && sampler === "ddpm";
  part("python").closest("p").hidden = !isDraw;
}

// ---- Drawing -------------------------------------------------------------------------

let waiting; // for the knobs to rest

function draw() {
  clearTimeout(waiting);
  showKnobs();
  writeAddress();
  request = { ...knobs(), id: request.id + 1 };
  frames = [];
  started = performance.now();
  playground.setAttribute("aria-busy", "true");
  part("status").textContent = "drawing";
  part("copied").textContent = "";
  worker.postMessage(request);
}

/** Wait until nothing has changed for a moment, then draw. */
function drawSoon(milliseconds) {
  clearTimeout(waiting);
  waiting = setTimeout(draw, milliseconds);
}

function receive({ data }) {
  if (data.ready) {
    if (!settings) {
      settings = data.settings;
      readAddress();
    }
    draw();
    return;
  }
  if (data.id !== request.id) return;
  if (data.loading) {
    showLoading();
    const { seed, n } = request; // meanwhile, the noise that it will begin with
    if (!still.matches) paint(part("now"), new Noise(seed).draw(n * 3 * SIDE * SIDE));
    return;
  }
  if (data.error) {
    fail(`It could not draw: ${data.error}`);
    return;
  }
  frames.push(data);
  const done = data.t === 0;
  walkSlider.max = request.steps;
  if (done || !still.matches) show(frames.length - 1);
  if (done) finish(data.loaded);
}

function showLoading() {
  playground.setAttribute("aria-busy", "true");
  part("status").textContent = card.checked ? "preparing the graphics card" : LOADING;
}

/** loaded: the files that the worker has loaded for it. */
function finish(loaded) {
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  playground.setAttribute("aria-busy", "false");
  playground.dataset.drawn = request.id;
  const steps = request.steps === 1 ? "1 step" : `${request.steps} steps`;
  const count = `${request.n} sprites in ${steps}`;
  const where = card.checked ? " on the graphics card" : "";
  part("status").textContent = `${count}, ${seconds} s${where}`;
  window.keepForOffline?.(loaded);
}

/** On the graphics card, try without it; otherwise say what is wrong. */
function fail(message) {
  if (card.checked) {
    console.warn(message);
    part("card-failed").textContent =
      "The graphics card did not work, so it is off again.";
    useCard(false);
    return;
  }
  playground.setAttribute("aria-busy", "false");
  part("status").textContent = message;
}

/** Show one step of the walk in both pictures. */
function show(place) {
  const { t, x, picture } = frames[place];
  walkSlider.value = place;
  playground.querySelector("output[for=walk]").value = `t = ${t}`;
  paint(part("now"), x);
  paint(part("guess"), picture);
  const what = `${request.n} sprites for: ${request.words || "anything"}`;
  part("now").setAttribute("aria-label", `x at t = ${t}, ${what}`);
  part("guess").setAttribute("aria-label", `guess of the sprites at t = ${t}, ${what}`);
}

/** Paint sprites, n x 3 x 16 x 16 from -1 to 1, in two columns or, if they fit, four. */
function paint(canvas, x) {
  const n = x.length / (3 * SIDE * SIDE);
  const columns = n > 4 && canvas.clientWidth >= 4 * 48 ? 4 : 2;
  const gap = 1;
  canvas.width = columns * (SIDE + gap) - gap;
  canvas.height = Math.ceil(n / columns) * (SIDE + gap) - gap;
  const context = canvas.getContext("2d");
  for (let i = 0; i < n; i++) {
    const left = (i % columns) * (SIDE + gap);
    const top = Math.floor(i / columns) * (SIDE + gap);
    context.putImageData(spriteImage(x, i), left, top);
  }
}

function spriteImage(x, number) {
  const image = new ImageData(SIDE, SIDE);
  const area = SIDE * SIDE;
  for (let place = 0; place < area; place++) {
    for (let channel = 0; channel < 3; channel++) {
      const value = x[(number * 3 + channel) * area + place];
      image.data[4 * place + channel] = Math.round((value + 1) * 127.5);
    }
    image.data[4 * place + 3] = 255;
  }
  return image;
}

// ---- What the reader does ------------------------------------------------------------

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (settings) draw();
});
form.addEventListener("input", ({ target }) => {
  if (target === walkSlider || !settings) return;
  if (target.id === "network") takeItsSteps();
  showKnobs();
  drawSoon(target.id === "words" ? 500 : 120);
});
playground.addEventListener("click", ({ target }) => {
  if (!settings || !target.matches("[data-knobs], #another")) return;
  const wanted = new URLSearchParams(target.dataset.knobs);
  if (target.id === "another") {
    const place = Math.floor(Math.random() * settings.captions.length);
    wanted.set("words", settings.captions[place]);
  }
  turnTo(wanted);
  draw();
});
walkSlider.addEventListener("input", () => {
  if (frames.length) show(Math.min(Number(walkSlider.value), frames.length - 1));
});
part("share").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    part("copied").textContent = "The link is in the clipboard.";
  } catch {
    part("copied").textContent = "Copy the page's address: it draws these sprites.";
  }
});
addEventListener("popstate", () => {
  if (!settings) return;
  readAddress();
  draw();
});

// For tests: all that was drawn
window.playground = { frames: () => frames, knobs };

// ---- With the graphics card, or without it -------------------------------------------

const memory = openMemory();

/** What the browser remembers of its reader; nothing, where it may not. */
function openMemory() {
  try {
    return localStorage;
  } catch {
    return {};
  }
}

/** Whether this browser can draw on a graphics card. */
async function findCard() {
  if (!("Suspending" in WebAssembly)) return false; // our build of the runtime needs it
  const adapter = await navigator.gpu?.requestAdapter();
  // A fallback is the processor again, and slower than WebAssembly
  return Boolean(adapter && !adapter.info.isFallbackAdapter);
}

/** Use the graphics card, or do not, now and on the next visit. */
function useCard(wanted) {
  if (wanted) memory.playgroundCard = "on";
  else delete memory.playgroundCard;
  start(wanted);
}

/** Draw with a new worker. */
function start(onCard) {
  card.checked = onCard;
  showLoading();
  worker?.terminate();
  const name = onCard ? "card" : "processor";
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module", name });
  worker.onmessage = receive;
  // A worker that does not load gives no reason
  worker.onerror = ({ message = "is there a connection?" }) =>
    fail(`The network did not load: ${message}`);
}

card.addEventListener("change", () => {
  part("card-failed").textContent = "";
  useCard(card.checked);
});
const found = findCard().catch(() => false);
start(memory.playgroundCard === "on" && (await found));
card.closest("p").hidden = !(await found);
