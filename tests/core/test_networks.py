"""The blocks and the U-Nets: the shapes that they promise, and what they compute."""

import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusion_utilities as du

HEIGHTS = range(8, 65, 4)


def time_shapes(batch: int) -> list[tuple[int, ...]]:
    """The shapes in which a network may be told the time."""
    return [(batch,), (batch, 1), (batch, 1, 1, 1), (1, 1, 1, 1)]


@settings(max_examples=25)
@given(
    batch=st.integers(1, 3),
    height=st.sampled_from(HEIGHTS),
    channels=st.integers(1, 4),
    n_feat=st.sampled_from([8, 16]),
    n_cfeat=st.integers(1, 7),
    time_shape=st.integers(0, 3),
    with_context=st.booleans(),
)
def test_context_unet_keeps_the_shape(
    batch, height, channels, n_feat, n_cfeat, time_shape, with_context
):
    model = du.ContextUnet(channels, n_feat, n_cfeat, height).eval()
    x = torch.randn(batch, channels, height, height)
    t = torch.rand(time_shapes(batch)[time_shape])
    c = None
    if with_context:
        labels = torch.arange(batch) % n_cfeat
        c = torch.eye(n_cfeat)[labels]
    with torch.no_grad():
        out = model(x, t, c)
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("height", HEIGHTS)
def test_every_parameter_of_context_unet_gets_a_gradient(height):
    model = du.ContextUnet(1, 8, 2, height)
    x = torch.randn(2, 1, height, height)
    out = model(x, torch.rand(2), torch.eye(2))
    out.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_time_shapes_mean_the_same():
    model = du.ContextUnet(3, 8, 5, 16).eval()
    x = torch.randn(2, 3, 16, 16)
    t = torch.tensor([0.3, 0.3])
    one_time = torch.tensor(0.3)
    with torch.no_grad():
        expected = model(x, t)
        assert torch.equal(model(x, t.view(2, 1)), expected)
        assert torch.equal(model(x, t.view(2, 1, 1, 1)), expected)
        for shape in ((), (1,), (1, 1, 1, 1)):
            out = model(x, one_time.view(shape))
            torch.testing.assert_close(out, expected)


def test_time_and_context_reach_the_output():
    model = du.ContextUnet(3, 8, 5, 16).train()
    x = torch.randn(4, 3, 16, 16)
    t = torch.rand(4, requires_grad=True)
    c = torch.zeros(4, 5, requires_grad=True)
    model(x, t, c).square().sum().backward()
    assert t.grad.any()
    assert c.grad.any()


def test_context_multiplies_and_time_is_added():
    """With both embedded as zero nothing of the bottleneck is left; time is a shift."""
    model = du.ContextUnet(3, 8, 5, 16).eval()
    context = model.contextembed1.model[2]
    time = model.timeembed1.model[2]
    for layer in (context, time):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    seen = []
    model.up1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 3, 16, 16)
    t = torch.rand(2)
    with torch.no_grad():
        model(x, t)
        nn.init.constant_(time.bias, 2.5)
        model(x, t)
        nn.init.ones_(context.bias)
        model(x, t)
        quarter = model.down2(model.down1(model.init_conv(x)))
        vector = model.up0(model.to_vec(quarter))
    assert (seen[0] == 0).all()
    assert (seen[1] == 2.5).all()
    torch.testing.assert_close(seen[2], vector + 2.5)


# ---- Blocks --------------------------------------------------------------------------


@given(
    batch=st.integers(1, 3),
    c_in=st.integers(1, 5),
    c_out=st.integers(1, 5),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    is_res=st.booleans(),
    training=st.booleans(),
)
def test_residual_block_keeps_height_and_width_and_is_repeatable(
    batch, c_in, c_out, height, width, is_res, training
):
    """The same input gives the same output, in either mode and for any channels."""
    block = du.ResidualConvBlock(c_in, c_out, is_res).train(training)
    x = torch.randn(batch, c_in, height, width)
    with torch.no_grad():
        first = block(x)
        second = block(x)
    assert first.shape == (batch, c_out, height, width)
    assert torch.equal(first, second)


@pytest.mark.parametrize("c_in, c_out", [(4, 4), (3, 4)])
def test_residual_block_is_its_formula(c_in, c_out):
    """(shortcut + second convolution) / sqrt(2).

    The shortcut is the input where it fits, else the output of the first convolution.
    """
    block = du.ResidualConvBlock(c_in, c_out, is_res=True).eval()
    plain = du.ResidualConvBlock(c_in, c_out).eval()
    plain.load_state_dict(block.state_dict(), strict=True)
    x = torch.randn(2, c_in, 6, 6)
    with torch.no_grad():
        x1 = block.conv1(x)
        x2 = block.conv2(x1)
        shortcut = x if c_in == c_out else x1
        expected = (shortcut + x2) / math.sqrt(2)
        torch.testing.assert_close(block(x), expected)
        torch.testing.assert_close(plain(x), x2)


