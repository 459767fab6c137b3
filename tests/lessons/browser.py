"""JupyterLab as the README starts it, on a copy of the course, and a Chromium that drives it: what test_browser.py works with."""

import ast
import json
import os
import shutil
import socket
import subprocess
import symtable
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
# Stand-ins for what an instrument needs and what takes long: {lesson: [(what its cells say, what is run)]}
CHEAPER = {
    "03": [("else (24, 20, 1, 25, 3e-3)", "else (24, 2, 1, 25, 3e-3)")],
    "05": [
        ("COUNTS = (500, 100, 50, 20, 10, 5)", "COUNTS = (500,)"),
        (
            '(("DDIM", sample_ddim), ("DDPM", sample_ddpm)):',
            '[("DDIM", lambda *given, **named: sample_ddim(*given, **named | {"steps": 20}))]:',
        ),
        (
            'context=asked["PaletteNet"], steps=500, keep=0)',
            'context=asked["PaletteNet"], steps=20, keep=0)',
        ),
    ],
}
CELL = ".jp-MainAreaWidget:not(.lm-mod-hidden) .jp-Notebook .jp-CodeCell"


def chromium() -> str | None:
    """Where Debian's Chromium is, or None."""
    return shutil.which("chromium") or next(
        (path for path in ("/usr/bin/chromium",) if Path(path).exists()), None
    )


def code_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf8"))[
        "cells"
    ]  # nbformat would check each notebook first, at each start of pytest
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def calls(source: str) -> set[str]:
    """The names of the functions that a cell calls at its top level."""
    statements = [
        statement
        for statement in ast.parse(_plain(source)).body
        if not isinstance(statement, (ast.FunctionDef, ast.ClassDef))
    ]
    nodes = [node for statement in statements for node in ast.walk(statement)]
    return {
        node.func.id
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def cells_that_call(name: str) -> list[tuple[Path, int]]:
    """(notebook, index among its code cells) of each cell of the course that calls a function of this name."""
    return [
        (path, i)
        for path in NOTEBOOKS
        for i, source in enumerate(code_cells(path))
        if name in calls(source)
    ]


def needed_for(path: Path, last: int) -> dict[int, str]:
    """What cell `last` needs, itself included: {index among the code cells: its source, or as many of its statements}.

    Kept are the set-up cell, and backwards each statement that defines a name that is read later. What only prints, draws, trains something else or
    compares is left out, so that an instrument far down a page can be opened in seconds."""
    sources = code_cells(path)
    for old, new in CHEAPER.get(path.stem[:2], ()):
        assert sum(source.count(old) for source in sources) == 1, (
            f"{path.name} has no {old!r}: see CHEAPER in tests/lessons/browser.py"
        )
        sources = [source.replace(old, new) for source in sources]
    wanted, kept = set(), {}
    for i in range(last, -1, -1):
        statements, used = ast.parse(_plain(sources[i])).body, []
        for statement in reversed(statements):
            makes, reads = _names([statement])
            if i == last or "import *" in sources[i] or makes & wanted:
                used.append(statement)
                wanted = wanted - makes | reads
        if used:
            whole = len(used) == len(statements) or _changed(statements) & (
                wanted | _names(used)[0]
            )
            if whole:
                wanted |= _names(statements)[1]
            kept[i] = (
                sources[i]
                if whole
                else "\n".join(ast.unparse(one) for one in reversed(used))
            )
    return dict(sorted(kept.items()))


def _plain(source: str) -> str:
    return "\n".join(
        "" if line.lstrip().startswith(("%", "!")) else line
        for line in source.splitlines()
    )


def _names(statements: list[ast.stmt]) -> tuple[set[str], set[str]]:
    """The global names that statements define, and those that they read before they define them."""
    makes, reads = set(), set()
    for statement in statements:
        blocks = [
            getattr(statement, block, []) for block in ("body", "orelse", "finalbody")
        ]
        if isinstance(statement, (ast.For, ast.With, ast.If, ast.While, ast.Try)):
            heads = [
                getattr(statement, "iter", None),
                getattr(statement, "test", None),
                *getattr(statement, "items", []),
            ]
            head = (
                " or ".join(
                    ast.unparse(
                        one.context_expr if isinstance(one, ast.withitem) else one
                    )
                    for one in heads
                    if one
                )
                or "None"
            )
            targets = [
                getattr(statement, "target", None),
                *(item.optional_vars for item in getattr(statement, "items", [])),
            ]
            made = {
                node.id
                for target in targets
                if target
                for node in ast.walk(target)
                if isinstance(node, ast.Name)
            }
            inner, inside = _names([one for block in blocks for one in block])
            read = _table(head)[1] | (inside - made)
            made |= inner
        else:
            made, read = _table(ast.unparse(statement))
        reads |= read - makes
        makes |= made
    return makes, reads


def _changed(statements: list[ast.stmt]) -> set[str]:
    """The names whose values are changed in place, `frames.append(...)`, `race[sampler] = ...`: a cell that does so is kept whole."""
    changed = set()
    for node in (node for statement in statements for node in ast.walk(statement)):
        by_method = isinstance(node, ast.Attribute) and node.attr in (
            "append",
            "extend",
            "insert",
            "update",
            "add",
            "load_state_dict",
        )
        if (
            by_method
            or isinstance(node, (ast.Subscript, ast.Attribute))
            and isinstance(node.ctx, ast.Store)
        ):
            changed.add(getattr(node.value, "id", None))
    return changed - {None}


def _table(source: str) -> tuple[set[str], set[str]]:
    """The global names that one statement assigns, and those that it reads, also from inside of functions."""
    top = symtable.symtable(source, "cell", "exec")
    makes = {
        one.get_name()
        for one in top.get_symbols()
        if one.is_assigned() or one.is_imported()
    }
    reads, tables = (
        {one.get_name() for one in top.get_symbols() if one.is_referenced()},
        top.get_children(),
    )
    while tables:
        table = tables.pop()
        reads |= {
            one.get_name()
            for one in table.get_symbols()
            if one.is_referenced() and one.is_global()
        }
        tables += table.get_children()
    return makes, reads


class Lab:
    """JupyterLab, running on a copy of the course in `folder`."""

    def __init__(self, folder: Path):
        self.course = (
            folder / "die Kurse für alle"
        )  # a space and a letter beyond ASCII, as in many home folders
        for part in ("data", "weights", "notebooks"):
            shutil.copytree(
                ROOT / part,
                self.course / part,
                ignore=shutil.ignore_patterns(
                    "__pycache__", ".ipynb_checkpoints", "runs"
                ),
            )
        shutil.copy(ROOT / "diffusion_utilities.py", self.course)
        settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        (settings / "notification.jupyterlab-settings").write_text(
            '{"fetchNews": "false", "checkForUpdates": false}', encoding="utf8"
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        places = {
            "JUPYTER": ("CONFIG", "RUNTIME", "DATA"),
            "JUPYTERLAB": ("WORKSPACES", "SETTINGS"),
        }  # nobody's settings but JupyterLab's own
        own = {
            f"{start}_{name}_DIR": str(folder / name.lower())
            for start, names in places.items()
            for name in names
        }
        environment = {
            **os.environ,
            **own,
            "IPYTHONDIR": str(folder / "ipython"),
            "OMP_NUM_THREADS": "1",
        }
        options = [
            "--no-browser",
            f"--ServerApp.port={port}",
            "--ServerApp.port_retries=0",
            "--IdentityProvider.token=",
            "--allow-root",
        ]
        self.log = (folder / "jupyter.log").open("w")
        command = [str(Path(sys.executable).with_name("jupyter")), "lab", *options]
        self.process = subprocess.Popen(
            command, cwd=self.course, env=environment, stdout=self.log, stderr=self.log
        )
        self.address = f"http://127.0.0.1:{port}"
        self._wait()

    def _wait(self, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.address}/api/status", timeout=5)
                return
            except OSError:
                time.sleep(0.3)
        raise RuntimeError(
            f"JupyterLab did not start: {Path(self.log.name).read_text(encoding='utf8')[-2000:]}"
        )

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)  # it ends its kernels first
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def write(self, path: Path, keep: dict[int, str] | None = None) -> Path:
        """A copy of a lesson without outputs: whole, or only these code cells, with the words before the last of them and after it."""
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.pop("widgets", None)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for cell in code:
            cell.outputs, cell.execution_count = [], None
        if keep is not None:
            at = next(
                i for i, cell in enumerate(notebook.cells) if cell is code[max(keep)]
            )
            kept = [code[i] for i in keep] + [
                cell
                for cell in notebook.cells[at - 1 : at + 2]
                if cell.cell_type == "markdown"
            ]
            for i, source in keep.items():
                code[i].source = source
            notebook.cells = [
                cell for cell in notebook.cells if any(cell is one for one in kept)
            ]
        name = path.stem if keep is None else f"{path.stem[:2]}_cell_{max(keep)}"
        nbformat.write(
            notebook, copy := self.course / "notebooks" / f"opened_{name}.ipynb"
        )
        return copy


def open_notebook(page: Page, lab: Lab, path: Path) -> None:
    """Open a notebook of the course's copy by its address, and wait for its kernel."""
    page.goto(
        f"{lab.address}/lab/tree/notebooks/{path.name}?reset",
        wait_until="commit",
        timeout=90_000,
    )
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)


