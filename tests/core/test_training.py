"""The training loop and its parts against computations by hand; files of weights."""

import numpy as np
import pytest
import torch
from torch import nn

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear(50)


class Tiny(nn.Module):
    """A network of one convolution and a batch norm, with time and context added."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.norm = nn.BatchNorm2d(1)
        self.hear = nn.Linear(3, 1)

    def forward(self, x, t, c=None):
        if c is None:
            c = x.new_zeros(len(x), 2)
        time = t.view(-1, 1).to(x)
        told = self.hear(torch.cat((time, c.to(x)), 1))
        return self.norm(self.conv(x)) + told.view(-1, 1, 1, 1)


def tiny_batches(n: int = 3, size: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """n random batches (pictures (size, 1, 8, 8), contexts (size, 2))."""
    context = torch.eye(2)[torch.arange(size) % 2]
    return [(torch.rand(size, 1, 8, 8) * 2 - 1, context) for _ in range(n)]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def steps_of(model, batches=None, **options):
    """`train_steps` on tiny batches; without an optimiser, with gradient descent."""
    options.setdefault("optimiser", torch.optim.SGD(model.parameters(), 0.1))
    if batches is None:
        batches = tiny_batches()
    return du.train_steps(model, iter(batches), SCHEDULE, **options)


def copied(state: dict) -> dict:
    return {name: value.clone() for name, value in state.items()}


# ---- The parts ----------------------------------------------------------------------


def test_corrupt_mixes_with_uniform_noise():
    """At 0 the picture, at 1 noise whatever the picture, between the two a mixture."""
    x = torch.rand(3, 1, 64, 64)
    y = du.corrupt(x, torch.tensor([0.0, 0.25, 1.0]), generator(4))
    noise = torch.rand(x.shape, generator=generator(4))
    assert torch.equal(y[0], x[0])
    assert torch.equal(y[2], noise[2])
    torch.testing.assert_close(y[1], 0.75 * x[1] + 0.25 * noise[1])


def test_the_noise_of_corrupt_is_uniform_from_0_to_1():
    x = torch.rand(1, 1, 64, 64)
    y = du.corrupt(x, torch.ones(1))
    assert y.min() >= 0
    assert y.max() <= 1
    assert y.mean().item() == pytest.approx(0.5, abs=0.02)
    assert y.var().item() == pytest.approx(1 / 12, abs=0.004)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_drop_context_drops_whole_rows_in_their_share(p):
    c = torch.rand(20000, 5) + 0.5
    dropped = du.drop_context(c, p, generator(1))
    gone = (dropped == 0).all(1)
    assert torch.equal(dropped[~gone], c[~gone])  # a row goes whole or stays as it was
    error = 4 * (p * (1 - p) / 20000) ** 0.5
    assert gone.float().mean().item() == pytest.approx(p, abs=error)


def test_diffusion_loss_is_its_formula():
    """x_t is built picture by picture, from the same t and noise drawn by hand."""
    model = Tiny().eval()
    [(x, c)] = tiny_batches(1)
    loss = du.diffusion_loss(model, x, SCHEDULE, c=c, generator=generator(9))
    g = generator(9)
    t = torch.randint(1, 51, (8,), generator=g)
    noise = torch.randn(x.shape, generator=g)
    betas = 1e-4 + (0.02 - 1e-4) * np.arange(1, 51) / 50
    ab = np.cumprod(1 - betas)
    total = 0.0
    for i in range(8):
        ab_t = ab[t[i] - 1]
        x_t = ab_t**0.5 * x[i] + (1 - ab_t) ** 0.5 * noise[i]
        with torch.no_grad():
            answer = model(x_t[None], t[i : i + 1] / 50, c[i : i + 1])
        total += (answer[0] - noise[i]).square().sum().item()
    assert loss.item() == pytest.approx(total / x.numel(), rel=1e-5)


def test_diffusion_loss_asks_for_every_step_from_1_to_T():
    seen = []

    def model(x, t, c):
        seen.append(t)
        return torch.zeros_like(x)

    du.diffusion_loss(model, torch.zeros(5000, 1, 1, 1), du.NoiseSchedule.linear(10))
    steps = (torch.cat(seen) * 10).round().long()
    counts = steps.bincount(minlength=11)
    assert len(counts) == 11
    assert counts[0] == 0
    assert counts[1:].min() > 400


def test_the_loss_of_a_network_in_double_precision():
    model = du.ContextUnet(1, 8, 2, 8).double()
    x = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    assert torch.isfinite(du.diffusion_loss(model, x, SCHEDULE))


# ---- How often each step is drawn ----------------------------------------------------

RISING = torch.arange(SCHEDULE.T + 1.0)  # step t is drawn t times as often as step 1


class Known:
    """A model whose error at step t is (t / T)^2; it notes the steps."""

    def __init__(self):
        self.steps = []

    def __call__(self, x_t, t, c):
        steps = (t * SCHEDULE.T).round().long()
        self.steps.append(steps)
        spread = (1 - SCHEDULE.ab[steps]).sqrt().float()
        noise = x_t / spread.view(-1, 1, 1, 1)
        return noise + t.view(-1, 1, 1, 1)


def known_loss(n: int, frequencies, seed: int = 0, model=None, **options) -> float:
    """The loss of n black pictures, of a model whose error is known."""
    return float(
        du.diffusion_loss(
            model or Known(),
            torch.zeros(n, 1, 1, 1),
            SCHEDULE,
            generator=generator(seed),
            frequencies=frequencies,
            **options,
        )
    )


@pytest.mark.parametrize("size", [1.0, 0.001])
def test_steps_are_drawn_in_proportion_to_their_frequencies(size):
    """These need not sum to 1."""
    model = Known()
    known_loss(100_000, size * RISING, model=model)
    counts = torch.bincount(model.steps[0], minlength=SCHEDULE.T + 1)
    expected = 100_000 * RISING / RISING.sum()
    assert counts[0] == 0
    assert ((counts - expected).abs() <= 5 * expected.sqrt()).all()


def test_the_loss_is_the_plain_mean_over_the_steps_that_are_drawn():
    """No error is rescaled because its step comes often."""
    model = Known()
    loss = known_loss(1000, RISING, model=model)
    errors = (model.steps[0] / SCHEDULE.T).square()
    assert loss == pytest.approx(float(errors.mean()), rel=1e-4)


def test_where_one_step_alone_has_a_frequency_it_is_drawn():
    model = Known()
    known_loss(50, (RISING == 7).float(), model=model)
    assert set(model.steps[0].tolist()) == {7}


def test_the_generator_decides_the_steps_that_are_drawn():
    first = known_loss(50, RISING, seed=1)
    assert known_loss(50, RISING, seed=1) == first
    assert known_loss(50, RISING, seed=2) != first


def test_min_snr_multiplies_the_errors_of_the_steps_that_are_drawn():
    model = Known()
    loss = known_loss(1000, RISING, model=model, min_snr=0.1)
    steps = model.steps[0]
    errors = (steps / SCHEDULE.T).square() * (0.1 / SCHEDULE.snr[steps]).clamp(max=1)
    assert loss == pytest.approx(float(errors.mean()), rel=1e-4)


# ---- The average --------------------------------------------------------------------


def test_average_weights_is_the_moving_average_of_weights_and_buffers():
    """The first update copies; counters are always copied.

    Update n then moves each tensor by 1 - min(decay, (1 + n) / (10 + n)).
    """
    decay = 0.6
    model = Tiny()
    average = du.average_weights(model, decay)
    moving = [*model.parameters(), model.norm.running_mean, model.norm.running_var]
    by_hand = {}
    for n in range(12):
        for tensor in moving:
            tensor.data.add_(torch.randn_like(tensor))
        model.norm.num_batches_tracked.fill_(n + 100)
        average.update_parameters(model)
        rate = min(decay, (1 + n) / (10 + n)) if n > 0 else 0
        for name, value in model.state_dict().items():
            now = value.detach().double().clone()
            if "tracked" not in name and n > 0:
                now = rate * by_hand[name] + (1 - rate) * now
            by_hand[name] = now
    for name, value in average.module.state_dict().items():
        expected = by_hand[name]
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert average.module.norm.num_batches_tracked == 111


# ---- The choice of bfloat16 ---------------------------------------------------------


@pytest.mark.parametrize("seconds, is_fast", [((1.0, 2.0), True), ((2.0, 1.0), False)])
def test_bfloat16_is_taken_only_where_it_is_timed_faster(monkeypatch, seconds, is_fast):
    """If the processor lists bfloat16, the clock decides; random numbers stay."""
    really_timed = du._convolution_seconds

    def clock():
        assert min(really_timed(repeats=1)) > 0
        return seconds

    flags = "flags: avx512f avx512_bf16"
    monkeypatch.setattr(du.Path, "exists", lambda self: True)
    monkeypatch.setattr(du.Path, "read_text", lambda self, encoding: flags)
    monkeypatch.setattr(du, "_convolution_seconds", clock)
    state = torch.get_rng_state()
    assert du.has_fast_bf16.__wrapped__("cpu") == is_fast
    assert torch.equal(state, torch.get_rng_state())


def test_a_processor_that_does_not_list_bfloat16_is_not_timed(monkeypatch):
    flags = "flags: avx512f avx512_vnni"
    monkeypatch.setattr(du.Path, "exists", lambda self: True)
    monkeypatch.setattr(du.Path, "read_text", lambda self, encoding: flags)
    monkeypatch.delattr(du, "_convolution_seconds")
    assert not du.has_fast_bf16.__wrapped__("cpu")
    assert not du.has_fast_bf16.__wrapped__("mps")


# ---- The loop -----------------------------------------------------------------------


def plain_loop(model, batches, min_snr, g) -> list[float]:
    """The loop written out, in float32; half of the contexts are dropped."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for x, c in batches:
        c = c * (torch.rand(8, 1, generator=g) >= 0.5)
        t = torch.randint(1, 51, (8,), generator=g)
        noise = torch.randn(x.shape, generator=g)
        weight = torch.ones(8)
        if min_snr is not None:
            weight = (min_snr / SCHEDULE.snr[t]).clamp(max=1).float()
        answer = model(du.perturb_input(x, t, noise, SCHEDULE), t / 50, c)
        error = (answer - noise).square()
        loss = (weight.view(8, 1, 1, 1) * error).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("min_snr", [None, 5.0])
