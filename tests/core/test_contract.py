"""The published contract: names, signatures and state-dict keys that must stay.

Notebooks that say `from diffusion_utilities import *` run unmodified. (That published
weights load: tests/experiments/test_shipped_weights.py.)
"""

import inspect
import shutil
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
import torch
import torch.nn as nn
from PIL import Image
from torch.utils.data import DataLoader

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
    empty = inspect.Signature.empty
    signature = inspect.signature(thing)
    parameters = signature.parameters.values()
    bare = [parameter.replace(annotation=empty) for parameter in parameters]
    return str(inspect.Signature(bare))


@pytest.mark.parametrize("name", SIGNATURES)
def test_published_signature(name):
    assert bare_signature(getattr(du, name)) == SIGNATURES[name]


@pytest.mark.parametrize("owner, method", METHODS)
def test_published_method(owner, method):
    function = getattr(getattr(du, owner), method)
    assert bare_signature(function) == METHODS[owner, method]


def test_star_import_brings_published_names_and_libraries():
    names = {}
    exec("from diffusion_utilities import *", names)
    for name in (*SIGNATURES, *LIBRARIES, "transform"):
        assert name in names
    assert names["np"] is np
    assert names["torch"] is torch
    assert names["nn"] is nn
    assert names["Image"].open is Image.open


def test_every_name_in_all_exists_once():
    assert len(du.__all__) == len(set(du.__all__))
    for name in du.__all__:
        assert hasattr(du, name), name


# ---- Keys of the state dict ----------------------------------------------------------
# By rule, without a look at a state dict: what each kind of layer stores, in order.


def convolution_keys(prefix: str) -> list[str]:
    """A convolution followed by its batch norm."""
    return [
        f"{prefix}.0.weight",
        f"{prefix}.0.bias",
        f"{prefix}.1.weight",
        f"{prefix}.1.bias",
        f"{prefix}.1.running_mean",
        f"{prefix}.1.running_var",
        f"{prefix}.1.num_batches_tracked",
    ]


def block_keys(prefix: str) -> list[str]:
    """A residual block has two convolutions."""
    return convolution_keys(f"{prefix}.conv1") + convolution_keys(f"{prefix}.conv2")


def layer_keys(prefix: str, positions: tuple[int, ...]) -> list[str]:
    """Layers with a weight and a bias, at these positions of a sequence."""
    keys = []
    for position in positions:
        keys.append(f"{prefix}.{position}.weight")
        keys.append(f"{prefix}.{position}.bias")
    return keys


def published_keys() -> list[str]:
    keys = block_keys("init_conv")
    for down in ("down1", "down2"):
        keys += block_keys(f"{down}.model.0")
        keys += block_keys(f"{down}.model.1")
    for embedding in ("timeembed1", "timeembed2", "contextembed1", "contextembed2"):
        keys += layer_keys(f"{embedding}.model", (0, 2))
    keys += layer_keys("up0", (0, 1))
    for up in ("up1", "up2"):
        keys += layer_keys(f"{up}.model", (0,))
        keys += block_keys(f"{up}.model.1")
        keys += block_keys(f"{up}.model.2")
    keys += layer_keys("out", (0, 1, 3))
    return keys


def test_context_unet_has_the_published_keys_and_size():
    model = du.ContextUnet(3, 64, 5, 16)
    keys = list(model.state_dict())
    assert len(keys) == 156
    assert keys == published_keys()
    assert du.count_parameters(model) == 1_480_771


def test_context_unet_members():
    model = du.ContextUnet(3, 8, 5, 16)
    members = [name for name, _ in model.named_children()]
    assert members == [
        "init_conv",
        "down1",
        "down2",
        "to_vec",
        "timeembed1",
        "timeembed2",
        "contextembed1",
        "contextembed2",
        "up0",
        "up1",
        "up2",
        "out",
    ]
    assert model.in_channels == 3
    assert model.n_feat == 8
    assert model.n_cfeat == 5
    assert model.h == 16


# ---- Functions -----------------------------------------------------------------------


