"""The program behind lesson 3's table of settings: its targets and weights against the helper's posterior, and the rest with small numbers."""

import itertools
import json
import sys
from dataclasses import asdict

import pytest
import torch

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear()
TARGETS = ("noise", "x0", "velocity", "mean")


@pytest.fixture
def shipped(program, monkeypatch):
    monkeypatch.syspath_prepend(str(du.WEIGHTS))
    return program("ablation")


@pytest.fixture
def ablation(shipped, monkeypatch):
    for name, value in {
        "FEATURES": 8,
        "HELD_OUT": 10,
        "SAMPLING_STEPS": 2,
        "LOSS_STEPS": (20, 200),
    }.items():
        monkeypatch.setattr(shipped, name, value)
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
    """Clean pictures, noise, steps and what comes of them, in double precision."""
    t = torch.tensor([1, 2, 50, 250, 500])
    x0, noise = torch.randn(
        2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return x0, noise, t, du.perturb_input(x0, t, noise, SCHEDULE)


@pytest.mark.parametrize("target", TARGETS)
def test_the_right_answer_implies_the_noise(shipped, noised, target):
    x0, noise, t, x_t = noised
    answer = shipped.aim(target, x0, noise, t, SCHEDULE)
    torch.testing.assert_close(
        shipped.to_noise(target, answer, x_t, t, SCHEDULE), noise, rtol=1e-9, atol=1e-9
    )


def test_the_mean_is_that_of_the_posterior(shipped, noised):
    x0, noise, t, x_t = noised
    answer = shipped.aim("mean", x0, noise, t, SCHEDULE)
    for i, step in enumerate(t.tolist()):
        c0, ct, _ = du.posterior(step, SCHEDULE)
        torch.testing.assert_close(
            answer[i], c0 * x0[i] + ct * x_t[i], rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("target", ["noise", "mean"])
def test_the_weights_of_the_bound_are_the_squared_distance_of_the_means_over_two_variances(
    shipped, noised, target
):
    """Against the sampler's own step: two answers, their two means, |mu - mu'|^2 / (2 beta), in the same proportion at every t."""
    _, noise, t, x_t = noised
    others = noise + torch.randn(
        noise.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    weights = shipped.step_weights(
        shipped.Change(target=target, weights="bound"), SCHEDULE
    )
    ratios = []
    for i, step in enumerate(t.tolist()):
        means = [
            du.denoise_add_noise(x_t[i : i + 1], step, some[i : i + 1], SCHEDULE)
            for some in (noise, others)
        ]
        apart = (means[0] - means[1]).square().mean()
        error = (noise[i] - others[i]).square().mean() if target == "noise" else apart
        ratios.append(float(weights[step] * error / (apart / (2 * SCHEDULE.b[step]))))
    assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-6)
    assert float(weights[1:].mean()) == pytest.approx(1)


def test_min_snr_weights_are_those_of_the_training_loss(shipped):
    """One picture: the weighted error over the plain one, as `diffusion_loss` has it, for the t that it drew."""
    weights, x = (
        shipped.step_weights(shipped.Change(weights="min-SNR"), SCHEDULE),
        torch.zeros(1, 3, 4, 4),
    )
    for seed in range(5):
        generators = (torch.Generator().manual_seed(seed) for _ in range(2))
        plain, weighted = (
            du.diffusion_loss(
                lambda x, t, c: 0 * x,
                x,
                SCHEDULE,
                c=None,
                generator=next(generators),
                min_snr=gamma,
            )
            for gamma in (None, 5.0)
        )
        t = int(
            torch.randint(1, 501, (1,), generator=torch.Generator().manual_seed(seed))
        )
        assert float(weighted / plain) == pytest.approx(float(weights[t]), rel=1e-5)


@pytest.mark.parametrize(
    ("target", "weights"),
    [("x0", "min-SNR"), ("velocity", "bound"), ("mean", "min-SNR"), ("noise", "other")],
)
def test_weights_that_a_target_does_not_have_are_refused(shipped, target, weights):
    with pytest.raises(
        ValueError, match=f"weights='{weights}' not known for target='{target}'"
    ):
        shipped.step_weights(shipped.Change(target=target, weights=weights), SCHEDULE)


@pytest.mark.parametrize("target", TARGETS)
def test_a_network_that_always_answers_right_draws_the_picture(shipped, target):
    x0 = torch.linspace(-1, 1, 48, dtype=torch.float64).view(1, 3, 4, 4)

    class Oracle(torch.nn.Module):
        def forward(self, x, t, c=None):
            steps = (t * 500).round().long()
            signal, spread = (
                table[steps].view(-1, 1, 1, 1)
                for table in (SCHEDULE.ab.sqrt(), (1 - SCHEDULE.ab).sqrt())
            )
            return shipped.aim(target, x0, (x - signal * x0) / spread, steps, SCHEDULE)

    model = shipped.Denoiser(Oracle(), target, SCHEDULE)
    x, _ = du.sample_ddim(
        model,
        SCHEDULE,
        x_T=torch.randn(1, 3, 4, 4, dtype=torch.float64),
        steps=20,
        keep=0,
    )
    torch.testing.assert_close(x, x0, rtol=1e-6, atol=1e-6)


def test_each_picture_gets_the_noise_of_the_nearest_assignment(shipped):
    """Against all 120 orders of five noises."""
    x, noise = torch.randn(2, 5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    orders = [noise[list(order)] for order in itertools.permutations(range(5))]
    best = min(orders, key=lambda some: float((x - some).square().sum()))
    assert torch.equal(shipped.nearest_noise(x, noise), best) and not torch.equal(
        best, noise
    )


def test_the_faults_are_those_of_the_published_code(shipped, noised):
    """The noise's std, and a shortcut that differs from call to call; and without a fault neither."""
    x0, noise, t, x_t = noised
    right, wrong = (
        shipped.noised(shipped.Change(fault=fault), x0, t, noise, SCHEDULE)
        for fault in (None, "no square root")
    )
    ab = SCHEDULE.ab[t].view(-1, 1, 1, 1)
    assert torch.equal(right, x_t)
    torch.testing.assert_close(wrong - ab.sqrt() * x0, (1 - ab) * noise)
    block, x = du.ResidualConvBlock(3, 8, is_res=True).eval(), torch.randn(2, 3, 4, 4)
    twice = [block(x), block(x)]
    block.__class__ = shipped.RandomShortcut
    other = [block(x), block(x)]
    assert (
        torch.equal(*twice)
        and not torch.allclose(*other)
        and other[0].shape == twice[0].shape
    )


@pytest.mark.parametrize(
    "fault", [None, "no square root", "random shortcut", "backward(loss)"]
)
def test_a_fault_changes_what_is_learnt(ablation, fault):
    """Four steps each, from the same weights with the same pictures: the weights after them, against those of the recipe without a fault."""
    after = [
        ablation.train(ablation.Change(fault=some), 200).network.state_dict()
        for some in (None, fault)
    ]
    same = all(
        torch.equal(one, other)
        for one, other in zip(*(state.values() for state in after))
    )
    assert same == (fault is None)


def test_backward_of_the_loss_multiplies_the_gradient_with_it(ablation, monkeypatch):
    """The first step's gradients as Adam gets them, over those without the fault: the loss, everywhere."""
    seen, losses = [], []
    step, backward = torch.optim.Adam.step, torch.Tensor.backward

    def first_gradients(optimiser, *rest):
        seen.append(
            torch.cat(
                [
                    p.grad.flatten()
                    for group in optimiser.param_groups
                    for p in group["params"]
                    if p.grad is not None
                ]
            )
        )
        return step(optimiser, *rest)

    def recorded(loss, *rest, **options):
        losses.append(float(loss.detach()))
        return backward(loss, *rest, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", first_gradients)
    monkeypatch.setattr(torch.Tensor, "backward", recorded)
    for fault in (None, "backward(loss)"):
        ablation.train(ablation.Change(fault=fault), 50)
    plain, scaled = seen
    assert losses[0] == losses[1] != pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(scaled, losses[0] * plain, rtol=1e-4, atol=1e-7)


def test_a_fault_that_does_not_exist_is_refused(ablation):
    with pytest.raises(
        ValueError,
        match="fault='no root' not known; expected None or one of no square root, random shortcut",
    ):
        ablation.train(ablation.Change(fault="no root"), 50)


def run(ablation, monkeypatch, out, *extra):
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "ablation.py",
            "--out",
            str(out),
            "--pictures",
            "200",
            "--samples",
            "20",
            "--workers",
            "1",
            *extra,
        ],
    )
    ablation.main()
    return json.loads(out.read_text())


def test_rows_are_added_and_those_there_are_kept(ablation, monkeypatch, tmp_path):
    out, changes = tmp_path / "ablation.json", ablation.CHANGES
    monkeypatch.setattr(ablation, "CHANGES", {"plain": changes["plain"]})
    first = run(ablation, monkeypatch, out)
    monkeypatch.setattr(ablation, "CHANGES", changes)
    both = run(ablation, monkeypatch, out)
    assert both["runs"]["plain"] == first["runs"]["plain"] and list(both["runs"]) == [
        "plain",
        "mean",
    ]
    for row in both["runs"].values():
        assert (
            set(row["held_out_loss"]) == {"20", "200"}
            and 0 < row["legal_distance"]["mean"] < 1
        )
        assert set(row["scores"]) == {"legal", "coverage", "FD"}
    assert (
        both["runs"]["plain"]["held_out_loss"] != both["runs"]["mean"]["held_out_loss"]
    )


def test_other_settings_are_refused(ablation, monkeypatch, tmp_path, capsys):
    out = tmp_path / "ablation.json"
    monkeypatch.setattr(ablation, "CHANGES", {})
    out.write_text(
        json.dumps(
            {
                "settings": {
                    "features": 8,
                    "pictures": 200,
                    "held_out": 10,
                    "samples": 20,
                },
                "runs": {},
            }
        )
    )
    for arguments in (
        ("--samples", "40"),
        ("--out", str(du.WEIGHTS / "ablation.json")),
    ):
        with pytest.raises(SystemExit):
            run(ablation, monkeypatch, out, *arguments)
    assert (
        "remove it or give another --out" in (said := capsys.readouterr().err)
        and "would overwrite the shipped results" in said
    )


def test_the_stored_table_has_a_row_for_each_change(shipped):
    stored = json.loads((du.WEIGHTS / "ablation.json").read_text())
    assert {name: row["change"] for name, row in stored["runs"].items()} == {
        name: asdict(change) for name, change in shipped.CHANGES.items()
    }
    settings = {
        "features": shipped.FEATURES,
        "pictures": shipped.PICTURES,
        "held_out": shipped.HELD_OUT,
        "samples": shipped.SAMPLES,
    }
    assert stored["settings"] == settings
