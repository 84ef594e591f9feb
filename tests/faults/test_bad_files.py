"""Files that a command is given: manifests, trees, images, configurations, splits, weights. More of them, closer by, in tests/data/test_bad_data.py."""

import io
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.data.trees import NAMES, write_png, write_tree
from tests.faults.corpus import Bad, hold

SMALL = "--backbone tiny --weights none --image-size 32 --folds 2 --set model.width=8 --set model.heads=2 --output {root}/output"
GOOD = tuple(f"{number}.png,p{number},{number % 2},40" for number in range(6))
COLUMNS = "path,patient,label,magnification"
CORPUS: list[Bad] = []


def add(name: str, command: str, make: Callable[[Path], object], *words: str) -> None:
    named = partial(make)
    named.__name__ = name  # type: ignore[attr-defined]
    CORPUS.append(Bad(f"tune {SMALL} {command}", words, named))


def write(file: str, content: str | bytes, root: Path) -> None:
    (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())


# manifests: the first line in place of the first good one ----------------------------------------------------------------


def manifest(first: str, root: Path, columns: str = COLUMNS, others: tuple[str, ...] = GOOD[1:]) -> None:
    for number in range(len(others) + 1):
        write_png(root / f"{number}.png", number)
    write("own.csv", "\n".join([columns, first, *others]), root)


for name, first, *words in (
    ("a magnification of 30 digits", f"0.png,p,0,{'9' * 30}", "line 2: magnification '999", "expected a number such as 40"),
    ("a magnification in Arabic digits", "0.png,p,0,٤٠", "line 2: magnification '٤٠'"),
    ("a magnification of 0", "0.png,p,0,0", "line 2: magnification '0'"),
    ("a label of 2", "0.png,p,2,40", "2 patients of class 0 for 2 folds and a sealed test: expected at least 3", "leave the class out by --classes"),
    ("a field of 200 kB", f"0.png,{'p' * 200_000},0,40", "line 2: patient of 200000 characters: expected at most 1000"),
    ("a path with a NUL", "0\0.png,p,0,40", "it holds a NUL; expected a CSV file"),
    ("a patient with a bell", "0.png,p\a,0,40", "line 2: patient", "expected text without control characters"),
    ("a quote that is never closed", '"0.png,p,0,40', "EOF inside string", "expected CSV with a column name or a value a field"),
    ("a path of 5000 letters", f"{'a' * 5000}.png,p,0,40", "line 2: path of 5004 characters: expected at most 1000"),
    ("a path that is a folder", ".,p,0,40", "1 bad file(s): . (not a plain file)"),
    ("a path that looks like markup", "[/red].png,p,0,40", "[/red].png (cannot be read: No such file or directory)"),
):
    add(name, "--data {root}/own.csv", partial(manifest, first), *words)
for name, columns, *words in (
    ("semicolons", "path;patient;label;magnification", "line 2: patient is empty; expected one value for each of path, patient, label"),
    ("a column twice", "path,patient,label,path", "repeated columns ['path']; expected each once: remove or rename the others"),
):
    add(name, "--data {root}/own.csv", partial(manifest, GOOD[0], columns=columns), "manifest {root}/own.csv", *words)
THREE = tuple(f"{number}.png,p{number},{number % 3},40" for number in range(8))
add(
    "a third class of two patients",
    "--data {root}/own.csv --magnifications 40",
    partial(manifest, THREE[0], others=THREE[1:]),
    "2 patients of class 2 for 2 folds and a sealed test: expected at least 3",
)
NAMELESS = tuple(f"{number}.png,p{number},{'xy'[number % 2]},40" for number in range(8))
add(
    "two classes of which none is known as positive",
    "--data {root}/own.csv --magnifications 40",
    partial(manifest, NAMELESS[0], others=NAMELESS[1:]),
    "labels x and y: expected two of which one is known as positive; say which, as --positive x",
)
MALIGNANT = tuple(f"{number}.png,p{number},1,40" for number in range(6))
add(
    "one class",
    "--data {root}/own.csv --magnifications 40",
    partial(manifest, MALIGNANT[0], others=MALIGNANT[1:]),
    "0 patients of class not malignant for 2 folds and a sealed test: expected at least 3",
)
add("a folder in place of a manifest", "--data {root}/own.csv", lambda root: (root / "own.csv").mkdir(), "own.csv: no image found below it")

# trees and images --------------------------------------------------------------------------------------------------------


def tree_with(name: str, content: bytes | None, root: Path) -> None:
    write_tree(root / "tree")
    if content is None:
        write_png(root / "tree" / name, 99)
    else:
        (root / "tree" / name).write_bytes(content)


for name, reason in (  # all that a name can be: tests/data/test_grammar.py
    ("SOB_B_A-14-1001-40.png", "file name does not follow"),
    ("SOB_B_A-14-1001-40-٢.png", "file name does not follow"),
    ("SOB_B_ZZ-14-1001-40-002.png", "unknown subtype 'ZZ', expected one of A, F"),
    (f"SOB_B_A-14-1001-{'4' * 200}-002.png", "magnification 444"),
):
    add(
        "a wrong name",
        "--data {root}/tree",
        partial(tree_with, name, None),
        f"1 bad file(s): {name} ({reason}",
        "repair or remove them",
        "on_bad_file=skip",
    )


def encoded(form: str, cut: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, form)
    return buffer.getvalue()[: -cut or None]