def choose(page: Page, *names: str) -> None:
    """Choose from JupyterLab's menu: choose(page, "Run", "Run All Cells")."""
    page.locator(".lm-MenuBar-item", has_text=names[0]).first.click()
    for name in names[1:]:
        page.locator(".lm-Menu-item:visible", has_text=name).first.click()


def run_all(
    page: Page, path: Path, seconds: float = 240
) -> list[nbformat.NotebookNode]:
    """Run all cells, wait for the last one, save, and return the code cells as saved."""
    choose(page, "Run", "Run All Cells")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        page.wait_for_timeout(1000)
        if page.get_by_text("Python 3 (ipykernel) | Idle").count():
            cells = save(page, path)
            if errors(cells) or all(
                cell.execution_count for cell in cells if cell.source.strip()
            ):
                return cells
    raise AssertionError(f"{path.name} was not done after {seconds:.0f} s")


def save(page: Page, path: Path) -> list[nbformat.NotebookNode]:
    """Save the notebook, and return its code cells as saved."""
    with page.expect_response(
        lambda response: (
            response.request.method == "PUT" and "/api/contents/" in response.url
        )
    ):
        page.keyboard.press("Control+s")
    return [
        cell
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    ]


def errors(cells: list[nbformat.NotebookNode]) -> list[str]:
    return [
        f"{o.ename}: {o.evalue} in the cell {cell.source[:60]!r}"
        for cell in cells
        for o in cell.outputs
        if o.output_type == "error"
    ]
