"""What the program for a user's own sprites is made of: the folder weights/own.

What is understood of a collection, what counts as a relative, how a network learns and
draws, what is chosen, and sheets. The files of other programs: test_own_files.py.
"""

import numpy as np
import pytest
import torch
from own.choosing import (
    NOISE,
    choose,
    contrast,
    still_noise,
    strangeness,
    without_specks,
)
from own.collection import Collection, fingerprint, split, understand
from own.colours import find_palette, in_colours
from own.drawing import best_doubt, detail, draw
from own.network import SCHEDULE, new_network, to_numbers, to_tiles
from own.relatives import families, related
from own.sheets import as_sheet
from own.training import (
    LOOKS,
    TRAINING_DOUBT,
    first_network,
    has_turned,
    held_out_loss,
    train,
)
from own_pictures import random_sprites, save, sheet_of

import diffusion_utilities as du

CLEAR = (255, 255, 255, 0)


# ---- Collections ---------------------------------------------------------------------


def collection_of(tiles, labels=None):
    tiles = tiles.copy()
    tiles[tiles[..., 3] == 0] = CLEAR
    family = families(tiles)
    return Collection(
        tiles=tiles,
        names=[""] * len(tiles),
        labels=labels or [""] * len(tiles),
        family=family,
        held=split(family),
        palette=find_palette(tiles),
    )


def opaque(pictures):
    """Pictures (N, H, W, 3) with an alpha of 255 everywhere."""
    return np.concatenate([pictures, np.full_like(pictures[..., :1], 255)], 3)


def course_sprites(n):
    """The course's own sprites, with a transparent background."""
    pictures = du.load_sprites("train").images[:n]
    tiles = opaque(pictures)
    tiles[du.joined_to_the_edge((pictures == 255).all(3))] = CLEAR
    return tiles


# ---- What is understood --------------------------------------------------------------


def test_labels_are_the_names_of_folders(tmp_path):
    tiles = random_sprites(30)
    for place, tile in enumerate(tiles):
        folder = ("food", "heroes/small", "")[place % 3]
        save(tmp_path / folder / f"{place:02d}.png", tile)
    found = understand(tmp_path)
    assert found.classes == ["", "food", "heroes/small"]
    for name, label in zip(found.names, found.labels):
        assert label == ("food", "heroes/small", "")[int(name[:2]) % 3]
    contexts = found.contexts()
    assert contexts.sum(1).eq(1).all()
    assert contexts[:, 1].sum() == 10


@pytest.mark.parametrize("tile", [7, 33, (16, 40)])
def test_sides_out_of_range_are_refused(tile, tmp_path):
    width, height = tile if isinstance(tile, tuple) else (tile, tile)
    pixels = np.random.default_rng(0).integers(0, 255, (2 * height, 2 * width, 3))
    path = save(tmp_path / "a.png", pixels)
    with pytest.raises(ValueError, match=f"{width}x{height} pixels; .* 8 to 32"):
        understand(path, tile)


def test_equal_and_opaque_tiles_are_left_out(tmp_path, capsys):
    tiles = random_sprites(20)
    tiles[3] = tiles[7]
    tiles[5:8, ..., 3] = 255
    path = save(tmp_path / "a.png", sheet_of(tiles, 5))
    everything = understand(path)
    assert len(everything.tiles) == 20  # 3 is not opaque, 7 is
    found = understand(path, only_transparent=True)
    assert len(found.tiles) == 17
    assert (found.tiles[..., 3] == 0).any((1, 2)).all()
    assert "3 tiles that are opaque" in capsys.readouterr().out


def test_one_sprite_is_not_enough(tmp_path):
    path = save(tmp_path / "a.png", sheet_of(random_sprites(1).repeat(4, 0), 4))
    with pytest.raises(ValueError, match="holds 1 different sprites"):
        understand(path)


