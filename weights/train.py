"""Train the networks of the course: `python weights/train.py`.

The last three runs take hours on two cores; each history has its seconds. There are
five runs:
- `basic`: lesson 1's BasicUNet, on digits;
- `features`: the classifier behind the measures of samples;
- `model`: ContextUnet on sprites, without labels, in three stages;
- `context`: the same network with labels, which are dropped 10 % of the time;
- `sprite`: SpriteUnet, asked for by class, factors or caption.

After each epoch of the last three, a checkpoint is written under weights/runs/. After
an interruption the same command continues from there, with the same random numbers;
what is finished stays as it is. `--only model` trains one run; `--threads 1` leaves a
core to another run. Several GPUs or machines share out each batch:
`torchrun --nproc_per_node=2 weights/train.py --only sprite`.
"""

import argparse
import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout  # torch needs it, too
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "experiments"))
from contexts import batches, drawn_anew
from tables import as_json, check_writable, machine, sha256, stored, write_json
from training import random_rows, steps_with

import diffusion_utilities as du  # found beside this folder

HERE = Path(__file__).resolve().parent
SPRITE_FILES = (
    "sprites_16x16.npy",
    "sprite_labels_16x16.npy",
    "sprite_factors_16x16.csv",
)
# Of a SpriteUnet: what reads pixels, words and columns, or writes pixels
OUTER_LAYERS = ("stem", "out", "columns", "reader.word", "reader.position")
Batches = Iterator[tuple[Tensor, Tensor]]  # (pictures, contexts)

