"""The report: one file, the same numbers everywhere, nothing of the data taken for markup, nothing of a sealed patient."""

import base64
import csv
import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from analysis import calibration, performance_table, report, roc_curves
from analysis.material import read_material, without_folders
from analysis.page import Column, escaped, figure, page, sortable, table
from analysis.performance_table import write_performance
from analysis.predictions import trial_predictions
from analysis.report import SECTIONS, report_page, write_page
from analysis.roc_curves import write_roc_curves
from analysis.sections.audit import leak_checks
from analysis.sections.patients import patient_rows, worst_images
from data.errors import InputError
from study.records import read_trial, read_trials, write_json, write_status
from tests.analysis.browser import CHROMIUM, ask
from tests.analysis.studies import DATASET, development, patients_of, splits
from tests.analysis.trust_record import NOT_READY, made_up_trust

EVIL = "</script><script>alert(1)</script>"
BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """Intervals are not what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (performance_table, roc_curves, calibration):
            patch.setattr(module, "RESAMPLES", 40)
        yield


@pytest.fixture
def trust(trained_study):
    return made_up_trust(read_trials(trained_study))


@pytest.fixture(scope="module")
def material(trained_study):
    """Of the study, with pixels. Read only."""
    return read_material(trained_study, made_up_trust(read_trials(trained_study)), pictured())


@pytest.fixture(scope="module")
def written(trained_study, tmp_path_factory):
    """A copy of the study with its page, its card and their tables. Read only."""
    study = shutil.copytree(trained_study, tmp_path_factory.mktemp("report") / "tiny")
    assert write_page(study, made_up_trust(read_trials(study)), pictured()) == study / "report.html"
    return study


def pictured():
    """The study's development data with made-up pixels, each image of one grey: 3 times its row."""
    dataset = development()
    images = np.zeros((len(dataset.table), 32, 32, 3), np.uint8) + 3 * np.arange(len(dataset.table), dtype=np.uint8)[:, None, None, None]
    return replace(dataset, images=images, features=None)


def contents(text: str) -> list:
    """Every JSON of a page."""
    return [json.loads(found) for found in re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)]


def test_the_page_is_one_offline_file_with_the_answer_first(written, trust):
    text = (written / "report.html").read_text()
    assert len(text) < 5_000_000
    assert re.search(r"""(?:src|href)=["'](?!#|data:)""", text) is None and "url(" not in text.split("<body>")[0]
    anchors = re.findall(r'<section id="([^"]+)">', text)
    assert anchors[0] == "answer" and len(anchors) == len(SECTIONS) - 1  # one objective has no front
    assert [text.index(escaped(sentence)) for sentence in trust["sentences"]] == sorted(text.index(escaped(s)) for s in trust["sentences"])
    assert text.index(escaped(trust["sentences"][0])) < text.index('<section id="data">')
    assert "SYNTHETIC DATA" in text.split("<nav")[0].split("<body>")[1]


def test_every_figure_is_valid_plotly_and_says_in_words_what_it_shows(written):
    text = (written / "report.html").read_text()
    figures = [content for content in contents(text) if "layout" in content]
    assert len(figures) >= 11
    for content in figures:
        go.Figure(content)  # raises on a property that Plotly does not know
    spoken = re.findall(r'role="img" aria-label="([^"]*)"', text)
    assert len(spoken) == text.count('role="img"') == len(figures)
    assert min(len(words) for words in spoken) > 60
    assert len(re.findall(r"<figcaption><b>[^<]+\.</b> [^<]+", text)) == len(figures)  # and to whoever can see it


def test_text_of_the_data_is_never_markup(study, trust):
    write_status(study / "trials" / "0004", "failed", EVIL)
    about = json.loads((study / "study.json").read_text()) | {"name": EVIL}
    (study / "study.json").write_text(json.dumps(about))
    trust["notes"] = [EVIL]
    trust["recommended"]["params"] = {EVIL: EVIL}
    trust["tie_set"]["rows"][0]["trial"] = EVIL
    write_page(study, trust)
    text, card = (study / "report.html").read_text(), (study / "MODEL_CARD.md").read_text()
    assert "<script>alert" not in text and "</script><script>" not in text and "&lt;script&gt;" in text
    assert "<script>" not in card and "&lt;script&gt;" in card
    rows = next(content["rows"] for content in contents(text) if "rows" in content)
    assert any(EVIL in row for row in rows)  # in JSON, which the page's script shows as text


