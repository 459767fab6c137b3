"""The blocks and the U-Nets: shapes for every size that is promised, and what their architecture claims."""

import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import diffusion_utilities as du

HEIGHTS = range(8, 65, 4)
TIMES = {
    "(B,)": lambda b: (b,),
    "(B, 1)": lambda b: (b, 1),
    "(B, 1, 1, 1)": lambda b: (b, 1, 1, 1),
    "(1, 1, 1, 1)": lambda b: (1, 1, 1, 1),
}


@settings(max_examples=25)
@given(
    batch=st.integers(1, 3), height=st.sampled_from(HEIGHTS), channels=st.integers(1, 4), n_feat=st.sampled_from([8, 16]),
    n_cfeat=st.integers(1, 7), time=st.sampled_from(list(TIMES)), with_context=st.booleans(),
)  # fmt: skip
def test_context_unet_keeps_the_shape(
    batch, height, channels, n_feat, n_cfeat, time, with_context
):
    model = du.ContextUnet(channels, n_feat, n_cfeat, height).eval()
    x, t = torch.randn(batch, channels, height, height), torch.rand(TIMES[time](batch))
    c = torch.eye(n_cfeat)[torch.arange(batch) % n_cfeat] if with_context else None
    with torch.no_grad():
        out = model(x, t, c)
    assert out.shape == x.shape and out.dtype == x.dtype and torch.isfinite(out).all()


@pytest.mark.parametrize("height", HEIGHTS)
def test_context_unet_learns_at_every_height(height):
    """Every parameter gets a gradient, at every height that is promised."""
    model = du.ContextUnet(1, 8, 2, height)
    model(
        torch.randn(2, 1, height, height), torch.rand(2), torch.eye(2)
    ).square().sum().backward()
    assert not [
        name
        for name, p in model.named_parameters()
        if p.grad is None or not torch.isfinite(p.grad).all()
    ]


def test_time_shapes_mean_the_same():
    model = du.ContextUnet(3, 8, 5, 16).eval()
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.3])
    with torch.no_grad():
        expected = model(x, t)
        for shape in ((2, 1), (2, 1, 1, 1)):
            assert torch.equal(model(x, t.view(shape)), expected)
        for one in (
            torch.full((1, 1, 1, 1), 0.3),
            torch.tensor([0.3]),
            torch.tensor(0.3),
        ):
            torch.testing.assert_close(model(x, one), expected)


def test_time_and_context_reach_the_output():
    model = du.ContextUnet(3, 8, 5, 16).train()
    x, t, c = (
        torch.randn(4, 3, 16, 16),
        torch.rand(4, requires_grad=True),
        torch.zeros(4, 5, requires_grad=True),
    )
    for value in torch.autograd.grad(model(x, t, c).square().sum(), (t, c)):
        assert value.abs().sum() > 0


def test_context_multiplies_and_time_is_added():
    """With context and time both embedded as zero nothing of the bottleneck's vector is left; time alone is a shift."""
    model = du.ContextUnet(3, 8, 5, 16).eval()
    seen = []
    model.up1.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    for embedding in (model.contextembed1, model.timeembed1):
        nn.init.zeros_(embedding.model[2].weight)
        nn.init.zeros_(embedding.model[2].bias)
    x, t = torch.randn(2, 3, 16, 16), torch.rand(2)
    with torch.no_grad():
        model(x, t)
        nn.init.constant_(model.timeembed1.model[2].bias, 2.5)
        model(x, t)
        nn.init.ones_(model.contextembed1.model[2].bias)
        model(x, t)
        vector = model.up0(model.to_vec(model.down2(model.down1(model.init_conv(x)))))
    assert not seen[0].any() and (seen[1] == 2.5).all()
    torch.testing.assert_close(seen[2], vector + 2.5)


# ----------------------------------------------------------------------------------------------------------------- blocks


@given(
    batch=st.integers(1, 3), c_in=st.integers(1, 5), c_out=st.integers(1, 5), height=st.integers(2, 9), width=st.integers(2, 9),
    is_res=st.booleans(), training=st.booleans(),
)  # fmt: skip
def test_residual_block_keeps_height_and_width_and_is_repeatable(
    batch, c_in, c_out, height, width, is_res, training
):
    """The same input gives the same output, in either mode, whether channel counts differ or not."""
    block = du.ResidualConvBlock(c_in, c_out, is_res).train(training)
    x = torch.randn(batch, c_in, height, width)
    with torch.no_grad():
        first, second = block(x), block(x)
    assert first.shape == (batch, c_out, height, width) and torch.equal(first, second)


