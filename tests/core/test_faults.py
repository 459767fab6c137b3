"""Known faults of the published material on this subject, one test each.

A test states a check. Our code passes it, and the faulty form, written out here, does
not.
"""

import base64
import io
import math

import numpy as np
import pytest
import torch
import torch.nn as nn

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear(500)


def passes(check, form) -> bool:
    """Whether the check holds; any error that the faulty form raises is a failure."""
    try:
        check(form)
    except (AssertionError, RuntimeError, ValueError, TypeError, IndexError):
        return False
    return True


def only_ours_passes(check, ours, faulty) -> None:
    check(ours)
    assert not passes(check, faulty), "the check does not notice the fault"


# ---- Noise and schedules -------------------------------------------------------------


def test_fault_01_missing_square_root_on_the_noise():
    """The noise has the standard deviation sqrt(1 - ab_t): 0.233 at t = 50.

    Without the root it is 0.054.
    """

    def faulty(x, t, noise, schedule):
        ab = schedule.ab[t]
        return ab.sqrt() * x + (1 - ab) * noise

    def check(perturb):
        noise = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        first = SCHEDULE.b[1].item() ** 0.5
        for t, std in ((1, first), (50, 0.233), (200, 0.749)):
            x_t = perturb(0 * noise, t, noise, SCHEDULE)
            assert x_t.item() == pytest.approx(std, abs=6e-4)

    only_ours_passes(check, du.perturb_input, faulty)
    x_t = faulty(torch.zeros(1), 50, torch.ones(1), SCHEDULE)
    assert x_t.item() == pytest.approx(0.054, abs=6e-4)


def test_fault_04_alpha_bar_1_is_alpha_1():
    """beta_0 is in no product, so one step from t = 1 lands on the picture exactly."""

    def faulty(T):
        b = torch.linspace(1e-4, 0.02, T + 1, dtype=torch.float64)
        ab = (1 - b).log().cumsum(0).exp()
        ab[0] = 1
        return b, ab

    def ours(T):
        schedule = du.NoiseSchedule.linear(T)
        return schedule.b, schedule.ab

    def check(make):
        b, ab = make(500)
        assert ab[0] == 1
        ratio = ab[1:] / ab[:-1]
        torch.testing.assert_close(ratio, 1 - b[1:], rtol=1e-12, atol=0)

    only_ours_passes(check, ours, faulty)


def test_fault_05_half_the_steps_with_the_betas_of_all():
    """T = 500 with the betas of T = 1000 leaves 8 % of the picture at T.

    It is kept as published. Doubled betas, the cosine schedule and T = 1000 pass.
    """

    def check(schedule):
        assert schedule.ab[-1].sqrt() < 0.01

    doubled = du.NoiseSchedule.linear(500, 2e-4, 0.04)
    only_ours_passes(check, doubled, SCHEDULE)
    check(du.NoiseSchedule.cosine(500))
    check(du.NoiseSchedule.linear(1000))
    assert SCHEDULE.ab[-1].sqrt().item() == pytest.approx(0.079, abs=5e-4)
    assert doubled.ab[-1].sqrt().item() == pytest.approx(0.006, abs=5e-4)


def test_fault_14_noise_scaled_by_the_variance_instead_of_its_root():
    """A step of DDPM adds noise of the variance beta_t."""

    def faulty(x, t, pred_noise, schedule, *, z):
        mean = du.denoise_add_noise(x, t, pred_noise, schedule)
        return mean + schedule.b[t] * z

    def check(step):
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        for t in (2, 100, 500):
            added = step(zero, t, zero, SCHEDULE, z=zero + 1).item()
            assert added**2 == pytest.approx(SCHEDULE.b[t].item(), rel=1e-9)

    only_ours_passes(check, du.denoise_add_noise, faulty)


