"""The network that names colours: untrained it is the best denoiser of independent pixels, in closed form; what its loss is; what reaches it."""

import numpy as np
import pytest
import torch

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear()
COLOURS = np.array([[0, 0, 0], [255, 255, 255], [200, 30, 40], [20, 90, 250]], np.uint8)
SHARES = np.array([0.5, 0.3, 0.15, 0.05])


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """8x8 pictures in four colours with exactly these shares of the pixels."""
    index = np.repeat(np.arange(4), (SHARES * 20 * 64).astype(int))
    return COLOURS[np.random.default_rng(0).permutation(index)].reshape(20, 8, 8, 3)


@pytest.fixture
def model(images) -> du.PaletteNet:
    torch.manual_seed(0)
    return du.PaletteNet(images, SCHEDULE, width=16, slots=3).eval()


def mean_colours(x_t: np.ndarray, t: int) -> np.ndarray:
    """E[x_0 | x_t] of pixels (N, 3) that are drawn one by one from the palette: Bayes' rule, in float64."""
    ab, palette = float(SCHEDULE.ab[t]), COLOURS / 127.5 - 1
    log = np.log(SHARES) - np.square(x_t[:, None] - ab**0.5 * palette).sum(2) / 2 / (
        1 - ab
    )
    weights = np.exp(log - log.max(1, keepdims=True))
    return weights @ palette / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("t", [1, 20, 100, 250, 500])
def test_untrained_it_is_the_best_denoiser_of_independent_pixels(model, images, t):
    x = du.to_model_range(images)
    x_t = du.perturb_input(
        x, t, torch.randn(x.shape, generator=torch.Generator().manual_seed(t)), SCHEDULE
    )
    with torch.no_grad():
        noise = model(x_t, torch.tensor([t / SCHEDULE.T]))
    pixels = x_t.movedim(1, -1).reshape(-1, 3).double().numpy()
    expected = (
        torch.from_numpy(mean_colours(pixels, t))
        .view(20, 8, 8, 3)
        .movedim(-1, 1)
        .float()
    )
    torch.testing.assert_close(
        du.predict_x0(x_t, t, noise, SCHEDULE), expected, atol=2e-4, rtol=0
    )


@pytest.mark.parametrize("t", [20, 250])
def test_trust_is_a_power_of_what_the_picture_says(images, t):
    """Untrained the picture says how common colours are: with trust Bayes' rule has these shares to the power of 1 + trust alpha-bar^2."""
    torch.manual_seed(0)
    model, x = (
        du.PaletteNet(images, SCHEDULE, width=16, slots=3, trust=4.0).eval(),
        du.to_model_range(images),
    )
    x_t = du.perturb_input(
        x, t, torch.randn(x.shape, generator=torch.Generator().manual_seed(t)), SCHEDULE
    )
    ab, palette, pixels = (
        float(SCHEDULE.ab[t]),
        COLOURS / 127.5 - 1,
        x_t.movedim(1, -1).reshape(-1, 3).double().numpy(),
    )
    weights = SHARES ** (1 + 4 * ab**2) * np.exp(
        -np.square(pixels[:, None] - ab**0.5 * palette).sum(2) / 2 / (1 - ab)
    )
    expected = (
        torch.from_numpy(weights @ palette / weights.sum(1, keepdims=True))
        .view(20, 8, 8, 3)
        .movedim(-1, 1)
        .float()
    )
    step = torch.tensor([t / SCHEDULE.T])
    with torch.no_grad():
        torch.testing.assert_close(
            du.predict_x0(x_t, t, model(x_t, step), SCHEDULE),
            expected,
            atol=2e-4,
            rtol=0,
        )
        with_trust, model.trust = model.loss(x_t, step, None, x), 0.0
        assert torch.equal(
            with_trust, model.loss(x_t, step, None, x)
        )  # training knows nothing of it


