"""first_sprites.py: lesson 3's recipes."""

import pytest
import torch

import diffusion_utilities as du


@pytest.fixture
def program():
    import first_sprites

    return first_sprites


class Known(torch.nn.Module):
    """Answers with a picture that is known, whatever it is asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, t, c=None):
        return self.answer


def test_a_network_that_knows_the_picture_predicts_the_noise(program):
    x_0 = torch.rand(3, 3, 4, 4) * 2 - 1
    noise = torch.randn(3, 3, 4, 4)
    t = torch.tensor([20, 250, 500])
    x_t = du.perturb_input(x_0, t, noise, program.SCHEDULE)
    predicted = program.AsNoise(Known(x_0))(x_t, t / 500)
    torch.testing.assert_close(predicted, noise, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("practised", ["evenly", "the middle"])
def test_the_weight_of_an_error_is_one_over_the_squared_share_of_noise(
    program, practised
):
    """An error of 1 everywhere: the loss is the mean weight of the drawn steps."""
    recipe = program.Recipe("picture", practised, "Adam", 1)
    x_0 = torch.zeros(4000, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    loss = program.recipe_loss(Known(x_0 + 1), recipe, x_0, generator)
    shares = du.straight_share(program.SCHEDULE.ab[1:])
    weights = (1 - shares).pow(-2).clamp(max=400)
    often = torch.full((500,), 1 / 500)
    if practised == "the middle":
        often = du.straight_frequencies(program.SCHEDULE)[1:]
    expected = float((often * weights).sum())
    assert float(loss) == pytest.approx(expected, rel=0.15)


def test_every_combination_has_three_seeds(program):
    recipes = list(program.RECIPES.values())
    assert len(recipes) == len(set(recipes)) == 24
    assert {recipe.seed for recipe in recipes} == {1, 2, 3}


@pytest.mark.parametrize("name", ["noise, evenly, Adam, seed 1"])
def test_a_row_has_its_recipe_and_a_distance(program, name):
    answer, shown = program.row(program.RECIPES[name], 2, 4)
    assert answer["recipe"]["target"] == "noise"
    assert 0 < answer["legal_distance"]["mean"] < 1
    assert shown.shape == (4, 16, 16, 3)