# ---- Settings -----------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What a stage of a run on the sprites depends on.

    Each shipped history has the settings of its stages.
    """

    context: bool
    # "ContextUnet", or "SpriteUnet", which n_feat does not change
    network: str = "ContextUnet"
    n_feat: int = 64
    T: int = 500
    # file of weights in the same folder to start from, with a fresh optimiser
    start: str | None = None
    first_epoch: int = 0
    # stop before this one
    epochs: int = 32
    # the learning rate stays for so many epochs, then falls linearly
    steady_epochs: int = 0
    # and would reach 0 after so many epochs, counted from the first
    decay_epochs: int = 32
    # over the training sprites in one epoch; more steps draw better
    passes: int = 5
    batch: int = 50
    learning_rate: float = 2e-3
    min_snr: float | None = 5.0
    p_drop: float = 0.1
    ema_decay: float = 0.999
    seed: int = 2026
    # "Adam", or "Muon" for the matrices
    optimiser: str = "Adam"
    # practise the steps evenly on the straight path, not on the schedule
    straight: bool = False
    # but this part of the practice is even over the picture's share (with `straight`)
    even: float = 0.0
    # the history has the mean loss of so many steps
    log_every: int = 1
    # train on the first so many sprites only (tests)
    limit: int | None = None

    @property
    def name(self) -> str:
        """What the files of the run begin with."""
        if self.network == "SpriteUnet":
            return "sprite_unet"
        return "context_model" if self.context else "model"


# The second and third stage are warm restarts. After the three stages 10, 13 and 19 of
# 64 samples were legal, and the held-out loss fell each time.
MODEL_STAGES = (
    {"epochs": 25},
    {
        "start": "model_24.pth",
        "first_epoch": 25,
        "epochs": 29,
        "passes": 16,
        "learning_rate": 1.2e-3,
        "decay_epochs": 7,
    },
    {
        "start": "model_28.pth",
        "first_epoch": 29,
        "passes": 40,
        "learning_rate": 1e-3,
        "decay_epochs": 3,
    },
)
# This run starts from random weights: a network that has learnt to draw without labels
# listens less to them.
CONTEXT_STAGES = (
    {
        "passes": 1,
        "batch": 100,
        "learning_rate": 1e-3,
        "min_snr": None,
        "ema_decay": 0.998,
    },
)
# The shipped weights departed from these settings before epoch 25: see the diary,
# experiments/LOG.md, 2026-11-29.
SPRITE_STAGES = (
    {
        "network": "SpriteUnet",
        "epochs": 31,
        "steady_epochs": 24,
        "decay_epochs": 31,
        "passes": 7,
        "batch": 64,
        "learning_rate": 0.012,
        "min_snr": None,
        "p_drop": 0.15,
        "ema_decay": 0.998,
        "optimiser": "Muon",
        "straight": True,
        "even": 0.25,
        "log_every": 20,
    },
)
STAGES = {
    "model": MODEL_STAGES,
    "context": CONTEXT_STAGES,
    "sprite": SPRITE_STAGES,
}


def stages(name: str, epochs: int | None = None, **settings) -> Iterator[Settings]:
    """The settings of each stage of a run; `epochs` cuts the run short."""
    for stage in STAGES[name]:
        full = Settings(name != "model", **settings, **stage)
        if epochs is None:
            yield full
        elif full.first_epoch < epochs:
            last = min(full.epochs, epochs)
            decay = min(full.decay_epochs, epochs - full.first_epoch)
            steady = full.steady_epochs * decay // full.decay_epochs
            yield replace(full, epochs=last, decay_epochs=decay, steady_epochs=steady)


def data_digests(names: Sequence[str]) -> dict[str, str]:
    """{file name: SHA-256} of files in data/."""
    return {name: sha256(du.DATA / name) for name in names}


# ---- Several processes --------------------------------------------------------------


def join(device: torch.device) -> None:
    """Meet the other processes, if torchrun started this program several times.

    They talk over NCCL on GPUs (one each), else over Gloo.
    """
    if "WORLD_SIZE" not in os.environ:
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def place() -> tuple[int, int]:
    """(rank of this process, number of processes)."""
    if dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share(whole: Batches, rank: int, processes: int) -> Batches:
    """One process's part of each batch, as large as everyone else's.

    What cannot be divided evenly is left out.
    """
    for x, c in whole:
        end = len(x) // processes * processes
        if end > 0:
            yield x[rank:end:processes], c[rank:end:processes]


# ---- What a run trains --------------------------------------------------------------


def network(settings: Settings, schedule: du.NoiseSchedule) -> nn.Module:
    """The network that a run trains, with random weights."""
    if settings.network == "SpriteUnet":
        return du.SpriteUnet(schedule, du.sprite_palette())
    return du.ContextUnet(3, settings.n_feat, 5, 16)


def optimiser_of(settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a run. The network's outer layers are always trained by Adam."""
    if settings.optimiser == "Muon":
        return du.Muon(
            model.named_parameters(), adam=OUTER_LAYERS, lr=settings.learning_rate
        )
    return torch.optim.Adam(
        model.parameters(),
        settings.learning_rate,
        fused=next(model.parameters()).device.type != "mps",
    )


# ---- What a run leaves behind -------------------------------------------------------

PARTS = {"model", "optimiser", "decay", "average", "history"}  # of a checkpoint
START_AGAIN = "remove it to start again, or give --out another folder"


def checkpoint_path(settings: Settings, out: Path) -> Path:
    """Where a stage continues from after an interruption."""
    return out / "runs" / f"{settings.name}_from_{settings.first_epoch}.pt"


def weights_paths(settings: Settings, out: Path, is_last: bool) -> tuple[Path, Path]:
    """Where a stage leaves the weights of its last epoch, and their average.

    Only the last stage of a run writes the final name.
    """
    epoch = settings.epochs - 1
    weights = out / f"{settings.name}_{epoch}.pth"
    if is_last:
        return weights, out / f"{settings.name}_trained.pth"
    return weights, out / "runs" / f"{settings.name}_{epoch}_average.pth"


def new_history(settings: Settings) -> dict:
    """The history of a stage before its first epoch."""
    return {
        "settings": asdict(settings),
        "data": data_digests(SPRITE_FILES),
        "epochs": [],
    }


