"""The network that names colours: what it computes untrained, and how it is trained.

Untrained it is the best denoiser of independent pixels, which is a closed formula.
"""

import numpy as np
import pytest
import torch

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear()
COLOURS = np.array([[0, 0, 0], [255, 255, 255], [200, 30, 40], [20, 90, 250]], np.uint8)
PALETTE = COLOURS / 127.5 - 1
SHARES = np.array([0.5, 0.3, 0.15, 0.05])


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """20 pictures of 8x8 pixels in four colours that have exactly these shares."""
    counts = (SHARES * 20 * 64).astype(int)
    index = np.repeat(np.arange(4), counts)
    shuffled = np.random.default_rng(0).permutation(index)
    return COLOURS[shuffled].reshape(20, 8, 8, 3)


def build(images: np.ndarray, **options) -> du.PaletteNet:
    return du.PaletteNet(images, SCHEDULE, width=16, slots=3, **options).eval()


@pytest.fixture
def model(images) -> du.PaletteNet:
    return build(images)


def seeded_noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


def noisy(x: torch.Tensor, t, seed: int) -> torch.Tensor:
    """The pictures x at step t, or each at its own step."""
    return du.perturb_input(x, t, seeded_noise(x.shape, seed), SCHEDULE)


def as_pixels(pictures: torch.Tensor) -> np.ndarray:
    """(B, 3, H, W) to (B H W, 3) in float64."""
    return pictures.movedim(1, -1).reshape(-1, 3).double().numpy()


def log_likelihoods(pixels: np.ndarray, t: int) -> np.ndarray:
    """log p(x_t | colour) of pixels (N, 3), less a constant: (N, 4)."""
    ab = float(SCHEDULE.ab[t])
    differences = pixels[:, None] - ab**0.5 * PALETTE
    return -np.square(differences).sum(2) / (2 * (1 - ab))


def mean_colours(pixels: np.ndarray, t: int, power: float = 1) -> np.ndarray:
    """E[x_0 | x_t] by Bayes' rule, of pixels (N, 3) drawn one by one from the palette.

    The prior is the shares to this power.
    """
    log = power * np.log(SHARES) + log_likelihoods(pixels, t)
    weights = np.exp(log - log.max(1, keepdims=True))
    return weights @ PALETTE / weights.sum(1, keepdims=True)


def implied_colours(model: du.PaletteNet, x_t: torch.Tensor, t: int) -> np.ndarray:
    """The clean pixels (N, 3) that the predicted noise implies."""
    time = torch.tensor([t / SCHEDULE.T])
    with torch.no_grad():
        noise = model(x_t, time)
    return as_pixels(du.predict_x0(x_t, t, noise, SCHEDULE))


@pytest.mark.parametrize("t", [1, 20, 100, 250, 500])
def test_untrained_it_is_the_best_denoiser_of_independent_pixels(model, images, t):
    x_t = noisy(du.to_model_range(images), t, seed=t)
    expected = mean_colours(as_pixels(x_t), t)
    found = implied_colours(model, x_t, t)
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("t", [20, 250])
def test_trust_raises_the_shares_to_a_power(images, t):
    """Untrained, the picture only says how common the colours are.

    With trust these shares count to the power of 1 + trust alpha-bar^2.
    """
    model = build(images, trust=4.0)
    x_t = noisy(du.to_model_range(images), t, seed=t)
    power = 1 + 4 * float(SCHEDULE.ab[t]) ** 2
    expected = mean_colours(as_pixels(x_t), t, power)
    found = implied_colours(model, x_t, t)
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=0)


def test_training_knows_nothing_of_trust(images):
    model = build(images, trust=4.0)
    x = du.to_model_range(images)
    x_t = noisy(x, 20, seed=20)
    time = torch.tensor([20 / SCHEDULE.T])
    with_trust = model.loss(x_t, time, None, x)
    model.trust = 0.0
    without = model.loss(x_t, time, None, x)
    assert torch.equal(with_trust, without)


def test_its_loss_is_the_cross_entropy_of_the_right_colour(model, images):
    """Against Bayes' probabilities in float64, pixel by pixel."""
    t = 200
    x = du.to_model_range(images[:6])
    x_t = noisy(x, t, seed=3)
    log = np.log(SHARES) + log_likelihoods(as_pixels(x_t), t)
    log_probabilities = torch.from_numpy(log).log_softmax(1)
    pixels = images[:6].reshape(-1, 1, 3)
    right = (pixels == COLOURS).all(2)
    expected = -log_probabilities[torch.from_numpy(right)].float()
    found = model.loss(x_t, torch.full((6,), t / SCHEDULE.T), None, x)
    torch.testing.assert_close(found.flatten(), expected, atol=1e-4, rtol=1e-4)


