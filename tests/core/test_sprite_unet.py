"""`SpriteUnet`: the network that draws by class, by factors or by caption."""

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear()
CAPTIONS = du.sprite_captions()
PALETTE = du.sprite_palette()
SMALL = {"channels": (16, 24, 32), "width": 32, "reader_width": 32}


def network(seed: int = 0, **sizes) -> du.SpriteUnet:
    """A small network in eval mode, in which no layer is zero."""
    torch.manual_seed(seed)
    palette = sizes.pop("palette", PALETTE)
    model = du.SpriteUnet(SCHEDULE, palette, **{**SMALL, **sizes}).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def pictures(n: int = 4, channels: int = 3, side: int = 16) -> torch.Tensor:
    return torch.randn(
        n, channels, side, side, generator=torch.Generator().manual_seed(1)
    )


def words(*texts: str) -> torch.Tensor:
    return torch.from_numpy(CAPTIONS.encode(texts))


@torch.no_grad()
def test_the_usual_network_knows_the_columns_and_the_words_of_the_grammar():
    model = du.SpriteUnet(SCHEDULE, PALETTE)
    assert model.n_cfeat == len(du.sprite_scoring().factor_columns())
    assert model.reader.word.num_embeddings == len(CAPTIONS.vocabulary())
    assert model.max_words == CAPTIONS.MAX_WORDS
    half_precision = 2 * du.count_parameters(model)
    assert half_precision <= 4 * 2**20


@torch.no_grad()
@pytest.mark.parametrize("channels", (3, 4))
@pytest.mark.parametrize("side", (8, 12, 16, 32))
def test_it_takes_pictures_of_many_sizes(channels, side):
    x = pictures(2, channels, side)
    palette = torch.rand(7, channels)
    noise = network(palette=palette)(x, 0.5)
    assert noise.shape == x.shape
    assert noise.isfinite().all()


@pytest.mark.parametrize("shape", ((2, 3, 18, 18), (2, 1, 16, 16), (3, 16, 16)))
def test_other_pictures_are_refused(shape):
    with pytest.raises(ValueError, match="expected .B, 3, H, W."):
        network()(torch.zeros(shape), 0.5)


@torch.no_grad()
@pytest.mark.parametrize("step", (1, 250, 500))
def test_its_noise_implies_the_picture_that_it_believes(step):
    model = network()
    x = pictures()
    context = words("a red slime", "", "a hero", "cheese")
    ab = SCHEDULE.ab[step].float().expand(4, 1)
    believed = model.picture(x, ab, model.read(context))
    noise = model(x, step / 500, context)
    implied = du.predict_x0(x, step, noise, SCHEDULE)
    assert torch.allclose(implied, believed, atol=2e-3)


@torch.no_grad()
def test_all_ways_to_ask_for_nothing_give_the_same():
    model = network()
    x = pictures()
    nothing = model(x, 0.5)
    for context in (torch.zeros(4, 175), torch.zeros(1, 5), words("", "", "", "")):
        assert torch.allclose(model(x, 0.5, context), nothing, atol=1e-5)


@torch.no_grad()
def test_rows_and_captions_matter():
    model = network()
    x = pictures(1)
    row = torch.eye(175)[:1]
    answers = [
        model(x, 0.5),
        model(x, 0.5, row),
        model(x, 0.5, 0.5 * row),
        model(x, 0.5, words("a red robe, green hair")),
        model(x, 0.5, words("a green robe, red hair")),
        model(x, 0.5, words("an unheardof word")),
    ]
    for i, one in enumerate(answers):
        for other in answers[:i]:
            assert (one - other).abs().max() > 1e-4


@torch.no_grad()
def test_a_row_of_the_class_alone_is_filled_up():
    model = network()
    x = pictures()
    row = torch.zeros(4, 175)
    row[:, 2] = 1
    assert torch.equal(model(x, 0.5, row[:, :5]), model(x, 0.5, row))


