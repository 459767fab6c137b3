"""Draw the pictures of README and model card: `python weights/make_pictures.py`.

It takes a minute and trains nothing: it needs what the course ships (weights, data,
stored results, and the picture saved in lesson 2), and diffusers.
"""

import base64
import io
import json
import sys
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "experiments"))
from shipped import blurred, ddpm

import diffusion_utilities as du  # found beside this folder

OUT = du.WEIGHTS / "pictures"
RESULTS = du.WEIGHTS / "results"
SCHEDULE = du.NoiseSchedule.linear()
GRASS = (70, 120, 90)


def sheet(name: str) -> np.ndarray:
    """The pictures (64, 16, 16, 3) uint8 of a stored sheet."""
    return du.load_array(RESULTS / f"{name}.npz", "pictures")


def normal(*shape: int, seed: int) -> torch.Tensor:
    """Normal noise, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def save(name: str, picture: Image.Image) -> None:
    """Write a picture with a palette, which makes it small."""
    with du.written_whole(OUT / f"{name}.png") as temporary:
        picture.quantize(256).save(temporary, "PNG", optimize=True)


# ---- A picture a lesson -------------------------------------------------------------


def lesson_1() -> Image.Image:
    """Digits, corrupted more and more, and what the BasicUNet makes of each."""
    digits, _ = du.load_digits("mnist")
    x = digits[4507:4508].expand(8, -1, -1, -1)
    amounts = torch.linspace(0, 1, 8)
    noised = du.corrupt(x, amounts, torch.Generator().manual_seed(1))
    network = du.load_weights(du.BasicUNet(), du.WEIGHTS / "basic_unet.pth")
    with torch.no_grad():
        guesses = network(noised)
    both = torch.cat((noised, guesses))
    return du.show_images(both, columns=8, zoom=2, value_range=(0, 1))


def lesson_2() -> Image.Image:
    """Two sprites, noised by the DDPM schedule."""
    x = du.load_sprites("test").x[[3, 10]].repeat_interleave(8, 0)
    t = torch.linspace(0, SCHEDULE.T, 8).round().long()
    noise = normal(*x.shape, seed=2)
    noised = du.perturb_input(x, t.repeat(2), noise, SCHEDULE)
    return du.show_images(noised, columns=8, zoom=3)


def lesson_3() -> Image.Image:
    """Heroes by the lesson's first recipe and by its last, seed 1 each."""
    path = RESULTS / "first_sprites.npz"
    first = du.load_array(path, "noise, evenly, Adam, seed 1")[:8]
    last = du.load_array(path, "picture, the middle, Muon, seed 1")[:8]
    return du.show_images(np.concatenate((first, last)), columns=8, zoom=3)


def lesson_4() -> Image.Image:
    """The same noise, drawn by epochs 0, 4, 12 and 31."""
    rows = [sheet(f"model_{epoch}")[:8] for epoch in (0, 4, 12, 31)]
    return du.show_images(np.concatenate(rows), columns=8, zoom=3)


def lesson_5() -> Image.Image:
    """DDPM with 500, 20 and 5 steps, and DDIM with 20 and 5, from the same noise."""
    sheets = {
        "DDPM-500": "model_trained",
        "DDPM-20": "ddpm_20",
        "DDPM-5": "ddpm_5",
        "DDIM-20": "ddim_20",
        "DDIM-5": "ddim_5",
    }
    rows = {label: sheet(name)[:8] for label, name in sheets.items()}
    return du.filmstrip(rows, zoom=3)


def lesson_6() -> Image.Image:
    """From a hero to a piece of food: contexts between the two, three starts."""
    shares = torch.tensor([0, 0.25, 0.4, 0.5, 0.6, 0.75, 1])
    hero, food = torch.eye(5)[[0, 2]]
    share = shares[:, None]
    context = (1 - share) * hero + share * food
    context = context.repeat(3, 1)
    starts = normal(6, 3, 16, 16, seed=6)[:3]
    x_T = starts.repeat_interleave(len(shares), 0)
    pictures = ddpm(
        du.sprite_network(),
        SCHEDULE,
        x_T=x_T,
        context=context,
        steps=du.straight_steps(SCHEDULE, 20),
        variance="beta_tilde",
        generator=torch.Generator().manual_seed(6),
    )
    return du.show_images(pictures, columns=len(shares), zoom=3)


