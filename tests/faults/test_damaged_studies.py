"""A study whose files were damaged, or that is resumed with something else: one clear line, and every file is what it was."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import main
from data.store import load_dataset
from data.synthetic import generate
from study.hold import Hold
from study.mirror import Mirror
from tests.faults.corpus import Bad, attempt, contents, hold

SMALL = (
    "--backbone tiny --weights none --image-size 32 --folds 2 --epochs 3 --set model.width=8 --set model.heads=2 --set optim.batch_size=16"
)
TRIAL = "trials/0000"
RESUME = {"main": "main --resume --name m --output {root}", "tune": "tune --resume --name s --output {root}"}
LOOK = "eval --study m --output {root}"
BOTH = (RESUME["main"], RESUME["tune"])
CORPUS: list[Bad] = []


def add(commands: str | tuple[str, ...], file: str, name: str, damage: Callable[[Path], object], *words: str) -> None:
    """The same damage to a file, met by one command or by each of several. `{study}` in the words: the study's folder."""
    for command in (commands,) if isinstance(commands, str) else commands:
        study = "s" if command.startswith("tune") else "m"

        def make(root: Path, study: str = study) -> None:
            damage(root / study / file)

        make.__name__ = f"{file} {name}"
        CORPUS.append(Bad(command, tuple(word.replace("{study}", f"{{root}}/{study}") for word in words), make))


def write(content: str | bytes, path: Path) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def become_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def put(place: str, value: object, path: Path) -> None:
    """Set (…: remove) what stands at a dotted place of a JSON file."""
    content = json.loads(path.read_text())
    *sections, last = place.split(".")
    inner = content
    for section in sections:
        inner = inner[section]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    path.write_text(json.dumps(content))


def lines(change: Callable[[list[dict]], list], path: Path) -> None:
    """Change the list of a .jsonl file's lines."""
    changed = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in changed))


def arrays(change: Callable[[dict[str, np.ndarray]], dict], path: Path) -> None:
    with np.load(path) as saved:
        changed = change(dict(saved))
    np.savez(path, **changed)


# study.json ----------------------------------------------------------------------------------------------------------

for name, damage in (
    ("empty", partial(write, "")),
    ("half", halve),
    ("no text", partial(write, b"\xff\xfe")),
    ("brackets", partial(write, "[" * 100_000)),
    ("folder", become_folder),
):
    add(
        (*BOTH, LOOK) if name == "half" else LOOK,
        "study.json",
        name,
        damage,
        "study {study}: no readable study.json",
        "check its name",
    )
for text in ("[]", "null", "{}"):
    add(
        (*BOTH, LOOK) if text == "[]" else LOOK,
        "study.json",
        text,
        partial(write, text),
        "study {study}: study.json is damaged: expected the record of a study, got",
        "restore it",
    )
for place, value, *words in (  # everything that readers rely on
    ("verb", ..., "verb is None, expected str"),
    ("name", ..., "name is None, expected str"),
    ("config", [], "config is [], expected dict"),
    ("data", [], "data.path is None, expected str"),
    ("data.fingerprint", ..., "data.fingerprint is None, expected str"),
    ("data.synthetic", "no", "data.synthetic is 'no', expected bool"),
    ("splits.folds", 3, "splits.folds is 3, expected list"),
    ("splits.test", ..., "splits.test is None, expected list"),
    ("splits.grouping", ..., "splits.grouping is None, expected str"),
    ("splits.source", ..., "splits.source is None, expected str"),
    ("settings", [], "settings is [], expected dict"),
    ("settings.members", 3, "settings.members is 3, expected dicts by name"),
    ("settings.members", {"0001": 3}, "settings.members is {'0001': 3}, expected dicts by name"),
):
    add(
        (*BOTH, LOOK) if place == "splits.folds" else LOOK,
        "study.json",
        f"{place} {value}",
        partial(put, place, value),
        "study {study}: study.json is damaged",
        *words,
        "restore it",
    )
