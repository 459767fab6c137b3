"""Arguments that are clear work; those that are not are refused with the right words.

Each kind was once silently wrong, or an error that spoke of something else.
"""

import importlib.util
import re
import sys
import types
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.animation import FFMpegWriter, PillowWriter
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear(20)
SHAPE = (3, 3, 16, 16)
LABELS = torch.tensor([3, 1, 2])
ONE_HOT = F.one_hot(LABELS, 5).float()
NAN = float("nan")


def refused(*words: object):
    """A ValueError whose message holds all of the words."""
    lookaheads = [f"(?=.*{re.escape(str(word))})" for word in words]
    return pytest.raises(ValueError, match="".join(lookaheads))


def pictures(n: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, 3, 16, 16), generator=generator)


def context_unet():
    torch.manual_seed(1)
    return du.ContextUnet(3, 8, 5, 16).eval()


def sprite_unet():
    torch.manual_seed(1)
    sizes = {"channels": (8, 16, 16), "width": 16, "reader_width": 16}
    return du.SpriteUnet(SCHEDULE, du.sprite_palette(), **sizes).eval()


both_networks = pytest.mark.parametrize("build", [context_unet, sprite_unet])


def silent(x, t, c=None):
    """A model that predicts no noise."""
    return torch.zeros_like(x)


def one_step(model, batch, **options) -> float:
    """The loss of a single training step."""
    optimiser = torch.optim.Adam(model.parameters())
    trip = du.train_steps(model, [batch], SCHEDULE, optimiser=optimiser, **options)
    return next(trip)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- Class numbers where one-hot rows belong (row 1), lists and arrays (row 12) ------


def drop(c):
    du.drop_context(c, 0.1)


def train(c):
    one_step(context_unet(), (pictures(), c), p_drop=0.1)


def train_alone(c):
    du.diffusion_loss(context_unet(), pictures(), SCHEDULE, c=c)


def draw_ddpm(c):
    return du.sample_ddpm(
        context_unet(), SCHEDULE, x_T=pictures(), context=c, steps=2, keep=0
    )[0]


def draw_ddim(c):
    return du.sample_ddim(
        context_unet(), SCHEDULE, x_T=pictures(), context=c, steps=2, keep=0
    )[0]


def draw_multistep(c):
    return du.sample_multistep(
        context_unet(), SCHEDULE, x_T=pictures(), context=c, steps=2, keep=0
    )[0]


def ask_context_unet(c):
    return context_unet()(pictures(), 0.5, c)


def ask_sprite_unet(c):
    return sprite_unet()(pictures(), 0.5, c)


def measure(c):
    return du.denoising_losses(context_unet(), pictures(), SCHEDULE, steps=[3], c=c)


def go(c):
    def step(x, t, t_prev, pred_noise, z):
        return du.denoise_ddim(x, t, t_prev, pred_noise, SCHEDULE)

    trip = du.walk(
        context_unet(), SCHEDULE, x=pictures(), steps=[20, 0], step=step, context=c
    )
    return next(trip)[1]


ALL_USES = [
    drop,
    train,
    train_alone,
    draw_ddpm,
    draw_ddim,
    draw_multistep,
    ask_context_unet,
    ask_sprite_unet,
    measure,
    go,
]


@pytest.mark.parametrize("use", ALL_USES)
@pytest.mark.parametrize(
    "labels",
    [LABELS, LABELS.numpy(), LABELS.tolist()],
    ids=["tensor", "array", "list"],
)
def test_class_numbers_are_told_to_be_one_hot_rows(use, labels):
    with refused("(3,) given; one-hot rows (3, ", "expected: F.one_hot(labels, "):
        use(labels)


def test_as_many_pictures_as_classes_no_longer_hide_class_numbers():
    """Ten digits and ten labels once trained on a context of all classes."""
    model = du.ContextUnet(1, 8, 10, 28)
    batch = (torch.randn(10, 1, 28, 28), torch.arange(10))
    with refused("(10,) given; one-hot rows (10, n_cfeat) expected"):
        one_step(model, batch, p_drop=0.1)
    assert np.isfinite(one_step(model, batch))  # without p_drop no label is looked at


@pytest.mark.parametrize(
    "use", [draw_ddpm, draw_ddim, draw_multistep, ask_context_unet, measure, go]
)
@pytest.mark.parametrize(
    "rows",
    [ONE_HOT.numpy(), ONE_HOT.tolist(), list(ONE_HOT), ONE_HOT.long(), ONE_HOT.bool()],
    ids=["array", "lists", "list of tensors", "int64", "bool"],
)
def test_contexts_of_any_kind_give_what_a_tensor_gives(use, rows):
    with torch.no_grad():
        assert torch.equal(use(rows), use(ONE_HOT))


def test_arrays_train_as_tensors_do():
    batches = [
        (pictures(), ONE_HOT),
        (pictures().numpy(), ONE_HOT.numpy()),
        [pictures(), ONE_HOT.tolist()],
    ]
    losses = []
    for batch in batches:
        loss = one_step(context_unet(), batch, p_drop=0.1, generator=seeded())
        losses.append(loss)
    assert losses == [losses[0]] * 3


@pytest.mark.parametrize(
    "c", [3, "hero", [[1, 0], [1]], {"class": 1}, [None], torch.zeros(3, 5, 1)]
)
@pytest.mark.parametrize("use", [drop, draw_ddim, ask_context_unet])
def test_contexts_that_are_no_rows_of_numbers(use, c):
    with refused("context"):
        use(c)


def test_no_context_cannot_be_dropped():
    with refused("context is None", "(B, n_cfeat)"):
        drop(None)


def test_contexts_that_hold_nan():
    with refused("context", "NaN"):
        draw_ddim(torch.full((3, 5), NAN))


@pytest.mark.parametrize("asked", [LABELS, LABELS.tolist()])
def test_class_numbers_asked_of_the_scores(asked):
    few = du.load_sprites("test").images[:20]
    with refused("(20,) given; ", "F.one_hot(labels, 5).float()"):
        du.sprite_scores(few, list(asked) * 6 + list(asked)[:2])


# ---- Channels of uint8 arrays (row 3) ------------------------------------------------


def rgba(n: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 16, 16, 4), dtype=np.uint8)


def on_white(image: np.ndarray) -> np.ndarray:
    """What Pillow makes of one picture with opacity."""
    white = Image.new("RGBA", image.shape[:2], "white")
    flat = Image.alpha_composite(white, Image.fromarray(image))
    return np.asarray(flat.convert("RGB"))


