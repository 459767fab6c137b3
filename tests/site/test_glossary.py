"""The glossary: its names exist, here and in diffusers, and its numbers are right."""

import inspect
import re
from pathlib import Path

import diffusers
import diffusers.training_utils
import nbformat
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput

import diffusion_utilities as du

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = (ROOT / "GLOSSARY.md").read_text(encoding="utf8")
NOTEBOOKS = {
    int(path.name[:2]): path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
SCHEDULE = du.NoiseSchedule.linear()
VARIANCES = {"fixed_small": "beta_tilde", "fixed_large": "beta"}  # theirs: ours
TARGETS = ("epsilon", "sample", "v_prediction")


def rows() -> list[list[str]]:
    """The cells of each row of the tables, without the rows of headings."""
    lines = re.findall(r"^\| (?!symbol|score)(.*)\|$", GLOSSARY, re.M)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def names_here() -> list[tuple[str, int]]:
    """(name, lesson) of each name in the column "here"."""
    found = []
    for row in rows():
        for name in names_in(row[2]):
            found.append((name, int(row[-1])))
    return found


def names_there() -> list[tuple[str, str]]:
    """(name, cell) of each name in the column "diffusers", where a table has one."""
    found = []
    for row in rows():
        if len(row) == 7:
            found += [(name, row[4]) for name in names_in(row[4])]
    return found


def exists(name: str, start) -> bool:
    """Whether `start` has what a dotted name says, with the argument in its brackets.

    "step(eta=)" is a function `step` with an argument `eta`.
    """
    path, argument = re.fullmatch(r"([\w.]+)(?:\((\w+)=\))?", name).groups()
    thing = start
    for part in path.split("."):
        if not hasattr(thing, part):
            return False
        thing = getattr(thing, part)
    return argument is None or argument in inspect.signature(thing).parameters


def test_the_glossary_is_read_whole():
    assert len(rows()) >= 40
    assert len(names_here()) >= 40
    assert len(names_there()) >= 30


# ---- Names of this course ------------------------------------------------------------


def code_of(lesson: int) -> str:
    cells = nbformat.read(NOTEBOOKS[lesson], as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def is_defined_in(lesson: int, name: str) -> bool:
    """Whether a lesson defines this function, with the argument in its brackets."""
    function, argument = re.fullmatch(r"(\w+)(?:\((\w+)=\))?", name).groups()
    definition = rf"def {function}\([^)]*\b{argument or ''}"
    return re.search(definition, code_of(lesson)) is not None


def is_a_variance(name: str) -> bool:
    x = torch.zeros(1, 3, 4, 4)
    try:
        du.denoise_add_noise(x, 3, x, SCHEDULE, variance=name)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name, lesson", names_here())
def test_each_name_of_this_course_exists(name, lesson):
    first = re.match(r"\"?(\w+)", name)[1]
    starts = {
        "schedule": SCHEDULE,
        "factory": du.sprite_factory(),
        "scoring": du.sprite_scoring(),
    }
    if name.startswith('"'):
        assert is_a_variance(first) or name in code_of(lesson)
    elif first in starts:
        assert exists(name.removeprefix(f"{first}."), starts[first])
    elif first == "model":
        assert exists(name.replace("model", "forward"), du.ContextUnet)
    elif first in du.__all__:
        assert exists(name, du)
    else:
        assert is_defined_in(lesson, name)


# ---- Names of diffusers --------------------------------------------------------------


@pytest.mark.parametrize("name, cell", names_there())
def test_each_name_of_diffusers_exists(name, cell):
    first = re.match(r"\"?(\w+)", name)[1]
    if name.startswith('"'):
        assert first in VARIANCES or first in TARGETS
    elif first == "config":
        setting = name.removeprefix("config.")
        settings = {**diffusers.DDIMScheduler().config}
        settings.update(diffusers.DDPMScheduler().config)
        assert setting in settings
    elif first == "unet":
        called = name.replace("unet(", "forward(").removeprefix("unet.")
        assert exists(called, diffusers.UNet2DModel)
    elif first == "pred_original_sample":
        assert exists(name, DDIMSchedulerOutput)
    elif first == "guidance_scale":
        assert exists("__call__(guidance_scale=)", diffusers.DiTPipeline)
    elif first in ("compute_snr", "EMAModel"):
        assert exists(name, diffusers.training_utils)
    elif "a flow's" in cell:
        assert exists(name, diffusers.FlowMatchEulerDiscreteScheduler())
    else:
        assert exists(name, diffusers.DDIMScheduler())


def with_our_betas(kind, **settings):
    """A scheduler of diffusers with this course's schedule; its step is ours less 1."""
    scheduler = kind(
        num_train_timesteps=SCHEDULE.T,
        trained_betas=SCHEDULE.b[1:].tolist(),
        clip_sample=False,
        **settings,
    )
    scheduler.set_timesteps(SCHEDULE.T)
    return scheduler


@pytest.mark.parametrize("theirs, ours", VARIANCES.items())
def test_both_variances_mean_the_same_in_diffusers(theirs, ours):
    scheduler = with_our_betas(diffusers.DDPMScheduler, variance_type=theirs)
    x = torch.randn(2, 3, 4, 4)
    noise = torch.randn(2, 3, 4, 4)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    found = scheduler.step(noise, 249, x, generator=generator).prev_sample
    expected = du.denoise_add_noise(x, 250, noise, SCHEDULE, z=z, variance=ours)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_of_diffusers_gives_the_clean_picture_back(target):
    scheduler = with_our_betas(diffusers.DDIMScheduler, prediction_type=target)
    x0 = torch.randn(2, 3, 4, 4)
    noise = torch.randn(2, 3, 4, 4)
    x_t = du.perturb_input(x0, 250, noise, SCHEDULE)
    ab = float(SCHEDULE.ab[250])
    outputs = {
        "epsilon": noise,
        "sample": x0,
        "v_prediction": ab**0.5 * noise - (1 - ab) ** 0.5 * x0,
    }
    found = scheduler.step(outputs[target], 249, x_t).pred_original_sample
    torch.testing.assert_close(found, x0, atol=1e-4, rtol=1e-4)


# ---- Numbers and links ---------------------------------------------------------------


def test_the_numbers_of_the_schedule():
    assert SCHEDULE.T == 500
    assert f"{SCHEDULE.b[1]:.5f} to {SCHEDULE.b[-1]:.2f}" in GLOSSARY
    assert f"1 down to {SCHEDULE.ab[-1]:.4f}" in GLOSSARY
    snr = SCHEDULE.snr
    assert f"then {snr[1]:,.0f} down to {snr[-1]:.4f}" in GLOSSARY


@pytest.mark.parametrize("lesson", NOTEBOOKS)
def test_each_lesson_links_the_glossary(lesson):
    cells = nbformat.read(NOTEBOOKS[lesson], as_version=4).cells
    prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert "](../GLOSSARY.md)" in "\n".join(prose)
