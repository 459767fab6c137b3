// Draws sprites beside the page, so that the page never waits: the network runs here.
//
// The page names it "card" where the reader wants the graphics card.
//
// In: {id, network, words, seed, n, steps, sampler, eta, guidance}. A new message ends
// the walk of the one before. Out: {ready, settings} at the start; {id, loading} when a
// network is asked for the first time; {id, t, x, picture, loaded} after each step,
// where loaded names the files that came since; or {id, error}.

import { Noise, SAMPLERS, encode, guided, straightSteps, walk } from "./sampler.js";

const onCard = self.name === "card";
const ort = await import(onCard ? "./ort.jspi.min.mjs" : "./ort.wasm.min.mjs");
const settings = await (await fetch("settings.json")).json();
// Threads need the headers that offline.js brings: from the second visit on
const cores = navigator.hardwareConcurrency || 1;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(cores, 4) : 1;
const networks = {}; // those that were asked for
let latest = 0;

/** A network by its name, loaded when it is first asked for. */
async function networkNamed(name) {
  const { file } = settings.networks[name];
  networks[name] ??= onCard ? trustedOnCard(file) : opened(file, "wasm");
  try {
    return await networks[name];
  } catch (error) {
    delete networks[name]; // perhaps it loads next time
    if (onCard) throw error; // the page goes on without the card
    throw new Error("the network did not load. Is there a connection?", { cause: error });
  }
}

/** provider: "wasm" or "webgpu". */
function opened(file, provider) {
  // more than "basic" takes half a second, and makes nothing faster
  const options = { graphOptimizationLevel: "basic", executionProviders: [provider] };
  return ort.InferenceSession.create(file, options);
}

/** A network on the graphics card, once its answer was that of WebAssembly. */
async function trustedOnCard(file) {
  const x = new Noise(0).draw(3 * 16 * 16);
  const rows = [encode("", settings.vocabulary, settings.max_words)];
  const session = await opened(file, "webgpu");
  const found = await noiseIn(session, x, settings.ab.length - 1, rows);
  const plain = await opened(file, "wasm");
  const expected = await noiseIn(plain, x, settings.ab.length - 1, rows);
  await plain.release();
  const same = found.every((value, i) => Math.abs(value - expected[i]) < 0.01);
  if (!same) throw new Error("the graphics card's answer is not WebAssembly's");
  return session;
}

/** The noise in n pictures x at step t: as many for each row of words. */
async function noiseIn(session, x, t, rows) {
  const n = x.length / (3 * 16 * 16);
  const words = Float32Array.from(rows.flatMap((row) => [...row]));
  const { noise } = await session.run({
    x: new ort.Tensor("float32", x, [n, 3, 16, 16]),
    ab: new ort.Tensor("float32", new Float32Array(n).fill(settings.ab[t]), [n, 1]),
    words: new ort.Tensor("float32", words, [rows.length, settings.max_words]),
  });
  return noise.data;
}

/** A function predict(x, t) for a walk: a network, with guidance where it is asked. */
function prediction(session, { words, guidance }) {
  const read = (caption) => encode(caption, settings.vocabulary, settings.max_words);
  const asked = read(words);
  const nothing = read("");
  return async (x, t) => {
    if (guidance === 1) return noiseIn(session, x, t, [asked]);
    const twice = new Float32Array(2 * x.length);
    twice.set(x);
    twice.set(x, x.length);
    const noise = await noiseIn(session, twice, t, [asked, nothing]);
    const half = x.length;
    return guided(noise.subarray(0, half), noise.subarray(half), guidance);
  };
}

/** Let the messages in that have come meanwhile. */
const pause = () => new Promise((resolve) => setTimeout(resolve));

async function draw(request) {
  const { id, network } = request;
  latest = id;
  if (!networks[network]) self.postMessage({ id, loading: network });
  const session = await networkNamed(network);
  if (id !== latest) return;
  const { ab } = settings;
  const trip = walk({
    n: request.n,
    ab,
    steps: straightSteps(ab, request.steps),
    step: SAMPLERS[request.sampler](ab, request.eta),
    source: new Noise(request.seed),
    predict: prediction(session, request),
  });
  for await (const { t, x, picture } of trip) {
    await pause();
    if (id !== latest) return;
    const loaded = t === 0 ? justLoaded() : [];
    self.postMessage({ id, t, x, picture, loaded });
  }
}

/** The addresses that were loaded since this was last asked. */
function justLoaded() {
  const names = performance.getEntriesByType("resource").map(({ name }) => name);
  performance.clearResourceTimings();
  return names;
}

self.onmessage = ({ data }) => {
  draw(data).catch(({ message }) => self.postMessage({ id: data.id, error: message }));
};
self.postMessage({ ready: true, settings });