def test_opacity_is_laid_on_white():
    shown = du.to_pictures(rgba())
    assert shown.shape == (3, 16, 16, 3)
    expected = np.stack([on_white(image) for image in rgba()])
    assert np.abs(shown.astype(int) - expected).max() <= 1
    clear = np.zeros((2, 8, 8, 4), np.uint8)
    assert (du.to_pictures(clear) == 255).all()
    clear[..., 3] = 255
    assert (du.to_pictures(clear) == 0).all()


def test_one_channel_is_shown_as_grey():
    grey = rgba()[..., :1]
    shown = du.to_pictures(grey)
    assert np.array_equal(shown, np.concatenate([grey] * 3, axis=-1))


def test_colours_are_returned_as_they_are():
    images = rgba()[..., :3]
    assert du.to_pictures(images) is images


def show(x):
    return np.asarray(du.show_images(x))


def show_strip(x):
    return np.asarray(du.filmstrip({"a": x, "b": x}))


def play(x):
    return du.animate(np.stack([x, x])).frames


def find(x):
    return np.stack(du.nearest_pictures(x, du.load_sprites("test").images[:5]))


@pytest.mark.parametrize("use", [show, show_strip, play, find])
@pytest.mark.parametrize("channels", [1, 4])
def test_channels_are_read_alike_everywhere(use, channels):
    images = rgba()[..., :channels]
    assert np.array_equal(use(images), use(du.to_pictures(images)))


@pytest.mark.parametrize("use", [du.to_pictures, show, show_strip, play, find])
@pytest.mark.parametrize("shape", [(6, 3, 16, 16), (6, 16, 16), (6, 16, 16, 2)])
def test_other_channels_are_refused(use, shape):
    with refused("expected (..., H, W, 3)"):
        use(np.zeros(shape, np.uint8))


def test_a_list_of_pictures_is_one_array():
    images = du.load_sprites("test").images[:3]
    x = du.to_model_range(images)
    opened = [Image.fromarray(image) for image in images]
    for listed in (list(images), tuple(images), list(x), opened):
        assert np.array_equal(du.to_pictures(listed), images)


@pytest.mark.parametrize(
    "x", [[np.zeros((8, 8, 3)), np.zeros((4, 4, 3))], "sprites.png", [None], None]
)
def test_what_holds_no_pictures(x):
    with refused("pictures"):
        du.to_pictures(x)


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_pictures_of_a_diverged_sampler(value):
    with refused("NaN or infinity", "diverged"):
        du.to_pictures(torch.full((1, 3, 8, 8), value))


def test_whole_numbers_from_0_to_255_would_all_be_white():
    x = torch.full((1, 3, 8, 8), 128)
    with refused("torch.int64", "value_range=(-1.0, 1.0)", "uint8"):
        du.to_pictures(x)
    assert (du.to_pictures(x, value_range=(0, 255)) == 128).all()


@pytest.mark.parametrize(
    "value_range", [(1, 1), (1, -1), (0, NAN), (0,), 1, ("0", "1"), (0, float("inf"))]
)
def test_a_range_of_values_that_is_none(value_range):
    with refused("value_range", "expected"):
        du.to_pictures(pictures(), value_range=value_range)


@pytest.mark.parametrize("use", [du.nearest_pictures, du.memorised])
def test_pictures_of_different_sizes_are_not_compared(use):
    with refused("768 numbers", "192", "same size"):
        use(pictures(), torch.rand(4, 3, 8, 8))


def test_one_picture_is_not_taken_for_a_batch_of_its_rows():
    with refused("(16, 16, 3)", "(N, H, W, 3)"):
        du.nearest_pictures(pictures()[0], pictures())


# ---- A step where t / T belongs, and the reverse (row 5) -----------------------------


@both_networks
@pytest.mark.parametrize(
    "t", [10, 10.0, torch.tensor(250), torch.tensor([0.5, -0.1, 1.0]), -1, NAN, 1.01]
)
def test_networks_are_told_t_over_T(build, t):
    with refused("t = step / T, from 0 to 1"):
        build()(pictures(), t)


@both_networks
def test_every_shape_of_time_is_one_time(build):
    model = build()
    x = pictures()
    with torch.no_grad():
        expected = model(x, torch.full((3,), 0.5))
        for t in (0.5, torch.tensor(0.5), torch.tensor([0.5]), [0.5] * 3):
            assert torch.allclose(model(x, t), expected, atol=1e-5)
        assert torch.equal(model(x, torch.full((3, 1, 1, 1), 0.5)), expected)
        for end in (0, 1, True, torch.tensor(1)):
            assert model(x, end).isfinite().all()


@both_networks
@pytest.mark.parametrize("length", [2, 4])
def test_times_of_another_number(build, length):
    with refused(f"({length},)", "3 pictures", "one number or (3,)"):
        build()(pictures(), torch.full((length,), 0.5))


@both_networks
@pytest.mark.parametrize("t", [None, "half"])
def test_times_that_are_no_numbers(build, t):
    with refused("t: ", "expected a tensor, an array or a list of numbers"):
        build()(pictures(), t)


