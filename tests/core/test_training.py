"""The training loop against computations by hand, and the program that trains what is shipped."""

import dataclasses
import functools
import json
import sys

import numpy as np
import pytest
import torch
import torch.nn as nn

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear(50)


class Tiny(nn.Module):
    """A network of one convolution and a batch norm, with time and context added."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.hear = (
            nn.Conv2d(1, 1, 3, padding=1),
            nn.BatchNorm2d(1),
            nn.Linear(3, 1),
        )

    def forward(self, x, t, c=None):
        c = x.new_zeros(len(x), 2) if c is None else c
        return self.norm(self.conv(x)) + self.hear(
            torch.cat((t.view(-1, 1).to(x), c.to(x)), 1)
        ).view(-1, 1, 1, 1)


def tiny_batches(n: int = 3, size: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (torch.rand(size, 1, 8, 8) * 2 - 1, torch.eye(2)[torch.arange(size) % 2])
        for _ in range(n)
    ]


# ------------------------------------------------------------------------------------------------------------ the pieces


def test_corrupt_mixes_with_uniform_noise():
    """At 0 the picture, at 1 noise uniform on [0, 1] whatever the picture, between the two their straight mixture."""
    x = torch.rand(3, 1, 64, 64)
    y = du.corrupt(x, torch.tensor([0.0, 0.25, 1.0]), torch.Generator().manual_seed(4))
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(4))
    assert torch.equal(y[0], x[0]) and torch.equal(y[2], noise[2])
    torch.testing.assert_close(y[1], 0.75 * x[1] + 0.25 * noise[1])
    assert y[2].min() >= 0 and y[2].max() <= 1
    assert y[2].mean().item() == pytest.approx(0.5, abs=0.02) and y[
        2
    ].var().item() == pytest.approx(1 / 12, abs=0.004)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_drop_context_drops_whole_rows_in_their_share(p):
    c = torch.rand(20000, 5) + 0.5
    dropped = du.drop_context(c, p, torch.Generator().manual_seed(1))
    gone = (dropped == 0).all(1)
    assert torch.equal(dropped[~gone], c[~gone])  # a row goes whole or stays as it was
    assert gone.float().mean().item() == pytest.approx(
        p, abs=4 * (p * (1 - p) / 20000) ** 0.5
    )


def test_diffusion_loss_is_its_formula():
    """The same t and noise drawn by hand: x_t built pixel by pixel, the mean of the squared differences."""
    model, (x, c) = Tiny().eval(), tiny_batches(1)[0]
    loss = du.diffusion_loss(
        model, x, SCHEDULE, c=c, generator=torch.Generator().manual_seed(9)
    )
    generator = torch.Generator().manual_seed(9)
    t, noise = (
        torch.randint(1, 51, (8,), generator=generator),
        torch.randn(x.shape, generator=generator),
    )
    ab = np.cumprod(1 - (1e-4 + (0.02 - 1e-4) * np.arange(1, 51) / 50))
    total = 0.0
    with torch.no_grad():
        for i in range(8):
            ab_t = ab[t[i] - 1]
            x_t = ab_t**0.5 * x[i] + (1 - ab_t) ** 0.5 * noise[i]
            total += (
                (model(x_t[None], t[i : i + 1] / 50, c[i : i + 1])[0] - noise[i])
                .square()
                .sum()
                .item()
            )
    assert loss.item() == pytest.approx(total / x.numel(), rel=1e-5)


def test_diffusion_loss_asks_for_every_step_from_1_to_T():
    seen = []

    def model(x, t, c):
        seen.append(t)
        return torch.zeros_like(x)

    du.diffusion_loss(model, torch.zeros(5000, 1, 1, 1), du.NoiseSchedule.linear(10))
    counts = (torch.cat(seen) * 10).round().long().bincount(minlength=11)
    assert len(counts) == 11 and counts[0] == 0 and counts[1:].min() > 400


def test_the_loss_of_a_network_in_double_precision():
    model = du.ContextUnet(1, 8, 2, 8).double()
    loss = du.diffusion_loss(
        model, torch.zeros(2, 1, 8, 8, dtype=torch.float64), SCHEDULE
    )
    assert torch.isfinite(loss)


def test_average_weights_is_the_moving_average_of_weights_and_buffers():
    """The first update copies; update n then moves each tensor by 1 - min(decay, (1 + n) / (10 + n)); counters are copied."""
    decay, model = 0.6, Tiny()
    average = du.average_weights(model, decay)
    by_hand = None
    for n in range(12):
        with torch.no_grad():
            for tensor in (
                *model.parameters(),
                model.norm.running_mean,
                model.norm.running_var,
            ):
                tensor.add_(torch.randn_like(tensor))
            model.norm.num_batches_tracked.fill_(n + 100)
        average.update_parameters(model)
        now = {k: v.detach().double().clone() for k, v in model.state_dict().items()}
        if by_hand is None:
            by_hand = now
        else:
            rate = min(decay, (1 + n) / (10 + n))
            by_hand = {
                k: rate * by_hand[k] + (1 - rate) * v if "tracked" not in k else v
                for k, v in now.items()
            }
    for key, value in average.module.state_dict().items():
        torch.testing.assert_close(value.double(), by_hand[key], rtol=1e-5, atol=1e-6)
    assert average.module.norm.num_batches_tracked == 111


def test_bfloat16_is_taken_only_where_it_is_timed_faster(monkeypatch):
    """If the processor lists bfloat16, the clock decides; random numbers stay."""
    really_timed = du._convolution_seconds

    def clock():
        assert min(really_timed(repeats=1)) > 0
        return seconds

    flags = "flags: avx512f avx512_bf16"
    monkeypatch.setattr(du.Path, "read_text", lambda self, encoding: flags)
    monkeypatch.setattr(du, "_convolution_seconds", clock)
    state = torch.get_rng_state()
    for seconds in ((1.0, 2.0), (2.0, 1.0)):
        assert du.has_fast_bf16.__wrapped__("cpu") == (seconds == (1.0, 2.0))
    assert torch.equal(state, torch.get_rng_state())


def test_a_processor_that_does_not_list_bfloat16_is_not_timed(monkeypatch):
    flags = "flags: avx512f avx512_vnni"
    monkeypatch.setattr(du.Path, "read_text", lambda self, encoding: flags)
    monkeypatch.delattr(du, "_convolution_seconds")
    assert not du.has_fast_bf16.__wrapped__("cpu")
    assert not du.has_fast_bf16.__wrapped__("mps")


@pytest.mark.parametrize("min_snr", [None, 5.0])
def test_train_steps_is_the_plain_loop(min_snr, monkeypatch):
    """In float32: the same weights, losses and average as the loop written out with the same random numbers."""
    monkeypatch.setattr(du, "has_fast_bf16", lambda device: False)
    ours, by_hand, batches = Tiny(), Tiny(), tiny_batches(5)
    by_hand.load_state_dict(ours.state_dict())
    average = du.average_weights(ours, 0.9)
    optimiser = torch.optim.Adam(ours.parameters(), 1e-2)
    losses = list(
        du.train_steps(
            ours,
            iter(batches),
            SCHEDULE,
            optimiser=optimiser,
            p_drop=0.5,
            average=average,
            generator=torch.Generator().manual_seed(3),
            min_snr=min_snr,
        )
    )

    optimiser, generator, expected = (
        torch.optim.Adam(by_hand.parameters(), 1e-2),
        torch.Generator().manual_seed(3),
        [],
    )
    for x, c in batches:
        c = c * (torch.rand(8, 1, generator=generator) >= 0.5)
        t = torch.randint(1, 51, (8,), generator=generator)
        noise = torch.randn(x.shape, generator=generator)
        weight = (
            torch.ones(8)
            if min_snr is None
            else (min_snr / SCHEDULE.snr[t]).clamp(max=1).float()
        )
        loss = (
            weight.view(8, 1, 1, 1)
            * (
                by_hand(du.perturb_input(x, t, noise, SCHEDULE), t / 50, c) - noise
            ).square()
        ).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-5)
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(
            value, by_hand.state_dict()[key], rtol=1e-4, atol=1e-6
        )
    assert int(average.n_averaged) == 5


def test_train_steps_without_context_never_shows_the_labels():
    class Deaf(Tiny):
        def forward(self, x, t, c=None):
            assert c is None
            return super().forward(x, t)

    model = Deaf()
    assert (
        len(
            list(
                du.train_steps(
                    model,
                    iter(tiny_batches()),
                    SCHEDULE,
                    optimiser=torch.optim.SGD(model.parameters(), 0.1),
                )
            )
        )
        == 3
    )


def test_train_steps_passes_the_weights_of_steps_on():
    """All weight is on one step: the network is asked for no other."""
    model, seen = Tiny(), []
    model.register_forward_pre_hook(
        lambda _, arguments: seen.extend((arguments[1] * SCHEDULE.T).round().tolist())
    )
    list(
        du.train_steps(
            model,
            iter(tiny_batches()),
            SCHEDULE,
            optimiser=torch.optim.SGD(model.parameters(), 0.1),
            weights=(torch.arange(51) == 7).float(),
        )
    )
    assert set(seen) == {7} and len(seen) == 24


def test_train_steps_learns():
    model = Tiny()
    losses = list(
        du.train_steps(
            model,
            iter(tiny_batches(60, 32)),
            SCHEDULE,
            optimiser=torch.optim.Adam(model.parameters(), 3e-2),
        )
    )
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])


def test_train_steps_stops_when_the_loss_is_no_number():
    model, batches = Tiny(), tiny_batches()
    batches[1][0][0] = float("nan")
    steps = du.train_steps(
        model,
        iter(batches),
        SCHEDULE,
        optimiser=torch.optim.SGD(model.parameters(), 0.1),
    )
    assert np.isfinite(next(steps))
    with pytest.raises(FloatingPointError, match="nan.*start again from a checkpoint"):
        next(steps)


def test_train_steps_puts_the_model_into_training_mode():
    model = Tiny().eval()
    next(
        du.train_steps(
            model,
            iter(tiny_batches()),
            SCHEDULE,
            optimiser=torch.optim.SGD(model.parameters(), 0.1),
        )
    )
    assert model.training and model.norm.num_batches_tracked == 1


# -------------------------------------------------------------------------------------------------------------- the files


def test_saved_weights_are_half_precision_and_load_strictly(tmp_path):
    model, path = du.ContextUnet(3, 8, 5, 16), tmp_path / "deep" / "er" / "model_0.pth"
    du.save_weights(model, path)
    stored = torch.load(path, weights_only=True)
    assert {v.dtype for k, v in stored.items() if "tracked" not in k} == {torch.float16}
    back = du.load_weights(du.ContextUnet(3, 8, 5, 16), path)
    assert not back.training
    for key, value in back.state_dict().items():
        assert value.dtype == model.state_dict()[key].dtype
        torch.testing.assert_close(
            value, model.state_dict()[key], rtol=2**-10, atol=1e-7
        )


def test_weights_saved_whole_width_come_back_bit_for_bit(tmp_path):
    model = Tiny()
    du.save_weights(model, tmp_path / "w.pth", half=False)
    assert all(
        torch.equal(v, model.state_dict()[k])
        for k, v in du.load_state(tmp_path / "w.pth").items()
    )


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = Tiny()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    du.save_weights(model, tmp_path / "w.pth")
    assert all(
        torch.equal(v, before[k]) and v.dtype == before[k].dtype
        for k, v in model.state_dict().items()
    )


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch
):
    path = tmp_path / "w.pth"
    du.save_weights({"a": torch.ones(2)}, path)
    before = path.read_bytes()

    def half_way(state, file):
        file.write(before[: len(before) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half_way)
    with pytest.raises(KeyboardInterrupt):
        du.save_weights({"a": torch.zeros(2)}, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_weights_of_steps_are_the_mean_of_weight_times_error():
    """A model whose error at step t is (t / T)^2, given weights t, has the mean of t (t / T)^2; where one step alone has a weight, it is drawn."""
    T, seen = SCHEDULE.T, []

    def model(x_t, t, c):
        seen.append((t * T).round().long())
        return x_t / (1 - SCHEDULE.ab[seen[-1]]).sqrt().float().view(
            -1, 1, 1, 1
        ) + t.view(-1, 1, 1, 1)

    steps = torch.arange(T + 1.0)
    loss = du.diffusion_loss(
        model,
        torch.zeros(100_000, 1, 1, 1),
        SCHEDULE,
        generator=torch.Generator().manual_seed(0),
        weights=steps,
    )
    assert float(loss) == pytest.approx(
        float((steps * (steps / T) ** 2)[1:].mean()), rel=0.01
    )
    counts = torch.bincount(seen.pop(), minlength=T + 1)
    assert counts[0] == 0 and float(counts[49] / counts[1]) == pytest.approx(
        7, rel=0.25
    )  # as often as the root says
    du.diffusion_loss(
        model, torch.zeros(50, 1, 1, 1), SCHEDULE, weights=(steps == 7).float()
    )
    assert set(seen.pop().tolist()) == {7}
    one, again, other = (du.diffusion_loss(model, torch.zeros(50, 1, 1, 1), SCHEDULE, c=None, generator=torch.Generator().manual_seed(seed), min_snr=None, weights=steps)
                         for seed in (1, 1, 2))  # fmt: skip
    assert one == again != other
    with pytest.raises(ValueError, match="min_snr=5; expected None"):
        du.diffusion_loss(
            model, torch.zeros(5, 1, 1, 1), SCHEDULE, min_snr=5, weights=steps
        )


# ---------------------------------------------------------------------------------------------------- weights/train.py


@pytest.fixture
def train(program, monkeypatch, sprite_files):
    """weights/train.py as a module, with stand-in sprites."""
    module = program("train")
    monkeypatch.setattr(du, "DATA", sprite_files)
    monkeypatch.setattr(
        du, "load_sprites", functools.partial(du.load_sprites, root=sprite_files)
    )
    return module


def command(train, monkeypatch, out, *extra, epochs=2):
    """`python weights/train.py` with a network of 8 features, and sprites for two steps a pass."""
    limit = "200" if "context" in extra else "100"
    small = [
        "--n-feat",
        "8",
        "--limit",
        limit,
        "--epochs",
        str(epochs),
        "--threads",
        "1",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", ["train.py", *small, *extra])
    train.main()


def interrupt_after(monkeypatch, calls: int) -> None:
    """Ctrl-C in the loss computation after so many training steps."""
    loss, done = du.diffusion_loss, []

    def interrupted(*arguments):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(1)
        return loss(*arguments)

    monkeypatch.setattr(du, "diffusion_loss", interrupted)


@pytest.mark.parametrize("name", ["model", "context", "best"])
@pytest.mark.parametrize("epochs_done", [1, 1.5])
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(
    name, epochs_done, train, monkeypatch, tmp_path
):
    """Stopped between two epochs or in the middle of the second, then started again by the same command."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command(train, monkeypatch, whole, "--only", name)
    with monkeypatch.context() as patch:
        interrupt_after(
            patch, int(2 * epochs_done * next(train.stages(name, 2)).passes)
        )
        with pytest.raises(KeyboardInterrupt):
            command(train, patch, parts, "--only", name)
    stem = "context_model" if name == "context" else name
    assert {f.name for f in parts.iterdir()} == {"runs", f"{stem}_0.pth"}
    command(train, monkeypatch, parts, "--only", name)
    assert {f.name for f in parts.iterdir()} == {
        "runs",
        *(f"{stem}_{end}" for end in ("0.pth", "1.pth", "trained.pth", "history.json")),
    }
    for file in (f"{stem}_0.pth", f"{stem}_1.pth", f"{stem}_trained.pth"):
        one, other = du.load_state(whole / file), du.load_state(parts / file)
        assert one.keys() == other.keys() and all(
            torch.equal(one[k], other[k]) for k in one
        )
    one, other = (
        torch.load(folder / "runs" / f"{stem}_from_0.pt", weights_only=True)
        for folder in (whole, parts)
    )
    for key, value in one["model"].items():  # in full precision too
        assert torch.equal(value, other["model"][key])
    histories = [
        json.loads((folder / f"{stem}_history.json").read_text())
        for folder in (whole, parts)
    ]
    assert [row["losses"] for row in histories[0]["epochs"]] == [
        row["losses"] for row in histories[1]["epochs"]
    ]


