"""Draw and score again what the lessons show as stored results: `python weights/make_results.py` (about three hours on two cores).

Writes weights/results/*.npz (sheets of 64 pictures, uint8), weights/results.json (their numbers), weights/scores.json (every measure of 1,000
pictures a row: real ones, spoilt ones, and samples of each epoch and of several samplers) and weights/guidance.json (lesson 6: guided samples, and
samples asked for pairs of factors). What is already there for the same weights is kept, so an interrupted run goes on where it stopped; `--only
sheets`, `--only scores` or `--only guidance` does one of the three.
"""

import argparse
import hashlib
import inspect
import itertools
import json
import sys
import time
from pathlib import Path

import matplotlib.colors
import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from train import write_json  # noqa: E402

import diffusion_utilities as du  # noqa: E402  (found beside this folder)

EPOCHS = (0, 4, 12, 24, 31)
SHEETS = (
    *(f"model_{epoch}" for epoch in EPOCHS),
    "model_trained",
    "context_model_trained",
)
SAMPLERS = {
    "ddpm": (du.sample_ddpm, {}),
    "ddpm_tilde": (du.sample_ddpm, {"variance": "beta_tilde"}),
    "ddim": (du.sample_ddim, {}),
    "2m": (du.sample_multistep, {"solver": "2m"}),
    "ipndm": (du.sample_multistep, {"solver": "ipndm"}),
}
SAMPLER_STEPS = (500, 100, 50, 20, 10, 5)
MULTISTEP_UP_TO = 50  # they are made for few steps
LOSS_STEPS = tuple(range(25, 500, 50))  # evenly over all t, as training draws them
SEED, N = 4, 64
RULED = (
    "model_4",
    "model_12",
    "model_24",
    "model_31",
    "model_trained",
    "context_model_trained",
)
RULED_N, RULED_STEPS, BATCH = (
    1000,
    50,
    250,
)  # DDIM-50: for a curve over epochs good enough
TRUST = 8.0  # of PaletteNets that draw; chosen with other seeds than the rows have (README.md)
RESTARTS = {"steps": du.restart_steps(), "variance": "beta_tilde", "clip": True}
RULED_DDPM = {  # row: (weights, options of sample_ddpm); the second is like the third, but never goes back
    "model_31, DDPM-500": ("model_31", {}),
    "model_31, DDPM-495": ("model_31", RESTARTS | {"steps": 495}),
    "model_31, restarts": ("model_31", RESTARTS),
}
RULED_FAST = {  # quality against calls: {label: (sampler, options, numbers of steps)}
    "DDPM, tilde": (du.sample_ddpm, {"variance": "beta_tilde"}, (10, 20, 50, 100)),
    "DDIM, eta 0.5": (du.sample_ddim, {"eta": 0.5}, (10, 20, 50, 100)),
    "DDIM": (du.sample_ddim, {}, (5, 10, 20, 100)),
    "DPM-Solver++(2M)": (du.sample_multistep, {"solver": "2m"}, (5, 10, 20, 50)),
    "iPNDM": (du.sample_multistep, {"solver": "ipndm"}, (5, 10, 20, 50)),
}
FAST_BEST = {
    "DDPM, tilde": (10, 20, 50),
    "DDIM, eta 0.5": (10, 20),
    "DDIM": (5, 10, 20),
    "DPM-Solver++(2M)": (5, 10, 20),
    "iPNDM": (5, 10, 20),
}
RULED_BEST = {"DDPM": (du.sample_ddpm, {}, (500,))} | {
    label: (*RULED_FAST[label][:2], steps) for label, steps in FAST_BEST.items()
}
RULED_SEEDS = {
    "DDPM": (500,),
    "DDIM": (20,),
    "DPM-Solver++(2M)": (10,),
    "iPNDM": (10,),
}  # the best weights' rows that have three seeds
RULED_IDEAL = {
    "DDPM, tilde": (20,),
    "DDIM": (10, 20),
    "DPM-Solver++(2M)": (10,),
}  # samplers of RULED_FAST with the ideal denoiser
RULED_TRUST = {
    "DDPM, tilde": (20, 50),
    "DDIM": (20,),
}  # the best weights as they were trained, without TRUST
GUIDED_N, GUIDED_W, GUIDED_SEEDS = 300, (0, 1, 2, 4, 8), (SEED, SEED + 1, SEED + 2)
GUIDED = {  # {label: (weights, guided by what, sampler, options, guidance weights)}; None: by the same network without the context
    "PaletteNet, DDPM": (
        "best_trained",
        None,
        du.sample_ddpm,
        {"variance": "beta_tilde", "steps": 20},
        GUIDED_W,
    ),
    "PaletteNet, DDIM": ("best_trained", None, du.sample_ddim, {"steps": 20}, GUIDED_W),
    "ContextUnet, DDIM": (
        "context_model_trained",
        None,
        du.sample_ddim,
        {"steps": 20},
        GUIDED_W,
    ),
    "epoch 31 by epoch 12": (
        "model_31",
        "model_12",
        du.sample_ddpm,
        {"variance": "beta_tilde", "steps": 20},
        (1, 2),
    ),
}
ASKED_W = (1, 2)  # pairs of factors asked for at once, and by the sum of two guidances


