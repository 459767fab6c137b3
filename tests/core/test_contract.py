"""The published contract: notebooks that say `from diffusion_utilities import *` run unmodified, and weights fit both ways."""

import inspect
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn as nn
from PIL import Image

import diffusion_utilities as du

SIGNATURES = {
    "ResidualConvBlock": "(in_channels, out_channels, is_res=False)",
    "UnetDown": "(in_channels, out_channels)",
    "UnetUp": "(in_channels, out_channels)",
    "EmbedFC": "(input_dim, emb_dim)",
    "ContextUnet": "(in_channels, n_feat=256, n_cfeat=10, height=28)",
    "CustomDataset": "(sfilename, lfilename, transform, null_context=False)",
    "unorm": "(x)",
    "norm_all": "(store, n_t, n_s)",
    "norm_torch": "(x_all)",
    "gen_tst_context": "(n_cfeat)",
    "plot_grid": "(x, n_sample, n_rows, save_dir, w)",
    "plot_sample": "(x_gen_store, n_sample, nrows, save_dir, fn, w, save=False)",
}
METHODS = {
    ("ContextUnet", "forward"): "(self, x, t, c=None)",
    ("UnetUp", "forward"): "(self, x, skip)",
    ("CustomDataset", "getshapes"): "(self)",
}
LIBRARIES = (
    "os",
    "np",
    "torch",
    "nn",
    "plt",
    "make_grid",
    "save_image",
    "FuncAnimation",
    "PillowWriter",
    "Dataset",
    "transforms",
    "Image",
)


def bare_signature(thing) -> str:
    """The signature without its annotations."""
    signature = inspect.signature(thing)
    parameters = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in signature.parameters.values()
    ]
    return str(
        signature.replace(
            parameters=parameters, return_annotation=inspect.Signature.empty
        )
    )


@pytest.mark.parametrize("name", SIGNATURES)
def test_published_signature(name):
    assert bare_signature(getattr(du, name)) == SIGNATURES[name]


@pytest.mark.parametrize("owner, method", METHODS)
def test_published_method(owner, method):
    assert bare_signature(getattr(getattr(du, owner), method)) == METHODS[owner, method]


def test_star_import_brings_published_names_and_libraries():
    names = {}
    exec("from diffusion_utilities import *", names)
    assert not [
        name for name in (*SIGNATURES, *LIBRARIES, "transform") if name not in names
    ]
    assert (
        names["np"] is np
        and names["torch"] is torch
        and names["nn"] is nn
        and names["Image"].open is Image.open
    )


def test_every_name_in_all_exists_once():
    assert len(du.__all__) == len(set(du.__all__))
    assert not [name for name in du.__all__ if not hasattr(du, name)]


# The key list by rule, written without looking at a state dict: what each kind of layer stores.
STORED = {
    "conv": ("weight", "bias"),
    "norm": ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
}


def block_keys(prefix: str) -> list[str]:
    """A residual block: two convolutions, each followed by its batch norm."""
    return [
        f"{prefix}.conv{i}.{j}.{name}"
        for i in (1, 2)
        for j, kind in enumerate(("conv", "norm"))
        for name in STORED[kind]
    ]


def layer_keys(prefix: str, positions: tuple[int, ...]) -> list[str]:
    return [f"{prefix}.{i}.{name}" for i in positions for name in ("weight", "bias")]


def published_keys() -> list[str]:
    keys = block_keys("init_conv")
    for down in ("down1", "down2"):
        keys += block_keys(f"{down}.model.0") + block_keys(f"{down}.model.1")
    for embedding in ("timeembed1", "timeembed2", "contextembed1", "contextembed2"):
        keys += layer_keys(f"{embedding}.model", (0, 2))
    keys += layer_keys("up0", (0, 1))
    for up in ("up1", "up2"):
        keys += (
            layer_keys(f"{up}.model", (0,))
            + block_keys(f"{up}.model.1")
            + block_keys(f"{up}.model.2")
        )
    return keys + layer_keys("out", (0, 1, 3))