def test_train_steps_is_the_plain_loop(min_snr, monkeypatch):
    """The same random numbers give the same weights and losses."""
    monkeypatch.setattr(du, "has_fast_bf16", lambda device: False)
    ours = Tiny()
    by_hand = Tiny()
    by_hand.load_state_dict(ours.state_dict())
    batches = tiny_batches(5)
    losses = steps_of(
        ours,
        batches,
        optimiser=torch.optim.Adam(ours.parameters(), 1e-2),
        p_drop=0.5,
        generator=generator(3),
        min_snr=min_snr,
    )
    expected = plain_loop(by_hand, batches, min_snr, generator(3))
    assert list(losses) == pytest.approx(expected, rel=1e-5)
    right = by_hand.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, right[name], rtol=1e-4, atol=1e-6)


def test_the_average_follows_each_step():
    model = Tiny()
    average = du.average_weights(model, 0.9)
    list(steps_of(model, tiny_batches(5), average=average))
    assert int(average.n_averaged) == 5


def test_train_steps_without_context_never_shows_the_labels():
    class Deaf(Tiny):
        def forward(self, x, t, c=None):
            assert c is None
            return super().forward(x, t)

    assert len(list(steps_of(Deaf()))) == 3


def test_train_steps_passes_the_frequencies_on():
    """One step alone is drawn: the network is asked for no other."""
    model = Tiny()
    seen = []

    def note(_, arguments):
        seen.extend((arguments[1] * SCHEDULE.T).round().tolist())

    model.register_forward_pre_hook(note)
    list(steps_of(model, frequencies=(RISING == 7).float()))
    assert seen == [7] * 24