def lesson_7() -> Image.Image:
    """Eight stored edits that are right: the sprites before, and after."""
    path = RESULTS / "editing.npz"
    right = np.flatnonzero(du.load_array(path, "right"))[:8]
    real = du.load_array(path, "real")[right]
    edited = du.load_array(path, "edited")[right]
    return du.show_images(np.concatenate((real, edited)), columns=8, zoom=3)


def lesson_8() -> Image.Image:
    """Six sprites for each of three captions."""
    captions = ("wizard hat, purple robe, hero", "angry blue slime", "pink cupcake")
    rows = [du.draw(caption, 6, seed=1) for caption in captions]
    return du.show_images(np.concatenate(rows), columns=6, zoom=3, rows=captions)


def lesson_9() -> Image.Image:
    """Real sprites; with one wrong pixel, half parts, blurred; and a few repeated."""
    factory = du.sprite_factory()
    images = du.load_sprites("test").images[::97][:8]
    descriptions, _ = factory.decode(images)
    pixel = images.copy()
    row, column = np.random.default_rng(3).integers(16, size=(2, len(images)))
    pixel[np.arange(len(images)), row, column] += 128
    halves = du.sprite_scoring().near_misses(descriptions, "part")
    few = images[np.arange(8) % 2]
    rows = (images, pixel, halves, blurred(images), few)
    return du.show_images(np.concatenate(rows), columns=8, zoom=3)


def lesson_10() -> Image.Image:
    """The same noise, drawn by five networks that were trained for the same seconds."""
    names = (
        "time as a channel",
        "no time",
        "time at each level",
        "residual",
        "ContextUnet",
    )
    path = RESULTS / "five_unets.npz"
    rows = [du.load_array(path, name) for name in names]
    grey = np.concatenate(rows)[..., None]
    pictures = np.repeat(grey, 3, axis=3)
    return du.show_images(pictures, columns=len(rows[0]), zoom=2)


def lesson_11() -> Image.Image:
    """A pixel's eight grey levels, each in a colour, melt as noise is added."""
    levels = np.linspace(-1, 1, 8)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 1, 8))[:, :3]
    x = np.linspace(1.8, -1.8, 120)[:, None, None]
    steps = np.geomspace(1, 400, 300).round().astype(int)
    ab = SCHEDULE.ab.numpy()[steps, None]
    squares = (x - ab**0.5 * levels) ** 2  # (120, 300, 8)
    density = np.exp(-squares / (2 * (1 - ab)))
    total = density.sum(2, keepdims=True)
    mixed = density @ colours / total.clip(1e-300)
    bright = (total / total.max(0)) ** 0.5
    return Image.fromarray((mixed * bright * 255).astype(np.uint8))


BELL_WEIGHTS = np.array((0.5, 0.2, 0.3))
BELL_MEANS = np.array((-1.2, 0.1, 1.1))
SDE_BLUE = "#59d9ff"


def lesson_12() -> Image.Image:
    """The density of three bells at every step, and paths back from the noise.

    White paths follow the probability-flow ODE, blue ones the reverse SDE.
    """
    ab = SCHEDULE.ab.numpy()[:, None]
    x = np.linspace(2.8, -2.8, 300)[:, None, None]
    apart = x - ab**0.5 * BELL_MEANS
    density = np.exp(-(apart**2) / (2 * bell_variance(ab))) @ BELL_WEIGHTS  # (300, 501)
    colour_map = matplotlib.colormaps["magma"]
    colours = colour_map(0.85 * density / density.max(0), bytes=True)[..., :3]
    picture = Image.fromarray(colours).resize((1504, 600), Image.BICUBIC)
    pen = ImageDraw.Draw(picture)
    generator = np.random.default_rng(4)
    for shaking, count, colour in ((0, 9, "white"), (1, 3, SDE_BLUE)):
        paths = bell_paths(count, shaking, generator)
        across = np.linspace(1504, 0, SCHEDULE.T + 1)
        for down in 300 - paths / 5.6 * 600:
            pen.line(list(zip(across, down)), fill=colour, width=4, joint="curve")
    font = ImageFont.load_default(34)
    labels = (
        ("data", 20, "white"),
        ("ODE", 640, "white"),
        ("SDE", 760, SDE_BLUE),
        ("noise", 1390, "white"),
    )
    for word, left, colour in labels:
        pen.text((left, 14), word, fill=colour, font=font)
    return picture.resize((752, 300), Image.LANCZOS)


