"""The clinic of lesson 11: its program does each fault that it names, what is stored is of that program, and the judges know all patients."""

import ast
import json
import sys

import numpy as np
import pytest
import torch
from exercises import answer_to
from exercises.lesson_11 import FAULTS, IN_THE_SAMPLING, evidence, how

import diffusion_utilities as du

NOTEBOOK = du.COURSE / "notebooks" / "11_clinic.ipynb"
STORED = json.loads((du.WEIGHTS / "clinic.json").read_text(encoding="utf8"))
SHEETS = du.WEIGHTS / "results" / "clinic.npz"
NUMBERS = STORED["numbers"]
SCHEDULE = du.NoiseSchedule.linear()


@pytest.fixture
def clinic(program, monkeypatch):
    monkeypatch.syspath_prepend(str(du.WEIGHTS))
    return program("clinic")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def oracle(x0, told=None):
    """The noise in x_t, if x0 (1, 3, 4, 4) is the only picture there is; `told` collects the times."""

    def model(x, t, c=None):
        if told is not None:
            told.append(float(t.flatten()[0]))
        ab = SCHEDULE.ab[(t * 500).round().long()].view(-1, 1, 1, 1).float()
        return (x - ab.sqrt() * x0) / (1 - ab).sqrt()

    return model


def generator():
    return torch.Generator().manual_seed(5)


# ---- Training: each fault is done, and the healthy one is the course's -------------------------------------------------


def test_noise_without_its_root_is_too_weak_in_the_middle_and_the_healthy_noise_is_the_helper_s(
    clinic,
):
    noise = normal(4, 3, 32, 32)
    for t, std in ((50, 0.054), (200, 0.56)):
        steps = torch.full((4,), t)
        assert float(
            clinic.noised(0 * noise, steps, noise, SCHEDULE, root=False).std()
        ) == pytest.approx(std, abs=0.01)
        whole = clinic.noised(noise, steps, noise, SCHEDULE, root=True)
        assert torch.equal(whole, du.perturb_input(noise, steps, noise, SCHEDULE))


def test_few_pictures_are_few_and_shuffled_labels_are_the_same_ones_elsewhere(clinic):
    (x, c), few, shuffled = (
        clinic.training_set(clinic.TRAININGS[name])
        for name in ("healthy", "few pictures", "shuffled labels")
    )
    assert (
        len(x) == len(du.load_sprites("train"))
        and len(few[0]) == 20
        and torch.equal(few[0], x[:20])
        and torch.equal(few[1], c[:20])
    )
    assert torch.equal(shuffled[0], x) and torch.equal(shuffled[1].sum(0), c.sum(0))
    agree = float((shuffled[1].argmax(1) == c.argmax(1)).float().mean())
    shares = c.mean(0)
    assert agree == pytest.approx(float(shares.square().sum()), abs=0.03)


def test_the_trainings_differ_from_the_healthy_ones_in_one_thing(clinic):
    for name, run in clinic.TRAININGS.items():
        changed = [
            key
            for key in vars(run)
            if getattr(run, key) != getattr(clinic.HEALTHY, key)
        ]
        wanted = {
            "no root": ["root"],
            "rate too high": ["rate"],
            "few pictures": ["pictures"],
            "shuffled labels": ["shuffled"],
        }
        assert changed == wanted.get(name, []), name
    assert clinic.TRAININGS["rate too high"].rate == pytest.approx(
        100 * clinic.HEALTHY.rate
    )


@pytest.fixture
def quick(clinic, monkeypatch):
    """Without the held-out curve."""
    monkeypatch.setattr(clinic, "mean_loss", lambda *_: 0.0)
    return clinic


def test_the_loss_of_a_step_is_the_course_s_simple_loss(quick):
    """By hand: the same rows, steps, noise and dropped labels, in the order in which the program draws them."""
    _, (loss, *_), _ = quick.train(quick.Run(steps=10, batch=8))
    model = (
        du.load_weights(
            du.ContextUnet(3, 64, 5, 16), du.WEIGHTS / "context_model_trained.pth"
        )
        .to(memory_format=torch.channels_last)
        .train()
    )
    g, (x, c) = torch.Generator().manual_seed(1), quick.training_set(quick.HEALTHY)
    rows = torch.randint(len(x), (8,), generator=g)
    t, noise = (
        torch.randint(1, 501, (8,), generator=g),
        torch.randn((8, 3, 16, 16), generator=g),
    )
    told = du.drop_context(c[rows], 0.1, g)
    answer = model(du.perturb_input(x[rows], t, noise, SCHEDULE), t / 500, told)
    assert loss == pytest.approx((answer - noise).square().mean().item(), rel=1e-5)