def test_a_network_that_is_compiled_or_traced_is_not_looked_into():
    """Looking at numbers would break the graph."""
    model = context_unet()
    x, t = pictures(), torch.full((3,), 0.5)
    with torch.no_grad():
        expected = model(x, t)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.allclose(compiled(x, t), expected, atol=1e-5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(model, (x, t), check_trace=False)
        assert torch.allclose(traced(x, t), expected, atol=1e-5)
        exported = torch.export.export(model, (x, t)).module()
        assert torch.allclose(exported(x, t), expected, atol=1e-5)


@pytest.mark.parametrize("jump", [du.perturb_input, du.predict_x0])
@pytest.mark.parametrize("t", [0.5, 1.0, torch.tensor(0.5), torch.rand(3), True])
def test_the_jump_is_told_steps(jump, t):
    x = pictures()
    with refused("steps, whole numbers from 0 to T = 20", "t / T"):
        jump(x, t, x, SCHEDULE)


@pytest.mark.parametrize("jump", [du.perturb_input, du.predict_x0])
def test_every_shape_of_step_is_one_step(jump):
    x = pictures()
    expected = jump(x, torch.full((3,), 7), x, SCHEDULE)
    for t in (7, np.int64(7), torch.tensor(7), [7, 7, 7], np.full(3, 7)):
        assert torch.equal(jump(x, t, x, SCHEDULE), expected)
    with refused("t has shape (2,) for 3 pictures"):
        jump(x, torch.tensor([1, 2]), x, SCHEDULE)


def test_one_picture_at_many_steps_with_many_noises():
    x = pictures(1)
    noise = pictures(5, seed=1)
    t = torch.arange(5)
    together = du.perturb_input(x, t, noise, SCHEDULE)
    for i in range(5):
        alone = du.perturb_input(x, i, noise[i : i + 1], SCHEDULE)
        assert torch.allclose(together[i], alone[0])


@pytest.mark.parametrize("t", [0.5, 5.0, None, "5", True])
def test_a_denoising_step_is_told_steps(t):
    x = pictures()
    for step in (du.denoise_add_noise, du.posterior):
        arguments = (t, SCHEDULE) if step is du.posterior else (x, t, x, SCHEDULE)
        with refused("whole numbers", "0 <= t_prev < t <= T = 20"):
            step(*arguments)
    with refused("whole numbers", "0 <= t_prev < t <= T = 20"):
        du.denoise_ddim(x, t, 0, x, SCHEDULE)


def test_steps_may_be_any_whole_number():
    for t in (np.int64(5), torch.tensor(5)):
        assert du.posterior(t, SCHEDULE) == du.posterior(5, SCHEDULE)
    assert du.sampling_steps(np.int64(4), 20) == du.sampling_steps(4, 20)


# ---- Noise of another shape (attacks) ------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16), (2, 3, 16, 16), (3, 1, 16, 16), (3,)])
@pytest.mark.parametrize("jump", [du.perturb_input, du.predict_x0])
def test_noise_of_another_shape(jump, shape):
    with refused(f"noise has shape {shape}", f"that of x, {SHAPE}"):
        jump(pictures(), 5, torch.zeros(shape), SCHEDULE)


def test_fresh_noise_of_another_shape():
    x = pictures()
    z = torch.zeros(16, 16)
    with refused("z has shape (16, 16)"):
        du.denoise_add_noise(x, 5, x, SCHEDULE, z=z)
    with refused("z has shape (16, 16)"):
        du.denoise_ddim(x, 5, 4, x, SCHEDULE, eta=1.0, z=z)


@pytest.mark.parametrize("wrong", [None, "noise", [0.0], pictures().numpy()])
@pytest.mark.parametrize("jump", [du.perturb_input, du.predict_x0])
def test_what_is_no_tensor_of_noise_or_pictures(jump, wrong):
    x = pictures()
    with refused("noise: ", "tensor of floats"):
        jump(x, 5, wrong, SCHEDULE)
    with refused("x: ", "tensor of floats"):
        jump(wrong, 5, x, SCHEDULE)


@pytest.mark.parametrize("jump", [du.perturb_input, du.predict_x0])
def test_noise_may_be_a_number(jump):
    x = pictures()
    expected = jump(x, 5, torch.zeros_like(x), SCHEDULE)
    assert torch.equal(jump(x, 5, 0.0, SCHEDULE), expected)


@pytest.mark.parametrize("schedule", [500, None, torch.linspace(0, 1, 21)])
def test_what_is_no_schedule(schedule):
    x = pictures()
    uses = [
        lambda: du.perturb_input(x, 5, x, schedule),
        lambda: du.posterior(5, schedule),
        lambda: du.denoise_ddim(x, 5, 0, x, schedule),
        lambda: du.diffusion_loss(silent, x, schedule),
        lambda: du.sample_ddim(silent, schedule, shape=SHAPE),
        lambda: du.sample_multistep(silent, schedule, shape=SHAPE),
        lambda: du.denoising_losses(silent, x, schedule, steps=[3]),
        lambda: du.SpriteUnet(schedule, du.sprite_palette()),
    ]
    for use in uses:
        with refused("schedule: ", "NoiseSchedule.linear(500)"):
            use()


def squeezed(x, t, c=None):
    return x[:, 0]


def wrapped(x, t, c=None):
    return {"sample": x}


@pytest.mark.parametrize("model", [squeezed, wrapped])
def test_answers_of_a_model_that_are_not_the_noise(model):
    """The error of (B, H, W) against (B, 1, H, W) would be that of all pairs."""
    x = torch.randn(3, 1, 8, 8)
    words = ("the model returned", "of shape (3, 1, 8, 8)")
    with refused(*words):
        du.diffusion_loss(model, x, SCHEDULE)
    with refused(*words):
        du.sample_ddim(model, SCHEDULE, x_T=x, steps=2)
    with refused(*words):
        du.denoising_losses(model, x, SCHEDULE, steps=[3])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_pictures_that_are_no_floats(dtype):
    """Cast to uint8, the root of alpha-bar was 0: no picture was left, and no word."""
    x = torch.ones(SHAPE, dtype=dtype)
    words = (dtype, "tensor of floats", "to_model_range")
    with refused(*words):
        du.perturb_input(x, 5, x, SCHEDULE)
    with refused(*words):
        du.diffusion_loss(silent, x, SCHEDULE)
    with refused(*words):
        one_step(context_unet(), (x, None))
    with refused(*words):
        du.sample_ddim(silent, SCHEDULE, x_T=x)
    with refused(*words):
        context_unet()(x, 0.5)
    with refused(*words):
        du.corrupt(x, torch.zeros(3))
    with refused(*words):
        du.BasicUNet(3)(x)


# ---- Animations, zoom and columns (row 8, attacks) -----------------------------------


def animation(**options):
    return du.animate(torch.rand(3, 2, 3, 8, 8), **options)


def milliseconds(path) -> int:
    with Image.open(path) as gif:
        return gif.info["duration"]


@pytest.mark.parametrize("name", ["film.mp4", "film", "film.gif.png"])
def test_only_gifs_are_saved(name, tmp_path):
    with refused(name, ".gif"):
        animation().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, 120),
        ({"fps": 20}, 50),
        ({"writer": PillowWriter(fps=10)}, 100),
        ({"writer": PillowWriter(fps=10), "fps": 20, "dpi": 100}, 50),
        ({"writer": "pillow"}, 120),
    ],
)
def test_writers_as_in_matplotlib(options, expected, tmp_path):
    path = tmp_path / "film.gif"
    animation().save(path, **options)
    assert milliseconds(path) == expected


def test_a_writer_without_its_name(tmp_path):
    animation().save(tmp_path / "film.GIF", PillowWriter(fps=10))
    assert milliseconds(tmp_path / "film.GIF") == 100


@pytest.mark.parametrize("writer", ["ffmpeg", FFMpegWriter, PillowWriter, 5])
def test_other_writers(writer, tmp_path):
    with refused("writer=", "expected PillowWriter()"):
        animation().save(tmp_path / "film.gif", writer=writer)


