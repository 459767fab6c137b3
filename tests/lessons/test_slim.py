"""tests/tools/slim.py: saved pictures become smaller and show the same; widgets go."""

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

PROGRAM = Path(__file__).resolve().parents[1] / "tools" / "slim.py"


@pytest.fixture(scope="module")
def slim():
    spec = importlib.util.spec_from_file_location("slim_for_tests", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoded(picture, **options):
    """A picture as a notebook holds it."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return base64.b64encode(buffer.getvalue()).decode()


def pixels(png):
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    return np.asarray(picture.convert("RGB")).astype(int)


def figure():
    """A figure with a curve, a picture and words, as a notebook holds it."""
    fig, ax = plt.subplots(figsize=(5, 3))
    ax.plot(np.sin(np.arange(100) / 9), label="sine")
    ax.imshow(np.random.default_rng(0).random((8, 8, 3)), extent=(20, 40, -1, 1))
    ax.legend()
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    plt.close(fig)
    return base64.b64encode(buffer.getvalue()).decode()


# ---- pictures ------------------------------------------------------------------------


@pytest.mark.parametrize("colours", [2, 64, 256])
def test_a_picture_of_few_colours_keeps_every_pixel(slim, colours):
    palette = np.random.default_rng(0).integers(0, 256, (colours, 3), dtype=np.uint8)
    which = np.random.default_rng(1).integers(0, colours, (100, 100))
    enlarged = palette[which].repeat(2, 0).repeat(2, 1)
    png = encoded(Image.fromarray(enlarged))
    small = slim.slimmer(png)
    assert np.array_equal(pixels(small), pixels(png))
    assert len(small) <= len(png)


def test_sprites_keep_every_pixel(slim):
    sprites = du.load_sprites("test").images[:64]
    png = encoded(du.show_images(sprites, columns=16, zoom=4))
    small = slim.slimmer(png)
    assert np.array_equal(pixels(small), pixels(png))
    assert len(small) < 0.8 * len(png)


def test_a_transparent_picture_is_left_alone(slim):
    clear = encoded(Image.new("RGBA", (64, 64), (255, 0, 0, 0)))
    assert slim.slimmer(clear) == clear


def test_a_moving_picture_is_left_alone(slim):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2, (2, 64, 64, 3), dtype=np.uint8) * 255
    first, second = (Image.fromarray(frame) for frame in noise)
    moving = encoded(first, save_all=True, append_images=[second])
    assert slim.slimmer(moving) == moving


def test_noisy_sprites_keep_their_colours_nearly(slim):
    x = du.load_sprites("test").x[:24]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    x = du.perturb_input(x, 60, noise, du.NoiseSchedule.linear())
    png = encoded(du.show_images(x, columns=8, zoom=4))
    small = slim.slimmer(png)
    assert len(small) < 0.6 * len(png)
    assert np.abs(pixels(small) - pixels(png)).mean() < 8


def test_a_figure_shrinks_and_looks_the_same(slim):
    png = figure()
    small = slim.slimmer(png)
    assert len(small) < 0.7 * len(png)
    assert np.abs(pixels(small) - pixels(png)).mean() < 1
    assert slim.slimmer(small) == small


# ---- text ----------------------------------------------------------------------------


def printed(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def test_text_that_came_in_pieces_is_joined(slim):
    picture = {"output_type": "display_data", "data": {}}
    pieces = [
        printed(["a\n", "b"]),
        printed(["c\n"]),
        printed(["warning\n"], "stderr"),
        picture,
        printed(["d\n"]),
    ]
    assert slim.with_joined_text(pieces) == [
        printed(["a\n", "bc\n"]),
        printed(["warning\n"], "stderr"),
        picture,
        printed(["d\n"]),
    ]


# ---- notebooks -----------------------------------------------------------------------


def test_of_a_progress_bar_nothing_stays_and_of_its_line_the_last_state(slim):
    bar = printed("\r 0%\r 50%\r100%\r      \r", "stderr")
    counter = printed("before\nstep 1\rstep 2\rstep 3\nafter\n")
    [kept] = slim.without_progress([bar, counter])
    assert "".join(kept["text"]) == "before\nstep 3\nafter\n"


def test_the_program_repacks_pictures_removes_widgets_and_leaves_the_rest(tmp_path):
    png = figure()
    words = {"image/png": {"alt": "a sine"}}
    view = {"version_major": 2, "version_minor": 0, "model_id": "m"}
    instrument = {
        "application/vnd.jupyter.widget-view+json": view,
        "image/png": png,
        "text/plain": "words",
    }
    page = f'<img alt="a" src="data:image/png;base64,{png}"><div>ü</div>'
    notebook = {
        "cells": [
            {"cell_type": "markdown", "source": "x"},
            {
                "cell_type": "code",
                "source": "",
                "metadata": {"execution": {"iopub.execute_input": "2026-11-29"}},
                "outputs": [
                    {"data": instrument, "metadata": words},
                    {"data": {"text/html": page}},
                    {"name": "stdout", "text": "t"},
                ],
            },
        ],
        "metadata": {
            "kernelspec": {"name": "python3"},
            "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}},
        },
    }
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf8")
    command = [sys.executable, PROGRAM, path]
    subprocess.run(command, check=True, capture_output=True)
    once = path.read_bytes()
    subprocess.run(command, check=True, capture_output=True)
    assert path.read_bytes() == once
    assert [*tmp_path.iterdir()] == [path]

    slim = json.loads(once)
    small = slim["cells"][1]["outputs"][0]["data"].pop("image/png")
    assert len(small) < 0.7 * len(png)
    del instrument["image/png"]
    del instrument["application/vnd.jupyter.widget-view+json"]
    del notebook["metadata"]["widgets"]
    del notebook["cells"][1]["metadata"]["execution"]
    assert slim == notebook
