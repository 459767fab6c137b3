"""The book, built as a reader gets it, and a server that a browser can ask for it.

It needs docs/requirements.txt, and `npm ci --prefix docs --ignore-scripts`.
"""

import functools
import http.server
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "lessons"))

from browser import FLAGS, chromium  # noqa: E402

WAIT = 180_000  # ms, on a slow and busy machine
# The playground takes no processor for a graphics card, unless it is told so
PRETEND = """Object.defineProperty(GPUAdapterInfo.prototype, "isFallbackAdapter",
  { get: () => false });"""
INSTALL = (
    "pip install -r docs/requirements.txt && npm ci --prefix docs --ignore-scripts"
)


def missing(what: str, remedy: str) -> None:
    """Skip a test here; in CI nothing is skipped."""
    give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
    give_up(f"no {what} here: {remedy}")


@pytest.fixture(scope="session")
def javascript() -> Path:
    """The folder of the book's JavaScript packages."""
    folder = ROOT / "docs" / "node_modules"
    if not folder.exists():
        missing("JavaScript packages", INSTALL)
    return folder


@pytest.fixture(scope="session")
def book(javascript) -> Path:
    """The folder of the book, built with warnings as errors.

    BOOK=folder takes one that you have built.
    """
    if os.environ.get("BOOK"):
        return Path(os.environ["BOOK"]).resolve()
    if not importlib.util.find_spec("myst_nb"):
        missing("Sphinx", INSTALL)
    out = ROOT / "docs" / "_build"
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "docs", str(out)]
    result = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    return out


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that says nothing, and knows what a module is."""

    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def address(book):
    """Where the book is served: "http://127.0.0.1:1234"."""
    handler = functools.partial(Quiet, directory=str(book))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def launch():
    """Starts a Chromium: launch(args=[...])."""
    path = chromium()
    if not path:
        missing("chromium", "apt-get install chromium")
    with sync_playwright() as playwright:
        yield functools.partial(playwright.chromium.launch, executable_path=path)


@pytest.fixture(scope="session")
def browser(launch):
    browser = launch(args=FLAGS)
    yield browser
    browser.close()


@pytest.fixture
def page_with_webgpu(launch, address):
    """A page in a Chromium with WebGPU, computed by the processor: right, but slow."""
    others = [flag for flag in FLAGS if flag != "--disable-gpu"]
    webgpu = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
    browser = launch(args=[*others, *webgpu])
    page = browser.new_page()
    page.set_default_timeout(4 * WAIT)
    page.add_init_script(PRETEND)
    page.goto(f"{address}/run.html")
    if not page.evaluate("navigator.gpu.requestAdapter().then(Boolean)"):
        missing("WebGPU in chromium", "a build of it with SwiftShader")
    yield page
    browser.close()


@pytest.fixture
def new_page(browser, address):
    """Opens a page of the book in a browser that has never seen it.

    What went wrong there is in page.errors, the hosts that it asked in page.hosts.
    """
    contexts = []

    def new(path: str, *, permissions=(), **options) -> Page:
        window = {"width": 1280, "height": 900}
        context = browser.new_context(**{"viewport": window, **options})
        context.grant_permissions(list(permissions))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.errors = []
        page.hosts = set()
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda line: note_error(page, line))
        page.on("request", lambda request: page.hosts.add(request.url.split("/")[2]))
        page.goto(f"{address}/{path}")
        return page

    yield new
    for context in contexts:
        context.close()


def note_error(page: Page, line) -> None:
    if line.type == "error":
        page.errors.append(line.text)
