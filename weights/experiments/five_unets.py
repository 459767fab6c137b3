"""Lesson 7's five U-Nets and their variants, each trained for the same seconds: `python weights/five_unets.py` (95 minutes of one core).

The networks and the training loop stand in the lesson, in cells tagged "definitions": this program reads them there, so that what it measures is what
the lesson shows. It writes weights/five_unets.json (a row a run, three seeds each), the first seed's weights of the digits
under weights/five_unets/ (half precision), the two classifiers whose features FD compares, and a few samples of every run of that seed,
weights/results/five_unets.npz. Seconds are those of one core (`time.process_time`), so runs may lie side by side: `--workers`. A row that is there
already is kept.
"""

import argparse
import ast
import hashlib
import json
import os
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from rows import add_samples, side_by_side, so_far  # noqa: E402
from train import write_json  # noqa: E402

import diffusion_utilities as du  # noqa: E402  (found beside this folder)

NOTEBOOK = HERE.parent / "notebooks" / "07_five_unets.ipynb"
SHIPPED = (
    "time as a channel",
    "no time",
    "time at each level",
    "residual",
    "ContextUnet",
)  # whose weights the lesson loads
SECONDS, SEEDS, SAMPLES, SHOWN, CLASSIFIER_SECONDS = 100, (1, 2, 3), 500, 10, 60


def lesson() -> types.SimpleNamespace:
    """The names that the lesson's cells tagged "definitions" define, from the helper's on. Raises ValueError where there is none."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf8"))["cells"]
    sources = [
        "".join(cell["source"])
        for cell in cells
        if "definitions" in cell["metadata"].get("tags", ())
    ]
    if not sources:
        raise ValueError(
            f"{NOTEBOOK.name} has no cell tagged 'definitions'; expected the cells that define the networks"
        )
    names = {"__name__": "lesson_7"} | {name: getattr(du, name) for name in du.__all__}
    for source in sources:
        exec(compile(source, NOTEBOOK.name, "exec"), names)
    return types.SimpleNamespace(**names, definitions=digest(sources))


def digest(sources: list[str]) -> str:
    """SHA-256 of what the cells do, in whatever order they stand: comments, docstrings and line breaks do not count."""
    statements = [
        statement for source in sources for statement in ast.parse(source).body
    ]
    for node in (
        node
        for statement in statements
        for node in ast.walk(statement)
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
    ):
        if ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(
        "\n".join(sorted(map(ast.unparse, statements))).encode()
    ).hexdigest()


def file_of(data: str, name: str) -> str:
    """The file of a run's weights: mnist_time_as_a_channel.pth."""
    return f"{data}_{name.replace(',', '').replace(' ', '_')}.pth"


def runs(names: types.SimpleNamespace) -> list[tuple[str, str, int]]:
    """(data set, design, seed) of each row: the designs on digits, their variants, and the designs on garments."""
    garments = [name for name in names.DESIGNS if "cosine" not in name]
    plans = [
        ("mnist", [*names.DESIGNS], SEEDS),
        ("mnist", [*names.VARIANTS], SEEDS),
        ("fashion_mnist", garments, SEEDS),
    ]
    return [
        (data, name, seed)
        for data, designs, seeds in plans
        for seed in seeds
        for name in designs
    ]


def shifted(x: torch.Tensor, generator: torch.Generator, far: int = 2) -> torch.Tensor:
    """The batch moved by up to `far` pixels in each direction; what comes in is the ground."""
    across, down = torch.randint(-far, far + 1, (2,), generator=generator).tolist()
    return torch.nn.functional.pad(
        x, (far + across, far - across, far + down, far - down), value=-1
    )[:, :, far:-far, far:-far]


