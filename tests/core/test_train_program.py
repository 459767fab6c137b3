"""weights/train.py: runs that can be interrupted, their settings, and what they see."""

import dataclasses
import errno
import functools
import json
import os
import sys

import contexts
import numpy as np
import pytest
import torch
from torch import nn

import diffusion_utilities as du

pytestmark = pytest.mark.slow  # together they take over five seconds

FACTORY = du.sprite_factory()
SCORING = du.sprite_scoring()
CAPTIONS = du.sprite_captions()
CPU = torch.device("cpu")
TINY_UNET = functools.partial(
    du.SpriteUnet, channels=(8, 16, 16), width=16, reader_width=16
)
real_sprites = functools.cache(du.load_sprites)


@pytest.fixture
def train(program, monkeypatch, sprite_files):
    """train.py with stand-in sprites."""
    module = program("train")
    load_sprites = functools.partial(du.load_sprites, root=sprite_files)
    monkeypatch.setattr(du, "DATA", sprite_files)
    monkeypatch.setattr(du, "load_sprites", load_sprites)
    return module


@pytest.fixture
def train_really(program, monkeypatch):
    """train.py with the real sprites, which are read once."""
    monkeypatch.setattr(du, "load_sprites", real_sprites)
    return program("train")


def command(train, monkeypatch, out, name: str, *, epochs: int = 2) -> None:
    """`python weights/train.py --only name` with small numbers.

    The network has 8 features, and there are sprites for two steps a pass.
    """
    options = {
        "--only": name,
        "--n-feat": 8,
        "--limit": 60 if name == "model" else 120,
        "--epochs": epochs,
        "--threads": 1,
        "--device": "cpu",
        "--out": out,
    }
    arguments = ["train.py"]
    for option, value in options.items():
        arguments += [option, str(value)]
    monkeypatch.setattr(sys, "argv", arguments)
    train.main()


def interrupt_after(monkeypatch, calls: int) -> None:
    """Ctrl-C in the loss computation after so many training steps."""
    loss = du.diffusion_loss
    done = []

    def interrupted(*arguments, **options):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(1)
        return loss(*arguments, **options)

    monkeypatch.setattr(du, "diffusion_loss", interrupted)


def read(path) -> dict:
    return json.loads(path.read_text(encoding="utf8"))


def assert_same(one: dict, other: dict) -> None:
    """Two state dicts are equal, bit for bit."""
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# ---- A run that is interrupted ------------------------------------------------------


@pytest.fixture
def train_for(name, request, monkeypatch):
    """train.py for a run of this name.

    A sprite run has real sprites, a tiny network and three passes.
    """
    if name != "sprite":
        return request.getfixturevalue("train")
    train = request.getfixturevalue("train_really")
    monkeypatch.setattr(du, "SpriteUnet", TINY_UNET)
    [stage] = train.STAGES[name]
    monkeypatch.setitem(train.STAGES, name, ({**stage, "passes": 3},))
    return train


@pytest.mark.parametrize("name", ["context", "model", "sprite"])
@pytest.mark.parametrize("epochs_done", [1, 1.5])
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(
    name, epochs_done, train_for, monkeypatch, tmp_path
):
    """Stopped between two epochs or in the middle of the second, then started again."""
    whole = tmp_path / "whole"
    parts = tmp_path / "parts"
    stem = train_for.STEMS[name]
    command(train_for, monkeypatch, whole, name)
    first_stage = next(train_for.stages(name, 2))
    with monkeypatch.context() as patch:
        interrupt_after(patch, int(2 * epochs_done * first_stage.passes))
        with pytest.raises(KeyboardInterrupt):
            command(train_for, patch, parts, name)
    assert {f.name for f in parts.iterdir()} == {"runs", f"{stem}_0.pth"}
    command(train_for, monkeypatch, parts, name)

    weights = {f"{stem}_0.pth", f"{stem}_1.pth", f"{stem}_trained.pth"}
    files = {"runs", f"{stem}_history.json", *weights}
    assert {f.name for f in parts.iterdir()} == files
    for file in weights:
        assert_same(du.load_state(whole / file), du.load_state(parts / file))
    # in full precision, too
    checkpoint = f"runs/{stem}_from_0.pt"
    one = torch.load(whole / checkpoint, weights_only=True)
    other = torch.load(parts / checkpoint, weights_only=True)
    assert_same(one["model"], other["model"])
    losses = []
    for folder in (whole, parts):
        epochs = read(folder / f"{stem}_history.json")["epochs"]
        losses.append([row["losses"] for row in epochs])
    assert losses[0] == losses[1]


