"""What bad input gets: an error that says what was given, and what to do instead."""

import gc
import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear(20)
SPRITES = np.zeros((6, 16, 16, 3), dtype=np.uint8)
LABELS = np.eye(5, dtype=np.uint8)[[0, 1, 2, 3, 4, 0]]


def expect(error: type[Exception], *words: object):
    """An error of that type whose message holds all of the words."""
    lookaheads = [f"(?=.*{re.escape(str(word))})" for word in words]
    return pytest.raises(error, match="".join(lookaheads))


class Bomb:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


# ---- Arrays --------------------------------------------------------------------------


def dataset(sprites, labels, folder) -> du.CustomDataset:
    """A dataset of these arrays, read from two files in the folder."""
    sprite_file = folder / "s.npy"
    label_file = folder / "l.npy"
    np.save(sprite_file, sprites)
    np.save(label_file, labels)
    return du.CustomDataset(sprite_file, label_file, du.transform)


def test_missing_array(tmp_path):
    path = tmp_path / "no_such.npy"
    remedy = "data/make_sprites.py"
    with expect(FileNotFoundError, "no_such.npy", "does not exist", remedy):
        du.CustomDataset(path, path, None)


@pytest.mark.parametrize("shape", [(6, 3, 16, 16), (6, 16, 16), (6, 16, 16, 4)])
def test_sprites_of_another_shape(shape, tmp_path):
    sprites = np.zeros(shape, dtype=np.uint8)
    with expect(ValueError, "s.npy", shape, "(N, H, W, 3)", "load_sprite_pictures"):
        dataset(sprites, LABELS, tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_sprites_of_another_dtype(dtype, tmp_path):
    with expect(ValueError, "s.npy", dtype, "uint8"):
        dataset(SPRITES.astype(dtype), LABELS, tmp_path)


@pytest.mark.parametrize("labels", [LABELS[:4], LABELS.argmax(1)])
def test_labels_of_another_length_or_not_one_hot(labels, tmp_path):
    with expect(ValueError, "l.npy", labels.shape, "6 sprites", "one-hot rows"):
        dataset(SPRITES, labels, tmp_path)


def test_truncated_array(tmp_path):
    path = tmp_path / "s.npy"
    np.save(path, SPRITES)
    path.write_bytes(path.read_bytes()[:300])
    with expect(ValueError, "s.npy is damaged", "300 bytes; expected 4,736"):
        du.CustomDataset(path, path, None)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_array(content, tmp_path):
    path = tmp_path / "s.npy"
    path.write_bytes(content)
    with expect(ValueError, "s.npy", "not a NumPy array file"):
        du.CustomDataset(path, path, None)


def test_an_array_of_pickled_objects_is_not_run(tmp_path):
    path = tmp_path / "s.npy"
    trace = tmp_path / "ran"
    np.save(path, np.array([Bomb(trace)], dtype=object), allow_pickle=True)
    with expect(ValueError, "s.npy", "plain numbers"):
        du.CustomDataset(path, path, None)
    assert not trace.exists()


def test_unknown_part():
    with expect(ValueError, "part='validation'", "train, test, compositional"):
        du.load_sprites("validation")


@pytest.mark.parametrize(
    "name", ["sprites_16x16.npy", "sprite_labels_16x16.npy", "sprite_factors_16x16.csv"]
)
def test_a_folder_that_lacks_a_file(name, sprite_files):
    (sprite_files / name).unlink()
    with expect(FileNotFoundError, name, "make_sprites.py"):
        du.load_sprites("train", sprite_files)


def test_sprites_labels_and_factors_of_different_lengths(sprite_files):
    np.save(sprite_files / "sprite_labels_16x16.npy", LABELS)
    with expect(ValueError, "(6, 5) beside 260 sprites", "(260, 5), one-hot rows"):
        du.load_sprites("train", sprite_files)


def test_unknown_digits():
    with expect(ValueError, "name='kmnist'", "mnist, fashion_mnist"):
        du.load_digits("kmnist")


# ---- Pictures ------------------------------------------------------------------------


def png(path, size=(16, 16), colour=(200, 30, 30, 255), mode="RGBA"):
    """Write a PNG of one colour; its folder is made if it is missing."""
    path.parent.mkdir(exist_ok=True)
    Image.new("RGBA", size, colour).convert(mode).save(path)


def test_pictures_that_are_nowhere(tmp_path):
    words = ("nowhere", "does not exist", "folder of pictures", "sheet")
    with expect(FileNotFoundError, *words):
        du.load_sprite_pictures(tmp_path / "nowhere")


def test_an_empty_folder(tmp_path):
    with expect(ValueError, tmp_path, "anything drawn", "pictures found: 0"):
        du.load_sprite_pictures(tmp_path)


def test_a_folder_of_empty_pictures(tmp_path):
    png(tmp_path / "a.png", colour=(0, 0, 0, 0))
    words = (tmp_path, "anything drawn", "pictures found: 1", "a.png is empty")
    with expect(ValueError, *words):
        du.load_sprite_pictures(tmp_path)


def test_a_sheet_of_empty_tiles(tmp_path):
    sheet = tmp_path / "b.png"
    png(sheet, (32, 16), colour=(0, 0, 0, 0))
    words = (sheet, "anything drawn", "pictures found: 1", "b.png is empty")
    with expect(ValueError, *words):
        du.load_sprite_pictures(sheet)


@pytest.mark.parametrize("kept_bytes", [0, 20, 60])
def test_a_corrupt_png_is_named(kept_bytes, tmp_path):
    """The file is empty, or cut in the header or after it."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    file = tmp_path / "b.png"
    picture.save(file)
    file.write_bytes(file.read_bytes()[:kept_bytes])
    for path in (tmp_path, file):
        with expect(ValueError, "b.png", "not a picture", "save it again as PNG"):
            du.load_sprite_pictures(path)


@pytest.mark.parametrize("tile", [16, 0, -4, 100])
def test_a_sheet_that_the_tile_does_not_divide_is_named(tile, tmp_path):
    sheet = tmp_path / "sheet.png"
    png(sheet, (40, 24))
    words = ("sheet.png", "40x24", f"sides that tile={tile} divides", "tile size")
    with expect(ValueError, *words):
        du.load_sprite_pictures(sheet, tile)


@pytest.mark.parametrize("size", [(32, 32), (32, 24), (8, 8)])
def test_a_picture_of_another_size_in_a_folder_is_named_and_not_cut_up(
    size, tmp_path, capsys
):
    """It is an error where the picture is alone, else the picture is left out.

    (A whole folder: test_reading_sprites.py.)
    """
    width, height = size
    png(tmp_path / "b.png", size)
    with expect(ValueError, "b.png", f"{width}x{height}", "16x16", "sheet"):
        du.load_sprite_pictures(tmp_path)
    png(tmp_path / "a.png")
    pictures = du.load_sprite_pictures(tmp_path)
    assert len(pictures) == 1
    said = f"left out: b.png is {width}x{height} pixels; expected 16x16"
    assert capsys.readouterr().out.startswith(said)


def test_a_picture_that_was_refused_is_closed(tmp_path):
    """On Windows the learner could not remove it otherwise, as the error advises."""
    (tmp_path / "b.png").write_bytes(b"no picture")
    png(tmp_path / "c.png", (40, 24))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for path in (tmp_path, tmp_path / "c.png"):
            with pytest.raises(ValueError):
                du.load_sprite_pictures(path)
        gc.collect()


def test_a_folder_of_pngs_with_and_without_transparency(tmp_path):
    """Sorted by name, on white ground, without the empty one and the text file."""
    png(tmp_path / "b.png")
    png(tmp_path / "a.PNG", colour=(0, 0, 255, 255), mode="RGB")
    png(tmp_path / "c.png", colour=(0, 0, 0, 0))
    png(tmp_path / "d.png", colour=(255, 0, 0, 51))
    png(tmp_path / "e.png", colour=(0, 255, 0, 255), mode="P")
    (tmp_path / "notes.txt").write_text("not a picture")
    pictures = du.load_sprite_pictures(tmp_path)
    assert pictures.shape == (4, 16, 16, 3)
    assert pictures.dtype == np.uint8
    corners = pictures[:, 0, 0].tolist()
    assert corners == [[0, 0, 255], [200, 30, 30], [255, 204, 204], [0, 255, 0]]


def test_a_sheet_is_read_row_by_row(tmp_path):
    """White tiles are left out; any format of picture that Pillow reads will do."""
    sheet = np.full((16, 24, 3), 255, dtype=np.uint8)
    sheet[:8, :8] = 0
    sheet[:8, 16:] = 10
    sheet[8:, 8:16] = 20
    Image.fromarray(sheet).save(tmp_path / "sheet.bmp")
    tiles = du.load_sprite_pictures(tmp_path / "sheet.bmp", tile=8)
    assert tiles.shape == (3, 8, 8, 3)
    for tile, colour in zip(tiles, (0, 10, 20)):
        assert (tile == colour).all()


@pytest.mark.parametrize("value, expected", [(0, 0), (256 * 77 + 5, 77), (65535, 255)])
def test_16_bit_grey_is_scaled_not_clipped(value, expected, tmp_path):
    picture = np.full((16, 16), value, dtype=np.uint16)
    picture[0, 0] = 0
    Image.fromarray(picture).save(tmp_path / "a.png")
    pictures = du.load_sprite_pictures(tmp_path)
    assert (pictures[0, 1:] == expected).all()


# ---- Weights -------------------------------------------------------------------------


def test_missing_weights_list_what_there_is(tmp_path):
    (tmp_path / "model_4.pth").touch()
    with expect(FileNotFoundError, "model_5.pth", "model_4.pth", "weights/train.py"):
        du.load_state(tmp_path / "model_5.pth")
    with expect(FileNotFoundError, "nowhere", "none"):
        du.load_state(tmp_path / "nowhere" / "model_5.pth")


def saved_by_torch(content, path):
    torch.save({"a": content}, path)


def saved_by_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [saved_by_torch, saved_by_pickle])
def test_weights_that_would_run_code_are_not_run(save, tmp_path):
    path = tmp_path / "w.pth"
    trace = tmp_path / "ran"
    save(Bomb(trace), path)
    with expect(ValueError, "w.pth", "loaded safely"):
        du.load_state(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content, kind",
    [
        ([1, 2], "list"),
        ({"a": 3}, "dict"),
        ({"model": {"a": torch.zeros(1)}}, "dict"),
        ("text", "str"),
    ],
)
def test_a_pickle_that_is_no_state_dict(content, kind, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with expect(ValueError, "w.pth", kind, "not a state dict", "model.state_dict()"):
        du.load_state(path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_weights(share, tmp_path):
    path = tmp_path / "w.pth"
    du.save_weights(du.BasicUNet(), path)
    content = path.read_bytes()
    kept = int(share * len(content))
    path.write_bytes(content[:kept])
    with expect(ValueError, "w.pth", "loaded safely", "copy it again"):
        du.load_state(path)


def test_weights_of_another_size_leave_the_network_as_it_was(tmp_path):
    path = tmp_path / "w.pth"
    du.save_weights(du.ContextUnet(3, 8, 5, 16), path)
    model = du.ContextUnet(3, 16, 5, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counts = ("0 entries missing", "0 entries surplus", "of another shape")
    with expect(ValueError, "w.pth", "ContextUnet", *counts, "(3, 64, 5, 16)"):
        du.load_weights(model, path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_weights_of_another_network(tmp_path):
    path = tmp_path / "w.pth"
    du.save_weights(du.BasicUNet(), path)
    found = ("156 entries", "missing", "12 entries", "0 entries of another shape")
    with expect(ValueError, *found):
        du.load_weights(du.ContextUnet(3, 8, 5, 16), path)


# ---- Networks ------------------------------------------------------------------------


@pytest.mark.parametrize("height", [4, 10, 68, 0])
def test_a_height_that_does_not_work(height):
    with expect(ValueError, f"height={height}", "8 to 64", "16 for sprites"):
        du.ContextUnet(3, 8, 5, height)


def test_features_that_the_group_norms_cannot_divide():
    with expect(ValueError, "n_feat=12", "multiple of 8"):
        du.ContextUnet(3, 12, 5, 16)


@pytest.mark.parametrize(
    "shape", [(2, 3, 28, 28), (2, 1, 16, 16), (2, 3, 16, 8), (3, 16, 16)]
)
def test_pictures_that_the_network_was_not_built_for(shape):
    model = du.ContextUnet(3, 8, 5, 16)
    with expect(ValueError, shape, "(B, 3, 16, 16)", "height="):
        model(torch.zeros(shape), torch.tensor([0.5]))


@pytest.mark.parametrize("shape", [(2, 5), (5, 4), (5, 5, 1)])
def test_contexts_of_another_shape(shape):
    x = torch.zeros(5, 3, 16, 16)
    given = f"context has shape {shape}"
    with expect(ValueError, given, "expected (5, 5), one row for each picture"):
        du.ContextUnet(3, 8, 5, 16)(x, torch.tensor([0.5]), torch.zeros(shape))


def test_one_context_for_all_pictures_is_taken():
    x = torch.zeros(5, 3, 16, 16)
    model = du.ContextUnet(3, 8, 5, 16)
    out = model(x, torch.tensor([0.5]), torch.zeros(1, 5))
    assert out.shape == x.shape


# ---- Schedules and steps -------------------------------------------------------------


@pytest.mark.parametrize("make", [du.NoiseSchedule.linear, du.NoiseSchedule.cosine])
@pytest.mark.parametrize("T", [0, -3, 2.5, "500"])
def test_a_number_of_steps_that_is_none(make, T):
    with expect(ValueError, f"T={T!r}", "whole number"):
        make(T)


@pytest.mark.parametrize(
    "b",
    [[0.1, 0.2], [0.0], [0, 0.5, 1.0], [0, 0.5, -0.1], [[0, 0.1]], [0, float("nan")]],
)
def test_a_table_that_is_no_schedule(b):
    table = torch.tensor(b, dtype=torch.float64)
    with expect(ValueError, "b[0] = 0", "NoiseSchedule.linear"):
        du.NoiseSchedule(table)


def expect_bad_steps(t: int):
    return expect(ValueError, f"t={t}", "t_prev=", "0 <= t_prev < t <= T = 20")


@pytest.mark.parametrize(
    "t, t_prev", [(5, 5), (5, 6), (5, -1), (0, None), (21, None), (21, 3), (-1, None)]
)
def test_ddpm_steps_that_do_not_descend_within_the_schedule(t, t_prev):
    x = torch.zeros(1, 1, 2, 2)
    with expect_bad_steps(t):
        du.posterior(t, SCHEDULE, t_prev=t_prev)
    with expect_bad_steps(t):
        du.denoise_add_noise(x, t, x, SCHEDULE, t_prev=t_prev)


@pytest.mark.parametrize("t, t_prev", [(5, 5), (5, 6), (5, -1), (21, 3)])
def test_ddim_steps_that_do_not_descend_within_the_schedule(t, t_prev):
    x = torch.zeros(1, 1, 2, 2)
    with expect_bad_steps(t):
        du.denoise_ddim(x, t, t_prev, x, SCHEDULE)


@pytest.mark.parametrize("t", [-1, 21])
@pytest.mark.parametrize("jump", [du.perturb_input, du.predict_x0])
def test_a_noise_level_outside_the_schedule_does_not_wrap_round(jump, t):
    """Index -1 would silently be the noisy end of the table."""
    x = torch.zeros(1, 1, 2, 2)
    with expect(ValueError, t, "0 to T = 20"):
        jump(x, t, x, SCHEDULE)


def test_an_unknown_variance():
    x = torch.zeros(1, 1, 2, 2)
    with expect(ValueError, "variance='small'", "'beta' or 'beta_tilde'"):
        du.denoise_add_noise(x, 3, x, SCHEDULE, variance="small")
    with expect(ValueError, "variance='small'"):
        du.sample_ddpm(silent, SCHEDULE, shape=x.shape, variance="small")


@pytest.mark.parametrize(
    "frequencies",
    [torch.ones(20), torch.ones(21), torch.cat((torch.zeros(1), torch.ones(21)))],
)
def test_frequencies_of_steps_that_the_schedule_does_not_have(frequencies):
    x = torch.zeros(3, 1, 2, 2)
    with expect(ValueError, "expected T + 1 = 21 numbers, of which the first is 0"):
        du.diffusion_loss(silent, x, SCHEDULE, frequencies=frequencies)


# ---- Samplers ------------------------------------------------------------------------

both_samplers = pytest.mark.parametrize("sample", [du.sample_ddim, du.sample_ddpm])


def silent(x, t, c=None):
    """A model that predicts no noise."""
    return torch.zeros_like(x)


@both_samplers
@pytest.mark.parametrize("steps", [0, -1, 21])
def test_more_steps_than_there_are_or_none(sample, steps):
    with expect(ValueError, f"steps={steps}", "1 to T = 20"):
        sample(silent, SCHEDULE, shape=(1, 1, 2, 2), steps=steps)


@both_samplers
def test_shape_and_x_T_both_or_neither(sample):
    shape = (1, 1, 2, 2)
    with expect(ValueError, "give shape=(N, C, H, W), or", "x_T="):
        sample(silent, SCHEDULE)
    with expect(ValueError, shape, "both given"):
        sample(silent, SCHEDULE, shape=shape, x_T=torch.zeros(shape))


@pytest.mark.parametrize(
    "sample, steps",
    [(du.sample_ddim, 20.0), (du.sample_multistep, 20.0), (du.sample_multistep, None)],
)
def test_steps_that_are_no_whole_number(sample, steps):
    """(For `sample_ddim` None means all steps.)"""
    with expect(ValueError, f"steps={steps}", "a whole number"):
        sample(silent, SCHEDULE, shape=(1, 1, 2, 2), steps=steps)


@both_samplers
@pytest.mark.parametrize("rows", [1, 3])
def test_context_of_another_length(sample, rows):
    context = torch.zeros(rows, 5)
    given = f"context has shape ({rows}, 5); expected (2, n_cfeat)"
    with expect(ValueError, given, "one row for each picture"):
        sample(silent, SCHEDULE, shape=(2, 1, 2, 2), context=context)


@both_samplers
def test_frames_of_steps_that_are_not_visited(sample):
    with expect(ValueError, "keep names steps [7, 99]", [20, 10, 0]):
        sample(silent, SCHEDULE, shape=(1, 1, 2, 2), steps=2, keep=[99, 10, 7])


# ---- Showing -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (2, 4, 8, 8), (8, 8), (2, 8, 8, 3)])
def test_tensors_that_are_no_pictures(shape):
    with expect(ValueError, shape, "(..., 1 or 3, H, W)"):
        du.to_pictures(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (3, 8, 8), (1, 2, 3, 8, 8)])
def test_a_grid_of_no_pictures_or_of_batches(shape):
    with expect(ValueError, "pictures have shape", "(N, C, H, W), N at least 1"):
        du.show_images(torch.zeros(shape))


def test_rows_of_different_lengths():
    rows = {"a": torch.zeros(2, 3, 8, 8), "b": torch.zeros(3, 3, 8, 8)}
    with expect(ValueError, [2, 3], "as many in each"):
        du.filmstrip(rows)


def test_animations_of_different_lengths():
    stores = {"a": torch.zeros(4, 2, 3, 8, 8), "b": torch.zeros(5, 2, 3, 8, 8)}
    words = ((4, 2, 8, 8, 3), (5, 2, 8, 8, 3), "same number of frames")
    with expect(ValueError, *words):
        du.animate(stores)
