"""Pictures are shown pixel for pixel in true colours; animations need no network.

In a browser: tests/lessons/test_browser.py.
"""

import base64
import html
import inspect
import io
import re
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import diffusion_utilities as du


def colours(*shape: int, seed: int = 0) -> np.ndarray:
    """Random uint8 pictures (..., H, W, 3) without white pixels, as gaps have them."""
    return np.random.default_rng(seed).integers(0, 255, (*shape, 3), dtype=np.uint8)


# ---- colours -------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_unorm_maps_a_fixed_range_and_clips(make):
    x = make([-3.0, -1.0, -0.5, 0.0, 1.0, 7.0])
    assert du.unorm(x).tolist() == pytest.approx([0, 0, 0.25, 0.5, 1, 1])


def test_norm_all_takes_the_first_frames_and_pictures():
    store = np.random.default_rng(0).normal(size=(5, 4, 3, 2, 2))
    shown = du.norm_all(store, 3, 2)
    np.testing.assert_allclose(shown, np.clip(store[:3, :2] / 2 + 0.5, 0, 1))


def test_norm_torch_gives_a_tensor_on_the_cpu_without_gradient():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    shown = du.norm_torch(x)
    torch.testing.assert_close(shown, (x.detach() / 2 + 0.5).clamp(0, 1))
    assert shown.device.type == "cpu" and not shown.requires_grad
    assert torch.equal(du.norm_torch(x.detach().numpy()), shown)


@given(st.integers(0, 2**32 - 1))
def test_to_pictures_undoes_to_model_range_exactly(seed):
    """All 256 values survive the way to the model's range and back."""
    pictures = np.random.default_rng(seed).integers(
        0, 256, (2, 5, 7, 3), dtype=np.uint8
    )
    assert np.array_equal(du.to_pictures(du.to_model_range(pictures)), pictures)


def test_to_pictures_of_every_value():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(du.to_pictures(du.to_model_range(every)), every)
    assert du.to_pictures(every) is every


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_to_pictures_shapes(lead, channels):
    x = torch.rand(*lead, channels, 4, 6, requires_grad=True)
    pictures = du.to_pictures(x, (0, 1))
    assert pictures.shape == (*lead, 4, 6, 3) and pictures.dtype == np.uint8
    if channels == 1:
        assert (pictures[..., 0] == pictures[..., 2]).all()


