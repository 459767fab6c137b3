"""Write the course's sprites again, byte for byte.

    python data/make_sprites.py [--out FOLDER]

It writes sprites_16x16.npy (N, 16, 16, 3) uint8, sprite_labels_16x16.npy (N, 5) one-hot
uint8, sprite_factors_16x16.csv (part, class and factors of each row), SHA256SUMS (of
these three, which the helper compares on loading) and contact_sheet.png. Every class
has the same number of pictures; 80 % are `train`, 10 % `test` and 10 % `compositional`.
"""

import argparse
import csv
import hashlib
import io
import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import sprite_factory as factory

PER_CLASS = {"train": 1760, "test": 220, "compositional": 220}
SEED = 2026
SHEET_COLUMNS = 24
SHEET_ROWS = 4  # of each class
SHEET_ZOOM = 3


def draw_class(class_name: str) -> list[tuple[str, factory.Specification]]:
    """The rows of one class: (part, specification), part after part.

    Legal sprites are drawn in random order. Those with a held-out pair of values are
    `compositional`; the others are `train` until it is full, then `test`. Raises
    ValueError if the grammar has too few.
    """
    held_out = factory.held_out_pairs(class_name)
    total = factory.count_specifications(class_name)
    enough = min(total, 10 * sum(PER_CLASS.values()))
    shuffled = factory.sample_specifications(enough, SEED, class_name)
    candidates = [s for s in shuffled if not held_out.hold(s)]
    n_train = PER_CLASS["train"]
    parts = {
        "train": candidates[:n_train],
        "test": candidates[n_train:],
        "compositional": [s for s in shuffled if held_out.hold(s)],
    }
    rows = []
    for part, specifications in parts.items():
        n = PER_CLASS[part]
        if len(specifications) < n:
            raise ValueError(
                f"the grammar of {class_name} gives only {len(specifications)} sprites "
                f"for {part}; expected {n}"
            )
        rows += [(part, specification) for specification in specifications[:n]]
    return rows


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as the content of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def csv_bytes(rows: list[tuple[str, factory.Specification]]) -> bytes:
    """The part, class and factors of each row as the content of a CSV file.

    A factor that a class lacks is an empty cell.
    """
    columns = {"part": None, "class": None}
    for class_name in factory.CLASS_NAMES:
        columns |= dict.fromkeys(factory.factors_of(class_name))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    for part, specification in rows:
        writer.writerow({"part": part, **specification.as_dict()})
    return buffer.getvalue().encode()


def contact_sheet(images: np.ndarray, classes: list[str]) -> bytes:
    """The first 96 sprites of each class, four rows a class, as a PNG."""
    from PIL import Image

    names = np.array(classes)
    chosen = []
    for class_name in factory.CLASS_NAMES:
        of_class = np.flatnonzero(names == class_name)
        chosen += of_class[: SHEET_COLUMNS * SHEET_ROWS].tolist()
    margins = ((0, 0), (1, 1), (1, 1), (0, 0))
    cells = np.pad(images[chosen], margins, constant_values=255)
    height, width = cells.shape[1:3]
    grid = cells.reshape(-1, SHEET_COLUMNS, height, width, 3).swapaxes(1, 2)
    sheet = grid.reshape(-1, SHEET_COLUMNS * width, 3)
    zoomed = sheet.repeat(SHEET_ZOOM, 0).repeat(SHEET_ZOOM, 1)
    buffer = io.BytesIO()
    picture = Image.fromarray(zoomed).quantize(256)
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def one_hot(classes: list[str]) -> np.ndarray:
    """The labels of the rows: (N, 5) uint8, one-hot in the order of CLASS_NAMES."""
    labels = np.zeros((len(classes), len(factory.CLASS_NAMES)), np.uint8)
    for label, class_name in zip(labels, classes):
        label[factory.CLASS_NAMES.index(class_name)] = 1
    return labels


def sums(contents: dict[str, bytes]) -> bytes:
    """The content of a file for `sha256sum -c`: a line for each file."""
    lines = []
    for name, content in contents.items():
        digest = hashlib.sha256(content).hexdigest()
        lines.append(f"{digest}  {name}\n")
    return "".join(lines).encode()


def main(out: Path) -> None:
    """Draw all sprites, write the five files to the folder `out`, print the counts."""
    rows = []
    for class_name in factory.CLASS_NAMES:
        rows += draw_class(class_name)
    order = np.random.default_rng(SEED).permutation(len(rows))
    rows = [rows[i] for i in order]
    images = factory.render_many([specification for _, specification in rows])
    distinct = np.unique(images.reshape(len(images), -1), axis=0)
    if len(distinct) < len(images):
        raise ValueError(
            "two specifications gave the same picture; the grammar must tell them apart"
        )
    classes = [specification.class_name for _, specification in rows]
    out.mkdir(parents=True, exist_ok=True)
    contents = {
        "sprites_16x16.npy": npy_bytes(images),
        "sprite_labels_16x16.npy": npy_bytes(one_hot(classes)),
        "sprite_factors_16x16.csv": csv_bytes(rows),
    }
    for name, content in contents.items():
        write_whole(out / name, content)
    write_whole(out / "SHA256SUMS", sums(contents))
    write_whole(out / "contact_sheet.png", contact_sheet(images, classes))
    counts = Counter((specification.class_name, part) for part, specification in rows)
    for (class_name, part), count in sorted(counts.items()):
        print(f"{class_name:12} {part:14} {count:5}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent,
        help="folder to write to (default: data/)",
    )
    main(parser.parse_args().out)
