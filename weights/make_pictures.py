"""Draw the README's pictures and the model card's sheets from the shipped weights: `python weights/make_pictures.py` (a minute)."""

import base64
import io
import json
import sys
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from make_results import network  # noqa: E402

import diffusion_utilities as du  # noqa: E402  (found beside this folder)

OUT = HERE / "pictures"
SCHEDULE = du.NoiseSchedule.linear()


def sheet(name: str) -> np.ndarray:
    with np.load(HERE / "results" / f"{name}.npz") as file:
        return file["pictures"]


def save(name: str, picture) -> None:
    with du._written_whole(OUT / f"{name}.png") as temporary:
        picture.quantize(256).save(temporary, "PNG", optimize=True)


def lesson_1():
    """Digits, corrupted more and more, and what the BasicUNet makes of each."""
    digits, _ = du.load_digits("mnist")
    x = digits[4507:4508].expand(8, -1, -1, -1)
    noised = du.corrupt(x, torch.linspace(0, 1, 8), torch.Generator().manual_seed(1))
    with torch.no_grad():
        guesses = du.load_weights(du.BasicUNet(), HERE / "basic_unet.pth")(noised)
    return du.show_images(
        torch.cat((noised, guesses)), columns=8, zoom=2, value_range=(0, 1)
    )


def lesson_2():
    """Two sprites, noised by the DDPM schedule."""
    x = du.load_sprites("test").x[[3, 10]].repeat_interleave(8, 0)
    t = torch.linspace(0, SCHEDULE.T, 8).round().long().repeat(2)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    return du.show_images(du.perturb_input(x, t, noise, SCHEDULE), columns=8, zoom=3)


def lesson_3():
    """The same noise, drawn by epochs 0, 4, 12 and 31."""
    return du.show_images(
        np.concatenate([sheet(f"model_{epoch}")[:8] for epoch in (0, 4, 12, 31)]),
        columns=8,
        zoom=3,
    )


def lesson_4():
    """Sprites that appear out of noise: five moments of sampling."""
    x_T = torch.randn((8, 3, 16, 16), generator=torch.Generator().manual_seed(4))
    _, frames = du.sample_ddim(
        network("model_trained"),
        SCHEDULE,
        x_T=x_T,
        steps=50,
        keep=[500, 200, 100, 50, 0],
    )
    return du.show_images(frames.flatten(0, 1), columns=8, zoom=3)


def lesson_5():
    """DDPM with 500, 20 and 5 steps, and DDIM with 20 and 5, from the same noise."""
    rows = {
        "DDPM-500": "model_trained",
        "DDPM-20": "ddpm_20",
        "DDPM-5": "ddpm_5",
        "DDIM-20": "ddim_20",
        "DDIM-5": "ddim_5",
    }
    return du.filmstrip(
        {label: sheet(name)[:8] for label, name in rows.items()}, zoom=3
    )


def lesson_6():
    """From a hero to a piece of food: contexts between the two, three starts."""
    share, hero, food = (
        torch.tensor([0, 0.25, 0.4, 0.5, 0.6, 0.75, 1])[:, None],
        torch.eye(5)[0],
        torch.eye(5)[2],
    )
    x_T = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(6))[
        :3
    ].repeat_interleave(len(share), 0)
    context = ((1 - share) * hero + share * food).repeat(3, 1)
    return du.show_images(
        du.sample_ddim(
            network("best_trained"),
            SCHEDULE,
            x_T=x_T,
            context=context,
            steps=50,
            keep=0,
        )[0],
        columns=len(share),
        zoom=3,
    )


def lesson_7():
    """The same noise, drawn by five networks that were trained for the same seconds."""
    with np.load(HERE / "results" / "five_unets.npz") as file:
        rows = [
            file[f"mnist: {name}"]
            for name in (
                "time as a channel",
                "no time",
                "time at each level",
                "residual",
                "ContextUnet",
            )
        ]
    return du.show_images(
        np.repeat(np.concatenate(rows)[..., None], 3, 3), columns=len(rows[0]), zoom=2
    )


def lesson_8():
    """The same network and noise in 10 steps with three samplers of diffusers."""
    from diffusers import (
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        UniPCMultistepScheduler,
    )

    rows, model = {}, network("model_trained")
    for label, scheduler in (
        ("DDIM", DDIMScheduler),
        ("DPM++ 2M", DPMSolverMultistepScheduler),
        ("UniPC", UniPCMultistepScheduler),
    ):
        solver = scheduler(
            SCHEDULE.T,
            trained_betas=SCHEDULE.b[1:].numpy(),
            timestep_spacing="trailing",
        )
        solver.set_timesteps(10)
        x = torch.randn((8, 3, 16, 16), generator=torch.Generator().manual_seed(4))
        for k in solver.timesteps:
            with torch.no_grad():
                x = solver.step(model(x, (k + 1) / SCHEDULE.T), k, x).prev_sample
        rows[label] = x
    return du.filmstrip(rows, zoom=3)