def test_a_sealed_patient_is_nowhere(written):
    text = (written / "report.html").read_text() + (written / "MODEL_CARD.md").read_text()
    text += "".join(path.read_text() for path in (written / "results" / "report").iterdir())
    assert not any(re.search(rf"\b{name}\b", text) for name in (*splits().test, *patients_of(splits().test)))
    assert all(patient in text for patient in patients_of(splits().development()))


def test_the_sealed_test_is_shown_as_a_whole_once_it_was_opened(study, trust):
    assert "4 slides are sealed. They have not been opened" in report_page(read_material(study, trust))
    opened = {
        "opened": "2026-01-02T03:04:05+0000",
        "slides": 4,
        "fingerprint": "f",
        "fold_models": 2,
        "views": 8,
        "synthetic": True,
        "patients": [{"patient": name} for name in patients_of(splits().test)],
        "metrics": {"patient_auc": {"value": 0.75, "low": 0.5, "high": 1.0}},
        "interval": "made up",
    }
    write_json(study / "results" / "sealed_test.json", opened)
    write_page(study, trust)
    for name in ("report.html", "MODEL_CARD.md"):
        text = (study / name).read_text()
        assert "2026-01-02" in text and "0.750 (0.50–1.00)" in text and not any(slide in text for slide in splits().test)
    write_json(study / "results" / "sealed_test.json", [opened, opened | {"opened": "2026-05-06T07:08:09+0000"}])
    write_page(study, trust)
    for name in ("report.html", "MODEL_CARD.md"):
        text = (study / name).read_text()
        assert "This is opening 2; those before were on 2026-01-02" in text and "Opened on 2026-05-06" in text


def test_pixels_of_sealed_patients_or_of_another_data_set_are_out_of_reach(trained_study, trust):
    whole = replace(DATASET, images=np.arange(len(DATASET.table), dtype=np.uint8)[:, None, None, None], features=None)
    pixels = read_material(trained_study, trust, whole).pixels
    assert pixels is not None and set(pixels.slide.tolist()) == set(splits().development())
    shown = [int(pixels.tile(row)[0, 0, 0]) for row in range(len(pixels.slide))]
    assert DATASET.table.slide[shown].tolist() == development().table.slide.tolist()  # each row shows the slide it names
    assert read_material(trained_study, trust, replace(whole, fingerprint="other")).pixels is None


def test_thumbnails_are_those_of_the_worst_patients(material, written):
    assert "data:image/jpeg" not in report_page(replace(material, pixels=None))
    table, judged, text = development().table, material.judged.predictions, (written / "report.html").read_text()
    gallery = text[text.index('<div class="gallery">') :].split("</section>")[0]
    patients = re.findall(r"<figure>(.*?)<figcaption>(.*?):", gallery, re.S)
    assert [name for _, name in patients] == [row[0] for row in patient_rows(material.judged)]
    for pictures, name in patients:
        tiles = re.findall(r'alt="(\d+)X image of ([^,]+),[^"]*" src="data:image/jpeg;base64,([^"]*)"', pictures)
        rows = [round(float(np.asarray(Image.open(io.BytesIO(base64.b64decode(jpeg)))).mean()) / 3) for _, _, jpeg in tiles]
        views = np.flatnonzero(judged.patient == name)
        worst = max(views.tolist(), key=lambda view: abs(judged.probability[view] - judged.label[view]))
        assert rows == judged.rows[worst].tolist()
        assert [(int(magnification), told) for magnification, told, _ in tiles] == [(table.magnification[row], name) for row in rows]


def test_the_most_wrong_view_comes_first_and_each_image_once():
    rows = np.array([[0, 5], [1, -1], [2, 5]])
    assert worst_images(rows, np.array([0.9, 0.2, 0.5]), label=1) == [(1, 0), (2, 0), (2, 1), (0, 0)]
    assert worst_images(rows, np.array([0.9, 0.2, 0.5]), label=0, count=2) == [(0, 0), (0, 1)]


