"""`guided` and `draw`: sprites for a context or a caption."""

import numpy as np
import pytest
import torch

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear()


@pytest.fixture
def network(monkeypatch):
    """A small network with random weights in place of the shipped one."""
    torch.manual_seed(0)
    palette = du.sprite_palette()
    sizes = {"channels": (16, 16, 16), "width": 16, "reader_width": 16}
    model = du.SpriteUnet(SCHEDULE, palette, **sizes).eval()
    for parameter in model.parameters():  # the zero layers, so that it listens
        if not parameter.any():
            torch.nn.init.normal_(parameter)
    monkeypatch.setattr(du, "sprite_network", lambda: model)
    return model


def known(x, t, c):
    """A "network" whose answer is known: the sum of the context, plus the time."""
    total = c.float().sum(1) + t
    return total.view(-1, 1, 1, 1).expand_as(x)


@pytest.mark.parametrize("weight", (0, 0.5, 1, 4))
def test_guidance_goes_from_none_towards_the_context_and_beyond(weight):
    x = torch.zeros(2, 3, 4, 4)
    t = torch.tensor([0.25, 0.5])
    c = torch.tensor([[1.0, 0, 0], [0, 2, 3]])
    answer = du.guided(known, weight)(x, t, c)
    expected = t + weight * torch.tensor([1.0, 5.0])
    assert torch.allclose(answer, expected.view(-1, 1, 1, 1).expand_as(x))


def test_guidance_goes_away_from_a_context():
    x = torch.zeros(2, 3, 4, 4)
    c = torch.tensor([[1.0, 0, 0], [0, 2, 3]])
    avoid = torch.tensor([[0.0, 0, 10]])
    answer = du.guided(known, 3, avoid)(x, torch.zeros(2), c)
    assert answer[:, 0, 0, 0].tolist() == [10 + 3 * (1 - 10), 10 + 3 * (5 - 10)]


@pytest.mark.parametrize("weight", (-1, "2", float("nan")))
def test_a_weight_that_is_none(weight):
    with pytest.raises(ValueError, match="weight=.*expected a number from 0"):
        du.guided(known, weight)


def test_it_draws_pictures_and_the_same_for_the_same_seed(network):
    first = du.draw("a red slime", n=2, steps=3, seed=5)
    assert first.shape == (2, 16, 16, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, du.draw("a red slime", n=2, steps=3, seed=5))
    assert not np.array_equal(first, du.draw("a red slime", n=2, steps=3, seed=6))


def test_every_option_counts(network):
    sheets = [
        du.draw("a red slime", n=1, steps=3),
        du.draw("a blue slime", n=1, steps=3),
        du.draw("a red slime", n=1, steps=3, guidance=4),
        du.draw("a red slime", n=1, steps=3, avoid="wings"),
        du.draw("a red slime", n=1, steps=4),
    ]
    for i, sheet in enumerate(sheets):
        for other in sheets[:i]:
            assert not np.array_equal(sheet, other)


def test_no_caption_is_an_empty_one(network):
    assert np.array_equal(du.draw(None, n=1, steps=2), du.draw("", n=1, steps=2))


def test_unknown_words_and_forty_words_work(network):
    assert du.draw("a flibbertigibbet", n=1, steps=2).shape == (1, 16, 16, 3)
    assert du.draw("red " * 40, n=1, steps=2).shape == (1, 16, 16, 3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"caption": "red " * 41}, "41 words.*at most 40"),
        ({"caption": 5}, "expected a list of texts"),
        ({"caption": "a hero", "n": 0}, "n=0"),
        ({"caption": "a hero", "steps": 0}, "n=0|steps=0"),
        ({"caption": "a hero", "guidance": -1}, "weight=-1"),
        ({"caption": "a hero", "avoid": "red " * 41}, "41 words"),
    ],
)
def test_what_cannot_be_drawn_is_said_first(network, options, message):
    with pytest.raises(ValueError, match=message):
        du.draw(**options)