def test_other_settings_do_not_resume(train, monkeypatch, tmp_path):
    command(train, monkeypatch, tmp_path / "out", "model", epochs=1)
    message = (
        r"model_from_0\.pt was written with other settings "
        r"\(decay_epochs: 1 instead of 2, epochs: 1 instead of 2\); "
        "remove it to start again, or give --out another folder"
    )
    with pytest.raises(ValueError, match=message):
        command(train, monkeypatch, tmp_path / "out", "model", epochs=2)


def test_other_data_do_not_resume(train, monkeypatch, tmp_path, sprite_files):
    command(train, monkeypatch, tmp_path / "out", "model", epochs=1)
    sprites = np.load(sprite_files / "sprites_16x16.npy")
    sprites[0, 0, 0, 0] ^= 1
    np.save(sprite_files / "sprites_16x16.npy", sprites)
    with pytest.raises(ValueError, match="written with other data"):
        command(train, monkeypatch, tmp_path / "out", "model", epochs=1)


DAMAGED = {
    "truncated": lambda whole: whole[:-1000],
    "without a byte": lambda whole: whole[:20_000] + whole[20_001:],
    "empty": lambda whole: b"",
    "text": lambda whole: b"model: 1",
    "a pickle that calls": lambda whole: b"cos\nabort\n(tR.",
    "the start of an archive": lambda whole: b"PK\x03\x04" + bytes(60),
}


@pytest.fixture
def stopped(train, tmp_path):
    """A run after its first epoch, with its checkpoint."""
    settings = train.Settings(False, n_feat=8, epochs=2, passes=1, limit=20)
    run = train.Run(settings, CPU, tmp_path / "out")
    run.train_epoch(0)
    run.save()
    return run


def again(train, run):
    """A new run of the same settings, which is to resume."""
    return train.Run(run.settings, CPU, run.out)


REFUSED = r"model_from_0\.pt .*remove it to start again, or give --out another folder"


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_checkpoint_is_refused(damage, stopped, train):
    whole = stopped.resume_path.read_bytes()
    stopped.resume_path.write_bytes(DAMAGED[damage](whole))
    with pytest.raises(ValueError, match=REFUSED) as refused:
        again(train, stopped).resume()
    assert "weights_only" not in str(refused.value)
    assert refused.value.__cause__ is None


def without_a_part(state: dict) -> None:
    del state["decay"]


def without_losses(state: dict) -> None:
    del state["history"]["epochs"][0]["losses"]


def of_another_epoch(state: dict) -> None:
    state["history"]["epochs"][0]["epoch"] = 1


def of_too_many_epochs(state: dict) -> None:
    state["history"]["epochs"] *= 3


def without_a_history(state: dict) -> None:
    state["history"] = [1, 2]


def of_another_network(state: dict) -> None:
    state["model"] = du.ContextUnet(3, 16, 5, 16).state_dict()


def with_other_moments(state: dict) -> None:
    state["optimiser"]["state"][0]["exp_avg"] = torch.zeros(2)


def without_tensors(state: dict) -> None:
    state["average"] = 3


@pytest.mark.parametrize(
    "change",
    [
        without_a_part,
        without_losses,
        of_another_epoch,
        of_too_many_epochs,
        without_a_history,
        of_another_network,
        with_other_moments,
        without_tensors,
    ],
)
def test_a_foreign_checkpoint_is_refused(change, stopped, train):
    state = torch.load(stopped.resume_path, weights_only=True)
    change(state)
    torch.save(state, stopped.resume_path)
    with pytest.raises(ValueError, match=REFUSED):
        again(train, stopped).resume()


def test_weights_are_no_checkpoint(stopped, train):
    du.save_weights(stopped.model, stopped.resume_path)
    message = (
        r"model_from_0\.pt is not a checkpoint of this program: it holds init_conv"
    )
    with pytest.raises(ValueError, match=message):
        again(train, stopped).resume()


def test_an_interrupted_checkpoint_leaves_the_one_before(stopped, monkeypatch):
    before = stopped.resume_path.read_bytes()
    replace = os.replace

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device: .*model_from_0\.pt"):
        stopped.save()
    monkeypatch.setattr(os, "replace", replace)
    assert stopped.resume_path.read_bytes() == before
    assert list(stopped.resume_path.parent.iterdir()) == [stopped.resume_path]


# ---- What a run writes --------------------------------------------------------------


@pytest.fixture
def history(train, monkeypatch, tmp_path) -> dict:
    """The history of a run of three epochs."""
    command(train, monkeypatch, tmp_path / "out", "context", epochs=3)
    return read(tmp_path / "out" / "context_model_history.json")