def test_the_rate_rises_and_falls_and_the_average_comes_back(quick, monkeypatch):
    rates = []
    monkeypatch.setattr(
        torch.optim.Adam,
        "step",
        lambda self, closure=None: rates.append(self.param_groups[0]["lr"]),
    )
    model, losses, curve = quick.train(quick.Run(steps=40, rate=1.0, batch=2))
    assert rates == pytest.approx(
        [min((i + 1) / 20, 1) * (1 - i / 40) for i in range(40)]
    )
    assert (
        not model.training
        and len(losses) == 40
        and [step for step, _ in curve] == [*range(0, 41, 4)]
    )


def test_training_ends_where_the_loss_is_no_number(quick, monkeypatch):
    monkeypatch.setattr(quick, "noised", lambda x, *_: x * float("nan"))
    assert quick.train(quick.Run(steps=10, batch=2))[1] == []


# ---- Sampling: against the only picture that there is ------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler, off",
    [("ddpm", 0), ("ddim", 0), ("no_noise_added", 0), ("noise_at_the_end", 0.0565)],
)
def test_where_the_samplers_end(clinic, sampler, off):
    x0 = torch.linspace(-1, 1, 48).view(1, 3, 4, 4)
    x = getattr(clinic, sampler)(
        oracle(x0), SCHEDULE, normal(200, 3, 4, 4, seed=1), None, generator()
    )
    assert float((x - x0).std()) == pytest.approx(off, abs=0.002)


def test_the_wrapped_stride_calls_32_times_and_ends_at_t_489(clinic):
    x0, told = torch.linspace(-1, 1, 48).view(1, 3, 4, 4), []
    x_T = normal(3, 3, 4, 4, seed=1)
    x = clinic.stride_wraps(oracle(x0, told), SCHEDULE, x_T, None, generator())
    noise = (x_T - float(SCHEDULE.ab[500]) ** 0.5 * x0) / float(
        1 - SCHEDULE.ab[500]
    ) ** 0.5
    torch.testing.assert_close(
        x, du.perturb_input(x0, 489, noise, SCHEDULE), rtol=1e-3, atol=1e-3
    )
    assert len(told) == 32 and told[-1] == pytest.approx(4 / 500)


def test_only_one_sampler_tells_t_undivided(clinic):
    for name, most in (("ddpm", 1), ("t_not_divided", 500)):
        told = []

        def model(x, t, c, told=told):
            told.append(float(t.max()))
            return 0 * x

        getattr(clinic, name)(model, SCHEDULE, normal(1, 3, 4, 4), None, generator())
        assert max(told) == most and len(told) == clinic.CALLS


def test_without_added_noise_only_the_start_decides(clinic):
    def ends(sampler):
        model = lambda x, t, c: torch.tanh(x)  # noqa: E731
        return [
            sampler(
                model,
                SCHEDULE,
                normal(2, 3, 4, 4),
                None,
                torch.Generator().manual_seed(seed),
            )
            for seed in (1, 2)
        ]

    assert torch.equal(*ends(clinic.no_noise_added)) and not torch.allclose(
        *ends(clinic.ddpm)
    )


def test_in_train_mode_the_company_matters_and_the_network_stays_as_it_was(
    clinic, monkeypatch
):
    monkeypatch.setattr(clinic, "CALLS", 3)
    model = du.ContextUnet(3, 8, 5, 16).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for sampler, matters in ((clinic.ddpm, False), (clinic.eval_forgotten, True)):
        first, again, changed = (
            clinic.draw(sampler, model, 8, moved)[:4] for moved in (False, False, True)
        )
        assert (
            torch.equal(first, again)
            and bool(clinic.distance(first, changed) > 0.001) == matters
        )
    assert not model.training and all(
        torch.equal(before[key], value) for key, value in model.state_dict().items()
    )