def test_context_unet_has_the_published_keys_and_size():
    model = du.ContextUnet(3, 64, 5, 16)
    assert len(published_keys()) == 156
    assert list(model.state_dict()) == published_keys()
    assert (
        sum(p.numel() for p in model.parameters())
        == du.count_parameters(model)
        == 1_480_771
    )


def test_context_unet_members():
    model = du.ContextUnet(3, 8, 5, 16)
    assert [name for name, _ in model.named_children()] == [
        "init_conv", "down1", "down2", "to_vec", "timeembed1", "timeembed2", "contextembed1", "contextembed2", "up0", "up1", "up2", "out",
    ]  # fmt: skip
    assert (model.in_channels, model.n_feat, model.n_cfeat, model.h) == (3, 8, 5, 16)


class OutsideUnet(nn.Module):
    """The network as a notebook defines it for itself, from the helper's blocks and with a pooling of 4 (heights of 16 only)."""

    def __init__(self, n_feat: int = 64, n_cfeat: int = 5):
        super().__init__()
        wide = 2 * n_feat
        self.init_conv = du.ResidualConvBlock(3, n_feat, is_res=True)
        self.down1, self.down2 = du.UnetDown(n_feat, n_feat), du.UnetDown(n_feat, wide)
        self.to_vec = nn.Sequential(nn.AvgPool2d(4), nn.GELU())
        self.timeembed1, self.timeembed2 = du.EmbedFC(1, wide), du.EmbedFC(1, n_feat)
        self.contextembed1, self.contextembed2 = (
            du.EmbedFC(n_cfeat, wide),
            du.EmbedFC(n_cfeat, n_feat),
        )
        self.up0 = nn.Sequential(
            nn.ConvTranspose2d(wide, wide, 4, 4), nn.GroupNorm(8, wide), nn.ReLU()
        )
        self.up1, self.up2 = du.UnetUp(2 * wide, n_feat), du.UnetUp(wide, n_feat)
        self.out = nn.Sequential(
            nn.Conv2d(wide, n_feat, 3, 1, 1),
            nn.GroupNorm(8, n_feat),
            nn.ReLU(),
            nn.Conv2d(n_feat, 3, 3, 1, 1),
        )

    def forward(self, x, t, c=None):
        c = torch.zeros(len(x), 5) if c is None else c
        a = self.init_conv(x)
        b = self.down1(a)
        d = self.down2(b)
        u = self.up0(self.to_vec(d))
        u = self.up1(
            self.contextembed1(c).view(len(x), -1, 1, 1) * u
            + self.timeembed1(t).view(-1, u.shape[1], 1, 1),
            d,
        )
        u = self.up2(
            self.contextembed2(c).view(len(x), -1, 1, 1) * u
            + self.timeembed2(t).view(-1, u.shape[1], 1, 1),
            b,
        )
        return self.out(torch.cat((u, a), 1))


def test_weights_load_strictly_into_a_network_defined_outside_and_back():
    """Both ways strictly, and both networks then say the same of any picture, time and context."""
    ours, theirs = du.ContextUnet(3, 64, 5, 16).eval(), OutsideUnet().eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    du.ContextUnet(3, 64, 5, 16).load_state_dict(theirs.state_dict(), strict=True)
    x, c = torch.randn(3, 3, 16, 16), torch.eye(5)[:3]
    with torch.no_grad():
        for t, context in (
            (torch.full((1, 1, 1, 1), 0.4), c),
            (torch.tensor([0.1, 0.5, 1.0]), None),
        ):
            torch.testing.assert_close(ours(x, t, context), theirs(x, t, context))


@pytest.mark.parametrize("name", ["model_trained.pth", "context_model_trained.pth"])
def test_shipped_weights_load_strictly_outside(name):
    model = OutsideUnet()
    model.load_state_dict(
        torch.load(du.WEIGHTS / name, map_location="cpu"), strict=True
    )
    assert torch.isfinite(
        model.eval()(torch.randn(2, 3, 16, 16), torch.tensor([0.5]))
    ).all()