def test_to_pictures_clips_outside_its_range():
    x = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0]).view(5, 1, 1, 1)
    assert du.to_pictures(x)[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    assert du.to_pictures(x, (0, 1))[:, 0, 0, 0].tolist() == [0, 0, 0, 255, 255]
    for same in (x.double(), x.bfloat16()):
        assert du.to_pictures(same)[2, 0, 0, 0] == 128


# ---- grids ---------------------------------------------------------------------------


def cells(
    picture: Image.Image, height: int, width: int, columns: int, rows: int, zoom: int
) -> np.ndarray:
    """Cut a grid without labels into its cells (rows * columns, height, width, 3).

    Fails unless each pixel is a zoom x zoom block.
    """
    pixels = np.asarray(picture)
    grid_height = rows * (height + 1) + 1
    grid_width = columns * (width + 1) + 1
    assert pixels.shape == (grid_height * zoom, grid_width * zoom, 3)
    small = pixels[::zoom, ::zoom]
    assert np.array_equal(small.repeat(zoom, 0).repeat(zoom, 1), pixels), "blurred"
    grid = small[1:, 1:].reshape(rows, height + 1, columns, width + 1, 3)
    places = grid.swapaxes(1, 2).reshape(-1, height + 1, width + 1, 3)
    return places[:, :-1, :-1]


@given(
    n=st.integers(1, 13),
    columns=st.one_of(st.none(), st.integers(1, 15)),
    zoom=st.integers(1, 4),
    height=st.sampled_from([1, 5, 8]),
    width=st.sampled_from([1, 4, 8]),
    as_tensor=st.booleans(),
)
def test_show_images_shows_every_picture_exactly(
    n, columns, zoom, height, width, as_tensor
):
    """Each picture stands in its place, pixel for pixel; what is left over is white."""
    pictures = colours(n, height, width)
    given = du.to_model_range(pictures) if as_tensor else pictures
    grid = du.show_images(given, columns, zoom)
    columns = columns or min(8, n)
    shown = cells(grid, height, width, columns, -(-n // columns), zoom)
    assert np.array_equal(shown[:n], pictures)
    assert (shown[n:] == 255).all()


def test_show_images_with_labels_leaves_the_pictures_alone():
    """Labels stand outside the grid, and titles give the number of columns."""
    pictures = colours(6, 8, 8)
    plain = du.show_images(pictures, 3, 4)
    labelled = du.show_images(
        pictures, zoom=4, rows=("first", "second"), titles=("a", "b", "c")
    )
    left = labelled.width - plain.width
    top = labelled.height - plain.height
    assert left > 20 and top > 10
    assert np.array_equal(np.asarray(labelled)[top:, left:], np.asarray(plain))
    ink = np.asarray(labelled.convert("L")) < 128
    middle = top + plain.height // 2
    assert ink[top:middle, :left].any()
    assert ink[middle:, :left].any()
    assert ink[:top, left:].any()


def test_show_images_of_digits_in_their_own_range():
    digits = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    shown = cells(du.show_images(digits, 3, 2, value_range=(0, 1)), 8, 8, 3, 1, 2)
    assert shown[:, 0, 0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


def test_filmstrip_is_a_labelled_row_for_each_entry():
    rows = {"epoch 0": colours(4, 8, 8), "epoch 31": colours(4, 8, 8, seed=1)}
    strip = du.filmstrip({k: du.to_model_range(v) for k, v in rows.items()}, zoom=2)
    pictures = np.concatenate(list(rows.values()))
    expected = du.show_images(pictures, 4, 2, rows=tuple(rows))
    assert np.array_equal(np.asarray(strip), np.asarray(expected))


# ---- animations ----------------------------------------------------------------------


@given(n=st.integers(1, 9), nrows=st.integers(1, 10), frames=st.integers(1, 3))
def test_plot_sample_shows_every_picture_in_every_frame(n, nrows, frames):
    """Also where rows do not divide the count, or are more than the pictures."""
    pictures = colours(frames, n, 8, 8)
    store = du.to_model_range(pictures).numpy()
    animation = du.plot_sample(store, n, nrows, "", "", None)
    columns = -(-n // nrows)
    rows = -(-n // columns)
    for frame, expected in zip(animation.frames, pictures, strict=True):
        shown = cells(Image.fromarray(frame), 8, 8, columns, rows, 1)
        assert np.array_equal(shown[:n], expected)
        assert (shown[n:] == 255).all()


def test_plot_sample_takes_the_first_n_pictures():
    store = du.to_model_range(colours(2, 6, 8, 8))
    few = du.plot_sample(store.numpy(), 4, 2, "", "", None)
    expected = du.animate(store[:, :4], columns=2)
    assert np.array_equal(few.frames, expected.frames)


def decoded(png: str) -> Image.Image:
    """A picture from the base64 text of its PNG file."""
    return Image.open(io.BytesIO(base64.b64decode(png)))


def embedded_pictures(page: str) -> list[Image.Image]:
    return [decoded(png) for png in re.findall(r'data:image/png;base64,([^"]+)"', page)]


def test_the_player_needs_nothing_from_the_network():
    page = du.animate(torch.randn(5, 4, 3, 8, 8)).to_jshtml()
    page = re.sub(r'data:image/png;base64,[^"]+', "data:", page)
    assert not re.search(r"https?:|//|@import|\bsrc=\"(?!data:)|<link", page)


def test_the_player_has_no_empty_line():
    """Markdown, which nbconvert can write, ends a block of HTML at an empty line."""
    page = du.animate({"a": torch.zeros(2, 1, 3, 8, 8)}).to_jshtml()
    assert all(line.strip() for line in page.splitlines())


def test_the_player_holds_every_frame_and_the_last_one_exactly():
    """All frames are one picture; without JavaScript the last frame is shown."""
    animation = du.animate(du.to_model_range(colours(5, 4, 8, 8)), columns=2, zoom=4)
    page = animation.to_jshtml()
    last, strip = embedded_pictures(page)
    height, width = animation.frames.shape[1:3]
    assert np.array_equal(np.asarray(last.convert("RGB")), animation.frames[-1])
    assert strip.size == (width, 5 * height)
    assert f'width="{width}" height="{height}"' in page
    assert page.count(f"width:{4 * width}px;") == 2
    assert page.count("image-rendering:pixelated") == 2


def largest_difference(picture: Image.Image, expected: np.ndarray) -> int:
    """The largest difference of two pictures' channel values, of 255."""
    shown = np.asarray(picture.convert("RGB")).astype(int)
    return np.abs(shown - expected.reshape(shown.shape)).max()


def test_the_strip_keeps_true_colours_of_sprites():
    """The palette of the strip suffices for pictures of few colours, as sprites are."""
    palette = colours(16)
    which = np.random.default_rng(1).integers(0, 16, (3, 4, 16, 16))
    animation = du.animate(du.to_model_range(palette[which]))
    _, strip = embedded_pictures(animation.to_jshtml())
    assert largest_difference(strip, animation.frames) <= 8


def test_each_player_has_its_own_name():
    animation = du.animate(torch.zeros(2, 1, 3, 8, 8))
    pages = [animation.to_jshtml(), animation._repr_html_()]
    names = [re.search(r'id="(sprites-\w+)"', page).group(1) for page in pages]
    assert names[0] != names[1]


def test_labels_are_text_not_html():
    """A label such as "w < 1", or one with quotes, cannot end a tag."""
    page = du.animate({'<b>$w < 1</b> "x"': torch.zeros(2, 1, 3, 8, 8)}).to_jshtml()
    assert "<b>" not in page
    assert "<span>&lt;b&gt;$w &lt; 1&lt;/b&gt; &quot;x&quot;</span>" in page
    assert 'aria-label="sampling, one row each: &lt;b&gt;$w &lt; 1' in page


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_the_gif_has_every_frame(frames, tmp_path):
    """It is endless and enlarged by a whole number; the last frame stays a second."""
    store = torch.randn(frames, 6, 3, 16, 16)
    animation = du.animate(store, columns=3, zoom=2)
    animation.save(tmp_path / "a.gif", fps=5)
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == frames
        assert gif.size == (2 * (3 * 17 + 1), 2 * (2 * 17 + 1))
        assert gif.size == animation.picture().size
        durations = []
        for i in range(frames):
            gif.seek(i)
            durations.append(gif.info.get("duration"))
        if frames > 1:
            assert gif.info["loop"] == 0
            assert durations == [200] * (frames - 1) + [1000]


def test_the_gif_keeps_the_colours_of_sprites(tmp_path):
    palette = colours(12)
    which = np.random.default_rng(1).integers(0, 12, (3, 2, 16, 16))
    animation = du.animate(du.to_model_range(palette[which]))
    animation.save(tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        for i in range(3):
            gif.seek(i)
            assert largest_difference(gif, np.asarray(animation.picture(i))) <= 8


def test_an_interrupted_gif_leaves_the_old_one(tmp_path, monkeypatch):
    animation = du.animate(torch.randn(3, 2, 3, 8, 8))
    animation.save(tmp_path / "a.gif")
    before = (tmp_path / "a.gif").read_bytes()

    def broken(self, *arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        animation.save(tmp_path / "a.gif")
    assert (tmp_path / "a.gif").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]


def test_several_stores_move_together_as_labelled_rows():
    stores = {"DDPM": colours(3, 4, 8, 8), "DDIM": colours(3, 4, 8, 8, seed=1)}
    animation = du.animate({k: du.to_model_range(v) for k, v in stores.items()}, zoom=3)
    assert animation.labels == ("DDPM", "DDIM")
    assert "<span>DDIM</span>" in animation.to_jshtml()
    for i, frame in enumerate(animation.frames):
        shown = cells(Image.fromarray(frame), 8, 8, 4, 2, 1)
        expected = np.concatenate([stores["DDPM"][i], stores["DDIM"][i]])
        assert np.array_equal(shown, expected)
    frame_width = animation.frames.shape[2] * 3
    assert animation.picture().width > frame_width  # room for the labels


# ---- checkpoints, exploring ----------------------------------------------------------


def test_compare_checkpoints_gives_each_model_the_same_x_T_and_noise():
    """Equal models give equal rows, another model another row, in each call."""
    torch.manual_seed(1)
    one = du.ContextUnet(3, 8, 5, 8)
    other = du.ContextUnet(3, 8, 5, 8)
    schedule = du.NoiseSchedule.linear(10)
    starts = []

    def sample(model, generator):
        samples, frames = du.sample_ddpm(
            model, schedule, shape=(2, 3, 8, 8), generator=generator, keep=4
        )
        starts.append(frames[0])
        return samples, frames

    models = {"a": one, "b": one, "c": other}
    animation, samples = du.compare_checkpoints(models, sample, seed=3)
    assert list(samples) == ["a", "b", "c"]
    assert all(torch.equal(x_T, starts[0]) for x_T in starts)
    assert torch.equal(samples["a"], samples["b"])
    assert not torch.equal(samples["a"], samples["c"])
    assert len(animation.frames) == 4
    assert animation.labels == ("a", "b", "c")
    shown = cells(Image.fromarray(animation.frames[-1]), 8, 8, 2, 3, 1)
    assert np.array_equal(shown[:2], shown[2:4])
    assert np.array_equal(shown[:2], du.to_pictures(samples["a"]))
    again = du.compare_checkpoints({"a": one}, sample, seed=3)[1]["a"]
    others = du.compare_checkpoints({"a": one}, sample, seed=4)[1]["a"]
    assert torch.equal(again, samples["a"])
    assert not torch.equal(others, samples["a"])


def shown_in(instrument):
    """The <img> elements of an instrument's page, as (PIL image, alt text)."""
    pattern = r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"'
    found = re.findall(pattern, instrument._view.value)
    return [(decoded(png), alt) for alt, png in found]


def nothing(**settings):
    """A picture of one pixel, whatever the settings."""
    return Image.new("RGB", (1, 1))


class TestExplore:
    def draw(self, epoch, w, kind="a", root=False):
        self.drawn.append((epoch, w, kind, root))
        picture = Image.new("RGB", (4, 4), (epoch, 255 * root, 0))
        return picture, f"epoch {epoch} & <w> {w}"

    @pytest.fixture
    def instrument(self):
        self.drawn = []
        return du.explore(
            self.draw,
            "a square",
            {"epoch": 4},
            epoch=(0, 4, 31),
            w=[0.0, 2.0],
            kind=["a", "b"],
            root=(False, True),
        )

    def test_redraws_what_the_knobs_choose_in_place(self, instrument):
        instrument.knobs["epoch"].value = 31
        instrument.knobs["w"].value = 2.0
        instrument.knobs["kind"].value = "b"
        instrument.knobs["root"].value = True
        assert self.drawn == [
            (4, 0.0, "a", False),
            (31, 0.0, "a", False),
            (31, 2.0, "a", False),
            (31, 2.0, "b", False),
            (31, 2.0, "b", True),
        ]
        [(picture, alt)] = shown_in(instrument)  # one, however often it was turned
        assert picture.getpixel((0, 0)) == (31, 255, 0)
        assert instrument.picture.getpixel((0, 0)) == (31, 255, 0)
        assert html.unescape(alt) == "a square. epoch 31 & <w> 2.0"
        assert "<w>" not in instrument._view.value

    def test_knobs_fit_their_options(self, instrument):
        kinds = {name: type(knob).__name__ for name, knob in instrument.knobs.items()}
        assert kinds == {
            "epoch": "SelectionSlider",
            "w": "SelectionSlider",
            "kind": "ToggleButtons",
            "root": "Checkbox",
        }

    def test_jupyter_gets_a_widget_and_a_picture_with_alternative_text(
        self, instrument
    ):
        data, metadata = instrument._repr_mimebundle_()
        words = "a square. epoch 4 & <w> 0.0"
        assert decoded(data["image/png"]).getpixel((0, 0)) == (4, 0, 0)
        assert data["text/plain"] == words
        assert metadata == {"image/png": {"alt": words}}
        view = data["application/vnd.jupyter.widget-view+json"]
        assert view["model_id"] == instrument._box.model_id

    def test_figures_are_closed(self):
        before = plt.get_fignums()
        instrument = du.explore(
            lambda n: plt.figure(figsize=(2, 1)), "a figure", n=(1, 2, 3)
        )
        for n in (2, 3, 1):
            instrument.knobs["n"].value = n
        assert plt.get_fignums() == before
        assert instrument.picture.width > 50

    @pytest.mark.parametrize("start", [{"n": 5}, {"m": 1}])
    def test_a_start_that_is_no_option_is_named(self, start):
        with pytest.raises(ValueError, match="start has {.*}; expected options of"):
            du.explore(nothing, "nothing", start, n=(1, 2))

    def test_numbers_0_and_1_are_no_box_to_tick_and_words_may_lack(self):
        instrument = du.explore(nothing, "nothing", level=(0, 1))
        assert type(instrument.knobs["level"]).__name__ == "SelectionSlider"
        assert instrument.words == "nothing"


# ---- listings ------------------------------------------------------------------------


class Example:
    """This docstring is two lines long,
    and its class has an attribute.
    """

    shape = (1, 2)

    class Empty:
        """All that this body holds."""

    def method(self):
        """One line."""
        text = """
    This is no docstring.
"""

        def inner():
            """A docstring inside of a method, before a comment."""
            # the comment stays
            return text

        return inner  # and so does this one,    with its spaces

    def one_line(self): "beside the code"; return 1  # fmt: skip  # noqa: E702

    async def waiting(self):
        "in simple quotes"
        return 2


WITHOUT_DOCSTRINGS = '''\
class Example:
    shape = (1, 2)

    class Empty:
        """All that this body holds."""

    def method(self):
        text = """
    This is no docstring.
"""

        def inner():
            # the comment stays
            return text

        return inner  # and so does this one,    with its spaces

    def one_line(self): "beside the code"; return 1  # fmt: skip  # noqa: E702

    async def waiting(self):
        return 2'''


def listing(thing, **options):
    """The code of a listing."""
    shown = du.show_source(thing, **options).data
    return shown.removeprefix("```python\n").removesuffix("\n```")


class TestShowSource:
    def test_only_docstrings_are_left_out(self):
        assert listing(Example) == WITHOUT_DOCSTRINGS

    def test_with_docstrings_it_is_the_source(self):
        source = inspect.getsource(Example).removesuffix("\n")
        assert listing(Example, docstring=True) == source

    def test_a_method_is_moved_to_the_margin(self):
        source = inspect.getsource(du.ContextUnet.forward).removesuffix("\n")
        expected = textwrap.dedent(source)
        assert listing(du.ContextUnet.forward, docstring=True) == expected

    def test_a_text_that_stands_at_the_margin_stays_there(self):
        shown = listing(Example.method)
        assert shown.startswith("def method(self):\n    text =")
        assert '"""\nThis is no docstring.\n"""\n' in shown

    def test_jupyter_sees_a_block_of_python(self):
        assert du.show_source(du.unorm)._repr_markdown_() == (
            "```python\ndef unorm(x):\n    return (x * 0.5 + 0.5).clip(0, 1)\n```"
        )


# ---- Figures with words --------------------------------------------------------------


def shown(monkeypatch, picture, alt):
    """What `show` hands to Jupyter: (object, metadata)."""
    import IPython.display

    calls = []

    def noted(thing, metadata):
        calls.append((thing, metadata))

    monkeypatch.setattr(IPython.display, "display", noted)
    du.show(picture, alt)
    [call] = calls
    return call


def test_a_picture_is_shown_with_its_words(monkeypatch):
    picture = Image.new("RGB", (4, 4))
    thing, metadata = shown(monkeypatch, picture, "a black square")
    assert thing is picture
    assert metadata == {"image/png": {"alt": "a black square"}}


def test_a_figure_is_shown_once(monkeypatch):
    figure = du.plt.figure()
    thing, _ = shown(monkeypatch, figure, "nothing")
    assert thing is figure
    assert not du.plt.fignum_exists(figure.number)


def test_what_is_no_picture_is_not_shown():
    with pytest.raises(ValueError, match="expected a PIL image.*or a figure"):
        du.show([1, 2], "a list")


def test_a_network_is_drawn_with_heights_for_resolutions():
    blocks = [("x", 3, 16), ("down", 64, 8), ("up", 64, 16)]
    figure = du.unet_figure(blocks, skips=[(0, 2)], entering={"t": [1, 2]})
    boxes = [box for box in figure.axes[0].patches if isinstance(box, du.plt.Rectangle)]
    heights = [box.get_height() for box in boxes]
    assert heights == [1, 0.5, 1]
    assert boxes[0].get_width() < boxes[1].get_width() == boxes[2].get_width()
    words = [text.get_text() for text in figure.axes[0].texts]
    assert [word for word in words if word] == [
        "x\n3 x 16 x 16",
        "down\n64 x 8 x 8",
        "up\n64 x 16 x 16",
        "t",
        "t",
    ]
    du.plt.close(figure)
