"""Known faults of the published material on this subject, one test each.

Each states a check, shows that our code passes it, and that the faulty form, written out here, is rejected by the same check.
"""

import base64
import io
import math

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear(500)


def passes(check, *arguments) -> bool:
    """Whether a check holds; what the faulty form raises counts as failing."""
    try:
        check(*arguments)
    except (AssertionError, RuntimeError, ValueError, TypeError, IndexError):
        return False
    return True


def only_ours_passes(check, ours, *faulty) -> None:
    check(ours)
    for form in faulty:
        assert not passes(check, form), (
            f"the check does not notice {getattr(form, '__name__', form)}"
        )


def test_fault_01_missing_square_root_on_the_noise():
    """The noise's standard deviation is sqrt(1 - ab_t): 0.233 at t = 50 and 0.749 at t = 200; without the root 0.054 and 0.56."""

    def faulty(x, t, noise, schedule):
        return schedule.ab[t].sqrt() * x + (1 - schedule.ab[t]) * noise

    def check(perturb):
        noise = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        for t, std in ((1, SCHEDULE.b[1].item() ** 0.5), (50, 0.233), (200, 0.749)):
            assert perturb(0 * noise, t, noise, SCHEDULE).item() == pytest.approx(
                std, abs=6e-4
            )

    only_ours_passes(check, du.perturb_input, faulty)
    assert faulty(torch.zeros(1), 50, torch.ones(1), SCHEDULE).item() == pytest.approx(
        0.054, abs=6e-4
    )


def test_fault_02_a_fresh_random_convolution_in_every_forward_call():
    """The residual block is a function of its input: the same twice, in training and in eval mode, and it has no hidden weights."""

    class Faulty(du.ResidualConvBlock):
        def forward(self, x):
            x2 = self.conv2(self.conv1(x))
            if not self.same_channels:
                x = nn.Conv2d(x.shape[1], x2.shape[1], kernel_size=1).to(x.device)(x)
            return (x + x2) / 1.414

    def check(block_type):
        for training in (False, True):
            block, x = block_type(3, 8, True).train(training), torch.randn(2, 3, 8, 8)
            assert torch.equal(block(x), block(x))
        torch.manual_seed(0)
        state = torch.get_rng_state()
        block_type(3, 8, True).eval()  # only building draws
        built = torch.get_rng_state()
        assert not torch.equal(state, built)
        block(x)
        assert torch.equal(torch.get_rng_state(), built)

    only_ours_passes(check, du.ResidualConvBlock, Faulty)


def test_fault_02_ddim_is_repeatable_from_one_x_T():
    """With such a block inside, two DDIM runs from one x_T differ; ours agree bit for bit."""

    class Faulty(du.ResidualConvBlock):
        def forward(self, x):
            return (nn.Conv2d(3, 8, 1)(x) + self.conv2(self.conv1(x))) / 1.414

    def check(block):
        model = du.ContextUnet(3, 8, 5, 8).eval()
        model.init_conv = block.eval()
        x_T = torch.randn(1, 3, 8, 8)
        one, two = (
            du.sample_ddim(model, SCHEDULE, x_T=x_T, steps=3)[0] for _ in range(2)
        )
        assert torch.equal(one, two)

    only_ours_passes(check, du.ResidualConvBlock(3, 8, True), Faulty(3, 8, True))


def test_fault_03_only_one_of_nine_residual_blocks_is_residual():
    """Kept for the keys' sake, and said: one block of nine. What is_res promises, it does: silent convolutions leave the shortcut."""

    def check(block_type):
        block = block_type(4, 4, True).eval()
        nn.init.zeros_(block.conv2[1].weight)  # gelu(0) = 0
        nn.init.zeros_(block.conv2[1].bias)
        x = torch.randn(2, 4, 4, 4)
        torch.testing.assert_close(block(x), x / math.sqrt(2))

    class Faulty(du.ResidualConvBlock):
        """Residual in name only: what all but one of the nine are."""

        def forward(self, x):
            return self.conv2(self.conv1(x))

    only_ours_passes(check, du.ResidualConvBlock, Faulty)
    blocks = [
        m
        for m in du.ContextUnet(3, 8, 5, 16).modules()
        if isinstance(m, du.ResidualConvBlock)
    ]
    assert [b.is_res for b in blocks] == [True] + [False] * 8
    assert "Only `init_conv` is residual" in du.ContextUnet.__doc__


