"""The networks that lesson 10 compares, and how they are trained and measured.

Lesson 10 imports this module and shows its source; the program five_unets.py trains
every design and stores the results. Pictures are (B, C, H, W) in [-1, 1]. A network is
called as network(x, t), with t / T in (0, 1] for each picture or one for all, and
predicts the noise in x. Shapes beside layers are those of the default arguments.
"""

import functools
import math
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

from diffusion_utilities import (
    BasicUNet,
    ContextUnet,
    Muon,
    NoiseSchedule,
    ResidualConvBlock,
    average_weights,
    sample_ddpm,
    train_steps,
)

# ---- The data and the classifier ----------------------------------------------------


def split(rows, held_out=1000):
    """Split rows (N, ...) into (training, held out), shuffled alike each time."""
    generator = torch.Generator().manual_seed(0)
    rows = rows[torch.randperm(len(rows), generator=generator)]
    return rows[held_out:], rows[:held_out]


def classifier():
    """A network from pictures (B, 1, 28, 28) to the scores of ten classes (B, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),  # (B, 16, 14, 14)
        nn.GELU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),  # (B, 32, 7, 7)
        nn.GELU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),  # (B, 64, 4, 4)
        nn.GELU(),
        nn.Flatten(),  # (B, 1024)
        nn.Dropout(0.3),
        nn.Linear(1024, 32),  # (B, 32)
        nn.GELU(),  # these are the features
        nn.Linear(32, 10),  # (B, 10)
    )


@torch.no_grad()
def features(network, pictures):
    """What enters the classifier's last layer: an array (N, 32)."""
    network.eval()
    pictures = pictures.to(next(network.parameters()))
    return network[:-1](pictures).cpu().numpy()


# ---- Training, drawing, measuring ---------------------------------------------------


def random_batches(pictures, batch, generator):
    """Endless batches (pictures, None), drawn with replacement, without labels."""
    while True:
        rows = torch.randint(len(pictures), (batch,), generator=generator)
        yield pictures[rows], None


def adam(network):
    """Adam with the learning rate of lesson 3."""
    return torch.optim.Adam(network.parameters(), 2e-3)


def muon(network):
    """Muon, but Adam for the layers that read or write pictures of few channels."""
    outer = []
    for name, weight in network.named_parameters():
        if weight.ndim > 1 and min(weight.shape[:2]) <= 4:
            outer.append(name)
    return Muon(network.named_parameters(), adam=outer)


OPTIMISERS = {"Adam": adam, "Muon": muon}


def train_for(
    seconds,
    network,
    schedule,
    pictures,
    seed=0,
    optimiser="Adam",
    batch=16,
    clock=time.perf_counter,
):
    """Train for so many seconds; returns (averaged network, the loss of each step).

    The learning rates rise over 50 steps and fall to 0 as the time runs out.
    optimiser: "Adam" or "Muon"; raises ValueError for another name.
    """
    if optimiser not in OPTIMISERS:
        raise ValueError(
            f"optimiser={optimiser!r}; expected one of {', '.join(OPTIMISERS)}"
        )
    generator = torch.Generator().manual_seed(seed)
    batches = random_batches(pictures, batch, generator)
    optimiser = OPTIMISERS[optimiser](network)
    rates = [group["lr"] for group in optimiser.param_groups]
    average = average_weights(network)
    losses = []
    start = clock()
    for loss in train_steps(
        network,
        batches,
        schedule,
        optimiser=optimiser,
        average=average,
        generator=generator,
    ):
        losses.append(loss)
        share = (clock() - start) / seconds
        if share >= 1:
            break
        warm_up = min(1, len(losses) / 50)
        for group, rate in zip(optimiser.param_groups, rates):
            group["lr"] = rate * warm_up * (1 - share)
    return average.module.eval(), losses


def draw(model, schedule, n, seed=4, steps=25, size=(1, 28, 28)):
    """Draw n pictures with DDPM in few steps, the implied picture clipped."""
    pictures, _ = sample_ddpm(
        model,
        schedule,
        shape=(n, *size),
        steps=steps,
        generator=torch.Generator().manual_seed(seed),
        variance="beta_tilde",
        clip=True,
        keep=0,
    )
    return pictures.cpu()


LEVELS = (0.99, 0.9, 0.5, 0.1)  # of alpha-bar


def steps_at_levels(schedule):
    """The steps of this schedule whose alpha-bar is nearest to each of LEVELS."""
    steps = []
    for level in LEVELS:
        distances = (schedule.ab[1:] - level).abs()
        steps.append(int(distances.argmin()) + 1)
    return steps