@pytest.mark.parametrize("n_cfeat", [1, 3, 5, 10])
def test_gen_tst_context_repeats_one_hot_rows_and_a_zero_row(n_cfeat):
    count, context = du.gen_tst_context(n_cfeat)
    assert (
        count == 36
        and context.shape == (36, n_cfeat)
        and context.dtype == torch.float32
    )
    for i, row in enumerate(context):
        place = i % (n_cfeat + 1)
        assert row.tolist() == [float(j == place) for j in range(n_cfeat)]


def test_plot_sample_as_published(tmp_path):
    """(frames, 32, 3, 16, 16) in 4 rows: a player as HTML, and a GIF under the published name."""
    store = (
        np.random.default_rng(0).standard_normal((6, 32, 3, 16, 16)).astype(np.float32)
    )
    animation = du.plot_sample(store, 32, 4, f"{tmp_path}/", "ani_run", 1.5, save=True)
    assert "<canvas" in animation.to_jshtml()
    with Image.open(tmp_path / "ani_run_w1.5.gif") as gif:
        assert gif.n_frames == 6
    assert not list(tmp_path.glob("*tmp*")) and len(list(tmp_path.iterdir())) == 1


def test_plot_sample_writes_nothing_unless_asked(tmp_path):
    du.plot_sample(
        np.zeros((2, 4, 3, 16, 16), dtype=np.float32), 4, 2, f"{tmp_path}/", "ani", None
    )
    assert not list(tmp_path.iterdir())


def test_plot_grid_writes_the_grid_it_returns(tmp_path):
    x = torch.rand(10, 3, 16, 16) * 2 - 1
    grid = du.plot_grid(x, 8, 2, f"{tmp_path}/", 0.5)
    saved = np.asarray(Image.open(tmp_path / "run_image_w0.5.png"))
    assert grid.shape == (3, 2 * 18 + 2, 4 * 18 + 2) and saved.shape == (38, 74, 3)
    np.testing.assert_allclose(
        saved / 255, grid.movedim(0, -1).numpy(), atol=0.51 / 255
    )
    np.testing.assert_allclose(
        grid[:, 20:36, 2:18], x[4] / 2 + 0.5, atol=1e-6
    )  # second row, first column: the fifth picture


def test_custom_dataset_with_transform(sprite_files):
    files = sprite_files / "sprites_16x16.npy", sprite_files / "sprite_labels_16x16.npy"
    dataset = du.CustomDataset(*files, du.transform, null_context=False)
    assert len(dataset) == 260 and dataset.getshapes() == ((260, 16, 16, 3), (260, 5))
    picture, label = dataset[7]
    expected = np.load(files[0])[7].transpose(2, 0, 1) / 255 * 2 - 1
    np.testing.assert_allclose(picture, expected, atol=1e-6)
    assert (
        picture.dtype == torch.float32
        and label.dtype == torch.int64
        and label.tolist() == np.load(files[1])[7].tolist()
    )
    x, c = next(
        iter(torch.utils.data.DataLoader(dataset, batch_size=100, shuffle=True))
    )
    assert x.shape == (100, 3, 16, 16) and c.shape == (100, 5)
    assert not du.CustomDataset(*files, du.transform, null_context=True)[7][1].any()


def test_transform_is_to_model_range_for_one_picture():
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    torch.testing.assert_close(du.transform(picture), du.to_model_range(picture))
    torch.testing.assert_close(
        du.to_model_range(picture[None, None])[0, 0], du.to_model_range(picture)
    )


