"""From files to augmented batches: `python -m bench data --data DIR [--part speed|decode|start] [--repeats N]`.

speed: images/s of `mmnet.batches` on one core against the published way, a `torch.utils.data.DataLoader` with Pillow decode and
torchvision v2 transforms per sample. Goals: >= 20x with flips, turns and colour, >= 10x with free scaling and rotation as well.
decode: the first run on all cores against one core's decode speed. Goal: >= 90 % of cores x that.
start: a later run with the 7,909 names of BreakHis. Goal: <= 1 s.

Files of the size of BreakHis' (700x460 px) are mosaics of the tiles in DIR. Everything that is compared is measured in turn.
"""

import argparse
import csv
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from bench.machine import describe_machine
from data.decode import decode
from data.store import load_dataset
from mmnet.batches import Batches
from mmnet.config import Config
from mmnet.device import best_device
from mmnet.torchvision_ops import import_torchvision

SIZE, WIDTH, HEIGHT = 224, 700, 460  # px: of the network's input, of BreakHis' images
TILE = 280  # px of a tile in a mosaic: enlarged, so that a file weighs what BreakHis' do
BATCH = 32  # images, as 8 views of 4 magnifications
SETTINGS: dict[str, dict[str, Any]] = {
    "flips, turns, colour": {"augment.crop": 1.0, "augment.stain": 0.0},
    "+ free scaling and rotation": {"augment.crop": 0.8, "augment.rotation": 15.0, "augment.stain": 0.0},
    "+ stain (the peer: without)": {"augment.crop": 0.8, "augment.rotation": 15.0},
}
Seconds = dict[str, list[float]]


class Files(torch.utils.data.Dataset):
    """The published way: every sample is read, decoded, resized and augmented by itself, at every step."""

    def __init__(self, files: list[Path], free: bool):
        from torchvision.transforms import v2

        self.files, self.resize = files, v2.Resize((SIZE, SIZE))
        cut = [v2.RandomAffine(15, scale=(1, 1.25), interpolation=v2.InterpolationMode.BILINEAR)] if free else []
        turn = v2.RandomChoice([v2.RandomRotation((degrees, degrees)) for degrees in (0, 90, 180, 270)])
        self.transform = v2.Compose(
            [v2.PILToTensor(), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), turn, *cut]
            + [v2.ColorJitter(0.1, 0.1, 0.1), v2.ToDtype(torch.float32, scale=True)]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.transform(self.resize(Image.open(self.files[number]).convert("RGB")))


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def spread(values: np.ndarray | list[float], form: str) -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def mosaics(tiles: list[Path], count: int, folder: Path) -> list[Path]:
    """`count` files of the size of BreakHis' images, put together from six tiles each, under names of BreakHis."""
    rng = np.random.default_rng(0)
    pixels = [np.asarray(Image.open(tile).convert("RGB").resize((TILE, TILE), Image.Resampling.BICUBIC)) for tile in tiles[:200]]
    folder.mkdir(parents=True)
    files = []
    for number in range(count):
        chosen = rng.integers(0, len(pixels), (2, 3))
        whole = np.concatenate([np.concatenate([pixels[tile] for tile in row], 1) for row in chosen])
        files.append(folder / f"SOB_{'M_DC' if number % 2 else 'B_A'}-14-{1001 + number % 20}-200-{number + 1:03d}.png")
        Image.fromarray(whole[:HEIGHT, :WIDTH]).save(files[-1])
    return files


