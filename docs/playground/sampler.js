// The samplers of diffusion_utilities.py, in JavaScript: DDPM, DDIM and 2M.
//
// Pictures are Float32Arrays of n x 3 x 16 x 16 numbers from -1 to 1. `ab` is the
// schedule's table of alpha-bar: ab[0] = 1 for the clean picture, ab[T] for noise.
// tests/site/test_playground.py compares everything here with the Python code.

// ---- Noise -------------------------------------------------------------------------

const WORDS = 624; // the state of a Mersenne twister

/** Standard normal numbers, the same as torch's on a CPU for the same seed. */
export class Noise {
  constructor(seed) {
    this.state = new Uint32Array(WORDS);
    this.state[0] = seed;
    for (let i = 1; i < WORDS; i++) {
      const last = this.state[i - 1];
      this.state[i] = Math.imul(1812433253, last ^ (last >>> 30)) + i;
    }
    this.next = WORDS;
  }

  /** `count` numbers; count must be a multiple of 16. */
  draw(count) {
    const numbers = Float32Array.from({ length: count }, () => this.uniform());
    for (let start = 0; start < count; start += 16) {
      for (let i = start; i < start + 8; i++) {
        const radius = Math.sqrt(-2 * Math.log(1 - numbers[i]));
        const angle = 2 * Math.PI * numbers[i + 8];
        numbers[i] = radius * Math.cos(angle);
        numbers[i + 8] = radius * Math.sin(angle);
      }
    }
    return numbers;
  }

  /** A number from 0 to 1 with 24 random bits. */
  uniform() {
    if (this.next === WORDS) this.twist();
    let bits = this.state[this.next++];
    bits ^= bits >>> 11;
    bits ^= (bits << 7) & 0x9d2c5680;
    bits ^= (bits << 15) & 0xefc60000;
    bits ^= bits >>> 18;
    return (bits & 0xffffff) / 2 ** 24;
  }

  twist() {
    const { state } = this;
    for (let i = 0; i < WORDS; i++) {
      const following = state[(i + 1) % WORDS];
      const mixed = (state[i] & 0x80000000) | (following & 0x7fffffff);
      const odd = following & 1 ? 0x9908b0df : 0;
      state[i] = state[(i + 397) % WORDS] ^ (mixed >>> 1) ^ odd;
    }
    this.next = 0;
  }
}

// ---- Steps -------------------------------------------------------------------------

/** n + 1 steps from T to 0, as even as possible on the straight path (lesson 13). */
export function straightSteps(ab, n) {
  const T = ab.length - 1;
  const shares = ab.map((kept) => {
    const signal = Math.sqrt(kept);
    return signal / (signal + Math.sqrt(1 - kept));
  });
  const steps = [T];
  for (let place = 1; place < n; place++) {
    const wanted = shares[T] + ((1 - shares[T]) * place) / n;
    const distances = shares.map((share) => Math.abs(share - wanted));
    const nearest = distances.indexOf(Math.min(...distances));
    const highest = steps.at(-1) - 1;
    const lowest = n - place; // each later step needs one of its own
    steps.push(Math.min(Math.max(nearest, lowest), highest));
  }
  return [...steps, 0];
}

/** Combine pictures number by number. */
function combined(x, number) {
  const result = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) result[i] = number(i);
  return result;
}

/** The clean picture that x_t and its noise imply. */
export function impliedPicture(ab, t, x, noise) {
  const signal = Math.sqrt(ab[t]);
  const spread = Math.sqrt(1 - ab[t]);
  return combined(x, (i) => (x[i] - spread * noise[i]) / signal);
}

/** The noise that x_t and its clean picture imply. */
function impliedNoise(ab, t, x, picture) {
  const signal = Math.sqrt(ab[t]);
  const spread = Math.sqrt(1 - ab[t]);
  return combined(x, (i) => (x[i] - signal * picture[i]) / spread);
}

/** The variance of q(x_prev | x_t, x_0), beta-tilde (lesson 2). */
function posteriorVariance(ab, t, tPrev) {
  const a = ab[t] / ab[tPrev];
  return ((1 - a) * (1 - ab[tPrev])) / (1 - ab[t]);
}