def steps_throughout(schedule, n=10):
    """n steps spread evenly over 1..T: their mean error is nearly the training loss."""
    return [round(schedule.T * (i + 0.5) / n) for i in range(n)]


# ---- Parts that several networks share ----------------------------------------------


def conv3x3(before, after):
    """A 3x3 convolution that keeps height and width."""
    return nn.Conv2d(before, after, 3, padding=1)


def times_like(t, x):
    """The times t as a tensor (B,), or (1,) for one time, on the device of x."""
    return torch.as_tensor(t).to(x).reshape(-1)


# ---- Time as an extra channel -------------------------------------------------------


class TimeChannelNet(nn.Module):
    """Four plain convolutions; the time is one more channel of the picture."""

    def __init__(self, channels=1, width=32):
        super().__init__()
        self.layers = nn.ModuleList(
            [
                conv3x3(channels + 1, width),  # (B, 32, 28, 28)
                conv3x3(width, 2 * width),  # (B, 64, 28, 28)
                conv3x3(2 * width, width),  # (B, 32, 28, 28)
                conv3x3(width, channels),  # (B, 1, 28, 28)
            ]
        )

    def forward(self, x, t, c=None):
        time_channel = times_like(t, x).view(-1, 1, 1, 1)
        time_channel = time_channel.expand(len(x), 1, *x.shape[2:])
        x = torch.cat((x, time_channel), 1)  # (B, 2, 28, 28)
        for layer in self.layers[:-1]:
            x = F.gelu(layer(x))
        return self.layers[-1](x)


# ---- No time ------------------------------------------------------------------------


class NoTimeUNet(BasicUNet):
    """Lesson 1's network without its last activation, so that it can answer below 0.

    It takes t and ignores it.
    """

    def forward(self, x, t=None, c=None):
        full = self.act(self.down_layers[0](x))
        half = self.act(self.down_layers[1](self.downscale(full)))
        quarter = self.act(self.down_layers[2](self.downscale(half)))

        up = self.act(self.up_layers[0](quarter))
        up = self.act(self.up_layers[1](self.upscale(up) + half))
        return self.up_layers[2](self.upscale(up) + full)  # no activation after it


# ---- The time at each level ---------------------------------------------------------