def speed(tiles: list[Path], root: Path, repeats: int, console: Console) -> None:
    """Images/s of the data path of training, ours and the peer's, in turn."""
    import_torchvision()
    files, large = tiles[:128], mosaics(tiles, 64, root / "speed")
    dataset, device = load_dataset(root / "tiles", SIZE), best_device()
    rng = np.random.default_rng(0)
    for name, values in SETTINGS.items():
        batches = Batches(dataset, Config().with_values(values), device)
        generator = torch.Generator().manual_seed(0)

        def ours(batches: Batches = batches, generator: torch.Generator = generator, count: int = 24) -> None:
            for _ in range(count):
                rows = rng.integers(0, len(dataset.table), (BATCH // 4, 4))
                batches.training(rows, np.zeros(BATCH // 4), generator)

        ways: dict[str, tuple[Callable[[], object], int]] = {"ours": (ours, 24 * BATCH)}
        for kind, listed in (("700x460", large), ("224", files)):
            for workers in (0, 2):
                loader = torch.utils.data.DataLoader(
                    Files(listed, free=values["augment.crop"] < 1),
                    batch_size=BATCH,
                    num_workers=workers,
                    persistent_workers=workers > 0,
                    multiprocessing_context="fork" if workers else None,  # a fresh process could not import torchvision by itself
                )
                ways[f"DataLoader, {workers} workers, {kind} px"] = partial(deque, loader, maxlen=0), len(listed)
        taken: Seconds = {way: [] for way in ways}
        for number in range(repeats + 1):
            for way, (work, _) in ways.items():
                value = seconds(work)
                if number:  # the first is a warm-up: workers start, memory is touched
                    taken[way].append(value)
        rates = {way: ways[way][1] / np.array(values) for way, values in taken.items()}
        table = Table(title=f"{name}: batches of {BATCH} on {device.type}, n = {repeats} (median, range)", title_justify="left")
        for column in ("", "images/s", "ours is (paired)"):
            table.add_column(column, justify="right" if column else "left")
        for way, rate in rates.items():
            table.add_row(way, spread(rate, ",.0f"), "" if way == "ours" else spread(rates["ours"] / rate, ".1f") + " x")
        console.print(table)


def decode_all(files: list[Path]) -> None:
    for file in files:
        decode(file.read_bytes(), SIZE)


def first_run(tiles: list[Path], root: Path, repeats: int, console: Console) -> None:
    """A cold cache: images/s of building it, against one core's decoding and against as many bare decoding processes as cores."""
    cores, count = os.cpu_count() or 1, 240
    files = mosaics(tiles, count, root / "first")
    taken: Seconds = {"one core, decode alone": [], "one process a core, decode alone": [], "first run": []}
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(decode_all, [files[:1]] * cores))
        for number in range(repeats):
            os.environ["MMNET_CACHE"] = str(root / f"cache {number}")
            taken["one core, decode alone"].append(seconds(lambda: decode_all(files[: count // 2])))
            taken["one process a core, decode alone"].append(
                seconds(lambda: list(pool.map(decode_all, [files[core::cores] for core in range(cores)])))
            )
            taken["first run"].append(seconds(lambda: load_dataset(root / "first", SIZE)))
    done = dict(zip(taken, (count // 2, count, count), strict=True))
    rates = {way: done[way] / np.array(values) for way, values in taken.items()}
    size = statistics.median(file.stat().st_size for file in files)
    table = Table(title=f"first run: {count} files of {size / 1000:.0f} kB, n = {repeats} (median, range)", title_justify="left")
    for column in ("", "images/s", f"first run / this on {cores} cores (paired)"):
        table.add_column(column, justify="right" if column else "left")
    for way, rate in rates.items():
        share = rates["first run"] / (rate * (cores if way.startswith("one core") else 1))
        table.add_row(way, spread(rate, ".0f"), "" if way == "first run" else spread(share, ".2f"))
    console.print(table)


def later_start(names: Path, root: Path, repeats: int, console: Console) -> None:
    """A warm cache of as many images as BreakHis has, under its own names; what an image shows does not matter."""
    rng = np.random.default_rng(0)
    with names.open() as file:
        listed = [record["file"] for record in csv.DictReader(file)]
    tree = root / "names" / "BreaKHis_v1" / "histology_slides" / "breast"
    for name in listed:
        folder = tree / name.rsplit("-", 2)[0]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / name, compress_level=0)
    os.environ["MMNET_CACHE"] = str(root / "cache of names")
    cold = seconds(lambda: load_dataset(root / "names", SIZE))
    warm = [seconds(lambda: load_dataset(root / "names", SIZE)) for _ in range(repeats)]
    with_pixels = [seconds(lambda: np.asarray(load_dataset(root / "names", SIZE).images).sum()) for _ in range(repeats)]
    table = Table(title=f"later start: {len(listed):,} images, n = {repeats}", title_justify="left")
    for column in ("", "seconds (median, range)"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("cold cache, 32 px files", f"{cold:.1f}")
    table.add_row("warm cache", spread(warm, ".3f"))
    table.add_row("and every pixel read once", spread(with_pixels, ".3f"))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench data")
    parser.add_argument("--data", type=Path, required=True, help="a folder with real tiles under BreakHis names")
    parser.add_argument("--names", type=Path, help="a CSV with a column `file` of all names of BreakHis, for the later start")
    parser.add_argument("--part", choices=("speed", "decode", "start"), help="default: all; start needs --names")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=100)
    console.print(describe_machine())
    tiles = sorted(arguments.data.rglob("*.png"))
    if not tiles:
        parser.error(f"--data {arguments.data}: no .png below it; expected a folder with real tiles")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "tiles").symlink_to(arguments.data.resolve())
        os.environ["MMNET_CACHE"] = str(root / "cache")
        if arguments.part in (None, "decode"):  # first: it forks, and torch has no threads yet
            first_run(tiles, root, arguments.repeats, console)
        if arguments.part in (None, "start") and arguments.names:
            later_start(arguments.names, root, arguments.repeats, console)
        if arguments.part in (None, "speed"):
            speed(tiles, root, arguments.repeats, console)


if __name__ == "__main__":
    main()