def test_everyone_draws_from_the_same_starts_five_of_each_class(clinic):
    seen = []
    clinic.draw(lambda model, schedule, x, c, g: seen.append((x, c)) or x, None, 50)
    clinic.draw(
        lambda model, schedule, x, c, g: seen.append((x, c)) or x,
        None,
        50,
        changed=True,
    )
    (x, c), (other, again) = seen
    assert (
        torch.equal(x[:25], other[:25])
        and torch.equal(x[25:], -other[25:])
        and torch.equal(c, again)
    )
    assert c[:25].argmax(1).tolist() == [k for k in range(5) for _ in range(5)]


def test_measures_of_a_picture_are_what_they_say(clinic):
    flat, stripes = (
        np.full((2, 16, 16, 3), 255, np.uint8),
        np.zeros((2, 16, 16, 3), np.uint8),
    )
    stripes[:, :, ::2] = 255
    assert (clinic.roughness(flat), clinic.roughness(stripes)) == (0, 1) and (
        clinic.full_range(flat),
        clinic.full_range(stripes),
    ) == (0, 1)
    assert clinic.distance(torch.ones(2, 3), -torch.ones(2, 3)) == 1 and clinic.blocks(
        [1, 3, 5, 7, 9], 3
    ) == [2, 6, 9]


def test_a_report_is_the_ruler_s(clinic):
    test = du.load_sprites("test")
    mine, right = (
        clinic.report(test.images[:60], test.labels[:60].argmax(1)),
        du.sprite_scores(test.images[:60], test.c[:60].numpy()),
    )
    assert mine == {
        name: pytest.approx(right[name][0], abs=0.06 if name == "FD" else 1e-4)
        for name in mine
    }


# ---- The capstone ----------------------------------------------------------------------------------------------------


def test_training_for_a_time_ends_with_the_clock_and_a_rate_of_nearly_nothing(
    clinic, monkeypatch
):
    """A clock that ticks once a look."""
    rates, now = [], iter(range(1000))
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self: rates.append(self.param_groups[0]["lr"])
    )
    model, losses = clinic.train_for(10, 1, clock=lambda: next(now))
    assert len(losses) == len(rates) == 9 and not model.training
    assert rates == pytest.approx(
        [2e-3 * (i + 1) / 50 * (1 - (i + 1) / 10) for i in range(9)]
    )


def test_scores_are_those_of_the_course(clinic):
    test = du.load_sprites("test")
    rows = np.random.default_rng(0).permutation(len(test))[:500]
    real = clinic.score(None, lambda model, n, g: test.x[rows[:n]])
    assert (
        real["legal"] == 1
        and real["distance"] == 0
        and real["FD"] == pytest.approx(STORED["capstone_floor"]["FD"], abs=0.06)
    )
    noise = clinic.score(
        None, lambda model, n, g: torch.randn((n, 3, 16, 16), generator=g), n=50
    )
    assert noise["legal"] == 0 and noise["FD"] > 10 * real["FD"]


def functions_of(sources):
    """{name: its code without docstring and without the helper's name before the helper's functions}."""
    found = {}
    for node in (
        node
        for source in sources
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    ):
        if ast.get_docstring(node):
            node.body = node.body[1:]
        found[node.name] = ast.unparse(node).replace("du.", "")
    return found


def cells():
    return [
        "".join(cell["source"])
        for cell in json.loads(NOTEBOOK.read_text(encoding="utf8"))["cells"]
        if cell["cell_type"] == "code"
    ]


def test_the_lesson_shows_what_the_program_ran():
    program, lesson = (
        functions_of([(du.WEIGHTS / "clinic.py").read_text(encoding="utf8")]),
        functions_of(cells()),
    )
    assert all(
        program[name] == lesson[name] for name in ("train_for", "draw_samples", "score")
    )


# ---- What is stored --------------------------------------------------------------------------------------------------


def test_the_rows_are_of_this_program_and_all_there(clinic):
    code = clinic.digests()
    assert (
        NUMBERS == clinic.NUMBERS
        and STORED["settings"]["samples"] == clinic.SAMPLES
        and STORED["settings"]["seconds"] == clinic.SECONDS
    )
    for part, wanted in (
        ("trainings", clinic.TRAININGS),
        ("others", clinic.OTHERS),
        ("capstone", map(str, clinic.SEEDS)),
    ):
        assert [*STORED[part]] == [*wanted] and all(
            row["code"] == code[part] for row in STORED[part].values()
        )
    for name, row in STORED["trainings"].items():
        assert row["run"] == clinic.asdict(clinic.TRAININGS[name])
        assert [*row["patients"]] == [
            patient
            for patient, (training, _) in clinic.PATIENTS.items()
            if training == name
        ]
    with np.load(SHEETS) as sheets:
        assert {len(sheets[f"{patient}: sheet"]) for patient in clinic.PATIENTS} == {
            25
        } and SHEETS.stat().st_size <= 400 * 1024