def test_every_epoch_and_every_step_has_its_loss(history):
    assert [row["epoch"] for row in history["epochs"]] == [0, 1, 2]
    for row in history["epochs"]:
        assert len(row["losses"]) == 2
        assert row["loss"] == pytest.approx(np.mean(row["losses"]), abs=1e-4)
        assert row["seconds"] >= 0


def test_a_history_names_its_settings_data_and_machine(history, train):
    [stage] = history["stages"]
    expected = {"context": True, "n_feat": 8, "T": 500, "epochs": 3, "limit": 120}
    assert {name: stage[name] for name in expected} == expected
    assert history["data"] == train.data_digests(train.SPRITE_FILES)
    assert set(history["data"]) == set(train.SPRITE_FILES)
    assert "cpu" in history["machines"][0]
    assert str(torch.__version__) in history["machines"][0]


def test_weights_of_every_fourth_epoch_and_the_last(train, monkeypatch, tmp_path):
    command(train, monkeypatch, tmp_path / "out", "context", epochs=6)
    names = {path.stem for path in (tmp_path / "out").glob("*.pth")}
    expected = {f"context_model_{end}" for end in (0, 4, 5, "trained")}
    assert names == expected


def test_shipped_weights_are_not_overwritten_by_other_settings(
    train, monkeypatch, capsys
):
    with pytest.raises(SystemExit):
        command(train, monkeypatch, train.HERE, "model")
    assert "would overwrite the shipped weights; add --out" in capsys.readouterr().err


# ---- Stages -------------------------------------------------------------------------


@pytest.fixture
def two_stages(train, monkeypatch, tmp_path):
    """The folder of a run of epochs 0 and 1, then 2 with other passes and no rate."""
    second = {
        "start": "model_1.pth",
        "first_epoch": 2,
        "passes": 3,
        "learning_rate": 1e-9,
        "decay_epochs": 1,
    }
    stages = ({"epochs": 2, "passes": 1}, second)
    monkeypatch.setattr(train, "STAGES", {"model": stages})
    command(train, monkeypatch, tmp_path / "out", "model", epochs=3)
    return tmp_path / "out"


def test_one_history_tells_of_both_stages(two_stages):
    history = read(two_stages / "model_history.json")
    assert [stage["first_epoch"] for stage in history["stages"]] == [0, 2]
    assert len(history["machines"]) == 2
    counts = [(row["epoch"], len(row["losses"])) for row in history["epochs"]]
    assert counts == [(0, 2), (1, 2), (2, 6)]


def state_of(folder) -> dict:
    """{path: (content, time of the last change)} of all files but the locks.

    Some versions of filelock write to a lock when they take it.
    """
    every = [path for path in folder.rglob("*") if path.is_file()]
    files = [path for path in every if path.suffix != ".lock"]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_finished_run_says_so_and_changes_nothing(
    two_stages, train, monkeypatch, capsys
):
    before = state_of(two_stages)
    monkeypatch.setattr(train, "Run", None)
    command(train, monkeypatch, two_stages, "model", epochs=3)
    assert state_of(two_stages) == before
    printed = capsys.readouterr().out
    assert "model: epochs 0 to 1 are finished" in printed
    assert "model is finished; remove " in printed


def test_only_the_last_stage_writes_the_final_name(train, two_stages, monkeypatch):
    """Trained again, and stopped in the second stage, a run leaves the older ones.

    The checkpoint of the older second stage is gone: it continued other weights.
    """
    older = (two_stages / "model_trained.pth").read_bytes()
    (two_stages / "runs" / "model_from_0.pt").unlink()
    interrupt_after(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):
        command(train, monkeypatch, two_stages, "model", epochs=3)
    left = {path.name for path in (two_stages / "runs").glob("*.pt*")}
    assert left == {"model_from_0.pt", "model_1_average.pth"}
    assert (two_stages / "model_trained.pth").read_bytes() == older


def test_a_finished_stage_gives_back_weights_that_were_removed(
    two_stages, train, monkeypatch
):
    names = ["model_1.pth", "model_trained.pth"]
    before = {name: (two_stages / name).read_bytes() for name in names}
    for name in names:
        (two_stages / name).unlink()
    interrupt_after(monkeypatch, 0)
    command(train, monkeypatch, two_stages, "model", epochs=3)
    for name in names:
        assert (two_stages / name).read_bytes() == before[name]


