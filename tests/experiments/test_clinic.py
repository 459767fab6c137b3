"""Lesson 17's clinic: each fault is really there, and the judges know all patients.

What is stored belongs to the program's settings, and the capstone in the lesson is the
one that the program runs.
"""

import inspect
import json
import sys
from dataclasses import replace

import capstone
import faults
import numpy as np
import pytest
import torch
from exercises import answer_to
from exercises.lesson_17 import DECIDES, FAULTS, IN_THE_SAMPLING, evidence

import diffusion_utilities as du

NOTEBOOK = du.COURSE / "notebooks" / "17_clinic.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf8"))["cells"]
STORED = json.loads((du.WEIGHTS / "clinic.json").read_text(encoding="utf8"))
SHEETS = du.WEIGHTS / "results" / "clinic.npz"
NUMBERS = STORED["numbers"]
SCHEDULE = du.NoiseSchedule.linear()
X0 = torch.linspace(-1, 1, 48).view(1, 3, 4, 4)  # the only picture in some tests


@pytest.fixture
def clinic(program):
    return program("clinic")


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


def oracle(told=None):
    """A model of the noise in x_t if X0 is the only picture; `told` collects times."""

    def model(x, t, c=None):
        if told is not None:
            told.append(float(t.flatten()[0]))
        steps = (t * 500).round().long()
        ab = SCHEDULE.ab[steps].view(-1, 1, 1, 1).float()
        return (x - ab.sqrt() * X0) / (1 - ab).sqrt()

    return model


def end_of(sampler, model, x_T, seed=5):
    return sampler(model, SCHEDULE, x_T=x_T, context=None, generator=generator(seed))


# ---- Training: each fault is there, and the healthy training is the course's ---------


@pytest.mark.parametrize("t, std", [(50, 0.054), (200, 0.56)])
def test_noise_without_its_root_is_too_weak_in_the_middle(t, std):
    noise = normal(4, 3, 32, 32)
    steps = torch.full((4,), t)
    noised = faults.noise_without_root(0 * noise, steps, noise, SCHEDULE)
    assert float(noised.std()) == pytest.approx(std, abs=0.01)


def test_few_pictures_are_few(clinic):
    x, c = clinic.training_set(clinic.TRAININGS["healthy"])
    few, labels = clinic.training_set(clinic.TRAININGS["few pictures"])
    assert len(x) == len(du.load_sprites("train"))
    assert len(few) == 20
    assert torch.equal(few, x[:20])
    assert torch.equal(labels, c[:20])


def test_shuffled_labels_are_the_same_ones_elsewhere(clinic):
    x, c = clinic.training_set(clinic.TRAININGS["healthy"])
    same, shuffled = clinic.training_set(clinic.TRAININGS["shuffled labels"])
    assert torch.equal(same, x)
    assert torch.equal(shuffled.sum(0), c.sum(0))
    agree = (shuffled.argmax(1) == c.argmax(1)).float().mean()
    by_chance = c.mean(0).square().sum()
    assert float(agree) == pytest.approx(float(by_chance), abs=0.03)


CHANGED = {
    "healthy": [],
    "no root": ["root"],
    "rate too high": ["rate"],
    "few pictures": ["pictures"],
    "shuffled labels": ["shuffled"],
}


@pytest.mark.parametrize("again", ["", ", seed 2"])
@pytest.mark.parametrize("name", CHANGED)
def test_a_training_differs_from_the_healthy_one_in_one_thing(clinic, name, again):
    run = vars(clinic.TRAININGS[name + again])
    healthy = vars(clinic.TRAININGS["healthy" + again])
    assert run["seed"] == (2 if again else 1)
    assert [key for key in run if run[key] != healthy[key]] == CHANGED[name]


def test_the_rate_is_a_hundred_times_too_high(clinic):
    trainings = clinic.TRAININGS
    right = 100 * trainings["healthy"].rate
    assert trainings["rate too high"].rate == pytest.approx(right)