def test_fault_04_alpha_bar_1_is_alpha_1():
    """beta_0 is in no product, so the first step is exact: ab[1] = a[1], and one step from t = 1 lands on the picture."""

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
        assert ab[0] == 1 and ab[1].item() == pytest.approx(1 - b[1].item(), rel=1e-13)
        ratio = ab[1:] / ab[:-1]
        np.testing.assert_allclose(ratio, 1 - b[1:], rtol=1e-12)

    only_ours_passes(check, ours, faulty)


def test_fault_05_half_the_steps_with_the_betas_of_all():
    """T = 500 with the betas of T = 1000 leaves 8 % of the picture at T. Kept as published; doubled betas, or cosine, pass the check."""

    def check(schedule):
        assert schedule.ab[-1].sqrt() < 0.01

    only_ours_passes(check, du.NoiseSchedule.linear(500, 2e-4, 0.04), SCHEDULE)
    check(du.NoiseSchedule.cosine(500))
    check(du.NoiseSchedule.linear(1000))
    assert SCHEDULE.ab[-1].sqrt().item() == pytest.approx(0.079, abs=5e-4)
    assert du.NoiseSchedule.linear(500, 2e-4, 0.04).ab[
        -1
    ].sqrt().item() == pytest.approx(0.006, abs=5e-4)


def test_fault_06_the_ddim_stride_wraps_round():
    """Every n from 1 to T runs n steps, down to 0 and no further. The published stride fails where n does not divide T."""

    def faulty(n, T):
        stride = T // n
        visited = list(range(T, 0, -stride))
        return [*visited, visited[-1] - stride]

    def check(steps_of):
        for n in range(1, 501):
            steps = steps_of(n, 500)
            assert len(steps) == n + 1 and steps[0] == 500 and steps[-1] == 0
            assert all(a > b >= 0 for a, b in zip(steps, steps[1:]))

    only_ours_passes(check, du.sampling_steps, faulty)
    assert len(faulty(30, 500)) - 1 == 32 and faulty(30, 500)[-1] < 0
    with pytest.raises(
        ValueError, match="t_prev"
    ):  # and no step accepts a wrapped index
        du.denoise_ddim(torch.zeros(1), 4, -12, torch.zeros(1), SCHEDULE)


def test_fault_07_pictures_rescaled_one_by_one_before_plotting():
    """One fixed map for all: a colour is shown the same in any company, and a flat channel is no NaN."""

    def faulty(x):
        low, high = x.amin((-2, -1), keepdim=True), x.amax((-2, -1), keepdim=True)
        return (x - low) / (high - low)

    def check(norm):
        x = torch.full((2, 3, 4, 4), 0.2)
        x[1, :, 0, 0] = torch.tensor([-1.0, 0.5, 2.0])  # beyond the range: clipped
        shown = norm(x)
        assert torch.isfinite(shown).all() and shown.min() >= 0 and shown.max() <= 1
        assert torch.equal(shown[0, :, 1, 1], shown[1, :, 1, 1])
        assert shown[0, :, 1, 1].tolist() == pytest.approx([0.6] * 3)

    only_ours_passes(check, du.norm_torch, faulty, lambda x: faulty(du.unorm(x)))
    check(du.unorm)
    check(lambda x: du.norm_all(x[None], 1, 2)[0])