def test_fault_14_a_product_that_runs_to_T_instead_of_t():
    """ab[t] falls step by step; the product of all alphas is one number for every t."""

    def faulty(t):
        return math.prod(SCHEDULE.a[1:].tolist())

    def ours(t):
        return SCHEDULE.ab[t].item()

    def check(ab):
        for t in (1, 2, 250, 500):
            expected = math.prod(SCHEDULE.a[1 : t + 1].tolist())
            assert ab(t) == pytest.approx(expected, rel=1e-12)

    only_ours_passes(check, ours, faulty)


# ---- Networks ------------------------------------------------------------------------


class RandomShortcut(du.ResidualConvBlock):
    """With a fresh random convolution as its shortcut, in every call."""

    def forward(self, x):
        x2 = self.conv2(self.conv1(x))
        shortcut = nn.Conv2d(x.shape[1], x2.shape[1], kernel_size=1)
        return (shortcut(x) + x2) / 1.414


def test_fault_02_a_fresh_random_convolution_in_every_forward_call():
    """A residual block gives the same output twice, in training and in eval mode."""

    def check(block_type):
        for training in (False, True):
            block = block_type(3, 8, True).train(training)
            x = torch.randn(2, 3, 8, 8)
            assert torch.equal(block(x), block(x))

    only_ours_passes(check, du.ResidualConvBlock, RandomShortcut)


def test_fault_02_a_forward_call_that_draws_random_numbers():
    """Only building a block draws: a call leaves the random state as it was."""

    def check(block_type):
        block = block_type(3, 8, True).eval()
        x = torch.randn(2, 3, 8, 8)
        before = torch.get_rng_state()
        block(x)
        assert torch.equal(torch.get_rng_state(), before)

    only_ours_passes(check, du.ResidualConvBlock, RandomShortcut)


def test_fault_02_ddim_is_repeatable_from_one_x_T():
    """With such a block inside, two DDIM runs differ; ours agree bit for bit."""

    def check(block_type):
        model = du.ContextUnet(3, 8, 5, 8)
        model.init_conv = block_type(3, 8, True)
        x_T = torch.randn(1, 3, 8, 8)
        one, _ = du.sample_ddim(model, SCHEDULE, x_T=x_T, steps=3)
        two, _ = du.sample_ddim(model, SCHEDULE, x_T=x_T, steps=3)
        assert torch.equal(one, two)

    only_ours_passes(check, du.ResidualConvBlock, RandomShortcut)


def test_fault_03_residual_in_name_only():
    """With `is_res`, silent convolutions leave the shortcut."""

    class Faulty(du.ResidualConvBlock):
        def forward(self, x):
            return self.conv2(self.conv1(x))

    def check(block_type):
        block = block_type(4, 4, True).eval()
        norm = block.conv2[1]
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)  # gelu(0) = 0
        x = torch.randn(2, 4, 4, 4)
        torch.testing.assert_close(block(x), x / math.sqrt(2))

    only_ours_passes(check, du.ResidualConvBlock, Faulty)


def test_fault_03_only_one_of_nine_residual_blocks_is_residual():
    """It is kept so for the sake of the published keys."""
    found = []
    for module in du.ContextUnet(3, 8, 5, 16).modules():
        if isinstance(module, du.ResidualConvBlock):
            found.append(module.is_res)
    assert found == [True] + [False] * 8


@pytest.mark.parametrize("pool", [nn.AvgPool2d(4), None])
def test_fault_09_a_hard_coded_pooling_of_4(pool):
    """All heights from 8 to 64 that 4 divides work.

    A pooling of 4 fails at 8, 12 and 32; one without a size cannot even be built.
    """

    def ours(height):
        return du.ContextUnet(1, 8, 2, height)

    def faulty(height):
        model = du.ContextUnet(1, 8, 2, height)
        hard_coded = pool or nn.AvgPool2d(stride=2)
        model.to_vec = nn.Sequential(hard_coded, nn.GELU())
        return model

    def check(build):
        for height in (8, 12, 16, 28, 32, 64):
            model = build(height).eval()
            x = torch.randn(1, 1, height, height)
            assert model(x, torch.tensor([0.5])).shape == x.shape

    only_ours_passes(check, ours, faulty)


