"""Export the networks of the book's playground: `python docs/export.py`.

It writes, for a browser, the strong network and its student (float32 arithmetic,
weights stored in float16), and what the page must know of them: the words, the
schedule, some captions to try. It prints each file's size and the largest difference
from torch over 100 random inputs.

Sphinx exports whenever it builds the book. Other weights of the strong network:
`python docs/export.py --weights weights/another.pth`.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

import diffusion_utilities as du  # noqa: E402

OUT = DOCS / "_playground"
STRONG = du.WEIGHTS / "sprite_unet_trained.pth"
STUDENT = du.WEIGHTS / "sprite_unet_student.pth"
STUDENT_STEPS = 4  # the most calls in which it practised drawing (lesson 14)


class ForBrowser(nn.Module):
    """The noise in x, by a `SpriteUnet`, without its checks.

    x: (B, 3, 16, 16). ab: alpha-bar of the step, (B, 1).
    words: (W, max_words), float32: W captions, each for the next B / W sprites. So a
    caption is read once, however many sprites it is for.
    """

    def __init__(self, model: du.SpriteUnet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, ab: Tensor, words: Tensor) -> Tensor:
        read = self.model.read(words)
        each = x.shape[0] // words.shape[0]
        read = read[:, None].expand(-1, each, -1, -1).flatten(0, 1)
        picture = self.model.picture(x, ab, read)
        ab = ab[..., None, None]
        return (x - ab.sqrt() * picture) / (1 - ab).sqrt()


def noisy_inputs(model: du.SpriteUnet, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """n sprites at random steps, their alpha-bar, and a random caption of each."""
    generator = torch.Generator().manual_seed(0)
    schedule = du.NoiseSchedule.linear()
    sprites = du.load_sprites("test")
    chosen = torch.randperm(len(sprites.x), generator=generator)[:n]
    steps = torch.randint(1, schedule.T + 1, (n,), generator=generator)
    noise = torch.randn((n, 3, 16, 16), generator=generator)
    x = du.perturb_input(sprites.x[chosen], steps, noise, schedule)
    captions = captions_of([sprites.factors[i] for i in chosen])
    words = du.sprite_captions().encode(captions)
    return x, model.ab[steps][:, None], torch.from_numpy(words).float()


def captions_of(factors: Sequence[dict[str, str]]) -> list[str]:
    """A caption for each sprite with these factors, as training writes them."""
    rng = np.random.default_rng(0)
    captions = []
    for values in factors:
        others = {name: value for name, value in values.items() if name != "class"}
        specification = du.sprite_factory().specify(values["class"], **others)
        caption = du.sprite_captions().draw_caption(specification, rng)
        captions.append(caption.text)
    return captions


def exported(model: du.SpriteUnet) -> onnx.ModelProto:
    """The network as an ONNX graph for any number of sprites and captions."""
    rows = {"x": "sprites", "ab": "sprites", "words": "captions", "noise": "sprites"}
    *inputs, output = rows
    x, ab, words = noisy_inputs(model, 4)
    file = io.BytesIO()
    with torch.no_grad():
        torch.onnx.export(
            ForBrowser(model).eval(),
            (x, ab, words[:2]),
            file,
            input_names=inputs,
            output_names=[output],
            dynamic_axes={name: {0: axis} for name, axis in rows.items()},
            opset_version=17,
            dynamo=False,
        )
    return onnx.load_from_string(file.getvalue())


def store_as_float16(graph: onnx.GraphProto, least: int = 64) -> None:
    """Keep each large table of weights in float16; a node makes it float32 again.

    The arithmetic stays as it was. least: tables with fewer numbers stay, too.
    """
    for table in graph.initializer:
        values = numpy_helper.to_array(table)
        if values.dtype != np.float32 or values.size < least:
            continue
        name = table.name
        stored = f"{name}.float16"
        table.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        back = onnx.helper.make_node(
            "Cast", [stored], [name], to=onnx.TensorProto.FLOAT
        )
        graph.node.insert(0, back)


def difference(model: du.SpriteUnet, network: bytes, n: int = 100) -> float:
    """The largest difference from torch in the noise of n noisy sprites."""
    x, ab, words = noisy_inputs(model, n)
    with torch.no_grad():
        expected = ForBrowser(model)(x, ab, words)
    session = onnxruntime.InferenceSession(network)
    inputs = {"x": x.numpy(), "ab": ab.numpy(), "words": words.numpy()}
    [noise] = session.run(None, inputs)
    return float(np.abs(noise - expected.numpy()).max())


def settings(digests: dict[str, str]) -> dict:
    """What the page must know: words, schedule, captions, and how to draw.

    digests: of the networks' files, so that a browser takes no old one from its cache.
    """
    defaults = inspect.signature(du.draw).parameters
    steps = {"strong": defaults["steps"].default, "student": STUDENT_STEPS}
    networks = {}
    for name, digest in digests.items():
        file = f"{name}.onnx?{digest}"
        networks[name] = {"file": file, "steps": steps[name]}
    captions = captions_of(du.load_sprites("compositional").factors[::10])
    return {
        "networks": networks,
        "vocabulary": du.sprite_captions().vocabulary(),
        "max_words": du.sprite_captions().MAX_WORDS,
        "ab": du.NoiseSchedule.linear().ab.tolist(),
        "guidance": defaults["guidance"].default,
        "captions": captions,
    }


def export(strong: Path = STRONG, out: Path = OUT) -> None:
    """Write both networks and settings.json, and print sizes and differences."""
    du.sweep_temporary(out)  # or the book would publish what a killed export left
    digests = {}
    for name, weights in (("strong", strong), ("student", STUDENT)):
        model = du.sprite_network(weights)
        network = stored(model)
        digests[name] = hashlib.sha256(network).hexdigest()[:12]
        with du.written_whole(out / f"{name}.onnx") as path:
            path.write_bytes(network)
        megabytes = len(network) / 1e6
        worst = difference(model, network)
        print(f"{name}.onnx: {megabytes:.2f} MB; differs from torch by {worst:.1e}")
    with du.written_whole(out / "settings.json") as path:
        path.write_text(json.dumps(settings(digests)), encoding="utf8")


def stored(model: du.SpriteUnet) -> bytes:
    """The file of a network."""
    graph = exported(model)
    store_as_float16(graph.graph)
    onnx.checker.check_model(graph)
    return graph.SerializeToString()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights", type=Path, default=STRONG, help="of the strong network"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of all files")
    chosen = parser.parse_args(arguments)
    export(chosen.weights, chosen.out)


if __name__ == "__main__":
    main()