def test_the_second_stage_starts_from_the_weights_that_the_first_saved(two_stages):
    """Its rate of 1e-9 leaves them where they were."""
    states = [du.load_state(two_stages / f"model_{epoch}.pth") for epoch in range(3)]
    first, second, third = states
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    learnt = [name for name in second if not name.endswith(statistics)]
    moved = []
    for name in learnt:
        assert torch.allclose(second[name], third[name], atol=1e-3)
        moved.append(not torch.allclose(first[name], second[name], atol=1e-3))
    assert any(moved)


# Settings that the older runs did not have yet, with the values they would have had.
BEFORE = {
    "min_snr": None,
    "network": "ContextUnet",
    "steady_epochs": 0,
    "optimiser": "Adam",
    "straight": False,
    "even": 0.0,
    "log_every": 1,
}


@pytest.mark.parametrize(
    "run, file",
    [
        ("model", "model_history.json"),
        ("context", "context_model_history.json"),
        ("sprite", "sprite_unet_history.json"),
    ],
)
def test_the_shipped_weights_came_from_these_stages(train, run, file):
    history = read(du.WEIGHTS / file)
    stages = [dataclasses.asdict(stage) for stage in train.stages(run)]
    assert [{**BEFORE, **stage} for stage in history["stages"]] == stages
    assert len(history["epochs"]) == stages[-1]["epochs"]


@pytest.mark.parametrize(
    "epochs, expected",
    [
        (32, [(0, 25, 32), (25, 29, 7), (29, 32, 3)]),
        (3, [(0, 3, 3)]),
        (27, [(0, 25, 27), (25, 27, 2)]),
    ],
)
def test_a_shorter_run_has_the_first_stages_and_its_rate_falls_to_zero(
    train, epochs, expected
):
    """Of each stage: (first epoch, end, epochs of decay)."""
    stages = train.stages("model", epochs)
    plan = [(s.first_epoch, s.epochs, s.decay_epochs) for s in stages]
    assert plan == expected


@pytest.mark.parametrize(
    "epochs, expected",
    [(None, (31, 24, 31)), (20, (20, 15, 20)), (10, (10, 7, 10)), (1, (1, 0, 1))],
)
def test_a_shorter_sprite_run_has_fewer_steady_epochs(train, epochs, expected):
    """(end, steady epochs, epochs until the rate is 0)."""
    [stage] = train.stages("sprite", epochs)
    assert (stage.epochs, stage.steady_epochs, stage.decay_epochs) == expected


def test_a_stage_without_its_start_says_what_to_do(train, tmp_path):
    settings = train.Settings(True, n_feat=8, limit=100, start="model_trained.pth")
    message = r"model_trained\.pth does not exist; .* `python weights/train\.py` trains"
    with pytest.raises(FileNotFoundError, match=message):
        train.Run(settings, CPU, tmp_path)


# ---- What an epoch shows ------------------------------------------------------------


def shown(train, x, passes: int, seed: int) -> torch.Tensor:
    """The pictures of an epoch in the order in which they come."""
    g = torch.Generator().manual_seed(seed)
    return torch.cat([some for some, _ in train.batches(x, x, 100, passes, g)])


def test_an_epoch_shows_every_picture_once_in_each_pass(train):
    x = torch.arange(205.0)
    passes = shown(train, x, 3, seed=1).view(3, 205)
    for one in passes:
        assert torch.equal(one.sort().values, x)
    assert not torch.equal(passes[0], passes[1])
    assert not torch.equal(passes[1], passes[2])


def test_the_seed_decides_the_order_of_an_epoch(train):
    x = torch.arange(205.0)
    first = shown(train, x, 1, seed=1)
    assert torch.equal(shown(train, x, 1, seed=1), first)
    assert not torch.equal(shown(train, x, 1, seed=2), first)


def test_batches_pair_each_picture_with_its_context(train):
    x = torch.arange(205.0)
    g = torch.Generator().manual_seed(1)
    sizes = []
    for pictures, rows in train.batches(x, x.long(), 100, 1, g):
        assert torch.equal(pictures.long(), rows)
        sizes.append(len(pictures))
    assert sizes == [100, 100, 5]


def some_sprites(rows) -> du.Sprites:
    """Training sprites of these rows."""
    every = real_sprites("train")
    factors = [every.factors[i] for i in rows]
    return du.Sprites(every.images[rows], every.labels[rows], factors)


# ---- Sprites in new colours ---------------------------------------------------------


def rows_and_new_colours() -> list[tuple]:
    """(factors of a sprite, its specification in new colours), five for each of 60."""
    rng = np.random.default_rng(1)
    found = []
    for row in real_sprites("train").factors[:60]:
        for _ in range(5):
            found.append((row, contexts.in_new_colours(row, set(), rng)))
    return found