def test_fault_08_plot_sample_with_one_row_one_column_or_rows_that_do_not_divide():
    """Whatever the rows, every picture is in every frame."""

    def faulty(store, n_sample, nrows, save_dir, fn, w):
        """As with plt.subplots: an array of axes whose dimension depends on the numbers, and a floor division for the columns."""
        ncols = n_sample // nrows
        _, axes = du.plt.subplots(nrows, ncols)
        du.plt.close()
        frame = np.ones((16 * nrows, 16 * ncols, 3))
        for row in range(nrows):
            for column in range(ncols):
                assert axes[row, column] is not None
                frame[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = store[
                    0, row * ncols + column
                ].transpose(1, 2, 0)
        return frame[None]

    def ours(*arguments):
        return du.plot_sample(*arguments).frames

    def check(plot):
        for n, rows in ((4, 1), (4, 4), (1, 1), (5, 2), (7, 3), (6, 2)):
            store = np.ones((1, n, 3, 16, 16), dtype=np.float32)
            store[0, np.arange(n), 0, 8, 8] = -1  # a cyan pixel in each
            frame = np.asarray(plot(store, n, rows, "", "", None))[0]
            assert ((frame[..., 0] <= 0) & (frame[..., 1] > 0)).sum() == n

    only_ours_passes(check, ours, faulty)
    with pytest.raises((IndexError, TypeError)):
        faulty(np.ones((1, 4, 3, 16, 16)), 4, 1, "", "", None)


@pytest.mark.parametrize("pool", [nn.AvgPool2d(4), None])
def test_fault_09_a_hard_coded_pooling_of_4(pool):
    """All that 4 divides from 8 to 64 works. A pooling of 4 fails at 8, 12 and 32; one without a kernel size cannot even be built."""

    def faulty(height):
        model = du.ContextUnet(1, 8, 2, height)
        model.to_vec = nn.Sequential(
            pool if pool is not None else nn.AvgPool2d(stride=2), nn.GELU()
        )
        return model

    def check(build):
        for height in (8, 12, 16, 28, 32, 64):
            x = torch.randn(1, 1, height, height)
            assert build(height).eval()(x, torch.tensor([0.5])).shape == x.shape

    only_ours_passes(check, lambda height: du.ContextUnet(1, 8, 2, height), faulty)


def test_fault_10_dataset_without_transform_and_context_without_its_argument(
    sprite_files,
):
    """`transform=None` gives the same tensors, and gen_tst_context has as many features as it is asked for."""
    files = sprite_files / "sprites_16x16.npy", sprite_files / "sprite_labels_16x16.npy"

    class Faulty(du.CustomDataset):
        def __getitem__(self, idx):
            return self.transform(self.sprites[idx]), torch.tensor(self.slabels[idx])

    def check(dataset_type):
        plain, known = (
            dataset_type(*files, None)[3],
            dataset_type(*files, du.transform)[3],
        )
        torch.testing.assert_close(plain[0], known[0])
        assert torch.equal(plain[1], known[1])

    only_ours_passes(check, du.CustomDataset, Faulty)

    def faulty_context(n_cfeat):
        return 36, torch.cat((torch.eye(5), torch.zeros(1, 5))).repeat(6, 1)

    def check_context(make):
        for n_cfeat in (5, 3, 10):
            assert make(n_cfeat)[1].shape == (36, n_cfeat)

    only_ours_passes(check_context, du.gen_tst_context, faulty_context)


def test_fault_11_a_random_split_of_repeated_pictures_leaks():
    """No picture of train is in test or compositional, or in train twice. A random split of pictures repeated 50 times shares them all."""
    train = du.load_sprites("train").images

    def ours():
        return train, np.concatenate(
            [du.load_sprites(part).images for part in ("test", "compositional")]
        )

    def faulty():
        shuffled = np.random.default_rng(0).permutation(
            np.repeat(train[:100], 50, axis=0)
        )
        return shuffled[:4500], shuffled[4500:]

    def check(split):
        seen, held_out = ([picture.tobytes() for picture in part] for part in split())
        assert len(set(seen)) == len(seen) and not set(seen) & set(held_out)

    only_ours_passes(check, ours, faulty)
    assert (
        len({p.tobytes() for p in faulty()[1]} - {p.tobytes() for p in faulty()[0]})
        == 0
    )


def test_fault_12_each_checkpoint_sampled_from_another_x_T():
    """Two equal models give equal rows, so what differs between rows is the weights."""
    model = du.ContextUnet(3, 8, 5, 8).eval()

    def sample(model, generator):
        return du.sample_ddpm(
            model,
            du.NoiseSchedule.linear(10),
            shape=(2, 3, 8, 8),
            generator=generator,
            keep=3,
        )

    def faulty(models, sample):
        return None, {label: sample(model, None)[0] for label, model in models.items()}

    def check(compare):
        _, samples = compare({"epoch 0": model, "epoch 31": model}, sample)
        assert torch.equal(samples["epoch 0"], samples["epoch 31"])

    only_ours_passes(check, du.compare_checkpoints, faulty)


def test_fault_12_an_epoch_that_was_not_saved_is_said(tmp_path):
    """Text, captions and code disagree on what was saved: here the error lists what there is."""
    for epoch in (0, 4, 31):
        (tmp_path / f"model_{epoch}.pth").touch()
        (tmp_path / f"context_model_{epoch}.pth").touch()
    with pytest.raises(
        FileNotFoundError,
        match=r"model_24.pth does not exist; in that folder: .*\bmodel_0.pth, model_31.pth, model_4.pth",
    ):
        du.load_weights(du.ContextUnet(3, 64, 5, 16), tmp_path / "model_24.pth")


def test_fault_13_context_dropout_trained_and_guidance_never_used():
    """What dropout trains is what `c=None` asks for, row by row, so that guidance can use it: (1 + w) with - w without context."""
    schedule, x0 = du.NoiseSchedule.linear(20), 0.1
    model = du.ContextUnet(3, 8, 5, 8).eval()
    x, t = torch.randn(4, 3, 8, 8), torch.rand(4)

    def elements(c, p, generator=None):
        """The faulty form: single features dropped, so that an empty row is hardly ever seen."""
        return c * (torch.rand(c.shape, generator=generator) >= p)

    def check(drop):
        c = torch.ones(2000, 5)
        empty = (
            (drop(c, 0.1, torch.Generator().manual_seed(0)) == 0)
            .all(1)
            .float()
            .mean()
            .item()
        )
        assert empty == pytest.approx(0.1, abs=0.03)

    only_ours_passes(check, du.drop_context, elements)
    with torch.no_grad():
        assert torch.equal(
            model(x, t, du.drop_context(torch.ones(4, 5), 1.0)), model(x, t)
        )

    def believes(
        x, t, c
    ):  # the label moves the one picture that this denoiser knows from 0 to 0.1
        ab = schedule.ab[(t * 20).round().long()].view(-1, 1, 1, 1).to(x)
        return (x - ab.sqrt() * (0 if c is None else x0)) / (1 - ab).sqrt()

    def guided(w):
        return lambda x, t, c: (1 + w) * believes(x, t, c) - w * believes(x, t, None)

    def check_guidance(make):
        samples, _ = du.sample_ddim(
            make(2.0), schedule, shape=(2, 3, 4, 4), context=torch.ones(2, 5), steps=10
        )
        torch.testing.assert_close(
            samples, torch.full_like(samples, 3 * x0), rtol=1e-3, atol=1e-3
        )

    only_ours_passes(check_guidance, guided, lambda w: believes)


class Line(nn.Module):
    """Predicts `weight * x`: a network whose gradient is known."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, c=None):
        return self.weight * x


def test_fault_14_backward_scaled_by_the_loss(monkeypatch):
    """One step of plain gradient descent moves the weight by the learning rate times the gradient, not times the loss as well."""
    monkeypatch.setattr(du, "has_fast_bf16", lambda device: False)
    x = torch.randn(64, 1, 4, 4)

    def faulty(model, batches, schedule, optimiser, generator):
        for x, _ in batches:
            loss = du.diffusion_loss(model, x, schedule, c=None, generator=generator)
            loss.backward(loss)
            optimiser.step()
            yield loss.item()

    def check(steps):
        model, reference = Line(), Line()
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        list(
            steps(
                model,
                iter([(x, None)]),
                SCHEDULE,
                optimiser,
                generator=torch.Generator().manual_seed(1),
            )
        )
        (gradient,) = torch.autograd.grad(
            du.diffusion_loss(
                reference,
                x,
                SCHEDULE,
                c=None,
                generator=torch.Generator().manual_seed(1),
            ),
            reference.weight,
        )
        assert model.weight.item() == pytest.approx(
            0.5 - 0.1 * gradient.item(), rel=1e-5
        )

    only_ours_passes(check, du.train_steps, faulty)


def test_fault_14_noise_added_at_the_last_step():
    """The step to 0 adds none, with either variance: z changes nothing."""

    def faulty(x, t, eps, schedule, z, variance):
        return (
            du.denoise_add_noise(x, t, eps, schedule, variance=variance)
            + float(schedule.b[t]) ** 0.5 * z
        )

    def ours(x, t, eps, schedule, z, variance):
        return du.denoise_add_noise(x, t, eps, schedule, z=z, variance=variance)

    def check(step):
        x, eps, z = torch.randn(3, 2, 3, 4, 4)
        for variance in ("beta", "beta_tilde"):
            assert torch.equal(
                step(x, 1, eps, SCHEDULE, z, variance),
                step(x, 1, eps, SCHEDULE, 0 * z, variance),
            )

    only_ours_passes(check, ours, faulty)
    x, eps, z = torch.randn(3, 2, 3, 4, 4)
    for t in (1, 60):  # a strided DDPM, and DDIM at eta = 1
        assert torch.equal(
            du.denoise_add_noise(x, t, eps, SCHEDULE, z=z, t_prev=0),
            du.denoise_add_noise(x, t, eps, SCHEDULE, z=0 * z, t_prev=0),
        )
        torch.testing.assert_close(
            du.denoise_ddim(x, t, 0, eps, SCHEDULE, eta=1.0, z=z),
            du.denoise_ddim(x, t, 0, eps, SCHEDULE, eta=1.0, z=0 * z),
            rtol=0,
            atol=0,
        )


def test_fault_14_dropout_left_on_while_sampling():
    """A network in training mode is sampled in eval mode: dropout is off, batch norm is neither used nor changed by the batch."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.dropout = nn.BatchNorm2d(3), nn.Dropout(0.5)

        def forward(self, x, t, c=None):
            return self.dropout(self.norm(x))

    def faulty(model, schedule, x_T, steps):
        x, visited = x_T, du.sampling_steps(steps, schedule.T)
        for t, t_prev in zip(visited, visited[1:]):
            with torch.no_grad():
                x = du.denoise_ddim(
                    x, t, t_prev, model(x, torch.tensor([t / schedule.T])), schedule
                )
        return x, None

    def check(sample):
        model, x_T = Net().train(), 3 * torch.randn(2, 3, 4, 4)
        one, two = (sample(model, SCHEDULE, x_T=x_T, steps=3)[0] for _ in range(2))
        assert (
            torch.equal(one, two)
            and model.norm.num_batches_tracked == 0
            and model.training
        )

    only_ours_passes(check, du.sample_ddim, faulty)


def other_devices() -> list[str]:
    return [
        device
        for device, there in (
            ("cuda", torch.cuda.is_available()),
            ("mps", torch.backends.mps.is_available()),
        )
        if there
    ]


def test_fault_14_schedule_tables_that_stay_on_the_cpu():
    """Tables follow x to its device, and t may lie on either. Its place shown on "meta" everywhere, the numbers where there is a GPU."""

    def faulty(x, t, noise, schedule):
        return (
            schedule.ab.sqrt()[t].view(-1, 1, 1, 1) * x
            + (1 - schedule.ab).sqrt()[t].view(-1, 1, 1, 1) * noise
        )

    def check(perturb):
        x, t = torch.randn(2, 3, 4, 4), torch.tensor([3, 400])
        out = perturb(x.to("meta"), t, x.to("meta"), SCHEDULE)
        assert (
            out.device.type == "meta" and out.shape == x.shape and out.dtype == x.dtype
        )
        for device in other_devices():
            for place in (device, "cpu"):
                moved = perturb(x.to(device), t.to(place), x.to(device), SCHEDULE)
                torch.testing.assert_close(moved.cpu(), perturb(x, t, x, SCHEDULE))

    only_ours_passes(check, du.perturb_input, faulty)


@pytest.mark.skipif(not other_devices(), reason="needs a GPU")
@pytest.mark.parametrize("device", other_devices())
def test_fault_14_samplers_and_training_run_on_a_gpu(device):
    """The same seed gives the same x_T and noise there, so nearly the same pictures; frames come back to the CPU."""
    model, schedule = du.ContextUnet(3, 8, 5, 8).eval(), du.NoiseSchedule.linear(20)
    for sample in (du.sample_ddim, du.sample_ddpm):
        drawn = []
        for place in ("cpu", device):
            generator = torch.Generator().manual_seed(1)
            x, frames = sample(
                model.to(place),
                schedule,
                (2, 3, 8, 8),
                context=torch.eye(5)[:2],
                steps=5,
                generator=generator,
            )
            assert x.device.type == place and frames.device.type == "cpu"
            drawn.append(x.cpu())
        torch.testing.assert_close(*drawn, rtol=0.02, atol=0.02)
    optimiser = torch.optim.Adam(model.parameters())
    batches = iter([(torch.randn(8, 3, 8, 8), torch.eye(5)[torch.arange(8) % 5])] * 2)
    assert (
        len(
            list(
                du.train_steps(
                    model,
                    batches,
                    schedule,
                    optimiser=optimiser,
                    p_drop=0.1,
                    average=du.average_weights(model),
                )
            )
        )
        == 2
    )


def test_fault_14_a_sampling_loop_that_reads_a_global_number_of_steps():
    """Two schedules of different length in one process each get their own number of steps."""

    def faulty(model, schedule, shape):
        return du.sample_ddpm(model, SCHEDULE, shape=shape)

    def check(sample):
        for T in (7, 20):
            calls = []

            def model(x, t, c, calls=calls):
                calls.append(t[0].item())
                return torch.zeros_like(x)

            sample(model, du.NoiseSchedule.linear(T), (1, 1, 2, 2))
            assert calls == pytest.approx([t / T for t in range(T, 0, -1)])

    only_ours_passes(check, du.sample_ddpm, faulty)


def test_fault_14_noise_scaled_by_the_variance_instead_of_its_root():
    """One step of the chain keeps unit variance in unit variance: a[t] + sigma^2 = 1 holds for sigma = sqrt(beta), not for beta."""

    def check(power):
        for t in (1, 100, 500):
            assert SCHEDULE.a[t].item() + (
                SCHEDULE.b[t].item() ** power
            ) ** 2 == pytest.approx(1, rel=1e-12)

    only_ours_passes(check, 0.5, 1.0)
    zero, one = (
        torch.zeros(1, 1, 1, 1, dtype=torch.float64),
        torch.ones(1, 1, 1, 1, dtype=torch.float64),
    )

    def faulty(x, t, eps, schedule, z):
        return du.denoise_add_noise(x, t, eps, schedule) + schedule.b[t] * z

    def check_step(step):
        for t in (2, 100, 500):
            assert step(zero, t, zero, SCHEDULE, one).item() ** 2 == pytest.approx(
                SCHEDULE.b[t].item(), rel=1e-9
            )

    only_ours_passes(check_step, du.denoise_add_noise, faulty)


def test_fault_14_a_product_that_runs_to_T_instead_of_t():
    """ab[t] falls step by step; the product of all alphas is one number for every t."""

    def check(ab):
        for t in (1, 2, 250, 500):
            assert ab(t) == pytest.approx(
                math.prod(SCHEDULE.a[1 : t + 1].tolist()), rel=1e-12
            )

    only_ours_passes(
        check,
        lambda t: SCHEDULE.ab[t].item(),
        lambda t: math.prod(SCHEDULE.a[1:].tolist()),
    )


def test_fault_14_skip_connections_are_last_in_first_out():
    """The first level up gets the last level down: first-in-first-out does not even fit in shape."""

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

    def check(kind):
        x = torch.rand(1, 1, 28, 28)
        assert kind()(x).shape == x.shape

    only_ours_passes(check, du.BasicUNet, Faulty)


def test_fault_14_a_u_net_that_is_four_plain_convolutions():
    """A U-Net sees wide and keeps detail: a pixel is heard 15 pixels away, and a silent bottleneck leaves the outer skip speaking."""

    def plain():
        layers = [
            nn.Conv2d(a, b, 5, padding=2) for a, b in ((1, 8), (8, 8), (8, 8), (8, 1))
        ]
        return nn.Sequential(*[layer for conv in layers for layer in (conv, nn.SiLU())])

    def check(build):
        model = build()
        x = torch.rand(1, 1, 32, 32, requires_grad=True)
        (gradient,) = torch.autograd.grad(model(x)[0, 0, 16, 16], x)
        assert gradient[0, 0, 1].abs().sum() > 0 and gradient[0, 0, 16, 16] != 0

    only_ours_passes(check, du.BasicUNet, plain)

    model = du.BasicUNet()
    for p in model.down_layers[1].parameters():
        nn.init.zeros_(p)
    assert model(torch.rand(1, 1, 16, 16)).std() > 0 and F.silu(torch.zeros(1)) == 0


def test_fault_15_saved_animations_of_two_megabytes(tmp_path):
    """Eight sprites in sixteen frames: the player is below 120 KiB though no frame repeats, the GIF below 400 KiB."""
    store = torch.randn(16, 8, 3, 16, 16).clamp(
        -1, 1
    )  # noise throughout: the worst case

    def faulty(animation):
        """As matplotlib's player does: each frame enlarged, in full colour, as base64."""
        buffer = io.BytesIO()
        for i in range(16):
            animation.picture(i).save(buffer, "PNG", compress_level=1)
        return base64.b64encode(buffer.getvalue())

    def check(to_html):
        assert len(to_html(du.plot_sample(store, 8, 1, "", "", None))) < 120 * 1024

    only_ours_passes(check, du.SpriteAnimation.to_jshtml, faulty)
    du.plot_sample(store, 8, 1, f"{tmp_path}/", "ani", 0, save=True)
    assert (tmp_path / "ani_w0.gif").stat().st_size < 400 * 1024
