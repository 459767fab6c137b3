"""`Muon`, against torch's own optimisers and the singular value decomposition."""

from copy import deepcopy

import pytest
import torch

import diffusion_utilities as du


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3),
        torch.nn.GroupNorm(4, 16),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 36, 10),
    )


def train(model: torch.nn.Module, optimisers, steps: int) -> None:
    """Some steps on random pictures, the same for every model."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 3, 8, 8, generator=generator)
        loss = model(x).sin().square().mean()
        model.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()


@pytest.mark.parametrize("shape", ((30, 50), (50, 30), (40, 40)))
def test_orthogonal_keeps_the_vectors_and_evens_the_values(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ du.orthogonal(matrix) @ right.T
    values = inside.diagonal()
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert (inside - torch.diag(values)).abs().max() < 1e-3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="needs torch 2.9")
def test_matrices_are_trained_as_by_torch_s_muon():
    torch.manual_seed(0)
    ours = torch.nn.Sequential(torch.nn.Linear(20, 30, bias=False), torch.nn.Tanh())
    theirs = deepcopy(ours)
    options = {"momentum": 0.95, "nesterov": True, "weight_decay": 0}
    muon = du.Muon(ours.named_parameters(), lr=0.02)
    reference = torch.optim.Muon(theirs.parameters(), lr=0.02, **options)
    before = ours[0].weight.detach().clone()
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        x = torch.randn(8, 20, generator=generator)
        for model, optimiser in ((ours, muon), (theirs, reference)):
            model.zero_grad()
            (model(x) - 0.5).square().mean().backward()
            optimiser.step()
    way = (ours[0].weight - before).norm()
    apart = (ours[0].weight - theirs[0].weight).norm()
    assert apart < 0.05 * way  # torch computes in bfloat16


def test_the_others_are_trained_as_by_adam():
    ours = network()
    theirs = deepcopy(ours)
    optimiser = du.Muon(ours.named_parameters(), adam=("0", "3"), adam_lr=1e-2)
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95))
    train(ours, [optimiser], 10)
    train(theirs, [adam], 10)
    for one, other in zip(ours.parameters(), theirs.parameters()):
        assert torch.allclose(one, other, atol=1e-5)


def test_names_choose_what_adam_trains():
    model = network()
    optimiser = du.Muon(model.named_parameters(), adam=("0",))
    matrices, others = (group["params"] for group in optimiser.param_groups)
    assert [id(p) for p in matrices] == [id(model[3].weight)]
    assert len(others) == 5


def test_a_resumed_run_is_the_same_run():
    whole = network()
    train(whole, [du.Muon(whole.named_parameters())], 6)

    half = network()
    optimiser = du.Muon(half.named_parameters())
    train(half, [optimiser], 3)
    again = network()
    again.load_state_dict(half.state_dict())
    other = du.Muon(again.named_parameters())
    other.load_state_dict(optimiser.state_dict())
    generator = torch.Generator().manual_seed(1)
    for step in range(6):
        x = torch.randn(8, 3, 8, 8, generator=generator)
        if step >= 3:
            again.zero_grad()
            again(x).sin().square().mean().backward()
            other.step()
    for one, two in zip(whole.parameters(), again.parameters()):
        assert torch.allclose(one, two, atol=1e-6)