@torch.no_grad()
def test_a_rows_columns_become_words_and_their_sum_fills_the_other_places():
    model = network()
    row = torch.zeros(1, 175)
    row[0, 3] = 1
    row[0, 90] = 0.5
    vectors = model.columns.weight.T
    read = model.read(row)
    assert read.shape == (1, 16, 32)
    torch.testing.assert_close(read[0, 0], vectors[3])
    torch.testing.assert_close(read[0, 1], 0.5 * vectors[90])
    whole = vectors[3] + 0.5 * vectors[90]
    for place in read[0, 2:]:
        torch.testing.assert_close(place, whole)


@torch.no_grad()
def test_an_empty_row_has_no_words():
    assert not network().read(torch.zeros(2, 175)).any()


def test_a_context_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="at most 175 numbers, or captions of 40"):
        network()(pictures(), 0.5, torch.zeros(4, 176))


@torch.no_grad()
def test_pictures_do_not_see_each_other():
    model = network()
    x = pictures()
    context = words("a red slime", "", "a hero with a crown", "cheese")
    together = model(x, 0.5, context)
    for i in range(4):
        alone = model(x[i : i + 1], 0.5, context[i : i + 1])
        assert torch.allclose(alone, together[i : i + 1], atol=1e-4)


@torch.no_grad()
def test_its_loss_is_the_error_of_the_velocity_on_the_straight_path():
    model = network()
    clean = pictures().clamp(-1, 1)
    noise = torch.randn_like(clean)
    step = 100
    x_t = du.perturb_input(clean, step, noise, SCHEDULE)
    share = float(du.straight_share(SCHEDULE.ab[step]))
    on_path = share * clean + (1 - share) * noise
    ab = SCHEDULE.ab[step].float().expand(4, 1)
    believed = model.picture(x_t, ab, model.read(torch.zeros(4, 175)))
    velocity = (believed - on_path) / (1 - share)
    expected = (velocity - (clean - noise)).square()
    loss = model(x_t, step / 500, None, clean=clean)
    assert torch.allclose(loss, expected, rtol=1e-3, atol=1e-4)


def test_it_learns_from_rows_and_from_captions():
    torch.manual_seed(0)
    model = du.SpriteUnet(SCHEDULE, PALETTE, **SMALL)
    x = du.load_sprites("test").x[:8]
    contexts = (torch.eye(175)[:8], words(*["a hero"] * 8))

    def losses():
        found = []
        for c in contexts:
            g = torch.Generator().manual_seed(1)
            eight_times = x.repeat(8, 1, 1, 1)
            loss = du.diffusion_loss(
                model, eight_times, SCHEDULE, c=c.repeat(8, 1), generator=g
            )
            found.append(float(loss))
        return found

    before = losses()
    batches = ((x, contexts[i % 2]) for i in range(60))
    optimiser = du.Muon(model.named_parameters(), adam=("stem", "out"))
    steps = du.train_steps(model, batches, SCHEDULE, optimiser=optimiser, p_drop=0.1)
    assert len(list(steps)) == 60
    for first, last in zip(before, losses()):
        assert last < 0.8 * first


@torch.no_grad()
@pytest.mark.parametrize("context", (torch.eye(175)[:2], words("a red hero", "")))
def test_it_is_exported_to_onnx_and_says_the_same_there(context):
    model = network(channels=(8, 8, 8))
    inputs = (pictures(2, side=8), torch.tensor([0.2, 0.9]), context.float())
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            inputs,
            file,
            dynamo=False,
            opset_version=17,
            input_names=["x", "t", "context"],
            dynamic_axes={name: {0: "n"} for name in ("x", "t", "context")},
        )
    exported = onnx.load_from_string(file.getvalue())
    onnx.checker.check_model(exported)
    rows = context.float()[[0, 1, 0]]
    others = (pictures(3, side=8), torch.tensor([0.0, 0.5, 1.0]), rows)
    feed = {name: each.numpy() for name, each in zip(("x", "t", "context"), others)}
    (said,) = ReferenceEvaluator(exported).run(None, feed)
    assert np.allclose(said, model(*others).numpy(), atol=1e-3)


# ---- The straight path ---------------------------------------------------------------


def test_the_shares_of_picture_and_noise_add_up_to_one_after_rescaling():
    ab = SCHEDULE.ab[1:]
    share = du.straight_share(ab)
    ratio = (ab / (1 - ab)).sqrt()
    assert torch.allclose(share / (1 - share), ratio)