def bell_paths(
    count: int, shaking: float, generator: np.random.Generator
) -> np.ndarray:
    """Paths from the noise at step T back to the bells at 0: (count, T + 1).

    shaking: 0 for the probability-flow ODE, 1 for the reverse SDE.
    """
    ab = SCHEDULE.ab.numpy()
    beta = SCHEDULE.b.numpy()
    x = np.linspace(-1.9, 1.9, count)
    path = [x]
    for t in range(SCHEDULE.T, 0, -1):
        variance = bell_variance(ab[t])
        apart = ab[t] ** 0.5 * BELL_MEANS - x[:, None]
        share = BELL_WEIGHTS * np.exp(-(apart**2) / (2 * variance))
        score = (share * apart).sum(1) / share.sum(1) / variance
        dice = (shaking * beta[t]) ** 0.5 * generator.standard_normal(count)
        x = x + beta[t] / 2 * (x + (1 + shaking) * score) + dice
        path.append(x)
    return np.stack(path, 1)


def bell_variance(ab):
    """The variance of each bell at a step with that alpha-bar."""
    return ab * 0.15**2 + 1 - ab


def lesson_13() -> Image.Image:
    """Points of noise flow into a hero, along the exact velocity of its pixels."""
    train = du.load_sprites("train")
    hero = train.images[np.flatnonzero(train.labels[:, 0])[20]]
    row, column = np.nonzero((hero < 250).any(2))
    colour = hero[row, column]
    pixels = np.stack((column - 7.5, row - 7.5), 1) / 4  # (K, 2), from -2 to 2
    x = np.random.default_rng(0).standard_normal((900, 2))
    path = [x]
    for s in np.arange(100) / 100:
        apart = np.square(x[:, None] - s * pixels).sum(2)  # (900, K)
        logs = -apart / (2 * (1 - s) ** 2)
        share = np.exp(logs - logs.max(1, keepdims=True))
        guess = share @ pixels / share.sum(1, keepdims=True)
        x = x + (guess - x) / (1 - s) / 100
        path.append(x)
    path = np.stack(path, 1)  # (900, 101, 2)
    end = np.square(x[:, None] - pixels).sum(2).argmin(1)
    path[..., 0] += np.linspace(0, 14, 101)  # to the right as time passes
    path = 95 * path + (300, 290)
    picture = Image.new("RGB", (1840, 580), "white")
    pen = ImageDraw.Draw(picture)
    for way, own in zip(path, colour[end]):
        pale = (own * 0.35 + 255 * 0.65).astype(int)
        pen.line([tuple(point) for point in way], fill=tuple(pale), width=2)
    for way, own in zip(path, colour[end]):
        (left, top), (right, bottom) = way[0], way[-1]
        pen.ellipse((left - 4, top - 4, left + 4, top + 4), fill=tuple(own))
        square = (right - 12, bottom - 12, right + 12, bottom + 12)
        pen.rectangle(square, fill=tuple(own))
    return picture.resize((920, 290), Image.LANCZOS)