def test_a_rare_hue_survives_the_palette():
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 160, (300, 1)) + rng.integers(0, 30, (300, 3))
    tiles = np.full((101, 16, 16, 4), 255, np.uint8)
    tiles[..., :3] = colours[rng.integers(0, 300, (101, 16, 16))]
    tiles[100, 4:12, 4:12, :3] = (220, 20, 30)
    palette = find_palette(tiles, most=64)
    assert len(palette) <= 64
    drawn = in_colours(tiles, palette).astype(int)
    error = np.abs(drawn - tiles)[..., :3]
    assert error[100, 4:12, 4:12].max() < 10
    assert np.sqrt(np.square(error / 255).mean()) < 0.04


def test_few_colours_are_kept_as_they_are():
    tiles = random_sprites(30, colours=20)
    tiles[tiles[..., 3] == 0] = CLEAR
    palette = find_palette(tiles)
    assert len(palette) <= 21
    assert (in_colours(tiles, palette) == tiles).all()


def test_transparent_stays_transparent_beside_faint_colours():
    """Anti-aliased edges have many colours that are nearly transparent."""
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (40, 16, 16, 4), np.uint8)
    tiles[..., 3] = rng.integers(1, 20, (40, 16, 16))
    tiles[:, 3:13, 3:13, 3] = 255
    tiles[:, 0] = CLEAR
    palette = find_palette(tiles, most=32)
    assert len(palette) <= 32
    assert (in_colours(tiles, palette)[:, 0] == CLEAR).all()


def test_a_palette_has_colours_of_the_collection():
    tiles = random_sprites(40, colours=400)
    tiles[tiles[..., 3] == 0] = CLEAR
    palette = find_palette(tiles, most=32)
    known = set(map(tuple, tiles.reshape(-1, 4).tolist()))
    assert set(map(tuple, palette.tolist())) <= known


def test_the_same_sprites_in_other_folders_are_another_collection():
    tiles = random_sprites(20)
    labels = ["food", "hero"] * 10
    renamed = ["food", "monster"] * 10
    every = [collection_of(tiles, names) for names in (None, labels, renamed)]
    assert len({fingerprint(collection) for collection in every}) == 3


# ---- Relatives -----------------------------------------------------------------------


def a_drawing():
    tile = np.zeros((1, 16, 16, 4), np.uint8)
    tile[:] = CLEAR
    rng = np.random.default_rng(5)
    tile[0, 3:12, 4:11] = (*(120, 60, 30), 255)
    tile[0, 4:8, 5:9, :3] = rng.integers(0, 255, (4, 4, 3))
    tile[0, 9:12, 8:11] = CLEAR
    return tile


def shifted(tile):
    return np.roll(tile, (2, 1), axis=(1, 2))


def recoloured(tile):
    other = tile.copy()
    drawn = tile[..., 3] > 0
    other[drawn] = other[drawn][:, [2, 0, 1, 3]]
    return other


def darker(tile):
    other = tile.copy()
    drawn = tile[..., 3] > 0
    other[drawn, :3] = (other[drawn, :3] * 0.96).astype(np.uint8)
    return other


CHANGES = {
    "as it is": lambda tile: tile,
    "mirrored": lambda tile: tile[:, :, ::-1],
    "shifted": shifted,
    "shifted and mirrored": lambda tile: shifted(tile)[:, :, ::-1],
    "recoloured": recoloured,
    "recoloured and shifted": lambda tile: shifted(recoloured(tile)),
    "darker": darker,
}


@pytest.mark.parametrize("name", CHANGES)
def test_relatives(name):
    assert related(CHANGES[name](a_drawing()), a_drawing()).all()


def test_a_recoloured_tile_without_transparency_is_a_relative():
    rng = np.random.default_rng(0)
    wool = np.full((2, 16, 16, 4), 255, np.uint8)
    shades = rng.integers(60, 200, (16, 16, 1))
    wool[0, ..., :3] = shades * (1, 0.2, 0.2)
    wool[1, ..., :3] = shades * (0.2, 0.3, 1)
    assert related(wool[:1], wool[1:]).all()
    other = wool[:1].copy()
    other[0, ..., 0] = rng.integers(60, 200, (16, 16))
    assert not related(other, wool).any()