NOTEBOOK = """
from diffusion_utilities import *

timesteps, n_feat, n_cfeat, height, save_dir = 500, 64, 5, 16, "./weights/"
device = torch.device("cpu")
b_t = torch.linspace(1e-4, 0.02, timesteps + 1)
a_t = 1 - b_t
ab_t = torch.cumsum(a_t.log(), dim=0).exp()
ab_t[0] = 1

dataset = CustomDataset("./sprites_1788_16x16.npy", "./sprite_labels_nc_1788_16x16.npy", transform, null_context=False)
dataloader = DataLoader(dataset, batch_size=100, shuffle=True, num_workers=0)
x, c = next(iter(dataloader))
assert x.shape == (100, 3, 16, 16) and c.shape == (100, 5)

def perturb_input(x, t, noise):
    return ab_t.sqrt()[t, None, None, None] * x + (1 - ab_t[t, None, None, None]).sqrt() * noise

@torch.no_grad()
def sample_ddpm(n_sample, visited, context=None):
    samples, kept = torch.randn(n_sample, 3, height, height), []
    for i in visited:
        t = torch.tensor([i / timesteps])[:, None, None, None]
        z = torch.randn_like(samples) if i > 1 else 0
        eps = nn_model(samples, t) if context is None else nn_model(samples, t, c=context)
        samples = (samples - eps * (1 - a_t[i]) / (1 - ab_t[i]).sqrt()) / a_t[i].sqrt() + b_t.sqrt()[i] * z
        kept.append(samples.detach().cpu().numpy())
    return samples, np.stack(kept)

nn_model = ContextUnet(in_channels=3, n_feat=n_feat, n_cfeat=n_cfeat, height=height).to(device)
for name in NAMES:
    nn_model.load_state_dict(torch.load(f"{save_dir}{name}.pth", map_location=device))
    nn_model.eval()
    t, x, c = torch.randint(1, timesteps + 1, (40,)), x[:40], c[:40]
    noise = torch.randn_like(x)
    with torch.no_grad():
        error = nn.functional.mse_loss(nn_model(perturb_input(x, t, noise), t / timesteps, c=c.float()), noise).item()
    assert error < 0.5, (name, error)  # a network that has learnt nothing scores 1
context = gen_tst_context(n_cfeat)[1][:32]
samples, store = sample_ddpm(32, (500, 400, 2, 1), context)
plt.clf()
animation = plot_sample(store, 32, 4, save_dir, "ani_run", None, save=True)
assert "<canvas" in animation.to_jshtml()
plot_grid(samples, 32, 4, save_dir, 0)
assert os.path.exists("./weights/ani_run_wNone.gif") and os.path.exists("./weights/run_image_w0.png")
print("done")
"""


def test_a_published_notebook_runs_with_the_published_paths(
    tmp_path, course_environment
):
    """Our arrays and weights under the published names, the helper beside: the calls of a published notebook run as a script."""
    shutil.copy(du.__file__, tmp_path)
    shutil.copy(du.DATA / "sprites_16x16.npy", tmp_path / "sprites_1788_16x16.npy")
    shutil.copy(
        du.DATA / "sprite_labels_16x16.npy",
        tmp_path / "sprite_labels_nc_1788_16x16.npy",
    )
    (tmp_path / "weights").mkdir()
    names = ("model_trained", "context_model_trained", "model_31")
    for name in names:
        shutil.copy(du.WEIGHTS / f"{name}.pth", tmp_path / "weights")
    (tmp_path / "notebook.py").write_text(
        NOTEBOOK.replace("NAMES", repr(names)), encoding="utf8"
    )
    done = subprocess.run(
        [sys.executable, "notebook.py"],
        cwd=tmp_path,
        env=course_environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr


@pytest.mark.parametrize(
    "request_",
    [
        "urllib.request.urlopen('http://example.org')",
        "socket.create_connection(('192.0.2.1', 80), 2)",
    ],
)
def test_there_is_no_network_here_or_in_a_child(request_, course_environment):
    """What guards the notebooks guards: beyond loopback nothing is reached, and loopback is."""
    import socket
    import urllib.request

    with pytest.raises(OSError, match="blocked"):
        eval(request_, {"socket": socket, "urllib": urllib})
    script = f"import socket, urllib.request\ntry: {request_}\nexcept OSError as error: print(error)"
    assert (
        "blocked"
        in subprocess.run(
            [sys.executable, "-c", script],
            env=course_environment,
            capture_output=True,
            text=True,
        ).stdout
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), 2).close()
