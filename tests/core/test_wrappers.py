"""Training is the same whatever the network is wrapped in."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DataParallel, DistributedDataParallel

import diffusion_utilities as du

SCHEDULE = du.NoiseSchedule.linear(20)


class OwnLoss(torch.nn.Module):
    """A network whose own error is 7 for each picture, whatever it is asked."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def loss(self, x, t, c, clean):
        assert clean.shape == x.shape
        return 7 * self.weight.expand(len(x))

    def forward(self, x, t, c=None, clean=None):
        if clean is not None:
            return self.loss(x, t, c, clean)
        return self.weight * x


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone, as DistributedDataParallel wants it."""
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def compiled(model):
    return torch.compile(model, backend="eager")  # no C++ compiler is needed


def averaged(model):
    return torch.optim.swa_utils.AveragedModel(model)


def twice(model):
    return averaged(compiled(model))


def distributed(model):
    """A SpriteUnet has layers for captions, which a row does not use."""
    is_sprite_unet = isinstance(model, du.SpriteUnet)
    return DistributedDataParallel(model, find_unused_parameters=is_sprite_unet)


WRAPPERS = [compiled, averaged, twice, DataParallel, distributed]


def build(kind):
    torch.manual_seed(1)
    if kind == "own loss":
        return OwnLoss()
    if kind == "SpriteUnet":
        sizes = {"channels": (8, 16, 16), "width": 16, "reader_width": 16}
        model = du.SpriteUnet(SCHEDULE, du.sprite_palette(), **sizes)
        torch.nn.init.normal_(model.out.weight)  # so that every layer has a gradient
        return model
    return du.ContextUnet(3, 8, 5, 16)


def losses(model, steps=2):
    sprites = du.load_sprites("test")
    batches = [(sprites.x[:8], sprites.c[:8])] * steps
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(2)
    trip = du.train_steps(
        model, batches, SCHEDULE, optimiser=optimiser, p_drop=0.1, generator=generator
    )
    return list(trip)


@pytest.mark.parametrize("kind", ["own loss", "SpriteUnet", "ContextUnet"])
@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda wrap: wrap.__name__)
def test_every_wrapper_trains_as_the_network_alone(wrap, kind, one_process):
    assert losses(wrap(build(kind))) == pytest.approx(losses(build(kind)), rel=1e-5)


def test_a_network_s_own_loss_is_the_one_that_counts():
    x = torch.randn(4, 3, 16, 16)
    assert float(du.diffusion_loss(OwnLoss(), x, SCHEDULE)) == 7


def test_a_network_without_its_own_loss_has_the_squared_error():
    x = torch.randn(4, 3, 16, 16)
    loss = du.diffusion_loss(
        lambda x_t, t, c: torch.zeros_like(x_t),
        x,
        SCHEDULE,
        generator=torch.Generator().manual_seed(3),
    )
    generator = torch.Generator().manual_seed(3)
    torch.randint(1, 21, (4,), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    assert float(loss) == pytest.approx(float(noise.square().mean()))
