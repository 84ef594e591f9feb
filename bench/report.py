"""What a report costs: `python -m bench report [--trials 1000]`.

A study of that many made-up trials (full space, rungs 1, 3, 9 of 27 epochs, 66 patients with 9 views each): seconds for the statistics
and for the page, its size, and how long a headless Chromium takes to open it and to draw every figure.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna

from analysis.report import write_page
from analysis.trust import write_trust
from bench.machine import describe_machine
from mmnet.config import Config
from mmnet.metrics import evaluate
from search_spaces import get_space
from study.folder import FORMAT
from study.records import write_json
from tests.analysis.browser import CHROMIUM, ask

PATIENTS, VIEWS, FOLDS = 66, 9, 5
BASE = Config().with_values({"model.frozen": True, "optim.epochs": 27})
LENGTHS, SHARES = (1, 3, 9, 18, 27), (0.6, 0.22, 0.1, 0.05, 0.03)
OPENINGS = 5


def made_up_study(study: Path, trials: int, seed: int = 0) -> Path:
    """A study whose networks are noise around one truth: better ones with less noise."""
    rng = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(PATIENTS), VIEWS)
    names = np.array([f"SOB_{'BM'[n % 3 > 0]}_X_14-{1000 + n}" for n in range(PATIENTS)])
    label, truth = (numbers % 3 > 0).astype(np.int64), rng.normal(size=PATIENTS)[numbers]
    rows = np.arange(PATIENTS * VIEWS * 4).reshape(-1, 4)
    columns = {
        "label": label,
        "slide": names[numbers],
        "patient": (1000 + numbers).astype(str),
        "subtype": np.full(len(numbers), "X"),
        "fold": numbers % FOLDS,
        "rows": rows,
    }
    study.mkdir(parents=True)
    folds = [[name for number, name in enumerate(names.tolist()) if number % FOLDS == fold] for fold in range(FOLDS)]
    about = {
        "format": FORMAT,
        "verb": "tune",
        "name": study.name,
        "created": "2026-01-01T00:00:00+0000",
        "config": BASE.to_dict(),
        "data": {"path": "nowhere", "fingerprint": "made up", "synthetic": True},
        "splits": {"folds": folds, "test": [], "grouping": "patient", "source": "generated"},
        "patient_leaks": {},
        "rungs": [1, 3, 9],
        "settings": {"trials": trials, "space": "full", "eta": 3},
        "versions": {},
        "mechanisms": [],
    }
    write_json(study / "study.json", about)
    space, drawn = get_space("full", BASE), optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for number in range(trials):
        params = space.sample(drawn.ask(), BASE)
        _write_trial(study / "trials" / f"{number:04d}", number, params, columns, truth, rng)
    return study


def _write_trial(folder: Path, number: int, params: dict, columns: dict, truth: np.ndarray, rng: np.random.Generator) -> None:
    label, patient, fold = columns["label"], columns["patient"], columns["fold"]
    failed = number % 50 == 49
    epochs = int(rng.choice(LENGTHS, p=SHARES))
    write_json(folder / "config.json", {"number": number, "params": params, "config": BASE.with_values(params).to_dict()})
    status = "failed" if failed else "stopped" if epochs < 18 else "done"
    reason = f"ValueError: loss is nan in step {number}" if failed else "below the best 1/3"
    write_json(folder / "status.json", {"status": status, "reason": reason, "peak_mib": 700.0})
    if failed:
        return
    skill, lines, oof, best = rng.uniform(0.4, 1.2), [], [], (np.inf, 0)
    for epoch in range(1, epochs + 1):
        logit = skill * (2 * label - 1) + truth + rng.normal(size=len(label)) / np.sqrt(epoch)
        oof.append((1 / (1 + np.exp(-logit))).astype(np.float32))
        metrics = evaluate(oof[-1], label, patient)
        best = min(best, (metrics["log_loss"], epoch))
        each = [evaluate(oof[-1][fold == k], label[fold == k], patient[fold == k]) for k in range(FOLDS)]
        known = {"epoch": epoch, "metrics": metrics, "fold_metrics": each, "train_loss": [0.5 / epoch] * FOLDS, "lr": 1e-3, "seconds": 1.0}
        lines.append(known | {"score": best[0], "best_epoch": best[1], "fold_epochs": epoch * FOLDS, "finished": epoch == epochs})
    (folder / "epochs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.savez_compressed(folder / "predictions.npz", oof=np.stack([1 - np.stack(oof), np.stack(oof)], -1), best_epoch=best[1], **columns)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    arguments = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        study = made_up_study(Path(folder) / "made-up", arguments.trials)
        began = time.perf_counter()
        trust = write_trust(study)
        judged = time.perf_counter()
        page = write_page(study, trust)
        print(
            f"{arguments.trials} trials: statistics {judged - began:.1f} s, page {time.perf_counter() - judged:.1f} s, "
            f"{page.stat().st_size / 1e6:.2f} MB, model card {(study / 'MODEL_CARD.md').stat().st_size / 1e3:.0f} kB"
        )
        if CHROMIUM is None:
            print("no Chromium here: not opened")
            return
        entries = "[performance.getEntriesByType('paint')[0], ...performance.getEntriesByName('figure')]"
        for number in range(OPENINGS):
            place = Path(folder) / f"opening{number}"
            place.mkdir()
            found = ask(page, f"return {entries}.map(entry => entry.startTime)", place)
            paint, first, *_, last = found["answer"]
            print(f"opened: answer {paint:.0f} ms, first figure {first:.0f} ms, all figures {last:.0f} ms, problems {found['problems']}")


if __name__ == "__main__":
    main()