LAST_FROM_1 = {
    "steps": [*du.sampling_steps(100, 500)[:-1], 1, 0],
    "variance": "beta_tilde",
}  # the last step as in a run of 500


def noise_in_the_last_step(
    model, schedule, shape, context=None, generator=None, keep=0
):
    """Noise is added once more where the mean is the answer."""

    def step(x, t, t_prev, pred_noise, z):
        mean = du.denoise_add_noise(
            x, t, pred_noise, schedule, z=z, t_prev=t_prev, variance="beta_tilde"
        )
        return mean + float(schedule.b[1]) ** 0.5 * z if t_prev == 0 else mean

    x = torch.randn(shape, generator=generator)
    return [
        x
        for _, x, _ in du.walk(
            model,
            schedule,
            x=x,
            steps=LAST_FROM_1["steps"],
            step=step,
            context=context,
            generator=generator,
        )
    ][-1], None


def train_mode(model, schedule, shape, context=None, generator=None, keep=0):
    """DDPM in 100 steps; batch norm takes the statistics of the batch."""
    model.train()
    return du.sample_ddpm(
        lambda x, t, c: model(x, t, c),
        schedule,
        shape=shape,
        x_T=None,
        context=context,
        steps=100,
        generator=generator,
        keep=keep,
        variance="beta_tilde",
    )


def wrapped_stride(model, schedule, shape, context=None, generator=None, keep=0):
    """DDIM with 30 steps asked for, as strides of 500 // 30: 32 calls, the last of which goes to index -12, which is t = 489."""
    x, stride = torch.randn(shape, generator=generator), schedule.T // 30
    with torch.no_grad():
        for t in range(schedule.T, 0, -stride):
            ab, ab_prev = float(schedule.ab[t]), float(schedule.ab[t - stride])
            pred_noise = model(x, torch.full((shape[0],), t / schedule.T), context)
            x = (
                ab_prev**0.5 * (x - (1 - ab) ** 0.5 * pred_noise) / ab**0.5
                + (1 - ab_prev) ** 0.5 * pred_noise
            )
    return x, None