@pytest.mark.parametrize("fps", [0, -1, NAN, 1000, "8"])
def test_frames_per_second_that_are_none(fps, tmp_path):
    with refused("fps=", "from 0.01 to 100"):
        animation(fps=fps)
    with refused("fps="):
        animation().to_jshtml(fps=fps)
    with refused("fps="):
        animation().save(tmp_path / "film.gif", fps=fps)


BAD_ZOOMS = [0, -1, 2.0, NAN, True, None, "<script>alert(1)</script>"]


@pytest.mark.parametrize("zoom", BAD_ZOOMS)
def test_a_zoom_that_is_no_whole_number(zoom):
    """A text once came into the HTML of the player, sixteen times and unescaped."""
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    uses = [
        lambda: du.show_images(pictures(), zoom=zoom),
        lambda: du.filmstrip({"a": pictures()}, zoom=zoom),
        lambda: animation(zoom=zoom),
        lambda: du.SpriteAnimation(frames, zoom),
        lambda: du.compare_checkpoints({"a": silent}, two_frames, zoom=zoom),
    ]
    for use in uses:
        with refused("zoom=", "expected a whole number, 1 or more"):
            use()


def two_frames(model, generator):
    x = torch.rand(2, 3, 8, 8, generator=generator)
    return x, torch.stack((x, x))


@pytest.mark.parametrize("zoom", [np.int64(4), np.uint8(4), torch.tensor(4)])
def test_a_zoom_of_another_library(zoom):
    x = pictures()
    expected = du.show_images(x, zoom=4)
    assert np.array_equal(du.show_images(x, zoom=zoom), expected)
    assert animation(zoom=zoom).picture().size == animation(zoom=4).picture().size
    assert "width:76px" in animation(zoom=zoom).to_jshtml()


@pytest.mark.parametrize("columns", [0, -2, 2.5, "3", True])
def test_columns_that_are_no_whole_number(columns):
    with refused("columns=", "whole number"):
        du.show_images(pictures(), columns=columns)
    with refused("columns=", "whole number"):
        animation(columns=columns)


@pytest.mark.parametrize("labels", ["abc", 3, None])
def test_labels_that_are_no_list(labels):
    """A text would be written letter by letter."""
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    with refused("rows=", "list of labels"):
        du.show_images(pictures(), rows=labels)
    with refused("titles=", "list of labels"):
        du.show_images(pictures(), titles=labels)
    with refused("labels=", "list of labels"):
        du.SpriteAnimation(frames, labels=labels)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (8, 8, 3), (2, 2, 8, 8, 3)])
def test_frames_that_are_none(shape):
    with refused("frames have shape", "(F, H, W, 3)"):
        du.SpriteAnimation(np.zeros(shape, np.uint8))


def test_rows_of_different_sizes():
    with refused("(3, 16, 16, 3)", "(3, 8, 8, 3)", "the same in each"):
        du.filmstrip({"a": pictures(), "b": torch.rand(3, 3, 8, 8)})
    with refused("rows have shapes", "(frames, N, H, W, 3)"):
        du.animate({"a": pictures()})
    with refused("{label: pictures}"):
        du.filmstrip([pictures()])
    with refused("{label: network}"):
        du.compare_checkpoints([silent], two_frames)


# ---- Schedules (row 9, attacks) ------------------------------------------------------


def draw_noise(schedule, **options):
    du.sample_ddim(silent, schedule, shape=(1, 1, 4, 4), steps=2, **options)


@pytest.mark.parametrize(
    "schedule, remedy",
    [
        (du.NoiseSchedule.linear(50), "NoiseSchedule.linear(50, 0.002, 0.4)"),
        (du.NoiseSchedule.linear(200), "NoiseSchedule.linear(200, 0.0005, 0.1)"),
        (du.NoiseSchedule.linear(20), "NoiseSchedule.cosine(20)"),
    ],
)
@pytest.mark.parametrize("sample", [du.sample_ddim, du.sample_ddpm])
def test_a_schedule_that_does_not_end_in_noise_warns(sample, schedule, remedy):
    words = rf"alpha-bar is 0\.\d\d at T = {schedule.T}, .*{re.escape(remedy)}"
    with pytest.warns(UserWarning, match=words) as seen:
        sample(silent, schedule, shape=(1, 1, 4, 4), steps=2)
    assert len(seen) == 1
    assert seen[0].filename == __file__


