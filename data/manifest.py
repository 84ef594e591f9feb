"""An own data set as a table: path, patient, label, and optionally slide, magnification and subtype.

A patient is a person, whom no split divides; a slide one specimen of theirs (each patient has one where the column is absent).
Delimiter, encoding, capitals of the column names, an index column, blank lines, `40.0` and `40X` are understood as spreadsheets write
them; what was understood and what is not used is told.
"""

import re
import warnings
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from data.errors import DataError, shortlist
from data.table import ONE_MAGNIFICATION, Row, alike, same_name

MISSING = ("", "na", "n/a", "#n/a", "<na>", "nan", "null", "nil")  # as R, pandas, spreadsheets and databases write it
NO_LABEL = (*MISSING, "none", "unknown", "?", "-", "-1")
PLAIN = {"0": "benign", "1": "malignant", "benign": "benign", "malignant": "malignant"}  # which may also be mixed
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
LONGEST = 1000  # characters of a value
MOST_OTHERS = 50  # columns that are kept as they are, as possible covariates
COLUMNS = ("path", "patient", "label", "slide", "magnification", "subtype", "case")


def read_manifest(manifest: Path, labelled: bool = True) -> tuple[dict[str, Row], dict[str, dict[str, str]], list[str]]:
    """({path: row}, {other column: {path: value}}, what was understood).

    Raises DataError naming the line and the value.
    """
    text, notes = _text(manifest)
    table = _table(manifest, text)
    required = ("path", "patient", *(("label",) if labelled else ()))
    missing = [name for name in required if name not in table]
    if missing:
        raise DataError(
            f"manifest {manifest}: missing columns {missing}, it has {list(table.columns)}; expected path,patient,label and optionally "
            f"slide,magnification,subtype, divided by {', '.join(DELIMITERS.values())}"
        )
    others = [name for name in table if name not in COLUMNS]
    if len(others) > MOST_OTHERS:
        notes.append(f"other columns of the manifest are not kept beyond the first {MOST_OTHERS}: {shortlist(others[MOST_OTHERS:])}")
    if "magnification" not in table:
        notes.append("no column magnification: all images are taken for one")
        table["magnification"] = str(ONE_MAGNIFICATION)
    if table.empty:
        raise DataError(f"manifest {manifest}: lists no image; expected one a line below the column names")
    for name in COLUMNS:
        if name in table:
            table[name] = table[name].str.strip().map(same_name)
            long = table[name].str.len() > LONGEST
            if long.any():
                value = table[name][long].iloc[0]
                raise DataError(f"{_line(manifest, table, long)}: {name} of {len(value)} characters: expected at most {LONGEST}")
            bad = table[name].map(str.isprintable)
            if not bad.all():
                raise DataError(
                    f"{_line(manifest, table, ~bad)}: {name} {table[name][~bad].iloc[0]!r}: expected text without control characters"
                )
    for name in ("patient", "slide", "case"):
        if name in table:
            table[name] = table[name].str.replace(r"^([0-9]+)\.0+$", r"\1", regex=True)  # a number beside an empty cell
    for name in ("path", "patient"):
        if (empty := table[name].str.casefold().isin(MISSING)).any():
            value = f" ({table[name][empty].iloc[0]})" if table[name][empty].iloc[0] else ""
            raise DataError(
                f"{_line(manifest, table, empty)}: {name} is empty{value}; expected one value for each of {', '.join(required)}"
            )
    number = table["magnification"].str.fullmatch(r"0*[1-9][0-9]{0,4}([.,]0*)?\s*[xX\u00d7]?")
    if not number.all():
        value = table["magnification"][~number].iloc[0]
        raise DataError(f"{_line(manifest, table, ~number)}: magnification {value!r}: expected a number such as 40")
    if (twice := table["path"].duplicated()).any():
        raise DataError(f"{_line(manifest, table, twice)}: path {table['path'][twice].iloc[0]!r} is listed twice; remove one of the lines")
    label = _labels(manifest, table, labelled)
    if "case" in table:  # earlier manifests: a patient was a slide there
        slide, patient = table["patient"], table["case"].where(table["case"] != "", table["patient"])
    else:
        patient = table["patient"]
        slide = table["slide"].where(table["slide"] != "", patient) if "slide" in table else patient
    subtype = table["subtype"] if "subtype" in table else pd.Series("", index=table.index)
    magnification = table["magnification"].str.extract(r"([0-9]+)", expand=False).astype(int)
    columns = (table["path"], magnification, slide, patient, subtype, label)
    rows = {row[0]: row for row in zip(*(column.tolist() for column in columns), strict=True)}
    kept = {name: dict(zip(rows, table[name].str.strip().tolist(), strict=True)) for name in others[:MOST_OTHERS]}
    return rows, kept, [*notes, *alike(set(patient), "patients")]