def test_in_new_colours_a_sprite_keeps_its_class_and_drawing():
    """Only colours change, and which way a side-facing sprite looks."""
    changed = {name: set() for name in FACTORY.CLASS_NAMES}
    for row, sprite in rows_and_new_colours():
        new = sprite.as_dict()
        assert new.keys() == row.keys()
        differing = {factor for factor in row if new[factor] != row[factor]}
        changed[row["class"]] |= differing
    free = {name: set(FACTORY.colour_factors(name)) for name in changed}
    free["side-facing"].add("facing")
    assert changed == free


def test_in_new_colours_a_sprite_never_has_a_held_out_pair():
    for row, sprite in rows_and_new_colours():
        assert not FACTORY.held_out_pairs(row["class"]).hold(sprite)


def drawing(row: dict[str, str]) -> tuple:
    """What a row says besides colours and facing."""
    free = {*FACTORY.colour_factors(row["class"]), "facing"}
    return tuple(sorted(item for item in row.items() if item[0] not in free))


def epoch_of(sprites, size: int, passes: int, seed: int) -> list[tuple]:
    """The batches of an epoch in new colours."""
    order = torch.Generator().manual_seed(seed)
    return list(contexts.drawn_anew(sprites, size, passes, order, seed))


def test_every_pass_draws_every_sprite_once(train_really):
    sprites = some_sprites(list(range(40)))
    epoch = epoch_of(sprites, 16, 2, seed=1)
    assert [len(x) for x, _ in epoch] == 2 * [16, 16, 8]
    expected = sorted(drawing(row) for row in sprites.factors)
    for batches in (epoch[:3], epoch[3:]):
        x = torch.cat([x for x, _ in batches])
        found, distances = FACTORY.decode(du.to_pictures(x))
        assert distances.max() == 0
        assert sorted(drawing(sprite.as_dict()) for sprite in found) == expected


def test_a_sprite_of_the_test_is_never_drawn(train_really, monkeypatch):
    """A piece of food of which every other colour is in `test`: its own comes."""
    rows = real_sprites("train").factors
    index = next(i for i, row in enumerate(rows) if row["class"] == "food")
    food = some_sprites([index])
    [own] = food.factors
    others = []
    for colour in FACTORY.factors_of("food")["colour"]:
        if colour != own["colour"]:
            others.append({**own, "colour": colour})
    parts = {"test": du.Sprites(None, None, others)}
    monkeypatch.setattr(du, "load_sprites", parts.get)
    epoch = epoch_of(food, 1, 20, seed=0)
    x = torch.cat([x for x, _ in epoch])
    assert torch.equal(x, food.x.expand_as(x))


# ---- What is asked for --------------------------------------------------------------


def asked_for(row: np.ndarray) -> dict[str, str]:
    """What a row of numbers asks for: {factor or "class": value}."""
    columns = SCORING.factor_columns()
    named = [columns[place] for place in np.flatnonzero(row)]
    assert len(dict(named)) == len(named)
    return dict(named)


@pytest.fixture
def rows_of_numbers() -> list[tuple]:
    """(specification, what its row of numbers asks for), 2,000 times."""
    drawn = FACTORY.draw_specifications(2000, seed=0)
    rows = contexts.factor_rows(drawn, np.random.default_rng(0))
    assert rows.shape == (2000, len(SCORING.factor_columns()))
    assert rows.dtype == np.float32
    assert set(np.unique(rows)) == {0, 1}
    return list(zip(drawn, map(asked_for, rows)))


def test_a_row_names_the_class_and_only_factors_that_the_sprite_has(rows_of_numbers):
    for sprite, asked in rows_of_numbers:
        assert asked["class"] == sprite.class_name
        assert asked.items() <= sprite.as_dict().items()


def test_six_of_ten_rows_name_any_number_of_factors(rows_of_numbers):
    """All numbers are equally likely there: half of the factors on average."""
    shares = []
    for sprite, asked in rows_of_numbers:
        shares.append((len(asked) - 1) / len(sprite.factors))
    assert np.mean(shares) == pytest.approx(0.6 / 2, abs=0.03)
    expected = []
    for sprite, _ in rows_of_numbers:
        expected.append(0.6 / (len(sprite.factors) + 1))
    assert np.mean(np.equal(shares, 1)) == pytest.approx(np.mean(expected), abs=0.03)
    class_alone = np.mean(np.equal(shares, 0))
    assert class_alone == pytest.approx(0.4 + np.mean(expected), abs=0.03)