def test_the_remedies_of_the_warning_do_not_warn():
    fine = [
        du.NoiseSchedule.linear(50, 0.002, 0.4),
        du.NoiseSchedule.cosine(5),
        du.NoiseSchedule.linear(300),  # lesson 10's
        du.NoiseSchedule.linear(),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for schedule in fine:
            draw_noise(schedule)


def test_a_start_that_is_given_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        du.sample_ddim(silent, SCHEDULE, x_T=torch.zeros(1, 1, 4, 4), steps=2)


def test_a_loop_warns_once():
    """With Python's usual filter, not once for each batch of pictures."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(5):
            draw_noise(SCHEDULE)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "build",
    [
        lambda: du.NoiseSchedule.linear(1000, 1e-4, 0.5),
        lambda: du.NoiseSchedule.linear(2000, 0.1, 0.9),
        lambda: du.NoiseSchedule(torch.tensor([0.0] + [0.9] * 500)),
    ],
)
def test_an_alpha_bar_that_vanishes_is_refused(build):
    """The samples were NaN, or a ZeroDivisionError came from the posterior."""
    with refused("alpha-bar falls to", "float32", "smaller betas"):
        build()


def test_a_very_noisy_schedule_samples_finite_pictures():
    noisy = du.NoiseSchedule.linear(300, 1e-4, 0.72)
    assert float(noisy.ab[-1]) < 1e-60
    for clip in (False, True):
        x, _ = du.sample_ddpm(silent, noisy, shape=(2, 3, 8, 8), keep=0, clip=clip)
        assert x.isfinite().all()


@pytest.mark.parametrize(
    "b", ["linear", None, 0.5, [0, 1e-17], [0, 0.5j], [[0.0], [0.5]]]
)
def test_betas_that_are_no_table(b):
    with refused("b[0] = 0 and 0 < b[t] < 1", "NoiseSchedule.linear"):
        du.NoiseSchedule(b)


@pytest.mark.parametrize("beta", ["0.1", -0.1, 20, NAN, None])
def test_betas_of_a_linear_schedule_that_are_no_shares(beta):
    with refused("beta2=", "from 0 to 1"):
        du.NoiseSchedule.linear(20, 1e-4, beta)


def test_a_schedule_has_no_gradient_and_is_a_copy():
    b = torch.linspace(0, 0.5, 21, requires_grad=True)
    schedule = du.NoiseSchedule(b)
    for table in (schedule.b, schedule.a, schedule.ab, schedule.snr):
        assert not table.requires_grad
    with torch.no_grad():
        b += 1
    assert float(schedule.b[0]) == 0


# ---- Samplers (attacks) --------------------------------------------------------------

all_samplers = pytest.mark.parametrize(
    "sample", [du.sample_ddim, du.sample_ddpm, du.sample_multistep]
)


@all_samplers
@pytest.mark.parametrize("steps", [True, 2.5, "5", NAN])
def test_steps_that_are_no_number(sample, steps):
    with refused("steps=", "whole number"):
        sample(silent, SCHEDULE, shape=SHAPE, steps=steps)


@pytest.mark.parametrize("eta", [5, -0.1, 1.001, NAN, "1", None, True])
def test_an_eta_outside_0_to_1(eta):
    with refused("eta=", "from 0 to 1"):
        du.sample_ddim(silent, SCHEDULE, shape=SHAPE, eta=eta, steps=2)


@pytest.mark.parametrize("eta", [0, 1, np.float32(0.5), torch.tensor(0.5)])
def test_an_eta_from_0_to_1(eta):
    x, _ = du.sample_ddim(silent, SCHEDULE, shape=SHAPE, eta=eta, steps=2)
    assert x.isfinite().all()


@all_samplers
@pytest.mark.parametrize("clip", ["no", 1, (-1, 1), None, 0.5])
def test_clip_is_yes_or_no(sample, clip):
    with refused("clip=", "True or False"):
        sample(silent, SCHEDULE, shape=SHAPE, clip=clip, steps=2)


@pytest.mark.parametrize("variance", [1, None, np.ones(2), ["beta"], torch.ones(1)])
def test_a_variance_of_another_kind(variance):
    with refused("variance=", "'beta' or 'beta_tilde'"):
        du.sample_ddpm(silent, SCHEDULE, shape=SHAPE, variance=variance, steps=2)


@pytest.mark.parametrize("noise_scale", ["1", NAN, -1, None])
def test_a_noise_scale_that_is_none(noise_scale):
    with refused("noise_scale="):
        du.sample_ddpm(silent, SCHEDULE, shape=SHAPE, noise_scale=noise_scale)


@all_samplers
@pytest.mark.parametrize("keep", [-1, 1.5, True, None, "", {}, torch.tensor(0.5)])
def test_a_number_of_frames_that_is_none(sample, keep):
    with refused("keep=", "0 or more"):
        sample(silent, SCHEDULE, shape=SHAPE, keep=keep, steps=2)


@all_samplers
@pytest.mark.parametrize("keep", [[2.5], [[20, 0]], ["end"], np.zeros((2, 2))])
def test_frames_of_steps_that_are_none(sample, keep):
    with refused("keep names steps", "[20, 10, 0]"):
        sample(silent, SCHEDULE, shape=SHAPE, keep=keep, steps=2)


@pytest.mark.parametrize("keep", [[20, 0], (20, 0), {20, 0}, np.array([20, 0])])
def test_frames_of_steps_in_any_list(keep):
    _, frames = du.sample_ddim(silent, SCHEDULE, shape=SHAPE, keep=keep, steps=2)
    assert len(frames) == 2
    _, frames = du.sample_ddim(
        silent, SCHEDULE, shape=SHAPE, keep=torch.tensor([20, 0]), steps=2
    )
    assert len(frames) == 2


@all_samplers
@pytest.mark.parametrize(
    "shape", [(-2, 3, 16, 16), (0, 3, 16, 16), 3, (2.5, 3), "abc", (), [None]]
)
def test_a_shape_that_is_none(sample, shape):
    with refused("shape="):
        sample(silent, SCHEDULE, shape=shape, steps=2)


@all_samplers
@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_start_that_is_not_finite(sample, value):
    with refused("x_T", "NaN or infinity"):
        sample(silent, SCHEDULE, x_T=torch.full(SHAPE, value), steps=2)


@all_samplers
@pytest.mark.parametrize("generator", [0, "seed", np.random.default_rng(0)])
def test_a_generator_that_is_none(sample, generator):
    with refused("generator=", "torch.Generator().manual_seed(0)"):
        sample(silent, SCHEDULE, shape=SHAPE, generator=generator, steps=2)


@all_samplers
def test_a_start_with_a_gradient_gives_samples_without(sample):
    x_T = pictures().requires_grad_()
    x, frames = sample(context_unet(), SCHEDULE, x_T=x_T, steps=2, keep=3)
    assert not x.requires_grad
    assert not frames.requires_grad


def test_a_start_may_be_an_array():
    x_T = pictures()
    expected, _ = du.sample_ddim(context_unet(), SCHEDULE, x_T=x_T, steps=2)
    for start in (x_T.numpy(), x_T.numpy().astype(np.float64), list(x_T)):
        x, _ = du.sample_ddim(context_unet(), SCHEDULE, x_T=start, steps=2)
        assert torch.equal(x, expected)


@pytest.mark.parametrize("steps", [20, [20, 0.5], [21, 0], [20, -1], [], "ab"])
def test_a_walk_along_what_is_no_list_of_steps(steps):
    trip = du.walk(silent, SCHEDULE, x=pictures(), steps=steps, step=None)
    with refused("steps=", "a list of whole numbers from 0 to T = 20"):
        next(trip)


@pytest.mark.parametrize(
    "arguments",
    [
        {"rounds": (300, 120, 4)},
        {"rounds": 3},
        {"rounds": ((300, 120),)},
        {"rounds": ((300.5, 120, 4),)},
        {"stride": 2.5},
        {"round_stride": "6"},
        {"T": 500.0},
    ],
)
def test_restarts_of_another_kind(arguments):
    with refused("expected"):
        du.restart_steps(**arguments)


# ---- Training ------------------------------------------------------------------------


def test_pictures_alone_are_a_batch():
    """As a TensorDataset gives them, or a loader of a tensor."""
    expected = one_step(context_unet(), (pictures(), None), generator=seeded())
    loader = DataLoader(TensorDataset(pictures()), batch_size=3)
    for batch in (next(iter(loader)), pictures(), (pictures(),)):
        loss = one_step(context_unet(), batch, generator=seeded())
        assert loss == expected


def test_two_pictures_alone_are_not_a_picture_and_its_context():
    assert np.isfinite(one_step(context_unet(), pictures(2)))


def test_pictures_alone_have_no_context_to_drop():
    with refused("p_drop=0.1", "this batch has none", "(pictures, context)"):
        one_step(context_unet(), (pictures(),), p_drop=0.1)


@pytest.mark.parametrize(
    "batch, words",
    [
        ((pictures(), ONE_HOT, LABELS), ("3 parts", "batches are pairs")),
        ((), ("0 parts", "batches are pairs")),
        ((pictures()[:, 0], None), ((3, 16, 16), "(B, C, H, W)")),
        ((pictures()[:0], None), ((0, 3, 16, 16), "B at least 1")),
        ({"x": pictures()}, ("pictures", "dict")),
        (("a.png", None), ("pictures", "a.png")),
        ((pictures()[..., :8], None), ((3, 3, 16, 8), "square pictures", "height=16")),
        ((pictures()[:, :1], None), ((3, 1, 16, 16), "in_channels=3")),
    ],
)
def test_batches_that_are_none(batch, words):
    with refused(*words):
        one_step(context_unet(), batch)


@pytest.mark.parametrize("x", [pictures()[:0], torch.tensor(0.5)])
def test_no_pictures_have_no_loss(x):
    with refused("no pictures"):
        du.diffusion_loss(silent, x, SCHEDULE)
    with refused("no pictures"):
        du.denoising_losses(silent, x, SCHEDULE, steps=[3])


def test_pictures_in_double_precision_train_as_any():
    """NumPy computes in float64, so learners' own pictures come like that."""
    batch = (pictures().double(), None)
    loss = one_step(context_unet(), batch, generator=seeded())
    assert loss == one_step(context_unet(), (pictures(), None), generator=seeded())
    with refused("torch.float64", "torch.float32", "x.float()"):
        context_unet()(pictures().double(), 0.5)


@pytest.mark.parametrize(
    "options",
    [{"optimiser": None}, {"optimiser": 1e-3}, {"average": context_unet()}],
)
def test_what_is_no_optimiser_or_average(options):
    model = context_unet()
    before = [parameter.clone() for parameter in model.parameters()]
    given = {"optimiser": torch.optim.SGD(model.parameters(), 1.0)} | options
    trip = du.train_steps(model, [(pictures(), None)], SCHEDULE, **given)
    [name] = options
    with refused(f"{name}: "):
        next(trip)
    for parameter, old in zip(model.parameters(), before):
        assert torch.equal(parameter, old)


def test_an_average_of_what_is_no_network():
    with refused("model: ", "a network"):
        du.average_weights(silent)


@pytest.mark.parametrize("p", [10, -0.1, NAN, "0.1"])
def test_a_share_of_dropped_contexts_that_is_none(p):
    """10 for 10 % dropped every context, and no word."""
    with refused("p=", "from 0 to 1"):
        du.drop_context(ONE_HOT, p)
    with refused("p=", "from 0 to 1"):
        one_step(context_unet(), (pictures(), ONE_HOT), p_drop=p)


@pytest.mark.parametrize(
    "part, batch",
    [
        ("pictures", (pictures() * NAN, ONE_HOT)),
        ("contexts", (pictures(), ONE_HOT * NAN)),
    ],
)
def test_a_loss_that_is_no_number_names_the_part_that_is_none(part, batch):
    with pytest.raises(FloatingPointError, match=f"{part} hold NaN"):
        one_step(context_unet(), batch, p_drop=0.0)


def test_an_optimiser_of_another_model():
    """As when the cell that builds the network is run again, alone."""
    old, new = context_unet(), context_unet()
    optimiser = torch.optim.Adam(old.parameters())
    trip = du.train_steps(new, [(pictures(), None)], SCHEDULE, optimiser=optimiser)
    with refused("the optimiser trains no parameter of this model"):
        next(trip)


@pytest.mark.parametrize("min_snr", ["5", NAN, 0, float("inf")])
def test_a_min_snr_that_is_none(min_snr):
    with refused("min_snr=", "above 0"):
        du.diffusion_loss(silent, pictures(), SCHEDULE, min_snr=min_snr)


@pytest.mark.parametrize(
    "frequencies",
    [
        torch.linspace(0, -1, 21),
        torch.cat((torch.zeros(1), torch.full((20,), NAN))),
        torch.zeros(21),
        [0.0] + [1.0] * 20,
        torch.zeros(21, 2),
    ],
    ids=["negative", "NaN", "zero", "list", "table"],
)
def test_frequencies_of_steps_that_are_none(frequencies):
    with refused("frequencies"):
        du.diffusion_loss(silent, pictures(), SCHEDULE, frequencies=frequencies)


def test_generators_of_another_kind():
    x = pictures()
    for use in (
        lambda: du.diffusion_loss(silent, x, SCHEDULE, generator=0),
        lambda: du.drop_context(ONE_HOT, 0.1, generator=0),
        lambda: du.corrupt(x, torch.zeros(3), generator=0),
    ):
        with refused("generator=0", "torch.Generator().manual_seed(0)"):
            use()


@pytest.mark.parametrize("decay", [2, -1, NAN, "0.9"])
def test_a_decay_that_is_none(decay):
    with refused("decay=", "from 0 to 1"):
        du.average_weights(context_unet(), decay)


@pytest.mark.parametrize("seed", [1.5, "0", None, -1, True, 2**32])
def test_seeds_that_are_none(seed):
    state = torch.get_rng_state()
    with refused("seed="):
        du.seed_everything(seed)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", [1.5, "0", None])
def test_seeds_of_measurements_that_are_none(seed):
    with refused("seed="):
        du.denoising_losses(silent, pictures(), SCHEDULE, steps=[3], seed=seed)
    with refused("seed="):
        du.compare_checkpoints({"a": silent}, two_frames, seed=seed)


# ---- Networks (row 12) ---------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((3, 8, 5, (24, 16)), ("height=(24, 16)", "square")),
        ((3, 8, 5, 16.0), ("height=16.0", "square")),
        ((3, 8, 5, None), ("height=None", "square")),
        ((3, 8, 0, 16), ("n_cfeat=0", "1 or more")),
        ((3, 8, -5, 16), ("n_cfeat=-5", "1 or more")),
        ((3, 0, 5, 16), ("n_feat=0", "8 or more")),
        ((3, -8, 5, 16), ("n_feat=-8", "8 or more")),
        ((3, 8.0, 5, 16), ("n_feat=8.0", "whole number")),
        ((0, 8, 5, 16), ("in_channels=0", "1 or more")),
        (("3", 8, 5, 16), ("in_channels='3'", "whole number")),
    ],
)
def test_sizes_that_no_network_has(arguments, words):
    with refused(*words):
        du.ContextUnet(*arguments)