def read_table(path: Path) -> pd.DataFrame:
    """A CSV file of any delimiter and encoding, all values as text, columns in small letters. Raises DataError."""
    return _table(path, _text(path)[0])


def _text(manifest: Path) -> tuple[str, list[str]]:
    try:
        content = manifest.read_bytes()
    except OSError as error:
        raise DataError(f"manifest {manifest}: cannot read it: {error}; expected a CSV file") from error
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    notes: list[str] = []
    try:
        try:
            text = content.decode("utf-16" if wide else "utf-8-sig")
        except UnicodeDecodeError:
            if wide:
                raise
            text, notes = content.decode("cp1252"), ["the manifest is not in UTF-8; it was read as Windows-1252"]
    except UnicodeDecodeError as error:
        raise DataError(f"manifest {manifest}: cannot read it: {error}; expected a CSV file in UTF-8") from error
    if "\0" in text:
        raise DataError(f"manifest {manifest}: cannot read it: it holds a NUL; expected a CSV file in UTF-8")
    return text, notes


def _table(manifest: Path, text: str) -> pd.DataFrame:
    """All values as text; `line` numbers the rows as an editor does."""
    lines = text.splitlines()
    named = text[:4].lower() == "sep="  # a line that spreadsheets write and read
    begins = next((number for number, line in enumerate(lines, 1) if line.strip() and not (named and number == 1)), 1)
    head = lines[begins - 1] if lines else ""
    delimiter = max(DELIMITERS, key=head.count)
    settings: dict[str, Any] = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False, "index_col": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # values of a line that is too long would be lost
            table = pd.read_csv(StringIO(text), sep=delimiter, skiprows=begins - 1, **settings)
    except (ValueError, pd.errors.ParserWarning) as error:  # pandas' own errors are of the first kind
        reason = str(error).strip().splitlines()[-1]
        raise DataError(f"manifest {manifest}: {reason}; expected CSV with a column name or a value a field") from error
    table.index += begins + 1
    table.columns = [same_name(str(name)).strip().lower() for name in table.columns]
    counts = Counter(table.columns)  # pandas gives the second `label` another name: label.1
    again = {name.rpartition(".")[0] for name in counts if re.fullmatch(r".+\.[0-9]+", name)} & set(COLUMNS)
    repeated = sorted(again | {name for name in counts if counts[name] > 1})
    if repeated:
        raise DataError(f"manifest {manifest}: repeated columns {repeated}; expected each once: remove or rename the others")
    table = table.fillna("")
    table = table[(table != "").any(axis=1)]
    return table.loc[:, [not re.fullmatch(r"unnamed: \d+|", name) for name in table.columns]]  # the index that pandas and R write


def _line(manifest: Path, table: pd.DataFrame, wrong: pd.Series) -> str:
    return f"manifest {manifest}, line {table.index[wrong][0]}"


def _labels(manifest: Path, table: pd.DataFrame, labelled: bool) -> pd.Series:
    """The class of each image, "" where there is none; spellings that differ in capitals are one class."""
    if "label" not in table:
        return pd.Series("", index=table.index)
    said = table["label"].str.replace(r"\.0+$", "", regex=True)
    value = said.str.casefold()
    unknown = value.isin(NO_LABEL)
    if labelled and unknown.any():
        raise DataError(f"{_line(manifest, table, unknown)}: label {table['label'][unknown].iloc[0]!r}: expected a class for every image")
    found = set(value[~unknown])
    if found <= set(PLAIN):
        spelled = PLAIN
    else:
        spelled = {name: min(said[value == name]) for name in found}
    return value.map(spelled).where(~unknown, "")
