"""The program behind lesson 10's flow: its loss and its sampler against closed forms and the helper's noise, and the rest with small numbers."""

import json
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear()
LESSON = du.COURSE / "notebooks" / "10_a_laboratory.ipynb"


@pytest.fixture
def shipped(program, monkeypatch):
    monkeypatch.syspath_prepend(str(du.WEIGHTS))
    return program("flow")


@pytest.fixture
def flow(shipped, monkeypatch):
    """With small numbers, and scores that cost nothing."""
    for name, value in {
        "FEATURES": 8,
        "CALLS": (1, 2),
        "SHOWN": 3,
        "score": lambda pictures: {"FD": float(pictures.mean())},
    }.items():
        monkeypatch.setattr(shipped, name, value)
    return shipped


def normal(*shape, seed=0):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def to_a_point(x0):
    """The only velocity there is when all data are x0: what is left of the way to it, over the amount that is left."""
    return lambda x, a: (x - x0) / a.view(-1, *[1] * (x.ndim - 1))


# ---- The loss --------------------------------------------------------------------------------------------------------


def test_the_straight_path_is_the_course_s_noising_scaled(shipped, monkeypatch):
    """At amounts with the signal-to-noise ratio of whole steps the network sees x_t times the length of the two weights."""
    t = torch.tensor([1, 50, 200, 350, 500])
    x0, n, seen = normal(5, 3, 4, 4), normal(5, 3, 4, 4, seed=1), []
    amounts = 1 / (1 + SCHEDULE.snr[t].sqrt())
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: n)
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: amounts)
    shipped.flow_loss(lambda x, a: seen.append((x, a)) or 0 * x, x0)
    (x, a) = seen[0]
    length = ((1 - amounts) ** 2 + amounts**2).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(
        x, length * du.perturb_input(x0, t, n, SCHEDULE), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(a, amounts.double(), rtol=1e-6, atol=1e-6)


def test_only_the_right_answer_at_the_right_amount_costs_nothing(shipped):
    """Data of a single point: the way still to go over the amount left is n - x0; its opposite has twice that as its error."""
    x0, right, sizes = (
        normal(1, 3, 4, 4).expand(500, -1, -1, -1),
        to_a_point(normal(1, 3, 4, 4)),
        [],
    )

    def loss(model):
        return float(shipped.flow_loss(model, x0, torch.Generator().manual_seed(1)))

    assert loss(right) < 1e-12
    wrong = loss(
        lambda x, a: sizes.append(float(right(x, a).square().mean())) or -right(x, a)
    )
    assert wrong == pytest.approx(4 * sizes[0]) and wrong > 1
    assert loss(lambda x, a: right(x, 1 - a)) > 0.1


def test_amounts_are_even_and_noise_is_normal(shipped):
    """Told nothing but zeros as data, x_a is a n."""
    seen = []
    shipped.flow_loss(
        lambda x, a: seen.append((x, a)) or 0 * x,
        torch.zeros(20_000, 4, dtype=torch.float64),
        torch.Generator().manual_seed(0),
    )
    (x, a) = seen[0]
    shares = torch.histc(a, 10, 0, 1) / len(a)
    noise = x / a[:, None]
    assert (
        shares.sub(0.1).abs().max() < 0.01
        and abs(float(noise.mean())) < 0.02
        and float(noise.var()) == pytest.approx(1, abs=0.03)
    )


# ---- Euler's steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [1, 2, 7])
def test_a_single_point_is_reached_in_any_number_of_steps(shipped, calls):
    x0 = normal(1, 3, 4, 4)
    x = shipped.euler(to_a_point(x0), normal(6, 3, 4, 4, seed=1), calls)
    torch.testing.assert_close(x, x0.expand(6, -1, -1, -1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("calls", [1, 3, 50])
def test_the_steps_add_up_to_one_and_start_at_pure_noise(shipped, calls):
    seen = []
    x = shipped.euler(
        lambda x, a: seen.append(a.tolist()) or torch.ones_like(x),
        torch.zeros(2, 1, dtype=torch.float64),
        calls,
    )
    torch.testing.assert_close(x, -torch.ones(2, 1, dtype=torch.float64))
    assert seen == [[pytest.approx(1 - i / calls)] * 2 for i in range(calls)]


def test_the_flow_of_a_bell_ends_where_the_closed_form_says(shipped):
    """Data N(m, s^2): no two points change places, so noise n ends at m + s n; Euler comes there with an error that falls as 1 / steps."""
    m, s, n = 0.7, 0.3, torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]

    def velocity(x, a):
        a = a[:, None]
        off = (x - (1 - a) * m) / (
            (1 - a) ** 2 * s**2 + a**2
        )  # over the variance of x_a
        return a * off - (m + (1 - a) * s**2 * off)  # E[n | x_a] - E[x0 | x_a]

    errors = [
        float((shipped.euler(velocity, n, calls) - (m + s * n)).abs().max())
        for calls in (100, 200, 400)
    ]
    assert (
        errors[0] < 0.05
        and errors[0] / errors[1] == pytest.approx(2, rel=0.1)
        and errors[1] / errors[2] == pytest.approx(2, rel=0.1)
    )


@pytest.mark.parametrize("calls", [1, 5, 10, 20, 50])
def test_the_flow_s_clock_stops_at_equal_amounts(shipped, calls):
    steps = shipped.flow_clock(SCHEDULE, calls)
    assert du.sampling_steps(steps, 500) == steps and len(steps) == calls + 1
    amount = [0.0, *(1 / (1 + SCHEDULE.snr[1:].sqrt())).tolist()]
    for i, t in enumerate(steps[1:-1], start=1):
        wanted = amount[500] * (1 - i / calls)
        assert amount[t - 1] < wanted < amount[t + 1]


def test_the_lesson_shows_the_program_s_loss_and_sampler(shipped):
    cells = [
        "".join(cell["source"])
        for cell in json.loads(LESSON.read_text(encoding="utf8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    (source,) = [cell for cell in cells if "def flow_loss(" in cell]
    exec(source, lesson := vars(du).copy())
    model = lambda x, a: torch.tanh(2 * x) * a.view(-1, 1, 1, 1)  # noqa: E731
    losses = [
        some(model, normal(6, 3, 4, 4), torch.Generator().manual_seed(1))
        for some in (shipped.flow_loss, lesson["flow_loss"])
    ]
    ends = [
        some(model, normal(6, 3, 4, 4), 5) for some in (shipped.euler, lesson["euler"])
    ]
    assert torch.equal(*losses) and torch.equal(*ends)


# ---- The program -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way",
    [
        "DDIM",
        "DDIM, clipped",
        "DDIM, clipped, flow's clock",
        "DDPM, clipped",
        "flow, Euler",
    ],
)
@pytest.mark.parametrize("calls", [1, 5, 10])
def test_each_way_draws_the_only_picture_in_as_many_calls(
    shipped, monkeypatch, way, calls
):
    x0, asked = torch.linspace(-1, 1, 48, dtype=torch.float64).view(1, 3, 4, 4), []

    def oracle(x, t, c=None):
        asked.append(len(x))
        if way == "flow, Euler":
            return to_a_point(x0)(x, t)
        ab = SCHEDULE.ab[(t * 500).round().long()].view(-1, 1, 1, 1)
        return (x - ab.sqrt() * x0) / (1 - ab).sqrt()

    monkeypatch.setattr(shipped, "BATCH", 2)
    x = shipped.draw(way, oracle, normal(3, 3, 4, 4, seed=1), calls, seed=0)
    torch.testing.assert_close(x, x0.expand(3, -1, -1, -1), rtol=1e-5, atol=1e-5)
    assert asked == [2] * calls + [1] * calls


@pytest.mark.parametrize(
    "target, asked", [("noise", "diffusion_loss"), ("velocity", "flow_loss")]
)
def test_each_target_is_trained_by_its_own_loss_and_by_its_seed(
    flow, monkeypatch, target, asked
):
    called = []

    def noted(name, loss):
        return lambda *arguments, **options: (
            called.append(name) or loss(*arguments, **options)
        )

    for owner, name in ((flow, "flow_loss"), (flow.du, "diffusion_loss")):
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    first, again, other = (
        torch.cat(
            [p.flatten() for p in flow.train(flow.Run(target, seed), 150).parameters()]
        )
        for seed in (1, 1, 2)
    )
    assert called == [asked] * 9  # three steps of 50 each
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_scores_are_those_of_the_course(shipped):
    """Of 1,000 held-out sprites, as scores.json has them; and noise is no sprite."""
    test = du.load_sprites("test")
    real = shipped.score(
        test.images[np.random.default_rng(0).permutation(len(test))[:1000]]
    )
    wanted = json.loads((du.WEIGHTS / "scores.json").read_text(encoding="utf8"))[
        "real"
    ]["test (floor)"]["scores"]
    assert real["FD"] == pytest.approx(wanted["FD"][0], abs=0.06) and real[
        "coverage"
    ] == pytest.approx(wanted["coverage"][0], abs=1e-4)
    assert real["legal"] == 1 and real["legal_distance"]["mean"] == 0
    noise = shipped.score(
        np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    )
    assert (
        noise["legal"] == 0
        and noise["legal_distance"]["mean"] > 0.2
        and noise["FD"] > 10 * real["FD"]
    )


def run(flow, monkeypatch, out, *extra):
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "flow.py",
            "--out",
            str(out),
            "--pictures",
            "100",
            "--samples",
            "20",
            "--workers",
            "1",
            *extra,
        ],
    )
    flow.main()
    return json.loads(out.read_text(encoding="utf8"))


def test_runs_are_added_and_those_there_are_kept(flow, monkeypatch, tmp_path):
    out, runs = tmp_path / "flow.json", flow.RUNS
    monkeypatch.setattr(flow, "RUNS", {"flow, seed 1": runs["flow, seed 1"]})
    first = run(flow, monkeypatch, out)
    monkeypatch.setattr(
        flow,
        "RUNS",
        {name: runs[name] for name in ("DDPM, seed 1", "flow, seed 1", "flow, seed 2")},
    )
    trained, train = [], flow.train
    monkeypatch.setattr(
        flow,
        "train",
        lambda run, pictures: (
            trained.append((run.target, run.seed)) or train(run, pictures)
        ),
    )
    both = run(flow, monkeypatch, out)
    assert (
        trained == [("noise", 1), ("velocity", 2)]
        and both["runs"]["flow, seed 1"] == first["runs"]["flow, seed 1"]
    )
    assert (
        list(both["runs"]) == ["DDPM, seed 1", "flow, seed 1", "flow, seed 2"]
        and both["floor"] == first["floor"]
    )
    assert set(both["runs"]["DDPM, seed 1"]["scores"]) == {
        f"{way}, {calls}" for way in flow.WAYS for calls in (1, 2)
    }
    assert (
        both["runs"]["flow, seed 1"]["scores"] != both["runs"]["flow, seed 2"]["scores"]
    )
    monkeypatch.setattr(
        flow,
        "RUNS",
        {
            **flow.RUNS,
            "flow, seed 2": replace(runs["flow, seed 2"], learning_rate=1e-3),
        },
    )
    changed = run(flow, monkeypatch, out)["runs"]
    assert (
        trained[2:] == [("velocity", 2)]
        and changed["flow, seed 2"]["scores"] != both["runs"]["flow, seed 2"]["scores"]
    )
    pictures = np.load(tmp_path / "results" / "flow.npz")
    assert set(pictures) == {
        f"{way}, {calls}" for way in flow.PICTURED for calls in (1, 2)
    }
    assert {(pictures[name].shape, pictures[name].dtype.name) for name in pictures} == {
        ((3, 16, 16, 3), "uint8")
    }


def test_other_settings_are_refused(flow, monkeypatch, tmp_path, capsys):
    out = tmp_path / "flow.json"
    monkeypatch.setattr(flow, "RUNS", {})
    out.write_text(
        json.dumps(
            {
                "settings": {
                    "features": 8,
                    "pictures": 100,
                    "samples": 20,
                    "calls": [1, 2],
                },
                "floor": {"FD": 1},
                "runs": {},
            }
        )
    )
    run(flow, monkeypatch, out)
    for arguments in (("--samples", "40"), ("--out", str(du.WEIGHTS / "flow.json"))):
        with pytest.raises(SystemExit):
            run(flow, monkeypatch, out, *arguments)
    assert (
        "remove it or give another --out" in (said := capsys.readouterr().err)
        and "would overwrite the shipped results" in said
    )


def test_what_is_stored_is_what_the_program_would_run(shipped):
    stored = json.loads((du.WEIGHTS / "flow.json").read_text(encoding="utf8"))
    assert {name: row["run"] for name, row in stored["runs"].items()} == {
        name: asdict(run) for name, run in shipped.RUNS.items()
    }
    settings = {
        "features": shipped.FEATURES,
        "pictures": shipped.PICTURES,
        "samples": shipped.SAMPLES,
        "calls": [*shipped.CALLS],
    }
    assert stored["settings"] == settings and stored["floor"]["legal"] == 1
    assert all(
        score["FD"] > stored["floor"]["FD"]
        for row in stored["runs"].values()
        for score in row["scores"].values()
    )
    sheet = du.WEIGHTS / "results" / "flow.npz"
    rows = {f"{way}, {calls}" for way in shipped.PICTURED for calls in shipped.CALLS}
    assert set(np.load(sheet)) == rows and sheet.stat().st_size <= 60 * 1024