def test_strangers_are_no_relatives():
    found = related(random_sprites(30), random_sprites(30, seed=1))
    assert found.mean() < 0.01


def test_families_by_way_of_a_third_stay_on_one_side():
    tiles = np.pad(random_sprites(60, 12), ((0, 0), (1, 3), (1, 3), (0, 0)))
    tiles[tiles[..., 3] == 0] = CLEAR
    relatives = [change(tiles[:10]) for change in CHANGES.values()]
    every = np.concatenate([tiles, *relatives])
    family = families(every)
    for place in range(10):
        assert len(set(family[[place, *range(60 + place, len(every), 10)]])) == 1
    held = split(family)
    assert 0 < held.sum() < len(every) / 2
    assert not related(every[held], every[~held]).any()


def test_a_few_families_are_not_split():
    assert not split(np.arange(11)).any()
    assert split(np.arange(12)).sum() == 2


def test_a_large_family_is_not_held_out():
    family = np.array([0] * 80 + [*range(1, 41)])
    for seed in range(5):
        held = split(family, seed=seed)
        assert held.sum() == 12
        assert not held[:80].any()


# ---- The network ---------------------------------------------------------------------


def starts_from_the_course(collection):
    weights = first_network(collection).down2.state_dict()
    course = new_network(collection).down2.state_dict()
    return all(weights[name].equal(value) for name, value in course.items())


@pytest.mark.parametrize("size", [(9, 14), (16, 16), (24, 32)])
def test_sides_are_padded_for_the_network_and_cut_again(size):
    height, width = size
    tiles = random_sprites(3, 32)[:, :height, :width]
    tiles[tiles[..., 3] == 0] = CLEAR
    x = to_numbers(tiles)
    assert x.shape[1] == 4
    assert x.shape[2] % 4 == x.shape[3] % 4 == 0
    assert (to_tiles(x)[:, :height, :width] == tiles).all()
    assert (to_tiles(x)[:, height:, :, 3] == 0).all()


def test_the_network_of_new_colours_knows_what_the_course_s_knew():
    """On the course's own sprites it has nearly the loss of the shipped network."""
    tiles = opaque(du.load_sprites("test").images[:64])
    collection = collection_of(tiles)
    x = to_numbers(tiles)
    t = torch.full((64,), 0.4)
    shipped = du.sprite_network()
    shipped.doubt = TRAINING_DOUBT
    noise = torch.randn(x.shape)
    x_t = du.perturb_input(x, torch.tensor(200), noise, SCHEDULE)
    with torch.no_grad():
        theirs = (shipped(x_t[:, :3], t) - noise[:, :3]).square().mean()
        network = new_network(collection).eval()
        ours = (network(x_t, t) - noise)[:, :3].square().mean()
        fresh = new_network(collection, None).eval()
        nothing = (fresh(x_t, t) - noise)[:, :3].square().mean()
    assert ours < theirs + 0.1 * (nothing - theirs)


def test_the_background_starts_transparent_not_white():
    tiles = course_sprites(60)
    collection = collection_of(tiles)
    network = new_network(collection)
    is_clear = network.palette[:, 3] == -1
    white = (network.palette[:, :3] > 0.98).all(1) & ~is_clear
    assert white.any()
    assert network.out.bias[is_clear].item() > network.out.bias[white].max() + 3


@pytest.mark.parametrize("style", ["the course's", "another"])
def test_training_starts_from_the_course_where_it_helps(style):
    tiles = random_sprites(40)
    if style == "the course's":
        tiles = opaque(du.load_sprites("test").images[:40])
    collection = collection_of(tiles)
    assert collection.held.any()
    assert starts_from_the_course(collection) == (style == "the course's")


def test_training_starts_from_the_course_where_nothing_is_held_out():
    collection = collection_of(random_sprites(8))
    assert not collection.held.any()
    assert starts_from_the_course(collection)