def training_loss(model, x: torch.Tensor, **options) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return du.diffusion_loss(model, x, SCHEDULE, c=None, generator=generator, **options)


def test_diffusion_loss_asks_for_it_and_weighs_it(model, images):
    x = du.to_model_range(images[:6])
    generator = torch.Generator().manual_seed(1)
    steps = torch.randint(1, SCHEDULE.T + 1, (6,), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    x_t = du.perturb_input(x, steps, noise, SCHEDULE)
    error = model.loss(x_t, steps / SCHEDULE.T, None, x)
    weights = (0.5 / SCHEDULE.snr[steps]).clamp(max=1).float()
    weighted = weights[:, None] * error
    torch.testing.assert_close(training_loss(model, x), error.mean())
    torch.testing.assert_close(training_loss(model, x, min_snr=1e9), error.mean())
    torch.testing.assert_close(training_loss(model, x, min_snr=0.5), weighted.mean())


def test_the_perceptron_reads_the_same_probabilities(model):
    """It is given each pixel's own Bayes answer: that of the untrained network."""
    seen = []
    model.embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x_t = seeded_noise((4, 3, 8, 8), seed=2)
    with torch.no_grad():
        logits = model.logits(x_t, torch.tensor(0.4))
    torch.testing.assert_close(seen[0], logits.softmax(2))


def trained_a_little(model: du.PaletteNet) -> du.PaletteNet:
    """Weights that start at zero get random values, so that all reaches the output."""
    for weights in (model.own.weight, model.rows.weight, model.rows.bias):
        generator = torch.Generator().manual_seed(4)
        torch.nn.init.normal_(weights, std=0.1, generator=generator)
    return model


def own_evidence(x_t: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """log p(x_t | colour), less a constant, in float64: (B, H W, colours).

    The colours are in numerical order, as the network keeps them.
    """
    ab = SCHEDULE.ab[steps].view(-1, 1, 1, 1)
    palette = torch.from_numpy(np.unique(COLOURS, axis=0) / 127.5 - 1)
    pixels = x_t.flatten(2).mT[:, :, None]
    squares = (pixels - ab.sqrt() * palette).square().sum(-1)
    return -squares / (2 * (1 - ab[..., 0]))


def test_trust_multiplies_what_the_picture_says_at_each_step(model, images):
    """Of a trained network, too: all but the pixel's own evidence is multiplied.

    The factor is 1 + trust alpha-bar^2, here for three steps at once.
    """
    trained_a_little(model)
    steps = torch.tensor([20, 100, 250])
    x_t = noisy(du.to_model_range(images[:3]), steps, seed=9)
    time = steps / SCHEDULE.T
    c = torch.eye(5)[:3]
    with torch.no_grad():
        plain = model.logits(x_t, time, c, 0.0).double()
        trusting = model.logits(x_t, time, c, 4.0).double()
    evidence = own_evidence(x_t, steps)
    factor = 1 + 4 * SCHEDULE.ab[steps].view(-1, 1, 1) ** 2
    expected = evidence + factor * (plain - evidence)
    torch.testing.assert_close(
        trusting.log_softmax(2), expected.log_softmax(2), atol=1e-3, rtol=1e-4
    )


def test_every_parameter_learns(model, images):
    trained_a_little(model)
    x = du.to_model_range(images)
    labels = torch.arange(20) % 5
    du.diffusion_loss(model, x, SCHEDULE, c=torch.eye(5)[labels]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_time_shapes_mean_the_same(model):
    trained_a_little(model)
    x = seeded_noise((3, 3, 8, 8), seed=5)
    c = torch.eye(5)[:3]
    with torch.no_grad():
        expected = model(x, torch.full((3,), 0.3), c)
        for shape in ((3, 1), (3, 1, 1, 1), (), (1,)):
            assert torch.equal(model(x, torch.full(shape, 0.3), c), expected)


def test_time_and_context_reach_the_output(model):
    trained_a_little(model)
    x = seeded_noise((3, 3, 8, 8), seed=5)
    c = torch.eye(5)[:3]
    time = torch.tensor(0.3)
    later = torch.tensor(0.31)
    with torch.no_grad():
        expected = model(x, time, c)
        without = model(x, time)
        assert torch.equal(model(x, time, torch.zeros(3, 5)), without)
        assert not torch.allclose(without, expected, atol=1e-4)
        assert not torch.allclose(model(x, later, c), expected, atol=1e-4)


def test_every_pixel_sees_the_whole_picture(model):
    """When one pixel changes, the prediction changes at every other."""
    trained_a_little(model)
    x = seeded_noise((1, 3, 8, 8), seed=6)
    other = x.clone()
    other[0, :, 0, 0] += 1
    time = torch.tensor(0.4)
    with torch.no_grad():
        change = model(x, time) - model(other, time)
    assert (change.abs().amax(1) > 0).all()


def test_in_bfloat16_its_evidence_stays_in_float32(model, images):
    """At t = 1 the log-likelihoods are in the ten thousands.

    Rounded to bfloat16 they would be wrong by tens.
    """
    trained_a_little(model)
    x_t = noisy(du.to_model_range(images), 1, seed=7)
    time = torch.tensor(1 / SCHEDULE.T)
    with torch.no_grad():
        logits = model.logits(x_t, time)
        noise = model(x_t, time)
        with torch.autocast("cpu", torch.bfloat16):
            rounded_logits = model.logits(x_t, time)
            rounded_noise = model(x_t, time)
    torch.testing.assert_close(rounded_logits, logits, atol=5, rtol=1e-6)
    torch.testing.assert_close(rounded_noise, noise, atol=1e-3, rtol=0)


def test_wrong_sizes_are_named(model):
    time = torch.tensor(0.5)
    expected = r"x has shape \(2, 3, 16, 16\); expected the size .*\(3, 8, 8\)"
    with pytest.raises(ValueError, match=expected):
        model(torch.zeros(2, 3, 16, 16), time)
    expected = r"context has shape \(2, 4\); expected \(2, 5\), one row for each"
    with pytest.raises(ValueError, match=expected):
        model(torch.zeros(2, 3, 8, 8), time, torch.zeros(2, 4))


def test_pictures_that_are_no_pixel_art_are_refused(images):
    shape = (8, 16, 16, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    colours = r"images: uint8 \(.*\), 20\d\d colours; expected .* 1024 at most"
    with pytest.raises(ValueError, match=colours):
        du.PaletteNet(noise, SCHEDULE)
    kind = r"images: .*; expected uint8 \(N, H, W, 3\), N at least 1"
    in_model_range = du.to_model_range(images).numpy()
    for wrong in (in_model_range, images.astype(float), images[:0]):
        with pytest.raises(ValueError, match=kind):
            du.PaletteNet(wrong, SCHEDULE)


def test_step_0_counts_as_the_first_step(model):
    x = torch.randn(2, 3, 8, 8)
    first = torch.tensor(1 / SCHEDULE.T)
    with torch.no_grad():
        assert torch.equal(model(x, torch.tensor(0.0)), model(x, first))


@pytest.mark.parametrize("time", [200.0, [0.5, -0.1]])
def test_times_outside_the_schedule_are_refused(model, time):
    with pytest.raises(ValueError, match="expected t = step / T, from 0 to 1"):
        model(torch.randn(2, 3, 8, 8), torch.tensor(time))


def test_an_average_of_it_has_the_same_loss(model, images):
    """`AveragedModel` hides the network's methods, but it is still trained by colours.

    The squared error of the noise would be another number.
    """
    average = du.average_weights(model)
    x = du.to_model_range(images)
    assert torch.equal(training_loss(average, x), training_loss(model, x))


def test_weights_come_back_through_half_precision(model, images, tmp_path):
    """The tables are rebuilt, so that half precision in the file can't round them."""
    path = tmp_path / "some.pth"
    du.save_weights(trained_a_little(model), path)
    again = du.load_weights(build(images), path)
    x = seeded_noise((4, 3, 8, 8), seed=8)
    time = torch.tensor(0.4)
    with torch.no_grad():
        torch.testing.assert_close(again(x, time), model(x, time), atol=5e-3, rtol=0)
    for one, other in zip(model.buffers(), again.buffers()):
        assert torch.equal(one, other)


def test_numbers_that_a_cpu_is_slow_with_count_as_zero():
    """The helper asks for it when it is imported, but not every processor can."""
    product = float(torch.tensor(1e-30) * 1e-10)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    assert product == 0