@pytest.fixture
def captioned(monkeypatch) -> list:
    """The captions that are drawn from now on."""
    draw = CAPTIONS.draw_caption
    captions = []

    def noted(*arguments):
        captions.append(draw(*arguments))
        return captions[-1]

    monkeypatch.setattr(CAPTIONS, "draw_caption", noted)
    return captions


def test_both_kinds_of_contexts_are_true_of_their_pictures(train_really, captioned):
    """The decoder says what the pictures show."""
    sprites = some_sprites(list(range(40)))
    captions = iter(captioned)
    kinds = []
    for x, c in epoch_of(sprites, 8, 4, seed=2):
        kinds.append(c.shape[1])
        found, _ = FACTORY.decode(du.to_pictures(x))
        for sprite, row in zip(found, c.numpy(), strict=True):
            shown = sprite.as_dict()
            if c.shape[1] == CAPTIONS.MAX_WORDS:
                caption = next(captions)
                assert caption.is_met_by(shown)
                assert np.array_equal(row, CAPTIONS.encode([caption.text])[0])
                assert CAPTIONS.UNKNOWN not in row
            else:
                assert asked_for(row).items() <= shown.items()
    assert set(kinds) == {CAPTIONS.MAX_WORDS, len(SCORING.factor_columns())}
    assert next(captions, None) is None


# ---- A sprite run -------------------------------------------------------------------


@pytest.fixture
def sprite_run(train_really, monkeypatch, tmp_path):
    """A function that starts a small run of a SpriteUnet, with these settings."""
    monkeypatch.setattr(du, "SpriteUnet", TINY_UNET)

    def start(**settings):
        [stage] = train_really.STAGES["sprite"]
        small = {"limit": 40, "batch": 4, "passes": 4, "epochs": 2}
        settings = train_really.Settings(True, **{**stage, **small, **settings})
        return train_really.Run(settings, CPU, tmp_path)

    return start


def calls_of(run) -> list[tuple]:
    """(steps, context) of each call of the network in an epoch."""
    calls = []

    def note(_, arguments):
        x_t, t, c = arguments
        calls.append(((t * 500).round().long(), c))

    run.model.register_forward_pre_hook(note)
    run.train_epoch(0)
    return calls


def test_a_sprite_run_sees_both_kinds_of_contexts(sprite_run):
    """Of 40 batches, about half. Of the contexts, 15 of 100 are dropped."""
    contexts = [c for _, c in calls_of(sprite_run())]
    lengths = [c.shape[1] for c in contexts]
    assert len(lengths) == 40
    assert set(lengths) == {40, 175}
    assert 10 <= lengths.count(40) <= 30
    dropped = [float((c == 0).all(1).float().mean()) for c in contexts]
    assert np.mean(dropped) == pytest.approx(0.15, abs=0.1)


def test_a_straight_run_practises_the_steps_of_the_straight_path(
    sprite_run, monkeypatch
):
    only_seven = (torch.arange(501) == 7).float()
    monkeypatch.setattr(du, "straight_frequencies", lambda *_, even: only_seven)
    steps = torch.cat([t for t, _ in calls_of(sprite_run())])
    assert set(steps.tolist()) == {7}
    steps = torch.cat([t for t, _ in calls_of(sprite_run(straight=False))])
    assert len(set(steps.tolist())) > 50


def batches_of(run, epoch: int) -> list[tuple]:
    order, _ = run.generators(epoch)
    return list(run.batches_of(epoch, order))


def are_same(one: list[tuple], other: list[tuple], part: int) -> bool:
    """Whether two epochs have the same pictures (part 0) or contexts (part 1)."""
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a[part], b[part]) for a, b in pairs)


def test_an_epoch_has_its_batches_and_another_epoch_has_others(sprite_run):
    run = sprite_run()
    first = batches_of(run, 0)
    second = batches_of(run, 1)
    again = batches_of(sprite_run(), 1)
    for part in (0, 1):
        assert are_same(second, again, part)
        assert not are_same(first, second, part)


def test_muon_trains_all_matrices_but_those_of_the_outer_layers(sprite_run):
    run = sprite_run()
    names = {id(weight): name for name, weight in run.model.named_parameters()}
    by_muon, by_adam = (
        {names[id(weight)] for weight in group["params"]}
        for group in run.optimiser.param_groups
    )
    outer = ["stem", "out", "columns", "reader.word"]
    assert {f"{layer}.weight" for layer in outer} < by_adam
    assert {"reader.position", "norm.weight"} < by_adam
    assert {"asked.weight", "down1.conv1.weight"} < by_muon
    rates = [group["initial_lr"] for group in run.optimiser.param_groups]
    assert rates == [0.012, 0.001]