def lesson_14() -> Image.Image:
    """The strong network in 20 and 2 calls, and its student in 4, 2 and 1."""
    student = du.sprite_network(du.WEIGHTS / "sprite_unet_student.pth")
    teacher = du.sprite_network()
    rows = {"teacher, 20": teacher, "teacher, 2": teacher}
    rows |= {"student, 4": student, "student, 2": student, "student, 1": student}
    pictures = {}
    for (label, network), calls in zip(rows.items(), (20, 2, 4, 2, 1)):
        drawn, _ = du.sample_ddpm(
            network,
            SCHEDULE,
            x_T=normal(10, 3, 16, 16, seed=14),
            context=torch.eye(5)[torch.arange(10) % 5],
            steps=du.straight_steps(SCHEDULE, calls),
            generator=torch.Generator().manual_seed(14),
            variance="beta_tilde",
            keep=0,
        )
        pictures[label] = drawn
    return du.filmstrip(pictures, zoom=4)


def lesson_15() -> Image.Image:
    """The strong network in 10 steps with three schedulers of diffusers."""
    import diffusers

    samplers = {
        "DDPM": diffusers.DDPMScheduler,
        "DDIM": diffusers.DDIMScheduler,
        "2M": diffusers.DPMSolverMultistepScheduler,
    }
    model = du.sprite_network()
    rows = {label: by_diffusers(model, kind) for label, kind in samplers.items()}
    return du.filmstrip(rows, zoom=3)


@torch.no_grad()
def by_diffusers(model: torch.nn.Module, kind: type) -> torch.Tensor:
    """Eight pictures in 10 steps with one of the schedulers of diffusers."""
    betas = SCHEDULE.b[1:].tolist()
    solver = kind(SCHEDULE.T, trained_betas=betas, timestep_spacing="trailing")
    solver.set_timesteps(10)
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(8, 3, 16, 16, generator=generator)
    for k in solver.timesteps:
        pred_noise = model(x, (k + 1) / SCHEDULE.T)
        x = solver.step(pred_noise, k, x, generator=generator).prev_sample
    return x


def lesson_16() -> Image.Image:
    """Tiles of Angband on grass, and two rows of new ones as a network drew them."""
    path = RESULTS / "own_collections.npz"
    real = du.load_array(path, "angband, real")[:8]
    drawn = du.load_array(path, "angband, scratch")[:16]
    tiles = np.concatenate((real, drawn))
    alpha = tiles[..., 3:] / 255
    on_grass = tiles[..., :3] * alpha + np.array(GRASS) * (1 - alpha)
    rows = ("game", "new", "new")
    return du.show_images(on_grass.astype(np.uint8), columns=8, zoom=3, rows=rows)


def lesson_17() -> Image.Image:
    """The clinic's eight patients, a column each.

    The first hero and the first piece of food of each sheet.
    """
    clinic = json.loads((du.WEIGHTS / "clinic.json").read_text(encoding="utf8"))
    numbers = clinic["numbers"]
    patients = sorted(numbers, key=numbers.get)
    path = RESULTS / "clinic.npz"
    sheets = [du.load_array(path, f"{patient}: sheet") for patient in patients]
    heroes = [some[0] for some in sheets]
    food = [some[10] for some in sheets]
    return du.show_images(np.stack(heroes + food), columns=8, zoom=3)


def instrument() -> Image.Image:
    """What lesson 2's instrument shows without a kernel: its saved output."""
    path = du.COURSE / "notebooks" / "02_the_ddpm_noise_schedule.ipynb"
    lesson = json.loads(path.read_text(encoding="utf8"))
    pictures = []
    for cell in lesson["cells"]:
        source = "".join(cell["source"])
        if "explore(" in source:
            pictures += [output["data"]["image/png"] for output in cell["outputs"]]
    png = base64.b64decode("".join(pictures[0]))
    return Image.open(io.BytesIO(png)).convert("RGB")


# ---- The front page -----------------------------------------------------------------


@cache
def walk_of_the_front() -> torch.Tensor:
    """What the strong network draws in 20 steps, the classes in turn.

    Returns the noise, the steps after which it changes most, and the end, of the first
    48 of a batch of 64: (11, 48, 3, 16, 16).
    """
    steps = du.straight_steps(SCHEDULE, 20)
    _, frames = du.sample_ddpm(
        du.sprite_network(),
        SCHEDULE,
        shape=(64, 3, 16, 16),
        context=torch.eye(5)[torch.arange(64) % 5],
        steps=steps,
        variance="beta_tilde",
        generator=torch.Generator().manual_seed(4),
        keep=[steps[0], *steps[8:17], 0],
    )
    return frames[:, :48]