@pytest.mark.parametrize("n_cfeat", [1, 3, 5, 10])
def test_gen_tst_context_repeats_one_hot_rows_and_a_zero_row(n_cfeat):
    count, context = du.gen_tst_context(n_cfeat)
    assert count == 36
    assert context.shape == (36, n_cfeat)
    assert context.dtype == torch.float32
    rows = torch.cat((torch.eye(n_cfeat), torch.zeros(1, n_cfeat)))
    for i, row in enumerate(context):
        assert torch.equal(row, rows[i % (n_cfeat + 1)])


def test_plot_sample_as_published(tmp_path):
    """(frames, 32, 3, 16, 16) in 4 rows: a player as HTML, and a GIF."""
    rng = np.random.default_rng(0)
    store = rng.standard_normal((6, 32, 3, 16, 16)).astype(np.float32)
    animation = du.plot_sample(store, 32, 4, f"{tmp_path}/", "ani_run", 1.5, save=True)
    assert "<canvas" in animation.to_jshtml()
    written = [path.name for path in tmp_path.iterdir()]
    assert written == ["ani_run_w1.5.gif"]
    with Image.open(tmp_path / "ani_run_w1.5.gif") as gif:
        assert gif.n_frames == 6


def test_plot_sample_writes_nothing_unless_asked(tmp_path):
    store = np.zeros((2, 4, 3, 16, 16), dtype=np.float32)
    du.plot_sample(store, 4, 2, f"{tmp_path}/", "ani", None)
    assert not list(tmp_path.iterdir())


def test_plot_grid_writes_the_grid_it_returns(tmp_path):
    x = torch.rand(10, 3, 16, 16) * 2 - 1
    grid = du.plot_grid(x, 8, 2, f"{tmp_path}/", 0.5)
    assert grid.shape == (3, 2 * 18 + 2, 4 * 18 + 2)
    fifth = grid[:, 20:36, 2:18]  # second row, first column
    torch.testing.assert_close(fifth, x[4] / 2 + 0.5, atol=1e-6, rtol=0)
    saved = np.asarray(Image.open(tmp_path / "run_image_w0.5.png"))
    returned = 255 * grid.movedim(0, -1).numpy()
    np.testing.assert_allclose(saved, returned, atol=0.51)


def test_custom_dataset_with_transform(sprite_files):
    sprites = sprite_files / "sprites_16x16.npy"
    labels = sprite_files / "sprite_labels_16x16.npy"
    dataset = du.CustomDataset(sprites, labels, du.transform, null_context=False)
    assert len(dataset) == 260
    assert dataset.getshapes() == ((260, 16, 16, 3), (260, 5))
    picture, label = dataset[7]
    expected = np.load(sprites)[7].transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(picture, expected, atol=1e-6)
    assert picture.dtype == torch.float32
    assert label.dtype == torch.int64
    assert label.tolist() == np.load(labels)[7].tolist()


def test_custom_dataset_in_a_data_loader(sprite_files):
    sprites = sprite_files / "sprites_16x16.npy"
    labels = sprite_files / "sprite_labels_16x16.npy"
    dataset = du.CustomDataset(sprites, labels, du.transform)
    x, c = next(iter(DataLoader(dataset, batch_size=100, shuffle=True)))
    assert x.shape == (100, 3, 16, 16)
    assert c.shape == (100, 5)
    assert c.any()


def test_null_context_is_a_label_of_zeros(sprite_files):
    sprites = sprite_files / "sprites_16x16.npy"
    labels = sprite_files / "sprite_labels_16x16.npy"
    dataset = du.CustomDataset(sprites, labels, du.transform, null_context=True)
    _, label = dataset[7]
    assert label.tolist() == [0] * 5


def test_transform_is_to_model_range_for_one_picture():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    x = du.to_model_range(picture)
    torch.testing.assert_close(du.transform(picture), x)
    torch.testing.assert_close(du.to_model_range(picture[None, None])[0, 0], x)


# ---- A published notebook ------------------------------------------------------------

