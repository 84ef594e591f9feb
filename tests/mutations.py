"""Twelve important rules, each broken by hand in a copy of the project: which tests notice? `python -m tests.mutations [RULE …]`.

Prints a table in Markdown; ends with 1 where a broken rule was noticed by none. Kept: tests/MUTATIONS.md.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.test_imports import ROOT


@dataclass(frozen=True)
class Mutation:
    rule: str
    file: str
    old: str  # stands there once
    new: str
    tests: str  # the folders whose tests are asked


MUTATIONS = (
    Mutation("promotion count", "tuning/promotion.py", "max(len(scores) // eta, least)", "max(-(-len(scores) // eta), least)", "tests/tuning tests/test_properties.py"),
    Mutation("mask", "mmnet/hierarchical_attention.py", "key_padding_mask=~(mask | ~some), ", "", "tests/mmnet tests/test_properties.py"),
    Mutation("mask of importance", "mmnet/fusion.py", ".masked_fill(~mask, -torch.inf)", "", "tests/mmnet tests/test_properties.py"),
    Mutation("patient grouping", "data/splits.py", 'group_of, label_of = table.groups(grouping),', 'group_of, label_of = table.groups("slide"),', "tests/data tests/test_properties.py"),
    Mutation("leak check", "data/splits.py", 'if leaks and splits.grouping == "patient":', 'if len(leaks) > 1 and splits.grouping == "patient":', "tests/data tests/test_properties.py"),
    Mutation("class balance", "mmnet/metrics.py", "np.mean([loss[label == value].mean() for value in np.unique(label)])", "np.mean(loss)", "tests/mmnet/test_metrics.py tests/mmnet/test_crossval.py tests/analysis"),
    Mutation("best epoch", "mmnet/crossval.py", "scores[best] if best is not None", "scores[-1] if best is not None", "tests/mmnet"),
    Mutation("weights of the best epoch", "mmnet/crossval.py", "        if best == epoch:\n", "        if best is not None:\n", "tests/mmnet"),
    Mutation("sealed test read twice", "analysis/sealed_test.py", "if openings and not again:", "if openings and again:", "tests/analysis/test_sealed_test.py tests/test_main.py"),
    Mutation("resume", "mmnet/crossval.py", "((self.networks, \"networks\"), (self.optimizers, \"optimizers\"), ", "((self.networks, \"networks\"), ", "tests/mmnet tests/tuning/test_trainable.py"),
    Mutation("tie set", "analysis/tie_set.py", "(draws >= largest).mean()", "(draws >= largest / 2).mean()", "tests/analysis/test_tie_set.py tests/analysis/test_trust.py"),
    Mutation("threshold cross-fit", "analysis/thresholds.py", "chosen = ~here if others else here", "chosen = here if others else ~here", "tests/analysis/test_thresholds.py tests/analysis/test_report.py"),
)  # fmt: skip


def noticed(mutation: Mutation, copy: Path) -> list[str]:
    """The tests that fail when the rule is broken in this copy, which is left as it was."""
    file = copy / mutation.file
    whole = file.read_text()
    assert whole.count(mutation.old) == 1, f"{mutation.rule}: {mutation.file} holds {mutation.old!r} {whole.count(mutation.old)} times"
    file.write_text(whole.replace(mutation.old, mutation.new))
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not slow", "-n", "2", *mutation.tests.split()]
    done = subprocess.run(words, cwd=copy, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    file.write_text(whole)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout + done.stderr)
    return sorted(set(re.findall(r"^(?:FAILED|ERROR) (\S+?::\w+)", done.stdout, re.MULTILINE)))


def main() -> int:
    chosen = [mutation for mutation in MUTATIONS if mutation.rule in sys.argv[1:] or len(sys.argv) == 1]
    missed = 0
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "project"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", "output", ".*_cache", "__pycache__"))
        if (shared := ROOT.parent / "shared").exists():
            (copy.parent / "shared").symlink_to(shared)
        print("| rule | broken as | noticed by |\n|---|---|---|", flush=True)
        for mutation in chosen:
            tests = noticed(mutation, copy)
            missed += not tests
            shown = ", ".join(test.removeprefix("tests/") for test in tests[:3]) + (f" and {len(tests) - 3} more" if len(tests) > 3 else "")
            print(f"| {mutation.rule} | `{mutation.file}`: `{(mutation.new.strip() or 'removed').splitlines()[0]}` | {shown or '**none**'} |", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