add(LOOK, "study.json", "format 99", partial(put, "format", 99), "study {study}: written in format 99, expected 3; use the version")
add(BOTH, "study.json", "format 2", partial(put, "format", 2), "study {study}: an earlier version began it", "start a study under another")
add(
    RESUME["main"],
    "study.json",
    "a later key",
    partial(put, "config.future", 1),
    "study {study}",
    "unknown configuration key 'future'",
    "the version",
)
add(
    RESUME["tune"],
    "study.json",
    "gamma -1",
    partial(put, "config.loss.gamma", -1),
    "study {study}",
    "loss.gamma = -1.0: expected 0 to 10",
)
add(RESUME["main"], "study.json", "verb dance", partial(put, "verb", "dance"), "was made by dance: resume it with that command")
add(
    RESUME["tune"],
    "study.json",
    "other slides",
    partial(put, "splits.folds", [["a"], ["b"]]),
    "do not fit the data",
    "not in the data: [a, b]",
)
add(BOTH, "study.json", "other fingerprint", partial(put, "data.fingerprint", "0"), "changed since study", "expected 0; restore the data")
add(
    RESUME["main"],
    "study.json",
    "data gone",
    partial(put, "data.path", "/nowhere"),
    "data /nowhere: no such folder or file; pass --data DIR",
)


def leak(path: Path) -> None:
    about = json.loads(path.read_text())
    about["splits"]["folds"][0] += about["splits"]["test"][:1]
    path.write_text(json.dumps(about))


add(BOTH, "study.json", "leak", leak, "listed more than once; expected every slide in one part")

# a trial's records ---------------------------------------------------------------------------------------------------

RECORD = "trial record {study}/trials/0000: damaged or incomplete"
TABLE, REPORT = f"{LOOK} --table", "analysis report m --output {root}"
ALL = (*BOTH, TABLE, REPORT)
for name, readers, damage in (
    ("half", ALL, halve),
    ("empty", TABLE, partial(write, "")),
    ("a list", TABLE, partial(write, "[]")),
    ("gone", ALL, Path.unlink),
    ("no number", TABLE, partial(put, "number", ...)),
    ("number x", TABLE, partial(put, "number", "x")),
    ("params a list", TABLE, partial(put, "params", [])),
    ("config a list", TABLE, partial(put, "config", [])),
):
    add(readers, f"{TRIAL}/config.json", name, damage, RECORD, "move it away to go on without it")
for name, readers, damage in (
    ("half", ALL, halve),
    ("a list", TABLE, partial(write, "[]")),
    ("flying", TABLE, partial(put, "status", "flying")),
    ("no memory", TABLE, partial(put, "peak_mib", None)),
    ("no reason", TABLE, partial(put, "reason", ...)),
):
    add(readers, f"{TRIAL}/status.json", name, damage, RECORD, "move it away")
for name, readers, damage in (
    ("a line of garbage", ALL, partial(lines, lambda found: [found[0], "{garbage", *found[1:]])),
    ("a line that is a list", TABLE, partial(lines, lambda found: [found[0], [], *found[2:]])),
    ("an empty line", TABLE, partial(lines, lambda found: [found[0], {}, *found[2:]])),
    ("an epoch twice", TABLE, partial(lines, lambda found: [found[0], *found])),
    ("an epoch lost", TABLE, partial(lines, lambda found: found[1:])),
    ("the best in the future", TABLE, partial(lines, lambda found: [*found[:-1], found[-1] | {"best_epoch": 99}])),
    ("a score that is text", TABLE, partial(lines, lambda found: [*found[:-1], found[-1] | {"score": "low"}])),
    ("gone", BOTH, Path.unlink),
    ("empty", TABLE, partial(write, "")),
    ("no text", TABLE, partial(write, b"\xff\xfe\n")),
):
    add(readers, f"{TRIAL}/epochs.jsonl", name, damage, RECORD, "move it away")

PREDICTIONS = "predictions {study}/trials/0000/predictions.npz: absent or damaged"
for name, readers, damage in (
    ("half", (TABLE, f"{LOOK} --thresholds"), halve),
    ("gone", TABLE, Path.unlink),
    ("no probabilities", TABLE, partial(arrays, lambda found: {k: v for k, v in found.items() if k != "oof"})),
    ("short labels", TABLE, partial(arrays, lambda found: found | {"label": found["label"][:3]})),
    ("short probabilities", TABLE, partial(arrays, lambda found: found | {"oof": found["oof"][:, :3]})),
    ("NaN", TABLE, partial(arrays, lambda found: found | {"oof": found["oof"] * np.nan})),
    ("the best in the future", TABLE, partial(arrays, lambda found: found | {"best_epoch": np.array(99)})),
    ("objects", TABLE, partial(arrays, lambda found: found | {"oof": np.array([object()] * 4)})),
):
    add(readers, f"{TRIAL}/predictions.npz", name, damage, PREDICTIONS, "train again")

