"""What is recommended, and what it is worth on unseen patients: `python -m bench outer_rules FOLDER [--configurations 30] [--draws 50]`.

From a table of `bench outer`: of `--configurations` drawn at random, all trained to the end, each rule recommends one or a mean of
several by what they say of themselves out of fold, in each outer part by itself; the part is predicted by what was recommended. Tables:
baselines; metric that is followed x how many are averaged; best epoch or last; other recommendations; recalibrated or not.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.outer_table import FOLLOWED, Judge, OuterTable, Part, class_weights, load, log_odds, losses, recalibration, stacked

# (part, rows that were trained, generator) -> (U,) probabilities
Rule = Callable[[Part, np.ndarray, np.random.Generator], np.ndarray]
MEANS = (1, 3, 5, 10, 20)
GREEDY_ROUNDS = 25


def base(part: Part, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return part.unseen[0, part.scores["log_loss"][0].argmin()]


def random_mean(count: int) -> Rule:
    """Each at its own best epoch."""

    def rule(part: Part, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        chosen = rng.choice(rows[1:], min(count, len(rows) - 1), replace=False)
        return part.unseen[chosen, part.scores["log_loss"][chosen].argmin(1)].mean(0)

    return rule


def places(part: Part, rows: np.ndarray, metric: str, epoch: str) -> tuple[np.ndarray, np.ndarray]:
    """(rows, epochs) best first: each at its best epoch, at the last one, or at the best of the curve's running mean of three."""
    scores = part.scores[metric][rows]
    if epoch == "last":
        epochs = np.full(len(rows), scores.shape[1] - 1)
    elif epoch == "smooth":
        around = np.pad(scores, ((0, 0), (1, 1)), mode="edge")
        epochs = (around[:, :-2] + around[:, 1:-1] + around[:, 2:]).argmin(1)
    else:
        epochs = scores.argmin(1)
    order = scores[np.arange(len(rows)), epochs].argsort(kind="stable")
    return rows[order], epochs[order]