# ---- Training ------------------------------------------------------------------------


class Clock:
    """Each look at it takes a second."""

    def __init__(self):
        self.seconds = 0

    def __call__(self):
        self.seconds += 1
        return self.seconds


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("own.training.BATCH", 16)
    return collection_of(random_sprites(40, 8))


@pytest.mark.slow
def test_training_lowers_both_losses(small):
    network = new_network(small, None)
    before = held_out_loss(network, small)
    looks = list(train(network, small, 40, clock=Clock()))
    assert len(looks) == LOOKS
    assert [look.seconds for look in looks] == sorted(look.seconds for look in looks)
    assert looks[-1].training < looks[0].training
    assert looks[-1].held_out < before
    assert looks[0].best


@pytest.mark.slow
def test_nothing_is_learnt_at_learning_rate_0(small):
    network = new_network(small, None)
    before = held_out_loss(network, small)
    looks = list(train(network, small, 20, rate=0.0, clock=Clock()))
    assert looks[-1].held_out == pytest.approx(before, rel=1e-5)


def test_training_ends_when_the_held_out_loss_has_turned():
    assert not has_turned([1.0, 0.5, 0.54, 0.53, 0.52])
    assert not has_turned([1.0, 0.5, 0.6, 0.6])
    assert has_turned([1.0, 0.5, 0.6, 0.6, 0.7])
    assert not has_turned([None] * 9)


@pytest.mark.parametrize("seconds, steps", [(0, 5), (5, 0), (np.inf, np.inf)])
def test_a_training_without_a_step_or_an_end_is_refused(small, seconds, steps):
    network = new_network(small, None)
    with pytest.raises(ValueError, match="expected numbers above 0, not both inf"):
        next(train(network, small, seconds, steps=steps))


@pytest.mark.slow
def test_training_asks_for_labels(monkeypatch):
    monkeypatch.setattr("own.training.BATCH", 16)
    tiles = random_sprites(40, 8)
    labels = ["a" if place % 2 else "b" for place in range(40)]
    collection = collection_of(tiles, labels)
    network = new_network(collection, None)
    before = network.columns.weight.clone()
    list(train(network, collection, 20, clock=Clock()))
    assert not torch.equal(before, network.columns.weight)
    drawn = draw(network, collection, 3, ask="a", steps=2)
    assert drawn.shape == (3, 8, 8, 4)
    with pytest.raises(ValueError, match="ask='c'; expected one of the folders"):
        draw(network, collection, 3, ask="c")


def test_the_doubt_is_chosen_by_the_detail_of_the_tiles(small, monkeypatch):
    flat = np.full((4, 8, 8, 4), 255, np.uint8)
    made_with = {0.3: small.tiles}
    monkeypatch.setattr(
        "own.drawing.draw", lambda *_, doubt, **__: made_with.get(doubt, flat)
    )
    assert best_doubt(None, small) == 0.3


def test_detail():
    board = np.full((3, 4, 4, 4), 255, np.uint8)
    board[1, ::2, ::2, :3] = board[1, 1::2, 1::2, :3] = 0
    board[2, 0, 0, :3] = 0
    flat, checkered, one_pixel = detail(board)
    assert flat == 0
    assert checkered == 1
    assert one_pixel == pytest.approx(2 / 24)
    board[2, 0, 0] = CLEAR  # what is transparent has no neighbours
    assert detail(board)[2] == 0


# ---- Choosing ------------------------------------------------------------------------


def test_specks_are_removed_and_nothing_else():
    tile = a_drawing()
    speckled = tile.copy()
    speckled[0, 0, 15] = (1, 2, 3, 255)
    speckled[0, 14, 1] = (1, 2, 3, 255)
    assert (without_specks(speckled) == tile).all()
    tile[0, 13, 1] = tile[0, 14, 2] = (1, 2, 3, 255)  # two that touch at a corner
    assert (without_specks(tile) == tile).all()