@pytest.fixture
def quick(clinic, monkeypatch):
    """Without the held-out curve."""
    monkeypatch.setattr(clinic, "mean_loss", lambda *_: 0.0)
    return clinic


def test_the_loss_of_a_step_is_the_course_s_simple_loss(quick):
    """By hand, with the random numbers in the order in which the program draws them."""
    _, losses, _ = quick.train(quick.Run(steps=10, batch=8))
    model = du.load_weights(
        du.ContextUnet(3, 64, 5, 16), du.WEIGHTS / "context_model_trained.pth"
    )
    model = model.to(memory_format=torch.channels_last).train()
    x, c = quick.training_set(quick.Run())
    g = generator(1)
    rows = torch.randint(len(x), (8,), generator=g)
    t = torch.randint(1, 501, (8,), generator=g)
    noise = torch.randn((8, 3, 16, 16), generator=g)
    told = du.drop_context(c[rows], 0.1, g)
    answer = model(du.perturb_input(x[rows], t, noise, SCHEDULE), t / 500, told)
    right = (answer - noise).square().mean().item()
    assert losses[0] == pytest.approx(right, rel=1e-5)


def test_the_rate_rises_and_falls_and_the_average_comes_back(quick, monkeypatch):
    rates = []

    def step(self, closure=None):
        rates.append(self.param_groups[0]["lr"])

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    model, losses, curve = quick.train(quick.Run(steps=40, rate=1.0, batch=2))
    right = [min((i + 1) / 20, 1) * (1 - i / 40) for i in range(40)]
    assert rates == pytest.approx(right)
    assert not model.training
    assert len(losses) == 40
    assert [step for step, _ in curve] == [*range(0, 41, 4)]


def test_training_ends_where_the_loss_is_not_finite(quick, monkeypatch):
    def spoilt(x, *_):
        return x * float("nan")

    monkeypatch.setattr(quick.du, "perturb_input", spoilt)
    _, losses, _ = quick.train(quick.Run(steps=10, batch=2))
    assert losses == []


# ---- Sampling: against the only picture that there is --------------------------------


@pytest.mark.parametrize(
    "sampler, off",
    [("ddpm", 0), ("ddim", 0), ("no_noise_added", 0), ("noise_at_the_end", 0.0565)],
)
def test_where_the_samplers_end(clinic, sampler, off):
    x = end_of(getattr(clinic, sampler), oracle(), normal(200, 3, 4, 4, seed=1))
    assert float((x - X0).std()) == pytest.approx(off, abs=0.002)


def test_the_wrapped_stride_calls_32_times_and_ends_at_t_489(clinic):
    told = []
    x_T = normal(3, 3, 4, 4, seed=1)
    _, sampler = clinic.PATIENTS["stride wraps"]
    x = end_of(sampler, oracle(told), x_T)
    ab = float(SCHEDULE.ab[500])
    noise = (x_T - ab**0.5 * X0) / (1 - ab) ** 0.5
    right = du.perturb_input(X0, 489, noise, SCHEDULE)
    torch.testing.assert_close(x, right, rtol=1e-3, atol=1e-3)
    assert len(told) == 32
    assert told[-1] == pytest.approx(4 / 500)


@pytest.mark.parametrize("sampler, most", [("ddpm", 1), ("t_not_divided", 500)])
def test_only_one_sampler_tells_t_undivided(clinic, sampler, most):
    told = []

    def model(x, t, c):
        told.append(float(t.max()))
        return 0 * x

    end_of(getattr(clinic, sampler), model, normal(1, 3, 4, 4))
    assert max(told) == most
    assert len(told) == clinic.DDPM["steps"]


@pytest.mark.parametrize("sampler, equal", [("no_noise_added", True), ("ddpm", False)])
def test_without_added_noise_only_the_start_decides(clinic, sampler, equal):
    def model(x, t, c):
        return torch.tanh(x)

    x_T = normal(2, 3, 4, 4)
    one = end_of(getattr(clinic, sampler), model, x_T, seed=1)
    other = end_of(getattr(clinic, sampler), model, x_T, seed=2)
    assert torch.allclose(one, other) == equal