@pytest.mark.parametrize("n", (1, 2, 5, 10, 20, 50, 499, 500))
def test_straight_steps_lead_from_T_to_0_and_never_rest(n):
    steps = du.straight_steps(SCHEDULE, n)
    assert steps[0] == 500
    assert steps[-1] == 0
    assert len(steps) == n + 1
    assert (np.diff(steps) < 0).all()


def test_few_straight_steps_are_even():
    shares = du.straight_share(SCHEDULE.ab[du.straight_steps(SCHEDULE, 10)])
    strides = shares.diff()
    assert strides.max() < 1.1 * strides.min()


def drawn_logits(schedule, n: int = 400_000, **asked) -> torch.Tensor:
    """The logits of the picture's share in n steps, drawn as `straight_frequencies`."""
    frequencies = du.straight_frequencies(schedule, **asked)
    generator = torch.Generator().manual_seed(1)
    steps = torch.multinomial(frequencies, n, True, generator=generator)
    return torch.logit(du.straight_share(schedule.ab[steps].double()))


@pytest.mark.parametrize("T", (500, 1000))
@pytest.mark.parametrize("mean, spread", ((0.0, 0.5), (-0.8, 0.4), (1.0, 0.6)))
def test_the_logits_of_the_drawn_shares_have_this_mean_and_spread(T, mean, spread):
    schedule = du.NoiseSchedule.linear(T)
    logits = drawn_logits(schedule, mean=mean, spread=spread)
    assert float(logits.mean()) == pytest.approx(mean, abs=0.01)
    assert float(logits.std()) == pytest.approx(spread, abs=0.01)


def test_the_usual_logits_are_normal_as_far_as_the_schedule_goes():
    """x_T still has a share of 7 % of the picture: of 1,000 values 15 are below."""
    lowest = float(torch.logit(du.straight_share(SCHEDULE.ab[500])))
    generator = torch.Generator().manual_seed(2)
    normal = torch.randn(400_000, generator=generator).double() * 0.8 - 0.8
    normal = normal[normal > lowest]
    assert len(normal) < 0.99 * 400_000
    at = torch.linspace(0.02, 0.98, 49).double()
    found = drawn_logits(SCHEDULE)[:300_000].quantile(at)
    torch.testing.assert_close(found, normal.quantile(at), atol=0.02, rtol=0)


def test_frequencies_sum_to_1_and_step_0_has_none():
    frequencies = du.straight_frequencies(SCHEDULE)
    assert frequencies.shape == (501,)
    assert frequencies.dtype == torch.float32
    assert frequencies[0] == 0
    assert (frequencies[1:] > 0).all()
    assert float(frequencies.sum()) == pytest.approx(1)


@pytest.mark.parametrize("spread", (0, -1, float("nan")))
def test_another_spread_is_refused(spread):
    with pytest.raises(ValueError, match="spread=.*expected a number from 0.01"):
        du.straight_frequencies(SCHEDULE, spread=spread)


def test_the_loss_takes_the_frequencies():
    generator = torch.Generator().manual_seed(0)
    loss = du.diffusion_loss(
        network(),
        pictures(),
        SCHEDULE,
        generator=generator,
        frequencies=du.straight_frequencies(SCHEDULE),
    )
    assert loss.isfinite()


@pytest.mark.parametrize("n", (0, 501, 2.5))
def test_other_numbers_of_straight_steps_are_refused(n):
    with pytest.raises(ValueError, match="n="):
        du.straight_steps(SCHEDULE, n)


# ---- The palette ---------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("doubt", (0.002, 1))
@pytest.mark.parametrize("step", (30, 200, 450))
def test_the_picture_is_the_mean_colour_by_bayes_rule(step, doubt):
    """Written out with probabilities, pixel by pixel, for what the network expects."""
    model = network(doubt=doubt)
    x = pictures(1)
    ab = SCHEDULE.ab[step].float().expand(1, 1)
    scores = torch.randn(1, len(PALETTE), 16, 16)
    mixed = model.mixed(scores, x, ab)
    variance = float(1 - SCHEDULE.ab[step]) + doubt
    shrunk = PALETTE.double() * float(SCHEDULE.ab[step]) ** 0.5
    for row, column in ((0, 0), (3, 7), (15, 15)):
        pixel = x[0, :, row, column].double()
        likelihood = torch.exp(-(pixel - shrunk).square().sum(1) / (2 * variance))
        prior = scores[0, :, row, column].double().exp()
        shares = prior * likelihood
        expected = (shares[:, None] * PALETTE).sum(0) / shares.sum()
        torch.testing.assert_close(
            mixed[0, :, row, column].double(), expected, atol=1e-4, rtol=1e-3
        )