# networks, the sealed test, the database -----------------------------------------------------------------------------

MODELS = "models {study}/models: absent, damaged or of another configuration"
for file, name, damage in (
    ("fold_1.safetensors", "half", halve),
    ("fold_1.safetensors", "gone", Path.unlink),
    ("fold_1.safetensors", "another network", lambda path: save_file({"a": torch.zeros(1)}, path)),
    ("network.json", "half", halve),
    ("network.json", "no folds", partial(write, "{}")),
    ("network.json", "folds x", partial(write, '{"folds": "x"}')),
):
    add(f"{LOOK} --magnitude", f"models/{file}", name, damage, MODELS, "train again with main.py")
for name, damage in (
    ("half", halve),
    ("no opening", partial(write, "[]")),
    ("an opening of nothing", partial(write, "[{}]")),
    ("null", partial(write, "null")),
):
    add(RESUME["main"], "results/sealed_test.json", name, damage, "sealed test {study}/results/sealed_test.json: damaged", "restore it")
for name, damage in (
    ("text", partial(write, "text" * 100)),
    ("zeros", partial(write, b"SQLite format 3\0" + bytes(4080))),
    ("folder", become_folder),
):
    add(RESUME["tune"], "optuna.db", name, damage, "{study}/optuna.db: not a study that Optuna can open", "move it away")

# resumed with something else -----------------------------------------------------------------------------------------


def nothing(path: Path) -> None:
    """Only the command is wrong."""


for command, *words in (
    ("main --resume --name s --output {root}", "was made by tune: resume it with that command"),
    ("tune --resume --name m --output {root}", "was made by main: resume it with that command"),
    (f"{RESUME['main']} --epochs 5", "started with another configuration (optim.epochs 3 -> 5)", "resume it unchanged"),
    (f"{RESUME['tune']} --set loss.gamma=1", "another configuration (loss.gamma 3.0 -> 1.0)"),
    (f"{RESUME['tune']} --config synthetic", "started with another configuration"),
    (f"{RESUME['tune']} --space full", "searches space smoke: resume it without --space"),
    (f"{RESUME['tune']} --data /nowhere", "data /nowhere: no such folder or file"),
    (f"{RESUME['tune']} --data {{other}}", "do not fit the data"),
    (f"{RESUME['main']} --nested 3", "--nested 3: the study has no outer folds; resume it without --nested"),
    (f"{RESUME['main']} --repeats 3", "--repeats 3: the study has no repeats; resume it without --repeats"),
    (f"main --name m --output {{root}} --data {{data}} {SMALL}", "study {root}/m exists already; go on with it by --resume"),
    (f"tune --name s --output {{root}} --data {{data}} {SMALL}", "study {root}/s exists already"),
    ("tune --resume --name ss --output {root}", "study ss: no readable study.json", "did you mean s?"),
    (f"{LOOK} --ensembles", "ensembles: 1 trial(s) with predictions; expected at least 3"),
    (f"{LOOK} --ablation", "study m is no ablation: run  python tune_mmnet.py --space ablation"),
    (f"{LOOK} --magnitude --data {{other}}", "do not fit the data"),
    (f"{LOOK} --predict", "--predict: expected --data DIR with the new patients"),
    (f"{LOOK} --predict --table --data {{data}}", "--predict: expected --data DIR with the new patients, and no other part"),
    (f"{LOOK} --predict --data {{data}}", "patients belong to study m"),
    (f"{LOOK} --predict --data /nowhere", "data /nowhere: no such folder or file"),
    ("analysis best m --n 0 --output {root}", "--n 0: expected at least 1"),
    ("analysis compare m nothing --output {root}", "study nothing: no readable study.json"),
):
    add(command, "", "as it was", nothing, *words)