def beta_0_kept(model, schedule, shape, context=None, generator=None, keep=0):
    """Every alpha-bar but that of t = 0 has one factor too many, so alpha-bar_1 is not alpha_1 and the last step is not exact."""

    def step(x, t, t_prev, pred_noise, z):
        a, long, long_prev = (
            float(schedule.ab[t] / schedule.ab[t_prev]),
            kept * float(schedule.ab[t]),
            kept * float(schedule.ab[t_prev]),
        )
        mean = (x - (1 - a) / (1 - long) ** 0.5 * pred_noise) / a**0.5
        return (
            mean
            if t_prev == 0
            else mean + ((1 - a) * (1 - long_prev) / (1 - long)) ** 0.5 * z
        )

    kept, x = 1 - 1e-4, torch.randn(shape, generator=generator)
    return [
        x
        for _, x, _ in du.walk(
            model,
            schedule,
            x=x,
            steps=LAST_FROM_1["steps"],
            step=step,
            context=context,
            generator=generator,
        )
    ][-1], None


def from_real_noise(model, schedule, shape, context=None, generator=None, keep=0):
    """DDPM in 100 steps from noised test sprites: what x_T ought to be where alpha-bar_T is not 0."""
    x = du.load_sprites("test").x
    x = x[torch.randint(len(x), (shape[0],), generator=generator)]
    x_T = du.perturb_input(
        x, schedule.T, torch.randn(shape, generator=generator), schedule
    )
    return du.sample_ddpm(
        model,
        schedule,
        x_T=x_T,
        context=context,
        steps=100,
        generator=generator,
        keep=keep,
        variance="beta_tilde",
    )


RULED_FAULTS = {  # with epoch 31: what each is to be compared with comes first; for the rest that is "model_31, DDPM, tilde-100"
    "last step from 1": (du.sample_ddpm, LAST_FROM_1),
    "noise in the last step": (noise_in_the_last_step, {}),
    "beta_0 kept": (beta_0_kept, {}),
    "DDIM-30": (du.sample_ddim, {"steps": 30}),
    "DDIM-30, wrapped": (wrapped_stride, {}),
    "no noise added": (
        du.sample_ddpm,
        {"steps": 100, "variance": "beta_tilde", "noise_scale": 0.0},
    ),
    "train mode": (train_mode, {}),
    "from noised sprites": (from_real_noise, {}),
}


def network(name: str, trust: float = TRUST) -> torch.nn.Module:
    if name.startswith(("best", "factor")):
        n_cfeat = (
            5 if name.startswith("best") else len(du.sprite_factory().context_columns())
        )
        model = du.PaletteNet(
            du.load_sprites("train").images,
            du.NoiseSchedule.linear(),
            n_cfeat=n_cfeat,
            trust=trust,
        )
        return du.load_weights(model, HERE / f"{name}.pth")
    return du.load_weights(du.ContextUnet(3, 64, 5, 16), HERE / f"{name}.pth").to(
        memory_format=torch.channels_last
    )


def stored(name: str, weights: str, draw, options: tuple = ()) -> dict[str, np.ndarray]:
    """results/{name}.npz, drawn again only when the weights or the settings it was drawn with have changed: `options` that name does not tell."""
    path, settings = (
        HERE / "results" / f"{name}.npz",
        repr((SEED, N, name, *options)).encode(),
    )
    digest = hashlib.sha256(
        (HERE / f"{weights}.pth").read_bytes() + settings
    ).hexdigest()
    if path.exists():
        with np.load(path) as file:
            content = dict(file)
        if str(content["drawn_with"]) == digest:
            return content
    started = time.perf_counter()
    pictures = draw(network(weights))
    content = {
        "pictures": pictures,
        "seconds": np.array(round(time.perf_counter() - started, 2)),
        "drawn_with": np.array(digest),
    }
    with du._written_whole(path) as temporary:
        np.savez_compressed(temporary, **content)
    print(f"{name}: {float(content['seconds']):.0f} s", flush=True)
    return content


def contexts(name: str, n: int = N) -> torch.Tensor | None:
    """Each class in turn for the weights that were trained with labels."""
    return (
        torch.eye(5)[torch.arange(n) % 5]
        if name.startswith(("context", "best"))
        else None
    )


