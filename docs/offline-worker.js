// The book's service worker. It keeps what a reader has visited, so that it is there
// offline, and sets the headers without which a browser gives WebAssembly one thread.

const KEPT = "book";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

/** The same answer with the headers that allow threads. */
function isolated(response) {
  if (response.type === "opaqueredirect") return response; // may not be changed
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}

/** From the network; where there is none, what was kept. */
async function answer(request) {
  let response;
  try {
    response = await fetch(request);
  } catch (error) {
    response = await keptAnswer(request);
    if (!response) throw error;
    return isolated(response);
  }
  // not kept: a part of a file (206). A full disk is no reason to answer nothing.
  if (response.status === 200) await put(request, response.clone()).catch(() => {});
  return isolated(response);
}

async function keptAnswer(request) {
  const kept = await caches.open(KEPT);
  const isPage = request.mode === "navigate"; // the playground's knobs do not matter
  return kept.match(request, { ignoreSearch: isPage });
}

async function put(request, response) {
  const kept = await caches.open(KEPT);
  await kept.put(request, response);
}

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const isOurs = new URL(request.url).origin === self.location.origin;
  if (request.method === "GET" && isOurs) event.respondWith(answer(request));
});

// A page that was there before this worker says what it has loaded.
self.addEventListener("message", (event) => event.waitUntil(keep(event.data)));

async function keep(addresses) {
  const kept = await caches.open(KEPT);
  const ours = addresses.filter((address) => address.startsWith(self.location.origin));
  await Promise.allSettled(ours.map((address) => kept.add(address)));
}
