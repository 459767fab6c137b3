"""Copies what the book shows from the repository to this folder, where Sphinx looks.

The copies lie in the same folders as in the repository. Git ignores them.
"""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
DOCUMENTS = (
    "GLOSSARY.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "data/README.md",
    "weights/README.md",
    "weights/experiments/LOG.md",
)
DIARIES = ("CHANGELOG.md", "weights/experiments/LOG.md")
UNSEARCHED = "---\nnosearch: true\n---\n"  # a page that the search does not find
# Where a page links or shows a file: [..](file), ![..](file), src="file"
LINKED = r'\]\(([^)#\s]+)[)#]|src="([^"]+)"'
# [![..](..)](https://colab..), in the README's map where the course has an address
BADGE = r"<br>\[!\[Open in Colab\].*?\.ipynb\)"
FOLDERS = ("notebooks", "data", "weights")
PACKAGES = DOCS / "node_modules"
# Of onnxruntime-web, what runs a network: by WebAssembly, and by WebGPU
RUNTIMES = {
    "processor": (
        "ort.wasm.min.mjs",
        "ort-wasm-simd-threaded.mjs",
        "ort-wasm-simd-threaded.wasm",
    ),
    "card": (
        "ort.jspi.min.mjs",
        "ort-wasm-simd-threaded.jspi.mjs",
        "ort-wasm-simd-threaded.jspi.wasm",
    ),
}


def setting(name: str) -> str:
    """The value of `name` in the table [tool.course] of pyproject.toml.

    Python 3.10 has no reader of TOML.
    """
    text = (ROOT / "pyproject.toml").read_text(encoding="utf8")
    table = text.partition("[tool.course]")[2].partition("\n[")[0]
    return re.search(rf'^{name} = "(.*)"$', table, re.M)[1]


def colab_address(repository: str, branch: str, name: str) -> str:
    """Where Colab opens a notebook of the course; "" if it is not on GitHub."""
    place = repository.removeprefix("https://github.com/")
    if place == repository:
        return ""
    colab = "https://colab.research.google.com/github"
    return f"{colab}/{place}/blob/{branch}/notebooks/{name}"


def copy_pages(repository: str, branch: str) -> None:
    """Copy all pages, and every file of the repository that one of them links."""
    for folder in FOLDERS:
        shutil.rmtree(DOCS / folder, ignore_errors=True)
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf8")
        _copy_page(name, UNSEARCHED + text if name in DIARIES else text)
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        address = colab_address(repository, branch, path.name)
        _copy_lesson(path, address or "../run.md")
    _copy_page("lesson_map.md", lesson_map())


def lesson_map() -> str:
    """The README's map of lessons, without badges."""
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    section = readme.partition("\n## The lessons\n")[2].partition("\n## ")[0]
    return re.sub(BADGE, "", section)


def _copy_lesson(path: Path, run: str) -> None:
    """A notebook; behind each instrument, a link to where its knobs can be turned."""
    notebook = json.loads(path.read_text(encoding="utf8"))
    cells = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        cells.append(cell)
        if cell["cell_type"] == "markdown":
            _copy_linked("notebooks", source)
            continue
        _prepare_code(cell, source)
        if "explore(" in source:
            words = f"*This picture has knobs where it runs: [run this lesson]({run}).*"
            link = {"id": f"run-{len(cells)}", "cell_type": "markdown"}
            cells.append({**link, "metadata": {}, "source": words})
    notebook["cells"] = cells
    target = DOCS / "notebooks" / path.name
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(notebook), encoding="utf8")


def _prepare_code(cell: dict, source: str) -> None:
    """Leave out the tests' mark, and show a hidden cell's title where its code was."""
    cell["source"] = source.replace("# NBVAL_CHECK_OUTPUT\n", "", 1)
    title = re.match(r"# @title (.+)", cell["source"])
    if title:
        prompts = ("code_prompt_show", "code_prompt_hide")
        cell["metadata"]["mystnb"] = dict.fromkeys(prompts, title[1])


def _copy_page(name: str, text: str) -> None:
    target = DOCS / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf8")
    _copy_linked(str(Path(name).parent), text)


def _copy_linked(folder: str, text: str) -> None:
    """Copy the files that a page in this folder links and that are no pages."""
    for link, source in re.findall(LINKED, text):
        linked = (ROOT / folder / (link or source)).resolve()
        is_page = linked.suffix in (".md", ".ipynb")
        if is_page or not linked.is_file() or ROOT not in linked.parents:
            continue
        target = DOCS / linked.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(linked, target)


def write_playground() -> None:
    """Write playground.html with the megabytes that the reader's browser will load."""
    files = {name: runtime_files(name) for name in RUNTIMES}
    files["network"] = [DOCS / "_playground" / "strong.onnx"]
    megabytes = {}
    for name, paths in files.items():
        megabytes[name] = round(sum(path.stat().st_size for path in paths) / 1e6)
    text = (DOCS / "playground.html").read_text(encoding="utf8")
    target = DOCS / "_included" / "playground.html"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text.format(**megabytes), encoding="utf8")


def runtime_files(name: str) -> list[Path]:
    """The files of one of the RUNTIMES. Raises FileNotFoundError without packages."""
    folder = PACKAGES / "onnxruntime-web" / "dist"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} does not exist; expected the book's JavaScript packages: run "
            "npm ci --prefix docs --ignore-scripts"
        )
    return [folder / file for file in RUNTIMES[name]]


def finish(app, exception) -> None:
    """Put in place what Sphinx does not copy: scripts, the network, the notebooks."""
    if exception or app.builder.name != "html":
        return
    out = Path(app.outdir)
    mathjax = PACKAGES / "mathjax" / "es5" / "tex-svg.js"
    _copy_all([mathjax], out / "_static" / "mathjax")
    for name in RUNTIMES:
        _copy_all(runtime_files(name), out / "playground")
    for folder in ("playground", "_playground"):  # our scripts; what export.py wrote
        _copy_all((DOCS / folder).iterdir(), out / "playground")
    _copy_all([DOCS / "offline-worker.js"], out)
    # what the download buttons give
    _copy_all((ROOT / "notebooks").glob("[0-9]*.ipynb"), out / "_sources" / "notebooks")


def _copy_all(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copy(path, folder)