for name, content, reason in (
    ("GIF named PNG", encoded("GIF"), "not a readable image, expected PNG"),
    ("EPS named PNG", encoded("EPS"), "not a readable image, expected PNG"),  # Pillow would run Ghostscript
    ("a head of PNG alone", encoded("PNG")[:20], "not a readable image"),
    ("JPEG cut short", encoded("JPEG", 1000), "truncated or damaged image"),
    ("TIFF cut short", encoded("TIFF", 1000), "truncated or damaged image"),
):
    add(name, "--data {root}/tree", partial(tree_with, NAMES[0], content), f"1 bad file(s): {NAMES[0]} ({reason}")

# configurations ----------------------------------------------------------------------------------------------------------

for name, text, *words in (
    ("empty", "", "expected sections such as model: and optim:, got NoneType"),
    ("no text", b"\xff\xfe\x00", "cannot read it", "pass a YAML file"),
    ("a tab", "loss:\n\tgamma: 1", "expected YAML", "line 2"),
    (
        "a bomb of aliases",
        "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*{f'b{n - 1}' if n else 'a'}, *a]\n" for n in range(9)),
        "alias (*name)",
    ),
    ("an unknown key", "model: {bakbone: tiny}", "unknown configuration key 'model.bakbone': did you mean model.backbone?"),
    ("an empty section", "model:\n", "configuration model = None: expected a section"),
    ("two documents", "seed: 1\n---\nseed: 2\n", "expected a single document"),
    ("a number as key", "1: 2", "unknown configuration key '1'"),
    ("a list as key", "model: {[a]: 1}", "found unhashable key"),
    ("out of range", "optim: {lr: 7}", "optim.lr = 7.0: expected above 0, at most 1"),
    ("a control character", "seed: \x07", "special characters are not allowed"),
):
    add(name, "--config {root}/c.yaml", partial(write, "c.yaml", text), "{root}/c.yaml", *words)

# splits ------------------------------------------------------------------------------------------------------------------

for name, text, *words in (  # more of them: tests/data/test_bad_data.py
    ("empty", "", "expected JSON"),
    ("null", "null", "expected JSON"),
    ("a number for the folds", '{"folds": 5}', "expected JSON"),
    ("other names", '{"folds": [[1, 2], [3, 4]]}', "do not fit the data", "not in the data: [1, 2, 3, 4]", "use the data set"),
    ("no folds", '{"folds": []}', "expected JSON"),
    ("text for a fold", '{"folds": ["abc", "def"]}', "expected JSON", "'abc' is no list of patients"),
    ("text for a test", '{"folds": [["a"], ["b"]], "test": "abc"}', "'abc' is no list of patients"),
    ("a patient that is a list", '{"folds": [[["a"]], [["b"]]]}', "is no list of patients"),
    ("a wrong source", '{"folds": [["a"], ["b"]], "source": 3}', "expected JSON"),
    ("brackets", "[" * 100_000, "expected JSON"),
):
    add(name, "--data {data} --splits {root}/s.json", partial(write, "s.json", text), "splits {root}/s.json", *words)

# weights -----------------------------------------------------------------------------------------------------------------


class Hostile:
    def __reduce__(self):
        return pytest.fail, ("a weights file was executed",)


def saved(root: Path, content: object, file: str = "w.pth") -> None:
    torch.save(content, root / file)


DAMAGED = ("model.weights = '{root}/w.pth': damaged, or more than plain tensors", "download it again or save it as .safetensors")
for name, file, make, *words in (
    ("empty", "w.pth", partial(write, "w.pth", b""), *DAMAGED),
    ("code", "w.pth", lambda root: saved(root, {"a": Hostile()}), "model.weights = '{root}/w.pth': it holds more than plain tensors: _pytest.", "save its state_dict() alone"),
    ("a pickle", "w.pth", partial(write, "w.pth", pickle.dumps({"a": Hostile()}, protocol=2)), *DAMAGED),
    ("half a file", "w.pth", lambda root: (saved(root, {"a": torch.ones(999)}), write("w.pth", (root / "w.pth").read_bytes()[:2000], root)), *DAMAGED),
    ("a list", "w.pth", lambda root: saved(root, [torch.ones(1)]), "expected a dictionary of tensors, got list"),
    ("numbers", "w.pth", lambda root: saved(root, {"a": 1}), "expected a dictionary of tensors"),
    ("of something else", "w.pth", lambda root: saved(root, {"a": torch.ones(1)}), "do not fit resnet18", "missing (such as ", "unknown (such as a)"),
    ("text", "w.safetensors", partial(write, "w.safetensors", "text"), "w.safetensors': damaged"),
    ("a head of 2^63 bytes", "w.safetensors", partial(write, "w.safetensors", bytes([255] * 7 + [127]) + b"{}"), "w.safetensors': damaged"),
    ("of something else", "w.safetensors", lambda root: save_file({"fc.x": torch.ones(1)}, root / "w.safetensors"), "do not fit resnet18", "pass the weights"),
):  # fmt: skip
    add(name, f"--data {{data}} --backbone resnet18 --weights {{root}}/{file}", make, "model.weights", *words)


@pytest.mark.parametrize("bad", CORPUS, ids=lambda bad: bad.name)
def test_a_bad_file_is_one_clear_line(bad: Bad, tmp_path: Path, data: Path, monkeypatch, capfd):
    hold(bad, tmp_path, data, monkeypatch, capfd)
    assert not (tmp_path / "output").exists()