@pytest.mark.parametrize("c_in, c_out", [(4, 4), (3, 4)])
def test_residual_block_is_its_formula(c_in, c_out):
    """(shortcut + second convolution) / sqrt(2), the shortcut being the input where it fits, else the first convolution's output."""
    block = du.ResidualConvBlock(c_in, c_out, True).eval()
    x = torch.randn(2, c_in, 6, 6)
    with torch.no_grad():
        x1 = block.conv1(x)
        expected = ((x if c_in == c_out else x1) + block.conv2(x1)) / math.sqrt(2)
        torch.testing.assert_close(block(x), expected)
        plain = du.ResidualConvBlock(c_in, c_out).eval()
        plain.load_state_dict(block.state_dict(), strict=True)
        torch.testing.assert_close(plain(x), block.conv2(x1))


@given(
    batch=st.integers(1, 3),
    c_in=st.integers(1, 5),
    c_out=st.integers(1, 5),
    half_h=st.integers(1, 6),
    half_w=st.integers(1, 6),
)
def test_down_halves_and_up_doubles(batch, c_in, c_out, half_h, half_w):
    down = du.UnetDown(c_in, c_out).eval()(
        torch.randn(batch, c_in, 2 * half_h, 2 * half_w)
    )
    assert down.shape == (batch, c_out, half_h, half_w)
    up = du.UnetUp(2 * c_out, c_in).eval()(down, torch.randn_like(down))
    assert up.shape == (batch, c_in, 2 * half_h, 2 * half_w)


def test_up_takes_x_first_and_the_skip_second():
    up, x, skip = (
        du.UnetUp(4, 3).eval(),
        torch.randn(1, 2, 4, 4),
        torch.randn(1, 2, 4, 4),
    )
    with torch.no_grad():
        torch.testing.assert_close(up(x, skip), up.model(torch.cat((x, skip), dim=1)))


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
    assert du.EmbedFC(input_dim, 7)(torch.rand(shape)).shape == (rows, 7)


# ------------------------------------------------------------------------------------------------------------- BasicUNet


def test_basic_unet_size():
    """309,057 parameters: six 5x5 convolutions and their biases."""
    pairs = ((1, 32), (32, 64), (64, 64), (64, 64), (64, 32), (32, 1))
    assert (
        sum(25 * a * b + b for a, b in pairs)
        == 309_057
        == du.count_parameters(du.BasicUNet())
    )


@given(
    batch=st.integers(1, 2),
    channels=st.integers(1, 3),
    out=st.integers(1, 3),
    quarter_h=st.integers(1, 8),
    quarter_w=st.integers(1, 8),
)
def test_basic_unet_keeps_the_shape_and_its_lower_bound(
    batch, channels, out, quarter_h, quarter_w
):
    """SiLU is never below -0.27846 (its minimum, at x = -1.2785), whatever goes in."""
    model = du.BasicUNet(channels, out)
    with torch.no_grad():
        y = model(100 * torch.randn(batch, channels, 4 * quarter_h, 4 * quarter_w))
    assert y.shape == (batch, out, 4 * quarter_h, 4 * quarter_w) and y.min() >= -0.2785


def test_the_lower_bound_is_reached():
    model = du.BasicUNet()
    nn.init.zeros_(model.up_layers[2].weight)
    nn.init.constant_(model.up_layers[2].bias, -1.278465)
    assert model(torch.zeros(1, 1, 8, 8)).min().item() == pytest.approx(
        -0.278465, abs=1e-5
    )


def test_basic_unet_skips_are_last_in_first_out():
    """Written out by hand: the inner level gets the skip of the inner level, the outer that of the outer."""
    model, x = du.BasicUNet(), torch.randn(2, 1, 28, 28)
    d1, d2, d3, u1, u2, u3 = (*model.down_layers, *model.up_layers)

    def twice(h):
        return h.repeat_interleave(2, 2).repeat_interleave(2, 3)

    with torch.no_grad():
        outer = F.silu(d1(x))
        inner = F.silu(d2(F.max_pool2d(outer, 2)))
        h = F.silu(u1(F.silu(d3(F.max_pool2d(inner, 2)))))
        h = F.silu(u2(twice(h) + inner))
        h = F.silu(u3(twice(h) + outer))
        torch.testing.assert_close(model(x), h)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_work_in_other_dtypes(dtype):
    x = torch.rand(2, 1, 8, 8, dtype=dtype)
    assert du.BasicUNet().to(dtype)(x).dtype == dtype
    assert (
        du.ContextUnet(1, 8, 2, 8)
        .to(dtype)(x, torch.rand(2, dtype=dtype), torch.eye(2))
        .dtype
        == dtype
    )
