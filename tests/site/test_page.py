"""The course's front: the README's pictures, plans and claims, the address of a copy, what to cite, and the glossary against the code."""

import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import diffusers.training_utils
import nbformat
import numpy as np
import pytest
import yaml
from PIL import Image

import diffusion_utilities as du

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "weights" / "pictures"
NOTEBOOKS = {
    int(path.name[:2]): path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
README = (ROOT / "README.md").read_text(encoding="utf8")
GLOSSARY = (ROOT / "GLOSSARY.md").read_text(encoding="utf8")


def sources(lesson, kind):
    cells = nbformat.read(NOTEBOOKS[lesson], as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == kind]


# ---- Pictures --------------------------------------------------------------------------------------------------------


def test_the_moving_picture_is_small_exact_and_ends_with_the_sprites():
    """A viewer that plays nothing shows the end; the last frame waits; no pixel of a sprite is blurred or of another colour."""
    still = np.asarray(Image.open(PICTURES / "front.png").convert("RGB"))
    with Image.open(PICTURES / "drawing.png") as moving:
        assert np.array_equal(np.asarray(moving.convert("RGB")), still)
        frames, milliseconds = [], []
        for i in range(
            1, moving.n_frames
        ):  # 0 is the picture for viewers that play nothing
            moving.seek(i)
            frames.append(np.asarray(moving.convert("RGB")))
            milliseconds.append(moving.info["duration"])
        assert moving.info["loop"] == 0
    assert (
        len(frames) >= 10
        and np.array_equal(frames[-1], still)
        and milliseconds[-1] >= 2000
    )
    assert (
        still.shape[1] <= 838
    )  # as wide as GitHub shows it: wider ones are scaled there, and blurred
    for frame in frames:
        assert np.array_equal(frame, frame[1::3, 1::3].repeat(3, 0).repeat(3, 1))
    assert frames[0].std() > 60 and (frames[0] == 255).mean() < (still == 255).mean()
    assert (PICTURES / "drawing.png").stat().st_size <= 250 * 1024


def test_pictures_have_words_and_are_there():
    for tag in re.findall(r"<img [^>]*>", README):
        assert (ROOT / re.search(r'src="([^"]+)"', tag)[1]).exists() and len(
            re.search(r'alt="([^"]*)"', tag)[1]
        ) > 20, tag
    assert all(
        (ROOT / path).exists() for path in re.findall(r'srcset="([^"]+)"', README)
    )


# ---- The map and the plans -------------------------------------------------------------------------------------------


def on_the_map():
    """{lesson: its seconds} in the README's map of lessons."""
    return {
        int(n): int(s)
        for n, s in re.findall(r"^\| \[(\d+)\. [^\n]*?\| (\d+) s\*? \|", README, re.M)
    }


def test_the_map_has_every_lesson_in_order_with_its_time():
    assert list(on_the_map()) == list(NOTEBOOKS)


def places(lesson):
    """({its sections}, {exercise: the section it stands in})."""
    section, sections, exercises = None, set(), {}
    for line in "\n".join(sources(lesson, "markdown")).splitlines():
        if found := re.match(r"## (\d+)\. ", line):
            section = int(found[1])
            sections.add(section)
        elif found := re.match(r"### Exercise (\d+\.\d+)", line):
            exercises[found[1]] = section
    return sections, exercises


def test_the_instruments_are_where_the_readme_says():
    found = []
    for lesson in NOTEBOOKS:
        section = None
        for line in "\n".join(sources(lesson, "markdown")).splitlines():
            section = (re.match(r"## (\d+)\. ", line) or (section, section))[1]
            found += (
                [(lesson, int(section))] if line.startswith("### An instrument") else []
            )
    listed = re.search(r"under a second: in lessons (.*?)\.", README)[1]
    assert [
        tuple(map(int, pair))
        for pair in re.findall(r"(\d+) \((?:section )?(\d+)\)", listed)
    ] == found


def numbers(words):
    """{2, 3, 4, 7} of "2 to 4 and 7"."""
    ranges = re.findall(r"(\d+)(?: to (\d+))?", words)
    return {
        n for first, last in ranges for n in range(int(first), int(last or first) + 1)
    }


PLANS = {
    title: re.findall(r"^\| (\d+) \| ([^|]*) \| ([^|]*)\| ([^|]*)\|", table, re.M)
    for title, table in re.findall(
        r"^\*\*([\w ]+)\*\*, .*?\n\n(.*?)\n\n",
        README[README.index("## Teaching") :],
        re.M | re.S,
    )
}


@pytest.mark.parametrize("title, minutes", [("Two hours", 120), ("One day", 360)])
def test_the_plans_take_as_long_as_they_say(title, minutes):
    assert sum(int(row[0]) for row in PLANS[title]) == minutes


@pytest.mark.parametrize("title", ["Two hours", "One day"])
def test_the_plans_name_sections_and_exercises_that_exist(title):
    for _, what, seconds, exercises in PLANS[title]:
        if not (lesson := re.match(r"lesson (\d+)", what)):
            assert what == "break"
            continue
        lesson = int(lesson[1])
        named, (sections, found) = numbers(what.partition("section")[2]), places(lesson)
        assert named <= sections, f"lesson {lesson} has no sections {named - sections}"
        for exercise in re.findall(r"\d+\.\d+", exercises):
            assert exercise.startswith(f"{lesson}.") and exercise in found, (
                f"there is no exercise {exercise}"
            )
            assert not named or found[exercise] in named, (
                f"exercise {exercise} stands in section {found[exercise]}"
            )
        assert int(seconds.split()[0]) == on_the_map()[lesson]


def test_what_the_readme_quotes_is_what_the_check_says():
    from exercises import answer_to

    def my_perturb_input(x, t, noise, schedule):
        ab = schedule.ab[t].float().view(-1, 1, 1, 1)
        return ab.sqrt() * x + (1 - ab) * noise

    assert f"Exercise 2.2: {answer_to('2.2', my_perturb_input)}\n" in README


# ---- The address of a copy -------------------------------------------------------------------------------------------


def program(root=ROOT):
    spec = importlib.util.spec_from_file_location(
        "set_address_for_tests", root / "notebooks" / "set_address.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_file_has_the_address_of_pyproject():
    """If this fails: `python tests/tools/set_address.py`."""
    assert [
        path.name
        for path, text in program().rewritten().items()
        if path.read_bytes() != text.encode()
    ] == []


@pytest.fixture
def copy(tmp_path):
    """A copy of the files that hold the address, without one, and a function that runs the program there."""
    for name in (
        "pyproject.toml",
        "README.md",
        "CITATION.cff",
        "tests/tools/set_address.py",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for path in NOTEBOOKS.values():
        shutil.copy(path, tmp_path / "notebooks")

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "tests/tools/set_address.py", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    assert run("").returncode == 0
    return tmp_path, run


def contents(folder):
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_an_address_goes_everywhere_once_and_comes_off_again(copy):
    folder, run = copy
    before = contents(folder)
    assert run("https://github.com/you/course.git/").returncode == 0
    after = contents(folder)
    assert after.keys() == before.keys()
    assert (
        run().stdout.startswith("0 of")
        and run("https://github.com/you/course").stdout.startswith("0 of")
        and contents(folder) == after
    )

    readme, settings = (
        after[folder / name].decode() for name in ("README.md", "pyproject.toml")
    )
    assert 'repository = "https://github.com/you/course"\n' in settings
    badges = re.findall(
        r"\]\(https://colab\.research\.google\.com/github/you/course/blob/main/(\S+?)\)",
        readme,
    )
    assert badges == [f"notebooks/{path.name}" for path in NOTEBOOKS.values()]
    assert "  url = {https://github.com/you/course},\n" in readme
    assert (
        yaml.safe_load(after[folder / "CITATION.cff"])["repository-code"]
        == "https://github.com/you/course"
    )
    for path in NOTEBOOKS.values():
        old, new = (
            json.loads(files[folder / "notebooks" / path.name])
            for files in (before, after)
        )
        changed = [(a, b) for a, b in zip(old["cells"], new["cells"]) if a != b]
        assert len(
            changed
        ) == 1 and 'REPOSITORY = "https://github.com/you/course"' in "".join(
            changed[0][1]["source"]
        )

    assert run("").returncode == 0 and contents(folder) == before


def test_only_github_has_badges(copy):
    folder, run = copy
    assert run("https://gitlab.com/group/sub/course").returncode == 0
    assert "colab.research" not in (folder / "README.md").read_text(encoding="utf8")
    assert 'REPOSITORY = \\"https://gitlab.com/group/sub/course\\"' in (
        folder / "notebooks" / NOTEBOOKS[1].name
    ).read_text(encoding="utf8")


NO_ADDRESSES = [
    "github.com/you/course",
    "https://github.com/you",
    'https://a.b/c"d',
    "https://github.com/you/course/tree/main",
    "../course",
]


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_other_words_are_refused_and_nothing_is_written(copy, address):
    folder, run = copy
    before, result = contents(folder), run(address)
    assert (
        result.returncode != 0
        and "https://github.com/" in result.stderr
        and "Traceback" not in result.stderr
    )
    assert contents(folder) == before


def test_a_notebook_without_the_field_is_named_and_nothing_is_written(copy):
    folder, run = copy
    (folder / "notebooks" / "12_new.ipynb").write_text('{"cells": []}', encoding="utf8")
    before, result = contents(folder), run("https://github.com/you/course")
    assert (
        result.returncode != 0
        and "12_new.ipynb" in result.stderr
        and contents(folder) == before
    )


# ---- What to cite, and the licence -----------------------------------------------------------------------------------


def test_licence_citation_and_readme_agree():
    licence = (ROOT / "LICENSE").read_text(encoding="utf8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    year, holder = re.search(r"Copyright \(c\) (\d{4}) (.+)", licence).groups()
    assert (
        licence.startswith("MIT License")
        and citation["license"] == "MIT"
        and "[MIT](LICENSE)" in README
    )
    assert citation.keys() >= {
        "cff-version",
        "message",
        "title",
        "authors",
    } and citation["authors"] == [{"name": holder}]
    assert (
        f"# {citation['title']}\n" in README
        and f"title = {{{citation['title']}}}" in README
    )
    assert f"year = {{{year}}}" in README and f"author = {{{{{holder}}}}}" in README


# ---- The glossary ----------------------------------------------------------------------------------------------------

LINES = [
    line for line in GLOSSARY.splitlines() if re.match(r"\| (?!symbol|score)", line)
]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES]
NAMED_HERE = [(row[2], int(row[-1])) for row in ROWS]
NAMED_THERE = [row[4] for row in ROWS if len(row) == 7 and "`" in row[4]]
SCHEDULER = diffusers.DDIMScheduler(500)
FACTORY, SCORING = du.sprite_factory(), du.sprite_scoring()


def reached(name, start):
    """The thing that a dotted name means, and the argument it names: "step(eta=)" gives (the method, "eta")."""
    path, argument = re.fullmatch(r"(.+?)(?:\((\w+)=\))?", name).groups()
    thing = start
    for part in path.split("."):
        thing = getattr(thing, part)
    return thing, argument


def has_argument(thing, argument):
    return argument is None or argument in inspect.signature(thing).parameters


@pytest.mark.parametrize("cell, lesson", NAMED_HERE, ids=[row[0] for row in ROWS])
def test_each_name_of_this_course_exists(cell, lesson):
    code = "\n".join(sources(lesson, "code"))
    names = re.findall(r"`([^`]+)`", cell)
    assert names
    for name in names:
        if name.startswith('"'):
            assert name in code or name in inspect.getsource(du), name
        elif name.startswith("schedule."):
            assert hasattr(du.NoiseSchedule.linear(), name.removeprefix("schedule.")), (
                name
            )
        elif name.startswith("factory."):
            assert hasattr(FACTORY, name.removeprefix("factory.")), name
        elif name.startswith("scoring."):
            assert hasattr(SCORING, name.removeprefix("scoring.")), name
        elif name.startswith("model("):
            assert has_argument(
                *reached(name.replace("model", "forward"), du.ContextUnet)
            ), name
        elif re.match(r"\w+", name)[0] in du.__all__:
            assert has_argument(*reached(name, du)), name
        else:  # the lesson defines it
            function, argument = re.fullmatch(r"(\w+)(?:\((\w+)=\))?", name).groups()
            assert re.search(rf"def {function}\([^)]*\b{argument or ''}", code), name


@pytest.mark.parametrize("cell", NAMED_THERE)
def test_each_name_of_diffusers_exists(cell):
    for name in re.findall(r"`([^`]+)`", cell):
        if name.startswith('"'):
            assert any(
                name in inspect.getsource(kind)
                for kind in (diffusers.DDPMScheduler, diffusers.DDIMScheduler)
            ), name
        elif name.startswith("config."):
            assert name.removeprefix("config.") in {
                **SCHEDULER.config,
                **diffusers.DDPMScheduler().config,
            }, name
        elif name.startswith("unet"):
            assert has_argument(
                *reached(
                    name.replace("unet(", "forward(").removeprefix("unet."),
                    diffusers.UNet2DModel,
                )
            ), name
        elif name == "pred_original_sample":
            assert (
                name
                in diffusers.schedulers.scheduling_ddim.DDIMSchedulerOutput.__dataclass_fields__
            )
        elif name == "guidance_scale":
            assert has_argument(diffusers.DiTPipeline.__call__, name)
        elif name.startswith(("compute_snr", "EMAModel")):
            assert has_argument(*reached(name, diffusers.training_utils)), name
        else:
            assert has_argument(
                *reached(
                    name,
                    diffusers.FlowMatchEulerDiscreteScheduler()
                    if "a flow's" in cell
                    else SCHEDULER,
                )
            ), name


def test_the_numbers_of_the_schedule():
    schedule = du.NoiseSchedule.linear()
    assert (
        schedule.T == 500 and f"{schedule.b[1]:.5f} to {schedule.b[-1]:.2f}" in GLOSSARY
    )
    assert (
        f"1 down to {schedule.ab[-1]:.4f}" in GLOSSARY
        and f"then {schedule.snr[1]:,.0f} down to {schedule.snr[-1]:.4f}" in GLOSSARY
    )


@pytest.mark.parametrize("lesson", NOTEBOOKS)
def test_each_lesson_links_the_glossary(lesson):
    assert any("](../GLOSSARY.md)" in source for source in sources(lesson, "markdown"))
