"""What the programs share: tables of rows that are added one by one.

A program has a command line (`command_line`, `parsed`) and a JSON file of rows. It
reads the file (`so_far`), finds the rows that are `missing`, makes them in several
processes (`side_by_side`), and writes the file again after each one (`add_row`,
`write_json`). An interrupted program therefore continues where it stopped.

A row is kept as long as its settings, or the digest of its settings and its data
(`digest`), stay the same. Source code is not part of a digest: a renamed function
keeps every stored row. If the meaning of the code changes, raise the program's
`VERSION` by hand.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import diffusion_utilities as du  # found two folders up

# ---- The command line ---------------------------------------------------------------


def command_line(doc: str, out: Path, *, workers: bool = True):
    """A parser with the options that the programs share.

    doc: the program's docstring; its first line becomes the description.
    out: where the shipped results lie; the default of `--out`.
    workers: whether the program makes rows side by side (`--workers`).
    Returns an `argparse.ArgumentParser`, to which a program adds its own settings.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=out, help=f"where to write (default: {out.name})"
    )
    if workers:
        parser.add_argument(
            "--workers",
            type=int,
            default=os.cpu_count(),
            help="rows that are made side by side, each on one core",
        )
    return parser


def parsed(
    parser: argparse.ArgumentParser,
    arguments: list[str] | None = None,
    *,
    free: Iterable[str] = (),
) -> argparse.Namespace:
    """Parse the command line, and protect the shipped results.

    The defaults are the settings of the shipped results. Other settings may not
    write to the default `--out`: that ends the program with an error message.
    free: names of options, besides `out` and `workers`, that are no settings.
    """
    options = parser.parse_args(arguments)
    changed = []
    for name, value in vars(options).items():
        is_setting = name not in {"out", "workers", *free}
        if is_setting and value != parser.get_default(name):
            changed.append(name)
    is_shipped = options.out.resolve() == parser.get_default("out").resolve()
    if is_shipped and changed:
        parser.error(
            "these settings would overwrite the shipped results; add --out "
            "with another place"
        )
    return options


# ---- Rows ---------------------------------------------------------------------------


def stored(path: Path, empty: dict) -> dict:
    """The content of a JSON file, or `empty` where there is no file.

    Raises ValueError for a file that is damaged, or does not hold a dictionary.
    """
    if not path.exists():
        return empty
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except (ValueError, RecursionError) as error:
        raise du.UnusableFile(
            f"{path} is damaged ({error}); remove it, or copy it again"
        ) from None
    if not isinstance(content, dict):
        raise du.UnusableFile(
            f"{path} holds a {type(content).__name__}; expected a dictionary: remove "
            "it, or copy it again"
        )
    return content


def so_far(
    path: Path, settings: dict, parser: argparse.ArgumentParser, **empty
) -> dict:
    """The content of a table's file, to continue with.

    If there is no file, the content is `empty` with these settings. What killed
    programs have left of the file is removed. A file of other settings, or a folder
    that cannot be written to, ends the program with an error message.
    """
    try:
        check_writable(path.parent, path.name)
    except OSError as error:
        parser.error(f"--out {path} cannot be written: {error}")
    du.sweep_temporary(path.parent, path.name)
    content = stored(path, {"settings": settings} | empty)
    found = content.get("settings")
    if found != settings:
        parser.error(
            f"{path} has other settings ({found}); remove it or give another --out"
        )
    return content


def missing(rows: Mapping[str, dict], planned: Mapping, key: str) -> list[str]:
    """The names of planned rows that are not there, or are there with another `key`.

    planned: {name: what row[key] should be}, settings or a digest.
    """
    names = []
    for name, wanted in planned.items():
        row = rows.get(name, {})
        if row.get(key) != wanted:
            names.append(name)
    return names


def add_row(rows: dict, name: str, row, order: Iterable[str]) -> None:
    """Put a row into a table, in place; its rows then follow `order`.

    Rows that `order` does not name are removed.
    """
    every = {**rows, name: row}
    rows.clear()
    rows.update({each: every[each] for each in order if each in every})


def fill(
    path: Path, content: dict, part: str, digests: Mapping[str, str], score: Callable
) -> None:
    """Score the rows of a part that are missing, and write the file after each.

    content: of the file; content[part] is {name: {"drawn_with": digest, "scores": {}}}.
    digests: {name: digest} of every planned row, in the order of the table.
    score: name -> scores, as `sprite_scores` returns them.
    """
    for name in missing(content[part], digests, "drawn_with"):
        row = {"drawn_with": digests[name], "scores": rounded(score(name))}
        add_row(content[part], name, row, order=digests)
        write_json(path, content)
        print(f"{name}: scored", flush=True)