@pytest.mark.parametrize("moment", ["mean", "square"])
def test_a_muon_checkpoint_with_another_moment_is_refused(
    moment, sprite_run, train_really
):
    run = sprite_run(passes=1)
    run.train_epoch(0)
    run.save()
    state = torch.load(run.resume_path, weights_only=True)
    moments = [one for one in state["optimiser"]["state"].values() if moment in one]
    moments[-1][moment] = torch.zeros(2, 3, 5)
    torch.save(state, run.resume_path)
    message = rf"sprite_unet_from_0\.pt does not fit this run \({moment} "
    with pytest.raises(ValueError, match=message):
        again(train_really, run).resume()


def rates_of(train, **options) -> list[float]:
    """The learning rate before each of 14 steps, of which the rate falls for 10."""
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=6.0)
    decay = train.falling(optimiser, 10, **options)
    rates = []
    for _ in range(14):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        decay.step()
    return rates


def test_the_rate_falls_linearly_to_zero(train):
    expected = [*np.linspace(6, 0, 11), 0, 0, 0]
    assert rates_of(train) == pytest.approx(expected)


def test_a_steady_rate_stays_and_then_falls_linearly_to_zero(train):
    expected = [6, 6, 6, 6, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0]
    assert rates_of(train, steady=4) == pytest.approx(expected)


def test_the_history_has_means_of_so_many_steps(train, tmp_path):
    settings = train.Settings(True, n_feat=8, limit=10, batch=4, passes=2, log_every=4)
    run = train.Run(settings, CPU, tmp_path)
    run.train_epoch(0)
    [row] = run.history["epochs"]
    four, two = row["losses"]
    assert run.steps_an_epoch == 6
    assert (4 * four + 2 * two) / 6 == pytest.approx(row["loss"])


# ---- The folder ---------------------------------------------------------------------


@pytest.fixture
def reserve(train):
    """A function that reserves a folder for runs, as the program does."""
    parser = train.command_line()
    return functools.partial(train.reserve, parser)


def test_a_second_run_in_the_same_folder_stops(reserve, tmp_path, capsys):
    with reserve(tmp_path, ["model", "sprite"]):
        with pytest.raises(SystemExit):
            reserve(tmp_path, ["context", "sprite"])
        message = f"another process is training sprite in {tmp_path}"
        assert message in capsys.readouterr().err
        # what the second had locked before it stopped is free
        reserve(tmp_path, ["context"]).close()
    reserve(tmp_path, ["model", "sprite"]).close()


def test_what_killed_runs_have_left_is_removed(reserve, tmp_path):
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    names = [
        "model_0.pth.0123abcd.tmp",
        "runs/model_from_0.pt.0123abcd.tmp",
        "context_model_0.pth.0123abcd.tmp",
        "model_0.pth",
        "my.tmp",
    ]
    for name in names:
        (out / name).touch()
    reserve(out, ["model"]).close()
    left = {path for path in state_of(out) if path.suffix != ".lock"}
    assert left == {out / name for name in names[2:]}


@pytest.mark.parametrize("name", ["basic", "features", "context"])
def test_a_file_in_place_of_the_folder_is_noticed_first(
    name, train, monkeypatch, tmp_path, capsys
):
    out = tmp_path / "out"
    out.touch()
    monkeypatch.setattr(train, "train", None)
    with pytest.raises(SystemExit):
        command(train, monkeypatch, out, name)
    assert f"--out {out} cannot be written to: " in capsys.readouterr().err


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_without_permission_is_noticed_first(reserve, tmp_path, capsys):
    tmp_path.chmod(0o500)
    with pytest.raises(SystemExit):
        reserve(tmp_path, ["features"])
    tmp_path.chmod(0o700)
    message = f"--out {tmp_path} cannot be written to: [Errno 13] Permission denied"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, message",
    [
        (du.UnusableFile("w.pth is damaged"), "w.pth is damaged"),
        (OSError(28, "No space left"), "No space left.* the same command continues"),
    ],
)
def test_the_program_ends_with_a_sentence(error, message, train, monkeypatch):
    def broken():
        raise error

    monkeypatch.setattr(train, "main", broken)
    with pytest.raises(SystemExit, match=f"(?s){message}"):
        train.program()


@pytest.mark.parametrize("option", ["--epochs", "--limit", "--n-feat", "--threads"])
def test_counts_start_at_one(option, train, capsys):
    with pytest.raises(SystemExit):
        train.command_line().parse_args([option, "0"])
    assert f"{option}: 0 found; expected at least 1" in capsys.readouterr().err