@torch.no_grad()
def test_near_the_end_a_pixel_takes_the_colour_that_it_nearly_has():
    model = network()
    clean = du.load_sprites("test").x[:2]
    x_t = du.perturb_input(clean, 1, 0.5 * torch.randn_like(clean), SCHEDULE)
    ab = SCHEDULE.ab[1].float().expand(2, 1)
    believed = model.mixed(torch.zeros(2, len(PALETTE), 16, 16), x_t, ab)
    assert (believed - clean).abs().max() < 0.05


@torch.no_grad()
def test_a_network_in_doubt_corrects_a_wrong_pixel_that_it_would_else_believe():
    """The pixel is white, but the network is sure (0.99) that it must be black."""
    palette = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
    scores = torch.zeros(1, 2, 16, 16)
    scores[:, 0] = 4.6
    x_t = torch.ones(1, 3, 16, 16) * 0.99
    ab = torch.full((1, 1), 0.98)
    trusting = network(palette=palette).mixed(scores, x_t, ab)
    doubting = network(palette=palette, doubt=2).mixed(scores, x_t, ab)
    assert trusting.min() > 0.9
    assert doubting.max() < -0.5


@pytest.mark.parametrize("doubt", (0, -1, "much"))
def test_another_doubt_is_refused(doubt):
    with pytest.raises(ValueError, match="doubt="):
        network(doubt=doubt)


def test_the_palette_has_every_colour_of_the_sprites():
    colours = {
        tuple(colour) for colour in du.to_pictures(PALETTE.T[None, :, None])[0, 0]
    }
    assert len(colours) == 104
    for part in ("train", "test"):
        images = du.load_sprites(part).images
        assert {
            tuple(one) for one in np.unique(images.reshape(-1, 3), axis=0)
        } <= colours


def test_a_part_of_the_practice_can_be_spread_evenly():
    even = du.straight_frequencies(SCHEDULE, even=1)
    middle = du.straight_frequencies(SCHEDULE)
    mixed = du.straight_frequencies(SCHEDULE, even=0.25)
    torch.testing.assert_close(mixed, 0.75 * middle + 0.25 * even)
    shares = du.straight_share(SCHEDULE.ab)
    drawn = shares[torch.multinomial(even, 100_000, True)]
    low = float(shares[-1])
    high = float(shares[1])
    counts = torch.histc(drawn.float(), 5, low, high) / 100_000
    assert (counts - 0.2).abs().max() < 0.01
    with pytest.raises(ValueError, match="even=1.5"):
        du.straight_frequencies(SCHEDULE, even=1.5)


def test_numbers_that_a_cpu_is_slow_with_count_as_zero():
    """The helper asks for it when it is imported, but not every processor can."""
    product = float(torch.tensor(1e-30) * 1e-10)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    assert product == 0


# ---- The weights that ship -----------------------------------------------------------


def test_the_shipped_network_draws_what_it_is_asked_for():
    """Of a hero, a piece of food, a spell and a red slime at most one is wrong."""
    texts = ("a hero", "food", "a spell", "a red slime")
    wanted = ("hero", "food", "spell", "non-hero")
    pictures, _ = du.sample_ddpm(
        du.sprite_network(),
        SCHEDULE,
        shape=(4, 3, 16, 16),
        context=words(*texts),
        steps=du.straight_steps(SCHEDULE, 20),
        generator=torch.Generator().manual_seed(0),
        variance="beta_tilde",
        keep=0,
    )
    found, _ = du.sprite_factory().decode(du.to_pictures(pictures))
    right = [one.class_name == name for one, name in zip(found, wanted)]
    assert sum(right) >= 3