def with_data(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """The studies' data as {root}/data, decoded, and then changed."""

    def make(root: Path) -> None:
        about = json.loads((root / "m" / "study.json").read_text())
        tree = shutil.copytree(about["data"]["path"], root / "data")
        load_dataset(tree, 32)
        change(next(tree.rglob("*-001.png")))

    return make


def paint(image: Path) -> None:
    Image.effect_noise((32, 32), 50).save(image)


def add_another(image: Path) -> None:
    Image.effect_noise((32, 32), 50).save(image.with_name(image.name.replace("-001.png", "-900.png")))


for name, verbs, change, *words in (
    ("a file gone", BOTH, Path.unlink, "-001.png is gone"),
    ("a file more", BOTH[:1], add_another, "-900.png is new"),
    ("another image", BOTH[:1], paint, "-001.png is another image"),
    ("a slide gone", BOTH[:1], lambda image: shutil.rmtree(image.parents[1]), "do not fit the data", "not in the data"),
):
    make = with_data(change)
    make.__name__ = name
    changed = () if name == "a slide gone" else ("data {root}/data changed since study", "restore the data, or start a study under")
    CORPUS += [Bad(f"{verb} --data {{root}}/data", (*words, *changed), make) for verb in verbs]


@pytest.fixture(scope="module")
def studies(tmp_path_factory, data):
    """`m`, trained by main.py; `s`, what a search of three trials leaves that was killed in its second."""
    root = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["main.py", "--data", str(data), "--name", "m", "--output", str(root), *SMALL.split()])
        assert main.main() == 0
    search = shutil.copytree(root / "m", root / "s")
    about = json.loads((search / "study.json").read_text())
    about |= {"verb": "tune", "name": "s", "settings": {"space": "smoke", "trials": 3}, "rungs": [1], "mechanisms": []}
    (search / "study.json").write_text(json.dumps(about))
    running = shutil.copytree(search / TRIAL, search / "trials" / "0001")
    put("number", 1, running / "config.json")
    put("status", "running", running / "status.json")
    lines(lambda found: found[:1], running / "epochs.jsonl")
    (running / "predictions.npz").unlink()
    shutil.rmtree(running / "weights")
    return root


@pytest.fixture
def root(studies, tmp_path):
    return shutil.copytree(studies, tmp_path / "root")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Data of other patients."""
    return generate(tmp_path_factory.mktemp("other"), patients=16, images=1, size=32, seed=1)


@pytest.mark.parametrize("bad", CORPUS, ids=lambda bad: bad.name)
def test_a_damaged_study_is_one_clear_line_and_loses_nothing(bad: Bad, root: Path, data: Path, other: Path, monkeypatch, capfd):
    hold(replace(bad, command=bad.command.replace("{other}", str(other))), root, data, monkeypatch, capfd)


@pytest.mark.parametrize("verb", RESUME)
def test_a_study_that_another_process_works_on_is_left_to_it(verb, root, monkeypatch, capfd):
    study = root / {"main": "m", "tune": "s"}[verb]
    held = Hold(Mirror(study))
    try:
        before = contents(root)
        status, said = attempt(monkeypatch, capfd, RESUME[verb].format(root=root))
        assert (status, said.count("\n")) == (2, 1)
        assert f"study {study}: process {os.getpid()} on {platform.node()} works on it; wait for its end, or start another --name" in said
        assert contents(root) == before
        for reader in ("eval --study {} --table --output {root}", "analysis export {} --output {root}"):  # they look at it meanwhile
            assert attempt(monkeypatch, capfd, reader.format(study.name, root=root)) == (0, "")
    finally:
        held.release()
    expected = {"main": (0, ""), "tune": (2, "Ray was reached")}[verb]  # the holder is gone
    status, said = attempt(monkeypatch, capfd, RESUME[verb].format(root=root))
    assert status == expected[0] and expected[1] in said


def test_the_studies_are_whole(root, monkeypatch, capfd):
    """What the damage above is done to can be resumed: the search as far as Ray."""
    assert attempt(monkeypatch, capfd, RESUME["main"].format(root=root)) == (0, "")
    assert "Ray was reached" in attempt(monkeypatch, capfd, RESUME["tune"].format(root=root))[1]
