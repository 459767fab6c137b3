"""distill.py: the student's loss, its training, and what is scored."""

import json
import sys

import pytest
import torch

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear()
SMALL = {"calls": (1, 2), "cycles": (1, 1), "steps": 2, "batch": 3}


@pytest.fixture
def shipped(program):
    """distill.py as it is."""
    return program("distill")


@pytest.fixture
def distill(shipped, monkeypatch):
    """distill.py with a tiny network, the same at each call."""

    def a_network(doubt):
        torch.manual_seed(3)
        size = {"channels": (8, 16, 16), "width": 16, "reader_width": 16}
        network = du.SpriteUnet(SCHEDULE, du.sprite_palette(), doubt=doubt, **size)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        return network

    monkeypatch.setattr(shipped, "a_network", a_network)
    return shipped


@pytest.fixture
def work(distill, tmp_path):
    return distill.Distillation(distill.Settings(**SMALL), tmp_path / "run.pt")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of_classes(n: int) -> torch.Tensor:
    return torch.nn.functional.pad(torch.eye(5)[torch.arange(n) % 5], (0, 170))


# ---- One step -----------------------------------------------------------------------


def test_a_step_leads_from_the_fake_picture_to_the_real_one(distill, work, monkeypatch):
    real = torch.full((2, 3, 16, 16), 0.5)
    fake = torch.full((2, 3, 16, 16), -0.5)

    def seen(network, x, t, c):
        return real if network is work.teacher else fake

    monkeypatch.setattr(distill, "seen", seen)
    x_0 = torch.zeros(2, 3, 16, 16, requires_grad=True)
    work.student_loss(x_0, of_classes(2), generator()).backward()
    assert (x_0.grad < 0).all()  # downhill is upwards, to the real one


def test_equal_answers_move_nothing(work):
    """At first the fake network is the teacher."""
    x_0 = torch.zeros(2, 3, 16, 16, requires_grad=True)
    work.student_loss(x_0, of_classes(2), generator()).backward()
    assert x_0.grad.abs().max() < 1e-6


def test_each_loss_trains_its_own_network(distill, work):
    c = of_classes(3)
    x, t = work.start(c, generator())
    x_0 = distill.seen(work.student, x, torch.full((3,), t), c)
    work.fake_loss(x_0.detach(), c, generator()).backward()
    assert work.student.out.weight.grad is None
    assert work.fake.out.weight.grad is not None
    work.fake.zero_grad(set_to_none=True)
    work.student_loss(x_0, c, generator()).backward()
    assert work.fake.out.weight.grad is None
    assert work.teacher.out.weight.grad is None


def test_a_call_begins_at_a_stop_of_the_sampler(work):
    places = set()
    for seed in range(20):
        x, t = work.start(of_classes(3), generator(seed))
        assert x.shape == (3, 3, 16, 16)
        assert not x.requires_grad
        places.add(t)
    two = du.straight_steps(SCHEDULE, 2)
    assert places == set(two[:2])


# ---- The training -------------------------------------------------------------------


def weights(work) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(work.average.parameters())


def test_an_interrupted_training_ends_as_one_that_was_not(distill, tmp_path):
    settings = distill.Settings(**SMALL)
    whole = distill.Distillation(settings, tmp_path / "whole.pt")
    before = weights(whole).clone()
    whole.train()
    file = tmp_path / "parts.pt"
    first = distill.Distillation(settings, file)
    first.train_block(0)
    first.save()
    second = distill.Distillation(settings, file)
    second.train()
    assert torch.equal(weights(second), weights(whole))
    assert not torch.equal(weights(whole), before)
    assert [row["block"] for row in second.history["blocks"]] == [0, 1]


def test_the_learning_rates_fall_in_each_cycle(distill, tmp_path):
    settings = distill.Settings(cycles=(4, 8), steps=2)
    work = distill.Distillation(settings, tmp_path / "run.pt")
    rates = []
    for block in range(12):
        for place in range(2):
            work.set_rates(block, place)
            rates.append(work.optimisers["student"].param_groups[0]["lr"])
    first, second = rates[:8], rates[8:]
    for cycle in (first, second):
        assert cycle[0] == settings.learning_rate
        assert cycle == sorted(cycle, reverse=True)
        assert cycle[-1] < settings.learning_rate / 4


def test_other_settings_are_refused(distill, work, tmp_path):
    work.save()
    other = distill.Distillation(distill.Settings(steps=9), work.file)
    with pytest.raises(du.UnusableFile, match="has other settings"):
        other.resume()


def test_another_teacher_starts_anew(distill, work, monkeypatch):
    work.train_block(0)
    work.save()
    monkeypatch.setattr(distill, "sha256", lambda file: "another")
    again = distill.Distillation(distill.Settings(**SMALL), work.file)
    again.resume()
    assert again.history["blocks"] == []


