"""New sprites in the style of yours: `python weights/own_sprites.py FOLDER_OR_SHEET`.

It reads a sheet or a folder of sprites, trains the course's strong network on them
for ten minutes (`--minutes`), and draws. Training starts from the course's weights
where they help, otherwise anew. The folder `--out` then holds
- understood.png: what was read, written before the training;
- progress.png and weights.pth: samples and weights, written again as training goes on;
- sheet.png: the best 64 sprites, with alpha, and each of them in sprites/;
- sheet_indexed.png: the same with a palette, and palette.gpl: its colours, for GIMP;
- sheet.json: where each sprite is in sheet.png, as TexturePacker or Aseprite writes it;
- copies.png: what was drawn, and left out because it repeats one of yours;
- report.json: what was read, the losses, and the scores of each sprite.
The same command, given again, continues the training; Ctrl-C ends it early and draws.
`--tile`, `--margin`, `--spacing` and `--background` say how a sheet is cut. So does an
atlas, a JSON file: one beside the sheet with its name (mine.png, mine.json), or the one
that `--atlas` gives. `--palette` limits the colours to those of a file.

The functions are in the folder own. This file holds the command, and writes its folder.
"""

import argparse
import math
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from PIL import ImageColor
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for the folder own
from own.atlas import as_atlas, read_atlas, sprite_name
from own.choosing import (
    BEST,
    NOISE,
    Choice,
    choose,
    still_noise,
    strangeness,  # noqa: F401  (for lesson 16)
    without_specks,
)
from own.collection import Collection, described, fingerprint, understand
from own.colours import find_palette  # noqa: F401  (for lesson 16)
from own.drawing import DRAWING_STEPS, best_doubt, draw
from own.network import SCHEDULE, new_network
from own.palettes import gimp_palette, read_palette
from own.relatives import related  # noqa: F401  (for lesson 16)
from own.sheets import (
    as_indexed,
    as_sheet,
    contact_sheet,
    copies_sheet,
    on_checkerboard,
    save_picture,
    save_text,
)
from own.training import Look, first_network, held_out_loss, train
from tables import check_writable, stored, write_json

import diffusion_utilities as du

SHEETS = ("sheet.png", "sheet_indexed.png", "sheet.json", "palette.gpl")
PICTURES = ("understood.png", "progress.png", "copies.png")
WRITTEN = (*SHEETS, *PICTURES, "weights.pth", "sprites")  # all after report.json

# ---- Writing -------------------------------------------------------------------------


def write_sprites(
    out: Path, tiles: np.ndarray, choice: Choice, collection: Collection
) -> None:
    """Write the sheet with what belongs to it, sprites/ and copies.png."""
    best = tiles[choice.order]
    save_picture(copies_sheet(tiles, choice, collection), out / "copies.png")
    for place, tile in enumerate(best):
        save_picture(as_sheet(tile[None], 1), out / "sprites" / sprite_name(place))
    for place in range(len(best), BEST):
        (out / "sprites" / sprite_name(place)).unlink(missing_ok=True)
    sheet = as_sheet(best)
    height, width = best.shape[1:3]
    save_picture(sheet, out / "sheet.png")
    save_picture(as_indexed(sheet, collection.palette), out / "sheet_indexed.png")
    save_text(gimp_palette(collection.palette), out / "palette.gpl")
    write_json(out / "sheet.json", as_atlas(len(best), (width, height)))


# ---- The program ---------------------------------------------------------------------