NOISE_COLOURS = 32  # of the 256 that an animated PNG may have


@cache
def end_of_the_front() -> Image.Image:
    """The drawn sprites, a pixel for a pixel, in few enough colours for `drawing`."""
    sheet = du.show_images(walk_of_the_front()[-1], columns=16, zoom=1)
    few = sheet.quantize(
        256 - NOISE_COLOURS,
        Image.Quantize.MAXCOVERAGE,
        kmeans=1,
        dither=Image.Dither.NONE,
    )
    return few.convert("RGB")


def front(zoom: int = 3) -> Image.Image:
    """The sprites that `drawing` ends with, for readers who want no motion."""
    end = end_of_the_front()
    return end.resize((zoom * end.width, zoom * end.height), Image.Resampling.NEAREST)


def shared_palette(frames: np.ndarray, noise: int = NOISE_COLOURS) -> np.ndarray:
    """A palette (colours, 3) for all frames (N, H, W, 3).

    It has every colour of the last frame, exactly, and `noise` colours for the noise
    before it, where nobody can tell.
    """
    before = np.concatenate(frames[:-1]).astype(np.uint8)
    few_colours = Image.fromarray(before).quantize(noise)
    rest = few_colours.getpalette()[: 3 * noise]
    rest = np.reshape(rest, (-1, 3))
    exact = np.unique(frames[-1].reshape(-1, 3), axis=0)
    return np.concatenate((exact, rest))


def with_palette(frame: np.ndarray, palette: np.ndarray, zoom: int) -> Image.Image:
    """A frame (H, W, 3) in the nearest colours of a palette, enlarged.

    By hand, because Pillow looks the nearest colour up in a coarse table.
    """
    distances = ((frame[:, :, None] - palette) ** 2).sum(3)
    nearest = distances.argmin(2).astype(np.uint8)
    nearest = nearest.repeat(zoom, 0).repeat(zoom, 1)
    picture = Image.fromarray(nearest)
    picture.putpalette(palette.astype(np.uint8).tobytes())
    return picture


def save_drawing(zoom: int = 3) -> None:
    """From noise to sprites, as an animated PNG that waits at its end.

    A viewer that plays no animations shows the end.
    """
    frames = []
    for frame in walk_of_the_front()[:-1]:
        sheet = du.show_images(frame, columns=16, zoom=1)
        frames.append(np.asarray(sheet))
    frames.append(np.asarray(end_of_the_front()))
    frames = np.stack(frames).astype(int)
    palette = shared_palette(frames)
    pictures = [with_palette(frame, palette, zoom) for frame in frames]
    milliseconds = [600] + [160] * (len(pictures) - 2) + [4000]
    with du.written_whole(OUT / "drawing.png") as temporary:
        pictures[-1].save(
            temporary,
            "PNG",
            save_all=True,
            append_images=pictures,
            default_image=True,
            duration=milliseconds,
            loop=0,
            optimize=True,
        )


# ---- All pictures -------------------------------------------------------------------

PICTURES = (
    front,
    instrument,
    lesson_1,
    lesson_2,
    lesson_3,
    lesson_4,
    lesson_5,
    lesson_6,
    lesson_7,
    lesson_8,
    lesson_9,
    lesson_10,
    lesson_11,
    lesson_12,
    lesson_13,
    lesson_14,
    lesson_15,
    lesson_16,
    lesson_17,
)
SHEETS = {"restarts": 16, "model_trained": 16, "context_model_trained": 15}  # columns


def main() -> None:
    for draw in PICTURES:
        save(draw.__name__, draw())
    save_drawing()
    for epoch in (0, 4, 12, 31):
        picture = du.show_images(sheet(f"model_{epoch}"), columns=16, zoom=3)
        save(f"epoch_{epoch}", picture)
    for name, columns in SHEETS.items():
        save(name, du.show_images(sheet(name), columns=columns, zoom=3))


if __name__ == "__main__":
    main()