def test_the_reference_had_its_three_minutes():
    assert all(
        row["steps"] > 300 and row["wall seconds"] >= STORED["settings"]["seconds"]
        for row in STORED["capstone"].values()
    )


def test_patients_are_numbered_at_random_and_no_cell_names_them(clinic):
    order = sorted(NUMBERS, key=NUMBERS.get)
    assert sorted(NUMBERS.values()) == [*"12345678"] and order not in (
        sorted(order),
        clinic.SICK,
    )
    listed = [source for source in cells() if "my_diagnosis" in source]
    assert (
        len(listed) == 8
        and len(
            {source.replace(f"11.{k}", "") for k, source in enumerate(listed, start=1)}
        )
        == 1
    )


def test_no_picture_and_no_table_of_a_patient_stands_before_its_exercise():
    """But for the chart: the bench starts with the healthy one, and the tables of all are behind the last patient."""
    sources = cells()
    last = max(i for i, source in enumerate(sources) if "my_diagnosis" in source)
    tables = [
        i for i, source in enumerate(sources) if "for patient in PATIENTS" in source
    ]
    assert len(tables) == 3 and min(tables) > last
    bench = next(
        cell
        for cell in json.loads(NOTEBOOK.read_text(encoding="utf8"))["cells"]
        if "explore(" in "".join(cell["source"])
    )
    assert "1.0 at t = 5, 1.0 at t = 20" in json.dumps(bench["outputs"])


@pytest.mark.parametrize("fault", NUMBERS)
def test_the_folded_solution_says_what_the_judge_says(fault):
    words = [
        "".join(cell["source"])
        for cell in json.loads(NOTEBOOK.read_text(encoding="utf8"))["cells"]
        if cell["cell_type"] == "markdown"
    ]
    after = next(
        words[i + 1]
        for i, text in enumerate(words)
        if text.startswith(f"### Exercise 11.{NUMBERS[fault]}")
    )
    assert f'my_diagnosis = "{fault}"' in after and how()[fault] in after


def gap(some):
    return some["held out"] / some["loss on training pictures"]


def soft(some):
    """Unlike the noise of a network that is told t undivided."""
    return some["roughness"] < 0.8 * STORED["others"]["t not divided"]["roughness"]


SIGNS = {  # of each fault: the number that its diagnosis names, against that of the healthy one
    "eval forgotten": lambda me, sound: (
        me["other company"] > 0.03 > 0.001 > sound["other company"]
    ),
    "few pictures": lambda me, sound: gap(me) > 3 > 1.1 > gap(sound),
    "no noise added": lambda me, sound: (
        me["recall"] < 0.2 < 0.6 < sound["recall"] and me["class as asked"] > 0.8
    ),
    "no root": lambda me, sound: (
        me["t = 100"] > 2 * sound["t = 100"] and me["t = 400"] < 1.5 * sound["t = 400"]
    ),
    "rate too high": lambda me, sound: (
        me["last twentieth"] > 1.5 * sound["last twentieth"]
    ),
    "noise at the end": lambda me, sound: (
        me["full range"] > 2 * sound["full range"] and abs(me["FD"] - sound["FD"]) < 20
    ),
    "shuffled labels": lambda me, sound: (
        me["class as asked"] < 0.5 < 0.8 < sound["class as asked"]
    ),
    "stride wraps": lambda me, sound: (
        me["off-palette pixels"] > 2 * sound["off-palette pixels"]
        and me["class as asked"] < 0.5
        and soft(me)
    ),
}


@pytest.mark.parametrize("fault", SIGNS)
def test_each_patient_differs_from_the_healthy_one_in_the_number_that_names_it(fault):
    me, sound = evidence(fault), evidence("healthy")
    assert SIGNS[fault](me, sound)
    same = me["DDIM, FD"] == sound["DDIM, FD"]
    assert same == (fault in IN_THE_SAMPLING)  # they share the healthy network


