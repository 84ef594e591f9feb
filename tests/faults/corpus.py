"""Bad input as a table: a command, what is wrong with the world, and what the one line that the user gets must hold."""

import importlib
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError
from mmnet.command_line import run_verb

VERBS = {"tune": "tune_mmnet", "main": "main", "eval": "eval", "analysis": "analysis.__main__"}
NOTED = ("ended", "settings", "rungs", "mechanisms", "nested", "repeats", "warm_start", "cost", "backbones")  # what a resumed run writes in study.json
TALLY: Counter[str] = Counter()  # tried, clear, lost
# a way out: what was expected, or what to do
REMEDY = re.compile(
    r"expected|did you mean|--help|\b(pass|choose|lower|ask for|leave|restore|remove|move|repair|correct|download|resume|start|train|use|set|free|make|name|check|see|run|let)\b"
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


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()}


def lost(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Files that are gone, or whose content changed: but for how a run ended, in study.json, and figures that are drawn again."""

    def kept(name: str, content: bytes | None) -> object:
        if content is not None and name.endswith("/study.json"):
            try:
                return {key: value for key, value in json.loads(content).items() if key not in NOTED}
            except (ValueError, AttributeError, RecursionError):
                return content
        return content is not None if "/plots/" in name else content

    return [name for name, content in before.items() if not name.endswith("/.lock") and kept(name, after.get(name)) != kept(name, content)]


def _no_ray(address: str | None) -> None:
    raise InputError("Ray was reached: bad input should be found before it starts")


def attempt(monkeypatch, capfd, command: str) -> tuple[int | str | None, str]:
    """(exit status, stderr) of a verb in this process. What the verb does not catch, a test does not either."""
    verb, *words = shlex.split(command)
    monkeypatch.setattr("tuning.cluster._connect", _no_ray)
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

    TALLY["tried"] += 1
    if bad.make:
        bad.make(root)
    before = contents(root)
    try:
        status, said = attempt(monkeypatch, capfd, filled(bad.command))
    finally:
        gone = lost(before, contents(root))
        TALLY["lost"] += bool(gone)
    assert not gone
    assert (status, said.count("\n"), said[:7]) == (2, 1, "error: "), said
    for word in bad.words:
        assert filled(word) in said
    assert REMEDY.search(said), said
    TALLY["clear"] += 1
