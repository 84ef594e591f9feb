"""Everything that only a GPU can show, in one command of at most 8 minutes: `python -m bench gpu [--out FILE]`.

Needs torch and the project's own `data` and `mmnet`, not Ray. First a smoke test: train, save, restore, go on to the same numbers, predict,
run out of memory and recover. Then fine-tuning of three backbones at 224 px in each precision, as it is and compiled; a frozen trial on maps
and on pooled features. Prints tables and saves the figures as JSON. Without a GPU it runs a tiny version of everything, as a check.
"""

import argparse
import io
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.machine import describe_machine
from bench.step import FOLDS, PATIENTS, noise, timed, trial_on
from data.dataset import Dataset
from mmnet.config import Config
from mmnet.crossval import CrossValidation
from mmnet.predict import predict_out_of_fold

BACKBONES = ("efficientnet_b0", "resnet18", "convnext_tiny")
BUDGET, TRIAL = 8 * 60.0, 27


def trial_of(dataset: Dataset, size: int, values: dict[str, Any]) -> CrossValidation:
    return trial_on(dataset, Config().with_values({"data.magnifications": [200], "data.image_size": size, "model.weights": None} | values))


def smoke() -> dict[str, str]:
    """{step: "ok", or what went wrong}."""
    found: dict[str, str] = {}
    dataset = noise(64, 4, frozen=False)
    values = {"model.backbone": "resnet18", "optim.batch_size": 8, "optim.epochs": 3, "augment.mixup": 0.2}
    for precision in ("float32", "auto"):
        whole = trial_of(dataset, 64, values | {"optim.precision": precision})
        first = next(whole)
        saved = io.BytesIO()
        torch.save(whole.state_dict(), saved)
        saved.seek(0)
        again = trial_of(dataset, 64, values | {"optim.precision": precision})
        again.load_state_dict(torch.load(saved, map_location="cpu", weights_only=True))
        one, other = next(whole), next(again)
        apart = float(np.abs(one.probability - other.probability).max())
        found[f"{precision}: restored goes on"] = "ok" if apart < 1e-4 and first.epoch == 1 else f"probabilities {apart:.1e} apart"
        oof = again.out_of_fold
        told = predict_out_of_fold(again.networks, again.batches, oof.rows, oof.fold)
        found[f"{precision}: predicts"] = "ok" if np.abs(told - other.probability).max() < 1e-2 else "other probabilities"
    if torch.cuda.is_available():
        try:
            held = [torch.empty(int(0.97 * torch.cuda.mem_get_info()[0]), dtype=torch.uint8, device="cuda")]
            small = trial_of(noise(224, 16, frozen=False), 224, {"model.backbone": "resnet18", "optim.batch_size": 256, "optim.epochs": 1})
            report = next(small)
            found["out of memory"] = f"ok, {report.micro_batch} views at once"
            del held, small
        except Exception as error:  # whatever it is, it is to be seen here
            found["out of memory"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        torch.cuda.empty_cache()
    return found


def fine_tuning(backbone: str, precision: str, compiled: bool, images: int, size: int, repeats: int) -> dict[str, Any]:
    """Images a second of one fold's training."""
    values = {"model.backbone": backbone, "optim.batch_size": 64, "optim.compile": compiled, "optim.precision": precision}
    trial = trial_of(noise(size, images, frozen=False), size, values)
    if trial.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = timed(lambda: trial._train(0, 0), trial.device)
    seconds = statistics.median(timed(lambda: trial._train(0, 0), trial.device) for _ in range(repeats))
    shown = round(PATIENTS * images * (FOLDS - 1) / FOLDS)
    peak = torch.cuda.max_memory_allocated() / 2**20 if trial.device.type == "cuda" else 0.0
    return {"images_per_second": shown / seconds, "first_epoch": first, "peak_mib": peak}


def frozen_trial(images: int, epochs: int, pooled: bool) -> float:
    """Seconds of an epoch of five folds."""
    trial = trial_of(noise(32, images, frozen=True, side=1 if pooled else 7), 224, {"model.frozen": True, "model.pooled": pooled})
    next(trial)  # warms up
    return statistics.median(timed(lambda: next(trial), trial.device) for _ in range(epochs))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench gpu")
    parser.add_argument("--out", type=Path, help="where to save the figures as JSON")
    arguments = parser.parse_args()
    begun, gpu = time.perf_counter(), torch.cuda.is_available()
    images, size, repeats, backbones = (160, 224, 3, BACKBONES) if gpu else (4, 64, 1, BACKBONES[1:2])
    console = Console(width=140)
    console.print(describe_machine())
    found: dict[str, Any] = {"machine": describe_machine(), "smoke": smoke(), "fine_tuning": {}, "frozen": {}}
    for name, said in found["smoke"].items():
        console.print(f"{name}: {said}", soft_wrap=True)
    table = Table(title=f"one fold, {size} px, batch 64, n = {repeats}", title_justify="left")
    for column in ("backbone", "precision", "compiled", "images/s", "first epoch, s", "peak MiB"):
        table.add_column(column, justify="left" if column == "backbone" else "right")
    for backbone in backbones:
        for precision, compiled in (
            (("float32", False), ("float16", False), ("bfloat16", False), ("bfloat16", True)) if gpu else (("float32", False),)
        ):
            if time.perf_counter() - begun > 0.7 * BUDGET:
                console.print(f"no time left for {backbone}, {precision}, compiled {compiled}")
                continue
            try:
                row = fine_tuning(backbone, precision, compiled, images, size, repeats)
            except Exception as error:  # without a compiler on this machine, say
                console.print(f"{backbone}, {precision}, compiled {compiled}: {str(error).splitlines()[0]}", soft_wrap=True)
                continue
            found["fine_tuning"][f"{backbone}, {precision}{', compiled' if compiled else ''}"] = row
            cells = (f"{row['images_per_second']:.0f}", f"{row['first_epoch']:.1f}", f"{row['peak_mib']:.0f}")
            table.add_row(backbone, precision, "yes" if compiled else "no", *cells)
    console.print(table)
    for name, pooled in (("maps", False), ("pooled", True)):
        seconds = found["frozen"][name] = frozen_trial(images, 5 if gpu else 1, pooled)
        console.print(
            f"frozen {name}, {PATIENTS * images} images, {FOLDS} folds: {seconds:.3f} s an epoch, {TRIAL * seconds:.0f} s a trial of {TRIAL}"
        )
    console.print(f"all of it: {time.perf_counter() - begun:.0f} s")
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