def test_its_loss_is_the_cross_entropy_of_the_right_colour(model, images):
    """Against Bayes' probabilities by hand, pixel by pixel; `diffusion_loss` asks for it, and weighs it where it is told to."""
    x, t, generator = (
        du.to_model_range(images[:6]),
        200,
        torch.Generator().manual_seed(3),
    )
    x_t = du.perturb_input(x, t, torch.randn(x.shape, generator=generator), SCHEDULE)
    wrong = model.loss(x_t, torch.full((6,), t / 500), None, x)
    ab, palette = float(SCHEDULE.ab[t]), torch.from_numpy(COLOURS / 127.5 - 1)
    log = torch.from_numpy(SHARES).log() - (
        x_t.movedim(1, -1)[..., None, :] - ab**0.5 * palette
    ).square().sum(-1) / 2 / (1 - ab)
    right = torch.from_numpy((images[:6, :, :, None] == COLOURS).all(-1))
    torch.testing.assert_close(
        wrong.view(6, 8, 8),
        -log.log_softmax(-1)[right].view(6, 8, 8).float(),
        atol=1e-4,
        rtol=1e-4,
    )
    plain, weighted = (
        du.diffusion_loss(
            model,
            x,
            SCHEDULE,
            c=None,
            generator=torch.Generator().manual_seed(1),
            min_snr=gamma,
        )
        for gamma in (None, 1e9)
    )
    torch.testing.assert_close(plain, weighted)
    steps = torch.randint(1, 501, (6,), generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    torch.randint(1, 501, (6,), generator=generator)
    x_t = du.perturb_input(
        x, steps, torch.randn(x.shape, generator=generator), SCHEDULE
    )
    each = model.loss(x_t, steps / 500, None, x)
    torch.testing.assert_close(plain, each.mean())
    least = du.diffusion_loss(
        model,
        x,
        SCHEDULE,
        c=None,
        generator=torch.Generator().manual_seed(1),
        min_snr=0.5,
    )
    torch.testing.assert_close(
        least, ((0.5 / SCHEDULE.snr[steps]).clamp(max=1).float()[:, None] * each).mean()
    )


def test_the_perceptron_reads_the_same_probabilities(model, images):
    """What is embedded for it is each pixel's own Bayes answer, prior included: the untrained network's."""
    seen = []
    model.embed.register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[0])
    )
    with torch.no_grad():
        expected = model.logits(
            torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2)),
            torch.tensor(0.4),
        ).softmax(2)
    torch.testing.assert_close(seen[0], expected)


def trained_a_little(model: du.PaletteNet) -> du.PaletteNet:
    """What starts at zero gets some weight, so that everything reaches the output."""
    for weights in (model.own.weight, model.rows.weight, model.rows.bias):
        torch.nn.init.normal_(
            weights, std=0.1, generator=torch.Generator().manual_seed(4)
        )
    return model


def test_trust_multiplies_all_that_the_picture_says_at_each_step_in_its_own_measure(
    model, images
):
    """Once it has learnt: its log-probabilities less the pixel's own evidence (in float64) grow to 1 + trust alpha-bar^2, for three steps at once."""
    x, steps = du.to_model_range(images[:3]), torch.tensor([20, 100, 250])
    x_t = du.perturb_input(
        x,
        steps,
        torch.randn(x.shape, generator=torch.Generator().manual_seed(9)),
        SCHEDULE,
    )
    ab, palette = (
        SCHEDULE.ab[steps].view(3, 1, 1),
        torch.from_numpy(np.unique(COLOURS, axis=0) / 127.5 - 1),
    )  # in numerical order
    evidence = (
        -(x_t.flatten(2).mT[:, :, None] - ab[..., None] ** 0.5 * palette)
        .square()
        .sum(-1)
        / 2
        / (1 - ab)
    )
    with torch.no_grad():
        plain, trusting = (
            trained_a_little(model)
            .logits(x_t, steps / 500, torch.eye(5)[:3], trust)
            .double()
            for trust in (0.0, 4.0)
        )
    expected = evidence + (1 + 4 * ab**2) * (plain - evidence)
    torch.testing.assert_close(
        trusting.log_softmax(2), expected.log_softmax(2), atol=1e-3, rtol=1e-4
    )


def test_every_parameter_learns(model, images):
    du.diffusion_loss(
        trained_a_little(model),
        du.to_model_range(images),
        SCHEDULE,
        c=torch.eye(5)[torch.arange(20) % 5],
    ).backward()
    assert not [
        name
        for name, p in model.named_parameters()
        if p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.any()
    ]


def test_time_shapes_mean_the_same_and_context_reaches_the_output(model):
    x, c = (
        torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(5)),
        torch.eye(5)[:3],
    )
    with torch.no_grad():
        expected = trained_a_little(model)(x, torch.full((3,), 0.3), c)
        for t in (
            torch.full((3, 1), 0.3),
            torch.full((3, 1, 1, 1), 0.3),
            torch.tensor(0.3),
            torch.tensor([0.3]),
        ):
            assert torch.equal(model(x, t, c), expected)
        assert not torch.allclose(model(x, torch.tensor(0.3)), expected, atol=1e-4)
        assert torch.equal(
            model(x, torch.tensor(0.3), torch.zeros(3, 5)), model(x, torch.tensor(0.3))
        )
        assert not torch.allclose(model(x, torch.tensor(0.31), c), expected, atol=1e-4)