@pytest.mark.parametrize("shape", [(2, 3, 24, 16), (3, 16, 16), (2, 16, 16)])
def test_pictures_that_are_not_square_are_told_so(shape):
    with refused(shape, "square pictures (B, 3, 16, 16)"):
        context_unet()(torch.zeros(shape), 0.5)


@pytest.mark.parametrize("shape", [(2, 1, 30, 28), (1, 28, 28), (2, 3, 28, 28)])
def test_pictures_that_the_basic_unet_cannot_take(shape):
    with refused(shape, "(B, 1, H, W)", "multiples of 4"):
        du.BasicUNet()(torch.zeros(shape))


@pytest.mark.parametrize(
    "amount", [torch.tensor([0.5, 1.5, 0]), torch.zeros(2), NAN, "much", -0.1]
)
def test_amounts_of_noise_that_are_none(amount):
    with refused("amount"):
        du.corrupt(torch.rand(3, 1, 8, 8), amount)


def test_one_amount_of_noise_for_all():
    x = torch.rand(3, 1, 8, 8)
    expected = du.corrupt(x, torch.full((3,), 0.5), seeded())
    for amount in (0.5, torch.tensor(0.5), [0.5] * 3, np.full(3, 0.5)):
        assert torch.equal(du.corrupt(x, amount, seeded()), expected)