def test_fault_14_skip_connections_are_last_in_first_out():
    """The first level up joins the last level down; another order does not even fit."""

    class Faulty(du.BasicUNet):
        def forward(self, x):
            skips = []
            for i, layer in enumerate(self.down_layers):
                x = self.act(layer(x))
                if i < 2:
                    skips.append(x)
                    x = self.downscale(x)
            for i, layer in enumerate(self.up_layers):
                if i > 0:
                    x = self.upscale(x) + skips.pop(0)
                x = self.act(layer(x))
            return x

    def check(network):
        x = torch.rand(1, 1, 28, 28)
        assert network()(x).shape == x.shape

    only_ours_passes(check, du.BasicUNet, Faulty)


def test_fault_14_a_u_net_that_is_four_plain_convolutions():
    """A U-Net sees wide: a pixel is heard 15 pixels away."""

    def plain():
        layers = []
        for before, after in ((1, 8), (8, 8), (8, 8), (8, 1)):
            layers.append(nn.Conv2d(before, after, 5, padding=2))
            layers.append(nn.SiLU())
        return nn.Sequential(*layers)

    def check(build):
        x = torch.rand(1, 1, 32, 32, requires_grad=True)
        middle = build()(x)[0, 0, 16, 16]
        (gradient,) = torch.autograd.grad(middle, x)
        assert gradient[0, 0, 16, 16] != 0
        assert gradient[0, 0, 1].any()

    only_ours_passes(check, du.BasicUNet, plain)


def test_fault_14_a_u_net_keeps_detail_without_its_lower_levels():
    """When the second level is silent, the outer skip connection still speaks."""
    model = du.BasicUNet()
    for parameter in model.down_layers[1].parameters():
        nn.init.zeros_(parameter)  # silu(0) = 0
    assert model(torch.rand(1, 1, 16, 16)).std() > 0


# ---- Data ----------------------------------------------------------------------------


def test_fault_10_a_dataset_without_transform(sprite_files):
    """`transform=None` gives the same tensors as the published transform."""
    sprites = sprite_files / "sprites_16x16.npy"
    labels = sprite_files / "sprite_labels_16x16.npy"

    class Faulty(du.CustomDataset):
        def __getitem__(self, idx):
            return self.transform(self.sprites[idx]), torch.tensor(self.slabels[idx])

    def check(dataset_type):
        plain, plain_label = dataset_type(sprites, labels, None)[3]
        known, known_label = dataset_type(sprites, labels, du.transform)[3]
        torch.testing.assert_close(plain, known)
        assert torch.equal(plain_label, known_label)

    only_ours_passes(check, du.CustomDataset, Faulty)


def test_fault_10_contexts_that_ignore_their_argument():
    """gen_tst_context makes as many features as it is asked for."""

    def faulty(n_cfeat):
        rows = torch.cat((torch.eye(5), torch.zeros(1, 5)))
        return 36, rows.repeat(6, 1)

    def check(make):
        for n_cfeat in (5, 3, 10):
            _, context = make(n_cfeat)
            assert context.shape == (36, n_cfeat)

    only_ours_passes(check, du.gen_tst_context, faulty)


def test_fault_11_a_random_split_of_repeated_pictures_leaks():
    """No picture of train is held out, too, or is in train twice.

    A random split of pictures that are repeated 50 times shares them all.
    """
    train = du.load_sprites("train").images

    def ours():
        test = du.load_sprites("test").images
        compositional = du.load_sprites("compositional").images
        return train, np.concatenate((test, compositional))

    def faulty():
        repeated = np.repeat(train[:100], 50, axis=0)
        shuffled = np.random.default_rng(0).permutation(repeated)
        return shuffled[:4500], shuffled[4500:]

    def distinct(pictures):
        return {picture.tobytes() for picture in pictures}

    def check(split):
        seen, held_out = split()
        assert len(distinct(seen)) == len(seen)
        assert not distinct(seen) & distinct(held_out)

    only_ours_passes(check, ours, faulty)
    seen, held_out = faulty()
    assert distinct(held_out) <= distinct(seen)


