"""Train all that the course ships: `python weights/train.py` (on two cores about nine hours; much less on a GPU).

Six runs: `basic` (lesson 1's BasicUNet on digits), `features` (the classifier of the measures), `model` (ContextUnet on sprites, no labels, in
three stages), `context` (with labels, dropped 10 % of the time), `best` (PaletteNet, with labels) and `factor` (the same, asked for factors too).
After each epoch of the last four a checkpoint is written whole under weights/runs/; the same command goes on from there after an interruption,
with the same random numbers. `--only model` trains one, `--threads 1` leaves a core to another run. On several GPUs or machines, each batch
shared out among the processes:
`torchrun --nproc_per_node=2 weights/train.py --only best`.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import diffusion_utilities as du  # noqa: E402  (found beside this folder)

SPRITE_FILES = (
    "sprites_16x16.npy",
    "sprite_labels_16x16.npy",
    "sprite_factors_16x16.csv",
)


@dataclass(frozen=True)
class Settings:
    """What a stage of a run on the sprites depends on; each shipped history says what that run had."""

    context: bool
    network: str = "ContextUnet"  # or PaletteNet, which n_feat does not change
    n_feat: int = 64
    T: int = 500
    start: str | None = (
        None  # file of weights in the same folder to go on from, with a fresh optimiser
    )
    first_epoch: int = 0
    epochs: int = 32  # stop before this one
    decay_epochs: int = 32
    passes: int = 5  # over the training sprites in one epoch: more steps draw better (weights/README.md)
    batch: int = 50
    learning_rate: float = (
        2e-3  # falls in a straight line, and would reach 0 after decay_epochs
    )
    min_snr: float | None = 5.0
    p_drop: float = 0.1
    ema_decay: float = 0.999
    seed: int = 2026
    beta2: float = 0.999  # of Adam
    clip: float | None = None  # the longest gradient
    dropout: float = 0.0  # of a PaletteNet
    log_every: int = 1  # the history has the mean loss of so many steps
    recolour: dict[str, int] | None = (
        None  # {class: in how many colours each of its sprites is seen}, drawn anew each epoch
    )
    even: float | None = (
        None  # each step's loss is divided by this plus what it is when the stage begins (weights/README.md)
    )
    by_drawing: bool = False  # `recolour` shows each drawing of a class as often as the others, not each sprite
    factors: bool = (
        False  # the context names factors too, not only the class (lesson 6)
    )
    limit: int | None = None  # train on the first so many sprites only (tests)

    def __post_init__(self):
        if (self.factors or self.by_drawing) and not self.recolour:
            raise ValueError(
                f"factors={self.factors}, by_drawing={self.by_drawing} need recolour, which draws sprites anew; it is {self.recolour}"
            )
        if self.even is not None and (self.even <= 0 or self.network != "PaletteNet"):
            raise ValueError(
                f"even={self.even}, network={self.network!r}; expected a number above 0 and a PaletteNet, or None"
            )

    @property
    def name(self) -> str:
        return (
            ("factor_model" if self.factors else "best")
            if self.network == "PaletteNet"
            else "context_model"
            if self.context
            else "model"
        )


PALETTE = {
    "network": "PaletteNet",
    "learning_rate": 3e-3,
    "min_snr": None,
    "beta2": 0.99,
    "clip": 1.0,
    "log_every": 20,
}
RECOLOUR = {"hero": 8, "non-hero": 16, "food": 6, "spell": 6, "side-facing": 16}
EVEN = PALETTE | {"start": "best_trained.pth", "decay_epochs": 10, "passes": 3, "batch": 100, "learning_rate": 2e-3, "clip": 3.0,
                  "recolour": RECOLOUR, "even": 0.01}  # fmt: skip
# The stages of each run. The later ones of `model` are warm restarts: of 64 samples 10 were legal after one stage, 13 after two and 19 after
# three, and the held-out loss fell each time (weights/README.md).
STAGES = {
    "model": (
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
    ),
    # From the beginning, because what had learnt to draw without labels listens less to them (weights/README.md).
    "context": (
        {
            "passes": 1,
            "batch": 100,
            "learning_rate": 1e-3,
            "min_snr": None,
            "ema_decay": 0.998,
        },
    ),
    # Its sprites by heart is what a PaletteNet learns in the first stage; in other colours (of classes with more details in more of them: what a
    # network with labels draws of a class does not depend on how common it is) they keep changing. What is left wrong then is single pixels near the
    # end, whose loss is lost among that of the early steps: the third stage evens the steps out, and the fourth how often each drawing comes.
    "best": (
        PALETTE | {"epochs": 25, "passes": 12, "dropout": 0.1},
        PALETTE
        | {
            "start": "best_24.pth",
            "first_epoch": 25,
            "decay_epochs": 7,
            "passes": 9,
            "batch": 100,
            "recolour": RECOLOUR,
        },
        EVEN | {"first_epoch": 32, "epochs": 39},
        EVEN
        | {
            "start": "best_38.pth",
            "first_epoch": 39,
            "epochs": 42,
            "decay_epochs": 3,
            "learning_rate": 8e-4,
            "by_drawing": True,
        },
    ),  # fmt: skip
    # Asked for factors, too, with a context that is longer. The shipped run began from `best_trained.pth` as the second stage of `best` had left it
    # (put aside after epoch 31); started after a finished `best`, it goes on from the fourth.
    "factor": (EVEN | {"epochs": 10, "factors": True},),
}


def stages(name: str, epochs: int | None = None, **settings) -> Iterator[Settings]:
    """The settings of each stage of a run; `epochs` cut it short."""
    for stage in STAGES[name]:
        full = Settings(name != "model", **settings, **stage)
        if epochs is None:
            yield full
        elif full.first_epoch < epochs:
            yield replace(
                full,
                epochs=min(full.epochs, epochs),
                decay_epochs=min(full.decay_epochs, epochs - full.first_epoch),
            )


def sha256(files: tuple[str, ...]) -> dict[str, str]:
    """{file name: SHA-256} of files in data/."""
    return {
        name: hashlib.sha256((du.DATA / name).read_bytes()).hexdigest()
        for name in files
    }


def machine(device: torch.device) -> str:
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    if Path("/proc/cpuinfo").exists() and device.type == "cpu":
        name = next(
            (
                line.split(": ")[1]
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            name,
        )
    return f"{device.type} ({name}), {torch.get_num_threads()} threads, torch {torch.__version__}, bfloat16 {du.has_fast_bf16(device)}"


def as_json(content: dict, width: int = 150) -> str:
    """JSON indented by one space, but that a list of numbers fills lines of `width` characters; json would give each number a line."""

    def filled(numbers: re.Match) -> str:
        indent, text = numbers[1], " ".join(numbers[2].split())
        if len(text) <= 100:  # beside its name
            return f"[{text}]"
        lines = textwrap.fill(
            text,
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
        return f"[\n{lines}\n{indent[1:]}]"

    # no string of JSON holds the end of a line, so what this finds begins and ends a list
    return (
        re.sub(r'\[\n( *)([^][{}"]+?)\n *\]', filled, json.dumps(content, indent=1))
        + "\n"
    )


def write_json(path: Path, content: dict) -> None:
    with du._written_whole(path) as temporary:
        Path(temporary).write_text(as_json(content), encoding="utf8")


def join(device: torch.device) -> None:
    """Where torchrun started this program several times: meet the others, over NCCL on GPUs (one each), else over Gloo."""
    if "WORLD_SIZE" in os.environ:
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def share(
    whole: Iterator[tuple[torch.Tensor, torch.Tensor]], rank: int, processes: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One process's part of each batch, as large as everyone else's: what does not divide is left out."""
    for x, c in whole:
        if end := len(x) // processes * processes:
            yield x[rank:end:processes], c[rank:end:processes]


