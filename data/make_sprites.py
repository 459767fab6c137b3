"""Write the course's sprites again, byte for byte: `python data/make_sprites.py [--out FOLDER]`.

Writes sprites_16x16.npy (N, 16, 16, 3) uint8, sprite_labels_16x16.npy (N, 5) one-hot uint8, sprite_factors_16x16.csv (part, class and
factors of each row) and contact_sheet.png. Every class gives as many pictures; 80 % are `train`, 10 % `test`, 10 % `compositional`.
"""

import argparse
import csv
import io
import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import sprite_factory as factory

PER_CLASS = {"train": 1760, "test": 220, "compositional": 220}
SEED = 2026


def draw_class(class_name: str) -> list[tuple[str, factory.Specification]]:
    """(part, specification) for one class: legal sprites in random order, sorted into parts by whether they have a held-out pair."""
    held_out = factory.held_out_pairs(class_name)
    enough = min(factory.count_specifications(class_name), 10 * sum(PER_CLASS.values()))
    shuffled = factory.sample_specifications(enough, SEED, class_name)
    seen = [s for s in shuffled if not held_out.hold(s)]
    unseen = [s for s in shuffled if held_out.hold(s)]
    n_train, n_test = PER_CLASS["train"], PER_CLASS["test"]
    parts = {
        "train": seen[:n_train],
        "test": seen[n_train : n_train + n_test],
        "compositional": unseen[: PER_CLASS["compositional"]],
    }
    for part, specifications in parts.items():
        if len(specifications) < PER_CLASS[part]:
            raise ValueError(
                f"the grammar of {class_name} gives only {len(specifications)} sprites for {part}; expected {PER_CLASS[part]}"
            )
    return [(part, s) for part, specifications in parts.items() for s in specifications]


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
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def csv_bytes(rows: list[tuple[str, factory.Specification]]) -> bytes:
    columns = ["part", "class"]
    columns += dict.fromkeys(
        name
        for class_name in factory.CLASS_NAMES
        for name in factory.factors_of(class_name)
    )
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({"part": part, **s.as_dict()} for part, s in rows)
    return buffer.getvalue().encode()


def contact_sheet(
    images: np.ndarray,
    classes: list[str],
    columns: int = 24,
    rows_each: int = 4,
    zoom: int = 3,
) -> bytes:
    """A PNG: the first `columns * rows_each` sprites of each class, class after class, at a whole-number zoom."""
    from PIL import Image

    cells = []
    for class_name in factory.CLASS_NAMES:
        chosen = [i for i, name in enumerate(classes) if name == class_name][
            : columns * rows_each
        ]
        cells.append(
            np.pad(
                images[chosen], ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255
            )
        )
    grid = (
        np.concatenate(cells)
        .reshape(-1, columns, 18, 18, 3)
        .swapaxes(1, 2)
        .reshape(-1, columns * 18, 3)
    )
    buffer = io.BytesIO()
    Image.fromarray(grid.repeat(zoom, 0).repeat(zoom, 1)).quantize(256).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


def main(out: Path) -> None:
    rows = [row for class_name in factory.CLASS_NAMES for row in draw_class(class_name)]
    order = np.random.default_rng(SEED).permutation(len(rows))
    rows = [rows[i] for i in order]
    images = factory.render_many([s for _, s in rows])
    if len(np.unique(images.reshape(len(images), -1), axis=0)) < len(images):
        raise ValueError(
            "two specifications gave the same picture; the grammar must tell them apart"
        )
    classes = [s.class_name for _, s in rows]
    labels = np.array(
        [
            [name == class_name for class_name in factory.CLASS_NAMES]
            for name in classes
        ],
        dtype=np.uint8,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "sprites_16x16.npy", npy_bytes(images))
    write_whole(out / "sprite_labels_16x16.npy", npy_bytes(labels))
    write_whole(out / "sprite_factors_16x16.csv", csv_bytes(rows))
    write_whole(out / "contact_sheet.png", contact_sheet(images, classes))
    for (class_name, part), count in sorted(
        Counter((s.class_name, part) for part, s in rows).items()
    ):
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
