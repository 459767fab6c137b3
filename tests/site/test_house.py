"""The house rules that a machine can check: sizes, the shape of the helper, what the README promises, what ships in weights/."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import diffusion_utilities as du

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
EPOCHS = (0, 4, 12, 24, 31)
SPRITE_WEIGHTS = [
    *(f"model_{epoch}" for epoch in EPOCHS),
    "model_trained",
    "context_model_trained",
]
HELPER = (ROOT / "diffusion_utilities.py").read_text(encoding="utf8")
FUNCTIONS = [
    node for node in ast.walk(ast.parse(HELPER)) if isinstance(node, ast.FunctionDef)
]


def tracked():
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [
        ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()
    ]


def test_the_tree_keeps_to_its_sizes():
    sizes = {"weights": 0, "data": 0, "notebooks": 0, "rest": 0}
    for path in tracked():
        part = path.relative_to(ROOT).parts[0]
        sizes[part if part in sizes else "rest"] += path.stat().st_size
    limits = {"weights": 38, "data": 12, "notebooks": 8, "rest": 2}
    assert {
        part: size for part, size in sizes.items() if size > limits[part] * MIB
    } == {}


def test_no_scratch_is_tracked():
    assert not [
        path
        for path in tracked()
        if re.search(
            r"\.ipynb_checkpoints|__pycache__|\.pt$|\.gif$|\.DS_Store", str(path)
        )
    ]


def test_the_helper_is_short_and_in_sections():
    assert HELPER.count("\n") <= 1200
    sections = [
        "Set-up",
        "Data",
        "Noise",
        "Blocks and U-Nets",
        "Training",
        "Sampling",
        "Measuring",
        "Showing",
        "Exploring",
    ]
    assert re.findall(r"^# -{4} (.+) -+$", HELPER, re.M) == sections


@pytest.mark.parametrize("node", FUNCTIONS, ids=lambda node: node.name)
def test_functions_are_short(node):
    body = node.end_lineno - node.lineno + 1
    assert body <= 40


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in du.__all__
        if getattr(getattr(du, name), "__module__", "") == "diffusion_utilities"
    ],
)
def test_public_docstrings_say_which_lesson_explains_it(name):
    docstring = getattr(du, name).__doc__
    assert docstring and re.search(r"Lesson \d+\.\s*$", docstring), name


def test_ruff_is_content():
    result = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


def test_requirements_have_lower_bounds_only():
    for name in (
        "requirements.txt",
        "tests/requirements.txt",
        "weights/experiments/requirements.txt",
    ):
        lines = [
            line
            for line in (ROOT / name).read_text(encoding="utf8").splitlines()
            if line and not line.startswith("#")
        ]
        assert all(re.fullmatch(r"[a-z-]+>=[\d.]+", line) for line in lines), lines


def test_the_readme_points_at_what_is_there():
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "GLOSSARY.md",
        "data/README.md",
        "weights/README.md",
    ):
        page = ROOT / name
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf8")):
            assert target.startswith("https://") or (page.parent / target).exists(), (
                f"{name}: {target}"
            )


def test_the_helper_alone_works_without_the_course(tmp_path):
    """People copy the helper alone: what needs no data works, the rest says what is missing."""
    (tmp_path / "diffusion_utilities.py").write_text(HELPER, encoding="utf8")
    code = (
        "from diffusion_utilities import *\n"
        "x, frames = sample_ddim(ContextUnet(3, 8, 5, 16), NoiseSchedule.linear(), (2, 3, 16, 16), steps=2)\n"
        "animate(frames).save('a.gif')\n"
        "for load in (sprite_factory, load_sprites, lambda: load_digits('mnist')):\n"
        "    try: load()\n"
        "    except FileNotFoundError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if "5,000" not in line]
    assert len(lines) == 3 and all(
        "sprite" in line or "mnist_5k.npz" in line for line in lines
    ), lines


@pytest.mark.parametrize("name", SPRITE_WEIGHTS)
def test_shipped_weights_are_half_precision_and_load_strictly(name):
    state = du.load_state(du.WEIGHTS / f"{name}.pth")
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {
        torch.float16
    }
    model = du.load_weights(du.ContextUnet(3, 64, 5, 16), du.WEIGHTS / f"{name}.pth")
    with torch.no_grad():
        out = model(
            torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
            torch.tensor([0.5, 1.0]),
        )
    assert out.dtype == torch.float32 and out.isfinite().all()


@pytest.mark.parametrize(
    "name, fallen_to",
    [("model", 0.5), ("context_model", 0.5), ("best", 0.7), ("factor_model", 1.0)],
)  # cross-entropy
def test_training_histories_are_whole_and_the_loss_fell(name, fallen_to):
    history = json.loads(
        (du.WEIGHTS / f"{name}_history.json").read_text(encoding="utf8")
    )
    assert [row["epoch"] for row in history["epochs"]] == list(
        range(history["stages"][-1]["epochs"])
    )
    for stage in history["stages"]:
        assert stage["context"] == (name != "model") and stage["limit"] is None
        pictures = (
            1760 * sum(stage["recolour"].values()) if stage.get("recolour") else 8800
        )
        steps = stage["passes"] * -(-pictures // stage["batch"])
        logged = -(-steps // stage.get("log_every", 1))
        assert all(
            len(row["losses"]) == logged
            for row in history["epochs"][stage["first_epoch"] : stage["epochs"]]
        )
    assert history["epochs"][-1]["loss"] < fallen_to * history["epochs"][0]["loss"]


def test_the_best_weights_draw_what_they_are_asked_for():
    """In half precision on disk; of 60 samples each has the class asked for, and nearly all are legal."""
    path, schedule, asked = (
        du.WEIGHTS / "best_trained.pth",
        du.NoiseSchedule.linear(),
        torch.arange(60) % 5,
    )
    assert {value.dtype for value in du.load_state(path).values()} == {torch.float16}
    model = du.load_weights(
        du.PaletteNet(du.load_sprites("train").images, schedule, trust=8.0), path
    )
    generator = torch.Generator().manual_seed(0)
    x, _ = du.sample_ddpm(
        model,
        schedule,
        shape=(60, 3, 16, 16),
        x_T=None,
        context=torch.eye(5)[asked],
        steps=100,
        generator=generator,
        keep=0,
        variance="beta_tilde",
    )
    factory, pictures = du.sprite_factory(), du.to_pictures(x)
    found, _ = factory.decode(pictures)
    assert (
        sum(
            sprite.class_name == factory.CLASS_NAMES[k]
            for sprite, k in zip(found, asked)
        )
        >= 59
    )
    assert du.sprite_scoring().are_legal(pictures, found).mean() > 0.8


def test_the_factor_weights_listen_to_factors():
    """Sixty heroes, each asked for a hair and an outfit colour that training has together: by chance one in 80 would have both."""
    factory, scoring = du.sprite_factory(), du.sprite_scoring()
    schedule = du.NoiseSchedule.linear()
    colours, rng = factory.factors_of("hero"), torch.Generator().manual_seed(1)
    every = [
        (a, b)
        for a in colours["hair_colour"]
        for b in colours["outfit_colour"]
        if (a, b) not in factory.held_out_pairs("hero").pairs
    ]
    pairs = [every[i] for i in torch.randint(len(every), (60,), generator=rng)]
    context = torch.from_numpy(
        scoring.as_context(
            [{"class": "hero", "hair_colour": a, "outfit_colour": b} for a, b in pairs]
        )
    )
    model = du.PaletteNet(
        du.load_sprites("train").images,
        schedule,
        n_cfeat=len(scoring.context_columns()),
        trust=8.0,
    )
    du.load_weights(model, du.WEIGHTS / "factor_model_trained.pth")
    x, _ = du.sample_ddpm(
        model,
        schedule,
        shape=(60, 3, 16, 16),
        x_T=None,
        context=context,
        steps=20,
        generator=rng,
        keep=0,
        variance="beta_tilde",
    )
    found = [sprite.as_dict() for sprite in factory.decode(du.to_pictures(x))[0]]
    assert (
        sum(
            (row.get("hair_colour"), row.get("outfit_colour")) == pair
            for row, pair in zip(found, pairs)
        )
        > 30
    )


def test_later_epochs_predict_the_noise_of_held_out_sprites_better():
    """Epoch 0, 4 and 31 on 100 test pictures at three steps, with the same noise: the loss falls from one to the next."""
    x, schedule = du.load_sprites("test").x[:100], du.NoiseSchedule.linear()
    models = [
        du.load_weights(du.ContextUnet(3, 64, 5, 16), du.WEIGHTS / f"model_{epoch}.pth")
        for epoch in (0, 4, 31)
    ]
    losses = [
        float(du.denoising_losses(model, x, schedule, steps=(20, 100, 300)).mean())
        for model in models
    ]
    assert losses[0] > losses[1] > losses[2]


def test_context_changes_what_the_labelled_weights_draw():
    model = du.load_weights(
        du.ContextUnet(3, 64, 5, 16), du.WEIGHTS / "context_model_trained.pth"
    )
    x_T = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).expand(
        5, -1, -1, -1
    )
    x, _ = du.sample_ddim(
        model, du.NoiseSchedule.linear(), x_T=x_T, context=torch.eye(5), steps=20
    )
    assert (x[:, None] - x[None]).square().mean((2, 3, 4))[
        ~torch.eye(5, dtype=bool)
    ].min() > 0.02


def test_the_basic_unet_beats_doing_nothing():
    digits, _ = du.load_digits("mnist")
    model, held_out = (
        du.load_weights(du.BasicUNet(), du.WEIGHTS / "basic_unet.pth"),
        digits[4500:4700],
    )
    generator = torch.Generator().manual_seed(0)
    noised = du.corrupt(held_out, torch.full((200,), 0.5), generator)
    with torch.no_grad():
        assert (model(noised) - held_out).square().mean() < 0.2 * (
            noised - held_out
        ).square().mean()


def test_the_readme_opens_with_two_commands_and_maps_every_lesson():
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    bash = re.findall(r"```bash\n(.*?)\n```", readme, re.S)
    assert len(bash) == 2 and all(
        command.startswith("python3 -m venv .venv && ") and "\n" not in command
        for command in bash
    )
    assert "jupyter lab notebooks/01_" in bash[0] and bash[1].endswith("pytest")
    assert all(
        f"(notebooks/{path.name})" in readme
        for path in (ROOT / "notebooks").glob("*.ipynb")
    )
    pictures = re.findall(r'<img src="([^"]+)" alt="[^"]+', readme)
    assert len(pictures) >= 5 and all((ROOT / picture).exists() for picture in pictures)
    assert not re.search(r"\{[A-Z_]+\}", readme)