# ---- Batches that several processes share -------------------------------------------


def test_what_trains_alone_says_so(train, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        command(train, monkeypatch, tmp_path, "basic")
    message = "under torchrun add --only, one of model, context, sprite"
    assert message in capsys.readouterr().err


def parts_of(train, processes: int) -> list[list[list[int]]]:
    """What each process gets of a batch of seven and a batch of one."""
    whole = [
        (torch.arange(7), torch.arange(7) + 10),
        (torch.arange(1), torch.arange(1) + 10),
    ]
    parts = []
    for rank in range(processes):
        part = []
        for x, c in train.share(iter(whole), rank, processes):
            assert (c - x == 10).all()
            part.append(x.tolist())
        parts.append(part)
    return parts


def test_a_single_process_gets_whole_batches(train):
    assert parts_of(train, 1) == [[[0, 1, 2, 3, 4, 5, 6], [0]]]


def test_batches_are_shared_out_evenly(train):
    assert parts_of(train, 3) == [[[0, 3]], [[1, 4]], [[2, 5]]]


# ---- The other two runs -------------------------------------------------------------


@pytest.fixture
def digits(monkeypatch):
    """5,000 random digits."""
    pictures = torch.rand(5000, 1, 28, 28)
    monkeypatch.setattr(du, "load_digits", lambda name: (pictures, None))
    return pictures


def test_basic_unet_trains_and_is_saved(train, digits, monkeypatch, tmp_path):
    monkeypatch.setattr(train, "data_digests", lambda files: dict.fromkeys(files, ""))
    train.train_basic(CPU, tmp_path, steps=3, batch=8)
    du.load_weights(du.BasicUNet(), tmp_path / "basic_unet.pth")
    assert len(read(tmp_path / "basic_unet_history.json")["losses"]) == 3


def test_a_trained_basic_unet_is_left_alone(train, digits, monkeypatch, tmp_path):
    monkeypatch.setattr(train, "data_digests", lambda files: dict.fromkeys(files, ""))
    train.train_basic(CPU, tmp_path, steps=1, batch=4)
    before = state_of(tmp_path)
    train.train_basic(CPU, tmp_path, steps=1, batch=4)
    assert state_of(tmp_path) == before
    train.train_basic(CPU, tmp_path, steps=1, batch=5)
    assert state_of(tmp_path) != before


def test_other_digits_are_refused(train, digits, monkeypatch, tmp_path):
    monkeypatch.setattr(du, "load_digits", lambda name: (digits[:40], None))
    with pytest.raises(ValueError, match=r"40 digits found .* mnist_5k.npz"):
        train.train_basic(CPU, tmp_path, steps=1)


def test_the_feature_network_trains_and_only_its_body_is_saved(train, tmp_path):
    """The stand-ins are all food, of a kind each."""
    train.train_features(CPU, tmp_path, epochs=4, batch=50, limit=100)
    du.feature_network(tmp_path / "features.pth")
    history = read(tmp_path / "features_history.json")
    assert len(history["losses"]) == 8
    assert history["losses"][-1] < history["losses"][0]
    assert history["test_accuracy"] == {"class": 1.0, "kind": 0.0}


def test_a_trained_feature_network_is_left_alone(train, tmp_path):
    options = {"epochs": 1, "batch": 50, "limit": 100}
    train.train_features(CPU, tmp_path, **options)
    path = tmp_path / "features.pth"
    path.write_bytes(b"as it was")
    train.train_features(CPU, tmp_path, **options)
    assert path.read_bytes() == b"as it was"
    train.train_features(CPU, tmp_path, **{**options, "batch": 25})
    assert path.read_bytes() != b"as it was"


def test_a_factor_that_a_class_lacks_is_not_asked_for(train):
    factors = [{"class": "food"}, {"class": "hero", "item": "axe"}]
    asked = train.questions(factors, {"class": ["food", "hero"], "item": ["axe"]})
    assert asked["class"].tolist() == [0, 1]
    assert asked["item"].tolist() == [-100, 0]


def test_answers_are_counted_among_the_sprites_that_have_the_factor(train):
    asked = {"class": torch.tensor([0, 1]), "item": torch.tensor([-100, 0])}
    heads = {
        "class": lambda features: torch.tensor([[1.0, 0.0]] * 2),
        "item": lambda features: torch.tensor([[0.0]] * 2),
    }
    shares = train.right_answers(lambda x: x, heads, torch.zeros(2, 1), asked)
    assert shares == {"class": 0.5, "item": 1.0}
