"""The weights that ship: they load, as published notebooks load them, and they draw."""

import itertools
import json
import math

import pytest

import diffusion_utilities as du
from diffusion_utilities import *  # as published notebooks begin

pytestmark = pytest.mark.slow  # together they take over five seconds

SCHEDULE = NoiseSchedule.linear()
PUBLISHED = (
    "model_0",
    "model_4",
    "model_24",
    "model_31",
    "model_trained",
    "context_model_31",
    "context_model_trained",
)
SPRITE_WEIGHTS = (*PUBLISHED, "model_12")
RUNS = ("model", "context_model", "sprite_unet")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- The network as published notebooks define it ------------------------------------


class PublishedUnet(nn.Module):
    """The network that notebooks define for themselves, out of the helper's blocks.

    It has their layers and attribute names. A pooling of 4 fits heights of 16 only.
    """

    def __init__(self, in_channels=3, n_feat=64, n_cfeat=5, height=16):
        super().__init__()
        self.n_cfeat = n_cfeat
        wide = 2 * n_feat
        quarter = height // 4
        self.init_conv = ResidualConvBlock(in_channels, n_feat, is_res=True)
        self.down1 = UnetDown(n_feat, n_feat)
        self.down2 = UnetDown(n_feat, wide)
        self.to_vec = nn.Sequential(nn.AvgPool2d(4), nn.GELU())
        self.timeembed1 = EmbedFC(1, wide)
        self.timeembed2 = EmbedFC(1, n_feat)
        self.contextembed1 = EmbedFC(n_cfeat, wide)
        self.contextembed2 = EmbedFC(n_cfeat, n_feat)
        self.up0 = nn.Sequential(
            nn.ConvTranspose2d(wide, wide, quarter, quarter),
            nn.GroupNorm(8, wide),
            nn.ReLU(),
        )
        self.up1 = UnetUp(2 * wide, n_feat)
        self.up2 = UnetUp(wide, n_feat)
        self.out = nn.Sequential(
            nn.Conv2d(wide, n_feat, 3, 1, 1),
            nn.GroupNorm(8, n_feat),
            nn.ReLU(),
            nn.Conv2d(n_feat, in_channels, 3, 1, 1),
        )

    def forward(self, x, t, c=None):
        if c is None:
            c = torch.zeros(len(x), self.n_cfeat).to(x)
        full = self.init_conv(x)
        half = self.down1(full)
        quarter = self.down2(half)
        up = self.up0(self.to_vec(quarter))
        up = self.up1(self.told(up, self.contextembed1(c), self.timeembed1(t)), quarter)
        up = self.up2(self.told(up, self.contextembed2(c), self.timeembed2(t)), half)
        return self.out(torch.cat((up, full), 1))

    def told(self, x, context, time):
        """The context multiplies and the time is added, at every pixel."""
        channels = x.shape[1]
        scale = context.view(-1, channels, 1, 1)
        shift = time.view(-1, channels, 1, 1)
        return scale * x + shift


@pytest.fixture(params=PUBLISHED)
def name(request) -> str:
    return request.param


@pytest.fixture
def state(name) -> dict:
    """The file as notebooks read it."""
    path = du.WEIGHTS / f"{name}.pth"
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.fixture
def published(state) -> PublishedUnet:
    model = PublishedUnet(in_channels=3, n_feat=64, n_cfeat=5, height=16)
    model.load_state_dict(state, strict=True)
    return model.eval()


def test_the_published_network_is_of_the_published_size():
    model = PublishedUnet()
    assert len(model.state_dict()) == 156
    assert sum(p.numel() for p in model.parameters()) == 1_480_771


def test_published_weights_load_strictly_and_whole(published, state):
    loaded = published.state_dict()
    assert list(loaded) == list(state)
    for key, value in state.items():
        assert torch.equal(loaded[key], value.to(loaded[key].dtype)), key


@pytest.mark.parametrize("context", [None, torch.eye(5)[:4]], ids=["plain", "context"])
def test_the_published_network_draws_finite_pictures(published, context):
    x, _ = sample_ddpm(
        published,
        SCHEDULE,
        shape=(4, 3, 16, 16),
        context=context,
        steps=10,
        generator=seeded(0),
        keep=0,
    )
    assert x.shape == (4, 3, 16, 16)
    assert x.isfinite().all()
    assert x.std() > 0.1


def test_the_published_network_predicts_noise(published):
    """It does better than a network that has learnt nothing, which scores 1."""
    sprites = load_sprites("test")
    x = sprites.x[:40]
    loss = diffusion_loss(published, x, SCHEDULE, c=sprites.c[:40], generator=seeded(0))
    assert loss < 0.5