def test_the_history_is_complete(train, monkeypatch, tmp_path):
    """Every epoch and every step has its loss; settings and the data's SHA-256 are stored beside them."""
    command(train, monkeypatch, tmp_path / "out", "--only", "context", epochs=3)
    history = json.loads((tmp_path / "out" / "context_model_history.json").read_text())
    assert [row["epoch"] for row in history["epochs"]] == [0, 1, 2]
    for row in history["epochs"]:
        assert (
            len(row["losses"]) == 2
            and row["loss"] == pytest.approx(np.mean(row["losses"]), abs=1e-4)
            and row["seconds"] >= 0
        )
    (stage,) = history["stages"]
    assert (
        stage
        | {
            "context": True,
            "n_feat": 8,
            "T": 500,
            "epochs": 3,
            "limit": 200,
            "p_drop": 0.1,
        }
        == stage
    )
    assert history["data"] == train.sha256(train.SPRITE_FILES) and set(
        history["data"]
    ) == set(train.SPRITE_FILES)
    assert (
        "cpu" in history["machines"][0]
        and str(torch.__version__) in history["machines"][0]
    )


def test_a_finished_run_trains_no_further(train, monkeypatch, tmp_path):
    command(train, monkeypatch, tmp_path / "out", "--only", "model")
    interrupt_after(monkeypatch, 0)
    command(train, monkeypatch, tmp_path / "out", "--only", "model")