def read_checkpoint(path: Path, history: dict) -> dict | None:
    """The checkpoint of a stage, or None where there is none.

    history: of the stage, with its settings and data.
    Raises ValueError for a file that is damaged, has other settings or data, or is no
    checkpoint.
    """
    if not path.exists():
        return None
    try:
        state = du.load_checkpoint(path)
    except du.UnusableFile as error:
        raise du.UnusableFile(f"{error}, or {START_AGAIN}") from None
    if set(state) != PARTS:
        found = ", ".join(map(str, [*state][:6])) or "nothing"
        raise du.UnusableFile(
            f"{path} is not a checkpoint of this program: it holds {found}; "
            f"{START_AGAIN}"
        )
    check_history(path, state["history"], history)
    return state


def check_history(path: Path, found: dict, wanted: dict) -> None:
    """Raise ValueError unless a stored history is of these settings and data."""
    if not isinstance(found, dict):
        found = {}
    for key in ("settings", "data"):
        if found.get(key) != wanted[key]:
            what = differences(found.get(key), wanted[key])
            raise du.UnusableFile(
                f"{path} was written with other {key} ({what}); {START_AGAIN}"
            )
    settings = wanted["settings"]
    planned = range(settings["first_epoch"], settings["epochs"])
    if not has_epochs(found, planned):
        raise du.UnusableFile(
            f"{path} is not a checkpoint of this program: its epochs are not "
            f"{planned.start}, {planned.start + 1} and so on, each with its losses; "
            f"{START_AGAIN}"
        )


def differences(found, wanted: dict) -> str:
    """Where two dictionaries differ, as in "epochs: 2 instead of 1"."""
    if not isinstance(found, dict):
        return f"{type(found).__name__} instead of a dictionary"
    words = []
    for key in sorted({*found, *wanted}, key=str):
        one = found.get(key, "nothing")
        other = wanted.get(key, "nothing")
        if one != other:
            words.append(f"{key}: {one} instead of {other}")
    return ", ".join(words)


def has_epochs(history: dict, planned: range) -> bool:
    """Whether a stored history tells of the planned epochs, or of the first of them."""
    try:
        rows = history["epochs"]
        numbers = [row["epoch"] for row in rows]
        for row in rows:
            sum([row["loss"], row["seconds"], *row["losses"]])
    except (KeyError, TypeError, ValueError):
        return False
    is_text = isinstance(history.get("machine"), str)
    return is_text and numbers == list(planned)[: len(numbers)]


def finished(settings: Settings, out: Path, is_last: bool) -> dict | None:
    """The history of a stage that has nothing left to do, else None.

    Raises errors as `read_checkpoint` does.
    """
    path = checkpoint_path(settings, out)
    state = read_checkpoint(path, new_history(settings))
    if state is None:
        return None
    epochs = len(state["history"]["epochs"])
    is_trained = epochs == settings.epochs - settings.first_epoch
    paths = weights_paths(settings, out, is_last)
    has_weights = all(weights.exists() for weights in paths)
    return state["history"] if is_trained and has_weights else None


# ---- A run --------------------------------------------------------------------------