def size(text: str) -> int | tuple[int, int]:
    """16 or 16x24, for argparse."""
    try:
        numbers = [int(number) for number in text.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text}: expected 16 or 16x24")
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def colour(text: str):
    """auto, none, a name, #rrggbb or r,g,b, for argparse."""
    if text == "auto":
        return text
    if text == "none":
        return None
    try:
        if "," in text:
            return tuple(int(number) for number in text.split(","))
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text}: expected auto, none, a colour such as #476c6c, or 71,108,108"
        ) from None


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="a folder of sprites, or a sheet")
    parser.add_argument("--out", type=Path, default=Path("own_sprites"))
    parser.add_argument("--minutes", type=float, default=10, help="of training")
    parser.add_argument(
        "--tile", type=size, help="16 or 16x24 pixels (default: 16, or as in the atlas)"
    )
    parser.add_argument("--margin", type=int, default=0, help="pixels around a sheet")
    parser.add_argument("--spacing", type=int, default=0, help="pixels between tiles")
    parser.add_argument(
        "--atlas",
        type=Path,
        help="a JSON file from TexturePacker or Aseprite that says where the tiles are "
        "(default: the one beside the sheet, unless an option says how it is cut)",
    )
    parser.add_argument(
        "--palette",
        type=Path,
        help="a .gpl or .hex file: sprites are drawn in its colours only",
    )
    parser.add_argument(
        "--background",
        type=colour,
        default="auto",
        help="a colour that becomes transparent; auto (the default) or none",
    )
    parser.add_argument(
        "--only-transparent",
        action="store_true",
        help="leave out tiles without a transparent pixel, such as floors",
    )
    parser.add_argument("--ask", help="the subfolder whose kind of sprite is drawn")
    parser.add_argument("--samples", type=int, default=256, help="to choose from")
    parser.add_argument(
        "--steps", type=int, default=DRAWING_STEPS, help="in which a sprite is drawn"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: list[str] | None = None) -> None:
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        run(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def run(options: argparse.Namespace) -> None:
    """The whole of it: read, show, train, draw, choose and write."""
    out = options.out
    check(options)
    torch.manual_seed(options.seed)  # for weights that start anew
    collection = read(options)
    print(described(collection))
    report = earlier_report(out, collection)
    network = earlier_network(out, collection, report)
    check_folder(out)
    du.sweep_temporary(out)
    du.sweep_temporary(out / "sprites")
    write_json(out / "report.json", report)  # says whose the other files are
    save_picture(contact_sheet(collection), out / "understood.png")
    print(f"look at {out / 'understood.png'}: is this what you meant?")
    network = trained(network, collection, options, report)
    tiles = drawn(network, collection, options, options.samples, ask=options.ask)
    tiles = without_specks(tiles)
    choice = choose(tiles, collection)
    write_sprites(out, tiles, choice, collection)
    report["samples"] = in_numbers(choice, collection)
    write_json(out / "report.json", report)
    tell(report, out)


def check(options: argparse.Namespace) -> None:
    """Raise ValueError for options that cannot be meant."""
    if not 0 <= options.minutes < math.inf:
        raise ValueError(f"--minutes {options.minutes}; expected a number, 0 or more")
    if options.samples < 1:
        raise ValueError(f"--samples {options.samples}; expected 1 or more")
    if not 1 <= options.steps <= SCHEDULE.T:
        raise ValueError(f"--steps {options.steps}; expected 1 to {SCHEDULE.T}")
    out = options.out.resolve()
    is_inside = options.path.resolve() in (out, *out.parents)
    if options.path.is_dir() and is_inside:
        raise ValueError(
            f"--out {options.out} is inside {options.path}: its pictures would be read "
            "as yours the next time; give another folder"
        )


def check_folder(out: Path) -> None:
    """Make the folder. Raises ValueError if nothing can be written there."""
    try:
        check_writable(out, "report.json")
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written: {error}") from None


def read(options: argparse.Namespace) -> Collection:
    """The collection that the options name. Raises ValueError for another `--ask`."""
    palette = None if options.palette is None else read_palette(options.palette)
    collection = understand(
        options.path,
        options.tile,
        margin=options.margin,
        spacing=options.spacing,
        background=options.background,
        only_transparent=options.only_transparent,
        atlas=options.atlas or atlas_beside(options),
        palette=palette,
    )
    if options.ask is not None and options.ask not in collection.classes:
        names = ", ".join(collection.classes) or "a subfolder, but there is none"
        raise ValueError(
            f"--ask {options.ask}; expected {names}; leave it out for sprites of any "
            "kind"
        )
    return collection


def atlas_beside(options: argparse.Namespace) -> Path | None:
    """The atlas with the name of the sheet, if no option says how the sheet is cut."""
    atlas = options.path.with_suffix(".json")
    is_cut = options.tile or options.margin or options.spacing
    if is_cut or not options.path.is_file() or not atlas.is_file():
        return None
    try:
        read_atlas(atlas)
    except ValueError as error:
        print(f"not used: {error}")
        return None
    print(f"{atlas} says where the tiles are; --tile 16 cuts the sheet without it")
    return atlas


def earlier_report(out: Path, collection: Collection) -> dict:
    """The report of an earlier run in the same folder, or a new one.

    Raises ValueError if that run had other sprites or labels, and for a folder in which
    something else would be overwritten, such as the sheet that is read.
    """
    file = out / "report.json"
    others = [name for name in WRITTEN if (out / name).exists()]
    if others and not file.exists():
        raise ValueError(
            f"{out} holds {others[0]} and no report.json: it is not from this program, "
            "and would be overwritten; give another --out"
        )
    new = new_report(collection)
    report = stored(file, new)
    if report.get("sprites", {}).get("sha256") != new["sprites"]["sha256"]:
        raise ValueError(
            f"{out} was made from other sprites, folders of them or colours; give "
            "another --out, or remove this one"
        )
    return report


def new_report(collection: Collection) -> dict:
    """A report of what was read, before any run."""
    n, height, width = collection.tiles.shape[:3]
    sprites = {
        "sha256": fingerprint(collection),
        "n": n,
        "width": width,
        "height": height,
        "colours": len(collection.palette),
        "families": len(np.unique(collection.family)),
        "held_out": int(collection.held.sum()),
        "folders": collection.classes,
    }
    return {"sprites": sprites, "runs": []}


def earlier_network(out: Path, collection: Collection, report: dict) -> du.SpriteUnet:
    """The network of an earlier run, or the one that a first run starts from."""
    weights = out / "weights.pth"
    if not weights.exists():
        return first_network(collection)
    network = du.load_weights(new_network(collection, None), weights)
    minutes = sum(run["minutes"] for run in report["runs"])
    print(f"going on from {weights}, after {minutes:.1f} minutes")
    return network


def trained(network, collection, options, report: dict) -> nn.Module:
    """The network after `--minutes`, with the lowest held-out loss of its looks.

    At each look it writes progress.png, weights.pth and report.json.
    """
    out = options.out
    before = held_out_loss(network, collection)
    row = {"minutes": 0.0, "steps": 0, "before": before, "looks": []}
    best = deepcopy(network).eval()
    seed = options.seed + len(report["runs"])
    report["runs"].append(row)
    looks = ()
    if options.minutes:
        looks = train(network, collection, options.minutes * 60, seed=seed)
    try:
        for look in looks:
            row["minutes"] = round(look.seconds / 60, 3)
            row["steps"] = look.step
            row["looks"].append([look.step, look.training, look.held_out])
            if look.best and (before is None or not look.held_out > before):
                best = deepcopy(look.network)
                du.save_weights(best, out / "weights.pth", half=False)
            samples = drawn(best, collection, options, 16, trials=8)
            shown = on_checkerboard(samples)
            save_picture(du.show_images(shown, 8, 4), out / "progress.png")
            write_json(out / "report.json", report)
            print(told(look), flush=True)
    except KeyboardInterrupt:
        print("stopped early; drawing with the best weights so far")
    if not (out / "weights.pth").exists():
        du.save_weights(best, out / "weights.pth", half=False)
    return best


def drawn(network, collection, options, n: int, *, trials: int = 16, ask=None):
    """n tiles, with the options' seed and steps, and the doubt that suits the network.

    trials: tiles that are drawn to find that doubt.
    """
    doubt = best_doubt(network, collection, n=trials, steps=options.steps)
    return draw(
        network,
        collection,
        n,
        seed=options.seed,
        ask=ask,
        steps=options.steps,
        doubt=doubt,
    )


def in_numbers(choice: Choice, collection: Collection) -> dict:
    """What became of the drawn tiles, for the report."""
    times = still_noise(choice.strangeness, collection)
    chosen = choice.strangeness[choice.order]
    return {
        "drawn": len(choice.strangeness),
        "copies": len(choice.copies),
        "chosen": len(choice.order),
        "strangeness": [round(float(score), 4) for score in chosen],
        "times_as_strange_as_yours": None if times is None else round(times, 3),
    }


def told(look: Look) -> str:
    held_out = "" if look.held_out is None else f", held out {look.held_out:.4f}"
    return (
        f"{look.seconds / 60:.1f} min, {look.step} steps: loss {look.training:.4f}"
        f"{held_out}"
    )


def tell(report: dict, out: Path) -> None:
    """What the user should know at the end."""
    samples = report["samples"]
    print(
        f"{samples['drawn']} drawn, {samples['copies']} left out as copies; the best "
        f"{samples['chosen']} are in {out / 'sheet.png'}"
    )
    times = samples["times_as_strange_as_yours"]
    if times is not None and times > NOISE:
        print(
            f"your samples are still noise: {times:.1f} times as strange as held-out "
            "sprites of yours; run the same command again to go on training"
        )


if __name__ == "__main__":
    main()
