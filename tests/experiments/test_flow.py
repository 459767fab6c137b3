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
SMALL_SETTINGS = {
    "features": 8,
    "pictures": 100,
    "seconds": 1e-9,  # a single step
    "samples": 20,
    "calls": [1, 2],
}


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
    monkeypatch.setattr(shipped, "STRONG_BATCH", 8)
    monkeypatch.setattr(shipped, "score", lambda pictures: {"FD": pictures.mean()})
    return shipped


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed: int = 0) -> torch.Tensor:
    """Normal noise in double precision, always the same."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def to_a_point(x0):
    """The only velocity there is when all data are x0.

    It is the way that is left to x0, over the time that is left.
    """
    return lambda x, s: (x0 - x) / (1 - s).view(-1, *[1] * (x.ndim - 1))


class Noted:
    """A model that notes what it is asked, and answers 0."""

    def __init__(self):
        self.seen = []

    def __call__(self, x, s):
        self.seen.append((x, s))
        return 0 * x


# ---- The loss -----------------------------------------------------------------------


def test_the_straight_path_is_the_course_s_noising_scaled(shipped, monkeypatch):
    """The network sees x_t over the sum of its two weights."""
    t = torch.tensor([1, 50, 200, 350, 500])
    x0 = normal(5, 3, 4, 4)
    n = normal(5, 3, 4, 4, seed=1)
    shares = du.straight_share(SCHEDULE.ab[t])
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: n)
    model = Noted()
    shipped.flow_loss(model, x0, shares)
    [(x, s)] = model.seen
    ab = SCHEDULE.ab[t].view(-1, 1, 1, 1)
    length = ab.sqrt() + (1 - ab).sqrt()
    expected = du.perturb_input(x0, t, n, SCHEDULE) / length
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(s, shares.double(), rtol=1e-6, atol=1e-6)


def test_only_the_right_answer_at_the_right_time_costs_nothing(shipped):
    """Data of a single point: the right answer is known."""
    x0 = normal(1, 3, 4, 4).expand(500, -1, -1, -1)
    s = torch.linspace(0.01, 0.99, 500)
    right = to_a_point(normal(1, 3, 4, 4))
    sizes = []

    def opposite(x, s):
        answer = right(x, s)
        sizes.append(float(answer.square().mean()))
        return -answer

    def loss(model):
        return float(shipped.flow_loss(model, x0, s, generator(1)))

    assert loss(right) < 1e-12
    wrong = loss(opposite)
    assert wrong == pytest.approx(4 * sizes[0])
    assert wrong > 1
    assert loss(lambda x, s: right(x, 1 - s)) > 0.1


def test_the_noise_is_normal(shipped):
    """If the data are zeros, x at share s is (1 - s) n."""
    model = Noted()
    zeros = torch.zeros(20_000, 4, dtype=torch.float64)
    shipped.flow_loss(model, zeros, torch.full((20_000,), 0.25), generator())
    [(x, _)] = model.seen
    noise = x / 0.75
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.var()) == pytest.approx(1, abs=0.03)


def test_shares_are_even_or_logit_normal(shipped):
    even = shipped.drawn_shares("even", 20_000, generator())
    parts = torch.histc(even, 10, 0, 1) / len(even)
    assert parts.sub(0.1).abs().max() < 0.01
    middle = torch.logit(shipped.drawn_shares("logit-normal", 20_000, generator()))
    assert abs(float(middle.mean())) < 0.03
    assert float(middle.std()) == pytest.approx(1, abs=0.03)


# ---- Euler's steps ------------------------------------------------------------------


@pytest.mark.parametrize("calls", [1, 2, 7])
def test_a_single_point_is_reached_in_any_number_of_steps(shipped, calls):
    x0 = normal(1, 3, 4, 4)
    x = shipped.euler(to_a_point(x0), normal(6, 3, 4, 4, seed=1), calls)
    torch.testing.assert_close(x, x0.expand(6, -1, -1, -1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("calls", [1, 3, 50])
def test_the_steps_add_up_to_one_and_start_at_pure_noise(shipped, calls):
    seen = []

    def ones(x, s):
        seen.append(s.tolist())
        return torch.ones_like(x)

    x = shipped.euler(ones, torch.zeros(2, 1, dtype=torch.float64), calls)
    torch.testing.assert_close(x, torch.ones(2, 1, dtype=torch.float64))
    assert seen == [[pytest.approx(i / calls)] * 2 for i in range(calls)]


def test_the_flow_of_a_bell_ends_where_the_closed_form_says(shipped):
    """Data N(m, s^2): paths do not cross, so noise n ends at m + s n.

    Euler comes there with an error that falls as 1 / steps.
    """
    m, s = 0.7, 0.3
    n = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]

    def velocity(x, share):
        share = share[:, None]
        variance = share**2 * s**2 + (1 - share) ** 2
        off = (x - share * m) / variance
        expected_noise = (1 - share) * off
        expected_data = m + share * s**2 * off
        return expected_data - expected_noise

    errors = []
    for calls in (100, 200, 400):
        apart = shipped.euler(velocity, n, calls) - (m + s * n)
        errors.append(float(apart.abs().max()))
    assert errors[0] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


def test_the_lesson_shows_the_program_s_loss_and_sampler(shipped):
    cells = json.loads(LESSON.read_text(encoding="utf8"))["cells"]
    lesson = {**vars(du), "seeded": generator}
    for name in ("flow_loss", "euler"):
        sources = ["".join(cell["source"]) for cell in cells]
        [source] = [source for source in sources if f"\ndef {name}(" in f"\n{source}"]
        exec(source, lesson)

    def model(x, s):
        return torch.tanh(2 * x) * s[:, None]

    x = normal(6, 2).float()
    noise = torch.randn(x.shape, generator=generator(1))
    torch.manual_seed(2)
    s = torch.rand(6)
    torch.manual_seed(2)
    theirs = lesson["flow_loss"](model, x, noise)
    ours = shipped.flow_loss(model, x, s, generator(1))
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(shipped.euler(model, x, 5), lesson["euler"](model, x, 5)[-1])


# ---- The program --------------------------------------------------------------------


@pytest.mark.parametrize(
    "way",
    [
        "DDIM",
        "DDIM, clipped",
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


@pytest.mark.parametrize("way", ["DDIM", "flow, Euler"])
def test_each_picture_gets_its_own_context(shipped, monkeypatch, way):
    """The only picture of class k has the colour k / 4."""
    colours = torch.linspace(0, 1, 5)

    def oracle(x, t, c=None):
        x0 = (c @ colours).view(-1, 1, 1, 1).expand_as(x)
        if way == "flow, Euler":
            return to_a_point(x0)(x, t)
        ab = SCHEDULE.ab[(t * 500).round().long()].view(-1, 1, 1, 1).float()
        return (x - ab.sqrt() * x0) / (1 - ab).sqrt()

    monkeypatch.setattr(shipped, "BATCH", 2)
    asked = torch.eye(5)[[4, 1, 0]]
    x = shipped.draw(way, oracle, normal(3, 3, 4, 4).float(), 4, 0, asked)
    expected = torch.tensor([1, 0.25, 0]).view(-1, 1, 1, 1).expand(3, 3, 4, 4)
    torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-3)


def learnt(flow, target: str, seed: int, network: str = "small") -> torch.Tensor:
    """All weights after three steps of a small network, or one of a strong one."""
    run = flow.Run(network, target, seed)
    if network == "small":
        model = flow.train_small(run, 150)
    else:
        model = flow.train_strong(run, 1e-9)
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
    learnt(flow, target, 1, "strong")
    assert called == [asked] * 4


@pytest.mark.parametrize("network", ["small", "strong"])
@pytest.mark.parametrize("target", ["noise", "velocity"])
def test_the_seed_decides_what_is_learnt(flow, target, network):
    first = learnt(flow, target, 1, network)
    assert torch.equal(first, learnt(flow, target, 1, network))
    assert not torch.allclose(first, learnt(flow, target, 2, network))


def test_a_strong_network_is_told_the_class_and_sometimes_not(flow, monkeypatch):
    seen = []

    def noted(run, model, x0, c, generator):
        seen.append(c)
        return flow_loss_of(run, model, x0, c, generator)

    flow_loss_of = flow.loss_of
    monkeypatch.setattr(flow, "loss_of", noted)
    monkeypatch.setattr(flow, "STRONG_BATCH", 100)
    learnt(flow, "velocity", 1, "strong")
    [c] = seen
    told = c.sum(1)
    assert set(told.tolist()) == {0.0, 1.0}
    assert float(told.mean()) == pytest.approx(1 - flow.P_DROP, abs=0.12)


@pytest.mark.parametrize(
    "target, clock", [("noise", "at_step"), ("velocity", "at_share")]
)
def test_each_target_has_its_own_clock(flow, target, clock):
    model = flow.train_strong(flow.Run("strong", target, 1), 1e-9)
    assert model.alpha_bar is getattr(flow, clock)


def test_a_strong_network_draws_with_guidance(flow, monkeypatch):
    seen = []

    def noted(model, weight):
        seen.append(weight)
        return guided(model, weight)

    guided = flow.du.guided
    monkeypatch.setattr(flow.du, "guided", noted)
    flow.row(flow.Run("strong", "velocity", 1), 1e-9, 5)
    assert seen == [flow.GUIDANCE]


def test_the_body_is_told_the_noise_level(shipped):
    t = torch.tensor([1, 50, 200, 500])
    ab = SCHEDULE.ab[t].float()
    torch.testing.assert_close(shipped.at_step(t / 500), ab)
    torch.testing.assert_close(shipped.at_share(du.straight_share(ab)), ab)
    seen = []
    body = shipped.Body(shipped.at_share).eval()
    body.time.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = normal(2, 3, 16, 16).float()
    c = torch.eye(5)[:2]
    with torch.no_grad():
        answer = body(x, torch.tensor([0.0, 0.5]), c)
        body(x, torch.tensor([0.0, 1.0]), c)
    assert answer.shape == x.shape
    first, second = seen
    assert first.isfinite().all()
    assert second.isfinite().all()
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1])


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
    small = ["--pictures", "100", "--samples", "20", "--seconds", "1e-9"]
    small += ["--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["flow.py", "--out", str(out), *small, *extra])
    flow.main()
    return json.loads(out.read_text(encoding="utf8"))


@pytest.fixture
def trained(flow, monkeypatch) -> list:
    """Notes (target, seed) of each training of a small network."""
    train = flow.train_small
    noted = []

    def train_and_note(run, pictures):
        noted.append((run.target, run.seed))
        return train(run, pictures)

    monkeypatch.setattr(flow, "train_small", train_and_note)
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
    other = replace(runs["flow, seed 2"], shares="logit-normal")
    monkeypatch.setattr(flow, "RUNS", {**runs, "flow, seed 2": other})
    after = run(flow, monkeypatch, out)["runs"]["flow, seed 2"]["scores"]
    assert trained[2:] == [("velocity", 2)]
    assert after != before


def test_the_first_pictures_of_seed_1_are_kept(flow, monkeypatch, tmp_path):
    names = ("DDPM, seed 1", "flow, seed 1", "strong flow, seed 1")
    monkeypatch.setattr(flow, "RUNS", {name: flow.RUNS[name] for name in names})
    run(flow, monkeypatch, tmp_path / "flow.json")
    expected = {f"{way}, {calls}" for way in flow.PICTURED for calls in (1, 2)}
    expected |= {f"strong flow: flow, Euler, {calls}" for calls in (1, 2)}
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
    planned = {name: asdict(run) for name, run in shipped.RUNS.items()}
    assert {name: row["run"] for name, row in stored["runs"].items()} == planned
    assert stored["settings"] == {
        "features": shipped.FEATURES,
        "pictures": shipped.PICTURES,
        "seconds": shipped.SECONDS,
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
    names = set()
    for calls in (shipped.CALLS[0], shipped.CALLS[-1]):
        names |= {f"{way}, {calls}" for way in shipped.PICTURED}
        names.add(f"strong DDPM: DDIM, {calls}")
        names.add(f"strong flow: flow, Euler, {calls}")
        names.add(f"strong flow, logit-normal: flow, Euler, {calls}")
    with np.load(sheet) as pictures:
        assert set(pictures) == names
    assert sheet.stat().st_size <= 120 * 1024