def sampled(name: str, sample, **options):
    """A drawing function for `stored`: N pictures, always from the same x_T and with the same noise."""

    def draw(model):
        generator = torch.Generator().manual_seed(SEED)
        x, _ = sample(
            model,
            du.NoiseSchedule.linear(),
            (N, 3, 16, 16),
            context=contexts(name),
            generator=generator,
            keep=2,
            **options,
        )
        return du.to_pictures(x)

    return draw


def mean_and_error(values) -> dict[str, float]:
    values = np.asarray(values, dtype=np.float64)
    return {
        "mean": round(float(values.mean()), 5),
        "standard_error": round(float(values.std(ddof=1) / len(values) ** 0.5), 5),
    }


def scores(pictures: np.ndarray, train: np.ndarray) -> dict:
    factory = du.sprite_factory()
    specifications, distances = factory.decode(pictures)
    return {
        "legal": int(factory.are_legal(pictures, specifications).sum()),
        "legal_distance": mean_and_error(distances),
        "palette_distance": mean_and_error(factory.palette_distance(pictures)),
        "nearest_training_picture": mean_and_error(
            du.nearest_pictures(pictures, train)[0]
        ),
    }


def epoch_losses(test: du.Sprites) -> dict:
    """Held-out loss of each epoch at each step, their weighted mean ("all"), and epochs 24 minus 31, paired; all with standard errors."""
    x = test.x[:300].contiguous(memory_format=torch.channels_last)
    losses = {
        epoch: du.denoising_losses(
            network(f"model_{epoch}"), x, du.NoiseSchedule.linear(), steps=LOSS_STEPS
        )
        for epoch in EPOCHS
    }
    losses["trained"] = du.denoising_losses(
        network("model_trained"), x, du.NoiseSchedule.linear(), steps=LOSS_STEPS
    )
    snr = du.NoiseSchedule.linear().snr[list(LOSS_STEPS)]
    weights = (5 / snr).clamp(max=1)[:, None]  # min-SNR, as the network was trained
    table = {
        str(epoch): {"all": mean_and_error((weights * rows).mean(0))}
        | {str(t): mean_and_error(row) for t, row in zip(LOSS_STEPS, rows)}
        for epoch, rows in losses.items()
    }
    return {
        "pictures": len(x),
        "steps": LOSS_STEPS,
        "losses": table,
        "24_minus_31": mean_and_error((weights * (losses[24] - losses[31])).mean(0)),
    }