def test_every_pixel_sees_the_whole_picture(model):
    """One pixel changes: the prediction does at every other."""
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(6))
    other = x.clone()
    other[0, :, 0, 0] += 1
    with torch.no_grad():
        change = (
            (
                trained_a_little(model)(x, torch.tensor(0.4))
                - model(other, torch.tensor(0.4))
            )
            .abs()
            .amax(1)
        )
    assert (change > 0).all()


def test_in_bfloat16_its_evidence_stays_in_float32(model, images):
    """At t = 1 the logs of the likelihoods run into the ten thousands: rounded to bfloat16 they would be wrong by tens."""
    x = du.to_model_range(images)
    noisy = du.perturb_input(
        x, 1, torch.randn(x.shape, generator=torch.Generator().manual_seed(7)), SCHEDULE
    )
    with torch.no_grad():
        expected, noise = (
            model.logits(noisy, torch.tensor(1 / 500)),
            trained_a_little(model)(noisy, torch.tensor(1 / 500)),
        )
        with torch.autocast("cpu", torch.bfloat16):
            rounded, rounded_noise = (
                model.logits(noisy, torch.tensor(1 / 500)),
                model(noisy, torch.tensor(1 / 500)),
            )
    torch.testing.assert_close(rounded, expected, atol=5, rtol=1e-6)
    torch.testing.assert_close(rounded_noise, noise, atol=1e-3, rtol=0)


def test_wrong_sizes_are_named(model):
    with pytest.raises(
        ValueError,
        match=r"x has shape \(2, 3, 16, 16\); expected \(B, 3, 8, 8\), the size of the training pictures",
    ):
        model(torch.zeros(2, 3, 16, 16), torch.tensor(0.5))
    with pytest.raises(
        ValueError,
        match=r"c has shape \(2, 4\); expected \(2, 5\), one-hot for labels: set n_cfeat= when you build it",
    ):
        model(torch.zeros(2, 3, 8, 8), torch.tensor(0.5), torch.zeros(2, 4))


def test_pictures_that_are_no_pixel_art_are_refused(images):
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    for wrong in (noise, du.to_model_range(images).numpy(), images.astype(float)):
        with pytest.raises(
            ValueError,
            match=r"images: \w+ \(.*\), \d+ colours; expected uint8 \(N, H, W, 3\), 1024 at most",
        ):
            du.PaletteNet(wrong, SCHEDULE)


def test_t_is_checked_and_0_counts_as_the_first_step(model):
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(model(x, torch.tensor(0.0)), model(x, torch.tensor(1 / 500)))
        for wrong in (torch.tensor(200.0), torch.tensor([0.5, -0.1])):
            with pytest.raises(ValueError, match="expected 0 to T = 500"):
                model(x, wrong)


def test_an_average_of_it_has_the_same_loss(model, images):
    """`AveragedModel` hides the network's own methods: its loss must still be the colours', not the squared error."""
    average, x = du.average_weights(model), du.to_model_range(images)
    one, other = (
        du.diffusion_loss(
            some, x, SCHEDULE, c=None, generator=torch.Generator().manual_seed(1)
        )
        for some in (model, average)
    )
    assert torch.equal(one, other)


def test_weights_come_back_through_half_precision(model, images, tmp_path):
    """What is rebuilt from the pictures and the schedule is not in the file, where half precision would round it."""
    du.save_weights(trained_a_little(model), tmp_path / "some.pth")
    again = du.load_weights(
        du.PaletteNet(images, SCHEDULE, width=16, slots=3), tmp_path / "some.pth"
    )
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        torch.testing.assert_close(
            again(x, torch.tensor(0.4)), model(x, torch.tensor(0.4)), atol=5e-3, rtol=0
        )
    assert all(
        torch.equal(one, other) for one, other in zip(model.buffers(), again.buffers())
    )


def test_numbers_that_a_cpu_is_slow_with_count_as_zero():
    """The helper asks for it at import; not every processor can."""
    assert float(torch.tensor(1e-30) * 1e-10) == 0 or not torch.set_flush_denormal(True)
