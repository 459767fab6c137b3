"""What the programs share that store a table row by row (ablation, five_unets, flow, own_sprites): going on, side by side, a sheet of samples."""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import diffusion_utilities as du  # noqa: E402  (found beside this folder)


def so_far(
    path: Path, settings: dict, parser: argparse.ArgumentParser, **empty
) -> dict:
    """The content of a table's file, to go on with, or `empty` with these settings. A file of other settings ends the program with a word."""
    content = (
        json.loads(path.read_text(encoding="utf8"))
        if path.exists()
        else {"settings": settings} | empty
    )
    if content["settings"] != settings:
        parser.error(
            f"{path} has other settings ({content['settings']}); remove it or give another --out"
        )
    return content


def side_by_side(work: Callable, jobs: Mapping, workers: int) -> Iterator[tuple]:
    """(name, work(*arguments)) for each {name: arguments}, as they get done in so many processes; a single worker is this one."""
    if workers == 1:
        yield from ((name, work(*arguments)) for name, arguments in jobs.items())
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        names = {
            pool.submit(work, *arguments): name for name, arguments in jobs.items()
        }
        yield from ((names[job], job.result()) for job in as_completed(names))


def add_samples(path: Path, pictures: Mapping[str, np.ndarray]) -> None:
    """Put {name: pictures} into a file of such arrays (.npz), beside what it holds, whole or not at all."""
    before = dict(np.load(path)) if path.exists() else {}
    with du._written_whole(path) as temporary:
        np.savez_compressed(temporary, **before | dict(pictures))
