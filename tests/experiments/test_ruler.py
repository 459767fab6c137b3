"""The ruler as a whole: its features, its report, and what it says of known faults.

Each known corruption of real sprites must move the measure that ought to see it. The
faulty samplers must have the faults of their names.
"""

import json

import faults
import numpy as np
import pytest
import scores
import sheets
import shipped
import torch

import diffusion_utilities as du

FACTORY = du.sprite_factory()
SCORING = du.sprite_scoring()
SCHEDULE = du.NoiseSchedule.linear()


def read(name: str) -> dict:
    """A JSON file of weights/."""
    return json.loads((du.WEIGHTS / name).read_text(encoding="utf8"))


# ---- Features ------------------------------------------------------------------------


def test_the_stored_accuracy_of_the_classifier_is_high():
    accuracy = read("features_history.json")["test_accuracy"]
    assert accuracy["class"] >= 0.99
    assert min(accuracy.values()) >= 0.9


def with_ones(features: np.ndarray) -> np.ndarray:
    return np.c_[features, np.ones(len(features))]


def test_a_linear_head_on_the_features_finds_the_class_of_held_out_sprites():
    train = du.load_sprites("train")
    test = du.load_sprites("test")
    ours = du.sprite_features(train.images[::4])
    assert ours.shape == (2200, 64)
    assert ours.dtype == np.float64
    labels = train.labels[::4].astype(float)
    head, *_ = np.linalg.lstsq(with_ones(ours), labels, rcond=None)
    guesses = with_ones(du.sprite_features(test.images)) @ head
    assert (guesses.argmax(1) == test.labels.argmax(1)).mean() > 0.97


def test_features_are_the_same_for_pictures_and_for_tensors():
    images = du.load_sprites("test").images[:5]
    tensor = du.to_model_range(images)
    ours = du.sprite_features(images)
    np.testing.assert_allclose(du.sprite_features(tensor), ours, atol=1e-4)


def test_features_are_small_and_say_when_they_are_missing(tmp_path):
    assert (du.WEIGHTS / "features.pth").stat().st_size < 1_000_000
    with pytest.raises(FileNotFoundError, match="features.pth does not exist"):
        du.feature_network(tmp_path / "features.pth")


# ---- Scores and report ---------------------------------------------------------------


@pytest.fixture(scope="module")
def remembered_features():
    """Computes the features of the training sprites once, and not once for each set."""
    features = du.sprite_features
    ours = shipped.training_features()

    def remembered(pictures):
        return ours if len(pictures) == len(ours) else features(pictures)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(du, "sprite_features", remembered)
        yield


@pytest.mark.slow
def test_classes_other_than_asked_are_counted(remembered_features):
    test = du.load_sprites("test")
    images = test.images[:25]
    labels = test.labels[:25]
    as_asked = du.sprite_scores(images, labels)["class as asked"]
    assert as_asked[0] == 1
    others = np.roll(labels, 1, axis=1)
    not_as_asked = du.sprite_scores(images, others)["class as asked"]
    assert not_as_asked[0] == 0


def test_samples_that_are_not_numbers_are_refused():
    x = torch.zeros(25, 3, 16, 16)
    x[3, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="pictures hold NaN"):
        du.sprite_scores(x)


@pytest.fixture(scope="module")
def report(remembered_features) -> list[str]:
    """The lines of a report on 100 `test` sprites as samples."""
    test = du.load_sprites("test")
    samples = du.to_model_range(test.images[::10])
    contexts = torch.from_numpy(test.labels[::10])
    return du.sprite_report(samples, contexts, n=100).splitlines()


@pytest.mark.slow
def test_a_report_has_the_floor_and_the_ceiling_beside_the_samples(report):
    title = "n = 100 each samples test (floor) fresh legal (ceiling)"
    assert report[0].split() == title.split()


@pytest.mark.slow
def test_a_report_has_every_measure_once(report):
    names = [line[:30].strip() for line in report[1:]]
    assert len(set(names)) == len(names)
    assert set(names) >= {
        "legal",
        "new among legal",
        "class as asked",
        "FD",
        "precision",
        "recall",
        "density",
        "coverage",
        "memorised",
        "distinct",
    }


@pytest.mark.slow
@pytest.mark.parametrize("measure, columns", [("legal", 3), ("class as asked", 1)])
def test_real_sprites_are_all_legal_and_as_asked_in_a_report(report, measure, columns):
    """Only the samples were asked for a class."""
    [line] = [line for line in report if line[:30].strip() == measure]
    assert line.count("1.000 (0.963, 1.000)") == columns