def test_other_settings_do_not_resume(train, monkeypatch, tmp_path):
    command(train, monkeypatch, tmp_path / "out", "--only", "model", epochs=1)
    with pytest.raises(
        ValueError,
        match=r"model_from_0\.pt was written with other settings; remove it to start again, or give --out",
    ):
        command(train, monkeypatch, tmp_path / "out", "--only", "model", epochs=2)


def test_other_data_do_not_resume(train, monkeypatch, tmp_path, sprite_files):
    command(train, monkeypatch, tmp_path / "out", "--only", "model", epochs=1)
    sprites = np.load(sprite_files / "sprites_16x16.npy")
    sprites[0, 0, 0, 0] ^= 1
    np.save(sprite_files / "sprites_16x16.npy", sprites)
    with pytest.raises(ValueError, match="written with other data"):
        command(train, monkeypatch, tmp_path / "out", "--only", "model", epochs=1)


def test_the_second_stage_goes_on_from_the_weights_that_the_first_saved(
    train, monkeypatch, tmp_path
):
    """Epochs 0 and 1, then 2 with other passes and a rate that starts anew; one history tells both."""
    second = {
        "start": "model_1.pth",
        "first_epoch": 2,
        "passes": 3,
        "learning_rate": 1e-9,
        "decay_epochs": 1,
    }
    monkeypatch.setattr(
        train, "STAGES", {"model": ({"epochs": 2, "passes": 1}, second)}
    )
    out = tmp_path / "out"
    command(train, monkeypatch, out, "--only", "model", epochs=3)
    history = json.loads((out / "model_history.json").read_text())
    assert [stage["first_epoch"] for stage in history["stages"]] == [0, 2] and len(
        history["machines"]
    ) == 2
    assert [(row["epoch"], len(row["losses"])) for row in history["epochs"]] == [
        (0, 2),
        (1, 2),
        (2, 6),
    ]
    before, after = (du.load_state(out / f"model_{epoch}.pth") for epoch in (1, 2))
    learnt = [
        key
        for key in before
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    assert all(
        torch.allclose(before[key], after[key], atol=1e-3) for key in learnt
    )  # a rate of 1e-9 leaves them where they were
    first = du.load_state(out / "model_0.pth")
    assert not all(torch.allclose(before[key], first[key], atol=1e-3) for key in learnt)


@pytest.mark.parametrize(
    "run, file",
    [(run, f"{run}_history.json") for run in ("model", "best")]
    + [(run, f"{run}_model_history.json") for run in ("context", "factor")],
)
def test_the_shipped_weights_came_from_these_stages(train, run, file):
    history = json.loads((du.WEIGHTS / file).read_text(encoding="utf8"))
    # the older runs are from before there were such settings
    before = {
        "min_snr": None,
        "network": "ContextUnet",
        "beta2": 0.999,
        "clip": None,
        "dropout": 0.0,
        "recolour": None,
        "log_every": 1,
    }
    before |= {"even": None, "by_drawing": False, "factors": False}
    stages = [dataclasses.asdict(stage) for stage in train.stages(run)]
    assert [before | stage for stage in history["stages"]] == stages and len(
        history["epochs"]
    ) == stages[-1]["epochs"]


@pytest.fixture
def train_really(program):
    """weights/train.py as a module, with the real sprites."""
    return program("train")


def some_sprites(chosen):
    """Training sprites of these rows."""
    all_of_them = du.load_sprites("train")
    return du.Sprites(
        all_of_them.images[chosen],
        all_of_them.labels[chosen],
        [all_of_them.factors[i] for i in chosen],
    )


def test_recoloured_sprites_keep_their_drawing(train_really):
    """What the decoder reads out of each: the factors that choose a ramp vary, and which way a side-facing sprite looks; nothing else."""
    sprites, copies = (
        some_sprites(range(40)),
        {"hero": 3, "non-hero": 4, "food": 2, "spell": 3, "side-facing": 6},
    )
    x, c = train_really.recoloured(sprites, copies, seed=1)
    origins = [row for row in sprites.factors for _ in range(copies[row["class"]])]
    assert x.shape == (len(origins), 3, 16, 16) and x.dtype == c.dtype == torch.float32
    factory = du.sprite_factory()
    found, distances = factory.decode(du.to_pictures(x))
    assert distances.max() == 0 and [factory.CLASS_NAMES[k] for k in c.argmax(1)] == [
        row["class"] for row in origins
    ]
    changed = {name: set() for name in copies}
    for new, row in zip(found, origins):
        changed[row["class"]] |= {
            name for name, value in new.as_dict().items() if value != row[name]
        }
        assert not factory.held_out_pairs(row["class"]).hold(new)
    free = {name: set(factory.colour_factors(name)) for name in copies}
    assert changed == free | {"side-facing": free["side-facing"] | {"facing"}}
    again, other = (
        train_really.recoloured(sprites, copies, seed)[0] for seed in (1, 2)
    )
    assert torch.equal(x, again) and not torch.equal(x, other)


def test_by_drawing_each_drawing_of_a_class_comes_as_often(train_really):
    """As many pictures of each class as before; counts of a class's drawings differ by one copy at most, and none is new."""
    sprites, factory = some_sprites(range(400)), du.sprite_factory()
    rows = train_really.each_drawing(sprites.factors)

    def drawing(row):
        free = {*factory.colour_factors(row["class"]), "facing"}
        return tuple(
            sorted(
                (factor, value) for factor, value in row.items() if factor not in free
            )
        )

    for name in factory.CLASS_NAMES:
        before, after = (
            [drawing(row) for row in some if row["class"] == name]
            for some in (sprites.factors, rows)
        )
        assert len(before) == len(after) and set(before) == set(after)
        if name != "side-facing":  # there a drawing may be known turned both ways
            counts = [after.count(one) for one in set(after)]
            assert max(counts) - min(counts) <= 1
    x, c = train_really.recoloured(
        sprites, dict.fromkeys(du.CLASS_NAMES, 1), 1, by_drawing=True
    )
    assert len(x) == 400 and torch.equal(
        c.sum(0), torch.from_numpy(sprites.labels).float().sum(0)
    )


@pytest.mark.parametrize("by_drawing, counts", [(False, [5, 1]), (True, [3, 3])])
def test_recoloured_pictures_come_by_drawing_where_they_should(
    by_drawing, counts, train_really
):
    """An apple in five colours and another piece of food in one: the decoder counts the drawings of what comes."""
    food, factory = (
        [
            (i, row)
            for i, row in enumerate(du.load_sprites("train").factors)
            if row["class"] == "food"
        ],
        du.sprite_factory(),
    )
    drawings = {}
    for i, row in food:
        drawings.setdefault((row["kind"], row["serving"], row["garnish"]), []).append(i)
    common, *_, rare = sorted(drawings.values(), key=len, reverse=True)
    x, _ = train_really.recoloured(
        some_sprites([*common[:5], rare[0]]), {"food": 1}, 0, by_drawing=by_drawing
    )
    found = [
        (sprite["kind"], sprite["serving"], sprite["garnish"])
        for sprite in factory.decode(du.to_pictures(x))[0]
    ]
    assert sorted((found.count(one) for one in set(found)), reverse=True) == counts


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
    with pytest.raises(
        ValueError, match="need recolour|expected a number above 0 and a PaletteNet"
    ):
        train_really.Settings(True, **settings)


def test_contexts_that_name_factors_name_those_of_their_picture(train_really):
    """The class always, of the other factors with columns each in seven of ten; never a value that the decoder does not find in the picture."""
    sprites, factory = some_sprites(range(300)), du.sprite_factory()
    x, c = train_really.recoloured(
        sprites, dict.fromkeys(du.CLASS_NAMES, 2), 3, factors=True
    )
    found, _ = factory.decode(du.to_pictures(x))
    rows = [sprite.as_dict() for sprite in found]
    every = torch.from_numpy(du.sprite_scoring().as_context(rows))
    assert (
        c.shape == every.shape
        and bool((c <= every).all())
        and torch.equal(c[:, :5], every[:, :5])
    )
    assert float(c[:, 5:].sum() / every[:, 5:].sum()) == pytest.approx(
        0.7, abs=0.05
    ) and set(every[:, 5:].sum(1).tolist()) == {2.0}


def test_a_longer_context_starts_unheard(train_really, tmp_path):
    schedule, images = du.NoiseSchedule.linear(), du.load_sprites("train").images[:50]
    torch.manual_seed(0)
    short, long = (
        du.PaletteNet(images, schedule, n_cfeat=n, width=16).eval() for n in (5, 9)
    )
    torch.nn.init.normal_(short.own.weight)
    du.save_weights(short, tmp_path / "short.pth", half=False)
    train_really.starting_weights(long, tmp_path / "short.pth")
    x, t, c = torch.randn(4, 3, 16, 16), torch.tensor(0.2), torch.eye(5)[:4]
    with torch.no_grad():
        torch.testing.assert_close(
            long(x, t, torch.cat((c, torch.ones(4, 4)), 1)), short(x, t, c)
        )
    with pytest.raises(RuntimeError, match="size mismatch"):  # nothing else may differ
        train_really.starting_weights(
            du.PaletteNet(images, schedule, n_cfeat=5, width=32), tmp_path / "short.pth"
        )
    du.save_weights(long, tmp_path / "long.pth", half=False)
    with pytest.raises(RuntimeError, match="size mismatch"):  # nor become shorter
        train_really.starting_weights(short, tmp_path / "long.pth")


def test_evened_weights_are_one_over_the_loss(train_really):
    """A network that knows nothing but the noise: its loss at a step, drawn with the same noise, gives that step's weight."""
    schedule, sprites = du.NoiseSchedule.linear(), du.load_sprites("train")
    model = du.PaletteNet(sprites.images, schedule, width=16)
    x, c = sprites.x[:60], sprites.c[:60]
    weights = train_really.evened(model, x, c, schedule, 0.01, seed=1)
    assert (
        weights.shape == (501,)
        and weights[0] == 0
        and bool((weights[1:] > 0).all())
        and model.training
    )
    model.eval()
    for t in (100, 300, 500):
        x_t = du.perturb_input(x, t, torch.randn(x.shape), schedule)
        with torch.no_grad():
            loss = float(model.loss(x_t, torch.full((60,), t / 500), c, x).mean())
        assert float(weights[t]) == pytest.approx(1 / (0.01 + loss), rel=0.1)


class Known(nn.Module):
    """Its loss at step t is (t / T)^2, if it is asked with the context, and not in training mode."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x_t, t, c, clean):
        assert not self.training and c.sum() == len(c)
        self.seen.append(x_t)
        return t.square()[:, None].expand(-1, 9)


def test_evened_weights_follow_a_loss_that_is_known_at_every_step(train_really):
    """Straight lines over ten steps leave (t / T)^2 by 1.3e-4 at most; a step early or late, by 4e-3."""
    schedule, x, c, drawn = (
        du.NoiseSchedule.linear(),
        torch.zeros(4, 3, 2, 2),
        torch.eye(5)[:4],
        [],
    )
    for seed in (1, 1, 2):
        drawn.append(model := Known())
        weights = train_really.evened(model, x, c, schedule, 0.01, seed)
    assert weights[0] == 0 and model.training
    torch.testing.assert_close(
        1 / weights[1:] - 0.01,
        (torch.arange(1.0, 501) / 500).square(),
        atol=1.3e-4,
        rtol=0,
    )
    (one, again, other) = (torch.stack(model.seen) for model in drawn)
    assert torch.equal(one, again) and not torch.equal(one, other) and len(one) == 50
    ab = schedule.ab[500]
    torch.testing.assert_close(one[-1].std(), (1 - ab).sqrt().float(), atol=0.3, rtol=0)


@pytest.mark.parametrize("factors, by_drawing", [(True, False), (False, True)])
def test_an_evened_run_trains_with_the_weights_and_colours_of_its_settings(
    factors, by_drawing, train_really, monkeypatch, tmp_path
):
    """Measured when the stage begins, on the weights it starts from; after an interruption they are the same, not measured again."""
    sprites, recolour = some_sprites(range(8)), dict.fromkeys(du.CLASS_NAMES, 1)
    monkeypatch.setattr(du, "load_sprites", lambda part: sprites)
    start = du.PaletteNet(sprites.images, du.NoiseSchedule.linear())
    for weights in (
        start.own.weight,
        start.context.model[0].weight,
    ):  # so that it says something, and listens
        nn.init.normal_(weights)
    du.save_weights(start, tmp_path / "start.pth", half=False)
    options = {
        "network": "PaletteNet",
        "start": "start.pth",
        "passes": 1,
        "batch": 4,
        "min_snr": None,
        "even": 0.01,
        "recolour": recolour,
    }
    settings = train_really.Settings(
        True, **options, factors=factors, by_drawing=by_drawing
    )
    run, loss, seen = (
        train_really.Run(settings, torch.device("cpu"), tmp_path),
        du.diffusion_loss,
        [],
    )
    train_really.starting_weights(
        model := train_really.network(settings, sprites.images, run.schedule),
        tmp_path / "start.pth",
    )
    c = torch.cat((run.c, torch.zeros(8, 88)), 1) if factors else run.c
    torch.testing.assert_close(
        run.weights,
        train_really.evened(model, run.x, c, run.schedule, 0.01, settings.seed),
    )
    monkeypatch.setattr(
        du,
        "diffusion_loss",
        lambda *arguments: seen.append(arguments[-1]) or loss(*arguments),
    )
    run.train_epoch(0)
    run.save()
    assert len(seen) == 2 and all(weights is run.weights for weights in seen)
    x, c = train_really.recoloured(
        run.sprites,
        recolour,
        settings.seed * 1000,
        factors=factors,
        by_drawing=by_drawing,
    )
    assert (
        torch.equal(run.x, x)
        and torch.equal(run.c, c)
        and c.shape[1] == (93 if factors else 5)
    )
    again = train_really.Run(settings, torch.device("cpu"), tmp_path)
    again.resume()
    assert (
        torch.equal(again.weights, run.weights)
        and again.history["epochs"] == run.history["epochs"]
    )


def test_a_recoloured_sprite_is_never_one_of_the_test(train_really, monkeypatch):
    """A piece of food of which every colour but one is held out or in `test`: that one is what comes."""
    rows = du.load_sprites("train").factors
    food = some_sprites(
        [next(i for i, row in enumerate(rows) if row["class"] == "food")]
    )
    own, factory = food.factors[0], du.sprite_factory()
    others = [
        own | {"colour": colour}
        for colour in factory.factors_of("food")["colour"]
        if colour != own["colour"]
    ]
    monkeypatch.setattr(du, "load_sprites", lambda part: du.Sprites(None, None, others))
    x, _ = train_really.recoloured(food, {"food": 20}, seed=0)
    assert torch.equal(x, food.x.expand_as(x))


def test_each_epoch_of_a_run_with_other_colours_draws_new_ones(train_really, tmp_path):
    settings = train_really.Settings(
        True,
        n_feat=8,
        limit=10,
        batch=4,
        passes=2,
        log_every=4,
        recolour=dict.fromkeys(du.CLASS_NAMES, 1),
    )
    runs = [
        train_really.Run(settings, torch.device("cpu"), tmp_path / name)
        for name in "ab"
    ]
    runs[0].train_epoch(0)
    first = runs[0].x
    for run in runs:
        run.train_epoch(1)
    (four, two), mean = (
        runs[0].history["epochs"][0]["losses"],
        runs[0].history["epochs"][0]["loss"],
    )
    assert (
        len(first) == 10
        and runs[0].steps_an_epoch == 6
        and (4 * four + 2 * two) / 6 == pytest.approx(mean)
    )
    assert torch.equal(runs[0].x, runs[1].x) and not torch.equal(first, runs[0].x)


def test_a_shorter_run_has_the_first_stages_and_its_rate_falls_to_zero(train):
    assert [
        (s.first_epoch, s.epochs, s.decay_epochs) for s in train.stages("model", 32)
    ] == [(0, 25, 32), (25, 29, 7), (29, 32, 3)]
    assert [
        (s.first_epoch, s.epochs, s.decay_epochs) for s in train.stages("model", 3)
    ] == [(0, 3, 3)]
    assert [
        (s.first_epoch, s.epochs, s.decay_epochs) for s in train.stages("model", 27)
    ] == [(0, 25, 27), (25, 27, 2)]


def test_a_stage_without_its_start_says_what_to_do(train, monkeypatch, tmp_path):
    settings = train.Settings(True, n_feat=8, limit=100, start="model_trained.pth")
    with pytest.raises(
        FileNotFoundError,
        match=r"model_trained\.pth does not exist; .* `python weights/train\.py` trains",
    ):
        train.Run(settings, torch.device("cpu"), tmp_path)


def test_an_interrupted_checkpoint_leaves_the_one_before(train, monkeypatch, tmp_path):
    settings = train.Settings(False, n_feat=8, epochs=2, limit=200)
    run = train.Run(settings, torch.device("cpu"), tmp_path / "out")
    run.train_epoch(0)
    run.save()
    before = run.resume_path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(
            torch,
            "save",
            lambda state, file: (_ for _ in ()).throw(OSError("disk full")),
        )
        with pytest.raises(OSError, match="disk full"):
            run.save()
    assert run.resume_path.read_bytes() == before and list(
        run.resume_path.parent.iterdir()
    ) == [run.resume_path]


def test_an_epoch_shows_every_picture_once_in_each_pass(train):
    x, c = torch.arange(205.0).view(-1, 1), torch.arange(205).view(-1, 1)
    passes = list(train.batches(x, c, 100, 3, torch.Generator().manual_seed(1)))
    assert [len(b) for b, _ in passes] == [100, 100, 5] * 3
    first, second, third = (
        torch.cat([b for b, _ in passes[i : i + 3]]).flatten() for i in (0, 3, 6)
    )
    assert (
        torch.equal(first.sort().values, second.sort().values)
        and not torch.equal(first, second)
        and not torch.equal(second, third)
    )
    epoch = list(train.batches(x, c, 100, 1, torch.Generator().manual_seed(1)))
    shown = torch.cat([b for b, _ in epoch]).flatten()
    assert not torch.equal(shown, x.flatten()) and torch.equal(
        shown.sort().values, x.flatten()
    )
    assert all(torch.equal(b.long(), d) for b, d in epoch)
    again = torch.cat(
        [b for b, _ in train.batches(x, c, 100, 1, torch.Generator().manual_seed(2))]
    ).flatten()
    assert not torch.equal(shown, again)


def test_checkpoints_of_every_fourth_epoch_and_the_last(train, monkeypatch, tmp_path):
    command(train, monkeypatch, tmp_path / "out", "--only", "model", epochs=6)
    assert {f.name for f in (tmp_path / "out").glob("model_*.pth")} == {
        f"model_{e}.pth" for e in ("0", "4", "5", "trained")
    }


def test_json_loads_as_it_was_and_its_lists_fill_lines(train, tmp_path):
    numbers = [round(i / 7 - 5, 3) for i in range(3000)] + [
        1e-05,
        -2.5e-30,
        1e300,
        0,
        -7,
    ]
    content = {
        "long": numbers, "short": [1, 2.5, -3e-05], "nested": [[0.5, 1.0], [], [[2], numbers[:90]], {"a": [3]}], "empty": [], "none": {},
        "text": ["[1, 2]", "one [\n 2,\n 3\n ] four", "[\n 5\n]"], "mixed": [1, "two", None, True, [3, 4]], "no numbers": [None, True],
    }  # fmt: skip
    train.write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf8")
    assert json.dumps(json.loads(text)) == json.dumps(
        content
    )  # the same order and the same types, too
    lines = text.splitlines()
    assert max(map(len, lines)) <= 160 and len(lines) < len(numbers) / 10
    assert ' "short": [1, 2.5, -3e-05],' in lines and text.endswith("}\n")


def test_basic_unet_trains_and_is_saved(train, monkeypatch, tmp_path):
    digits = torch.rand(5000, 1, 28, 28)
    monkeypatch.setattr(du, "load_digits", lambda name: (digits, None))
    monkeypatch.setattr(train, "sha256", lambda files: dict.fromkeys(files, ""))
    train.train_basic(torch.device("cpu"), tmp_path, steps=3, batch=8)
    du.load_weights(du.BasicUNet(), tmp_path / "basic_unet.pth")
    assert (
        len(json.loads((tmp_path / "basic_unet_history.json").read_text())["losses"])
        == 3
    )
    digits = digits[:40]
    with pytest.raises(ValueError, match="40 digits found .* mnist_5k.npz"):
        train.train_basic(torch.device("cpu"), tmp_path, steps=1)


def test_the_feature_network_trains_and_only_its_body_is_saved(
    train, monkeypatch, tmp_path
):
    train.train_features(torch.device("cpu"), tmp_path, epochs=4, batch=50, limit=100)
    du.feature_network(tmp_path / "features.pth")
    history = json.loads((tmp_path / "features_history.json").read_text())
    assert len(history["losses"]) == 8 and history["losses"][-1] < history["losses"][0]
    assert history["test_accuracy"] == {
        "class": 1.0,
        "kind": 0.0,
    }  # the stand-ins are all food, of a kind each


def test_a_factor_that_a_class_lacks_is_not_asked_for(train):
    asked = train.questions(
        [{"class": "food"}, {"class": "hero", "item": "axe"}],
        {"class": ["food", "hero"], "item": ["axe"]},
    )
    assert asked["class"].tolist() == [0, 1] and asked["item"].tolist() == [-100, 0]
    heads = {
        "item": lambda features: features.new_tensor([[0.0]] * 2),
        "class": lambda features: features.new_tensor([[1.0, 0]] * 2),
    }
    assert train.right_answers(lambda x: x, heads, torch.zeros(2, 1), asked) == {
        "class": 0.5,
        "item": 1.0,
    }


def test_shipped_weights_are_not_overwritten_by_other_settings(
    train, monkeypatch, capsys
):
    with pytest.raises(SystemExit):
        command(train, monkeypatch, train.HERE, "--only", "model")
    assert "would overwrite the shipped weights; add --out" in capsys.readouterr().err
