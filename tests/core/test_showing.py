"""Pictures are shown pixel for pixel in true colours, all of them; animations play without network and save as GIFs."""

import base64
import html
import inspect
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import diffusion_utilities as du


def colours(*shape: int, seed: int = 0) -> np.ndarray:
    """Random uint8 pictures (..., H, W, 3) in which no pixel is white, so that gaps can be told apart."""
    return np.random.default_rng(seed).integers(0, 255, (*shape, 3), dtype=np.uint8)


# ---------------------------------------------------------------------------------------------------------------- colours


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
    assert (
        np.array_equal(du.to_pictures(du.to_model_range(every)), every)
        and du.to_pictures(every) is every
    )


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
    assert (
        du.to_pictures(x.double())[2, 0, 0, 0]
        == du.to_pictures(x.bfloat16())[2, 0, 0, 0]
        == 128
    )


# ------------------------------------------------------------------------------------------------------------------ grids


def cells(
    picture: Image.Image, height: int, width: int, columns: int, rows: int, zoom: int
) -> np.ndarray:
    """Cut a grid without labels into its cells (rows * columns, height, width, 3), and prove that each pixel is a zoom x zoom block."""
    pixels = np.asarray(picture)
    assert pixels.shape == (
        (rows * (height + 1) + 1) * zoom,
        (columns * (width + 1) + 1) * zoom,
        3,
    )
    small = pixels[::zoom, ::zoom]
    assert np.array_equal(small.repeat(zoom, 0).repeat(zoom, 1), pixels), "blurred"
    return (
        small[1:, 1:]
        .reshape(rows, height + 1, columns, width + 1, 3)
        .swapaxes(1, 2)
        .reshape(-1, height + 1, width + 1, 3)[:, :-1, :-1]
    )


