"""weights/train.py: runs that can be interrupted, their settings, and what they see."""

import dataclasses
import errno
import functools
import json
import os
import sys

import numpy as np
import pytest
import torch
from torch import nn

import diffusion_utilities as du

pytestmark = pytest.mark.slow  # together they take over five seconds

FACTORY = du.sprite_factory()
SCORING = du.sprite_scoring()
SCHEDULE = du.NoiseSchedule.linear()
CPU = torch.device("cpu")
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
        "--limit": 120 if name == "context" else 60,
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


@pytest.mark.parametrize(
    "name",
    [
        "context",
        pytest.param("model", marks=pytest.mark.slow),
        pytest.param("best", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("epochs_done", [1, 1.5])
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(
    name, epochs_done, train, monkeypatch, tmp_path
):
    """Stopped between two epochs or in the middle of the second, then started again."""
    whole = tmp_path / "whole"
    parts = tmp_path / "parts"
    stem = "context_model" if name == "context" else name
    command(train, monkeypatch, whole, name)
    first_stage = next(train.stages(name, 2))
    with monkeypatch.context() as patch:
        interrupt_after(patch, int(2 * epochs_done * first_stage.passes))
        with pytest.raises(KeyboardInterrupt):
            command(train, patch, parts, name)
    assert {f.name for f in parts.iterdir()} == {"runs", f"{stem}_0.pth"}
    command(train, monkeypatch, parts, name)

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
    "beta2": 0.999,
    "clip": None,
    "dropout": 0.0,
    "recolour": None,
    "log_every": 1,
    "even": None,
    "by_drawing": False,
    "factors": False,
}
# While `best` was trained, each stage wrote the final name.
RENAMED = {"runs/best_31_average.pth": "best_trained.pth"}


def as_then(stage) -> dict:
    """The settings of a stage as they were when the shipped weights were trained."""
    start = RENAMED.get(stage.start, stage.start)
    return dataclasses.asdict(dataclasses.replace(stage, start=start))


@pytest.mark.parametrize(
    "run, file",
    [
        ("model", "model_history.json"),
        ("best", "best_history.json"),
        ("context", "context_model_history.json"),
        ("factor", "factor_model_history.json"),
    ],
)
def test_the_shipped_weights_came_from_these_stages(train, run, file):
    history = read(du.WEIGHTS / file)
    stages = [as_then(stage) for stage in train.stages(run)]
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
    "settings",
    [
        {"factors": True},
        {"by_drawing": True},
        {"even": 0.0, "network": "PaletteNet"},
        {"even": 0.1},
    ],
)
def test_settings_that_would_do_nothing_are_refused(train_really, settings):
    message = "need recolour|expected a number above 0 and a PaletteNet"
    with pytest.raises(ValueError, match=message):
        train_really.Settings(True, **settings)


def test_a_stage_without_its_start_says_what_to_do(train, tmp_path):
    settings = train.Settings(True, n_feat=8, limit=100, start="model_trained.pth")
    message = r"model_trained\.pth does not exist; .* `python weights/train\.py` trains"
    with pytest.raises(FileNotFoundError, match=message):
        train.Run(settings, CPU, tmp_path)


def test_a_longer_context_starts_unheard(train_really, tmp_path):
    images = real_sprites("train").images[:50]
    torch.manual_seed(0)
    short = du.PaletteNet(images, SCHEDULE, n_cfeat=5, width=16).eval()
    long = du.PaletteNet(images, SCHEDULE, n_cfeat=9, width=16).eval()
    nn.init.normal_(short.own.weight)
    du.save_weights(short, tmp_path / "short.pth", half=False)
    train_really.starting_weights(long, tmp_path / "short.pth")
    x = torch.randn(4, 3, 16, 16)
    c = torch.eye(5)[:4]
    longer = torch.cat((c, torch.ones(4, 4)), 1)
    t = torch.tensor(0.2)
    with torch.no_grad():
        torch.testing.assert_close(long(x, t, longer), short(x, t, c))


def test_nothing_but_the_context_may_differ(train_really, tmp_path):
    images = real_sprites("train").images[:50]
    short = du.PaletteNet(images, SCHEDULE, n_cfeat=5, width=16)
    long = du.PaletteNet(images, SCHEDULE, n_cfeat=9, width=16)
    wide = du.PaletteNet(images, SCHEDULE, n_cfeat=5, width=32)
    du.save_weights(short, tmp_path / "short.pth", half=False)
    du.save_weights(long, tmp_path / "long.pth", half=False)
    for model, name in ((wide, "short.pth"), (short, "long.pth")):
        message = f"{name} does not fit this PaletteNet: .* of another shape"
        with pytest.raises(ValueError, match=message):
            train_really.starting_weights(model, tmp_path / name)


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
    for pictures, contexts in train.batches(x, x.long(), 100, 1, g):
        assert torch.equal(pictures.long(), contexts)
        sizes.append(len(pictures))
    assert sizes == [100, 100, 5]


def some_sprites(rows) -> du.Sprites:
    """Training sprites of these rows."""
    every = real_sprites("train")
    factors = [every.factors[i] for i in rows]
    return du.Sprites(every.images[rows], every.labels[rows], factors)


COPIES = {"hero": 3, "non-hero": 4, "food": 2, "spell": 3, "side-facing": 6}


@pytest.fixture
def new_colours(train_really):
    """(factors of the origin, specification found) of recoloured sprites, and labels.

    The decoder reads the specifications out of the pictures.
    """
    sprites = some_sprites(list(range(40)))
    x, c = train_really.recoloured(sprites, COPIES, seed=1)
    origins = []
    for row in sprites.factors:
        origins += [row] * COPIES[row["class"]]
    assert x.shape == (len(origins), 3, 16, 16)
    assert x.dtype == c.dtype == torch.float32
    found, distances = FACTORY.decode(du.to_pictures(x))
    assert distances.max() == 0
    return list(zip(origins, found)), c


def test_recoloured_sprites_keep_their_class(new_colours):
    pairs, c = new_colours
    labels = [FACTORY.CLASS_NAMES[k] for k in c.argmax(1)]
    assert labels == [row["class"] for row, _ in pairs]


def test_recoloured_sprites_keep_their_drawing(new_colours):
    """Only colours change, and which way a side-facing sprite looks."""
    pairs, _ = new_colours
    changed = {name: set() for name in COPIES}
    for row, sprite in pairs:
        for factor, value in sprite.as_dict().items():
            if value != row[factor]:
                changed[row["class"]].add(factor)
    free = {name: set(FACTORY.colour_factors(name)) for name in COPIES}
    free["side-facing"].add("facing")
    assert changed == free


def test_recoloured_sprites_never_have_a_held_out_pair(new_colours):
    pairs, _ = new_colours
    for row, sprite in pairs:
        assert not FACTORY.held_out_pairs(row["class"]).hold(sprite)


def test_the_seed_decides_the_new_colours(train_really):
    sprites = some_sprites(list(range(10)))
    first, _ = train_really.recoloured(sprites, COPIES, seed=1)
    again, _ = train_really.recoloured(sprites, COPIES, seed=1)
    other, _ = train_really.recoloured(sprites, COPIES, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_recoloured_sprite_is_never_one_of_the_test(train_really, monkeypatch):
    """A piece of food of which every other colour is in `test`: its own comes."""
    rows = real_sprites("train").factors
    index = next(i for i, row in enumerate(rows) if row["class"] == "food")
    food = some_sprites([index])
    [own] = food.factors
    others = []
    for colour in FACTORY.factors_of("food")["colour"]:
        if colour != own["colour"]:
            others.append({**own, "colour": colour})
    monkeypatch.setattr(du, "load_sprites", lambda part: du.Sprites(None, None, others))
    x, _ = train_really.recoloured(food, {"food": 20}, seed=0)
    assert torch.equal(x, food.x.expand_as(x))


def drawing(row: dict[str, str]) -> tuple:
    """What a row says besides colours and facing."""
    free = {*FACTORY.colour_factors(row["class"]), "facing"}
    return tuple(sorted(item for item in row.items() if item[0] not in free))


@pytest.mark.parametrize("name", FACTORY.CLASS_NAMES)
def test_by_drawing_each_drawing_of_a_class_comes_as_often(train_really, name):
    """As many rows as before; the counts of a class's drawings differ by 1 at most.

    A drawing of a side-facing sprite may be known turned both ways.
    """
    rows = some_sprites(list(range(400))).factors
    even = train_really.each_drawing(rows)
    before = [drawing(row) for row in rows if row["class"] == name]
    after = [drawing(row) for row in even if row["class"] == name]
    assert len(before) == len(after)
    assert set(before) == set(after)
    if name != "side-facing":
        counts = [after.count(one) for one in set(after)]
        assert max(counts) - min(counts) <= 1


def test_by_drawing_there_are_as_many_pictures_of_each_class(train_really):
    sprites = some_sprites(list(range(400)))
    copies = dict.fromkeys(du.CLASS_NAMES, 1)
    x, c = train_really.recoloured(sprites, copies, 1, by_drawing=True)
    assert len(x) == 400
    assert torch.equal(c.sum(0), torch.from_numpy(sprites.labels).float().sum(0))


@pytest.mark.parametrize("by_drawing, counts", [(False, [5, 1]), (True, [3, 3])])
def test_recoloured_pictures_come_by_drawing_where_they_should(
    by_drawing, counts, train_really
):
    """A piece of food in five colours and another in one: the decoder counts."""
    groups = {}
    for i, row in enumerate(real_sprites("train").factors):
        if row["class"] == "food":
            groups.setdefault(drawing(row), []).append(i)
    common, *_, rare = sorted(groups.values(), key=len, reverse=True)
    sprites = some_sprites([*common[:5], rare[0]])
    x, _ = train_really.recoloured(sprites, {"food": 1}, 0, by_drawing=by_drawing)
    specifications, _ = FACTORY.decode(du.to_pictures(x))
    found = [drawing(one.as_dict()) for one in specifications]
    assert sorted((found.count(one) for one in set(found)), reverse=True) == counts


def test_contexts_that_name_factors_name_those_of_their_picture(train_really):
    """The class always, of the other columns' factors each in seven of ten.

    Never a value that the decoder does not find in the picture.
    """
    sprites = some_sprites(list(range(300)))
    copies = dict.fromkeys(du.CLASS_NAMES, 2)
    x, c = train_really.recoloured(sprites, copies, 3, factors=True)
    found, _ = FACTORY.decode(du.to_pictures(x))
    every = SCORING.as_context([sprite.as_dict() for sprite in found])
    every = torch.from_numpy(every)
    assert c.shape == every.shape
    assert bool((c <= every).all())
    assert torch.equal(c[:, :5], every[:, :5])
    assert set(every[:, 5:].sum(1).tolist()) == {2.0}
    share = float(c[:, 5:].sum() / every[:, 5:].sum())
    assert share == pytest.approx(0.7, abs=0.05)


@pytest.fixture
def recolouring(train_really):
    """Settings of a small run whose sprites change their colours each epoch."""
    return train_really.Settings(
        True,
        n_feat=8,
        limit=10,
        batch=4,
        passes=2,
        log_every=4,
        recolour=dict.fromkeys(du.CLASS_NAMES, 1),
    )


def test_each_epoch_draws_new_colours(train_really, recolouring, tmp_path):
    run = train_really.Run(recolouring, CPU, tmp_path / "a")
    run.train_epoch(0)
    first = run.x
    run.train_epoch(1)
    assert len(first) == 10
    assert not torch.equal(first, run.x)
    resumed = train_really.Run(recolouring, CPU, tmp_path / "b")
    resumed.train_epoch(1)
    assert torch.equal(resumed.x, run.x)


def test_the_history_has_means_of_so_many_steps(train_really, recolouring, tmp_path):
    run = train_really.Run(recolouring, CPU, tmp_path)
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
    with reserve(tmp_path, ["model", "best"]):
        with pytest.raises(SystemExit):
            reserve(tmp_path, ["context", "best"])
        message = f"another process is training best in {tmp_path}"
        assert message in capsys.readouterr().err
        # what the second had locked before it stopped is free
        reserve(tmp_path, ["context"]).close()
    reserve(tmp_path, ["model", "best"]).close()


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
    message = "under torchrun add --only, one of model, context, best"
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


# ---- Steps that are evened out ------------------------------------------------------


def test_evened_weights_are_one_over_the_loss(train_really):
    """Of a network that knows nothing: its loss at a step gives that step's weight."""
    sprites = real_sprites("train")
    model = du.PaletteNet(sprites.images, SCHEDULE, width=16)
    x = sprites.x[:20]
    c = sprites.c[:20]
    weights = train_really.evened(model, x, c, SCHEDULE, 0.01, seed=1)
    assert weights.shape == (501,)
    assert weights[0] == 0
    assert bool((weights[1:] > 0).all())
    assert model.training
    model.eval()
    for t in (100, 300, 500):
        x_t = du.perturb_input(x, t, torch.randn(x.shape), SCHEDULE)
        with torch.no_grad():
            loss = float(model.loss(x_t, torch.full((20,), t / 500), c, x).mean())
        assert float(weights[t]) == pytest.approx(1 / (0.01 + loss), rel=0.1)


class Known(nn.Module):
    """Its loss at step t is (t / T)^2, if it is asked with the context in eval mode."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x_t, t, c, clean):
        assert not self.training
        assert c.sum() == len(c)
        self.seen.append(x_t)
        return t.square()[:, None].expand(-1, 9)


def evened_by(train, seed: int) -> tuple[Known, torch.Tensor]:
    """(the model whose loss is known, with what it saw; the weights)."""
    model = Known()
    x = torch.zeros(4, 3, 2, 2)
    c = torch.eye(5)[:4]
    return model, train.evened(model, x, c, SCHEDULE, 0.01, seed)


def test_evened_weights_follow_a_loss_that_is_known_at_every_step(train_really):
    """Straight lines over ten steps differ from (t / T)^2 by 1.3e-4 at most.

    A step early or late would differ by 4e-3.
    """
    model, weights = evened_by(train_really, 1)
    assert weights[0] == 0
    assert model.training
    losses = 1 / weights[1:] - 0.01
    known = (torch.arange(1.0, 501) / 500).square()
    torch.testing.assert_close(losses, known, atol=1.3e-4, rtol=0)


def test_evened_weights_are_measured_with_noise_of_their_seed(train_really):
    pictures = []
    for seed in (1, 1, 2):
        model, _ = evened_by(train_really, seed)
        pictures.append(torch.stack(model.seen))
    first, again, other = pictures
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first) == 50
    expected = (1 - SCHEDULE.ab[500]).sqrt().float()
    torch.testing.assert_close(first[-1].std(), expected, atol=0.3, rtol=0)


@pytest.fixture(params=["factors", "by_drawing"])
def evened_run(request, train_really, monkeypatch, tmp_path):
    """A run of eight sprites that evens out its steps, and starts from some weights."""
    sprites = some_sprites(list(range(8)))
    monkeypatch.setattr(du, "load_sprites", lambda part: sprites)
    start = du.PaletteNet(sprites.images, SCHEDULE)
    # so that it says something, and listens
    nn.init.normal_(start.own.weight)
    nn.init.normal_(start.context.model[0].weight)
    du.save_weights(start, tmp_path / "start.pth", half=False)
    settings = train_really.Settings(
        True,
        network="PaletteNet",
        start="start.pth",
        passes=1,
        batch=4,
        min_snr=None,
        even=0.01,
        recolour=dict.fromkeys(du.CLASS_NAMES, 1),
        **{request.param: True},
    )
    return train_really.Run(settings, CPU, tmp_path)


def test_the_weights_of_steps_are_those_of_the_start(
    evened_run, train_really, tmp_path
):
    settings = evened_run.settings
    model = train_really.network(settings, evened_run.sprites.images, SCHEDULE)
    train_really.starting_weights(model, tmp_path / "start.pth")
    c = evened_run.c
    if settings.factors:
        c = torch.cat((c, torch.zeros(8, 88)), 1)
    expected = train_really.evened(
        model, evened_run.x, c, SCHEDULE, settings.even, settings.seed
    )
    torch.testing.assert_close(evened_run.weights, expected)


def test_an_evened_run_trains_with_the_weights_and_colours_of_its_settings(
    evened_run, train_really, monkeypatch
):
    loss = du.diffusion_loss
    seen = []

    def noted(*arguments, weights, **options):
        seen.append(weights)
        return loss(*arguments, weights=weights, **options)

    monkeypatch.setattr(du, "diffusion_loss", noted)
    evened_run.train_epoch(0)
    assert len(seen) == 2
    for weights in seen:
        assert weights is evened_run.weights
    settings = evened_run.settings
    x, c = train_really.recoloured(
        evened_run.sprites,
        settings.recolour,
        settings.seed * 1000,
        factors=settings.factors,
        by_drawing=settings.by_drawing,
    )
    assert torch.equal(evened_run.x, x)
    assert torch.equal(evened_run.c, c)
    assert c.shape[1] == (93 if settings.factors else 5)


def test_after_an_interruption_the_weights_of_steps_are_the_same(
    evened_run, train_really, tmp_path
):
    evened_run.train_epoch(0)
    evened_run.save()
    again = train_really.Run(evened_run.settings, CPU, tmp_path)
    again.resume()
    assert torch.equal(again.weights, evened_run.weights)
    assert again.history["epochs"] == evened_run.history["epochs"]


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