# ---- The judges ------------------------------------------------------------------------------------------------------


def test_the_list_has_the_eight_and_six_more():
    assert (
        set(NUMBERS) <= set(FAULTS)
        and len(FAULTS) == 14
        and [*FAULTS] == sorted(FAULTS)
    )


@pytest.mark.parametrize("fault", NUMBERS)
def test_the_right_name_is_praised_with_numbers(fault):
    answer = answer_to(f"11.{NUMBERS[fault]}", fault)
    assert (
        answer.startswith("well done. ")
        and sum(map(str.isdigit, answer)) > 4
        and "cure" in answer.lower()
    )


@pytest.mark.parametrize("claim", FAULTS)
@pytest.mark.parametrize("fault", NUMBERS)
def test_every_other_name_is_refused_with_numbers_of_this_patient(fault, claim):
    if claim != fault:
        answer = answer_to(f"11.{NUMBERS[fault]}", claim)
        assert (
            answer.startswith("not yet. ")
            and answer.endswith(".")
            and sum(map(str.isdigit, answer)) > 2
        ), answer
        assert "could not be judged" not in answer, answer


OTHER_ANSWERS = [
    ("no rooot", "did you mean 'no root'"),
    ("measles", "eval forgotten, few"),
    (3, "as a string"),
    ("No Root ", "mean 'no root'"),
]


@pytest.mark.parametrize("attempt, words", OTHER_ANSWERS)
def test_other_answers_are_told_what_may_be_said(attempt, words):
    answer = answer_to(f"11.{NUMBERS['few pictures']}", attempt)
    assert answer.startswith("not yet. ") and words in answer


# ---- The program -----------------------------------------------------------------------------------------------------


@pytest.fixture
def stubbed(clinic, monkeypatch):
    """The program with jobs that cost nothing; `done` names those that were done."""
    done = []
    for name in ("training_row", "other_row", "capstone_row"):

        def row(key, *rest, name=name):
            done.append((name, key))
            extra = (
                {"run": clinic.asdict(clinic.TRAININGS[key])}
                if name == "training_row"
                else {}
            )
            return {"value": len(done)} | extra, {
                f"{name} {key}": np.zeros(1, np.uint8)
            }

        monkeypatch.setattr(clinic, name, row)
    monkeypatch.setattr(clinic, "floor", lambda samples: {"FD": 1.0})
    monkeypatch.setattr(clinic, "score", lambda *_: {"FD": 2.0})
    monkeypatch.setattr(
        clinic, "digests", lambda: {"trainings": "a", "others": "b", "capstone": "c"}
    )
    clinic.done = done
    return clinic


def command(clinic, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["clinic.py", "--workers", "1", *map(str, words)])
    clinic.main()


def test_jobs_that_are_there_are_kept_and_those_of_other_code_are_done_again(
    stubbed, monkeypatch, tmp_path, capsys
):
    out = tmp_path / "clinic.json"
    command(stubbed, monkeypatch, "--out", out, "--seconds", 1, "--samples", 20)
    first = json.loads(out.read_text(encoding="utf8"))
    assert (
        len(stubbed.done) == 5 + 1 + 3
        and [*first["capstone"]] == ["1", "2", "3"]
        and first["capstone_floor"] == {"FD": 2.0}
    )
    command(stubbed, monkeypatch, "--out", out, "--seconds", 1, "--samples", 20)
    assert (
        len(stubbed.done) == 9 and json.loads(out.read_text(encoding="utf8")) == first
    )
    monkeypatch.setattr(
        stubbed, "digests", lambda: {"trainings": "a", "others": "new", "capstone": "c"}
    )
    command(stubbed, monkeypatch, "--out", out, "--seconds", 1, "--samples", 20)
    assert stubbed.done[9:] == [("other_row", name) for name in stubbed.OTHERS]
    with np.load(tmp_path / "results" / "clinic.npz") as sheets:
        assert len(sheets.files) == 9
    with pytest.raises(SystemExit):
        command(stubbed, monkeypatch, "--out", out, "--seconds", 2, "--samples", 20)
    assert "has other settings" in capsys.readouterr().err


def test_other_settings_do_not_overwrite_what_ships(stubbed, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        command(stubbed, monkeypatch, "--seconds", 1)
    assert "add --out FILE" in capsys.readouterr().err and not stubbed.done