@pytest.mark.parametrize(
    "sampler, matters", [("ddpm", False), ("eval_forgotten", True)]
)
def test_only_in_train_mode_the_company_matters(clinic, monkeypatch, sampler, matters):
    monkeypatch.setitem(clinic.DDPM, "steps", 3)
    model = du.ContextUnet(3, 8, 5, 16).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sampler = getattr(clinic, sampler)
    first = clinic.draw(sampler, model, 8)[:4]
    again = clinic.draw(sampler, model, 8)[:4]
    changed = clinic.draw(sampler, model, 8, changed=True)[:4]
    assert torch.equal(first, again)
    assert (clinic.distance(first, changed) > 0.001) == matters
    assert not model.training
    for key, value in model.state_dict().items():
        assert torch.equal(before[key], value)


def test_every_patient_draws_from_the_same_starts_five_of_each_class(clinic):
    seen = []

    def sampler(model, schedule, x_T, context, generator):
        seen.append((x_T, context))
        return x_T

    clinic.draw(sampler, None, 50)
    clinic.draw(sampler, None, 50, changed=True)
    (x, c), (other, again) = seen
    assert torch.equal(x[:25], other[:25])
    assert torch.equal(x[25:], -other[25:])
    assert torch.equal(c, again)
    classes = [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5
    assert c[:25].argmax(1).tolist() == classes


# ---- Measuring -----------------------------------------------------------------------


def test_measures_of_a_picture_are_what_they_say(clinic):
    flat = np.full((2, 16, 16, 3), 255, np.uint8)
    stripes = np.zeros((2, 16, 16, 3), np.uint8)
    stripes[:, :, ::2] = 255
    assert clinic.roughness(flat) == 0
    assert clinic.roughness(stripes) == 1
    assert clinic.full_range(flat) == 0
    assert clinic.full_range(stripes) == 1
    assert clinic.distance(torch.ones(2, 3), -torch.ones(2, 3)) == 1
    assert clinic.blocks([1, 3, 5, 7, 9], 3) == [2, 6, 9]


@pytest.mark.slow
def test_a_report_has_the_scores_of_the_helper(clinic):
    test = du.load_sprites("test")
    report = clinic.report(test.images[:60], test.labels[:60].argmax(1))
    right = du.sprite_scores(test.images[:60], test.c[:60].numpy())
    for name, value in report.items():
        tolerance = 0.06 if name == "FD" else 1e-4
        assert value == pytest.approx(right[name][0], abs=tolerance), name


# ---- The capstone --------------------------------------------------------------------


def test_training_for_a_time_ends_with_the_clock_and_a_rate_of_nearly_nothing(
    monkeypatch,
):
    """The clock ticks at each look."""
    rates = []
    ticks = iter(range(1000))

    def step(self):
        rates.append([group["lr"] for group in self.param_groups])

    monkeypatch.setattr(du.Muon, "step", step)
    model, losses = capstone.train_for(10, 1, clock=lambda: next(ticks))
    assert len(losses) == len(rates) == 9
    assert not model.training
    shares = [min(2 * (1 - (i + 1) / 10), 1) for i in range(9)]
    assert [muon for muon, _ in rates] == pytest.approx([0.012 * s for s in shares])
    assert [adam for _, adam in rates] == pytest.approx([1e-3 * s for s in shares])


@pytest.mark.slow
def test_scores_are_those_of_the_course():
    test = du.load_sprites("test")
    rows = np.random.default_rng(0).permutation(len(test))

    def real_sprites(model, n, g):
        return test.x[rows[:n]]

    def pure_noise(model, n, g):
        return torch.randn((n, 3, 16, 16), generator=g)

    real = capstone.score(None, real_sprites)
    assert real["legal"] == 1
    assert real["distance"] == 0
    floor = STORED["capstone_floor"]["FD"]
    assert real["FD"] == pytest.approx(floor, abs=0.06)
    noise = capstone.score(None, pure_noise, n=50)
    assert noise["legal"] == 0
    assert noise["FD"] > 10 * real["FD"]


@pytest.mark.parametrize("name", ["train_for", "draw_samples", "score"])
def test_the_lesson_s_capstone_is_the_one_that_the_program_runs(name):
    source = inspect.getsource(getattr(capstone, name)).strip()
    assert any(source in "".join(cell["source"]) for cell in CELLS)


# ---- What is stored ------------------------------------------------------------------


def test_the_rows_are_of_these_settings_and_data(clinic):
    """Seed 2 and the capstone come last, and may be missing."""
    settings = clinic.settings_of(clinic.SAMPLES, clinic.SECONDS)
    assert STORED["settings"] == settings
    assert clinic.numbered() == NUMBERS
    digests = clinic.digests_of(clinic.SAMPLES, clinic.SECONDS)
    for part, wanted in digests.items():
        stored = {name: row["digest"] for name, row in STORED[part].items()}
        assert [*stored.items()] == [*wanted.items()][: len(stored)]
    assert {*clinic.PATIENTS} == {
        name for row in STORED["trainings"].values() for name in row["patients"]
    }


def test_a_rename_keeps_the_stored_rows(clinic, tmp_path, monkeypatch):
    """Digests cover settings and data. Source text is no part of them."""
    source = inspect.getsource(clinic)
    renamed = source.replace("examine(", "look_at(").replace("def train(", "def fit(")
    path = tmp_path / "renamed_clinic.py"
    path.write_text("# a comment\n" + renamed, encoding="utf8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import renamed_clinic

    before = clinic.digests_of(200, 180)
    assert renamed_clinic.look_at
    assert renamed_clinic.digests_of(200, 180) == before
    monkeypatch.setitem(renamed_clinic.DDPM, "steps", 20)
    changed = renamed_clinic.digests_of(200, 180)
    assert changed["capstone"] == before["capstone"]
    assert not set(changed["trainings"].values()) & set(before["trainings"].values())


def test_every_training_has_its_patients(clinic):
    for key, row in STORED["trainings"].items():
        training = key.removesuffix(clinic.AGAIN)
        own = [
            name for name, (which, _) in clinic.PATIENTS.items() if which == training
        ]
        assert [*row["patients"]] == own
        assert row["run"]["seed"] == (1 if training == key else 2)


def test_every_patient_has_a_sheet(clinic):
    with np.load(SHEETS) as sheets:
        for patient in clinic.PATIENTS:
            assert len(sheets[f"{patient}: sheet"]) == 25
    assert SHEETS.stat().st_size <= 700 * 1024


@pytest.mark.parametrize("seed", STORED["capstone"])
def test_the_reference_had_its_three_minutes(seed):
    row = STORED["capstone"][seed]
    assert row["steps"] > 100
    assert row["wall seconds"] >= STORED["settings"]["seconds"]


def test_patients_are_numbered_at_random(clinic):
    assert sorted(NUMBERS.values()) == [*"12345678"]
    order = sorted(NUMBERS, key=NUMBERS.get)
    assert order != sorted(order)
    assert order != clinic.SICK


@pytest.mark.parametrize("fault", NUMBERS)
def test_the_folded_solution_is_the_fault(fault):
    texts = ["".join(cell["source"]) for cell in CELLS if is_markdown(cell)]
    start = f"**Exercise 17.{NUMBERS[fault]}.**"
    [exercise] = [i for i, text in enumerate(texts) if start in text]
    assert f'my_diagnosis = "{fault}"' in texts[exercise + 1]


@pytest.mark.parametrize("fault", NUMBERS)
def test_a_page_without_a_kernel_has_the_test_that_decides(fault):
    """Folded, with a picture, and without the name of the fault."""
    start = f'check("17.{NUMBERS[fault]}"'
    [cell] = [cell for cell in CELLS if start in "".join(cell["source"])]
    pages = [
        one["data"].get("text/html", []) for one in cell["outputs"] if "data" in one
    ]
    [page] = ["".join(page) for page in pages]
    assert page.startswith("<details><summary>The test that decides</summary>")
    assert f"<p>{DECIDES[fault]}" in page
    assert "data:image/png;base64," in page
    assert fault not in page


def is_markdown(cell):
    return cell["cell_type"] == "markdown"


# ---- Each diagnosis names a number that differs from the healthy one's ---------------


def gap(some):
    """How many times the held-out loss is above the loss on training pictures."""
    return some["held out"] / some["loss on training pictures"]


def sees_the_company(me, healthy):
    return me["other company"] > 0.03 and healthy["other company"] < 0.001


def knows_its_pictures_by_heart(me, healthy):
    return gap(me) > 3 and gap(healthy) < 1.1


def draws_few_kinds(me, healthy):
    obeys = me["class as asked"] > 0.8
    return obeys and me["recall"] < 0.2 and healthy["recall"] > 0.6


def is_spoilt_at_some_steps(me, healthy):
    early = me["t = 100"] / healthy["t = 100"]
    late = me["t = 400"] / healthy["t = 400"]
    return early > 2 and late < 1.5


def keeps_a_high_loss(me, healthy):
    return me["last twentieth"] > 1.5 * healthy["last twentieth"]


def has_grain_that_fd_does_not_see(me, healthy):
    grain = me["full range"] > 2 * healthy["full range"]
    return grain and abs(me["FD"] - healthy["FD"]) < 20


def does_not_obey(me, healthy):
    return me["class as asked"] < 0.5 and healthy["class as asked"] > 0.8


def draws_soft_noise(me, healthy):
    """Unlike the noise of a network that is told t undivided."""
    hard = STORED["others"]["t not divided"]["roughness"]
    colours = me["off-palette pixels"] > 2 * healthy["off-palette pixels"]
    return colours and me["class as asked"] < 0.5 and me["roughness"] < 0.8 * hard


SIGNS = {
    "eval forgotten": sees_the_company,
    "few pictures": knows_its_pictures_by_heart,
    "no noise added": draws_few_kinds,
    "no root": is_spoilt_at_some_steps,
    "rate too high": keeps_a_high_loss,
    "noise at the end": has_grain_that_fd_does_not_see,
    "shuffled labels": does_not_obey,
    "stride wraps": draws_soft_noise,
}


@pytest.mark.parametrize("fault", SIGNS)
def test_each_patient_has_its_sign(fault):
    assert SIGNS[fault](evidence(fault), evidence("healthy"))


@pytest.mark.parametrize("fault", SIGNS)
def test_patients_with_a_faulty_sampler_share_the_healthy_network(fault):
    own = evidence(fault)["DDIM, FD"]
    assert (own == evidence("healthy")["DDIM, FD"]) == (fault in IN_THE_SAMPLING)


# ---- The judges ----------------------------------------------------------------------


def test_the_list_has_the_eight_and_six_more():
    assert set(NUMBERS) <= set(FAULTS)
    assert len(FAULTS) == 14
    assert [*FAULTS] == sorted(FAULTS)


def test_the_inviting_suspicion_is_refused_kindly():
    answer = answer_to(f"17.{NUMBERS['no noise added']}", "few pictures")
    assert answer.startswith("not yet. A good guess")


def digits_in(text):
    return sum(map(str.isdigit, text))


@pytest.mark.parametrize("fault", NUMBERS)
def test_the_right_name_is_praised_with_numbers(fault):
    answer = answer_to(f"17.{NUMBERS[fault]}", fault)
    assert answer.startswith("well done. ")
    assert digits_in(answer) > 4
    assert "cure" in answer.lower()


WRONG_NAMES = [
    (fault, claim) for fault in NUMBERS for claim in FAULTS if claim != fault
]


@pytest.mark.parametrize("fault, claim", WRONG_NAMES)
def test_every_other_name_is_refused_with_numbers_of_this_patient(fault, claim):
    answer = answer_to(f"17.{NUMBERS[fault]}", claim)
    assert answer.startswith("not yet. ")
    assert answer.endswith(".")
    assert digits_in(answer) > 2
    assert "could not be judged" not in answer


OTHER_ANSWERS = [
    ("no rooot", "did you mean 'no root'"),
    ("measles", "eval forgotten, few"),
    (3, "as a string"),
    ("No Root ", "mean 'no root'"),
]


@pytest.mark.parametrize("attempt, words", OTHER_ANSWERS)
def test_other_answers_are_told_what_may_be_said(attempt, words):
    answer = answer_to(f"17.{NUMBERS['few pictures']}", attempt)
    assert answer.startswith("not yet. ")
    assert words in answer


# ---- The program ---------------------------------------------------------------------


@pytest.fixture
def stubbed(clinic, monkeypatch):
    """The program with jobs that cost nothing; `clinic.done` names those done."""
    clinic.done = []

    def stub_of(job):
        def row(key, *rest):
            clinic.done.append((job, key))
            sheets = {f"{job} {key}": np.zeros(1, np.uint8)}
            return {"value": len(clinic.done)}, sheets

        return row

    for job in ("training_row", "other_row", "capstone_row"):
        monkeypatch.setattr(clinic, job, stub_of(job))
    monkeypatch.setattr(clinic, "floor", lambda samples: {"FD": 1.0})
    monkeypatch.setattr(clinic, "score", lambda *_: {"FD": 2.0})
    return clinic


def run(clinic, monkeypatch, *words):
    words = ["clinic.py", "--workers", "1", *map(str, words)]
    monkeypatch.setattr(sys, "argv", words)
    clinic.main()


def test_rows_that_are_there_are_kept(stubbed, monkeypatch, tmp_path):
    out = tmp_path / "clinic.json"
    briefly = ("--out", out, "--seconds", 1, "--samples", 20)
    run(stubbed, monkeypatch, *briefly)
    first = out.read_text(encoding="utf8")
    assert len(stubbed.done) == 10 + 1 + 3
    assert [*json.loads(first)["capstone"]] == ["1", "2", "3"]
    assert json.loads(first)["capstone_floor"] == {"FD": 2.0}
    with np.load(tmp_path / "results" / "clinic.npz") as sheets:
        assert len(sheets.files) == 14
    run(stubbed, monkeypatch, *briefly)
    assert len(stubbed.done) == 14
    assert out.read_text(encoding="utf8") == first


def test_rows_of_other_settings_are_made_again(stubbed, monkeypatch, tmp_path):
    out = tmp_path / "clinic.json"
    briefly = ("--out", out, "--seconds", 1, "--samples", 20)
    run(stubbed, monkeypatch, *briefly)
    shorter = replace(stubbed.TRAININGS["no root"], steps=60)
    monkeypatch.setitem(stubbed.TRAININGS, "no root", shorter)
    run(stubbed, monkeypatch, *briefly)
    assert stubbed.done[14:] == [("training_row", "no root")]


def test_a_file_of_other_settings_is_refused(stubbed, monkeypatch, tmp_path, capsys):
    out = tmp_path / "clinic.json"
    out.write_text('{"settings": {}}', encoding="utf8")
    with pytest.raises(SystemExit):
        run(stubbed, monkeypatch, "--out", out, "--seconds", 2)
    assert "has other settings" in capsys.readouterr().err


def test_other_settings_do_not_overwrite_what_ships(stubbed, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(stubbed, monkeypatch, "--seconds", 1)
    assert "add --out" in capsys.readouterr().err
    assert not stubbed.done