def side_by_side(work: Callable, jobs: Mapping, workers: int) -> Iterator[tuple]:
    """Do `work(*arguments)` for each {name: arguments} in so many processes.

    Yields (name, result) as soon as each is done. A single worker is this process.
    """
    if workers == 1:
        for name, arguments in jobs.items():
            yield name, work(*arguments)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        names = {}
        for name, arguments in jobs.items():
            names[pool.submit(work, *arguments)] = name
        for job in as_completed(names):
            yield names[job], job.result()


# ---- Digests ------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(settings: Mapping, files: Iterable[Path] = ()) -> str:
    """SHA-256 of a row's settings and of the files it was made from.

    settings: what JSON can hold; the order of its keys does not count.
    files: data and weights; their names and content count, their folder does not.
    """
    content = {
        "settings": settings,
        "files": {path.name: sha256(path) for path in files},
    }
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# ---- Numbers ------------------------------------------------------------------------


def mean_and_error(values) -> dict[str, float]:
    """Mean and standard error of one number a picture (N,), rounded for JSON."""
    values = np.asarray(values, dtype=np.float64)
    error = values.std(ddof=1) / len(values) ** 0.5
    return {
        "mean": round(float(values.mean()), 5),
        "standard_error": round(float(error), 5),
    }


def rounded(scores: Mapping[str, tuple]) -> dict[str, list[float]]:
    """The scores of `sprite_scores` {measure: (value, low, high)} for JSON.

    JSON has no NaN. Measures without a value are left out: for example what is new
    among the legal pictures, where none is legal.
    """
    kept = {}
    for name, values in scores.items():
        if not np.isnan(values).any():
            kept[name] = [round(value, 4) for value in values]
    return kept


def machine(device: torch.device) -> str:
    """The machine in words: its device, threads, and version of torch."""
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    if device.type == "cpu":
        name = processor_name() or name
    threads = torch.get_num_threads()
    return (
        f"{device.type} ({name}), {threads} threads, torch {torch.__version__}, "
        f"bfloat16 {du.has_fast_bf16(device)}"
    )


def processor_name() -> str | None:
    """The name of the processor as Linux tells it; None on other systems."""
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(": ")[1]
    return None


# ---- Files --------------------------------------------------------------------------


def as_json(content: dict, width: int = 150) -> str:
    """JSON indented by one space, in which lists of numbers fill whole lines.

    Python's own writer would give each number a line. A list of at most 100
    characters stands beside its name; a longer one fills lines of `width`.
    """

    def filled(numbers: re.Match) -> str:
        indent = numbers[1]
        text = " ".join(numbers[2].split())
        if len(text) <= 100:
            return f"[{text}]"
        lines = textwrap.fill(
            text,
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
        return f"[\n{lines}\n{indent[1:]}]"

    # No string of JSON holds the end of a line: every match is a list.
    text = json.dumps(content, indent=1)
    return re.sub(r'\[\n( *)([^][{}"]+?)\n *\]', filled, text) + "\n"


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file, whole or not at all."""
    with du.written_whole(path) as temporary:
        Path(temporary).write_text(as_json(content), encoding="utf8")


def add_samples(path: Path, pictures: Mapping[str, np.ndarray]) -> None:
    """Add {name: pictures} to an .npz file of arrays, whole or not at all.

    Raises ValueError if the file is there, and damaged.
    """
    every = {}
    if path.exists():
        every = stored_arrays(path)
    every |= pictures
    with du.written_whole(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **every)


def stored_arrays(path: Path) -> dict[str, np.ndarray]:
    """{name: array} of an .npz file. Raises ValueError for a file that is damaged."""
    try:
        with np.load(path) as file:
            return dict(file)
    except Exception as error:  # NumPy and zlib have many
        raise du.UnusableFile(
            f"{path} is damaged ({error}); remove it to make its pictures again"
        ) from None


def check_writable(folder: Path, name: str) -> None:
    """Make a folder, and write a megabyte there, which is removed again.

    name: what the file begins with.
    Raises OSError if that does not work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.{os.urandom(4).hex()}.tmp"
    try:
        with open(path, "wb") as file:
            file.write(bytes(2**20))
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)