ONE_TIME = torch.full((1, 1, 1, 1), 0.4)
A_TIME_EACH = torch.tensor([0.1, 0.5, 1.0])


@pytest.mark.parametrize("t", [ONE_TIME, A_TIME_EACH], ids=["one time", "a time each"])
@pytest.mark.parametrize("c", [None, torch.eye(5)[:3]], ids=["plain", "context"])
def test_ours_and_the_published_network_say_the_same(published, t, c):
    """The weights go back into ours strictly, too."""
    ours = ContextUnet(3, 64, 5, 16)
    ours.load_state_dict(published.state_dict(), strict=True)
    ours.eval()
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t, c), published(x, t, c))


# ---- Files ---------------------------------------------------------------------------


@pytest.mark.parametrize("file", [*SPRITE_WEIGHTS, "sprite_unet_trained"])
def test_weights_are_stored_in_half_precision(file):
    state = load_state(du.WEIGHTS / f"{file}.pth")
    types = {value.dtype for value in state.values() if value.is_floating_point()}
    assert types == {torch.float16}


@pytest.mark.parametrize("file", SPRITE_WEIGHTS)
def test_weights_are_used_in_single_precision(file):
    model = load_weights(ContextUnet(3, 64, 5, 16), du.WEIGHTS / f"{file}.pth")
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        out = model(x, torch.tensor([0.5, 1.0]))
    assert out.dtype == torch.float32
    assert out.isfinite().all()


# ---- Histories -----------------------------------------------------------------------


def history(run: str) -> dict:
    path = du.WEIGHTS / f"{run}_history.json"
    return json.loads(path.read_text(encoding="utf8"))


@pytest.mark.parametrize("run", RUNS)
def test_histories_have_every_epoch(run):
    record = history(run)
    epochs = [row["epoch"] for row in record["epochs"]]
    assert epochs == list(range(record["stages"][-1]["epochs"]))


@pytest.mark.parametrize("run", RUNS)
def test_stages_are_whole_runs_with_the_context_that_they_should_have(run):
    for stage in history(run)["stages"]:
        assert stage["context"] == (run != "model")
        assert stage["limit"] is None


def losses_an_epoch(stage: dict) -> int:
    """How many losses an epoch of this stage logs."""
    batches = math.ceil(8800 / stage["batch"])
    return math.ceil(stage["passes"] * batches / stage.get("log_every", 1))


@pytest.mark.parametrize("run", RUNS)
def test_histories_have_every_loss(run):
    record = history(run)
    for stage in record["stages"]:
        for row in record["epochs"][stage["first_epoch"] : stage["epochs"]]:
            assert len(row["losses"]) == losses_an_epoch(stage)


@pytest.mark.parametrize("run", RUNS)
def test_the_loss_fell_to_half_of_the_first(run):
    epochs = history(run)["epochs"]
    assert epochs[-1]["loss"] < 0.5 * epochs[0]["loss"]


@pytest.mark.slow
def test_later_epochs_predict_the_noise_of_held_out_sprites_better():
    """On 100 test pictures at three steps, with the same noise for each epoch."""
    x = load_sprites("test").x[:100]

    def loss(epoch):
        path = du.WEIGHTS / f"model_{epoch}.pth"
        model = load_weights(ContextUnet(3, 64, 5, 16), path)
        errors = denoising_losses(model, x, SCHEDULE, steps=(20, 100, 300))
        return float(errors.mean())

    assert loss(0) > loss(4) > loss(31)


# ---- What they draw ------------------------------------------------------------------


def test_context_changes_what_the_labelled_weights_draw():
    """From one x_T each of the five classes gets a picture of its own."""
    path = du.WEIGHTS / "context_model_trained.pth"
    model = load_weights(ContextUnet(3, 64, 5, 16), path)
    x_T = torch.randn(1, 3, 16, 16, generator=seeded(0)).repeat(5, 1, 1, 1)
    x, _ = sample_ddim(model, SCHEDULE, x_T=x_T, context=torch.eye(5), steps=20)
    for one, other in itertools.combinations(x, 2):
        assert (one - other).square().mean() > 0.02


def test_the_basic_unet_beats_doing_nothing():
    digits, _ = load_digits("mnist")
    held_out = digits[4500:4700]
    model = load_weights(BasicUNet(), du.WEIGHTS / "basic_unet.pth")
    noised = corrupt(held_out, torch.full((200,), 0.5), seeded(0))
    with torch.no_grad():
        repaired = model(noised)
    before = (noised - held_out).square().mean()
    after = (repaired - held_out).square().mean()
    assert after < 0.2 * before