# ---- The strong network, guidance and Muon -------------------------------------------

PALETTE = du.sprite_palette()


@pytest.mark.parametrize(
    "palette, words",
    [
        (PALETTE[:, 0], "shape (104,)"),
        (PALETTE[:0], "shape (0, 3)"),
        (((PALETTE + 1) * 127.5).to(torch.uint8), "a tensor of floats"),
        ((PALETTE + 1) * 127.5, "from -1 to 1"),
        (PALETTE * NAN, "from -1 to 1"),
        ("red", "a tensor, an array or a list"),
    ],
)
def test_a_palette_that_is_none(palette, words):
    with refused("palette", words):
        du.SpriteUnet(SCHEDULE, palette)


def test_a_palette_may_be_an_array():
    model = du.SpriteUnet(SCHEDULE, PALETTE.double().numpy(), channels=(8, 8, 8))
    assert torch.equal(model.palette, PALETTE)


@pytest.mark.parametrize(
    "size, words",
    [
        ({"channels": (8, 16)}, "three multiples of 8"),
        ({"channels": (10, 20, 30)}, "three multiples of 8"),
        ({"channels": (0, 8, 8)}, "three multiples of 8"),
        ({"channels": 8}, "three multiples of 8"),
        ({"width": 0}, "width=0"),
        ({"reader_width": 10}, "reader_width=10"),
        ({"n_cfeat": 0}, "n_cfeat=0"),
        ({"n_words": 2.5}, "n_words=2.5"),
        ({"max_words": 0}, "max_words=0"),
        ({"n_cfeat": 40}, "a row from a caption"),
    ],
)
def test_sizes_that_no_strong_network_has(size, words):
    with refused(words):
        du.SpriteUnet(SCHEDULE, PALETTE, **size)


@pytest.mark.parametrize("number", [217, -1, 0.5, NAN])
def test_numbers_of_no_word(number):
    captions = torch.zeros(3, 40)
    captions[1, 2] = number
    with refused("context", "whole numbers from 0 to 216"):
        sprite_unet()(pictures(), torch.tensor(0.5), captions)


def test_class_numbers_in_a_column_are_no_short_row():
    with refused("(3, 1) given", "one-hot rows"):
        sprite_unet()(pictures(), torch.tensor(0.5), torch.tensor([[3], [1], [2]]))


def test_one_clean_picture_is_not_the_clean_picture_of_all():
    with refused("clean", "(1, 3, 16, 16)", "(3, 3, 16, 16)"):
        sprite_unet()(pictures(), torch.tensor(0.5), clean=pictures(1))


OTHER_SCHEDULES = [du.NoiseSchedule.cosine(20), du.NoiseSchedule.linear(1000)]
USES_OF_A_SCHEDULE = {
    "loss": lambda model, schedule: du.diffusion_loss(model, pictures(), schedule),
    "sampler": lambda model, schedule: du.sample_ddim(
        model, schedule, shape=(1, 3, 16, 16), steps=1
    ),
}


@pytest.mark.parametrize("schedule", OTHER_SCHEDULES)
@pytest.mark.parametrize("use", USES_OF_A_SCHEDULE.values(), ids=USES_OF_A_SCHEDULE)
def test_a_network_with_a_schedule_gets_no_other(use, schedule):
    with refused("SpriteUnet was built for another schedule"):
        use(sprite_unet(), schedule)
    with refused("SpriteUnet was built for another schedule"):
        use(du.average_weights(sprite_unet()), schedule)


@pytest.mark.parametrize("use", USES_OF_A_SCHEDULE.values(), ids=USES_OF_A_SCHEDULE)
def test_a_network_with_a_schedule_gets_an_equal_one(use):
    use(sprite_unet(), du.NoiseSchedule.linear(SCHEDULE.T))


def test_guidance_needs_a_context():
    with refused("guidance without a context", "context="):
        du.sample_ddim(
            du.guided(context_unet(), 2), SCHEDULE, shape=(1, 3, 16, 16), steps=1
        )


def test_guidance_takes_contexts_of_any_kind():
    rows = np.eye(5, dtype=np.float32)
    x = pictures()
    t = torch.tensor(0.5)
    guide = du.guided(context_unet(), 2, avoid=rows[4:])
    answer = guide(x, t, rows[:3])
    assert torch.equal(answer, guide(x, t, torch.tensor(rows[:3])))
    others = du.guided(context_unet(), 2, avoid=rows[4:].tolist())
    assert torch.equal(answer, others(x, t, rows[:3].tolist()))


@pytest.mark.parametrize("avoid", [torch.tensor([1, 2]), "a hat"])
def test_what_cannot_be_avoided(avoid):
    with refused("context"):
        du.guided(context_unet(), 2, avoid=avoid)


def test_what_is_avoided_is_as_long_as_what_is_wanted():
    guide = du.guided(sprite_unet(), 2, avoid=torch.zeros(1, 40))
    with refused("avoid has shape (1, 40)", "(3, 175)"):
        guide(pictures(), torch.tensor(0.5), torch.eye(175)[:3])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"adam": ("init_conv", "nowhere")}, "'nowhere', but no parameter's name"),
        ({"lr": -1}, "lr=-1"),
        ({"lr": "fast"}, "lr='fast'"),
        ({"adam_lr": NAN}, "adam_lr=nan"),
    ],
)
def test_options_that_muon_does_not_have(options, words):
    with refused(words):
        du.Muon(context_unet().named_parameters(), **options)


