"""JupyterLab as the README starts it, on a copy of the course, and a Chromium.

What test_browser.py works with.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
# A browser that looks for nothing beyond this machine
QUIET = ("quic", "gpu", "sync", "background-networking", "component-update")
FLAGS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]
CELL = ".jp-MainAreaWidget:not(.lm-mod-hidden) .jp-Notebook .jp-CodeCell"
IDLE = "Python 3 (ipykernel) | Idle"
HANGS = 1800  # seconds after which a lesson is given up


def chromium() -> str | None:
    """Where Debian's Chromium is, or None."""
    found = shutil.which("chromium")
    usual = Path("/usr/bin/chromium")
    if not found and usual.exists():
        return str(usual)
    return found


class Lab:
    """JupyterLab, running on a copy of the course in `folder`."""

    def __init__(self, folder: Path):
        # a space and a letter beyond ASCII, as in many home folders
        self.course = folder / "die Kurse für alle"
        self._copy_course()
        self._keep_quiet(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.log = (folder / "jupyter.log").open("w")
        jupyter = Path(sys.executable).with_name("jupyter")
        options = [
            "--no-browser",
            f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            "--IdentityProvider.token=",
            "--allow-root",
        ]
        self.process = subprocess.Popen(
            [str(jupyter), "lab", *options],
            cwd=self.course,
            env=own_settings(folder),
            stdout=self.log,
            stderr=self.log,
        )
        self._wait()

    def _copy_course(self) -> None:
        names = ("__pycache__", ".ipynb_checkpoints", "runs")
        ignored = shutil.ignore_patterns(*names)
        for part in ("data", "weights", "notebooks"):
            shutil.copytree(ROOT / part, self.course / part, ignore=ignored)
        shutil.copy(ROOT / "diffusion_utilities.py", self.course)

    def _keep_quiet(self, folder: Path) -> None:
        """No question about news, and no look for updates."""
        settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text(
            '{"fetchNews": "false", "checkForUpdates": false}', encoding="utf8"
        )

    def _wait(self, seconds: float = 90) -> None:
        """Wait until the server answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.address}/api/status", timeout=5)
                return
            except OSError:
                time.sleep(0.3)
        log = Path(self.log.name).read_text(encoding="utf8")
        raise RuntimeError(f"JupyterLab did not start: {log[-2000:]}")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)  # it ends its kernels first
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def copy_lesson(self, path: Path) -> Path:
        """A copy of a lesson without outputs."""
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = []
                cell.execution_count = None
        return self._write(notebook, path.stem)

    def write_notebook(self, name: str, *sources: str) -> Path:
        """A notebook of these code cells."""
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata.kernelspec = {
            "name": "python3",
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
        }
        return self._write(notebook, name)

    def _write(self, notebook: nbformat.NotebookNode, name: str) -> Path:
        path = self.course / "notebooks" / f"opened_{name}.ipynb"
        nbformat.write(notebook, path)
        return path


def own_settings(folder: Path) -> dict[str, str]:
    """The environment in which JupyterLab has its own settings, and nobody else's."""
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "IPYTHONDIR": "ipython",
    }
    own = {name: str(folder / place) for name, place in places.items()}
    return {**os.environ, **own, "OMP_NUM_THREADS": "1"}


def open_notebook(page: Page, lab: Lab, path: Path) -> None:
    """Open a notebook of the course's copy by its address, and wait for its kernel."""
    page.goto(
        f"{lab.address}/lab/tree/notebooks/{path.name}?reset",
        wait_until="commit",
        timeout=90_000,
    )
    page.get_by_text(IDLE).wait_for(timeout=90_000)


def choose(page: Page, *names: str) -> None:
    """Choose from JupyterLab's menu: choose(page, "Run", "Run All Cells")."""
    page.locator(".lm-MenuBar-item", has_text=names[0]).first.click()
    for name in names[1:]:
        page.locator(".lm-Menu-item:visible", has_text=name).first.click()


def run_all(page: Page, path: Path) -> list[nbformat.NotebookNode]:
    """Run all cells, wait for the last, save, and return the code cells as saved."""
    choose(page, "Run", "Run All Cells")
    end = time.monotonic() + HANGS
    while time.monotonic() < end:
        page.wait_for_timeout(1000)
        if page.get_by_text(IDLE).count():
            cells = save(page, path)
            if errors(cells) or all(was_run(cell) for cell in cells):
                return cells
    raise AssertionError(f"{path.name} was not done after {HANGS} s")


def was_run(cell: nbformat.NotebookNode) -> bool:
    return bool(cell.execution_count) or not cell.source.strip()


def save(page: Page, path: Path) -> list[nbformat.NotebookNode]:
    """Save the notebook, and return its code cells as saved."""

    def saves(response) -> bool:
        is_file = "/api/contents/" in response.url
        return response.request.method == "PUT" and is_file

    with page.expect_response(saves):
        page.keyboard.press("Control+s")
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def errors(cells: list[nbformat.NotebookNode]) -> list[str]:
    """The errors among the outputs, and the cells where they are."""
    found = []
    for cell in cells:
        for output in cell.outputs:
            if output.output_type == "error":
                error = f"{output.ename}: {output.evalue}"
                found.append(f"{error} in the cell {cell.source[:60]!r}")
    return found
