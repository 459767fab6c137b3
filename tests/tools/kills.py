"""Kill training and savers at every write, and look whether anything is lost.

    python tests/tools/kills.py                  # all parts, with 100 random kills
    python tests/tools/kills.py --only savers
    python tests/tools/kills.py --random 1000    # so many kills at random moments

A forked process works on a few sprites. It kills itself at the k-th write, fsync,
rename, making or removal of a file; a write that is killed leaves half of its bytes.
k goes from 1 to the end. After each kill, every file must be whole, as it was or as it
was to be. The same work, started again, must leave what uninterrupted work leaves: the
same weights bit for bit, and no other file. A full disk is treated likewise.
Linux only, because of the forks.
"""

import argparse
import builtins
import contextlib
import errno
import gc
import io
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "weights"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "weights" / "experiments"))
import tables
import train

import diffusion_utilities as du

Files = dict[str, bytes]  # {path within a folder: content}

# ---- Faults -------------------------------------------------------------------------


class Disk:
    """Counts what happens to files, and has a fault from the k-th event on.

    fault: "kill", "full", "read-only", or None, which counts alone.
    """

    def __init__(self, fault: str | None = None, k: int = 0):
        self.fault = fault
        self.k = k
        self.events = 0

    def has_fault(self) -> bool:
        """Count an event; returns whether it is to fail. The k-th is number k - 1."""
        self.events += 1
        return self.fault is not None and self.events >= self.k

    def fail(self) -> None:
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = errno.EROFS if self.fault == "read-only" else errno.ENOSPC
        raise OSError(number, os.strerror(number))

    def guarded(self, function: Callable) -> Callable:
        """The function, which counts as an event."""

        def guarded(*arguments, **options):
            if self.has_fault():
                self.fail()
            return function(*arguments, **options)

        return guarded

    def removing(self, function: Callable) -> Callable:
        """The same for a function that needs no room on a full disk."""

        def guarded(path, **options):
            if os.path.lexists(path) and self.has_fault() and self.fault != "full":
                self.fail()
            return function(path, **options)

        return guarded

    def making(self, function: Callable) -> Callable:
        """The same for `mkdir`, which changes nothing where a folder is there."""

        def guarded(path, *arguments, **options):
            if not os.path.isdir(path) and self.has_fault():
                self.fail()
            return function(path, *arguments, **options)

        return guarded

    def opening(self, real_open: Callable) -> Callable:
        """`open`, in which opening for writing and each write are events."""
        disk = self

        class Raw(io.FileIO):
            def write(self, data):
                if disk.has_fault():
                    half = memoryview(data).cast("B")
                    super().write(half[: len(half) // 2])
                    disk.fail()
                return super().write(data)

        def opened(
            file,
            mode="r",
            buffering=-1,
            encoding=None,
            errors=None,
            newline=None,
            **options,
        ):
            if not set(mode) & set("wax+"):
                return real_open(
                    file, mode, buffering, encoding, errors, newline, **options
                )
            if set(mode) & set("wax") and self.has_fault():
                self.fail()
            raw = Raw(file, mode.replace("b", "").replace("t", ""))
            has_both = "+" in mode
            buffer = io.BufferedRandom(raw) if has_both else io.BufferedWriter(raw)
            if "b" in mode:
                return buffer
            return io.TextIOWrapper(buffer, encoding, errors, newline)

        return opened

    def install(self) -> None:
        """Put this disk in place of the real one, in this process."""
        opened = self.opening(builtins.open)
        builtins.open = opened
        io.open = opened
        pathlib.Path.open = opened
        os.fsync = self.guarded(os.fsync)
        os.replace = self.guarded(os.replace)
        os.mkdir = self.making(os.mkdir)
        os.unlink = self.removing(os.unlink)


# ---- Processes ----------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a forked process ended: its status, what it printed, events on its disk."""

    status: int
    printed: str
    events: int

    @property
    def was_killed(self) -> bool:
        return os.WIFSIGNALED(self.status)


def start(work: Callable, disk: Disk, printed: Path) -> int:
    """Fork a process that does `work` on a disk; returns its number."""
    sys.stdout.flush()
    number = os.fork()
    if number > 0:
        return number
    real_open = builtins.open
    status = 1
    try:
        with real_open(printed, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        disk.install()
        work()
        status = 0
    except SystemExit as stop:
        print(stop, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        with real_open(f"{printed}.events", "w") as file:
            file.write(str(disk.events))
    os._exit(status)


def finish(number: int, printed: Path) -> Ended:
    """Wait for a forked process."""
    _, status = os.waitpid(number, 0)
    events = 0
    counted = Path(f"{printed}.events")
    if counted.exists():
        events = int(counted.read_text())
        counted.unlink()
    return Ended(status, printed.read_text(errors="replace"), events)


def do(work: Callable, disk: Disk, printed: Path) -> Ended:
    return finish(start(work, disk, printed), printed)


# ---- Files --------------------------------------------------------------------------


def files_in(folder: Path) -> Files:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".lock":
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def temporary(files: Files) -> list[str]:
    return [name for name in files if name.endswith(".tmp")]


def broken(files: Files) -> list[str]:
    """The names of files that are not whole. Temporary ones do not count."""
    return [
        name
        for name, content in files.items()
        if not name.endswith(".tmp") and not is_whole(name, content)
    ]


@lru_cache(maxsize=64)
def is_whole(name: str, content: bytes) -> bool:
    try:
        if name.endswith(".json"):
            json.loads(content)
        if name.endswith((".pt", ".pth", ".npz")):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                return archive.testzip() is None
    except (ValueError, zipfile.BadZipFile):
        return False
    return True


@lru_cache(maxsize=64)
def meaning(name: str, content: bytes):
    """What must be equal after a kill: everything but seconds."""
    if name.endswith(".json"):
        return without_seconds(json.loads(content))
    if name.endswith((".pt", ".pth")):
        state = torch.load(io.BytesIO(content), weights_only=True)
        return without_seconds(state)
    return content


def without_seconds(content):
    """Nested dictionaries and lists, without "seconds", and with tensors as bytes."""
    if isinstance(content, dict):
        kept = {key: value for key, value in content.items() if key != "seconds"}
        return {key: without_seconds(value) for key, value in kept.items()}
    if isinstance(content, list | tuple):
        return [without_seconds(value) for value in content]
    if isinstance(content, torch.Tensor):
        return str(content.dtype), tuple(content.shape), content.numpy().tobytes()
    return content


def unlike(files: Files, others: Files) -> list[str]:
    """The names of files that only one side has, or that mean something else there."""
    names = []
    for name in sorted({*files, *others}):
        in_both = name in files and name in others
        if not in_both or meaning(name, files[name]) != meaning(name, others[name]):
            names.append(name)
    return names


# ---- A piece of work, and its kills -------------------------------------------------


@dataclass
class Report:
    """What became of a piece of work after so many faults."""

    name: str
    faults: int = 0
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def note(self, where: str, names: list[str]) -> None:
        if names:
            self.lost.append(f"{where}: {', '.join(names)}")

    def __str__(self) -> str:
        result = "; ".join(self.lost[:5]) or "nothing lost"
        return f"{self.name}: {self.faults} times, {self.seconds:.0f} s: {result}"


@dataclass(frozen=True)
class Work:
    """Something that writes files into a folder.

    do: is called with the folder. before: makes what is there already, likewise.
    may_go: an older file that may be gone.
    """

    name: str
    do: Callable[[Path], None]
    before: Callable[[Path], None] = lambda folder: None
    may_go: str = ""

    def prepared(self, home: Path) -> Path:
        """A new folder, with what is there already."""
        folder = Path(tempfile.mkdtemp(dir=home))
        with contextlib.redirect_stdout(io.StringIO()):
            self.before(folder)
        return folder


class Trial:
    """A piece of work, what it leaves when nothing happens, and its faults."""

    def __init__(self, work: Work, home: Path):
        self.work = work
        self.home = home
        self.printed = home / "printed"
        folder = work.prepared(home)
        self.old = files_in(folder)
        started = time.monotonic()
        ended = do(partial(work.do, folder), Disk(), self.printed)
        self.seconds = time.monotonic() - started
        if ended.status != 0:
            raise RuntimeError(f"{work.name} fails by itself: {ended.printed}")
        self.events = ended.events
        self.new = files_in(folder)
        shutil.rmtree(folder)

    def fail_everywhere(self, fault: str, every: int = 1) -> Report:
        """A fault at each event, one after another, or at every second, and so on."""
        report = Report(f"{self.work.name}, {fault}")
        started = time.monotonic()
        for k in range(1, self.events + 1, every):
            folder = self.work.prepared(self.home)
            ended = do(partial(self.work.do, folder), Disk(fault, k), self.printed)
            self.judge(folder, ended, fault, f"event {k} of {self.events}", report)
        report.seconds = time.monotonic() - started
        return report

    def kill_at_random(self, times: int, seed: int) -> Report:
        """SIGKILL from outside, at random moments."""
        report = Report(f"{self.work.name}, killed at random")
        rng = random.Random(seed)
        started = time.monotonic()
        while report.faults < times:
            folder = self.work.prepared(self.home)
            delay = rng.uniform(0, self.seconds)
            number = start(partial(self.work.do, folder), Disk(), self.printed)
            time.sleep(delay)
            os.kill(number, signal.SIGKILL)
            ended = finish(number, self.printed)
            self.judge(folder, ended, "kill", f"after {delay:.3f} s", report)
        report.seconds = time.monotonic() - started
        return report

    def judge(
        self, folder: Path, ended: Ended, fault: str, where: str, report: Report
    ) -> None:
        """Add to a report what was lost by a fault, after the work was done again."""
        files = files_in(folder)
        report.note(f"{where}, not whole", broken(files))
        report.note(f"{where}, gone or neither old nor new", self.strange(files))
        if ended.status == 0:  # it was done before the fault could matter
            report.note(f"{where}, other", unlike(files, self.new))
            shutil.rmtree(folder)
            return
        report.faults += 1
        if fault != "kill":
            report.note(f"{where}, left behind", temporary(files))
            is_clear = os.strerror(errno.ENOSPC) in ended.printed
            report.note(f"{where}, said", [] if is_clear else [ended.printed])
        elif not ended.was_killed:
            report.note(f"{where}, failed by itself", [ended.printed])
        again = do(partial(self.work.do, folder), Disk(), self.printed)
        if again.status != 0:
            report.note(f"{where}, cannot continue", [again.printed])
        report.note(f"{where}, other afterwards", unlike(files_in(folder), self.new))
        shutil.rmtree(folder)

    def strange(self, files: Files) -> list[str]:
        """Old files that are gone, and files that are neither old nor new.

        A checkpoint may be one of an earlier epoch.
        """
        names = self.old.keys() - files.keys() - {self.work.may_go}
        for name, content in files.items():
            is_old = self.old.get(name) == content
            if is_old or name.endswith((".pt", ".tmp")) or broken({name: content}):
                continue
            if unlike({name: content}, {name: self.new.get(name, b"")}):
                names.add(name)
        return sorted(names)


# ---- Training -----------------------------------------------------------------------

FEW = 4  # sprites
SMALL = {"batch": 4, "passes": 1}
SPRITE = {
    **SMALL,
    "network": "SpriteUnet",
    "min_snr": None,
    "optimiser": "Muon",
    "straight": True,
}
STAGES = {
    "model": (
        {**SMALL, "epochs": 2},
        {**SMALL, "start": "model_1.pth", "first_epoch": 2, "epochs": 3},
    ),
    "sprite": (
        {**SPRITE, "epochs": 1},
        {
            **SPRITE,
            "start": "runs/sprite_unet_0_average.pth",
            "first_epoch": 1,
            "epochs": 2,
        },
    ),
}


def make_small() -> None:
    """Let train.py have few stages, few sprites and digits, and small networks.

    What it reads is read once, for all forks.
    """
    train.STAGES = STAGES
    train.data_digests = cache_by_text(train.data_digests)
    parts = {part: few(du.load_sprites(part), FEW) for part in ("train", "test")}
    du.load_sprites = lambda part="train": parts[part]
    with contextlib.redirect_stdout(io.StringIO()):
        digits = du.load_digits("mnist")
    du.load_digits = lambda name: digits
    du.has_fast_bf16 = lambda device="cpu": False
    du.SpriteUnet = partial(
        du.SpriteUnet, channels=(8, 8, 8), width=16, reader_width=16
    )
    train.train_basic = partial(train.train_basic, steps=2, batch=2)
    train.train_features = partial(train.train_features, epochs=2, batch=4)


def cache_by_text(function: Callable) -> Callable:
    """The function of a list of names, which remembers its results."""
    known = {}

    def remembered(names):
        key = ",".join(names)
        if key not in known:
            known[key] = function(names)
        return known[key]

    return remembered


def few(sprites: du.Sprites, n: int) -> du.Sprites:
    return du.Sprites(sprites.images[:n], sprites.labels[:n], sprites.factors[:n])


def train_in(name: str, folder: Path) -> None:
    """`python weights/train.py --only name --out folder`."""
    options = ["--only", name, "--out", str(folder), "--device", "cpu"]
    sys.argv = ["train.py", *options, "--n-feat", "8", "--threads", "1"]
    train.program()


def train_another_seed(name: str, folder: Path) -> None:
    stages = train.STAGES
    train.STAGES = {}
    for run, some in stages.items():
        train.STAGES[run] = [{**stage, "seed": 7} for stage in some]
    train.train_basic = partial(train.train_basic, seed=7)
    train.train_features = partial(train.train_features, seed=7)
    train_in(name, folder)


def copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True)


def beside_old_weights(name: str, home: Path) -> Work:
    """A run in a folder with weights of another seed, but without checkpoints."""
    folder = home / f"old {name}"
    work = partial(train_another_seed, name, folder)
    ended = do(work, Disk(), home / "printed")
    if ended.status != 0:
        raise RuntimeError(ended.printed)
    for path in (folder / "runs").glob("*.pt"):
        path.unlink()
    history = f"{train.STEMS[name]}_history.json"
    may_go = "" if name in STAGES else history  # it goes before its weights do
    return Work(name, partial(train_in, name), partial(copy, folder), may_go)


def finished_already(home: Path) -> Work:
    """A run that has nothing left to do."""
    folder = home / "finished"
    ended = do(partial(train_in, "model", folder), Disk(), home / "printed")
    if ended.status != 0:
        raise RuntimeError(ended.printed)
    work = partial(train_in, "model")
    return Work("finished model", work, partial(copy, folder))


# ---- Savers -------------------------------------------------------------------------


def pictures(seed: int) -> torch.Tensor:
    """Some pictures (6, 3, 16, 16) in [-1, 1]."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(-1, 1, (6, 3, 16, 16))
    return torch.from_numpy(values).float()


def save_weights(folder: Path, seed: int) -> None:
    state = {"a": pictures(seed), "b": pictures(seed + 1)}
    du.save_weights(state, folder / "w.pth")


def save_animation(folder: Path, seed: int) -> None:
    store = pictures(seed)[:, None].clamp(-1, 1)
    du.animate(store).save(folder / "a.gif")


def save_grid(folder: Path, seed: int) -> None:
    du.plot_grid(pictures(seed), 6, 2, f"{folder}/", 1)


def save_sample(folder: Path, seed: int) -> None:
    store = pictures(seed)[:, None]
    du.plot_sample(store, 1, 1, f"{folder}/", "s", 1, save=True)


def save_json(folder: Path, seed: int) -> None:
    tables.write_json(folder / "t.json", {"rows": [seed] * 3000})


def save_arrays(folder: Path, seed: int) -> None:
    tables.add_samples(folder / "t.npz", {"some": pictures(seed).numpy()})


def save_in_place(folder: Path, seed: int) -> None:
    """How not to do it. The kills have to notice."""
    with open(folder / "t.json", "w") as file:
        json.dump({"rows": [seed] * 3000}, file)


SAVERS = (
    save_weights,
    save_animation,
    save_grid,
    save_sample,
    save_json,
    save_arrays,
)


def saving(saver: Callable) -> Work:
    """A saver that writes over a file of its own, after a sweep."""

    def save(folder: Path) -> None:
        du.sweep_temporary(folder)
        saver(folder, seed=2)

    return Work(saver.__name__, save, partial(saver, seed=1))


# ---- Parts --------------------------------------------------------------------------


def check_kills(home: Path, options: argparse.Namespace) -> list[Report]:
    """A saver that loses its file must be noticed."""
    found = Trial(saving(save_in_place), home).fail_everywhere("kill")
    report = Report("a file written in place", found.faults, seconds=found.seconds)
    if not found.lost:
        report.note("lost", ["it, which was not noticed"])
    return [report]


def savers(home: Path, options: argparse.Namespace) -> list[Report]:
    """Every saver, killed or with a full disk."""
    reports = []
    for saver in SAVERS:
        trial = Trial(saving(saver), home)
        reports += [trial.fail_everywhere(fault) for fault in ("kill", "full")]
    return reports


def training(home: Path, options: argparse.Namespace) -> list[Report]:
    """Runs that are killed."""
    works = [beside_old_weights(name, home) for name in RUNS]
    return [Trial(work, home).fail_everywhere("kill") for work in works]


def finished(home: Path, options: argparse.Namespace) -> list[Report]:
    """A finished run, started again and killed: nothing may change."""
    trial = Trial(finished_already(home), home)
    report = trial.fail_everywhere("kill")
    changed = [name for name in trial.new if trial.new[name] != trial.old.get(name)]
    report.note("changed", changed)
    return [report]


def full(home: Path, options: argparse.Namespace) -> list[Report]:
    """The disk is full from some event of a run on."""
    trial = Trial(beside_old_weights("model", home), home)
    return [trial.fail_everywhere("full", options.every)]


def read_only(home: Path, options: argparse.Namespace) -> list[Report]:
    """A folder that cannot be written to is noticed before the first epoch."""
    report = Report("read-only")
    started = time.monotonic()
    for name in RUNS:
        folder = home / f"read-only {name}"
        work = partial(train_in, name, folder)
        ended = do(work, Disk("read-only", 1), home / "printed")
        report.faults += 1
        why = f"--out {folder} cannot be written to"
        is_clear = ended.status != 0 and why in ended.printed
        if not is_clear or "loss" in ended.printed:
            report.note(name, [ended.printed])
    report.seconds = time.monotonic() - started
    return [report]


def at_random(home: Path, options: argparse.Namespace) -> list[Report]:
    """SIGKILL at random moments: half of them for each of two runs."""
    reports = []
    for name in STAGES:
        trial = Trial(beside_old_weights(name, home), home)
        reports.append(trial.kill_at_random(options.random // 2, seed=1))
    return reports


RUNS = ("basic", "features", "model", "sprite")
PARTS = {
    "check": check_kills,
    "savers": savers,
    "training": training,
    "finished": finished,
    "full": full,
    "read-only": read_only,
    "random": at_random,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="one part (default: all)")
    parser.add_argument("--random", type=int, default=100, help="kills at random")
    parser.add_argument(
        "--every", type=int, default=1, help="2: a full disk at every second event"
    )
    options = parser.parse_args()
    if not hasattr(os, "fork"):
        parser.error("this system has no fork")
    torch.set_num_threads(1)
    make_small()
    gc.freeze()  # forks then share what is loaded
    wanted = [options.only] if options.only else [*PARTS]
    has_lost = False
    for name in wanted:
        with tempfile.TemporaryDirectory() as home:
            reports = PARTS[name](Path(home), options)
        for report in reports:
            print(f"{name}: {report}", flush=True)
            has_lost = has_lost or bool(report.lost)
    sys.exit(1 if has_lost else 0)


if __name__ == "__main__":
    main()