/** The DDPM step: the posterior's mean plus fresh noise z (lesson 4). */
export function ddpm(ab) {
  return ({ x, t, tPrev, noise, z }) => {
    const picture = impliedPicture(ab, t, x, noise);
    const a = ab[t] / ab[tPrev];
    const c0 = (Math.sqrt(ab[tPrev]) * (1 - a)) / (1 - ab[t]);
    const ct = (Math.sqrt(a) * (1 - ab[tPrev])) / (1 - ab[t]);
    const sigma = Math.sqrt(posteriorVariance(ab, t, tPrev));
    return combined(x, (i) => c0 * picture[i] + ct * x[i] + sigma * z[i]);
  };
}

/** The DDIM step; eta is how much of the noise is fresh (lesson 5). */
export function ddim(ab, eta = 0) {
  return ({ x, t, tPrev, noise, z }) => {
    const picture = impliedPicture(ab, t, x, noise);
    const sigma = eta * Math.sqrt(posteriorVariance(ab, t, tPrev));
    const signal = Math.sqrt(ab[tPrev]);
    const old = Math.sqrt(Math.max(1 - ab[tPrev] - sigma ** 2, 0));
    return combined(x, (i) => signal * picture[i] + old * noise[i] + sigma * z[i]);
  };
}

/** DPM-Solver++ 2M: a DDIM step towards an extrapolated picture (lesson 5). */
export function secondOrder(ab) {
  const lambda = ab.map((kept) => Math.log(kept / (1 - kept)) / 2);
  const step = ddim(ab);
  let last = null; // the step before, and the picture that it implied
  return ({ x, t, tPrev, noise, z }) => {
    const picture = impliedPicture(ab, t, x, noise);
    let target = picture;
    if (last && tPrev > 0) {
      const before = last.picture;
      const ahead = lambda[tPrev] - lambda[t];
      const behind = lambda[t] - lambda[last.t];
      const share = ahead / behind / 2;
      target = combined(x, (i) => picture[i] + share * (picture[i] - before[i]));
    }
    last = { t, picture };
    return step({ x, t, tPrev, noise: impliedNoise(ab, t, x, target), z });
  };
}

export const SAMPLERS = {
  ddpm: (ab) => ddpm(ab),
  ddim: (ab, eta) => ddim(ab, eta),
  "2m": (ab) => secondOrder(ab),
};

// ---- A walk from noise to pictures ---------------------------------------------------

/**
 * Take n pictures along a list of steps from T to 0.
 *
 * Yields {t, x, picture} at each step: x_t, and the guess of x_0 that its predicted noise
 * implies. predict(x, t) returns that noise. `source` draws all noise.
 */
export async function* walk({ n, ab, steps, step, source, predict }) {
  let x = source.draw(n * 3 * 16 * 16);
  for (let place = 1; place < steps.length; place++) {
    const t = steps[place - 1];
    const tPrev = steps[place];
    const noise = await predict(x, t);
    yield { t, x, picture: impliedPicture(ab, t, x, noise) };
    const z = source.draw(x.length);
    x = step({ x, t, tPrev, noise, z });
  }
  yield { t: 0, x, picture: x };
}

/** Classifier-free guidance: from the noise without words towards that with them. */
export function guided(withWords, without, weight) {
  return combined(withWords, (i) => without[i] + weight * (withWords[i] - without[i]));
}

// ---- Words -------------------------------------------------------------------------

/** The words of a caption in lower case, as `captions.split_words` splits them. */
export function splitWords(caption) {
  return caption.toLowerCase().match(/[a-z0-9]+/g) ?? [];
}

/** A caption's numbers, as `captions.encode` gives them: 0 pads, 1 is unknown. */
export function encode(caption, vocabulary, length) {
  const numbers = new Float32Array(length);
  splitWords(caption)
    .slice(0, length)
    .forEach((word, i) => {
      numbers[i] = Math.max(vocabulary.indexOf(word), 1);
    });
  return numbers;
}