def test_train_steps_learns():
    model = Tiny()
    optimiser = torch.optim.Adam(model.parameters(), 3e-2)
    losses = list(steps_of(model, tiny_batches(60, 32), optimiser=optimiser))
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])


@pytest.mark.parametrize(
    "value, why",
    [(float("nan"), "pictures hold NaN"), (1e38, "start again from a checkpoint")],
)
def test_train_steps_stops_before_a_loss_that_is_no_number(value, why):
    model = Tiny()
    batches = tiny_batches()
    pictures, _ = batches[1]
    pictures[0] = value
    steps = steps_of(model, batches)
    assert np.isfinite(next(steps))
    before = copied(dict(model.named_parameters()))
    with pytest.raises(FloatingPointError, match=f"no step was taken: .*{why}"):
        next(steps)
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name])


def test_train_steps_puts_the_model_into_training_mode():
    model = Tiny().eval()
    next(steps_of(model))
    assert model.training
    assert model.norm.num_batches_tracked == 1


# ---- Files of weights ---------------------------------------------------------------


def test_saved_weights_are_half_precision_and_load_strictly(tmp_path):
    model = du.ContextUnet(3, 8, 5, 16)
    path = tmp_path / "deep" / "er" / "model_0.pth"
    du.save_weights(model, path)
    stored = torch.load(path, weights_only=True)
    kinds = {value.dtype for name, value in stored.items() if "tracked" not in name}
    assert kinds == {torch.float16}
    back = du.load_weights(du.ContextUnet(3, 8, 5, 16), path)
    assert not back.training
    own = model.state_dict()
    for name, value in back.state_dict().items():
        assert value.dtype == own[name].dtype
        torch.testing.assert_close(value, own[name], rtol=2**-10, atol=1e-7)


def test_weights_saved_whole_width_come_back_bit_for_bit(tmp_path):
    model = Tiny()
    du.save_weights(model, tmp_path / "w.pth", half=False)
    own = model.state_dict()
    for name, value in du.load_state(tmp_path / "w.pth").items():
        assert torch.equal(value, own[name])


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = Tiny()
    before = copied(model.state_dict())
    du.save_weights(model, tmp_path / "w.pth")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype == before[name].dtype


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch
):
    path = tmp_path / "w.pth"
    du.save_weights({"a": torch.ones(2)}, path)
    before = path.read_bytes()

    def half_way(state, file):
        file.write(before[: len(before) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half_way)
    with pytest.raises(KeyboardInterrupt):
        du.save_weights({"a": torch.zeros(2)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