@given(
    batch=st.integers(1, 3),
    c_in=st.integers(1, 5),
    c_out=st.integers(1, 5),
    half_height=st.integers(1, 6),
    half_width=st.integers(1, 6),
)
def test_down_halves_and_up_doubles(batch, c_in, c_out, half_height, half_width):
    x = torch.randn(batch, c_in, 2 * half_height, 2 * half_width)
    halve = du.UnetDown(c_in, c_out).eval()
    double = du.UnetUp(2 * c_out, c_in).eval()
    small = halve(x)
    assert small.shape == (batch, c_out, half_height, half_width)
    skip = torch.randn_like(small)
    large = double(small, skip)
    assert large.shape == x.shape


def test_up_takes_x_first_and_the_skip_second():
    up = du.UnetUp(4, 3).eval()
    x = torch.randn(1, 2, 4, 4)
    skip = torch.randn(1, 2, 4, 4)
    joined = torch.cat((x, skip), dim=1)
    with torch.no_grad():
        torch.testing.assert_close(up(x, skip), up.model(joined))


@pytest.mark.parametrize(
    "shape, input_dim, rows",
    [
        ((6,), 1, 6),
        ((6, 4), 4, 6),
        ((1, 1, 1, 1), 1, 1),
        ((5, 1, 1, 1), 1, 5),
        ((), 1, 1),
    ],
)
def test_embed_fc_shapes(shape, input_dim, rows):
    embed = du.EmbedFC(input_dim, 7)
    assert embed(torch.rand(shape)).shape == (rows, 7)


# ---- BasicUNet -----------------------------------------------------------------------


def test_basic_unet_size():
    """Six 5x5 convolutions with their biases have 309,057 parameters."""
    total = 0
    channels = ((1, 32), (32, 64), (64, 64), (64, 64), (64, 32), (32, 1))
    for before, after in channels:
        total += 25 * before * after + after
    assert total == 309_057
    assert du.count_parameters(du.BasicUNet()) == total


@given(
    batch=st.integers(1, 2),
    channels=st.integers(1, 3),
    out=st.integers(1, 3),
    quarter_height=st.integers(1, 8),
    quarter_width=st.integers(1, 8),
)
def test_basic_unet_keeps_the_shape_and_its_lower_bound(
    batch, channels, out, quarter_height, quarter_width
):
    """SiLU has its minimum at x = -1.2785: it is never below -0.27846."""
    height = 4 * quarter_height
    width = 4 * quarter_width
    x = 100 * torch.randn(batch, channels, height, width)
    model = du.BasicUNet(channels, out)
    with torch.no_grad():
        y = model(x)
    assert y.shape == (batch, out, height, width)
    assert y.min() >= -0.2785


def test_the_lower_bound_is_reached():
    model = du.BasicUNet()
    last = model.up_layers[2]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, -1.278465)
    lowest = model(torch.zeros(1, 1, 8, 8)).min().item()
    assert lowest == pytest.approx(-0.278465, abs=1e-5)


def test_basic_unet_joins_each_level_with_its_own_skip():
    """The forward pass written out: the inner skip first, then the outer one."""
    model = du.BasicUNet()
    down1, down2, down3 = model.down_layers
    up1, up2, up3 = model.up_layers
    x = torch.randn(2, 1, 28, 28)

    def half(h):
        return F.max_pool2d(h, 2)

    def twice(h):
        return h.repeat_interleave(2, 2).repeat_interleave(2, 3)

    with torch.no_grad():
        outer = F.silu(down1(x))
        inner = F.silu(down2(half(outer)))
        h = F.silu(down3(half(inner)))
        h = F.silu(up1(h))
        h = F.silu(up2(twice(h) + inner))
        h = F.silu(up3(twice(h) + outer))
        torch.testing.assert_close(model(x), h)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_work_in_other_dtypes(dtype):
    x = torch.rand(2, 1, 8, 8, dtype=dtype)
    t = torch.rand(2, dtype=dtype)
    basic = du.BasicUNet().to(dtype)
    assert basic(x).dtype == dtype
    told = du.ContextUnet(1, 8, 2, 8).to(dtype)
    assert told(x, t, torch.eye(2)).dtype == dtype