def blurred(images: np.ndarray) -> np.ndarray:
    """Each pixel the mean of its 3x3 neighbours, weighted 1, 2, 1 both ways; the border is repeated."""
    padded = np.pad(images.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    columns = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    return (
        ((columns[:, :-2] + 2 * columns[:, 1:-1] + columns[:, 2:]) / 16)
        .round()
        .astype(np.uint8)
    )


def hue_shifted(images: np.ndarray, turn: float = 0.1) -> np.ndarray:
    """Every hue turned by a tenth of the colour circle."""
    hsv = matplotlib.colors.rgb_to_hsv(images / 255)
    hsv[..., 0] = (hsv[..., 0] + turn) % 1
    return (matplotlib.colors.hsv_to_rgb(hsv) * 255).round().astype(np.uint8)


def real_sets(n: int = RULED_N, seed: int = 0) -> dict[str, np.ndarray]:
    """The floor, the ceiling, and sets of real sprites spoilt in a known way: {name: (n or a few less, 16, 16, 3) uint8}."""
    factory, train, test = (
        du.sprite_factory(),
        du.load_sprites("train"),
        du.load_sprites("test"),
    )
    images = test.images[np.random.default_rng(seed).permutation(len(test))]
    sprites = factory.decode(images)[0]
    return {
        "test (floor)": images[:n],
        "fresh legal (ceiling)": factory.render_many(
            factory.draw_specifications(n, seed)
        ),
        "blur": blurred(images[:n]),
        "hue shift": hue_shifted(images[:n]),
        "swapped parts": factory.near_misses(sprites, "part", seed)[:n],
        "mixed colours": factory.near_misses(sprites, "colour", seed)[:n],
        "copies of training": train.images[
            np.random.default_rng(seed).permutation(len(train))[:n]
        ],
        "no spells": factory.render_many(
            factory.draw_specifications(
                n, seed, [name for name in du.CLASS_NAMES if name != "spell"]
            )
        ),
        "few, repeated": images[np.arange(n) % (n // 20)],
        "pixels shuffled": images[:n]
        .reshape(-1, 256, 3)[:, np.random.default_rng(seed).permutation(256)]
        .reshape(-1, 16, 16, 3),
    }


def rounded(scores: dict[str, tuple[float, float, float]]) -> dict[str, list[float]]:
    """For JSON, which has no NaN: without the measures that have no value, such as what is new where nothing is legal."""
    return {
        name: [round(value, 4) for value in values]
        for name, values in scores.items()
        if not np.isnan(values).any()
    }


def ruler() -> str:
    """A digest of all that a row of scores depends on beside its pictures: the grammar, the sprites, the classifier and the measures' code."""
    files = [
        *sorted(du.DATA.glob("sprite*.py")),
        *sorted((du.DATA / "sprite_templates").glob("*.py")),
        *sorted(du.DATA.glob("sprite*_16x16.*")),
    ]
    measures = (
        du.sprite_scores,
        du.sprite_features,
        du.memorised,
        du.nearest_pictures,
        du.precision_recall_density_coverage,
        du.frechet_distance,
    )
    content = [file.read_bytes() for file in (*files, HERE / "features.pth")] + [
        inspect.getsource(f).encode() for f in (*measures, real_sets)
    ]
    return hashlib.sha256(b"".join(content)).hexdigest()


def ideal(schedule: du.NoiseSchedule):
    """The ideal denoiser as samplers ask a network (lesson 4, section 11)."""
    factory, shares = du.sprite_factory(), du.load_sprites("train").c.sum(0).numpy()

    def model(x, t, c=None):
        return torch.from_numpy(
            factory.ideal_noise(
                x.numpy(),
                float(schedule.ab[round(float(t.flatten()[0]) * schedule.T)]),
                shares,
            )
        )

    return model


def trusted(name: str) -> tuple[float, ...]:
    """What a row of these weights depends on beside them: nothing, but for a PaletteNet."""
    return (TRUST,) if name.startswith(("best", "factor")) else ()


def guided(model, w: float, weak=None):
    """Lesson 6's rule: from what a weaker model says (as a rule the same one, without the context) so far towards this one, and past it for w > 1."""

    def predict(x, t, c):
        base = model(x, t, None) if weak is None else weak(x, t, c)
        return base + w * (model(x, t, c) - base)

    return model if w == 1 else predict


def asked_apart(model, w: float, n_classes: int = len(du.CLASS_NAMES)):
    """Class and one factor, class and the other factor: their two guidances are added to what the class alone says."""

    def predict(x, t, c):
        plain, columns = (
            c.clone(),
            [row.nonzero().flatten()[1:] for row in c],
        )  # the class comes first, then two factors
        plain[:, n_classes:] = 0
        each = []
        for i in (0, 1):
            one = plain.clone()
            one[torch.arange(len(c)), torch.stack(columns)[:, i]] = 1
            each.append(model(x, t, one))
        base = model(x, t, plain)
        return base + w * sum(eps - base for eps in each)

    return predict


def asked_pairs(
    held_out: bool, n: int = GUIDED_N, seed: int = SEED
) -> list[dict[str, str]]:
    """n times a class and a value of each of its two paired factors: all pairs that training lacks in turn, or others at random."""
    factory, rng, rows = du.sprite_factory(), np.random.default_rng(seed), []
    for i in range(n):
        name = du.CLASS_NAMES[i % len(du.CLASS_NAMES)]
        pairs, legal = factory.held_out_pairs(name), factory.factors_of(name)
        every = (
            sorted(pairs.pairs)
            if held_out
            else [
                (a, b)
                for a in legal[pairs.first]
                for b in legal[pairs.second]
                if (a, b) not in pairs.pairs
            ]
        )
        one, other = every[
            i // len(du.CLASS_NAMES) % len(every)
            if held_out
            else rng.integers(len(every))
        ]
        rows.append({"class": name, pairs.first: one, pairs.second: other})
    return rows


def pair_scores(
    pictures: np.ndarray, asked: list[dict[str, str]]
) -> dict[str, tuple[float, float, float]]:
    """Which shares of the pictures are as asked, legal or not: {measure: (value, low, high)}; the last ones by class."""
    factory = du.sprite_factory()
    found, values = factory.verdicts(pictures, du.load_sprites("train").factors, asked)
    right = np.array(
        [
            [row.get(factor) == value for factor, value in want.items()]
            for row, want in zip(found, asked)
        ]
    )  # (n, 3)
    shares = {
        "class": right[:, 0],
        "first": right[:, 1],
        "second": right[:, 2],
        "all": right.all(1),
        "legal": values["legal"],
    }
    shares["all, and legal"] = shares["all"] & shares["legal"]
    classes = np.array([want["class"] for want in asked])
    return {
        k: factory.interval(v)
        for k, v in (
            shares
            | {f"all, {name}": right.all(1)[classes == name] for name in du.CLASS_NAMES}
        ).items()
    }


def make_guidance(path: Path) -> None:
    """guidance.json: guided samples of several weights w, and samples asked for pairs of factors that training lacks, or has."""
    before = (
        json.loads(path.read_text(encoding="utf8"))["rows"] if path.exists() else {}
    )
    content, code = (
        {"n": GUIDED_N, "rows": {}},
        "".join(
            map(inspect.getsource, (guided, asked_apart, asked_pairs, pair_scores))
        ),
    )

    def keep(row: str, weights: tuple[str, ...], settings: tuple, scores) -> None:
        files = b"".join((HERE / f"{name}.pth").read_bytes() for name in weights)
        digest = hashlib.sha256(
            files
            + repr((row, settings, GUIDED_N, BATCH, TRUST, code)).encode()
            + ruler().encode()
        ).hexdigest()
        content["rows"][row] = before.get(row, {})
        if content["rows"][row].get("drawn_with") != digest:
            content["rows"][row] = {"drawn_with": digest, "scores": rounded(scores())}
            write_json(path, {**content, "rows": before | content["rows"]})
            print(f"{row}: scored", flush=True)

    tests = du.load_sprites("test")
    rows = np.random.default_rng(0).permutation(len(tests))[:GUIDED_N]
    keep(
        "test (floor)",
        (),
        (),
        lambda: du.sprite_scores(tests.images[rows], tests.c[rows].numpy()),
    )
    for label, (name, weak, sample, options, weights) in GUIDED.items():
        c = contexts(name, GUIDED_N)
        for w, seed in itertools.product(weights, GUIDED_SEEDS):

            def drawn(
                name=name,
                weak=weak,
                sample=sample,
                options=options,
                c=c,
                w=w,
                seed=seed,
            ):
                model = guided(network(name), w, network(weak) if weak else None)
                return du.sprite_scores(
                    drawn_in_batches(
                        name, GUIDED_N, sample, seed, model=model, asked=c, **options
                    ),
                    c,
                )

            keep(
                f"{label}, w = {w}, seed {seed}",
                (name, weak) if weak else (name,),
                (options,),
                drawn,
            )
    for held_out, way, w, seed in itertools.product(
        (False, True), (guided, asked_apart), ASKED_W, GUIDED_SEEDS
    ):

        def scored(held_out=held_out, way=way, w=w, seed=seed):
            asked = asked_pairs(held_out, seed=seed)
            c, model = (
                torch.from_numpy(du.sprite_factory().as_context(asked)),
                way(network("factor_model_trained"), w),
            )
            pictures = drawn_in_batches(
                "factor",
                GUIDED_N,
                du.sample_ddpm,
                seed,
                model=model,
                asked=c,
                variance="beta_tilde",
                steps=20,
            )
            return pair_scores(pictures, asked)

        how = "together" if way is guided else "apart"
        keep(
            f"{'held-out' if held_out else 'seen'} pairs, {how}, w = {w}, seed {seed}",
            ("factor_model_trained",),
            (),
            scored,
        )
    write_json(path, content)


def drawn_in_batches(
    name: str,
    n: int,
    sample,
    seed: int = SEED,
    trust: float = TRUST,
    model=None,
    asked=None,
    **options,
) -> np.ndarray:
    """n pictures from the weights of this name, from the "ideal" denoiser, or from a model that is given; each class in turn, or what is asked."""
    generator, asked, pictures = (
        torch.Generator().manual_seed(seed),
        contexts(name, n) if asked is None else asked,
        [],
    )
    model = model or (
        ideal(du.NoiseSchedule.linear()) if name == "ideal" else network(name, trust)
    )
    for start in range(0, n, BATCH):
        size, c = (
            min(BATCH, n - start),
            None if asked is None else asked[start : start + BATCH],
        )
        x, _ = sample(
            model,
            du.NoiseSchedule.linear(),
            (size, 3, 16, 16),
            context=c,
            generator=generator,
            keep=0,
            **options,
        )
        pictures.append(du.to_pictures(x))
    return np.concatenate(pictures)


def fast_rows() -> dict[str, tuple[str, str, int, dict]]:
    """The rows of RULED_FAST, RULED_BEST and RULED_IDEAL: {row: (weights or "ideal", label, steps, seed or trust where it is another)}."""
    rows = {
        f"model_31, {label}-{k}": ("model_31", label, k, {})
        for label, (_, _, steps) in RULED_FAST.items()
        for k in steps
    }
    rows |= {
        f"best, {label}-{k}": ("best_trained", label, k, {})
        for label, (_, _, steps) in RULED_BEST.items()
        for k in steps
    }
    for label, steps in RULED_SEEDS.items():
        rows |= {
            f"best, {label}-{k}, seed {seed}": (
                "best_trained",
                label,
                k,
                {"seed": seed},
            )
            for k in steps
            for seed in (SEED + 1, SEED + 2)
        }
    rows |= {
        f"best, {label}-{k}, no trust": ("best_trained", label, k, {"trust": 0.0})
        for label, steps in RULED_TRUST.items()
        for k in steps
    }
    return rows | {
        f"ideal, {label}-{k}": ("ideal", label, k, {})
        for label, steps in RULED_IDEAL.items()
        for k in steps
    }


def make_scores(path: Path, n: int = RULED_N) -> None:
    """scores.json: every measure, with its 95 % interval, of real sprites, of spoilt ones, of each epoch's samples, and of several samplers."""
    before = (
        json.loads(path.read_text(encoding="utf8"))
        if path.exists()
        else {"real": {}, "samples": {}}
    )
    # the sampler of the rows that do not name theirs
    content = {"n": n, "sampler": f"DDIM-{RULED_STEPS}", "real": {}, "samples": {}}
    settings = repr((n, RULED_STEPS, SEED, BATCH)) + ruler()

    def keep(part: str, name: str, drawn_with: str, pictures, asked=None) -> None:
        content[part][name] = before[part].get(name, {})
        if content[part][name].get("drawn_with") != drawn_with:
            content[part][name] = {
                "drawn_with": drawn_with,
                "scores": rounded(du.sprite_scores(pictures(), asked)),
            }
            write_json(
                path,
                {
                    **content,
                    "real": before["real"] | content["real"],
                    "samples": before["samples"] | content["samples"],
                },
            )
            print(f"{name}: scored", flush=True)

    for name, pictures in real_sets(n).items():
        keep(
            "real",
            name,
            hashlib.sha256(settings.encode()).hexdigest(),
            lambda pictures=pictures: pictures,
        )
    for name in RULED:
        digest = hashlib.sha256(
            (HERE / f"{name}.pth").read_bytes() + settings.encode()
        ).hexdigest()
        keep(
            "samples",
            name,
            digest,
            lambda name=name: drawn_in_batches(
                name, n, du.sample_ddim, steps=RULED_STEPS
            ),
            contexts(name, n),
        )
    for row, (name, options) in RULED_DDPM.items():
        digest = hashlib.sha256(
            (HERE / f"{name}.pth").read_bytes()
            + repr((settings, options, *trusted(name))).encode()
        ).hexdigest()
        keep(
            "samples",
            row,
            digest,
            lambda name=name, options=options: drawn_in_batches(
                name, n, du.sample_ddpm, **options
            ),
            contexts(name, n),
        )
    for label, (sample, options) in RULED_FAULTS.items():
        code = inspect.getsource(sample) if sample.__module__ == __name__ else ""
        digest = hashlib.sha256(
            (HERE / "model_31.pth").read_bytes()
            + repr((settings, label, options, code)).encode()
        ).hexdigest()
        keep(
            "samples",
            f"model_31, {label}",
            digest,
            lambda s=sample, options=options: drawn_in_batches(
                "model_31", n, s, **options
            ),
        )
    for row, (name, label, k, other) in fast_rows().items():
        sample, options = (
            RULED_BEST[label][0],
            RULED_BEST[label][1] | {"steps": k} | other,
        )
        weights = b"" if name == "ideal" else (HERE / f"{name}.pth").read_bytes()
        digest = hashlib.sha256(
            weights + repr((settings, label, options, *trusted(name))).encode()
        ).hexdigest()
        keep(
            "samples",
            row,
            digest,
            lambda name=name, s=sample, options=options: drawn_in_batches(
                name, n, s, **options
            ),
            contexts(name, n),
        )
    write_json(path, content)


def make_sheets() -> None:
    train, test = du.load_sprites("train"), du.load_sprites("test")
    results = {
        "real_test": {"n": N} | scores(test.images[:N], train.images),
        "sheets": {},
        "samplers": {},
    }
    for name in SHEETS:
        sheet = stored(name, name, sampled(name, du.sample_ddpm))
        results["sheets"][name] = {"n": N, "seconds": float(sheet["seconds"])} | scores(
            sheet["pictures"], train.images
        )
    sheet = stored(
        "restarts",
        "model_31",
        sampled("restarts", du.sample_ddpm, **RESTARTS),
        (RESTARTS,),
    )
    results["restarts"] = {"n": N, "seconds": float(sheet["seconds"])} | scores(
        sheet["pictures"], train.images
    )
    for steps in SAMPLER_STEPS:
        for label, (sample, options) in SAMPLERS.items():
            if sample is du.sample_multistep and steps > MULTISTEP_UP_TO:
                continue
            name = (
                f"{label}_{steps}"
                if (label, steps) != ("ddpm", 500)
                else "model_trained"
            )
            sheet = stored(
                name, "model_trained", sampled(name, sample, steps=steps, **options)
            )
            results["samplers"][f"{label}_{steps}"] = {
                "n": N,
                "seconds": float(sheet["seconds"]),
            } | scores(sheet["pictures"], train.images)
    results["epochs"] = epoch_losses(test)
    write_json(HERE / "results.json", results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        choices=("sheets", "scores", "guidance"),
        help="one of the three (default: all)",
    )
    only = parser.parse_args().only
    if only in (None, "sheets"):
        make_sheets()
    if only in (None, "scores"):
        make_scores(HERE / "scores.json")
    if only in (None, "guidance"):
        make_guidance(HERE / "guidance.json")


if __name__ == "__main__":
    main()
