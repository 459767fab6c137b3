"""Distil the strong network into a student: `python weights/experiments/distill.py`.

It trains the student (a quarter of an hour of one core), writes sprite_unet_student.pth
and sprite_unet_student_history.json, and then the scores of student, teacher and ideal
denoiser, in 1 to 50 calls, to distill.json. Both continue where they were interrupted.
After training a new teacher (`train.py --only sprite`), run it again: what belongs to
other weights is made anew.

The method is distribution matching distillation (Yin et al. 2024, arXiv 2311.18828 and
2405.14867). The student draws in few calls. Its drawing gets noise. The teacher says
which clean picture it sees there; so does the *fake* network, a copy of the teacher
that goes on training on the student's drawings. Where the two differ, the student's
drawings differ from the teacher's sprites. The student moves from what the fake
network sees towards what the teacher sees.
"""

import io
import json
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from contexts import drawn_anew
from shipped import ddim, ddpm, draw_batches, held_out_sprites
from tables import (
    add_row,
    command_line,
    machine,
    missing,
    parsed,
    rounded,
    sha256,
    side_by_side,
    so_far,
    stored,
    write_json,
)

import diffusion_utilities as du  # found two folders up

SCHEDULE = du.NoiseSchedule.linear()
TEACHER = du.WEIGHTS / "sprite_unet_trained.pth"
# Of a SpriteUnet: what reads pixels, words and columns, or writes pixels
OUTER_LAYERS = ("stem", "out", "columns", "reader.word", "reader.position")

# ---- The student --------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What the training depends on; the history has them."""

    # the student practises drawing in so many calls, each as often
    calls: tuple[int, ...] = (1, 2, 4)
    # blocks of so many steps; in each cycle of blocks the learning rates fall to 0
    cycles: tuple[int, ...] = (20,)
    steps: int = 50
    batch: int = 48
    # of the student and of the fake network
    learning_rate: float = 3e-3
    fake_rate: float = 8e-3
    # how much Adam's learning rate is smaller
    adam_share: float = 1 / 12
    # of teacher and fake network. With more, the student draws fewer colours (LOG.md).
    doubt: float = 0.01
    p_drop: float = 0.1
    ema_decay: float = 0.99
    seed: int = 2026


def a_network(doubt: float) -> du.SpriteUnet:
    """A copy of the teacher that can be trained."""
    network = deepcopy(du.sprite_network(TEACHER))
    network.doubt = doubt
    return network