@given(
    n=st.integers(1, 13), columns=st.one_of(st.none(), st.integers(1, 15)), zoom=st.integers(1, 4),
    height=st.sampled_from([1, 5, 8]), width=st.sampled_from([1, 4, 8]), as_tensor=st.booleans(),
)  # fmt: skip
def test_show_images_shows_every_picture_exactly(
    n, columns, zoom, height, width, as_tensor
):
    """Each picture stands in its place, pixel for pixel; what is left over is white."""
    pictures = colours(n, height, width)
    grid = du.show_images(
        du.to_model_range(pictures) if as_tensor else pictures, columns, zoom
    )
    columns = columns or min(8, n)
    shown = cells(grid, height, width, columns, -(-n // columns), zoom)
    assert np.array_equal(shown[:n], pictures) and (shown[n:] == 255).all()


def test_show_images_with_labels_leaves_the_pictures_alone():
    """Labels stand left and above, outside the grid; titles give the number of columns."""
    pictures = colours(6, 8, 8)
    plain, labelled = (
        du.show_images(pictures, 3, 4),
        du.show_images(
            pictures, zoom=4, rows=("first", "second"), titles=("a", "b", "c")
        ),
    )
    left, top = labelled.width - plain.width, labelled.height - plain.height
    assert left > 20 and top > 10
    assert np.array_equal(np.asarray(labelled)[top:, left:], np.asarray(plain))
    ink = np.asarray(labelled.convert("L")) < 128
    assert (
        ink[top : top + plain.height // 2, :left].any()
        and ink[top + plain.height // 2 :, :left].any()
        and ink[:top, left:].any()
    )


def test_show_images_of_digits_in_their_own_range():
    digits = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    shown = cells(du.show_images(digits, 3, 2, value_range=(0, 1)), 8, 8, 3, 1, 2)
    assert shown[:, 0, 0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


def test_filmstrip_is_a_labelled_row_for_each_entry():
    rows = {"epoch 0": colours(4, 8, 8), "epoch 31": colours(4, 8, 8, seed=1)}
    strip = du.filmstrip({k: du.to_model_range(v) for k, v in rows.items()}, zoom=2)
    expected = du.show_images(
        np.concatenate(list(rows.values())), 4, 2, rows=tuple(rows)
    )
    assert np.array_equal(np.asarray(strip), np.asarray(expected))


# ------------------------------------------------------------------------------------------------------------- animations


@given(n=st.integers(1, 9), nrows=st.integers(1, 10), frames=st.integers(1, 3))
def test_plot_sample_shows_every_picture_in_every_frame(n, nrows, frames):
    """One row, one column, rows that do not divide the count, more rows than pictures."""
    pictures = colours(frames, n, 8, 8)
    animation = du.plot_sample(
        du.to_model_range(pictures).numpy(), n, nrows, "", "", None
    )
    columns = -(-n // nrows)
    for frame, expected in zip(animation.frames, pictures, strict=True):
        shown = cells(Image.fromarray(frame), 8, 8, columns, -(-n // columns), 1)
        assert np.array_equal(shown[:n], expected) and (shown[n:] == 255).all()


def test_plot_sample_takes_the_first_n_pictures():
    pictures = colours(2, 6, 8, 8)
    few = du.plot_sample(du.to_model_range(pictures).numpy(), 4, 2, "", "", None)
    assert np.array_equal(
        few.frames, du.animate(du.to_model_range(pictures[:, :4]), columns=2).frames
    )


def embedded_pngs(html: str) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'data:image/png;base64,([^"]+)"', html)
    ]


def test_the_player_needs_nothing_from_the_network():
    html = re.sub(
        r'data:image/png;base64,[^"]+',
        "data:",
        du.animate(torch.randn(5, 4, 3, 8, 8)).to_jshtml(),
    )
    assert not re.search(r"https?:|//|@import|\bsrc=\"(?!data:)|<link", html)


def test_the_player_holds_every_frame_and_the_last_one_exactly():
    """The strip is all frames, one below the other, pixel for pixel; without JavaScript the last frame stands there, in true colours."""
    animation = du.animate(du.to_model_range(colours(5, 4, 8, 8)), columns=2, zoom=4)
    html = animation.to_jshtml()
    last, strip = embedded_pngs(html)
    height, width = animation.frames.shape[1:3]
    assert np.array_equal(
        np.asarray(last.convert("RGB")), animation.frames[-1]
    ) and strip.size == (width, 5 * height)
    assert (
        f'width="{width}" height="{height}"' in html
        and f"width:{4 * width}px" in html
        and html.count("image-rendering:pixelated") == 2
    )
    assert 'max="4"' in html and "of 5" in html


def test_the_strip_keeps_true_colours_of_sprites():
    """Pictures of few colours, as sprites are, come through the palette of the strip unchanged."""
    palette = colours(16)
    pictures = palette[np.random.default_rng(1).integers(0, 16, (3, 4, 16, 16))]
    animation = du.animate(du.to_model_range(pictures))
    _, strip = embedded_pngs(animation.to_jshtml())
    assert (
        np.abs(
            np.asarray(strip.convert("RGB")).astype(int).reshape(animation.frames.shape)
            - animation.frames
        ).max()
        <= 8
    )


def test_each_player_has_its_own_name_and_speed():
    animation = du.animate(torch.zeros(2, 1, 3, 8, 8), fps=4)
    one, two = (
        re.search(r'id="(sprites-\w+)"', animation.to_jshtml()).group(1)
        for _ in range(2)
    )
    assert (
        one != two
        and "}, 250)" in animation.to_jshtml()
        and "}, 100)" in animation.to_jshtml(fps=10)
    )
    assert animation._repr_html_().startswith("<div")


def test_labels_are_text_not_html():
    """A label such as "w < 1" or one with quotes is shown as it is, and cannot end a tag."""
    html = du.animate({'<b>w < 1</b> "x"': torch.zeros(2, 1, 3, 8, 8)}).to_jshtml()
    assert (
        "<b>" not in html
        and "&lt;b&gt;w &lt; 1" in html
        and 'aria-label="sampling, one row each: &lt;b' in html
    )


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_the_gif_has_every_frame(frames, tmp_path):
    """Readable by Pillow, endless, enlarged by a whole number, and the last frame stays a second."""
    animation = du.animate(
        torch.randn(frames, 6, 3, 16, 16, generator=torch.Generator().manual_seed(1)),
        columns=3,
        zoom=2,
    )
    animation.save(tmp_path / "a.gif", fps=5)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == frames and gif.size == animation.picture().size == (
            2 * (3 * 17 + 1),
            2 * (2 * 17 + 1),
        )
        durations = []
        for i in range(frames):
            gif.seek(i)
            durations.append(gif.info.get("duration"))
        if frames > 1:
            assert gif.info["loop"] == 0 and durations == [200] * (frames - 1) + [1000]
    assert [f.name for f in tmp_path.iterdir()] == ["a.gif"]


def test_the_gif_keeps_the_colours_of_sprites(tmp_path):
    palette = colours(12)
    pictures = palette[np.random.default_rng(1).integers(0, 12, (3, 2, 16, 16))]
    animation = du.animate(du.to_model_range(pictures))
    animation.save(tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        for i in range(3):
            gif.seek(i)
            assert (
                np.abs(
                    np.asarray(gif.convert("RGB")).astype(int)
                    - np.asarray(animation.picture(i))
                ).max()
                <= 8
            )


def test_an_interrupted_gif_leaves_the_old_one(tmp_path, monkeypatch):
    animation = du.animate(torch.randn(3, 2, 3, 8, 8))
    animation.save(tmp_path / "a.gif")
    before = (tmp_path / "a.gif").read_bytes()

    def broken(self, *arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        animation.save(tmp_path / "a.gif")
    assert (tmp_path / "a.gif").read_bytes() == before and len(
        list(tmp_path.iterdir())
    ) == 1


def test_several_stores_move_together_as_labelled_rows():
    stores = {"DDPM": colours(3, 4, 8, 8), "DDIM": colours(3, 4, 8, 8, seed=1)}
    animation = du.animate({k: du.to_model_range(v) for k, v in stores.items()}, zoom=3)
    assert (
        animation.labels == ("DDPM", "DDIM")
        and "<span>DDIM</span>" in animation.to_jshtml()
    )
    for i, frame in enumerate(animation.frames):
        shown = cells(Image.fromarray(frame), 8, 8, 4, 2, 1)
        assert np.array_equal(
            shown, np.concatenate([stores["DDPM"][i], stores["DDIM"][i]])
        )
    assert (
        animation.picture().width > animation.frames.shape[2] * 3
    )  # room for the labels


# ------------------------------------------------------------------------------------------------- checkpoints, exploring


def test_compare_checkpoints_gives_each_model_the_same_x_T_and_noise():
    """Two equal models give equal rows, another model another row; a second call gives the same again."""
    torch.manual_seed(1)
    one, other = du.ContextUnet(3, 8, 5, 8), du.ContextUnet(3, 8, 5, 8)
    schedule, seen = du.NoiseSchedule.linear(10), []

    def sample(model, generator):
        samples, frames = du.sample_ddpm(
            model, schedule, shape=(2, 3, 8, 8), generator=generator, keep=4
        )
        seen.append(frames[0])
        return samples, frames

    animation, samples = du.compare_checkpoints(
        {"a": one, "b": one, "c": other}, sample, seed=3
    )
    assert list(samples) == ["a", "b", "c"] and all(
        torch.equal(x_T, seen[0]) for x_T in seen
    )
    assert torch.equal(samples["a"], samples["b"]) and not torch.equal(
        samples["a"], samples["c"]
    )
    assert len(animation.frames) == 4 and animation.labels == ("a", "b", "c")
    shown = cells(Image.fromarray(animation.frames[-1]), 8, 8, 2, 3, 1)
    assert np.array_equal(shown[:2], shown[2:4]) and np.array_equal(
        shown[:2], du.to_pictures(samples["a"])
    )
    again = du.compare_checkpoints({"a": one}, sample, seed=3)[1]["a"]
    others = du.compare_checkpoints({"a": one}, sample, seed=4)[1]["a"]
    assert torch.equal(again, samples["a"]) and not torch.equal(others, samples["a"])


def shown_in(instrument):
    """The <img> elements of an instrument's page, as (PIL image, alt text)."""
    found = re.findall(
        r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"',
        instrument._view.value,
    )
    return [
        (Image.open(io.BytesIO(base64.b64decode(data))), alt) for alt, data in found
    ]


class TestExplore:
    def draw(self, epoch, w, kind="a", root=False):
        self.drawn.append((epoch, w, kind, root))
        return Image.new(
            "RGB", (4, 4), (epoch, 255 * root, 0)
        ), f"epoch {epoch} & <w> {w}"

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
        instrument.knobs["epoch"].value, instrument.knobs["w"].value = 31, 2.0
        instrument.knobs["kind"].value, instrument.knobs["root"].value = "b", True
        assert self.drawn == [
            (4, 0.0, "a", False),
            (31, 0.0, "a", False),
            (31, 2.0, "a", False),
            (31, 2.0, "b", False),
            (31, 2.0, "b", True),
        ]
        [(picture, alt)] = shown_in(instrument)  # one, however often it was turned
        assert picture.getpixel((0, 0)) == (31, 255, 0) and instrument.picture.getpixel(
            (0, 0)
        ) == (31, 255, 0)
        assert (
            html.unescape(alt) == "a square. epoch 31 & <w> 2.0"
            and "<w>" not in instrument._view.value
        )

    def test_knobs_fit_their_options(self, instrument):
        kinds = {name: type(knob).__name__ for name, knob in instrument.knobs.items()}
        assert kinds == {
            "epoch": "SelectionSlider",
            "w": "SelectionSlider",
            "kind": "ToggleButtons",
            "root": "Checkbox",
        }

    def test_a_page_without_a_kernel_has_the_picture_and_its_words(self, instrument):
        bundle = instrument._repr_mimebundle_()
        assert bundle["text/plain"] == "a square. epoch 4 & <w> 0.0"
        assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).getpixel(
            (0, 0)
        ) == (4, 0, 0)
        assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"]

    def test_figures_are_closed(self):
        before = plt.get_fignums()
        instrument = du.explore(
            lambda n: plt.figure(figsize=(2, 1)), "a figure", n=(1, 2, 3)
        )
        for n in (2, 3, 1):
            instrument.knobs["n"].value = n
        assert plt.get_fignums() == before and instrument.picture.width > 50

    def test_a_start_that_is_no_option_is_named(self):
        for start in ({"n": 5}, {"m": 1}):
            with pytest.raises(ValueError, match="start has {.*}; expected options of"):
                du.explore(
                    lambda n: Image.new("RGB", (1, 1)), "nothing", start, n=(1, 2)
                )

    def test_numbers_0_and_1_are_no_box_to_tick_and_words_may_lack(self):
        instrument = du.explore(
            lambda level: Image.new("RGB", (1, 1)), "nothing", level=(0, 1)
        )
        assert (
            type(instrument.knobs["level"]).__name__ == "SelectionSlider"
            and instrument._repr_mimebundle_()["text/plain"] == "nothing"
        )


def test_show_source_shows_the_code():
    assert "1 - schedule.ab" in du.show_source(du.perturb_input).data
    assert "class BasicUNet" in du.show_source(du.BasicUNet).data


@pytest.mark.parametrize(
    "thing",
    [
        du.NoiseSchedule,
        du.denoise_add_noise,
        du.sample_ddpm,
        du.diffusion_loss,
        du.ContextUnet,
    ],
)
def test_a_listing_keeps_indentation_and_fits_the_page(thing):
    """Long lines are broken, at commas in code and at spaces in docstrings; what they say stays the same."""
    listing = (
        du.show_source(thing).data.removeprefix("```python\n").removesuffix("\n```")
    )
    source = inspect.getsource(thing)
    assert listing.replace("\n", "").replace(" ", "") == source.replace(
        "\n", ""
    ).replace(" ", "")
    docstrings = [
        re.findall(r'""".*?"""', text, flags=re.DOTALL) for text in (source, listing)
    ]
    assert max(len(line) for text in docstrings[1] for line in text.splitlines()) <= 110
    prose = {line for text in docstrings[0] for line in text.splitlines()}
    for line in filter(str.strip, source.splitlines()):
        if (
            line.strip() not in prose and line not in prose
        ):  # short or long, a line of code begins where it began
            assert any(shown.startswith(line[:20]) for shown in listing.splitlines()), (
                line
            )