def batches(
    x: torch.Tensor, c: torch.Tensor, size: int, passes: int, generator: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch: every picture once in each pass, in random order, in batches (pictures, labels)."""
    for _ in range(passes):
        for rows in torch.randperm(len(x), generator=generator).split(size):
            yield x[rows], c[rows]


def network(
    settings: Settings, images: np.ndarray, schedule: du.NoiseSchedule
) -> torch.nn.Module:
    """The network that a run trains, with random weights."""
    if settings.network == "PaletteNet":
        n_cfeat = len(du.sprite_factory().context_columns()) if settings.factors else 5
        return du.PaletteNet(
            images, schedule, n_cfeat=n_cfeat, dropout=settings.dropout
        )
    return du.ContextUnet(3, settings.n_feat, 5, 16)


def starting_weights(model: torch.nn.Module, path: Path) -> None:
    """Load a file of weights, strictly, but that the context may have become longer: the network does not listen to its new columns yet."""
    state, own = du.load_state(path), model.state_dict()
    for name, value in state.items():
        if (
            name == "context.model.0.weight"
            and name in own
            and value.shape[1] < own[name].shape[1]
        ):
            state[name] = torch.nn.functional.pad(
                value, (0, own[name].shape[1] - value.shape[1])
            )
    model.load_state_dict(state)


@torch.no_grad()
def evened(
    model: torch.nn.Module,
    x: torch.Tensor,
    c: torch.Tensor,
    schedule: du.NoiseSchedule,
    add: float,
    seed: int,
) -> torch.Tensor:
    """Weights (T + 1,) for `diffusion_loss`: 1 / (add + the loss at that step), measured with these pictures at 50 steps, straight lines between."""
    steps, losses = np.unique(np.linspace(1, schedule.T, 50).round().astype(int)), []
    generator = torch.Generator().manual_seed(seed)
    with du._evaluating(model):
        for t in steps.tolist():
            x_t = du.perturb_input(
                x, t, torch.randn(x.shape, generator=generator).to(x), schedule
            )
            losses.append(
                float(model(x_t, x.new_full((len(x),), t / schedule.T), c, x).mean())
            )
    weights = 1 / (add + np.interp(np.arange(schedule.T + 1), steps, losses))
    return torch.from_numpy(weights * (np.arange(schedule.T + 1) > 0)).float()


def each_drawing(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """As many rows, class by class, but each drawing of a class (all factors that choose no colour) as often as its others."""
    factory, even = du.sprite_factory(), []
    for name in factory.CLASS_NAMES:
        mine, fixed = (
            [row for row in rows if row["class"] == name],
            set(factory.factors_of(name)) - set(factory.colour_factors(name)),
        )
        drawings = list(
            {
                tuple(row[factor] for factor in sorted(fixed)): row for row in mine
            }.values()
        )
        even += [drawings[i % len(drawings)] for i in range(len(mine))]
    return even


def recoloured(
    sprites: du.Sprites,
    copies: dict[str, int],
    seed: int,
    factors: bool = False,
    by_drawing: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(pictures, contexts): each sprite in `copies[its class]` colours of its class, a side-facing one turned either way.

    Colours are drawn evenly, its own may come too. What is drawn (species, outfit, item ...) stays as it was. Never a sprite of `test`, nor a pair of
    values that training must not show. Contexts are labels (N, 5), or with `factors` the factory's `as_context`: the class, and of the other columns'
    factors each with probability 0.7.
    `by_drawing` evens out how often each drawing comes: a sprite of which training has many colours would else come in these colours more often.
    """
    factory, rng = du.sprite_factory(), np.random.default_rng(seed)
    tests, specifications = (
        {frozenset(row.items()) for row in du.load_sprites("test").factors},
        [],
    )
    for row in each_drawing(sprites.factors) if by_drawing else sprites.factors:
        name, values = (
            row["class"],
            {key: value for key, value in row.items() if key != "class"},
        )
        legal, held_out = factory.factors_of(name), factory.held_out_pairs(name)
        free = (
            *factory.colour_factors(name),
            *(("facing",) if "facing" in legal else ()),
        )
        for _ in range(copies[name]):
            while True:
                new = factory.specify(
                    name,
                    **values
                    | {key: legal[key][rng.integers(len(legal[key]))] for key in free},
                )
                if (
                    not held_out.hold(new)
                    and frozenset(new.as_dict().items()) not in tests
                ):
                    break
            specifications.append(new)
    asked = [
        {"class": s.class_name}
        | {name: value for name, value in s.factors if factors and rng.random() < 0.7}
        for s in specifications
    ]
    contexts = factory.as_context(asked)
    return du.to_model_range(factory.render_many(specifications)), torch.from_numpy(
        contexts if factors else contexts[:, : len(factory.CLASS_NAMES)]
    )


class Run:
    """A stage of a training run on the sprites that can stop after any epoch and go on.

    Several processes that have met (`join`) share each batch: DistributedDataParallel averages their gradients, so that all keep the same weights;
    each has its own noise, its own averages in batch norm, and its own losses. The first one writes the files, and its averages and losses count.
    """

    def __init__(self, settings: Settings, device: torch.device, out: Path):
        self.settings, self.device, self.out = settings, device, out
        self.rank, self.processes = (
            (dist.get_rank(), dist.get_world_size())
            if dist.is_initialized()
            else (0, 1)
        )
        self.resume_path = (
            out / "runs" / f"{settings.name}_from_{settings.first_epoch}.pt"
        )
        sprites = du.load_sprites("train")
        self.sprites = du.Sprites(
            sprites.images[: settings.limit],
            sprites.labels[: settings.limit],
            sprites.factors[: settings.limit],
        )
        self.x, self.c = self.sprites.x, self.sprites.c
        self.schedule = du.NoiseSchedule.linear(settings.T)
        torch.manual_seed(settings.seed)
        self.model = network(settings, sprites.images, self.schedule).to(
            device, memory_format=torch.channels_last
        )
        if settings.start:
            starting_weights(self.model, out / settings.start)
        self.parallel = (
            DistributedDataParallel(self.model) if self.processes > 1 else self.model
        )
        parameters, betas = list(self.model.parameters()), (0.9, settings.beta2)
        self.optimiser = torch.optim.Adam(
            parameters, settings.learning_rate, betas, fused=device.type != "mps"
        )
        if settings.clip:

            def clip(*_):
                torch.nn.utils.clip_grad_norm_(parameters, settings.clip)

            self.optimiser.register_step_pre_hook(clip)
        pictures = (
            sum(settings.recolour[row["class"]] for row in self.sprites.factors)
            if settings.recolour
            else len(self.x)
        )
        self.steps_an_epoch = settings.passes * -(-pictures // settings.batch)
        steps = settings.decay_epochs * self.steps_an_epoch
        self.decay = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: max(0.0, 1 - step / steps)
        )
        self.average = du.average_weights(self.model, settings.ema_decay)
        self.weights = None
        if settings.even is not None:
            some = slice(0, 500)
            c = torch.nn.functional.pad(
                self.c[some], (0, self.model.n_cfeat - self.c.shape[1])
            )
            self.weights = evened(
                self.model,
                self.x[some].to(device),
                c.to(device),
                self.schedule,
                settings.even,
                settings.seed,
            )
        where = machine(device) + (
            f", {self.processes} processes" if self.processes > 1 else ""
        )
        self.history = {
            "settings": asdict(settings),
            "data": sha256(SPRITE_FILES),
            "machine": where,
            "epochs": [],
        }

    @property
    def _parts(self) -> dict:
        return {
            "model": self.model,
            "optimiser": self.optimiser,
            "decay": self.decay,
            "average": self.average,
        }

    def save(self) -> None:
        state = {name: part.state_dict() for name, part in self._parts.items()} | {
            "history": self.history
        }
        with du._written_whole(self.resume_path) as temporary:
            torch.save(state, temporary)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one made with these settings and these data; the history then names the machine that goes on.

        Raises ValueError for a checkpoint of other settings or data.
        """
        if not self.resume_path.exists():
            return
        state = torch.load(
            self.resume_path, map_location=self.device, weights_only=True
        )
        for key in ("settings", "data"):
            if state["history"][key] != self.history[key]:
                raise ValueError(
                    f"{self.resume_path} was written with other {key}; remove it to start again, or give --out another folder"
                )
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self.history["epochs"] = state["history"]["epochs"]

    def train_epoch(self, epoch: int) -> None:
        # Seeded by the epoch: a resumed run draws the same numbers as one that was never interrupted.
        seed = self.settings.seed * 1000 + epoch
        order = torch.Generator().manual_seed(seed)
        # several processes have one order, and each its own noise
        generator = (
            order
            if self.processes == 1
            else torch.Generator().manual_seed(seed + 10**7 * (self.rank + 1))
        )
        torch.manual_seed(
            seed + 10**7 * self.rank
        )  # dropout has no generator of its own
        started, losses = time.perf_counter(), []
        if self.settings.recolour:
            self.x, self.c = recoloured(
                self.sprites,
                self.settings.recolour,
                seed,
                self.settings.factors,
                self.settings.by_drawing,
            )
        whole = batches(
            self.x, self.c, self.settings.batch, self.settings.passes, order
        )
        p_drop = self.settings.p_drop if self.settings.context else None
        steps = du.train_steps(self.parallel, share(whole, self.rank, self.processes), self.schedule, optimiser=self.optimiser, p_drop=p_drop, average=self.average,
                               generator=generator, min_snr=self.settings.min_snr, weights=self.weights)  # fmt: skip
        bar = {
            "total": self.steps_an_epoch,
            "desc": f"{self.settings.name} epoch {epoch}",
            "mininterval": 5,
            "disable": self.rank > 0,
        }
        for loss in du.tqdm(steps, **bar):
            self.decay.step()
            losses.append(loss)
        seconds = time.perf_counter() - started
        each = [
            losses[i : i + self.settings.log_every]
            for i in range(0, len(losses), self.settings.log_every)
        ]
        means = [sum(some) / len(some) for some in each]
        self.history["epochs"].append(
            {
                "epoch": epoch,
                "loss": sum(losses) / len(losses),
                "seconds": round(seconds, 1),
                "losses": means,
            }
        )

    def write(self, epoch: int) -> None:
        """What an epoch leaves behind."""
        if epoch % 4 == 0 or epoch == self.settings.epochs - 1:
            du.save_weights(self.model, self.out / f"{self.settings.name}_{epoch}.pth")
        self.save()
        print(
            f"{self.settings.name} epoch {epoch}: loss {self.history['epochs'][-1]['loss']:.4f}",
            flush=True,
        )

    def first_writes(self, write, *arguments) -> None:
        """The first process writes, and the others, who may want to read it next, wait until it has."""
        if self.rank == 0:
            write(*arguments)
        if self.processes > 1:
            dist.barrier()

    def train(self) -> dict:
        """Train what is left of the stage; returns its history."""
        self.resume()
        for epoch in range(
            self.settings.first_epoch + len(self.history["epochs"]),
            self.settings.epochs,
        ):
            self.train_epoch(epoch)
            self.first_writes(self.write, epoch)
        self.first_writes(
            du.save_weights,
            self.average.module,
            self.out / f"{self.settings.name}_trained.pth",
        )
        return self.history


def write_history(path: Path, histories: list[dict]) -> None:
    """One history of all stages of a run: what each depended on, then the epochs in order."""
    epochs = [
        {**row, "losses": [round(loss, 4) for loss in row["losses"]]}
        for history in histories
        for row in history["epochs"]
    ]
    settings, machines = (
        [history[key] for history in histories] for key in ("settings", "machine")
    )
    write_json(
        path,
        {
            "stages": settings,
            "data": histories[0]["data"],
            "machines": machines,
            "epochs": epochs,
        },
    )


def train_run(
    name: str, epochs: int | None, device: torch.device, out: Path, **settings
) -> None:
    """All stages of a run, one after another, and their common history."""
    runs = list(stages(name, epochs, **settings))
    histories = [Run(stage, device, out).train() for stage in runs]
    if not dist.is_initialized() or dist.get_rank() == 0:
        write_history(out / f"{runs[0].name}_history.json", histories)


def train_basic(
    device: torch.device,
    out: Path,
    steps: int = 1407,
    batch: int = 128,
    seed: int = 2026,
) -> None:
    """Lesson 1's network: predict the clean digit; as many steps as three epochs of the full 60,000 digits in batches of 128."""
    digits, _ = du.load_digits("mnist")
    if len(digits) != 5000:
        raise ValueError(
            f"{len(digits)} digits found in data/; the shipped run uses mnist_5k.npz: move data/MNIST away"
        )
    digits = digits[:4500].to(device)  # the last 500 are held out
    generator = du.seed_everything(seed)
    model = du.BasicUNet().to(device)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    started, losses = time.perf_counter(), []
    for _ in du.tqdm(range(steps), desc="basic", mininterval=5):
        x = digits[torch.randint(len(digits), (batch,), generator=generator)]
        loss = torch.nn.functional.mse_loss(
            model(du.corrupt(x, torch.rand(batch, generator=generator), generator)), x
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(round(loss.item(), 5))
    du.save_weights(model, out / "basic_unet.pth")
    settings = {
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "learning_rate": 1e-3,
        "pictures": len(digits),
    }
    seconds = round(time.perf_counter() - started, 1)
    history = {
        "settings": settings,
        "data": sha256(("mnist_5k.npz",)),
        "machine": machine(device),
        "seconds": seconds,
        "losses": losses,
    }
    write_json(out / "basic_unet_history.json", history)


def questions(
    factors: list[dict[str, str]], answers: dict[str, list[str]]
) -> dict[str, torch.Tensor]:
    """{factor: (N,) index of each sprite's value among the answers}; -100, which cross-entropy ignores, where its class lacks the factor."""
    return {
        name: torch.tensor(
            [values.index(row[name]) if name in row else -100 for row in factors]
        )
        for name, values in answers.items()
    }


@torch.no_grad()
def right_answers(
    body: torch.nn.Module,
    heads: torch.nn.ModuleDict,
    x: torch.Tensor,
    asked: dict[str, torch.Tensor],
) -> dict[str, float]:
    """{factor: the share of sprites, of those that have it, whose value is named rightly}."""
    features = body(x)
    answers = {name: heads[name](features).argmax(1).cpu() for name in asked}
    return {
        name: round(float((answers[name] == target)[target >= 0].float().mean()), 4)
        for name, target in asked.items()
    }


def train_features(
    device: torch.device,
    out: Path,
    epochs: int = 12,
    batch: int = 100,
    seed: int = 2026,
    limit: int | None = None,
) -> None:
    """The classifier whose features FD and its kin compare: class and every factor at once, from clean sprites; only its body is kept.

    A ruler must not change: a file that was trained with these settings on these data is left alone.
    """
    settings, path = (
        {
            "epochs": epochs,
            "batch": batch,
            "seed": seed,
            "learning_rate": 2e-3,
            "limit": limit,
        },
        out / "features_history.json",
    )
    if path.exists() and (out / "features.pth").exists():
        before = json.loads(path.read_text(encoding="utf8"))
        if (before["settings"], before["data"]) == (settings, sha256(SPRITE_FILES)):
            return print(
                f"{out / 'features.pth'} is there already; remove it to train it again"
            )
    train, test = du.load_sprites("train"), du.load_sprites("test")
    x, factors = train.x[:limit].to(device), train.factors[:limit]
    every = train.factors + test.factors
    answers = {
        name: sorted({row[name] for row in every if name in row})
        for name in dict.fromkeys(name for row in every for name in row)
    }
    asked = {
        name: target.to(device) for name, target in questions(factors, answers).items()
    }
    generator = du.seed_everything(seed)
    body = du.feature_network(None).to(device)
    heads = torch.nn.ModuleDict(
        {name: torch.nn.Linear(64, len(values)) for name, values in answers.items()}
    ).to(device)
    steps = epochs * -(-len(x) // batch)
    optimiser = torch.optim.Adam([*body.parameters(), *heads.parameters()], 2e-3)
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: max(0.0, 1 - step / steps)
    )
    started, losses = time.perf_counter(), []
    for epoch in range(epochs):
        for rows in du.tqdm(
            torch.randperm(len(x), generator=generator).split(batch),
            desc=f"features epoch {epoch}",
            mininterval=5,
        ):
            features = body(x[rows])
            each = [
                torch.nn.functional.cross_entropy(
                    heads[name](features), target[rows], reduction="sum"
                )
                for name, target in asked.items()
            ]
            loss = sum(each) / len(rows)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            decay.step()
            losses.append(round(loss.item(), 4))
    du.save_weights(body, out / "features.pth")
    history = {
        "settings": settings,
        "data": sha256(SPRITE_FILES),
        "machine": machine(device),
        "seconds": round(time.perf_counter() - started, 1),
    }
    shipped = du.feature_network(out / "features.pth").to(device)  # in half precision
    accuracy = right_answers(
        shipped, heads, test.x.to(device), questions(test.factors, answers)
    )
    write_json(path, history | {"test_accuracy": accuracy, "losses": losses})


def seconds_of(work, repeats: int) -> float:
    """Median seconds of a call, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return sorted(times)[repeats // 2]


def speed(device: torch.device, repeats: int = 9) -> None:
    """Images a second of this training step against a plain float32 loop with the same network; seconds to draw 32 sprites."""
    settings, schedule = Settings(context=True), du.NoiseSchedule.linear()
    x, c = (
        torch.randn(settings.batch, 3, 16, 16),
        torch.eye(5)[torch.arange(settings.batch) % 5],
    )
    plain = du.ContextUnet(3, settings.n_feat, 5, 16).to(device)
    plain_adam = torch.optim.Adam(plain.parameters(), settings.learning_rate)
    ours = du.ContextUnet(3, settings.n_feat, 5, 16).to(
        device, memory_format=torch.channels_last
    )
    ours_adam = torch.optim.Adam(
        ours.parameters(), settings.learning_rate, fused=device.type != "mps"
    )
    average = du.average_weights(ours, settings.ema_decay)

    def plain_step():
        loss = du.diffusion_loss(plain, x.to(device), schedule, c=c.to(device))
        plain_adam.zero_grad()
        loss.backward()
        plain_adam.step()
        return loss.item()  # waits for a GPU, as our step does

    def our_step():
        next(
            du.train_steps(
                ours,
                iter([(x, c)]),
                schedule,
                optimiser=ours_adam,
                p_drop=settings.p_drop,
                average=average,
                generator=None,
                min_snr=settings.min_snr,
            )
        )

    print(machine(device))
    for name, step in (("plain float32 loop", plain_step), ("this recipe", our_step)):
        seconds = seconds_of(step, repeats)
        print(
            f"{name}: {seconds:.3f} s a step of {settings.batch}, {settings.batch / seconds:.0f} images a second"
        )
    for name, draw in (("DDIM-20", lambda: du.sample_ddim(ours, schedule, shape=(32, 3, 16, 16), steps=20)),
                       ("DDPM-500", lambda: du.sample_ddpm(ours, schedule, shape=(32, 3, 16, 16)))):  # fmt: skip
        print(f"32 sprites with {name}: {seconds_of(draw, 1):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        choices=("basic", "features", *STAGES),
        help="train one of the six (default: all)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE,
        help="folder for weights, histories and checkpoints (default: weights/)",
    )
    parser.add_argument(
        "--epochs", type=int, help="stop before this one (default: the whole run)"
    )
    parser.add_argument("--n-feat", type=int, default=Settings.n_feat)
    parser.add_argument(
        "--limit", type=int, help="train on the first so many sprites only"
    )
    parser.add_argument("--device", default=str(du.default_device()))
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument(
        "--speed",
        action="store_true",
        help="train nothing: measure images a second, and seconds to draw 32 sprites",
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if options.speed:
        return speed(device)
    shipped = (options.epochs, options.n_feat, options.limit) == (
        None,
        Settings.n_feat,
        Settings.limit,
    )
    if options.out.resolve() == HERE and not shipped:
        parser.error(
            "these settings would overwrite the shipped weights; add --out FOLDER"
        )
    if "WORLD_SIZE" in os.environ and options.only not in STAGES:
        parser.error(
            f"under torchrun add --only, one of {', '.join(STAGES)}: the others train alone"
        )
    join(device)
    if options.only in (None, "basic"):
        train_basic(device, options.out)
    if options.only in (None, "features"):
        train_features(device, options.out, limit=options.limit)
    for name in STAGES:
        if options.only in (None, name):
            train_run(
                name,
                options.epochs,
                device,
                options.out,
                n_feat=options.n_feat,
                limit=options.limit,
            )
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