class Run:
    """A stage of a training run on the sprites that can stop after any epoch.

    Several processes that have met (`join`) share each batch. DistributedDataParallel
    averages their gradients, so all keep the same weights; each has its own noise, its
    own running statistics in batch norm, and its own losses. The first process writes
    the files, and its statistics and losses count.
    """

    def __init__(
        self,
        settings: Settings,
        device: torch.device,
        out: Path,
        is_last: bool = True,
    ):
        self.settings = settings
        self.device = device
        self.out = out
        self.rank, self.processes = place()
        self.resume_path = checkpoint_path(settings, out)
        self.paths = weights_paths(settings, out, is_last)

        every = du.load_sprites("train")
        self.sprites = du.Sprites(
            every.images[: settings.limit],
            every.labels[: settings.limit],
            every.factors[: settings.limit],
        )
        self.x = self.sprites.x
        self.c = self.sprites.c
        self.schedule = du.NoiseSchedule.linear(settings.T)

        torch.manual_seed(settings.seed)
        model = network(settings, self.schedule)
        self.model = model.to(device, memory_format=torch.channels_last)
        if settings.start:
            du.load_weights(self.model, out / settings.start)
        self.parallel = self.model
        if self.processes > 1:
            # for rows and captions, a SpriteUnet has a layer each
            self.parallel = DistributedDataParallel(
                self.model,
                find_unused_parameters=settings.network == "SpriteUnet",
            )
        self.average = du.average_weights(self.model, settings.ema_decay)
        self.frequencies = None
        if settings.straight:
            self.frequencies = du.straight_frequencies(
                self.schedule, even=settings.even
            )

        steps_a_pass = -(-len(self.x) // settings.batch)
        self.steps_an_epoch = settings.passes * steps_a_pass
        self.optimiser = optimiser_of(settings, self.model)
        self.decay = falling(
            self.optimiser,
            settings.decay_epochs * self.steps_an_epoch,
            steady=settings.steady_epochs * self.steps_an_epoch,
        )
        self.history = {**new_history(settings), "machine": self.where()}

    def where(self) -> str:
        """The machine in words, and how many processes."""
        if self.processes == 1:
            return machine(self.device)
        return f"{machine(self.device)}, {self.processes} processes"

    @property
    def parts(self) -> dict:
        """What a checkpoint holds the state of."""
        return {
            "model": self.model,
            "optimiser": self.optimiser,
            "decay": self.decay,
            "average": self.average,
        }

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state["history"] = self.history
        memory = io.BytesIO()  # a full disk is then an OSError, not torch's own error
        torch.save(state, memory)
        with du.written_whole(self.resume_path) as temporary:
            temporary.write_bytes(memory.getbuffer())

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one.

        The history then names the machine that continues. Raises errors as
        `read_checkpoint` does, and ValueError for a checkpoint of another network.
        """
        state = read_checkpoint(self.resume_path, self.history)
        if state is None:
            return
        try:
            self.take(state)
        except Exception as error:  # each part has errors of its own
            words = str(error).partition("\n")[0]
            raise du.UnusableFile(
                f"{self.resume_path} does not fit this run ({words}); {START_AGAIN}"
            ) from None
        self.history["epochs"] = state["history"]["epochs"]

    def take(self, state: dict) -> None:
        """Load the state of each part. PyTorch does not check moments itself."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        for parameter, moments in self.optimiser.state.items():
            for name, moment in moments.items():
                shape = getattr(moment, "shape", ())
                if shape not in ((), parameter.shape):
                    raise ValueError(f"{name} {shape} of a weight {parameter.shape}")

    def generators(self, epoch: int) -> tuple[Generator, Generator]:
        """(for the order of the pictures, for noise and dropped contexts).

        Both are seeded by the epoch: a resumed run draws the same numbers as one that
        was never interrupted. Several processes have one order, and each its own noise.
        """
        seed = self.epoch_seed(epoch)
        order = Generator().manual_seed(seed)
        if self.processes == 1:
            return order, order
        noise = Generator().manual_seed(seed + 10**7 * (self.rank + 1))
        return order, noise

    def epoch_seed(self, epoch: int) -> int:
        """The seed of all random numbers of an epoch."""
        return self.settings.seed * 1000 + epoch

    def steps_of(self, epoch: int) -> Iterator[float]:
        """Train for an epoch; yields the loss of each step."""
        settings = self.settings
        order, noise = self.generators(epoch)
        whole = self.batches_of(epoch, order)
        return du.train_steps(
            self.parallel,
            share(whole, self.rank, self.processes),
            self.schedule,
            optimiser=self.optimiser,
            p_drop=settings.p_drop if settings.context else None,
            average=self.average,
            generator=noise,
            min_snr=settings.min_snr,
            frequencies=self.frequencies,
        )

    def batches_of(self, epoch: int, order: Generator) -> Batches:
        """What the network sees in an epoch: (pictures, contexts)."""
        settings = self.settings
        if settings.network == "SpriteUnet":
            return drawn_anew(
                self.sprites,
                settings.batch,
                settings.passes,
                order,
                self.epoch_seed(epoch),
            )
        return batches(self.x, self.c, settings.batch, settings.passes, order)

    def train_epoch(self, epoch: int) -> None:
        """Train for an epoch, and add it to the history."""
        started = time.perf_counter()
        losses = []
        bar = du.tqdm(
            self.steps_of(epoch),
            total=self.steps_an_epoch,
            desc=f"{self.settings.name} epoch {epoch}",
            mininterval=5,
            disable=self.rank > 0,
        )
        for loss in bar:
            self.decay.step()
            losses.append(loss)
        seconds = time.perf_counter() - started
        row = {
            "epoch": epoch,
            "loss": sum(losses) / len(losses),
            "seconds": round(seconds, 1),
            "losses": means_of(losses, self.settings.log_every),
        }
        self.history["epochs"].append(row)

    def write(self, epoch: int) -> None:
        """Write what an epoch leaves behind.

        The checkpoint comes last: what it says is finished, is there.
        """
        name = self.settings.name
        if epoch == self.settings.epochs - 1:
            self.write_weights()
        elif epoch % 4 == 0:
            du.save_weights(self.model, self.out / f"{name}_{epoch}.pth")
        self.save()
        loss = self.history["epochs"][-1]["loss"]
        print(f"{name} epoch {epoch}: loss {loss:.4f}", flush=True)

    def write_weights(self) -> None:
        """Write the weights of the last epoch, and their average."""
        weights, average = self.paths
        du.save_weights(self.model, weights)
        du.save_weights(self.average, average)

    def write_what_is_missing(self) -> None:
        """Write these weights again if somebody has removed them."""
        if not all(path.exists() for path in self.paths):
            self.write_weights()

    def first_writes(self, write, *arguments) -> None:
        """The first process writes; the others, who may read it next, wait for it."""
        if self.rank == 0:
            write(*arguments)
        if self.processes > 1:
            dist.barrier()

    def train(self) -> dict:
        """Train what is left of the stage; returns its history."""
        self.resume()
        next_epoch = self.settings.first_epoch + len(self.history["epochs"])
        for epoch in range(next_epoch, self.settings.epochs):
            self.train_epoch(epoch)
            self.first_writes(self.write, epoch)
        self.first_writes(self.write_what_is_missing)
        return self.history


def falling(optimiser: torch.optim.Optimizer, steps: int, steady: int = 0):
    """A scheduler whose learning rate falls linearly to 0 after so many steps.

    steady: for so many steps it does not fall yet.
    """

    def rate(step: int) -> float:
        left = (steps - step) / (steps - steady)
        return min(1.0, max(0.0, left))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, rate)


