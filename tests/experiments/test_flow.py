"""The program behind lesson 13's flow.

Its loss and its sampler stand against closed forms and the helper's noise; the rest
runs with small numbers.
"""

import json
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear()
LESSON = du.COURSE / "notebooks" / "13_flow_matching.ipynb"
SMALL_SETTINGS = {"features": 8, "pictures": 100, "samples": 20, "calls": [1, 2]}


@pytest.fixture
def shipped(program):
    """flow.py as it is."""
    return program("flow")


@pytest.fixture
def flow(shipped, monkeypatch):
    """flow.py with small numbers, and scores that cost nothing."""
    monkeypatch.setattr(shipped, "FEATURES", 8)
    monkeypatch.setattr(shipped, "CALLS", (1, 2))
    monkeypatch.setattr(shipped, "SHOWN", 3)
    monkeypatch.setattr(shipped, "score", lambda pictures: {"FD": pictures.mean()})
    return shipped


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed: int = 0) -> torch.Tensor:
    """Normal noise in double precision, always the same."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def to_a_point(x0):
    """The only velocity there is when all data are x0.

    It is the way that is left to x0, over the amount that is left.
    """
    return lambda x, a: (x - x0) / a.view(-1, *[1] * (x.ndim - 1))


class Noted:
    """A model that notes what it is asked, and answers 0."""

    def __init__(self):
        self.seen = []

    def __call__(self, x, a):
        self.seen.append((x, a))
        return 0 * x


# ---- The loss -----------------------------------------------------------------------


def test_the_straight_path_is_the_course_s_noising_scaled(shipped, monkeypatch):
    """The network sees x_t times the length of the two weights.

    The amounts have the signal-to-noise ratios of whole steps.
    """
    t = torch.tensor([1, 50, 200, 350, 500])
    x0 = normal(5, 3, 4, 4)
    n = normal(5, 3, 4, 4, seed=1)
    amounts = 1 / (1 + SCHEDULE.snr[t].sqrt())
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: n)
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: amounts)
    model = Noted()
    shipped.flow_loss(model, x0)
    [(x, a)] = model.seen
    length = ((1 - amounts) ** 2 + amounts**2).sqrt().view(-1, 1, 1, 1)
    expected = length * du.perturb_input(x0, t, n, SCHEDULE)
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(a, amounts.double(), rtol=1e-6, atol=1e-6)


def test_only_the_right_answer_at_the_right_amount_costs_nothing(shipped):
    """Data of a single point: the right answer is known."""
    x0 = normal(1, 3, 4, 4).expand(500, -1, -1, -1)
    right = to_a_point(normal(1, 3, 4, 4))
    sizes = []

    def opposite(x, a):
        answer = right(x, a)
        sizes.append(float(answer.square().mean()))
        return -answer

    def loss(model):
        return float(shipped.flow_loss(model, x0, generator(1)))

    assert loss(right) < 1e-12
    wrong = loss(opposite)
    assert wrong == pytest.approx(4 * sizes[0])
    assert wrong > 1
    assert loss(lambda x, a: right(x, 1 - a)) > 0.1


def test_amounts_are_even_and_noise_is_normal(shipped):
    """If the data are zeros, x at amount a is a n."""
    model = Noted()
    zeros = torch.zeros(20_000, 4, dtype=torch.float64)
    shipped.flow_loss(model, zeros, generator())
    [(x, a)] = model.seen
    shares = torch.histc(a, 10, 0, 1) / len(a)
    noise = x / a[:, None]
    assert shares.sub(0.1).abs().max() < 0.01
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.var()) == pytest.approx(1, abs=0.03)


# ---- Euler's steps ------------------------------------------------------------------


@pytest.mark.parametrize("calls", [1, 2, 7])
def test_a_single_point_is_reached_in_any_number_of_steps(shipped, calls):
    x0 = normal(1, 3, 4, 4)
    x = shipped.euler(to_a_point(x0), normal(6, 3, 4, 4, seed=1), calls)
    torch.testing.assert_close(x, x0.expand(6, -1, -1, -1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("calls", [1, 3, 50])
def test_the_steps_add_up_to_one_and_start_at_pure_noise(shipped, calls):
    seen = []

    def ones(x, a):
        seen.append(a.tolist())
        return torch.ones_like(x)

    x = shipped.euler(ones, torch.zeros(2, 1, dtype=torch.float64), calls)
    torch.testing.assert_close(x, -torch.ones(2, 1, dtype=torch.float64))
    assert seen == [[pytest.approx(1 - i / calls)] * 2 for i in range(calls)]


def test_the_flow_of_a_bell_ends_where_the_closed_form_says(shipped):
    """Data N(m, s^2): paths do not cross, so noise n ends at m + s n.

    Euler comes there with an error that falls as 1 / steps.
    """
    m, s = 0.7, 0.3
    n = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]

    def velocity(x, a):
        a = a[:, None]
        variance = (1 - a) ** 2 * s**2 + a**2
        off = (x - (1 - a) * m) / variance
        expected_noise = a * off
        expected_data = m + (1 - a) * s**2 * off
        return expected_noise - expected_data

    errors = []
    for calls in (100, 200, 400):
        apart = shipped.euler(velocity, n, calls) - (m + s * n)
        errors.append(float(apart.abs().max()))
    assert errors[0] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("calls", [1, 5, 10, 20, 50])
def test_the_flow_s_clock_stops_at_equal_amounts(shipped, calls):
    steps = shipped.flow_clock(SCHEDULE, calls)
    assert du.sampling_steps(steps, 500) == steps
    assert len(steps) == calls + 1
    amount = [0.0, *(1 / (1 + SCHEDULE.snr[1:].sqrt())).tolist()]
    for i, t in enumerate(steps[1:-1], start=1):
        wanted = amount[500] * (1 - i / calls)
        assert amount[t - 1] < wanted < amount[t + 1]


def test_the_lesson_shows_the_program_s_loss_and_sampler(shipped):
    cells = json.loads(LESSON.read_text(encoding="utf8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    [source] = [source for source in sources if "def flow_loss(" in source]
    lesson = vars(du).copy()
    exec(source, lesson)

    def model(x, a):
        return torch.tanh(2 * x) * a.view(-1, 1, 1, 1)

    x = normal(6, 3, 4, 4)
    ours = shipped.flow_loss(model, x, generator(1))
    assert torch.equal(ours, lesson["flow_loss"](model, x, generator(1)))
    assert torch.equal(shipped.euler(model, x, 5), lesson["euler"](model, x, 5))


# ---- The program --------------------------------------------------------------------


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
    x0 = torch.linspace(-1, 1, 48, dtype=torch.float64).view(1, 3, 4, 4)
    asked = []

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


def learnt(flow, target: str, seed: int) -> torch.Tensor:
    """All weights after three steps of 50 pictures each."""
    model = flow.train(flow.Run(target, seed), 150)
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(
    "target, asked", [("noise", "diffusion_loss"), ("velocity", "flow_loss")]
)
def test_each_target_is_trained_by_its_own_loss(flow, monkeypatch, target, asked):
    called = []

    def noted(name, loss):
        def wrapped(*arguments, **options):
            called.append(name)
            return loss(*arguments, **options)

        return wrapped

    for owner, name in ((flow, "flow_loss"), (flow.du, "diffusion_loss")):
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    learnt(flow, target, 1)
    assert called == [asked] * 3


@pytest.mark.parametrize("target", ["noise", "velocity"])
def test_the_seed_decides_what_is_learnt(flow, target):
    first = learnt(flow, target, 1)
    assert torch.equal(first, learnt(flow, target, 1))
    assert not torch.allclose(first, learnt(flow, target, 2))


@pytest.mark.slow
def test_scores_are_those_of_the_course(shipped):
    """Of 1,000 held-out sprites, as scores.json has them; and noise is no sprite."""
    images = du.load_sprites("test").images
    rows = np.random.default_rng(0).permutation(len(images))[:1000]
    real = shipped.score(images[rows])
    stored = json.loads((du.WEIGHTS / "scores.json").read_text(encoding="utf8"))
    wanted = stored["real"]["test (floor)"]["scores"]
    assert real["FD"] == pytest.approx(wanted["FD"][0], abs=0.06)
    assert real["coverage"] == pytest.approx(wanted["coverage"][0], abs=1e-4)
    assert real["legal"] == 1
    assert real["legal_distance"]["mean"] == 0
    rng = np.random.default_rng(0)
    noise = shipped.score(rng.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8))
    assert noise["legal"] == 0
    assert noise["legal_distance"]["mean"] > 0.2
    assert noise["FD"] > 10 * real["FD"]


def run(flow, monkeypatch, out, *extra) -> dict:
    """The table after a run with small numbers."""
    small = ["--pictures", "100", "--samples", "20", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["flow.py", "--out", str(out), *small, *extra])
    flow.main()
    return json.loads(out.read_text(encoding="utf8"))


@pytest.fixture
def trained(flow, monkeypatch) -> list:
    """Notes (target, seed) of each training."""
    train = flow.train
    noted = []

    def train_and_note(run, pictures):
        noted.append((run.target, run.seed))
        return train(run, pictures)

    monkeypatch.setattr(flow, "train", train_and_note)
    return noted


def test_runs_are_added_and_those_there_are_kept(flow, monkeypatch, tmp_path, trained):
    out = tmp_path / "flow.json"
    runs = flow.RUNS
    monkeypatch.setattr(flow, "RUNS", {"flow, seed 1": runs["flow, seed 1"]})
    first = run(flow, monkeypatch, out)
    names = ("DDPM, seed 1", "flow, seed 1", "flow, seed 2")
    monkeypatch.setattr(flow, "RUNS", {name: runs[name] for name in names})
    rows = run(flow, monkeypatch, out)["runs"]
    assert trained == [("velocity", 1), ("noise", 1), ("velocity", 2)]
    assert [*rows] == [*names]
    assert rows["flow, seed 1"] == first["runs"]["flow, seed 1"]
    expected = {f"{way}, {calls}" for way in flow.WAYS for calls in (1, 2)}
    assert set(rows["DDPM, seed 1"]["scores"]) == expected
    assert rows["flow, seed 1"]["scores"] != rows["flow, seed 2"]["scores"]


def test_a_run_with_another_setting_is_made_anew(flow, monkeypatch, tmp_path, trained):
    out = tmp_path / "flow.json"
    names = ("flow, seed 1", "flow, seed 2")
    runs = {name: flow.RUNS[name] for name in names}
    monkeypatch.setattr(flow, "RUNS", runs)
    before = run(flow, monkeypatch, out)["runs"]["flow, seed 2"]["scores"]
    slower = replace(runs["flow, seed 2"], learning_rate=1e-3)
    monkeypatch.setattr(flow, "RUNS", {**runs, "flow, seed 2": slower})
    after = run(flow, monkeypatch, out)["runs"]["flow, seed 2"]["scores"]
    assert trained[2:] == [("velocity", 2)]
    assert after != before


def test_the_first_pictures_of_seed_1_are_kept(flow, monkeypatch, tmp_path):
    names = ("DDPM, seed 1", "flow, seed 1")
    monkeypatch.setattr(flow, "RUNS", {name: flow.RUNS[name] for name in names})
    run(flow, monkeypatch, tmp_path / "flow.json")
    expected = {f"{way}, {calls}" for way in flow.PICTURED for calls in (1, 2)}
    with np.load(tmp_path / "results" / "flow.npz") as pictures:
        assert set(pictures) == expected
        for name in pictures:
            assert pictures[name].shape == (3, 16, 16, 3)
            assert pictures[name].dtype == np.uint8


def test_other_settings_are_refused(flow, monkeypatch, tmp_path, capsys):
    out = tmp_path / "flow.json"
    monkeypatch.setattr(flow, "RUNS", {})
    content = {"settings": SMALL_SETTINGS, "floor": {"FD": 1}, "runs": {}}
    out.write_text(json.dumps(content))
    run(flow, monkeypatch, out)
    with pytest.raises(SystemExit):
        run(flow, monkeypatch, out, "--samples", "40")
    assert "remove it or give another --out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(flow, monkeypatch, out, "--out", str(du.WEIGHTS / "flow.json"))
    assert "would overwrite the shipped results" in capsys.readouterr().err


# ---- What is stored -----------------------------------------------------------------


def test_what_is_stored_is_what_the_program_would_run(shipped):
    stored = json.loads((du.WEIGHTS / "flow.json").read_text(encoding="utf8"))
    runs = {name: row["run"] for name, row in stored["runs"].items()}
    assert runs == {name: asdict(run) for name, run in shipped.RUNS.items()}
    assert stored["settings"] == {
        "features": shipped.FEATURES,
        "pictures": shipped.PICTURES,
        "samples": shipped.SAMPLES,
        "calls": [*shipped.CALLS],
    }


def test_real_sprites_have_the_best_stored_scores():
    stored = json.loads((du.WEIGHTS / "flow.json").read_text(encoding="utf8"))
    assert stored["floor"]["legal"] == 1
    for row in stored["runs"].values():
        for scores in row["scores"].values():
            assert scores["FD"] > stored["floor"]["FD"]


def test_the_stored_pictures_are_those_of_the_lesson(shipped):
    sheet = du.WEIGHTS / "results" / "flow.npz"
    names = {f"{way}, {calls}" for way in shipped.PICTURED for calls in shipped.CALLS}
    with np.load(sheet) as pictures:
        assert set(pictures) == names
    assert sheet.stat().st_size <= 60 * 1024