def test_muon_needs_names():
    with refused("named_parameters", "pairs"):
        du.Muon(context_unet().parameters())


def test_a_name_alone_is_a_name_and_not_its_letters():
    model = context_unet()
    alone = du.Muon(model.named_parameters(), adam="out")
    listed = du.Muon(model.named_parameters(), adam=("out",))
    sizes = [len(group["params"]) for group in alone.param_groups]
    assert sizes == [len(group["params"]) for group in listed.param_groups]


@pytest.mark.parametrize(
    "option", [{"mean": NAN}, {"mean": "0"}, {"spread": "1"}, {"even": 2}]
)
def test_a_distribution_of_steps_that_is_none(option):
    [name] = option
    with refused(f"{name}="):
        du.straight_frequencies(SCHEDULE, **option)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 4))]
)
def test_what_has_no_opacity_to_lay_on_white(array):
    with refused("pictures", "expected uint8 of shape (..., 4)"):
        du.on_white(array)


# ---- Measuring -----------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, [0], [21], [2.5], [], "ab"])
def test_steps_to_measure_at_that_are_none(steps):
    with refused("steps=", "whole numbers from 1 to T = 20"):
        du.denoising_losses(silent, pictures(), SCHEDULE, steps=steps)


@pytest.mark.parametrize("batch", [0, -1, 2.5])
def test_a_batch_that_is_none(batch):
    with refused("batch=", "1 or more"):
        du.denoising_losses(silent, pictures(), SCHEDULE, steps=[3], batch=batch)


def test_pictures_to_measure_that_are_not_finite():
    with refused("x: NaN or infinity"):
        du.denoising_losses(silent, pictures() * NAN, SCHEDULE, steps=[3])


@pytest.mark.parametrize(
    "fake",
    [np.full((8, 4), NAN), np.zeros((8, 3)), np.zeros(8), "features"],
    ids=["NaN", "width", "vector", "text"],
)
@pytest.mark.parametrize(
    "measure", [du.frechet_distance, du.precision_recall_density_coverage]
)
def test_features_that_are_no_tables(measure, fake):
    """NaN was no error: nothing is nearer than NaN, so all four scores were 0."""
    real = np.random.default_rng(0).normal(size=(8, 4))
    with refused("features"):
        measure(real, fake)


@pytest.mark.parametrize("k", [1.0, True, "2"])
def test_a_number_of_neighbours_that_is_none(k):
    with refused("k="):
        du.nearest_pictures(pictures(), pictures(), k=k)


@pytest.mark.parametrize("shape", [(20, 3, 8, 8), (3, 16, 16)])
def test_features_of_pictures_that_are_no_sprites(shape):
    with refused("pictures have shape", "(N, 16, 16, 3)"):
        du.sprite_features(torch.zeros(shape))


@pytest.mark.parametrize("n_cfeat", [0, -1, 2.5])
def test_test_contexts_of_no_length(n_cfeat):
    with refused("n_cfeat="):
        du.gen_tst_context(n_cfeat)


def test_a_grid_of_no_rows(tmp_path):
    with refused("n_rows=0"):
        du.plot_grid(pictures(), 3, 0, f"{tmp_path}/", 0)
    with refused("nrows=0"):
        du.plot_sample(torch.rand(2, *SHAPE), 3, 0, f"{tmp_path}/", "a", 0)


# ---- Instruments without ipywidgets (row 13) -----------------------------------------


def draw(size, word="a"):
    return du.show_images(pictures(), zoom=size), f"size {size}, {word}"


def test_without_ipywidgets_the_first_picture_and_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # so that importing it fails
    instrument = du.explore(draw, "noise", {"size": 2}, size=(1, 2), word=("a", "b"))
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "pip install ipywidgets" in printed
    data, metadata = instrument._repr_mimebundle_()
    assert sorted(data) == ["image/png", "text/plain"]
    assert data["text/plain"] == "noise. size 2, a"
    assert metadata["image/png"]["alt"] == "noise. size 2, a"
    assert np.array_equal(instrument.picture, draw(2)[0])
    assert {name: knob.value for name, knob in instrument.knobs.items()} == {
        "size": 2,
        "word": "a",
    }
    instrument.redraw()


def test_with_ipywidgets_nothing_is_printed(capsys):
    du.explore(draw, "noise", size=(1, 2))
    assert capsys.readouterr().out == ""


def test_a_start_that_names_no_knob():
    with refused("start: ", "{name of a knob"):
        du.explore(draw, "noise", 2, size=(1, 2))


def test_a_listing_of_a_lambda():
    """Its line alone need not be Python."""
    uses = {"a": lambda x: x + 1}
    assert "lambda x: x + 1" in du.show_source(uses["a"]).data


@pytest.mark.parametrize("wrong", [pictures().numpy(), np.zeros((4, 4), np.uint8), 3])
def test_pictures_that_are_in_the_models_range_already(wrong):
    """Floats from 0 to 1 all became nearly -1."""
    with refused("pictures: ", "uint8 (..., H, W, C)"):
        du.to_model_range(wrong)


@pytest.mark.parametrize("options", [(), "word", 5, None])
def test_knobs_without_options(options):
    with refused("size=", "a list of options"):
        du.explore(draw, "noise", size=options)


@pytest.mark.parametrize("drawn", [None, "a picture", (None, "caption")])
def test_an_instrument_that_draws_nothing(drawn):
    with refused("draw returned", "PIL image or a figure"):
        du.explore(lambda size: drawn, "noise", size=(1, 2))


# ---- pytest -n on notebooks (row 16) -------------------------------------------------


@pytest.fixture
def plugin():
    """notebooks/conftest.py as a module."""
    path = du.COURSE / "notebooks" / "conftest.py"
    spec = importlib.util.spec_from_file_location("conftest_of_notebooks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "dist, used",
    [
        ("load", "loadfile"),
        ("worksteal", "loadfile"),
        ("loadgroup", "loadfile"),
        ("loadscope", "loadscope"),
        ("loadfile", "loadfile"),
        ("each", "each"),
        ("no", "no"),
    ],
)
def test_the_cells_of_a_notebook_stay_on_one_worker(plugin, dist, used):
    config = types.SimpleNamespace(option=types.SimpleNamespace(dist=dist))
    plugin.pytest_configure(config)
    assert config.option.dist == used


def test_without_xdist_notebooks_run_as_ever(plugin):
    config = types.SimpleNamespace(option=types.SimpleNamespace())
    plugin.pytest_configure(config)
    assert plugin.pytest_report_header(config) is None