def means_of(losses: list[float], size: int) -> list[float]:
    """The means of so many neighbours each."""
    blocks = [losses[i : i + size] for i in range(0, len(losses), size)]
    return [sum(block) / len(block) for block in blocks]


def whole_history(histories: list[dict]) -> dict:
    """One history of all stages of a run: their settings, then the epochs."""
    epochs = []
    for history in histories:
        for row in history["epochs"]:
            losses = [round(loss, 4) for loss in row["losses"]]
            epochs.append({**row, "losses": losses})
    return {
        "stages": [history["settings"] for history in histories],
        "data": histories[0]["data"],
        "machines": [history["machine"] for history in histories],
        "epochs": epochs,
    }


def write_if_new(path: Path, content: dict) -> bool:
    """Write a JSON file unless it has this content already; returns whether it did."""
    text = as_json(content)
    if path.exists() and path.read_text(encoding="utf8", errors="replace") == text:
        return False
    write_json(path, content)
    return True


def forget_what_followed(plan: Sequence[Settings], out: Path) -> None:
    """Remove the checkpoints of later stages if the first of these starts anew.

    They continue older weights.
    """
    first, *later = plan
    if checkpoint_path(first, out).exists():
        return
    for stage in later:
        checkpoint_path(stage, out).unlink(missing_ok=True)


