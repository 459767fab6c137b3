// Draws sprites beside the page, so that the page never waits: the network runs here.
//
// In: {id, words, seed, n, steps, sampler, eta, guidance}. A new message ends the
// walk of the one before. Out: {id, t, x, picture} after each step, or {error}.

import * as ort from "./ort.wasm.min.mjs";
import { Noise, SAMPLERS, encode, guided, straightSteps, walk } from "./sampler.js";

const settings = await (await fetch("settings.json")).json();
// Threads need the headers that offline.js brings: from the second visit on
const cores = navigator.hardwareConcurrency || 1;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(cores, 4) : 1;
const session = await ort.InferenceSession.create(settings.network);
let latest = 0;

/** The noise in x, which are pictures at step t, one row of words for each. */
async function noiseIn(x, t, rows) {
  const n = rows.length;
  const words = Float32Array.from(rows.flatMap((row) => [...row]));
  const { noise } = await session.run({
    x: new ort.Tensor("float32", x, [n, 3, 16, 16]),
    ab: new ort.Tensor("float32", new Float32Array(n).fill(settings.ab[t]), [n, 1]),
    words: new ort.Tensor("float32", words, [n, settings.max_words]),
  });
  return noise.data;
}

/** A function predict(x, t) for a walk: the network, with guidance where it is asked. */
function network({ words, n, guidance }) {
  const read = (caption) => encode(caption, settings.vocabulary, settings.max_words);
  const asked = Array(n).fill(read(words));
  const nothing = Array(n).fill(read(""));
  return async (x, t) => {
    if (guidance === 1) return noiseIn(x, t, asked);
    const twice = new Float32Array(2 * x.length);
    twice.set(x);
    twice.set(x, x.length);
    const noise = await noiseIn(twice, t, [...asked, ...nothing]);
    const half = x.length;
    return guided(noise.subarray(0, half), noise.subarray(half), guidance);
  };
}

/** Let the messages in that have come meanwhile. */
const pause = () => new Promise((resolve) => setTimeout(resolve));

async function draw(request) {
  latest = request.id;
  const { ab } = settings;
  const trip = walk({
    n: request.n,
    ab,
    steps: straightSteps(ab, request.steps),
    step: SAMPLERS[request.sampler](ab, request.eta),
    source: new Noise(request.seed),
    predict: network(request),
  });
  for await (const { t, x, picture } of trip) {
    await pause();
    if (request.id !== latest) return;
    self.postMessage({ id: request.id, t, x, picture });
  }
}

self.onmessage = ({ data }) => {
  draw(data).catch((error) => self.postMessage({ id: data.id, error: String(error) }));
};
const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
self.postMessage({ ready: true, settings, loaded });