@pytest.mark.parametrize("n", [10, 1000])
def test_a_report_of_too_few_or_too_many_is_refused(n):
    samples = du.load_sprites("test").images[::10]
    message = (
        f"n={n} of 110 samples; expected 20 to 1100, and no more than there are samples"
    )
    with pytest.raises(ValueError, match=message):
        du.sprite_report(samples, n=n)


def test_a_report_of_more_than_there_are_test_sprites_is_refused():
    samples = np.zeros((1200, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="n=1200 of 1200 samples; expected 20 to 1100"):
        du.sprite_report(samples, n=1200)


# ---- Stored scores and sheets --------------------------------------------------------


@pytest.fixture(scope="module")
def stored() -> dict:
    return read("scores.json")


def test_every_planned_row_is_stored(stored):
    assert stored["samples"].keys() == scores.ROWS.keys()


@pytest.mark.slow
def test_the_stored_scores_are_those_of_the_shipped_classifier(stored):
    sets = shipped.real_sets(stored["n"])
    assert sets.keys() == stored["real"].keys()
    for name in ("test (floor)", "hue shift"):
        features = du.sprite_features(sets[name])
        again = du.frechet_distance(features, shipped.training_features())
        value, _, _ = stored["real"][name]["scores"]["FD"]
        assert again == pytest.approx(value, rel=0.01)


def test_a_stored_sheet_is_drawn_again_when_the_sampler_s_options_change(
    monkeypatch, tmp_path
):
    drawn = []

    def draw_batches(model, n, draw, **options):
        drawn.append(options["steps"])
        return np.zeros((n, 16, 16, 3), np.uint8)

    monkeypatch.setattr(sheets, "shipped_network", lambda name: None)
    monkeypatch.setattr(sheets, "draw_batches", draw_batches)
    for steps in (100, 100, 50, 50, 20):
        sheet = sheets.Sheet("model_31", "DDPM", {"steps": steps})
        sheets.stored_sheet(tmp_path / "sheet.npz", sheet)
    assert drawn == [100, 50, 20]


def test_samples_of_the_ideal_denoiser_are_legal():
    pictures = shipped.draw_batches(
        scores.ideal_denoiser, 12, shipped.ddim, seed=4, steps=10
    )
    found, _ = FACTORY.decode(pictures)
    assert SCORING.are_legal(pictures, found).mean() > 0.8


@pytest.mark.parametrize("row", scores.ideal_rows())
def test_the_stored_scores_of_the_ideal_denoiser_beat_a_network(stored, row):
    """Epoch 31, with the same sampler."""
    ideal = stored["samples"][row]["scores"]
    network = stored["samples"][row.replace("ideal", "model_31")]["scores"]
    _, low, _ = ideal["legal"]
    _, _, high = network["legal"]
    assert low > high
    assert ideal["FD"][0] < network["FD"][0]


# ---- Faulty samplers -----------------------------------------------------------------


def drawn_by(name: str, model) -> torch.Tensor:
    """Eight pictures of a row of `scores.fault_rows`, always from the same noise."""
    row = scores.ROWS[f"model_31, {name}"]
    draw = scores.SAMPLERS[row.sampler]
    generator = torch.Generator().manual_seed(1)
    x_T = shipped.pure_noise(8, SCHEDULE, generator)
    return draw(model, SCHEDULE, x_T=x_T, generator=generator, **row.options)


def echo(x, t, c=None) -> torch.Tensor:
    """A "network" that is a formula."""
    return 0.9 * x


def steps_of(name: str) -> list[int]:
    """The steps at which a row asks its network, from the first to the last."""
    asked = []

    def network(x, t, c=None):
        asked.append(round(float(t.flatten()[0]) * SCHEDULE.T))
        return echo(x, t, c)

    drawn_by(name, network)
    return asked


def alpha_bar(t: torch.Tensor) -> float:
    """alpha-bar at the time t / T that a network is told."""
    return float(SCHEDULE.ab[round(float(t.flatten()[0]) * SCHEDULE.T)])


def truth(x, t, c=None) -> torch.Tensor:
    """The true noise in x if the picture is 0.5 everywhere."""
    ab = alpha_bar(t)
    return (x - 0.5 * ab**0.5) / (1 - ab) ** 0.5


def test_noise_in_the_last_step_has_the_size_of_that_step():
    difference = drawn_by("noise in the last step", echo)
    difference = difference - drawn_by("last step from 1", echo)
    expected = float(SCHEDULE.b[1]) ** 0.5
    assert float(difference.std()) == pytest.approx(expected, rel=0.05)


def test_with_beta_0_kept_the_last_step_is_from_1():
    steps = steps_of("beta_0 kept")
    assert steps == steps_of("last step from 1")
    assert steps[-1] == 1


def test_with_beta_0_kept_the_last_step_is_not_exact():
    """Told the true noise, the right sampler lands on the picture.

    The faulty one keeps a share of the noise.
    """
    right = drawn_by("last step from 1", truth)
    torch.testing.assert_close(right, torch.full_like(right, 0.5), atol=1e-4, rtol=0)
    faulty = drawn_by("beta_0 kept", truth)
    assert 0.0005 < float((faulty - 0.5).std()) < 0.02


def test_the_wrapped_stride_makes_two_calls_too_many():
    assert steps_of("DDIM-30, wrapped") == list(range(500, 0, -16))
    assert len(steps_of("DDIM-30")) == 30


def test_the_wrapped_stride_ends_in_the_noise_of_step_489():
    """With the true noise of one picture it lands on that picture noised to t = 489."""
    predicted = []

    def network(x, t, c=None):
        predicted.append(truth(x, t))
        return predicted[-1]

    x = drawn_by("DDIM-30, wrapped", network)
    ab = float(SCHEDULE.ab[489])
    noised = ab**0.5 * 0.5 + (1 - ab) ** 0.5 * predicted[-1]
    torch.testing.assert_close(x, noised, atol=1e-4, rtol=0)


def test_batch_statistics_make_a_picture_depend_on_the_others():
    network = du.ContextUnet(3, 8, 5, 16).eval()
    forgetful = faults.batch_statistics(network)
    x = torch.randn(6, 3, 16, 16)
    t = torch.full((6,), 0.5)
    with torch.no_grad():
        before = network(x, t)
        alone = forgetful(x[:2], t[:2])
        together = forgetful(x, t)
        after = network(x, t)
    assert not torch.allclose(alone, together[:2], atol=1e-3)
    assert torch.equal(before, after)
    assert not network.training


# ---- Corruptions of real sprites -----------------------------------------------------


@pytest.fixture(scope="module")
def spoilt(remembered_features) -> dict[str, dict[str, tuple[float, float, float]]]:
    """The scores of 200 real sprites, and of 200 spoilt in each known way."""
    sets = shipped.real_sets(200)
    return {name: du.sprite_scores(pictures) for name, pictures in sets.items()}


# (corruption, measure, whether the measure rises). Precision and density see none of
# these. What the classifier cannot name lies in the middle of its features, inside many
# neighbourhoods.
SEEN_BY = (
    ("blur", "legal", False),
    ("blur", "off-palette pixels", True),
    ("blur", "recall", False),
    ("blur", "coverage", False),
    ("blur", "FD", True),
    ("hue shift", "legal", False),
    ("hue shift", "off-palette pixels", True),
    ("hue shift", "FD", True),
    ("swapped parts", "legal", False),
    ("mixed colours", "legal", False),
    ("copies of training", "new among legal", False),
    ("copies of training", "memorised", True),
    ("no spells", "coverage", False),
    ("no spells", "total variation", True),
    ("no spells", "FD", True),
    ("few, repeated", "distinct", False),
    ("few, repeated", "recall", False),
    ("few, repeated", "coverage", False),
    ("pixels shuffled", "legal", False),
    ("pixels shuffled", "recall", False),
    ("pixels shuffled", "coverage", False),
    ("pixels shuffled", "FD", True),
)


@pytest.mark.slow
@pytest.mark.parametrize("name, measure, rises", SEEN_BY)
def test_each_corruption_moves_the_measure_that_ought_to_see_it(
    name, measure, rises, spoilt
):
    """The two 95 % intervals don't touch."""
    _, low, high = spoilt[name][measure]
    _, floor_low, floor_high = spoilt["test (floor)"][measure]
    if rises:
        assert low > floor_high
    else:
        assert high < floor_low


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, ratio, legal", [("swapped parts", 1.2, 0.02), ("mixed colours", 1.5, 0.15)]
)
def test_the_frechet_distance_alone_does_not_see_it(name, ratio, legal, spoilt):
    """This is why the legal share is there.

    Every one of these sprites is spoilt, and FD stays where chance puts real sprites.
    """
    floor = spoilt["test (floor)"]["FD"][0]
    assert spoilt[name]["FD"][0] < ratio * floor
    assert spoilt[name]["legal"][0] < legal


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test (floor)", "fresh legal (ceiling)"])
def test_sprites_that_are_not_spoilt_are_all_legal(name, spoilt):
    assert spoilt[name]["legal"][0] == 1