def train_run(
    name: str, epochs: int | None, device: torch.device, out: Path, **settings
) -> None:
    """Train the stages of a run that are not finished, and write their history."""
    plan = list(stages(name, epochs, **settings))
    rank, _ = place()
    histories = []
    for i, stage in enumerate(plan):
        is_last = stage is plan[-1]
        history = finished(stage, out, is_last)
        if history is None:
            if rank == 0:
                forget_what_followed(plan[i:], out)
            history = Run(stage, device, out, is_last).train()
        elif rank == 0:
            end = stage.epochs - 1
            print(f"{stage.name}: epochs {stage.first_epoch} to {end} are finished")
        histories.append(history)
    if rank > 0:
        return
    path = out / f"{plan[0].name}_history.json"
    if not write_if_new(path, whole_history(histories)):
        files = out / "runs" / f"{plan[0].name}_from_*.pt"
        print(f"{name} is finished; remove {files} to train it again")


# ---- Runs without checkpoints -------------------------------------------------------


def is_trained(out: Path, name: str, settings: dict, files: Sequence[str]) -> bool:
    """Whether a network is there, trained with these settings on these data.

    It then says so.
    """
    path = out / f"{name}.pth"
    before = stored(out / f"{name}_history.json", {})
    if not path.exists() or before.get("settings") != settings:
        return False
    if before.get("data") != data_digests(files):
        return False
    print(f"{path} is there already; remove it to train it again")
    return True


def write_both(out: Path, name: str, model: nn.Module, history: dict) -> None:
    """Write weights and their history.

    An older history goes first: it must not stand beside the new weights.
    """
    path = out / f"{name}_history.json"
    path.unlink(missing_ok=True)
    du.save_weights(model, out / f"{name}.pth")
    write_json(path, history)


# ---- Lesson 1's network -------------------------------------------------------------


def train_basic(
    device: torch.device,
    out: Path,
    steps: int = 1407,
    batch: int = 128,
    seed: int = 2026,
) -> None:
    """Train lesson 1's network: it predicts the clean digit.

    As many steps as three epochs of the full 60,000 digits in batches of 128. If there
    is a file that was trained with these settings on these data, nothing happens.
    Raises ValueError for other digits than those that ship.
    """
    settings = {
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "learning_rate": 1e-3,
        "pictures": 4500,
    }
    files = ["mnist_5k.npz"]
    if is_trained(out, "basic_unet", settings, files):
        return
    digits, _ = du.load_digits("mnist")
    if len(digits) != 5000:
        raise ValueError(
            f"{len(digits)} digits found in data/; the shipped run uses mnist_5k.npz: "
            "move data/MNIST away"
        )
    digits = digits[:4500].to(device)  # the last 500 are held out
    generator = du.seed_everything(seed)
    model = du.BasicUNet().to(device)
    started = time.perf_counter()
    losses = train_on_digits(model, digits, steps, batch, generator)
    history = {
        "settings": settings,
        "data": data_digests(files),
        "machine": machine(device),
        "seconds": round(time.perf_counter() - started, 1),
        "losses": losses,
    }
    write_both(out, "basic_unet", model, history)