def sinusoids(t, dim, longest=10_000):
    """Turn steps t (B,) into (B, dim): sines, then cosines of dim / 2 frequencies.

    The frequencies fall from 1 to nearly 1 / longest. [Attention] section 3.5.
    """
    share = torch.arange(dim // 2, device=t.device) / (dim // 2)
    frequencies = longest**-share
    angles = t.reshape(-1, 1) * frequencies
    return torch.cat((angles.sin(), angles.cos()), 1)


class LayerNormBlock(nn.Module):
    """Layer norm over channels and pixels, then two convolutions."""

    def __init__(self, before, after, size):
        super().__init__()
        self.norm = nn.LayerNorm((before, size, size))
        self.conv1 = conv3x3(before, after)
        self.conv2 = conv3x3(after, after)

    def forward(self, x):
        x = self.norm(x)
        x = F.silu(self.conv1(x))
        return F.silu(self.conv2(x))


def time_mlp(emb, after):
    """The small network that tells one block the time: (B, emb) to (B, after)."""
    return nn.Sequential(
        nn.Linear(emb, after),
        nn.SiLU(),
        nn.Linear(after, after),
    )


class LevelsUNet(nn.Module):
    """Three levels (28, 14 and 7 pixels) and a 3x3 middle, each block told the time."""

    def __init__(self, channels=1, width=12, size=28, emb=64, T=1000):
        super().__init__()
        w = width
        half = size // 2
        quarter = size // 4
        self.emb = emb
        self.T = T

        entering = (channels, w, 2 * w, 4 * w, 8 * w, 4 * w, 2 * w)  # each block
        self.times = nn.ModuleList(time_mlp(emb, after) for after in entering)

        self.down = nn.ModuleList()
        self.down.append(LayerNormBlock(channels, w, size))  # (B, 12, 28, 28)
        self.down.append(LayerNormBlock(w, 2 * w, half))  # (B, 24, 14, 14)
        self.down.append(LayerNormBlock(2 * w, 4 * w, quarter))  # (B, 48, 7, 7)

        self.shrink = nn.ModuleList()
        self.shrink.append(nn.Conv2d(w, w, 4, 2, 1))  # (B, 12, 14, 14)
        self.shrink.append(nn.Conv2d(2 * w, 2 * w, 4, 2, 1))  # (B, 24, 7, 7)
        self.shrink.append(nn.Conv2d(4 * w, 4 * w, 3, 2))  # (B, 48, 3, 3)

        self.middle = LayerNormBlock(4 * w, 4 * w, size // 8)  # (B, 48, 3, 3)

        self.grow = nn.ModuleList()
        self.grow.append(nn.ConvTranspose2d(4 * w, 4 * w, 3, 2))  # (B, 48, 7, 7)
        self.grow.append(nn.ConvTranspose2d(2 * w, 2 * w, 2, 2))  # (B, 24, 14, 14)
        self.grow.append(nn.ConvTranspose2d(w, w, 2, 2))  # (B, 12, 28, 28)

        self.up = nn.ModuleList()
        self.up.append(LayerNormBlock(8 * w, 2 * w, quarter))  # (B, 24, 7, 7)
        self.up.append(LayerNormBlock(4 * w, w, half))  # (B, 12, 14, 14)
        self.up.append(LayerNormBlock(2 * w, w, size))  # (B, 12, 28, 28)

        self.out = conv3x3(w, channels)  # (B, 1, 28, 28)

    def forward(self, x, t, c=None):
        embedded = sinusoids(times_like(t, x) * self.T, self.emb)
        times = []
        for mlp in self.times:
            times.append(mlp(embedded)[..., None, None])  # (B, channels, 1, 1)
        skips = []
        for level in range(3):
            skip = self.down[level](x + times[level])
            skips.append(skip)
            x = self.shrink[level](skip)
        x = self.middle(x + times[3])
        for level in range(3):
            x = self.grow[level](x)
            x = torch.cat((x, skips.pop()), 1)  # the last skip first
            x = self.up[level](x + times[4 + level])
        return self.out(x)


# ---- Residual blocks and attention --------------------------------------------------


class ResidualBlock(nn.Module):
    """Group norm, SiLU and a convolution, twice; the input is added at the end.

    The time is added between the two. `emb` None leaves the time out, and `residual`
    False the addition.
    """

    def __init__(self, before, after, emb, dropout, residual):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, before)
        self.conv1 = conv3x3(before, after)
        self.time = nn.Linear(emb, after) if emb else None
        self.norm2 = nn.GroupNorm(8, after)
        self.conv2 = conv3x3(after, after)
        self.dropout = nn.Dropout(dropout)
        self.residual = residual
        if before == after:
            self.shortcut = nn.Identity()
        else:
            self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x, embedded):
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time is not None:
            time_here = self.time(F.silu(embedded))  # (B, after)
            h = h + time_here[..., None, None]
        h = self.dropout(F.silu(self.norm2(h)))
        h = self.conv2(h)
        if not self.residual:
            return h
        return self.shortcut(x) + h


class SelfAttention(nn.Module):
    """Each place of the picture asks all others: (B, C, H, W) to the same shape.

    [Attention] section 3.2.1, with `heads` heads.
    """

    def __init__(self, channels, heads=4):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        B, C, H, W = x.shape
        size = C // self.heads  # channels of one head
        qkv = self.query_key_value(self.norm(x))  # (B, 3 C, H, W)
        qkv = qkv.reshape(B, 3, self.heads, size, H * W)
        q, k, v = qkv.unbind(1)  # each (B, heads, size, places)
        scores = q.transpose(2, 3) @ k / math.sqrt(size)  # (B, heads, places, places)
        weights = scores.softmax(3)
        mixed = v @ weights.transpose(2, 3)  # (B, heads, size, places)
        return x + self.out(mixed.reshape(B, C, H, W))