def seen(network, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """The clean picture that a network sees in x_t, (B, 3, 16, 16)."""
    noise = network(x, t / SCHEDULE.T, c)
    return du.predict_x0(x, t, noise, SCHEDULE)


def last(walked: Iterator, x: Tensor) -> Tensor:
    """The pictures at the end of a walk that began with x."""
    for _, reached, _ in walked:
        x = reached
    return x


def ddpm_step(x, t, t_prev, noise, z) -> Tensor:
    """A step of the sampler that the student is made for."""
    return du.denoise_add_noise(
        x, t, noise, SCHEDULE, z=z, t_prev=t_prev, variance="beta_tilde"
    )


class Distillation:
    """A training that can stop after any block, and continue from its file."""

    def __init__(self, settings: Settings, file: Path):
        self.settings = settings
        self.file = file
        self.teacher = a_network(settings.doubt).requires_grad_(False)
        self.fake = a_network(settings.doubt)
        self.student = a_network(doubt=1.0)
        self.average = du.average_weights(self.student, settings.ema_decay)
        self.optimisers = {}
        rates = {"student": settings.learning_rate, "fake": settings.fake_rate}
        for name, rate in rates.items():
            self.optimisers[name] = du.Muon(
                getattr(self, name).named_parameters(),
                adam=OUTER_LAYERS,
                lr=rate,
                adam_lr=rate * settings.adam_share,
            )
        self.first_rates = rates
        self.frequencies = du.straight_frequencies(SCHEDULE, even=0.25)
        self.history = {
            "settings": asdict(settings),
            "teacher": sha256(TEACHER),
            "machine": machine(torch.device("cpu")),
            "blocks": [],
        }

    # ---- One step

    def start(self, c: Tensor, generator: Generator) -> tuple[Tensor, int]:
        """Where a call of the student begins: (x_t, t).

        It is a random one of the calls that draw a sprite; the student makes those
        before it, without a gradient.
        """
        calls = self.settings.calls
        n = calls[int(torch.randint(len(calls), (), generator=generator))]
        place = int(torch.randint(n, (), generator=generator))
        path = du.straight_steps(SCHEDULE, n)[: place + 1]
        x = torch.randn((len(c), 3, 16, 16), generator=generator)
        walked = du.walk(
            self.student,
            SCHEDULE,
            x=x,
            steps=path,
            step=ddpm_step,
            context=c,
            generator=generator,
        )
        return last(walked, x).float(), path[-1]

    def noised(self, x_0: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Drawings with noise, each at a random step: (x_t, t)."""
        t = torch.multinomial(
            self.frequencies, len(x_0), replacement=True, generator=generator
        )
        noise = torch.randn(x_0.shape, generator=generator)
        return du.perturb_input(x_0, t, noise, SCHEDULE), t

    def student_loss(self, x_0: Tensor, c: Tensor, generator: Generator) -> Tensor:
        """Its gradient moves drawings x_0 from the fake picture to the teacher's.

        Each drawing counts as if it were equally far from what the teacher sees.
        """
        drawing = x_0.detach()
        with torch.no_grad():
            x_t, t = self.noised(drawing, generator)
            real = seen(self.teacher, x_t, t, c)
            fake = seen(self.fake, x_t, t, c)
        distance = (drawing - real).abs().mean((1, 2, 3), keepdim=True)
        direction = (fake - real) / (distance + 0.02)
        return (direction * x_0).mean()

    def fake_loss(self, drawing: Tensor, c: Tensor, generator: Generator) -> Tensor:
        """The usual loss of a SpriteUnet, on the student's drawings."""
        x_t, t = self.noised(drawing, generator)
        return self.fake(x_t, t / SCHEDULE.T, c, clean=drawing).mean()

    def take_step(self, c: Tensor, generator: Generator) -> tuple[float, float]:
        """Train the student, then the fake network; returns their losses."""
        with torch.autocast("cpu", torch.bfloat16, enabled=du.has_fast_bf16("cpu")):
            x, t = self.start(c, generator)
            x_0 = seen(self.student, x, torch.full((len(x),), t), c).float()
            student_loss = self.student_loss(x_0, c, generator)
            fake_loss = self.fake_loss(x_0.detach(), c, generator)
        for name, loss in (("student", student_loss), ("fake", fake_loss)):
            self.optimisers[name].zero_grad()
            loss.backward()
            self.optimisers[name].step()
        self.average.update_parameters(self.student)
        return student_loss.item(), fake_loss.item()

    # ---- All steps

    def train_block(self, block: int) -> None:
        """Train for a block, and add it to the history.

        The random numbers are seeded by the block: a training that was interrupted
        draws the same ones.
        """
        settings = self.settings
        seed = settings.seed * 1000 + block
        generator = Generator().manual_seed(seed)
        losses = []
        started = time.process_time()
        for place, c in enumerate(contexts(settings, generator, seed)):
            self.set_rates(block, place)
            losses.append(self.take_step(c, generator))
        student, fake = np.mean(losses, 0)
        row = {
            "block": block,
            "student": round(float(student), 4),
            "fake": round(float(fake), 4),
            "seconds": round(time.process_time() - started, 1),
        }
        self.history["blocks"].append(row)

    def set_rates(self, block: int, place: int) -> None:
        """Let the learning rates fall linearly, after the first quarter of a cycle."""
        ends = np.cumsum(self.settings.cycles)
        cycle = int(np.searchsorted(ends, block, side="right"))
        length = self.settings.cycles[cycle]
        since = block - (ends[cycle] - length) + place / self.settings.steps
        left = min(1, (1 - since / length) / 0.75)
        for name, optimiser in self.optimisers.items():
            rate = float(self.first_rates[name] * left)
            for group in optimiser.param_groups:
                own = 1 if group["of_matrices"] else self.settings.adam_share
                group["lr"] = rate * own

    @property
    def parts(self) -> dict:
        """What a checkpoint holds the state of."""
        networks = {"student": self.student, "fake": self.fake, "average": self.average}
        optimisers = {f"{name} optimiser": o for name, o in self.optimisers.items()}
        return networks | optimisers

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state["history"] = self.history
        memory = io.BytesIO()
        torch.save(state, memory)
        with du.written_whole(self.file) as temporary:
            temporary.write_bytes(memory.getbuffer())

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one of this teacher.

        Raises UnusableFile for one of other settings.
        """
        if not self.file.exists():
            return
        state = du.load_checkpoint(self.file)
        found = state["history"]
        if found["teacher"] != self.history["teacher"]:
            return
        if found["settings"] != self.history["settings"]:
            raise du.UnusableFile(
                f"{self.file} has other settings ({found['settings']}); remove it to "
                "start again"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.history = found

    def train(self) -> None:
        """Train the blocks that are left."""
        self.resume()
        for block in range(len(self.history["blocks"]), sum(self.settings.cycles)):
            self.train_block(block)
            self.save()
            print(self.history["blocks"][-1], flush=True)


def contexts(settings: Settings, generator: Generator, seed: int) -> Iterator[Tensor]:
    """What is asked for in each step of a block: rows or captions, some dropped."""
    sprites = du.load_sprites("train")
    wanted = settings.steps * settings.batch
    passes = -(-wanted // len(sprites)) + 1
    stream = drawn_anew(sprites, settings.batch, passes, generator, seed)
    taken = 0
    for _, c in stream:
        if len(c) < settings.batch:
            continue
        yield du.drop_context(c.float(), settings.p_drop, generator)
        taken += 1
        if taken == settings.steps:
            return


def train(settings: Settings, out: Path) -> Path:
    """The file of the student's weights, which is trained unless it is there.

    Weights of another teacher or of other settings are trained anew. The history says
    whose they are.
    """
    file = out / "sprite_unet_student.pth"
    record = out / "sprite_unet_student_history.json"
    du.sweep_temporary(out, "sprite_unet_student")
    du.sweep_temporary(out / "runs", "sprite_unet_student")
    work = Distillation(settings, out / "runs" / "sprite_unet_student.pt")
    before = stored(record, {})
    whose = {key: work.history[key] for key in ("settings", "teacher")}
    found = {key: before.get(key) for key in whose}
    if file.exists() and json.loads(json.dumps(whose)) == found:
        print(f"{file} is there already; remove it to train it again")
        return file
    work.file.parent.mkdir(parents=True, exist_ok=True)
    work.train()
    record.unlink(missing_ok=True)
    du.save_weights(work.average.module, file)
    write_json(record, work.history)
    return file


# ---- Scores -------------------------------------------------------------------------


def straight(n: int) -> list[int]:
    """n strides, even on the straight path."""
    return du.straight_steps(SCHEDULE, n)


def even(n: int) -> list[int]:
    """n strides, even in t."""
    return du.sampling_steps(n, SCHEDULE.T)


def restarting(n: int) -> list[int]:
    """Ten strides; the middle five are repeated until there are n calls."""
    path = straight(10)
    again = path[2:8] * ((n - 10) // 5)
    return path[:8] + again + path[8:]


def multistep(solver: type):
    """A sampler with one of the helper's multistep solvers, along any list of steps."""

    def draw(model, schedule, *, x_T, context, generator, steps):
        walked = du.walk(
            model,
            schedule,
            x=x_T,
            steps=steps,
            step=solver(schedule),
            context=context,
            generator=generator,
        )
        return last(walked, x_T)

    return draw


def ddpm_tilde(model, schedule, **options) -> Tensor:
    """DDPM with the smaller variance."""
    return ddpm(model, schedule, variance="beta_tilde", **options)


def ideal(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """The ideal denoiser of all legal sprites of the class that c asks for."""
    ab = float(SCHEDULE.ab[round(float(t[0]) * SCHEDULE.T)])
    noise = torch.empty_like(x)
    for place in range(5):
        rows = c[:, place] == 1
        if rows.any():
            shares = torch.eye(5)[place].tolist()
            answer = du.sprite_scoring().ideal_noise(x[rows].numpy(), ab, shares)
            noise[rows] = torch.from_numpy(answer)
    return noise


# {way: (whose answers, sampler, steps, numbers of calls, number of seeds)}
WAYS = {
    "student": ("student", ddpm_tilde, straight, (1, 2, 4, 8), 3),
    "DDPM": ("teacher", ddpm_tilde, straight, (1, 2, 4, 8, 20, 50), 1),
    "DDIM": ("teacher", ddim, straight, (2, 4, 8, 20), 1),
    "2M": ("teacher", multistep(du.SecondOrder), straight, (2, 4, 8, 20), 1),
    "DDIM, even in t": ("teacher", ddim, even, (4, 8, 20), 1),
    "iPNDM, even in t": ("teacher", multistep(du.AdamsBashforth), even, (4, 8, 20), 1),
    "DDPM, even in t": ("teacher", ddpm_tilde, even, (4, 8, 20, 50), 1),
    "DDPM, restarts": ("teacher", ddpm_tilde, restarting, (20, 50), 1),
    "ideal": ("ideal", ddpm_tilde, straight, (1, 2, 4, 8, 20), 1),
    # is it the network's errors that iPNDM multiplies? An ideal denoiser has none.
    "ideal, DDIM, even in t": ("ideal", ddim, even, (4, 8, 20), 1),
    "ideal, iPNDM, even in t": (
        "ideal",
        multistep(du.AdamsBashforth),
        even,
        (4, 8, 20),
        1,
    ),
}
SEEDS = (4, 5, 6)
SAMPLES = 300


def network_of(whose: str, student: Path):
    """What answers: a network, or the ideal denoiser."""
    if whose == "ideal":
        return ideal
    return du.sprite_network(TEACHER if whose == "teacher" else student)


def score_row(student: Path, way: str, calls: int, seed: int, n: int) -> dict:
    """The scores of n samples, each class in turn. On one core."""
    torch.set_num_threads(1)
    whose, draw, steps, _, _ = WAYS[way]
    asked = torch.eye(5)[torch.arange(n) % 5]
    with torch.autocast("cpu", torch.bfloat16, enabled=du.has_fast_bf16("cpu")):
        pictures = draw_batches(
            network_of(whose, student),
            n,
            draw,
            seed=seed,
            context=asked,
            steps=steps(calls),
        )
    return rounded(du.sprite_scores(pictures, asked.numpy()))


def real_row(n: int) -> dict:
    """The scores of held-out real sprites."""
    return rounded(du.sprite_scores(held_out_sprites(n)))


def planned_rows() -> dict[str, tuple[str, int, int]]:
    """{name: (way, calls, seed)} of all rows."""
    rows = {}
    for way, (_, _, _, counts, seeds) in WAYS.items():
        for calls in counts:
            for seed in SEEDS[:seeds]:
                rows[f"{way}, {calls}, seed {seed}"] = (way, calls, seed)
    return rows


def score(student: Path, options, parser) -> None:
    """Write the scores that are missing.

    A row is kept as long as the weights that drew it stay the same.
    """
    settings = {"samples": options.samples}
    content = so_far(options.out, settings, parser, floor=None, rows={})
    whose = {"student": sha256(student), "teacher": sha256(TEACHER), "ideal": "ideal"}
    if content["floor"] is None:
        content["floor"] = real_row(options.samples)
    planned = planned_rows()
    jobs = {}
    drawn_by = {name: whose[WAYS[way][0]] for name, (way, _, _) in planned.items()}
    for name in missing(content["rows"], drawn_by, "drawn_by"):
        jobs[name] = (student, *planned[name], options.samples)
    for name, scores in side_by_side(score_row, jobs, options.workers):
        row = {"drawn_by": drawn_by[name], "scores": scores}
        add_row(content["rows"], name, row, planned)
        write_json(options.out, content)
        print(name, scores["legal"], scores["FD"], flush=True)


def main() -> None:
    parser = command_line(__doc__, du.WEIGHTS / "distill.json")
    parser.add_argument("--weights", type=Path, default=du.WEIGHTS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parsed(parser)
    torch.set_num_threads(1)
    student = train(Settings(), options.weights)
    score(student, options, parser)


if __name__ == "__main__":
    main()
