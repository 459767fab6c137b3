"""Known faults of diffusion code, each once, by name, with the lesson that shows it.

The faulty samplers are called like the helper's, with their start given:
`fault(model, schedule, x_T=..., context=..., generator=...)`. x_T is (N, C, H, W), a
context (N, n_cfeat) or None, the generator on the CPU. They return pictures like x_T.
A model is called as `model(x, t / T, c)` and predicts the noise.
"""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import diffusion_utilities as du  # found two folders up

# ---- Faults in the training ---------------------------------------------------------


def noise_without_root(
    x: Tensor, t: Tensor, noise: Tensor, schedule: du.NoiseSchedule
) -> Tensor:
    """x_t of `perturb_input` without the square root on the noise's weight.

    x, noise: (N, C, H, W); t: (N,) steps from 1 to T. The noise is too weak, most of
    all at low and middle t.

    Lesson 2.
    """
    ab = schedule.ab[t].view(-1, 1, 1, 1).to(x)
    return ab.sqrt() * x + (1 - ab) * noise


class RandomShortcut(du.ResidualConvBlock):
    """The published residual block, whose shortcut is never trained.

    Where the numbers of channels differ, the shortcut is a new 1x1 convolution with
    random weights at every call.

    Lesson 3.
    """

    def forward(self, x):
        x1 = self.conv1(x)
        x2 = self.conv2(x1)
        shortcut = nn.Conv2d(x.shape[1], x1.shape[1], kernel_size=1)
        shortcut = shortcut.to(x)
        return (shortcut(x) + x2) / 1.414


def with_random_shortcut(network: du.ContextUnet) -> du.ContextUnet:
    """Give a ContextUnet the published random shortcut, in place.

    Only its first block, `init_conv`, has a shortcut. Returns the network.

    Lesson 3.
    """
    network.init_conv.__class__ = RandomShortcut
    return network


def scaled_by_itself(loss: Tensor) -> Tensor:
    """A loss whose gradient is that of `loss.backward(loss)`.

    There the gradient is multiplied by the loss, so that steps shrink as it falls.

    Lesson 3.
    """
    return loss * loss.detach()


# ---- Faults in what the network is told ---------------------------------------------


def batch_statistics(model: nn.Module) -> Callable:
    """A model whose eval mode was forgotten: a function (x, t, c) -> noise.

    Batch norm takes the statistics of the batch, so a picture depends on the others
    beside it. A copy does the work, because train mode also changes the network's
    running statistics.

    Lesson 4.
    """
    forgetful = copy.deepcopy(model).train()

    # a plain function: a sampler would put the network itself into eval mode
    def predict(x, t, c=None):
        return forgetful(x, t, c)

    return predict


def t_not_divided(model: Callable, schedule: du.NoiseSchedule) -> Callable:
    """A model that is told t, up to T, instead of t / T: (x, t, c) -> noise.

    Lesson 17.
    """

    told = copy.deepcopy(model)
    told.last_time = schedule.T  # else the network would refuse it

    def predict(x, t, c=None):
        return told(x, t * schedule.T, c)

    return predict


# ---- Faults in the sampling ---------------------------------------------------------


def no_noise_added(
    model, schedule, *, x_T, context=None, generator=None, **options
) -> Tensor:
    """DDPM that takes only the mean of each step: no fresh noise.

    options: `steps`, `variance`, `clip` of `sample_ddpm`.

    Lesson 4.
    """
    pictures, _ = du.sample_ddpm(
        model,
        schedule,
        x_T=x_T,
        context=context,
        generator=generator,
        noise_scale=0.0,
        keep=0,
        **options,
    )
    return pictures


def with_noise_at_the_end(
    x: Tensor, t: int, schedule: du.NoiseSchedule, z: Tensor
) -> Tensor:
    """Add noise in the last step, from t to 0, where the mean is the answer.

    x: the mean (N, C, H, W); z: normal noise like it.

    Lesson 4.
    """
    sigma = float(1 - schedule.ab[t]) ** 0.5
    return x + sigma * z


def noise_in_the_last_step(
    model, schedule, *, x_T, context=None, generator=None, steps
) -> Tensor:
    """DDPM, variance beta-tilde, that adds noise in its last step too.

    steps: from T to 0, as `walk` takes them.

    Lesson 4.
    """

    def step(x, t, t_prev, pred_noise, z):
        x = du.denoise_add_noise(
            x, t, pred_noise, schedule, z=z, t_prev=t_prev, variance="beta_tilde"
        )
        if t_prev == 0:
            x = with_noise_at_the_end(x, t, schedule, z)
        return x

    return last_of_a_walk(model, schedule, x_T, steps, step, context, generator)


def beta_0_kept(
    model, schedule, *, x_T, context=None, generator=None, steps, beta_0=1e-4
) -> Tensor:
    """DDPM with a table of alpha-bar that begins with 1 - beta_0.

    Every alpha-bar but that of t = 0 has this factor too many. Alpha-bar_1 is then
    not alpha_1, and the last step is not exact. steps: from T to 0.

    Lesson 2.
    """
    kept = 1 - beta_0

    def step(x, t, t_prev, pred_noise, z):
        a = float(schedule.ab[t] / schedule.ab[t_prev])
        ab = kept * float(schedule.ab[t])
        ab_prev = kept * float(schedule.ab[t_prev])
        noise = (1 - a) / (1 - ab) ** 0.5 * pred_noise
        mean = (x - noise) / a**0.5
        if t_prev == 0:
            return mean
        variance = (1 - a) * (1 - ab_prev) / (1 - ab)
        return mean + variance**0.5 * z

    return last_of_a_walk(model, schedule, x_T, steps, step, context, generator)


def last_of_a_walk(model, schedule, x_T, steps, step, context, generator) -> Tensor:
    """The pictures at the end of the helper's `walk`; arguments as there."""
    trip = du.walk(
        model,
        schedule,
        x=x_T,
        steps=steps,
        step=step,
        context=context,
        generator=generator,
    )
    *_, last = trip
    _, x, _ = last
    return x


@torch.no_grad()
def wrapped_stride(
    model, schedule, *, x_T, context=None, generator=None, steps=30
) -> Tensor:
    """DDIM whose stride T // steps runs past 0.

    With T = 500, 30 steps become 32 calls in strides of 16. The last one goes to
    index -12 of the table, which is t = 489: noise instead of a picture. DDIM draws
    no noise, so `generator` is not used.

    Lesson 5.
    """
    stride = schedule.T // steps
    x = x_T
    for t in range(schedule.T, 0, -stride):
        ab = float(schedule.ab[t])
        ab_prev = float(schedule.ab[t - stride])
        time = torch.full((len(x),), t / schedule.T)
        pred_noise = model(x, time, context)
        signal = x - (1 - ab) ** 0.5 * pred_noise
        noise = (1 - ab_prev) ** 0.5 * pred_noise
        x = ab_prev**0.5 * signal / ab**0.5 + noise
    return x


def noised_sprites(
    n: int, schedule: du.NoiseSchedule, generator: Generator | None = None
) -> Tensor:
    """Starts (n, 3, 16, 16) that training saw at T: noised `test` sprites.

    Samplers start from pure noise, which is not the same where alpha-bar_T is above
    0: the schedule leaks. These starts cure it, and show what the leak costs.

    Lesson 4.
    """
    sprites = du.load_sprites("test").x
    rows = torch.randint(len(sprites), (n,), generator=generator)
    x = sprites[rows]
    noise = torch.randn(x.shape, generator=generator)
    return du.perturb_input(x, schedule.T, noise, schedule)