def mean_of_best(metric: str, count: int, epoch: str = "best", recalibrated: bool = False) -> Rule:
    def rule(part: Part, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        chosen, epochs = (found[:count] for found in places(part, rows, metric, epoch))
        said = part.unseen[chosen, epochs].mean(0)
        if not recalibrated:
            return said
        slope, bias = recalibration(log_odds(part.oof[chosen, epochs].mean(0)), part.label)
        return 1 / (1 + np.exp(-(slope * log_odds(said) + bias)))

    return rule


def simplest(metric: str) -> Rule:
    """The least wide, with the fewest mechanisms, of those within one standard error (over patients, paired) of the best by log loss."""

    def rule(part: Part, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        chosen, epochs = places(part, rows, metric, "best")
        oof = part.oof[chosen, epochs]
        each = losses(oof, part.label) * class_weights(part.label)
        _, member = np.unique(part.patient, return_inverse=True)
        apart = (each - each[0]) @ np.eye(member.max() + 1)[member]  # (C, patients)
        error = apart.std(1, ddof=1) * apart.shape[1] ** 0.5
        tied = np.flatnonzero(apart.sum(1) <= error)
        simple = min(tied.tolist(), key=lambda place: (simplicity(part.configs[chosen[place]]), place))
        return part.unseen[chosen[simple], epochs[simple]]

    return rule


def simplicity(config: dict) -> tuple[int, int]:
    names = ("model.channel_attention", "model.importance", "model.cross_attention", "model.concatenation")
    on = sum(bool(config.get(name)) for name in names) + (config.get("model.pool", "mean") != "mean")
    return on + (config.get("model.hierarchy", "none") != "none"), int(config.get("model.width", 128))


def greedy(metric: str) -> Rule:
    """Selection with replacement of what makes the mean's log loss lowest. Caruana et al., ICML 2004."""

    def rule(part: Part, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        chosen, epochs = places(part, rows, metric, "best")
        oof, weight = part.oof[chosen, epochs].astype(np.float64), class_weights(part.label)
        total, taken = np.zeros(oof.shape[1]), []
        for count in range(1, GREEDY_ROUNDS + 1):
            best = int((losses((total + oof) / count, part.label) @ weight).argmin())
            taken.append(best)
            total += oof[best]
        return part.unseen[chosen[taken], epochs[taken]].mean(0)

    return rule


def stacking(metric: str, count: int = 20) -> Rule:
    """Weights of the best few, not negative, of lowest log loss of their mean: expectation maximisation of a mixture."""

    def rule(part: Part, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        chosen, epochs = (found[:count] for found in places(part, rows, metric, "best"))
        true = np.exp(-losses(part.oof[chosen, epochs].astype(np.float64), part.label))  # (C, V)
        weight, share = class_weights(part.label), np.full(len(chosen), 1 / len(chosen))
        for _ in range(100):
            share = ((share[:, None] * true) / (share @ true)) @ weight
        return share @ part.unseen[chosen, epochs]

    return rule


def regression(name: str) -> Rule:
    return lambda part, rows, rng: part.regressions[name][1]


def mean_regression(penalty: str) -> Rule:
    return lambda part, rows, rng: np.mean([said for name, (_, said) in part.regressions.items() if name.endswith(penalty)], axis=0)


def predictions(table: OuterTable, rule: Rule, configurations: int, draws: int) -> np.ndarray:
    """(R, P, V). The same draws for every rule; the base, row 0, is in every search, as the product tries it first."""

    def once(seed: int) -> list[np.ndarray]:
        found = []
        for partition in table.partitions:
            said = []
            for number, part in enumerate(table.of(partition)):
                rng = np.random.default_rng([seed, partition, number])
                others = 1 + rng.permutation(len(table.configs) - 1)[: configurations - 1]
                said.append(rule(part, np.concatenate([[0], others]), rng))
            found.append(np.concatenate(said))
        return found

    return stacked(once(seed) for seed in range(draws))


def rules(table: OuterTable) -> dict[str, dict[str, Rule]]:
    part = next(iter(table.parts.values()))
    baselines: dict[str, Rule] = {"base": base} | {f"mean of {count} random": random_mean(count) for count in (1, 3, 10, 20)}
    baselines |= {f"regression, {name}": regression(name) for name in part.regressions if name.endswith((" 0.0001", " 0.001"))}
    if len({name.split()[0] for name in part.regressions}) > 1:
        baselines |= {f"regression, mean of all, {penalty}": mean_regression(f" {penalty}") for penalty in ("0.0001", "0.001")}
    return {
        "baselines": baselines,
        "metric that is followed": {f"{metric}, mean of {n}": mean_of_best(metric, n) for metric in FOLLOWED for n in (1, 3, 10)},
        "how many": {f"{metric}, mean of {n}": mean_of_best(metric, n) for metric in ("log_loss", "auc", "refinement") for n in MEANS},
        "epoch": {
            f"{metric}, {epoch} epoch, mean of {n}": mean_of_best(metric, n, epoch)
            for metric in ("log_loss", "auc", "refinement")
            for epoch in ("best", "smooth", "last")
            for n in (1, 3, 10)
        },
        "other recommendations": {
            f"{name}, {metric}": rule(metric)
            for metric in ("log_loss", "auc", "refinement")
            for name, rule in (("simplest", simplest), ("greedy", greedy), ("stacked", stacking))
        },
        "recalibrated": {
            f"{metric}, mean of {n}, recalibrated": mean_of_best(metric, n, recalibrated=True)
            for metric in ("log_loss", "auc", "refinement")
            for n in (1, 3, 10)
        },
    }


def each(number: int) -> Rule:
    """One configuration by itself, at its best epoch."""
    return lambda part, rows, rng: part.unseen[number, part.scores["log_loss"][number].argmin()]


def print_each(table: OuterTable, judge: Judge) -> None:
    """Every configuration beside the base, row 0."""
    first = predictions(table, base, len(table.configs), 1)
    for number, config in enumerate(table.configs):
        said = predictions(table, each(number), len(table.configs), 1)
        values = " ".join(f"{metric} {judge.values(said, 'images', metric):.3f}" for metric in Judge.METRICS)
        apart = [judge.difference(said, first, "images", metric) for metric in ("log_loss", "auc")]
        print(
            f"{values} | − base: " + ", ".join(f"{d:+.3f} ({low:+.3f} {high:+.3f})" for d, low, high in apart) + f" | {config}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench outer_rules", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--configurations", type=int, default=30)
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--only", nargs="+", help="tables")
    parser.add_argument("--each", action="store_true", help="every configuration by itself, beside the base")
    arguments = parser.parse_args()
    table = load(arguments.folder)
    judge = Judge(table)
    if arguments.each:
        print_each(table, judge)
        return
    count = min(arguments.configurations, len(table.configs))
    print(
        f"{len(table.configs)} configurations, {len(table.parts)} outer parts in {len(table.partitions)} partitions, {len(judge.names)} patients; "
        f"{arguments.draws} draws of {count} configurations; − ten: difference to the mean of ten random, 95 % over patients"
    )
    ten = predictions(table, random_mean(10), count, arguments.draws)
    for title, every in rules(table).items():
        if arguments.only and title not in arguments.only:
            continue
        print(f"\n{title:44} " + " ".join(f"{level} loss/AUC/accuracy" for level in Judge.LEVELS) + "   − ten: loss, AUC")
        for name, rule in every.items():
            said = predictions(table, rule, count, arguments.draws)
            cells = [" ".join(f"{judge.values(said, level, metric):.3f}" for metric in Judge.METRICS) for level in Judge.LEVELS]
            apart = [judge.difference(said, ten, "images", metric) for metric in ("log_loss", "auc")]
            print(
                f"{name:44} " + " | ".join(cells) + "   " + ", ".join(f"{d:+.3f} ({low:+.3f} {high:+.3f})" for d, low, high in apart),
                flush=True,
            )


if __name__ == "__main__":
    main()
