"""Bad input as a table: a command, what is wrong with the world, and what the one line that the user gets must hold."""

import importlib
import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from study.command_line import run_verb

VERBS = {"tune": "tune_mmnet", "main": "main", "eval": "eval", "analysis": "analysis.__main__"}
NOTED = ("ended", "cost")  # how a run ended, in study.json
# A way out stands at the beginning of a clause: what was expected, the name that was meant, or what to do. Such a word is an instruction where
# a flag, a file of this project, a variable or one of a few words follows, and not in "free space is 0", "run failed" or "data set".
DO = (
    "add|ask|check|choose|correct|download|free|give|go on|keep|leave|let|lower|make|move|name|pass|put|raise|remove|repair|restore|resume|run|"
    "save|say|see|set|start|train|unpack|use|wait"
)
WHAT = "data|its?|them|these|those|that|this|the|an?|another|one|two|each|some|less|again|for|with|out|away|python|imagenet"
REMEDY = re.compile(
    rf"[;:,(] +(expected [-\w]|did you mean \w|({DO})( or ({DO}))? +(--\w|[\w/]+\.(py|yaml)\b|[A-Z]+_[A-Z]+|timm:|({WHAT})\b)"
    r"|[\w. -]+ --help says what is expected$)"
)


@dataclass(frozen=True)
class Bad:
    command: str  # {root}: the test's own folder, {data}: good data
    words: tuple[str, ...]  # the thing, and the value it has; with the same names to fill in
    make: Callable[[Path], object] | None = None  # makes it, below the root

    @property
    def name(self) -> str:
        """For pytest: the end of the command, which is what is wrong with it, and what was made."""
        made = f" ({self.make.__name__})" if self.make else ""
        return re.sub(r"[^ -~]|::", "?", self.command[:4] + self.command[4:][-50:] + made)


def has_remedy(said: str) -> bool:
    """Whether the line says what was expected or what to do."""
    return REMEDY.search(said.removeprefix("error:").strip()) is not None


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Files that came, went or have other content: but for a study's lock, and what a resumed run notes in study.json."""
    names = (name for name in before.keys() | after.keys() if before.get(name) != after.get(name) and not name.endswith("/.lock"))
    return sorted(name for name in names if not (name.endswith("/study.json") and _noted(before.get(name), after.get(name))))


def _noted(before: bytes | None, after: bytes | None) -> bool:
    """Whether all that study.json said stands there still: a run that is resumed adds settings, and how it ended."""
    try:
        old, new = json.loads(before or ""), json.loads(after or "")
        kept = old.pop("settings", {}).items() <= new.pop("settings", {}).items()
        return kept and {name: old[name] for name in old if name not in NOTED} == {name: new.get(name) for name in old if name not in NOTED}
    except (ValueError, AttributeError, TypeError, RecursionError):
        return False


def _no_ray(*arguments: object, **options: object) -> None:
    raise RuntimeError("Ray was reached: bad input should be found before it starts")


def attempt(monkeypatch, capfd, command: str) -> tuple[int | str | None, str]:
    """(exit status, stderr) of a verb in this process. What the verb does not catch, a test does not either."""
    verb, *words = shlex.split(command)
    if verb == "tune":  # the others do without
        monkeypatch.setattr("ray.init", _no_ray)
    monkeypatch.setattr(sys, "argv", [f"{verb}.py", *words])
    capfd.readouterr()
    try:
        run_verb(importlib.import_module(VERBS[verb]).main)
    except SystemExit as end:
        return end.code, capfd.readouterr().err
    raise AssertionError("a verb that does not exit")


def hold(bad: Bad, root: Path, data: Path, monkeypatch, capfd) -> None:
    """Exit status 2, one line that names the thing, its value and a way out; and every file is what it was."""

    def filled(text: str) -> str:
        return text.replace("{root}", str(root)).replace("{data}", str(data))

    if bad.make:
        bad.make(root)
    before = contents(root)
    status, said = attempt(monkeypatch, capfd, filled(bad.command))
    touched = changed(before, contents(root))
    assert not touched, touched
    assert (status, said.count("\n"), said[:7]) == (2, 1, "error: "), said
    for word in bad.words:
        assert filled(word) in said, said
    assert has_remedy(said), said
