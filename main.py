"""Train one configuration of MMNet on patient-wise folds, then judge it once on the sealed test. `python main.py --help`."""

from __future__ import annotations

import argparse
import signal
import time

from mmnet.command_line import add_shared_arguments, run_verb


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="main.py", description="Train one configuration on k patient-wise folds and judge it on the sealed test patients."
    )
    add_shared_arguments(parser)
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse()
    started = time.time()
    from rich.console import Console

    from analysis.summary import print_summary, write_results
    from mmnet.device import best_device
    from mmnet.records import TrialWriter, read_trials
    from mmnet.study_folder import open_or_create

    console, device = Console(), best_device()
    study = open_or_create(arguments, "main")
    prepared = study.prepare(console, device)
    study.write(prepared)
    if not any(record.status == "done" for record in read_trials(study.path)):
        writer = TrialWriter(study.path / "trials" / "0000", 0, {}, study.config)
        try:
            train(study.config, prepared, writer, device, console)
        except KeyboardInterrupt:
            console.print(
                f"[yellow]interrupted[/]: go on with  python main.py --resume --name {study.name} --output {study.path.parent}",
                soft_wrap=True,
                highlight=False,
            )
            return 130
    best = write_results(study.path)
    assert best is not None
    print_summary(study.path, best, console, time.time() - started)
    if prepared.splits.test:
        from analysis.sealed_test import open_sealed_test, print_sealed_test

        result, again = open_sealed_test(study.path, prepared.dataset, prepared.splits, study.config, device)
        print_sealed_test(result, again, console)
    return 0


def train(config, prepared, writer, device, console) -> None:
    """All epochs of all folds, a bar over epochs, the state saved when interrupted."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mmnet import crossval
    from mmnet.crossval import TrainingError
    from mmnet.records import StorageError

    trial = crossval.run(config, prepared.development, prepared.splits, device=device)
    writer.load(trial)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a preempted machine saves its state, too
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(f"{config.data.folds} folds", total=config.optim.epochs, completed=len(trial.history))
        try:
            for report in trial:
                writer.report(trial)
                text = f"epoch {report.epoch}: {config.metric} {report.metrics[config.metric]:.4f}, best {report.score:.4f} at epoch {report.best_epoch}"
                bar.update(task, completed=report.epoch, description=text)
            writer.finish(trial)
            writer.status("done", "")
        except KeyboardInterrupt:
            writer.save(trial)
            raise
        except (TrainingError, StorageError) as error:
            from data.errors import InputError

            if isinstance(error, TrainingError):
                writer.status("failed", str(error))
                raise InputError(f"training failed: {error}") from error
            raise


if __name__ == "__main__":
    run_verb(main)
