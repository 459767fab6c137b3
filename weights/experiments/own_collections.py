"""Train on real collections of sprites: `... own_collections.py`.

It fetches the collections in COLLECTIONS from Debian's packages (on Debian or Ubuntu,
with a network; nothing is installed), and does with each what weights/own_sprites.py
does: with the course's network, with random weights, and with a learning rate of 0.
The minutes are those of one core, measured by the processor's clock.

It writes weights/own_collections.json: what was understood, the losses over the
minutes, and what became of SAMPLES drawn sprites. The sprites themselves go to
weights/results/own_collections.npz where the licence allows everything, and else to
the folder `--data`, which is not part of the course. A row that is there already is
kept.
`--blind FOLDER` writes numbered sheets for a reader: drawn sprites among real ones.
"""

import math
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import tables
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from own.choosing import choose, still_noise, without_specks
from own.collection import Collection, fingerprint, understand
from own.drawing import best_doubt, draw
from own.network import SHIPPED, new_network
from own.relatives import related
from own.sheets import on_checkerboard, save_picture
from own.training import RATE, held_out_loss, train

import diffusion_utilities as du  # tables.py makes it importable

VERSION = 1  # raise it when the meaning of this code changes
MINUTES = 10
CONTROL_MINUTES = 0.05  # with a rate of 0 nothing changes, however long it takes
SAMPLES = 256
SHOWN = 128  # tiles of a collection that are stored beside its samples


@dataclass(frozen=True)
class Source:
    """A collection: a Debian package, and the file or folder in it.

    is_free: whether its licence asks for nothing, so that pictures can be stored here.
    options: of `understand`.
    """

    package: str
    path: str
    licence: str
    is_free: bool = False
    options: dict = field(default_factory=dict)


GRAPHICS = "usr/share/angband/xtra/graf"
MINETEST = "usr/share/games/minetest/games/minetest_game/mods/default/textures"
COLLECTIONS = {
    "angband": Source(
        "angband-data",
        f"{GRAPHICS}/16x16.png",
        "Adam Bolt, 1998: any purpose, with or without modification",
        is_free=True,
        options={"only_transparent": True},
    ),
    "slashem": Source(
        "slashem-sdl",
        "usr/share/games/slashem/gltile16.png",
        "NetHack General Public License",
        options={"only_transparent": True},
    ),
    "angband 32x32": Source(
        "angband-data",
        f"{GRAPHICS}/32x32.png",
        "David Gervais, 1999: CC BY 3.0",
        options={"tile": 32, "only_transparent": True},
    ),
    # never looked at before the program was finished
    "minetest": Source(
        "minetest-data",
        MINETEST,
        "the Minetest developers: CC BY-SA 3.0",
    ),
}
KINDS = ("fine-tuned", "scratch", "rate 0")


# ---- Fetching ------------------------------------------------------------------------


def fetch(source: Source, folder: Path) -> Path:
    """The collection's file or folder; its package is fetched where it is missing.

    It is unpacked beside its place and then moved: a folder that is there is whole.
    """
    unpacked = folder / source.package
    if not unpacked.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            subprocess.run(
                ["apt-get", "download", source.package], cwd=temporary, check=True
            )
            [package] = Path(temporary).glob("*.deb")
            whole = Path(temporary) / "unpacked"
            subprocess.run(["dpkg-deb", "-x", package, whole], check=True)
            whole.rename(unpacked)
    return unpacked / source.path


# ---- The rows ------------------------------------------------------------------------


def curve(kind: str, collection: Collection, minutes: float):
    """(the best network of a training, [[seconds, steps, training, held-out loss]]).

    The best has the lowest held-out loss of all looks, as in own_sprites.py.
    """
    torch.manual_seed(0)
    start = None if kind == "scratch" else SHIPPED
    network = new_network(collection, start)
    best = network
    first = held_out_loss(network, collection)
    rows = [[0.0, 0, None, first]]
    rate = 0.0 if kind == "rate 0" else RATE
    looks = train(network, collection, minutes * 60, rate=rate, clock=time.process_time)
    for look in looks:
        rows.append([round(look.seconds, 1), look.step, look.training, look.held_out])
        print(kind, rows[-1], flush=True)
        if look.best:
            best = deepcopy(look.network)
    return best, rows


def outcome(tiles: np.ndarray, collection: Collection) -> dict:
    """What became of drawn tiles (N, H, W, 4)."""
    choice = choose(tiles, collection)
    times = still_noise(choice.strangeness, collection)
    kin = related(collection.held_out, collection.train)
    return {
        "drawn": len(tiles),
        "copies": len(choice.copies),
        "copies_among_held_out": int(kin.any(1).sum()),
        "times_as_strange": None if times is None else round(times, 3),
        "strangeness": tables.mean_and_error(choice.strangeness),
        "best": choice.order.tolist(),
        "copied": choice.copies.tolist(),
        "copied_from": choice.nearest[choice.copies].tolist(),
    }