class ResidualUNet(nn.Module):
    """Residual blocks at three resolutions, with self-attention at the lowest.

    The last four arguments leave parts out.
    """

    def __init__(
        self,
        channels=1,
        width=16,
        T=500,
        dropout=0.1,
        attention=True,
        time=True,
        skips=True,
        residual=True,
    ):
        super().__init__()
        w = width
        emb = 4 * w if time else None
        self.width = width
        self.T = T
        self.skips = skips
        block = functools.partial(
            ResidualBlock, emb=emb, dropout=dropout, residual=residual
        )

        self.embed = None
        if time:
            self.embed = nn.Sequential(
                nn.Linear(w, emb),  # (B, 64)
                nn.SiLU(),
                nn.Linear(emb, emb),  # (B, 64)
            )
        self.first = conv3x3(channels, w)  # (B, 16, 28, 28)

        self.down = nn.ModuleList()
        self.down.append(block(w, w))  # (B, 16, 28, 28)
        self.down.append(block(w, 2 * w))  # (B, 32, 14, 14)
        self.down.append(block(2 * w, 2 * w))  # (B, 32, 7, 7)

        self.shrink = nn.ModuleList()
        self.shrink.append(nn.Conv2d(w, w, 3, 2, 1))  # (B, 16, 14, 14)
        self.shrink.append(nn.Conv2d(2 * w, 2 * w, 3, 2, 1))  # (B, 32, 7, 7)

        self.attention = SelfAttention(2 * w) if attention else nn.Identity()
        self.middle = block(2 * w, 2 * w)  # (B, 32, 7, 7)

        wider = 2 if skips else 1  # a skip doubles the channels that enter a block
        self.up = nn.ModuleList()
        self.up.append(block(wider * 2 * w, 2 * w))  # (B, 32, 7, 7)
        self.up.append(block(wider * 2 * w, w))  # (B, 16, 14, 14)
        self.up.append(block(wider * w, w))  # (B, 16, 28, 28)

        self.grow = nn.ModuleList()
        self.grow.append(conv3x3(2 * w, 2 * w))  # (B, 32, 14, 14)
        self.grow.append(conv3x3(w, w))  # (B, 16, 28, 28)

        self.out = nn.Sequential(
            nn.GroupNorm(8, w),
            nn.SiLU(),
            conv3x3(w, channels),  # (B, 1, 28, 28)
        )

    def forward(self, x, t, c=None):
        embedded = None
        if self.embed is not None:
            steps = times_like(t, x) * self.T
            embedded = self.embed(sinusoids(steps, self.width))

        x = self.first(x)
        full = self.down[0](x, embedded)  # (B, 16, 28, 28)
        x = self.shrink[0](full)
        half = self.down[1](x, embedded)  # (B, 32, 14, 14)
        x = self.shrink[1](half)
        low = self.down[2](x, embedded)  # (B, 32, 7, 7)

        x = self.attention(low)
        x = self.middle(x, embedded)  # (B, 32, 7, 7)

        x = self.with_skip(x, low)
        x = self.up[0](x, embedded)
        x = F.interpolate(x, scale_factor=2)
        x = self.grow[0](x)  # (B, 32, 14, 14)
        x = self.with_skip(x, half)
        x = self.up[1](x, embedded)
        x = F.interpolate(x, scale_factor=2)
        x = self.grow[1](x)  # (B, 16, 28, 28)
        x = self.with_skip(x, full)
        x = self.up[2](x, embedded)
        return self.out(x)

    def with_skip(self, x, skip):
        return torch.cat((x, skip), 1) if self.skips else x


# ---- The course's own network -------------------------------------------------------


def context_unet(channels):
    """The ContextUnet with 16 features, for 28x28 pixels; its context stays empty."""
    return ContextUnet(channels, 16, 10, 28)


def all_residual(network):
    """Make every block of a ContextUnet add its input, not only the first.

    It adds no parameter.
    """
    for block in network.modules():
        if isinstance(block, ResidualConvBlock):
            block.is_res = True
    return network


# ---- What is compared ---------------------------------------------------------------


def no_time_unet(channels):
    return NoTimeUNet(channels, channels)


def all_residual_context_unet(channels):
    return all_residual(context_unet(channels))


def residual_unet(**options):
    """(a function from the number of channels to a ResidualUNet, its schedule)."""
    return functools.partial(ResidualUNet, **options), NoiseSchedule.linear(500)


# name: (a function from the number of channels to a new network, its schedule)
DESIGNS = {
    "time as a channel": (TimeChannelNet, NoiseSchedule.linear(300)),
    "no time": (no_time_unet, NoiseSchedule.linear(500)),
    "time at each level": (LevelsUNet, NoiseSchedule.linear(1000)),
    "residual": residual_unet(),
    "residual, cosine": (ResidualUNet, NoiseSchedule.cosine(500)),
    "ContextUnet": (context_unet, NoiseSchedule.linear(500)),
}
VARIANTS = {
    "residual without attention": residual_unet(attention=False),
    "residual without time": residual_unet(time=False),
    "residual without skips": residual_unet(skips=False),
    "residual without shortcuts": residual_unet(residual=False),
    "ContextUnet, all residual": (all_residual_context_unet, NoiseSchedule.linear(500)),
}