# ---- Training ------------------------------------------------------------------------


class Line(nn.Module):
    """Predicts `weight * x`: a network whose gradient is known."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, c=None):
        return self.weight * x


def test_fault_14_backward_scaled_by_the_loss(monkeypatch):
    """Plain gradient descent moves by the learning rate times the gradient.

    `loss.backward(loss)` multiplies that by the loss as well.
    """
    monkeypatch.setattr(du, "has_fast_bf16", lambda device: False)
    x = torch.randn(64, 1, 4, 4)

    def faulty(model, batches, schedule, *, optimiser, generator):
        for x, _ in batches:
            loss = du.diffusion_loss(model, x, schedule, c=None, generator=generator)
            loss.backward(loss)
            optimiser.step()
            yield loss.item()

    def gradient():
        model = Line()
        generator = torch.Generator().manual_seed(1)
        loss = du.diffusion_loss(model, x, SCHEDULE, c=None, generator=generator)
        loss.backward()
        return model.weight.grad.item()

    def check(steps):
        model = Line()
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        generator = torch.Generator().manual_seed(1)
        batches = iter([(x, None)])
        one_step = steps(
            model, batches, SCHEDULE, optimiser=optimiser, generator=generator
        )
        assert len(list(one_step)) == 1
        expected = 0.5 - 0.1 * gradient()
        assert model.weight.item() == pytest.approx(expected, rel=1e-5)

    only_ours_passes(check, du.train_steps, faulty)


def test_fault_13_context_dropped_feature_by_feature():
    """Dropout empties one row in ten, as guidance needs it, and leaves the others."""

    def faulty(c, p, generator=None):
        return c * (torch.rand(c.shape, generator=generator) >= p)

    def check(drop):
        generator = torch.Generator().manual_seed(0)
        dropped = drop(torch.ones(2000, 5), 0.1, generator)
        empty = (dropped == 0).all(1).float()
        assert empty.mean().item() == pytest.approx(0.1, abs=0.03)

    only_ours_passes(check, du.drop_context, faulty)


def test_fault_13_an_empty_context_means_none():
    """What dropout trains is what `c=None` asks for."""
    model = du.ContextUnet(3, 8, 5, 8).eval()
    x = torch.randn(4, 3, 8, 8)
    t = torch.rand(4)
    empty = du.drop_context(torch.ones(4, 5), 1.0)
    with torch.no_grad():
        assert torch.equal(model(x, t, empty), model(x, t))


def test_fault_13_context_dropout_trained_and_guidance_never_used():
    """(1 + w) with - w without context: at w = 2 a label moves three times as far.

    The label moves the only picture that this denoiser knows from 0 to 0.1.
    """
    schedule = du.NoiseSchedule.linear(20)

    def believes(x, t, c):
        ab = schedule.ab[(t * 20).round().long()].view(-1, 1, 1, 1).to(x)
        x0 = 0 if c is None else 0.1
        return (x - ab.sqrt() * x0) / (1 - ab).sqrt()

    def guided(x, t, c):
        return 3 * believes(x, t, c) - 2 * believes(x, t, None)

    def check(model):
        context = torch.ones(2, 5)
        x, _ = du.sample_ddim(
            model, schedule, shape=(2, 3, 4, 4), context=context, steps=10
        )
        expected = torch.full_like(x, 0.3)
        torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-3)

    only_ours_passes(check, guided, believes)


# ---- Sampling ------------------------------------------------------------------------


def test_fault_06_the_ddim_stride_wraps_round():
    """Every n from 1 to T runs n steps, down to 0 and no further.

    The published stride fails where n does not divide T.
    """

    def faulty(n, T):
        stride = T // n
        visited = list(range(T, 0, -stride))
        return [*visited, visited[-1] - stride]

    def check(steps_of):
        for n in range(1, 501):
            steps = steps_of(n, 500)
            assert len(steps) == n + 1
            assert steps[0] == 500
            assert steps[-1] == 0
            assert sorted(set(steps), reverse=True) == steps

    only_ours_passes(check, du.sampling_steps, faulty)
    wrapped = faulty(30, 500)
    assert len(wrapped) - 1 == 32
    assert wrapped[-1] < 0


def test_fault_06_no_step_accepts_a_wrapped_index():
    x = torch.zeros(1)
    with pytest.raises(ValueError, match="t_prev"):
        du.denoise_ddim(x, 4, -12, x, SCHEDULE)


def test_fault_12_each_checkpoint_sampled_from_another_x_T():
    """Two equal models give equal rows, so rows differ by their weights alone."""
    model = du.ContextUnet(3, 8, 5, 8).eval()
    schedule = du.NoiseSchedule.linear(10)

    def sample(model, generator):
        return du.sample_ddpm(
            model, schedule, shape=(2, 3, 8, 8), generator=generator, keep=3
        )

    def faulty(models, sample):
        samples = {}
        for label, model in models.items():
            samples[label], _ = sample(model, None)
        return None, samples

    def check(compare):
        _, samples = compare({"epoch 0": model, "epoch 31": model}, sample)
        assert torch.equal(samples["epoch 0"], samples["epoch 31"])

    only_ours_passes(check, du.compare_checkpoints, faulty)


def test_fault_12_an_epoch_that_was_not_saved_is_said(tmp_path):
    """Published text, captions and code disagree on what was saved.

    Here the error lists what there is.
    """
    for epoch in (0, 4, 31):
        (tmp_path / f"model_{epoch}.pth").touch()
    model = du.ContextUnet(3, 64, 5, 16)
    listed = "model_24.pth does not exist; .*: model_0.pth, model_31.pth, model_4.pth"
    with pytest.raises(FileNotFoundError, match=listed):
        du.load_weights(model, tmp_path / "model_24.pth")


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
def test_fault_14_noise_added_at_the_last_step(variance):
    """In the step to 0 the noise z changes nothing."""

    def ours(x, t, pred_noise, z):
        return du.denoise_add_noise(x, t, pred_noise, SCHEDULE, z=z, variance=variance)

    def faulty(x, t, pred_noise, z):
        return ours(x, t, pred_noise, 0 * z) + SCHEDULE.b[t].sqrt() * z

    def check(step):
        x, pred_noise, z = torch.randn(3, 2, 3, 4, 4)
        assert torch.equal(step(x, 1, pred_noise, z), step(x, 1, pred_noise, 0 * z))

    only_ours_passes(check, ours, faulty)


@pytest.mark.parametrize("t", [1, 60])
def test_fault_14_no_noise_in_a_long_step_to_0(t):
    """A DDPM that skips steps, and DDIM at eta = 1."""
    x, pred_noise, z = torch.randn(3, 2, 3, 4, 4)
    noisy = du.denoise_add_noise(x, t, pred_noise, SCHEDULE, z=z, t_prev=0)
    clean = du.denoise_add_noise(x, t, pred_noise, SCHEDULE, z=0 * z, t_prev=0)
    assert torch.equal(noisy, clean)
    noisy = du.denoise_ddim(x, t, 0, pred_noise, SCHEDULE, eta=1.0, z=z)
    clean = du.denoise_ddim(x, t, 0, pred_noise, SCHEDULE, eta=1.0, z=0 * z)
    assert torch.equal(noisy, clean)


def test_fault_14_dropout_left_on_while_sampling():
    """A network in training mode is sampled in eval mode, and is then as it was.

    Dropout is off, and the batch does not change batch norm's statistics.
    """

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.dropout = nn.Dropout(0.5)

        def forward(self, x, t, c=None):
            return self.dropout(self.norm(x))

    def faulty(model, schedule, *, x_T, steps):
        x = x_T
        visited = du.sampling_steps(steps, schedule.T)
        for t, t_prev in zip(visited, visited[1:]):
            with torch.no_grad():
                pred_noise = model(x, torch.tensor([t / schedule.T]))
            x = du.denoise_ddim(x, t, t_prev, pred_noise, schedule)
        return x, None

    def check(sample):
        model = Net().train()
        x_T = 3 * torch.randn(2, 3, 4, 4)
        one, _ = sample(model, SCHEDULE, x_T=x_T, steps=3)
        two, _ = sample(model, SCHEDULE, x_T=x_T, steps=3)
        assert torch.equal(one, two)
        assert model.norm.num_batches_tracked == 0
        assert model.training

    only_ours_passes(check, du.sample_ddim, faulty)


def test_fault_14_a_sampling_loop_that_reads_a_global_number_of_steps():
    """Two schedules in one process each get their own number of steps."""

    def faulty(model, schedule, *, shape):
        return du.sample_ddpm(model, SCHEDULE, shape=shape)

    def check(sample):
        for T in (7, 20):
            times = []

            def model(x, t, c, times=times):
                times.append(t[0].item())
                return torch.zeros_like(x)

            sample(model, du.NoiseSchedule.linear(T), shape=(1, 1, 2, 2))
            expected = [t / T for t in range(T, 0, -1)]
            assert times == pytest.approx(expected)

    only_ours_passes(check, du.sample_ddpm, faulty)


# ---- Devices -------------------------------------------------------------------------


def other_devices() -> list[str]:
    """The accelerators of this machine."""
    devices = []
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def by_tables_on_the_cpu(x, t, noise, schedule):
    """The faulty `perturb_input`: its tables stay where they are."""
    signal = schedule.ab.sqrt()[t].view(-1, 1, 1, 1)
    spread = (1 - schedule.ab).sqrt()[t].view(-1, 1, 1, 1)
    return signal * x + spread * noise


def test_fault_14_schedule_tables_that_stay_on_the_cpu():
    """Tables follow x to its device and dtype, here to a device without numbers."""

    def check(perturb):
        x = torch.randn(2, 3, 4, 4, device="meta")
        out = perturb(x, torch.tensor([3, 400]), x, SCHEDULE)
        assert out.device.type == "meta"
        assert out.shape == x.shape
        assert out.dtype == x.dtype

    only_ours_passes(check, du.perturb_input, by_tables_on_the_cpu)


@pytest.mark.skipif(not other_devices(), reason="needs a GPU")
@pytest.mark.parametrize("device", other_devices())
def test_fault_14_steps_on_either_device_mean_the_same(device):
    x = torch.randn(2, 3, 4, 4)
    t = torch.tensor([3, 400])
    expected = du.perturb_input(x, t, x, SCHEDULE)
    there = x.to(device)
    for place in (device, "cpu"):
        moved = du.perturb_input(there, t.to(place), there, SCHEDULE)
        torch.testing.assert_close(moved.cpu(), expected)


@pytest.mark.skipif(not other_devices(), reason="needs a GPU")
@pytest.mark.parametrize("device", other_devices())
@pytest.mark.parametrize("sample", [du.sample_ddim, du.sample_ddpm])
def test_fault_14_samplers_run_on_a_gpu(sample, device):
    """The same seed gives the same noise there, and so nearly the same pictures."""
    model = du.ContextUnet(3, 8, 5, 8).eval()
    schedule = du.NoiseSchedule.linear(20)

    def draw(place):
        generator = torch.Generator().manual_seed(1)
        return sample(
            model.to(place),
            schedule,
            shape=(2, 3, 8, 8),
            context=torch.eye(5)[:2],
            steps=5,
            generator=generator,
        )

    expected, _ = draw("cpu")
    x, frames = draw(device)
    assert x.device.type == device
    assert frames.device.type == "cpu"
    torch.testing.assert_close(x.cpu(), expected, rtol=0.02, atol=0.02)


@pytest.mark.skipif(not other_devices(), reason="needs a GPU")
@pytest.mark.parametrize("device", other_devices())
def test_fault_14_training_runs_on_a_gpu(device):
    model = du.ContextUnet(3, 8, 5, 8).to(device)
    optimiser = torch.optim.Adam(model.parameters())
    labels = torch.arange(8) % 5
    batch = (torch.randn(8, 3, 8, 8), torch.eye(5)[labels])
    losses = du.train_steps(
        model,
        iter([batch, batch]),
        du.NoiseSchedule.linear(20),
        optimiser=optimiser,
        p_drop=0.1,
        average=du.average_weights(model),
    )
    assert len(list(losses)) == 2


# ---- Pictures ------------------------------------------------------------------------


def test_fault_07_pictures_rescaled_one_by_one_before_plotting():
    """One fixed map for all: a colour is shown the same in any company.

    A flat channel does not become NaN, and values beyond the range are clipped.
    """

    def faulty(x):
        low = x.amin((-2, -1), keepdim=True)
        high = x.amax((-2, -1), keepdim=True)
        return (x - low) / (high - low)

    def faulty_after_unorm(x):
        return faulty(du.unorm(x))

    def norm_all(x):
        return du.norm_all(x[None], 1, 2)[0]

    def check(norm):
        x = torch.full((2, 3, 4, 4), 0.2)
        x[1, :, 0, 0] = torch.tensor([-1.0, 0.5, 2.0])
        shown = norm(x)
        assert torch.isfinite(shown).all()
        assert shown.min() >= 0
        assert shown.max() <= 1
        assert torch.equal(shown[0, :, 1, 1], shown[1, :, 1, 1])
        assert shown[0, :, 1, 1].tolist() == pytest.approx([0.6] * 3)

    only_ours_passes(check, du.norm_torch, faulty)
    only_ours_passes(check, du.unorm, faulty_after_unorm)
    check(norm_all)


def plotted_on_axes(store, n_sample, nrows, save_dir, fn, w):
    """The faulty `plot_sample`: it indexes the axes of plt.subplots by row and column.

    They are no matrix for one row or one column; columns are a rounded-down quotient.
    """
    ncols = n_sample // nrows
    figure, axes = du.plt.subplots(nrows, ncols)
    du.plt.close(figure)
    frame = np.ones((16 * nrows, 16 * ncols, 3))
    for row in range(nrows):
        for column in range(ncols):
            assert axes[row, column] is not None
            picture = store[0, row * ncols + column].transpose(1, 2, 0)
            top = 16 * row
            left = 16 * column
            frame[top : top + 16, left : left + 16] = picture
    return frame[None]


@pytest.mark.parametrize("n, rows", [(4, 1), (4, 4), (1, 1), (5, 2), (7, 3)])
def test_fault_08_plot_sample_with_few_rows_or_rows_that_do_not_divide(n, rows):
    """Whatever the rows, every picture is in every frame."""

    def ours(*arguments):
        return du.plot_sample(*arguments).frames

    def check(plot):
        store = np.ones((1, n, 3, 16, 16), dtype=np.float32)
        store[:, :, 0, 8, 8] = -1  # a cyan pixel in each
        frame = np.asarray(plot(store, n, rows, "", "", None))[0]
        is_cyan = (frame[..., 0] <= 0) & (frame[..., 1] > 0)
        assert is_cyan.sum() == n

    only_ours_passes(check, ours, plotted_on_axes)


def test_fault_15_saved_animations_of_two_megabytes(tmp_path):
    """Eight sprites in 16 frames: a player below 120 KiB, a GIF below 400 KiB.

    The frames are noise, which is the worst case. Matplotlib's player keeps each frame
    enlarged, in full colour, as base64.
    """
    store = torch.randn(16, 8, 3, 16, 16).clamp(-1, 1)

    def faulty(animation):
        buffer = io.BytesIO()
        for i in range(16):
            animation.picture(i).save(buffer, "PNG", compress_level=1)
        return base64.b64encode(buffer.getvalue())

    def check(to_html):
        animation = du.plot_sample(store, 8, 1, "", "", None)
        assert len(to_html(animation)) < 120 * 1024

    only_ours_passes(check, du.SpriteAnimation.to_jshtml, faulty)
    du.plot_sample(store, 8, 1, f"{tmp_path}/", "ani", 0, save=True)
    assert (tmp_path / "ani_w0.gif").stat().st_size < 400 * 1024