def row(name: str, kind: str, collection: Collection, options) -> dict:
    """Train, draw, and measure; the drawn tiles are stored, too."""
    minutes = CONTROL_MINUTES if kind == "rate 0" else options.minutes
    network, looks = curve(kind, collection, minutes)
    answer = {"minutes": minutes, "looks": looks}
    if kind != "rate 0":
        doubt = best_doubt(network, collection)
        answer["doubt"] = doubt
        tiles = draw(network, collection, options.samples, doubt=doubt)
        tiles = without_specks(tiles)
        answer |= outcome(tiles, collection)
        store(name, kind, tiles, collection, options)
    return answer


def samples_file(name: str, options) -> Path:
    """The .npz file of a collection's tiles: in the course if its licence is free."""
    if COLLECTIONS[name].is_free:
        return options.out.with_name("results") / f"{options.out.stem}.npz"
    return options.data / f"{name}.npz"


def store(name: str, kind: str, tiles, collection: Collection, options) -> None:
    """Add drawn tiles, and some of the collection's, to an .npz file."""
    path = samples_file(name, options)
    places = np.random.default_rng(0).permutation(len(collection.train))[:SHOWN]
    tables.add_samples(
        path,
        {
            f"{name}, {kind}": tiles,
            f"{name}, real": collection.train[places],
            f"{name}, held out": collection.held_out[:SHOWN],
        },
    )


def understood(collection: Collection, source: Source) -> dict:
    """What was understood of a collection."""
    n, height, width = collection.tiles.shape[:3]
    return {
        **asdict(source),
        "sha256": fingerprint(collection),
        "sprites": n,
        "width": width,
        "height": height,
        "colours": len(collection.palette),
        "families": len(np.unique(collection.family)),
        "held_out": int(collection.held.sum()),
    }


# ---- For a reader --------------------------------------------------------------------


def write_blind_sheets(name: str, kind: str, content: dict, options) -> None:
    """Numbered sheets: the best 32, 32 drawn at random, up to 64 held-out real tiles.

    key.json has the numbers of each.
    """
    arrays = tables.stored_arrays(samples_file(name, options))
    drawn = arrays[f"{name}, {kind}"]
    best = content["rows"][f"{name}, {kind}"]["best"][:32]
    held_out = arrays[f"{name}, held out"]
    count = min(64, len(held_out))
    rng = np.random.default_rng([*f"{name}, {kind}".encode()])  # no two sheets alike
    parts = {
        "best": drawn[best],
        "any": drawn[rng.choice(len(drawn), 32, replace=False)],
        "real": held_out[rng.choice(len(held_out), count, replace=False)],
    }
    every = np.concatenate([*parts.values()])
    kinds = np.repeat([*parts], [len(part) for part in parts.values()])
    order = rng.permutation(len(every))
    folder = options.blind / f"{name}, {kind}"
    for first in range(0, len(order), 32):
        shown = on_checkerboard(every[order[first : first + 32]])
        rows = [f"{n + 1}-{n + 8}" for n in range(first, first + len(shown), 8)]
        sheet = du.show_images(shown, columns=8, zoom=96 // shown.shape[1], rows=rows)
        save_picture(sheet, folder / f"sheet_{first // 32 + 1}.png")
    reference = on_checkerboard(arrays[f"{name}, real"])
    sheet = du.show_images(reference, columns=16, zoom=3)
    save_picture(sheet, folder / "reference.png")
    key = {}
    for part in parts:
        numbers = np.flatnonzero(kinds[order] == part) + 1
        key[part] = numbers.tolist()
    tables.write_json(folder / "key.json", key)


# ---- The program ---------------------------------------------------------------------


def command_line():
    parser = tables.command_line(
        __doc__, du.WEIGHTS / "own_collections.json", workers=False
    )
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="of each row but the controls"
    )
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument(
        "--data",
        type=Path,
        default=du.WEIGHTS / "runs" / "collections",
        help="for the unpacked packages, and for samples that the course may not hold",
    )
    parser.add_argument("--only", choices=COLLECTIONS, help="one collection")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--blind", type=Path, help="write sheets for a reader there")
    return parser


def main() -> None:
    parser = command_line()
    options = tables.parsed(parser, free=("data", "only", "kinds", "blind"))
    if not 0 < options.minutes < math.inf:
        parser.error(f"--minutes {options.minutes}; expected a number above 0")
    torch.set_num_threads(1)
    settings = {
        "version": VERSION,
        "minutes": options.minutes,
        "samples": options.samples,
        "start": tables.sha256(SHIPPED),
    }
    content = tables.so_far(options.out, settings, parser, collections={}, rows={})
    names = [options.only] if options.only else [*COLLECTIONS]
    order = [f"{name}, {kind}" for name in COLLECTIONS for kind in KINDS]
    for name in names:
        source = COLLECTIONS[name]
        path = fetch(source, options.data)
        collection = understand(path, **source.options)
        found = understood(collection, source)
        tables.add_row(content["collections"], name, found, COLLECTIONS)
        for kind in options.kinds:
            key = f"{name}, {kind}"
            if key not in content["rows"]:
                answer = row(name, kind, collection, options)
                tables.add_row(content["rows"], key, answer, order)
                machine = tables.machine(torch.device("cpu"))
                tables.write_json(options.out, content | {"machine": machine})
            if options.blind and kind != "rate 0":
                write_blind_sheets(name, kind, content, options)


if __name__ == "__main__":
    main()
