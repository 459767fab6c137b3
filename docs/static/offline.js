// Makes the book work offline after the first visit; see offline-worker.js.

const isFirstVisit = !navigator.serviceWorker?.controller;

/** Keep these addresses. On later visits the worker sees and keeps them by itself. */
window.keepForOffline = async (addresses) => {
  if (!isFirstVisit) return;
  const { active } = (await navigator.serviceWorker?.ready) ?? {};
  active?.postMessage(addresses);
};

if ("serviceWorker" in navigator && location.protocol.startsWith("http")) {
  const root = new URL("..", document.currentScript.src);
  navigator.serviceWorker.register(new URL("offline-worker.js", root));
  addEventListener("load", () => {
    const loaded = performance.getEntriesByType("resource").map(({ name }) => name);
    window.keepForOffline([location.href, ...loaded]);
  });
}