def lesson_9():
    """Heroes with pairs of colours that training lacks, their ground taken away, on the ground of a game."""
    sprites, board = (
        du.load_sprites("compositional"),
        Image.new("RGB", (8 * 18, 2 * 18), (70, 120, 90)),
    )
    heroes = [
        image
        for image, row in zip(sprites.images, sprites.factors)
        if row["class"] == "hero"
    ][:16]
    for i, hero in enumerate(heroes):
        framed = Image.fromarray(
            np.pad(hero, ((1, 1), (1, 1), (0, 0)), constant_values=255)
        )
        ImageDraw.floodfill(
            framed, (0, 0), (70, 120, 90)
        )  # from the corner: white inside stays
        board.paste(framed, (i % 8 * 18, i // 8 * 18))
    return board.resize((board.width * 3, board.height * 3), Image.Resampling.NEAREST)


def lesson_10():
    """A mixture of three Gaussians, its density at every step: it melts into one bell."""
    x, ab = np.linspace(3, -3, 120)[:, None], SCHEDULE.ab.numpy()[::2]
    density = 0
    for weight, mean, std in ((0.3, -1.2, 0.15), (0.5, 0.1, 0.25), (0.2, 1.1, 0.1)):
        variance = ab * std**2 + 1 - ab
        density += (
            weight
            * np.exp(-((x - ab**0.5 * mean) ** 2) / (2 * variance))
            / variance**0.5
        )
    return Image.fromarray(
        (matplotlib.colormaps["magma"](density / density.max(0))[..., :3] * 255).astype(
            np.uint8
        )
    )


@cache
def walk_of_the_front():
    """What the best weights draw with plain DDPM, the classes in turn, at some steps: the first 48 of a batch of 64, (steps, 48, 3, 16, 16)."""
    asked, generator = (
        torch.eye(5)[torch.arange(64) % 5],
        torch.Generator().manual_seed(4),
    )
    steps = (500, 400, 320, 260, 220, 190, 160, 130, 100, 70, 40, 20, 0)
    _, frames = du.sample_ddpm(
        network("best_trained"),
        SCHEDULE,
        shape=(64, 3, 16, 16),
        x_T=None,
        context=asked,
        generator=generator,
        keep=steps,
    )
    return frames[:, :48]


def front():
    """The sprites that `drawing` ends with, for who wants no motion."""
    return du.show_images(walk_of_the_front()[-1], columns=16)


def save_drawing(zoom: int = 3) -> None:
    """From noise to sprites, as an animated PNG that waits at its end; a viewer that plays nothing shows the end.

    One palette for all frames: every colour of the last one, exactly, and 32 for the noise before it, where nobody can tell."""
    frames = np.stack(
        [
            np.asarray(du.show_images(frame, columns=16, zoom=1))
            for frame in walk_of_the_front()
        ]
    ).astype(int)
    rest = (
        Image.fromarray(np.concatenate(frames[:-1]).astype(np.uint8))
        .quantize(32)
        .getpalette()[: 3 * 32]
    )
    palette = np.concatenate(
        (np.unique(frames[-1].reshape(-1, 3), axis=0), np.reshape(rest, (-1, 3)))
    )
    pictures = []
    for (
        frame
    ) in frames:  # the nearest colour by hand: Pillow looks it up in a coarse table
        nearest = ((frame[:, :, None] - palette) ** 2).sum(3).argmin(2).astype(np.uint8)
        pictures.append(Image.fromarray(nearest.repeat(zoom, 0).repeat(zoom, 1)))
        pictures[-1].putpalette(palette.astype(np.uint8).tobytes())
    milliseconds = [600] + [160] * (len(pictures) - 2) + [4000]
    with du._written_whole(OUT / "drawing.png") as temporary:
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


def lesson_11():
    """The clinic's eight patients, a column each: the first hero and the first piece of food of their sheets."""
    numbers = json.loads((HERE / "clinic.json").read_text(encoding="utf8"))["numbers"]
    with np.load(HERE / "results" / "clinic.npz") as file:
        sheets = [
            file[f"{patient}: sheet"] for patient in sorted(numbers, key=numbers.get)
        ]
    return du.show_images(
        np.stack([sheet[i] for i in (0, 10) for sheet in sheets]), columns=8, zoom=3
    )


def instrument():
    """What lesson 2's instrument shows where there is no kernel: its saved output."""
    lesson = json.loads(
        (HERE.parent / "notebooks" / "02_the_ddpm_noise_schedule.ipynb").read_text(
            encoding="utf8"
        )
    )
    outputs = [
        output
        for cell in lesson["cells"]
        if "explore(noise_dials" in "".join(cell["source"])
        for output in cell["outputs"]
    ]
    return Image.open(
        io.BytesIO(base64.b64decode("".join(outputs[0]["data"]["image/png"])))
    ).convert("RGB")


def main() -> None:
    for name in (
        "front",
        "instrument",
        *(f"lesson_{number}" for number in range(1, 12)),
    ):
        save(name, globals()[name]())
    save_drawing()
    for epoch in (0, 4, 12, 31):
        save(
            f"epoch_{epoch}",
            du.show_images(sheet(f"model_{epoch}"), columns=16, zoom=3),
        )
    for name, columns in (
        ("restarts", 16),
        ("model_trained", 16),
        ("context_model_trained", 15),
    ):
        save(name, du.show_images(sheet(name), columns=columns, zoom=3))


if __name__ == "__main__":
    main()
