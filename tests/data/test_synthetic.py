"""Synthetic BreakHis: the real layout, invented tissue, and a truth that is as hard to find as promised."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from data.cache import cache_root
from data.errors import DataError
from data.grammar import BENIGN, SUBTYPES, parse
from data.sources import SYNTHETIC_MARKER, open_source
from data.store import load_dataset
from data.synthetic import best_auc, default_synthetic, generate
from data.table import build_table

KNOWLEDGE = {40: 0.9, 100: 0.0, 200: 0.5, 400: 0.7}
PATIENTS = 300


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """300 patients with one small image a magnification."""
    return generate(tmp_path_factory.mktemp("many"), patients=PATIENTS, images=1, size=32, seed=1, knowledge=KNOWLEDGE)


@pytest.fixture(scope="module")
def truth(many):
    """(labels (C,), {magnification: evidence (C,)}) as written."""
    patients = json.loads((many / SYNTHETIC_MARKER).read_text())["patients"]
    labels = np.array([patient["label"] for patient in patients.values()])
    return labels, {m: np.array([patient["evidence"][str(m)] for patient in patients.values()]) for m in KNOWLEDGE}


def sampling_error(auc, labels):
    """Standard error of an AUC, of which noise that is exactly centred and scaled takes a part. Hanley & McNeil, Radiology 1982."""
    positive, negative = labels.sum(), (1 - labels).sum()
    spread = (positive - 1) * (auc / (2 - auc) - auc**2) + (negative - 1) * (2 * auc**2 / (1 + auc) - auc**2)
    return np.sqrt((auc * (1 - auc) + spread) / (positive * negative))


def test_layout_and_names_are_those_of_breakhis(synthetic_root):
    files = sorted(synthetic_root.rglob("*.png"))
    for file in files:
        name = parse(file.name)
        kind = name.kind
        folder = f"BreaKHis_v1/histology_slides/breast/{kind}/SOB/{SUBTYPES[name.subtype]}/{name.slide}/{name.magnification}X"
        assert file.parent.relative_to(synthetic_root).as_posix() == folder
        assert (name.subtype in BENIGN) == (name.kind == "benign")
    slides = 12 + 12 // 5  # every fifth patient has two
    assert len(files) == slides * 4 * 3


def test_the_truth_is_written_for_every_patient(synthetic_root):
    marker = json.loads((synthetic_root / SYNTHETIC_MARKER).read_text())
    label_of = {name.patient: int(name.kind == "malignant") for name in map(parse, (file.name for file in synthetic_root.rglob("*.png")))}
    assert marker["synthetic"] is True and marker["seed"] == 0
    assert {patient: truth["label"] for patient, truth in marker["patients"].items()} == label_of
    assert sum(label_of.values()) == round(0.6 * 12)
    assert all(set(truth["evidence"]) == {"40", "100", "200", "400"} for truth in marker["patients"].values())


def test_a_loaded_synthetic_data_set_says_that_it_is_synthetic(synthetic_root, own_cache):
    assert load_dataset(synthetic_root, 32).synthetic is True  # as scanned
    assert load_dataset(synthetic_root, 32).synthetic is True  # from the cache


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    def contents(name, seed):
        root = generate(tmp_path / name, patients=4, images=1, size=32, seed=seed)
        return {file.relative_to(root): file.read_bytes() for file in root.rglob("*.*") if file.is_file()}

    first = contents("first", 3)
    assert len(first) == 4 * 4 + 1 and first == contents("again", 3)
    assert not set(first.values()) & set(contents("other", 4).values())


def test_the_default_data_set_is_generated_once(monkeypatch):
    root = default_synthetic()
    assert cache_root() in root.parents
    monkeypatch.setattr("data.synthetic.generate", lambda *_, **__: pytest.fail("generated again"))
    assert default_synthetic() == root
    rows, problems = open_source(root).rows()
    assert not problems
    counts = build_table(list(rows.values())).counts()
    assert (counts["patients"], counts["slides"], counts["images"]) == (40, 48, 48 * 4 * 6)


def test_best_auc_is_that_of_two_normal_distributions():
    assert best_auc({40: 0.0}) == 0.5
    assert best_auc({40: 0.9}) == pytest.approx(0.8985, abs=1e-4)  # Φ(√2 · 0.9) = Φ(1.2728)
    assert best_auc({40: 0.3, 100: 0.4}) == pytest.approx(best_auc({40: 0.5}))  # knowledge adds as squares


@pytest.mark.parametrize("magnification", [40, 200, 400])
def test_the_evidence_of_a_magnification_ranks_patients_as_promised(truth, magnification):
    labels, evidence = truth
    promised = best_auc({magnification: KNOWLEDGE[magnification]})
    assert abs(roc_auc_score(labels, evidence[magnification]) - promised) < sampling_error(promised, labels)


def test_a_magnification_without_knowledge_ranks_by_chance(truth):
    labels, evidence = truth
    assert abs(roc_auc_score(labels, evidence[100]) - 0.5) < sampling_error(0.5, labels)


def test_all_evidence_together_ranks_patients_as_promised_and_better_than_any_alone(truth, many):
    labels, evidence = truth
    together = roc_auc_score(labels, sum(k * evidence[m] for m, k in KNOWLEDGE.items()))
    promised = json.loads((many / SYNTHETIC_MARKER).read_text())["best_auc"]
    assert promised == best_auc(KNOWLEDGE)
    assert abs(together - promised) < sampling_error(promised, labels)
    assert together > max(roc_auc_score(labels, values) for values in evidence.values())


def test_images_show_the_evidence(many, truth):
    dataset = load_dataset(many, 32)
    _, evidence = truth
    density = -np.log(np.clip(dataset.images[..., 0].astype(float), 1, None) / 255).mean((1, 2))  # red: absorbed by nuclei
    for magnification, planted in evidence.items():
        rows = dataset.table.magnification == magnification
        shown = planted[dataset.table.patient[rows].astype(int) - 10001]
        assert np.corrcoef(density[rows], shown)[0, 1] > 0.75


def test_unknown_magnifications_and_too_few_patients_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"knowledge of \[40, 50\]; expected at least 4 patients and 40, 100, 200, 400"):
        generate(tmp_path, patients=8, images=1, size=32, seed=0, knowledge={40: 1.0, 50: 1.0})
    with pytest.raises(DataError, match="3 patients with .* expected at least 4"):
        generate(tmp_path, patients=3, images=1, size=32, seed=0)