NOTEBOOK = """
from diffusion_utilities import *

timesteps, n_feat, n_cfeat, height, save_dir = 500, 64, 5, 16, "./weights/"
device = torch.device("cpu")
b_t = torch.linspace(1e-4, 0.02, timesteps + 1)
a_t = 1 - b_t
ab_t = torch.cumsum(a_t.log(), dim=0).exp()
ab_t[0] = 1

dataset = CustomDataset(
    "./sprites_1788_16x16.npy",
    "./sprite_labels_nc_1788_16x16.npy",
    transform,
    null_context=False,
)
dataloader = DataLoader(dataset, batch_size=100, shuffle=True, num_workers=0)
x, c = next(iter(dataloader))
assert x.shape == (100, 3, 16, 16) and c.shape == (100, 5)


def perturb_input(x, t, noise):
    ab = ab_t[t, None, None, None]
    return ab.sqrt() * x + (1 - ab).sqrt() * noise


def denoise_add_noise(x, t, pred_noise, z):
    mean = (x - pred_noise * (1 - a_t[t]) / (1 - ab_t[t]).sqrt()) / a_t[t].sqrt()
    return mean + b_t.sqrt()[t] * z


@torch.no_grad()
def sample_ddpm(n_sample, visited, context=None):
    samples = torch.randn(n_sample, 3, height, height)
    kept = []
    for i in visited:
        t = torch.tensor([i / timesteps])[:, None, None, None]
        z = torch.randn_like(samples) if i > 1 else 0
        eps = nn_model(samples, t, c=context)
        samples = denoise_add_noise(samples, i, eps, z)
        kept.append(samples.detach().cpu().numpy())
    return samples, np.stack(kept)


nn_model = ContextUnet(in_channels=3, n_feat=n_feat, n_cfeat=n_cfeat, height=height)
nn_model = nn_model.to(device)
for name in NAMES:
    state = torch.load(f"{save_dir}{name}.pth", map_location=device, weights_only=True)
    nn_model.load_state_dict(state)
    nn_model.eval()
    t, x, c = torch.randint(1, timesteps + 1, (40,)), x[:40], c[:40]
    noise = torch.randn_like(x)
    with torch.no_grad():
        pred_noise = nn_model(perturb_input(x, t, noise), t / timesteps, c=c.float())
    error = nn.functional.mse_loss(pred_noise, noise).item()
    assert error < 0.5, (name, error)  # a network that has learnt nothing scores 1
context = gen_tst_context(n_cfeat)[1][:32]
samples, store = sample_ddpm(32, (500, 400, 2, 1), context)
plt.clf()
animation = plot_sample(store, 32, 4, save_dir, "ani_run", None, save=True)
assert "<canvas" in animation.to_jshtml()
plot_grid(samples, 32, 4, save_dir, 0)
assert os.path.exists("./weights/ani_run_wNone.gif")
assert os.path.exists("./weights/run_image_w0.png")
print("done")
"""
PUBLISHED_NAMES = {
    "sprites_16x16.npy": "sprites_1788_16x16.npy",
    "sprite_labels_16x16.npy": "sprite_labels_nc_1788_16x16.npy",
}


@pytest.mark.slow
def test_a_published_notebook_runs_as_a_script(tmp_path, course_environment):
    """The helper, our arrays under the published names and our weights are enough."""
    shutil.copy(du.__file__, tmp_path)
    for ours, published in PUBLISHED_NAMES.items():
        shutil.copy(du.DATA / ours, tmp_path / published)
    weights = tmp_path / "weights"
    weights.mkdir()
    names = ("model_trained", "context_model_31", "context_model_trained", "model_31")
    for name in names:
        shutil.copy(du.WEIGHTS / f"{name}.pth", weights)
    script = tmp_path / "notebook.py"
    script.write_text(NOTEBOOK.replace("NAMES", repr(names)), encoding="utf8")
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env=course_environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")


# ---- No network ----------------------------------------------------------------------

REQUESTS = [
    "urllib.request.urlopen('http://example.org')",
    "socket.create_connection(('192.0.2.1', 80), 2)",
]
CHILD = """
import socket
import urllib.request
try:
    {request}
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("code", REQUESTS)
def test_nothing_beyond_this_machine_is_reached(code):
    names = {"socket": socket, "urllib": urllib}
    with pytest.raises(OSError, match="blocked"):
        eval(code, names)


@pytest.mark.parametrize("code", REQUESTS)
def test_nothing_beyond_this_machine_is_reached_by_a_child(code, course_environment):
    """The kernels of notebooks are such children."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD.format(request=code)],
        env=course_environment,
        capture_output=True,
        text=True,
    )
    assert "blocked" in child.stdout


def test_this_machine_itself_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = socket.create_connection(server.getsockname(), 2)
        connection.close()