def test_the_student_is_trained_once(distill, tmp_path, capsys):
    settings = distill.Settings(**SMALL)
    file = distill.train(settings, tmp_path)
    before = file.read_bytes()
    assert distill.train(settings, tmp_path) == file
    assert "is there already" in capsys.readouterr().out
    assert file.read_bytes() == before


def test_what_killed_trainings_left_is_removed(distill, tmp_path):
    (tmp_path / "runs").mkdir()
    names = ("sprite_unet_student.pth", "runs/sprite_unet_student.pt")
    left = [tmp_path / f"{name}.0123abcd.tmp" for name in names]
    for file in left:
        file.write_bytes(b"half a file")
    distill.train(distill.Settings(**SMALL), tmp_path)
    assert not any(file.exists() for file in left)


# ---- Scores -------------------------------------------------------------------------


def test_every_way_makes_the_calls_that_its_name_says(shipped):
    for name, (way, calls, _) in shipped.planned_rows().items():
        path = shipped.WAYS[way][2](calls)
        down = sum(after < before for before, after in zip(path, path[1:]))
        assert down == calls, name


def test_the_ideal_denoiser_knows_the_class(shipped):
    """Where there is little noise it sees the sprite, if the class is right."""
    test = du.load_sprites("test")
    heroes = test.x[test.labels[:, 0] == 1][:2]
    noise = torch.randn(heroes.shape, generator=generator())
    x = du.perturb_input(heroes, 100, noise, SCHEDULE)
    errors = []
    for place in (0, 2):
        c = torch.eye(5)[[place, place]]
        answer = shipped.ideal(x, torch.full((2,), 0.2), c)
        picture = du.predict_x0(x, 100, answer, SCHEDULE)
        errors.append((picture - heroes).abs().mean())
    assert errors[0] < 0.05 < errors[1]


@pytest.fixture
def scored(distill, monkeypatch, tmp_path):
    """A function that runs the program's scoring; it returns (file, new rows)."""
    monkeypatch.setattr(distill, "real_row", lambda n: {"legal": [1.0, 1.0, 1.0]})
    student = tmp_path / "student.pth"
    student.write_bytes(b"one")
    made = []

    def score_row(student, way, calls, seed, n):
        made.append((way, calls, seed))
        return {"legal": [0.0, 0.0, 0.1], "FD": [1.0, 0.0, 2.0]}

    monkeypatch.setattr(distill, "score_row", score_row)
    out = tmp_path / "distill.json"
    arguments = ["distill.py", "--out", str(out), "--workers", "1", "--samples", "5"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(distill, "train", lambda settings, out: student)

    def run(weights: bytes):
        student.write_bytes(weights)
        made.clear()
        distill.main()
        return json.loads(out.read_text()), list(made)

    return run


def test_rows_are_made_anew_for_other_weights(distill, scored):
    content, made = scored(b"one")
    assert len(made) == len(content["rows"]) == len(distill.planned_rows())
    _, made = scored(b"one")
    assert made == []
    _, made = scored(b"another")
    assert {way for way, _, _ in made} == {"student"}


def test_what_is_stored_was_drawn_by_the_shipped_weights(shipped):
    stored = json.loads((du.WEIGHTS / "distill.json").read_text(encoding="utf8"))
    student = du.WEIGHTS / "sprite_unet_student.pth"
    whose = {
        "student": shipped.sha256(student),
        "teacher": shipped.sha256(shipped.TEACHER),
        "ideal": "ideal",
    }
    planned = shipped.planned_rows()
    assert set(stored["rows"]) == set(planned)
    for name, row in stored["rows"].items():
        way, _, _ = planned[name]
        assert row["drawn_by"] == whose[shipped.WAYS[way][0]]
    record = du.WEIGHTS / "sprite_unet_student_history.json"
    history = json.loads(record.read_text(encoding="utf8"))
    assert history["teacher"] == whose["teacher"]
    assert student.stat().st_size <= 4 * 2**20


def test_the_student_draws_sprites_in_two_calls():
    """Its mean distance to legal sprites is below that of its teacher."""
    distances = {}
    asked = torch.eye(5)[torch.arange(20) % 5]
    for name in ("trained", "student"):
        network = du.sprite_network(du.WEIGHTS / f"sprite_unet_{name}.pth")
        x, _ = du.sample_ddpm(
            network,
            SCHEDULE,
            shape=(20, 3, 16, 16),
            context=asked,
            steps=du.straight_steps(SCHEDULE, 2),
            generator=generator(),
            variance="beta_tilde",
            keep=0,
        )
        _, far = du.sprite_factory().decode(du.to_pictures(x))
        distances[name] = far
    gain = distances["trained"] - distances["student"]
    assert gain.mean() > 2 * gain.std(ddof=1) / len(gain) ** 0.5
