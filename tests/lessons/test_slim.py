"""tests/tools/slim.py makes saved pictures smaller and keeps what they show."""

import base64
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_utilities as du

PROGRAM = Path(__file__).resolve().parents[2] / "notebooks" / "slim.py"


@pytest.fixture(scope="module")
def slim():
    spec = importlib.util.spec_from_file_location("slim_for_tests", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoded(picture):
    picture.save(buffer := io.BytesIO(), "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def pixels(png):
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    ).astype(int)


def figure():
    fig, ax = plt.subplots(figsize=(5, 3))
    ax.plot(np.sin(np.arange(100) / 9), label="sine")
    ax.imshow(np.random.default_rng(0).random((8, 8, 3)), extent=(20, 40, -1, 1))
    ax.legend()
    fig.savefig(buffer := io.BytesIO(), format="png")
    plt.close(fig)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("colours", [2, 64, 256])
def test_a_picture_of_few_colours_keeps_every_pixel(slim, colours):
    flat = np.random.default_rng(0).integers(0, 256, (colours, 3), dtype=np.uint8)[
        np.random.default_rng(1).integers(0, colours, (100, 100))
    ]
    png = encoded(Image.fromarray(flat.repeat(2, 0).repeat(2, 1)))
    assert np.array_equal(pixels(slim.slimmer(png)), pixels(png)) and len(
        slim.slimmer(png)
    ) <= len(png)


def test_sprites_keep_every_pixel(slim):
    png = encoded(
        du.show_images(du.load_sprites("test").images[:64], columns=16, zoom=4)
    )
    assert np.array_equal(pixels(slim.slimmer(png)), pixels(png)) and len(
        slim.slimmer(png)
    ) < 0.8 * len(png)


def test_transparent_and_moving_pictures_are_left_alone(slim):
    rng, clear = np.random.default_rng(0), Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    first, second = (
        Image.fromarray(rng.integers(0, 2, (64, 64, 3), dtype=np.uint8) * 255)
        for _ in range(2)
    )
    first.save(buffer := io.BytesIO(), "PNG", save_all=True, append_images=[second])
    moving = base64.b64encode(buffer.getvalue()).decode()
    assert (
        slim.slimmer(encoded(clear)) == encoded(clear)
        and slim.slimmer(moving) == moving
    )


def test_noisy_sprites_keep_their_colours_nearly(slim):
    x, generator = du.load_sprites("test").x[:24], torch.Generator().manual_seed(0)
    x = du.perturb_input(
        x, 60, torch.randn(x.shape, generator=generator), du.NoiseSchedule.linear()
    )
    png = encoded(du.show_images(x, columns=8, zoom=4))
    assert (
        len(slim.slimmer(png)) < 0.6 * len(png)
        and np.abs(pixels(slim.slimmer(png)) - pixels(png)).mean() < 8
    )


def test_a_figure_shrinks_and_looks_the_same(slim):
    png = figure()
    small = slim.slimmer(png)
    assert (
        len(small) < 0.7 * len(png) and np.abs(pixels(small) - pixels(png)).mean() < 1
    )
    assert slim.slimmer(small) == small


def test_the_program_repacks_outputs_and_widgets_and_nothing_else(tmp_path):
    png, path = figure(), tmp_path / "a.ipynb"
    view = {
        "image/png": png,
        "text/plain": "words",
        "application/vnd.jupyter.widget-view+json": {"model_id": "m"},
    }
    state = {
        "m": {
            "state": {
                "value": f'<img alt="a" src="data:image/png;base64,{png}"><div>ü</div>'
            }
        },
        "n": {"state": {"value": 3}},
    }
    outputs = [{"data": view}, {"name": "stdout", "text": "t"}]
    cells = [
        {"cell_type": "markdown", "source": "x"},
        {"cell_type": "code", "source": "", "outputs": outputs},
    ]
    metadata = {
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": state}}
    }
    path.write_text(json.dumps({"cells": cells, "metadata": metadata}), encoding="utf8")
    for _ in range(2):  # the second time it changes nothing
        subprocess.run([sys.executable, PROGRAM, path], check=True, capture_output=True)
    new = json.loads(path.read_text(encoding="utf8"))
    small = new["cells"][1]["outputs"][0]["data"].pop("image/png")
    page = new["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"][
        "state"
    ]["m"]["state"].pop("value")
    assert (
        len(small) < 0.7 * len(png)
        and page == f'<img alt="a" src="data:image/png;base64,{small}"><div>ü</div>'
    )
    view.pop("image/png"), state["m"]["state"].pop("value")
    assert new["cells"] == cells and [*tmp_path.iterdir()] == [path]