def train_on_digits(
    model: nn.Module, digits: Tensor, steps: int, batch: int, generator: Generator
) -> list[float]:
    """Train on clean digits (N, 1, 28, 28) in [0, 1]; returns the loss of each step."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)

    def loss(rows):
        x = digits[rows]
        amount = torch.rand(batch, generator=generator)
        guess = model(du.corrupt(x, amount, generator))
        return F.mse_loss(guess, x)

    rows = random_rows(len(digits), batch, steps, generator)
    training = steps_with(loss, rows, optimiser)
    bar = du.tqdm(training, total=steps, desc="basic", mininterval=5)
    return [round(value, 5) for value in bar]


# ---- The classifier behind the measures ---------------------------------------------


def known_values(factors: list[dict[str, str]]) -> dict[str, list[str]]:
    """{factor: its values, sorted} of all factors that sprites have."""
    values = {}
    for row in factors:
        for name, value in row.items():
            values.setdefault(name, set()).add(value)
    return {name: sorted(some) for name, some in values.items()}


def questions(
    factors: list[dict[str, str]], answers: dict[str, list[str]]
) -> dict[str, Tensor]:
    """{factor: (N,) index of each sprite's value among the answers}.

    Where its class lacks the factor it is -100, which cross-entropy ignores.
    """
    asked = {}
    for name, values in answers.items():
        numbers = []
        for row in factors:
            numbers.append(values.index(row[name]) if name in row else -100)
        asked[name] = torch.tensor(numbers)
    return asked


@torch.no_grad()
def right_answers(
    body: nn.Module, heads: nn.ModuleDict, x: Tensor, asked: dict[str, Tensor]
) -> dict[str, float]:
    """{factor: the share of sprites with this factor whose value is named rightly}."""
    features = body(x)
    shares = {}
    for name, target in asked.items():
        answer = heads[name](features).argmax(1).cpu()
        right = (answer == target)[target >= 0]
        shares[name] = round(float(right.float().mean()), 4)
    return shares


def shuffled_rows(n: int, size: int, epochs: int, generator: Generator):
    """Yield the numbers of all n rows in batches, in a new order each epoch."""
    for _ in range(epochs):
        yield from torch.randperm(n, generator=generator).split(size)


def train_features(
    device: torch.device,
    out: Path,
    epochs: int = 12,
    batch: int = 100,
    seed: int = 2026,
    limit: int | None = None,
) -> None:
    """Train the classifier whose features FD and the other measures compare.

    It names class and every factor at once, from clean sprites; only its body is kept.
    A ruler must not change: if there is a file that was trained with these settings on
    these data, nothing happens.
    """
    settings = {
        "epochs": epochs,
        "batch": batch,
        "seed": seed,
        "learning_rate": 2e-3,
        "limit": limit,
    }
    if is_trained(out, "features", settings, SPRITE_FILES):
        return
    train = du.load_sprites("train")
    test = du.load_sprites("test")
    answers = known_values(train.factors + test.factors)
    x = train.x[:limit].to(device)
    asked = questions(train.factors[:limit], answers)
    asked = {name: target.to(device) for name, target in asked.items()}
    generator = du.seed_everything(seed)
    body, heads = classifier(answers, device)
    started = time.perf_counter()
    rows = shuffled_rows(len(x), batch, epochs, generator)
    steps = epochs * -(-len(x) // batch)
    losses = train_classifier(body, heads, x, asked, rows, steps)
    seconds = round(time.perf_counter() - started, 1)
    tests = questions(test.factors, answers)
    shipped = as_stored(body)
    history = {
        "settings": settings,
        "data": data_digests(SPRITE_FILES),
        "machine": machine(device),
        "seconds": seconds,
        "test_accuracy": right_answers(shipped, heads, test.x.to(device), tests),
        "losses": losses,
    }
    write_both(out, "features", body, history)


def as_stored(model: nn.Module) -> nn.Module:
    """A copy in eval mode, rounded as a file of weights rounds it."""
    return deepcopy(model).half().float().eval()


def classifier(
    answers: dict[str, list[str]], device: torch.device
) -> tuple[nn.Module, nn.ModuleDict]:
    """The body of the classifier, and a head {factor: linear layer} for each factor."""
    body = du.feature_network(None).to(device)
    heads = nn.ModuleDict()
    for name, values in answers.items():
        heads[name] = nn.Linear(64, len(values))
    return body, heads.to(device)


def train_classifier(
    body: nn.Module,
    heads: nn.ModuleDict,
    x: Tensor,
    asked: dict[str, Tensor],
    batches: Iterator[Tensor],
    steps: int,
) -> list[float]:
    """Train on the rows of each batch; the loss sums over the factors.

    Returns the loss of each step.
    """
    parameters = [*body.parameters(), *heads.parameters()]
    optimiser = torch.optim.Adam(parameters, 2e-3)
    decay = falling(optimiser, steps)

    def loss(rows):
        features = body(x[rows])
        each = []
        for name, target in asked.items():
            answer = heads[name](features)
            each.append(F.cross_entropy(answer, target[rows], reduction="sum"))
        return sum(each) / len(rows)

    losses = []
    training = steps_with(loss, batches, optimiser)
    bar = du.tqdm(training, total=steps, desc="features", mininterval=5)
    for value in bar:
        decay.step()
        losses.append(round(value, 4))
    return losses


# ---- The program --------------------------------------------------------------------


# What the files of each run begin with
STEMS = {
    "basic": "basic_unet",
    "features": "features",
    "model": "model",
    "context": "context_model",
    "sprite": "sprite_unet",
}


def command_line() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        choices=STEMS,
        help="train one of the five (default: all)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE,
        help="folder for weights, histories and checkpoints (default: weights/)",
    )
    parser.add_argument(
        "--epochs", type=count, help="stop before this one (default: the whole run)"
    )
    parser.add_argument("--n-feat", type=count, default=Settings.n_feat)
    parser.add_argument(
        "--limit", type=count, help="train on the first so many sprites only"
    )
    parser.add_argument("--device", default=str(du.default_device()))
    parser.add_argument(
        "--threads", type=count, help="CPU threads (default: all cores)"
    )
    return parser


def count(text: str) -> int:
    """A number of the command line that is at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} found; expected at least 1")
    return number


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program with an error message if the options do not fit together."""
    settings = (options.epochs, options.n_feat, options.limit)
    shipped = (None, Settings.n_feat, Settings.limit)
    if options.out.resolve() == HERE and settings != shipped:
        parser.error(
            "these settings would overwrite the shipped weights; add --out FOLDER"
        )
    if "WORLD_SIZE" in os.environ and options.only not in STAGES:
        parser.error(
            f"under torchrun add --only, one of {', '.join(STAGES)}: "
            "the others train alone"
        )


def reserve(
    parser: argparse.ArgumentParser, out: Path, names: Sequence[str]
) -> ExitStack:
    """Keep other runs of these names out of a folder until the returned stack closes.

    The system frees the locks of a process that is killed. What killed runs of these
    names have left half written is removed.
    Ends the program with an error message if the folder cannot be written to, or if
    such a run is at work there.
    """
    folders = (out, out / "runs")
    try:
        for folder in folders:
            check_writable(folder, STEMS[names[0]])
    except OSError as error:
        parser.error(f"--out {out} cannot be written to: {error}")
    locks = ExitStack()
    for name in names:
        path = out / "runs" / f"{STEMS[name]}.lock"
        try:
            locks.enter_context(FileLock(path).acquire(timeout=0))
        except Timeout:
            locks.close()
            parser.error(
                f"another process is training {name} in {out} ({path} is locked); "
                "wait for it, or give another --out"
            )
        for folder in folders:
            du.sweep_temporary(folder, STEMS[name])
    return locks


def train(name: str, device: torch.device, options: argparse.Namespace) -> None:
    """Train one of the five."""
    out = options.out
    if name == "basic":
        train_basic(device, out)
    elif name == "features":
        train_features(device, out, limit=options.limit)
    else:
        sizes = {"n_feat": options.n_feat, "limit": options.limit}
        train_run(name, options.epochs, device, out, **sizes)


def main() -> None:
    parser = command_line()
    options = parser.parse_args()
    check(parser, options)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    join(device)
    wanted = [options.only] if options.only else [*STEMS]
    rank, processes = place()
    with ExitStack() as locks:
        if rank == 0:
            locks.enter_context(reserve(parser, options.out, wanted))
        if processes > 1:
            dist.barrier()
        for name in wanted:
            train(name, device, options)
    if processes > 1:
        dist.destroy_process_group()


def program() -> None:
    """`main`, which ends with a sentence if a file cannot be used or written."""
    try:
        main()
    except du.UnusableFile as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(
            f"{error}\nWhat was written before is whole; when this is mended, the same "
            "command continues."
        )


if __name__ == "__main__":
    program()