def test_patients_are_listed_by_their_loss(material):
    judged = material.judged
    rows = patient_rows(judged)
    level = trial_predictions(judged.record).level("patient")
    assert {row[0] for row in rows} == set(level.patient.tolist())
    assert [row[-1] for row in rows] == sorted((row[-1] for row in rows), reverse=True)
    assert all((row[9] == "right") == (row[8] == row[3]) for row in rows)
    for row in rows:
        label, probability = (column[level.patient == row[0]][0] for column in (level.label, level.probability))
        assert (row[3], row[6]) == (("benign", "malignant")[label], pytest.approx(probability, abs=1e-4))
        assert row[-1] == pytest.approx(-np.log(probability if label else 1 - probability), abs=1e-4)


def test_the_recommended_trial_is_the_one_that_is_judged(trained_study):
    records = read_trials(trained_study)
    for place, name in enumerate(("0001", "0000")):
        assert read_material(trained_study, made_up_trust(records, recommended=place)).judged.name == name


def test_page_card_and_tables_say_the_same_numbers(written, trust):
    study = written
    text, card = (study / "report.html").read_text(), (study / "MODEL_CARD.md").read_text()
    with (study / "results" / "report" / "performance.csv").open() as file:
        rows = {(row["level"], row["metric"]): row for row in csv.DictReader(file)}
    auc = rows["patient", "auc"]
    shown = f"{float(auc['pooled']):.3f} ({float(auc['low']):.2f}–{float(auc['high']):.2f})"
    assert shown in text and shown in card
    corrected = trust["corrected"]["recommended"]["log_loss"]
    shown = f"{corrected['value']:.3f} ({corrected['low']:.2f}–{corrected['high']:.2f})"
    assert shown in text and shown in card
    with (study / "results" / "report" / "thresholds.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["level"] == "patient" and row["rule"] == "max F1")
    assert f"{float(row['balanced_accuracy_honest']):.3f}" in card
    for sentence in trust["sentences"]:
        assert escaped(sentence) in text and sentence.split(",")[0] in card


def test_of_the_best_trial_they_are_those_of_eval(study, written):
    write_performance(study)
    write_roc_curves(study)
    for name in ("performance.csv", "roc_curves.csv"):  # the page's recommends the best
        assert (study / "results" / name).read_bytes() == (written / "results" / "report" / name).read_bytes()


def test_a_study_that_runs_says_so_and_one_without_a_score_has_a_report_too(study, trust):
    write_status(study / "trials" / "0002", "running", "")
    assert "still running" in report_page(read_material(study, trust))
    for folder in (study / "trials").glob("000[0-4]"):
        write_status(folder, "failed", "no luck")
    write_page(study, NOT_READY)
    text = (study / "report.html").read_text()
    assert "There is no answer yet: no trial has predictions on record yet." in text and "no luck" in text


def test_a_training_without_a_search_is_reported_without_ranks(study):
    about = json.loads((study / "study.json").read_text()) | {"verb": "main"}
    (study / "study.json").write_text(json.dumps(about))
    text = report_page(read_material(study, NOT_READY))
    assert "nothing was chosen" in text and 'id="importance"' not in text and 'id="roc"' in text


def leaked(material, column, value):
    """The material, where the first view says otherwise."""
    predictions = material.judged.predictions
    changed = getattr(predictions, column).copy()
    changed[0] = value(predictions)
    return replace(material, judged=material.judged._replace(predictions=replace(predictions, **{column: changed})))


def redealt(material, folds):
    return replace(
        material, about=material.about | {"splits": material.about["splits"] | {"folds": folds(material.about["splits"]["folds"])}}
    )


LEAKS = {
    "every slide stands in one part only": lambda m: redealt(m, lambda folds: [[*folds[0], splits().test[0]], folds[1]]),
    "1 patients stand in two parts (12)": lambda m: replace(m, about=m.about | {"patient_leaks": {"12": ["fold 1", "test"]}}),
    "no prediction of the search is of a sealed slide": lambda m: leaked(m, "slide", lambda _: splits().test[0]),
    "every slide was evaluated by the network of one fold": lambda m: leaked(m, "fold", lambda p: 1 - p.fold[0]),
    "the folds of the predictions are those that": lambda m: redealt(m, lambda folds: folds[::-1]),
    "every slide has one class": lambda m: leaked(m, "label", lambda p: 1 - p.label[0]),
    "every image belongs to one slide": lambda m: leaked(m, "rows", lambda p: p.rows[p.slide != p.slide[0]][0]),
}


@pytest.mark.parametrize("words", LEAKS)
def test_the_audit_sees_a_leak(material, words):
    sound, checks = leak_checks(material), leak_checks(LEAKS[words](material))
    assert len(sound) == len(checks) == len(LEAKS) and all(holds for holds, _ in sound)
    assert any(said.startswith(words) for holds, said in checks if not holds)


def test_folders_are_left_out_of_reasons():
    assert without_folders("cannot read /data/My Patients/a.png: bad") == "cannot read …/a.png: bad"
    assert without_folders(r"C:\data\me\x.png") == "…/x.png"
    assert without_folders("below the best 1/3 of 2/5, and/or") == "below the best 1/3 of 2/5, and/or"


def test_pixels_come_from_the_data_set_of_the_study_or_not_at_all(study, synthetic_root):
    about = json.loads((study / "study.json").read_text())
    assert report.open_pixels(study) is None  # no path on record
    about["data"]["path"] = str(synthetic_root)
    (study / "study.json").write_text(json.dumps(about))
    assert report.open_pixels(study) is not None
    about["data"]["path"] = str(synthetic_root / "gone")
    (study / "study.json").write_text(json.dumps(about))
    assert report.open_pixels(study) is None


def test_there_is_no_report_without_a_study(tmp_path):
    with pytest.raises(InputError, match=r"study\.json"):
        write_page(tmp_path, NOT_READY)


def test_words_are_escaped_by_every_part_of_a_page():
    assert escaped("a<b>&\"'") == "a&lt;b&gt;&amp;&quot;&#x27;" and escaped(None) == escaped(float("nan")) == "–"
    made = [
        table([EVIL], [[EVIL]], EVIL),
        sortable("t", [Column(EVIL)], [[EVIL]], EVIL),
        figure(EVIL, [{"type": "scatter", "name": EVIL, "y": [float("nan")]}], {}, EVIL),
    ]
    for part in made:
        assert "<script>alert" not in part and part.count("</script>") == part.count("<script type")
    assert "<script>alert" not in page(EVIL, EVIL, [])


@pytest.mark.slow
@BROWSER
def test_a_browser_opens_it_without_a_complaint_and_tables_sort_filter_and_print(study, trust, tmp_path):
    write_status(study / "trials" / "0004", "failed", EVIL)
    path = write_page(study, trust, pictured())
    question = """
      const rows = () => [...document.querySelectorAll("#trials tbody tr")].map(row => [...row.cells].map(cell => cell.textContent));
      const header = title => [...document.querySelectorAll("#trials th button")].find(button => button.textContent.startsWith(title));
      const search = document.querySelector("#trials input[type=search]");
      const found = {plots: document.querySelectorAll(".plot").length, drawn: document.querySelectorAll(".plot .main-svg:first-child").length, first: rows()};
      header("seconds").click(); found.up = rows().map(row => row[1]); header("seconds").click(); found.down = rows().map(row => row[1]);
      search.value = "failed"; search.dispatchEvent(new Event("input")); found.failed = rows().map(row => row[1]);
      dispatchEvent(new Event("beforeprint")); found.printed = rows().length;
      const wide = [...document.querySelectorAll(".plot .main-svg")].map(svg => svg.clientWidth);
      return Object.assign(found, {widest: Math.max(...wide), images: [...document.images].every(image => image.naturalWidth > 0)});
    """
    found = ask(path, question, tmp_path)
    assert found["problems"] == []
    answer = found["answer"]
    assert answer["plots"] == answer["drawn"] >= 11 and answer["widest"] <= 700 and answer["images"]
    assert len(answer["first"]) == answer["printed"] == 5 and any(EVIL in row for row in answer["first"])
    seconds = {record.name: round(record.seconds, 2) for record in map(read_trial, sorted((study / "trials").glob("000[0-4]")))}
    assert [seconds[name] for name in answer["up"]] == sorted(seconds.values())
    assert [seconds[name] for name in answer["down"]] == sorted(seconds.values(), reverse=True)
    assert sorted(answer["failed"]) == ["0003", "0004"]
