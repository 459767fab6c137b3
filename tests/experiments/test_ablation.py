"""The program behind lesson 3's table of settings.

Its targets and weights stand against the helper's posterior; the rest runs with small
numbers.
"""

import itertools
import json
import sys
from dataclasses import asdict

import faults
import pytest
import torch

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear()
TARGETS = ("noise", "x0", "velocity", "mean")


def normal(*shape, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    """Normal noise, always the same."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


@pytest.fixture
def shipped(program):
    """ablation.py as it is."""
    return program("ablation")


@pytest.fixture
def ablation(shipped, monkeypatch):
    """ablation.py with small numbers and two changes."""
    monkeypatch.setattr(shipped, "FEATURES", 8)
    monkeypatch.setattr(shipped, "HELD_OUT", 10)
    monkeypatch.setattr(shipped, "SAMPLING_STEPS", 2)
    monkeypatch.setattr(shipped, "LOSS_STEPS", (20, 200))
    changes = {
        "plain": shipped.Change(1e-3, 100),
        "mean": shipped.Change(
            target="mean", weights="bound", average=True, decay=False, assigned=True
        ),
    }
    monkeypatch.setattr(shipped, "CHANGES", changes)
    return shipped


@pytest.fixture
def noised():
    """(clean pictures, noise, steps, x_t), in double precision."""
    t = torch.tensor([1, 2, 50, 250, 500])
    x0, noise = normal(2, 5, 3, 4, 4)
    return x0, noise, t, du.perturb_input(x0, t, noise, SCHEDULE)


# ---- Targets and weights ------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_the_right_answer_implies_the_noise(shipped, noised, target):
    x0, noise, t, x_t = noised
    answer = shipped.aim(target, x0, noise, t, SCHEDULE)
    implied = shipped.to_noise(target, answer, x_t, t, SCHEDULE)
    torch.testing.assert_close(implied, noise, rtol=1e-9, atol=1e-9)


def test_the_mean_is_that_of_the_posterior(shipped, noised):
    x0, noise, t, x_t = noised
    answer = shipped.aim("mean", x0, noise, t, SCHEDULE)
    for i, step in enumerate(t.tolist()):
        c0, ct, _ = du.posterior(step, SCHEDULE)
        mean = c0 * x0[i] + ct * x_t[i]
        torch.testing.assert_close(answer[i], mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("target", ["noise", "mean"])
def test_the_weights_of_the_bound_compare_the_means(shipped, noised, target):
    """The bound is the squared distance of the means over two variances.

    Two answers lead the sampler's own step to two means. Weight times error is in the
    same proportion to |mu - mu'|^2 / (2 beta) at every t.
    """
    _, noise, t, x_t = noised
    others = noise + normal(*noise.shape, seed=1)
    change = shipped.Change(target=target, weights="bound")
    weights = shipped.step_weights(change, SCHEDULE)
    ratios = []
    for i, step in enumerate(t.tolist()):
        x = x_t[i : i + 1]
        mean = du.denoise_add_noise(x, step, noise[i : i + 1], SCHEDULE)
        other = du.denoise_add_noise(x, step, others[i : i + 1], SCHEDULE)
        apart = (mean - other).square().mean()
        error = apart
        if target == "noise":
            error = (noise[i] - others[i]).square().mean()
        bound = apart / (2 * SCHEDULE.b[step])
        ratios.append(float(weights[step] * error / bound))
    assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-6)
    assert float(weights[1:].mean()) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_min_snr_weights_are_those_of_the_training_loss(shipped, seed):
    """The weighted loss of one picture over the plain one, for the t that was drawn."""

    def loss(gamma):
        return du.diffusion_loss(
            lambda x, t, c: 0 * x,
            torch.zeros(1, 3, 4, 4),
            SCHEDULE,
            generator=torch.Generator().manual_seed(seed),
            min_snr=gamma,
        )

    weights = shipped.step_weights(shipped.Change(weights="min-SNR"), SCHEDULE)
    t = torch.randint(1, 501, (1,), generator=torch.Generator().manual_seed(seed))
    ratio = float(loss(5.0) / loss(None))
    assert ratio == pytest.approx(float(weights[int(t)]), rel=1e-5)


@pytest.mark.parametrize(
    ("target", "weights"),
    [("x0", "min-SNR"), ("velocity", "bound"), ("mean", "min-SNR"), ("noise", "other")],
)
def test_weights_that_a_target_does_not_have_are_refused(shipped, target, weights):
    change = shipped.Change(target=target, weights=weights)
    message = f"weights='{weights}' not known for target='{target}'"
    with pytest.raises(ValueError, match=message):
        shipped.step_weights(change, SCHEDULE)


@pytest.mark.parametrize("target", TARGETS)
def test_a_network_that_always_answers_right_draws_the_picture(shipped, target):
    x0 = torch.linspace(-1, 1, 48, dtype=torch.float64).view(1, 3, 4, 4)

    class Oracle(torch.nn.Module):
        def forward(self, x, t, c=None):
            steps = (t * 500).round().long()
            ab = SCHEDULE.ab[steps].view(-1, 1, 1, 1)
            noise = (x - ab.sqrt() * x0) / (1 - ab).sqrt()
            return shipped.aim(target, x0, noise, steps, SCHEDULE)

    model = shipped.Denoiser(Oracle(), target, SCHEDULE)
    start = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    x, _ = du.sample_ddim(model, SCHEDULE, x_T=start, steps=20, keep=0)
    torch.testing.assert_close(x, x0, rtol=1e-6, atol=1e-6)


# ---- Training -----------------------------------------------------------------------


def test_each_picture_gets_the_noise_of_the_nearest_assignment(shipped):
    """Against all 120 orders of five noises."""
    x, noise = normal(2, 5, 3, 2, 2, dtype=torch.float32)
    orders = [noise[list(order)] for order in itertools.permutations(range(5))]
    best = min(orders, key=lambda some: float((x - some).square().sum()))
    assert torch.equal(shipped.nearest_noise(x, noise), best)
    assert not torch.equal(best, noise)


def test_without_a_fault_the_noise_is_the_helper_s(shipped, noised):
    x0, noise, t, x_t = noised
    assert torch.equal(shipped.noised(shipped.Change(), x0, t, noise), x_t)


def test_without_its_root_the_noise_is_too_weak(shipped, noised):
    x0, noise, t, _ = noised
    wrong = shipped.noised(shipped.Change(fault="no square root"), x0, t, noise)
    ab = SCHEDULE.ab[t].view(-1, 1, 1, 1)
    torch.testing.assert_close(wrong - ab.sqrt() * x0, (1 - ab) * noise)


def test_the_random_shortcut_differs_from_call_to_call():
    network = du.ContextUnet(3, 8, 5, 16).eval()
    block = network.init_conv
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(block(x), block(x))
    faults.with_random_shortcut(network)
    first = block(x)
    assert not torch.allclose(first, block(x))
    assert first.shape == (2, 8, 4, 4)


@pytest.mark.parametrize(
    "fault", [None, "no square root", "random shortcut", "backward(loss)"]
)
def test_a_fault_changes_what_is_learnt(ablation, fault):
    """Four steps each, from the same weights with the same pictures."""
    right = ablation.train(ablation.Change(), 200).network.state_dict()
    other = ablation.train(ablation.Change(fault=fault), 200).network.state_dict()
    same = all(torch.equal(right[name], other[name]) for name in right)
    assert same == (fault is None)


def test_backward_of_the_loss_multiplies_the_gradient_with_it():
    for fault in (False, True):
        x = torch.tensor([3.0, 1.0], requires_grad=True)
        loss = x.square().sum()
        if fault:
            loss = faults.scaled_by_itself(loss)
        loss.backward()
        expected = 2 * x.detach() * (10 if fault else 1)
        torch.testing.assert_close(x.grad, expected)


def test_the_scaled_gradient_is_that_of_the_published_call():
    x = torch.tensor([3.0, 1.0], requires_grad=True)
    loss = x.square().sum()
    loss.backward(loss.detach())
    published = x.grad.clone()
    x.grad = None
    faults.scaled_by_itself(x.square().sum()).backward()
    assert torch.equal(x.grad, published)


def test_a_fault_that_does_not_exist_is_refused(ablation):
    message = (
        "fault='no root' not known; expected None or one of no square root, random"
    )
    with pytest.raises(ValueError, match=message):
        ablation.train(ablation.Change(fault="no root"), 50)


def test_the_rate_rises_then_falls_or_stays(ablation, monkeypatch):
    rates = []

    def step(optimiser, closure=None):
        rates.append(optimiser.param_groups[0]["lr"])

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    monkeypatch.setattr(ablation, "WARM_UP", 2)
    ablation.train(ablation.Change(learning_rate=1.0), 200)
    ablation.train(ablation.Change(learning_rate=1.0, decay=False), 200)
    assert rates == pytest.approx([0.5, 0.75, 0.5, 0.25, 0.5, 1, 1, 1])


# ---- The program --------------------------------------------------------------------


def run(ablation, monkeypatch, out, *extra) -> dict:
    """The table after a run with small numbers."""
    small = ["--pictures", "200", "--samples", "20", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--out", str(out), *small, *extra])
    ablation.main()
    return json.loads(out.read_text())


@pytest.mark.slow
def test_rows_are_added_and_those_there_are_kept(ablation, monkeypatch, tmp_path):
    out = tmp_path / "ablation.json"
    changes = ablation.CHANGES
    monkeypatch.setattr(ablation, "CHANGES", {"plain": changes["plain"]})
    first = run(ablation, monkeypatch, out)
    monkeypatch.setattr(ablation, "CHANGES", changes)
    both = run(ablation, monkeypatch, out)
    plain, mean = both["runs"].values()
    assert [*both["runs"]] == ["plain", "mean"]
    assert plain == first["runs"]["plain"]
    for row in (plain, mean):
        assert set(row["held_out_loss"]) == {"20", "200"}
        assert 0 < row["legal_distance"]["mean"] < 1
        assert set(row["scores"]) == {"legal", "coverage", "FD"}
    assert plain["held_out_loss"] != mean["held_out_loss"]


def test_other_settings_are_refused(ablation, monkeypatch, tmp_path, capsys):
    out = tmp_path / "ablation.json"
    monkeypatch.setattr(ablation, "CHANGES", {})
    settings = {"features": 8, "pictures": 200, "held_out": 10, "samples": 20}
    out.write_text(json.dumps({"settings": settings, "runs": {}}))
    with pytest.raises(SystemExit):
        run(ablation, monkeypatch, out, "--samples", "40")
    assert "remove it or give another --out" in capsys.readouterr().err
    shipped = str(du.WEIGHTS / "ablation.json")
    with pytest.raises(SystemExit):
        run(ablation, monkeypatch, out, "--out", shipped)
    assert "would overwrite the shipped results" in capsys.readouterr().err


def test_the_stored_table_has_a_row_for_each_change(shipped):
    stored = json.loads((du.WEIGHTS / "ablation.json").read_text())
    changes = {name: row["change"] for name, row in stored["runs"].items()}
    assert changes == {name: asdict(some) for name, some in shipped.CHANGES.items()}
    assert stored["settings"] == {
        "features": shipped.FEATURES,
        "pictures": shipped.PICTURES,
        "held_out": shipped.HELD_OUT,
        "samples": shipped.SAMPLES,
    }