def train_classifier(
    names: types.SimpleNamespace, data: str, seconds: float, folder: Path
) -> float:
    """Trains it on the training part, writes its weights, returns the share of held-out pictures that it names."""
    torch.manual_seed(0)
    generator, network = torch.Generator().manual_seed(0), names.classifier()
    pictures, labels = du.load_digits(data)
    (x, held_out), (y, right) = names.split(pictures * 2 - 1), names.split(labels)
    optimiser, start = torch.optim.Adam(network.parameters(), 2e-3), time.process_time()
    while (share := (time.process_time() - start) / seconds) < 1:
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - share)
        rows = torch.randint(len(x), (64,), generator=generator)
        loss = torch.nn.functional.cross_entropy(
            network(shifted(x[rows], generator)), y[rows]
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    du.save_weights(network, folder / file_of(data, "classifier"))
    network = du.load_weights(
        names.classifier(), folder / file_of(data, "classifier")
    )  # in half precision, as it ships
    with torch.no_grad():
        return round(float((network(held_out).argmax(1) == right).float().mean()), 4)


def row(
    run: tuple[str, str, int], seconds: float, samples: int, folder: Path
) -> tuple[dict, np.ndarray]:
    """Trains one network and measures it: (its row, the first samples as uint8). Runs in a process of its own, on one core."""
    data, name, seed = run
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    names = lesson()
    build, schedule = (names.DESIGNS | names.VARIANTS)[name]
    training, held_out = names.split(du.load_digits(data)[0] * 2 - 1)
    network, started = (
        build(1).to(memory_format=torch.channels_last),
        time.perf_counter(),
    )
    model, losses = names.train_for(
        seconds, network, schedule, training, seed, clock=time.process_time
    )
    wall = time.perf_counter() - started
    if seed == SEEDS[0] and data == "mnist" and name in SHIPPED:
        du.save_weights(model, folder / file_of(data, name))
        model = du.load_weights(
            build(1), folder / file_of(data, name)
        )  # in half precision, as it ships
    judge = du.load_weights(names.classifier(), folder / file_of(data, "classifier"))
    pictures = torch.cat(
        [
            names.draw(model, schedule, min(100, samples - i), seed=4 + i)
            for i in range(0, samples, 100)
        ]
    )
    error = {key: du.denoising_losses(model, held_out, schedule, steps=steps(schedule)).mean(1) for key, steps in
             (("throughout", names.steps_throughout), ("levels", names.steps_at_levels))}  # fmt: skip
    return {
        "data": data, "design": name, "seed": seed, "seconds": seconds, "wall_seconds": round(wall), "steps": len(losses),
        "pictures_a_second": round(len(losses) * 16 / seconds), "loss": round(float(error["throughout"].mean()), 4),
        "loss_at_levels": [round(float(value), 4) for value in error["levels"]],
        "FD": round(du.frechet_distance(names.features(judge, pictures), names.features(judge, training)), 3),
    }, du.to_pictures(pictures[:SHOWN])[..., 0]  # fmt: skip


def floor(names: types.SimpleNamespace, data: str, samples: int, folder: Path) -> dict:
    """The FD of as many held-out real pictures, twice: what a perfect network would have."""
    judge = du.load_weights(names.classifier(), folder / file_of(data, "classifier"))
    training, held_out = names.split(du.load_digits(data)[0] * 2 - 1)
    parts = [
        held_out[i * samples : (i + 1) * samples]
        for i in range(len(held_out) // samples)
    ]
    return {
        "FD": [
            round(
                du.frechet_distance(
                    names.features(judge, part), names.features(judge, training)
                ),
                3,
            )
            for part in parts
        ]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE,
        help="folder of five_unets.json, five_unets/ and results/",
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of one core, for each network"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=SAMPLES,
        help="pictures that FD compares, at most 1,000",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="runs side by side, each on one core",
    )
    options = parser.parse_args()
    if options.out.resolve() == HERE and (options.seconds, options.samples) != (
        SECONDS,
        SAMPLES,
    ):
        parser.error(
            "these settings would overwrite the shipped results; add --out FOLDER"
        )
    if not SHOWN <= options.samples <= 1000:
        parser.error(
            f"--samples {options.samples}; expected {SHOWN} to 1,000, the number of held-out pictures that make the floor"
        )
    names, path, folder = (
        lesson(),
        options.out / "five_unets.json",
        options.out / "five_unets",
    )
    settings = {
        "seconds": options.seconds,
        "samples": options.samples,
        "threads": 1,
        "definitions": names.definitions,
    }
    content = so_far(path, settings, parser, real={}, runs=[])
    torch.set_num_threads(1)
    for data in ("mnist", "fashion_mnist"):
        if data not in content["real"]:
            right = train_classifier(
                names, data, min(CLASSIFIER_SECONDS, options.seconds), folder
            )
            content["real"][data] = {"classifier_right": right} | floor(
                names, data, options.samples, folder
            )
            write_json(path, content)
    finish(content, runs(names), path, folder, options)


def finish(
    content: dict, planned: list, path: Path, folder: Path, options: argparse.Namespace
) -> None:
    """Makes the rows that are missing, and writes each as it gets done."""
    done = {
        (known["data"], known["design"], known["seed"]) for known in content["runs"]
    }
    missing = {
        run: (run, options.seconds, options.samples, folder)
        for run in planned
        if run not in done
    }
    for (data, name, seed), (answer, pictures) in side_by_side(
        row, missing, options.workers
    ):
        content["runs"] = sorted(
            [*content["runs"], answer],
            key=lambda a: planned.index((a["data"], a["design"], a["seed"])),
        )
        if seed == SEEDS[0]:
            add_samples(
                path.parent / "results" / "five_unets.npz",
                {f"{data}: {name}": pictures},
            )
        write_json(path, content)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