def test_contrast_decides_between_a_blot_and_a_drawing():
    """Equally far from the data, a flat part is stranger than one with contrast."""
    rng = np.random.default_rng(0)
    drawing = rng.integers(0, 2, (1, 16, 16, 1)) * np.full((1, 16, 16, 4), 255)
    drawing[..., 3] = 255
    blot = np.full_like(drawing, 40)
    blot[..., 3] = 255
    data = np.concatenate([drawing, blot]).astype(np.uint8)
    noisy = data.astype(int)
    noisy[..., :3] += rng.integers(0, 2, noisy[..., :3].shape) * 20
    noisy = noisy.clip(0, 255).astype(np.uint8)
    drawn, flat = strangeness(noisy, data)
    assert flat > 2 * drawn


def test_only_drawn_parts_are_strange_in_any_corner():
    """So what is cut off around a drawing does not change its strangeness."""
    nothing = np.full((1, 16, 16, 4), CLEAR, np.uint8)
    drawing = np.random.default_rng(0).integers(0, 256, (6, 6, 4), np.uint8)
    above = nothing.copy()
    above[0, :6, :6] = drawing
    below = nothing.copy()
    below[0, 10:, 10:] = drawing
    for tile, cut in ((above, np.s_[:, :12, :12]), (below, np.s_[:, 4:, 4:])):
        strange = strangeness(tile, nothing)
        assert strange > 0.9
        assert strange == pytest.approx(strangeness(tile[cut], nothing[cut]))
    assert strangeness(nothing, above) == 0


def test_contrast_is_the_distance_of_pixels_to_their_mean():
    parts = torch.tensor([[0.2, 0.4, 0.6, 1.0]]).repeat(2, 36)
    parts[1, : 12 * 4] = 1  # a third of the pixels is white
    plain, with_white = contrast(parts)
    assert plain == pytest.approx(0, abs=1e-6)
    variance = (0.8**2 + 0.6**2 + 0.4**2) / 4 * (1 / 3) * (2 / 3)
    assert with_white == pytest.approx(variance**0.5, rel=1e-5)


def test_noise_is_stranger_than_held_out_tiles():
    collection = collection_of(course_sprites(120))
    rng = np.random.default_rng(0)
    places = rng.integers(0, len(collection.palette), (40, 16, 16))
    noise = strangeness(collection.palette[places], collection.train)
    real = strangeness(collection.held_out, collection.train)
    assert noise.min() > real.max()
    assert still_noise(noise, collection) > NOISE
    assert still_noise(real, collection) == pytest.approx(1)
    assert strangeness(collection.train, collection.train).max() < 0.01


def test_copies_and_empty_tiles_are_not_chosen():
    collection = collection_of(random_sprites(60))
    new = random_sprites(10, seed=9)
    copies = [change(collection.train[3:4]) for change in CHANGES.values()]
    empty = np.zeros((2, 16, 16, 4), np.uint8)
    twin = new[4:5, :, ::-1]
    choice = choose(np.concatenate([new, *copies, empty, twin]), collection)
    assert set(choice.copies) == set(range(10, 10 + len(copies)))
    assert set(choice.order) == {*range(10), 10 + len(copies) + 2}
    assert choice.order[-1] in (4, 19)  # a relative of a better one comes last
    first = choice.strangeness[choice.order[:-1]]
    assert (np.diff(first) >= 0).all()


# ---- Writing -------------------------------------------------------------------------


def test_a_sheet_has_alpha_size_and_order():
    tiles = random_sprites(11, 12)
    picture = as_sheet(tiles, 4)
    assert picture.mode == "RGBA"
    assert picture.size == (48, 36)
    pixels = np.asarray(picture)
    for place, tile in enumerate(tiles):
        y, x = place // 4 * 12, place % 4 * 12
        part = pixels[y : y + 12, x : x + 12]
        assert (part[..., 3] == tile[..., 3]).all()
        assert (part[tile[..., 3] > 0] == tile[tile[..., 3] > 0]).all()
        assert not part[tile[..., 3] == 0].any()
    assert not pixels[24:, 36:].any()
