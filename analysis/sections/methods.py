"""Words for a paper, with their references, and all that is needed to do it again."""

from pathlib import Path
from typing import Any

from analysis.material import Material
from analysis.page import Html, Section, escaped, heading, joined, pairs, paragraph
from analysis.sections.answer import metric_name
from mmnet.config import Config, field_paths, get_value, text_of

REFERENCES = {
    "breakhis": "Spanhol FA, Oliveira LS, Petitjean C, Heutte L. A dataset for breast cancer histopathological image classification. IEEE Transactions on Biomedical Engineering 63:1455–1462, 2016.",
    "optuna": "Akiba T, Sano S, Yanase T, Ohta T, Koyama M. Optuna: a next-generation hyperparameter optimization framework. KDD 2019.",
    "tpe": "Bergstra J, Bardenet R, Bengio Y, Kégl B. Algorithms for hyper-parameter optimization. NeurIPS 2011.",
    "asha": "Li L, Jamieson K, Rostamizadeh A, et al. A system for massively parallel hyperparameter tuning. MLSys 2020.",
    "ray": "Liaw R, Liang E, Nishihara R, Moritz P, Gonzalez JE, Stoica I. Tune: a research platform for distributed model selection and training. arXiv:1807.05118, 2018.",
    "timm": "Wightman R. PyTorch image models. github.com/huggingface/pytorch-image-models, 2019.",
    "focal": "Lin TY, Goyal P, Girshick R, He K, Dollár P. Focal loss for dense object detection. ICCV 2017.",
    "adamw": "Loshchilov I, Hutter F. Decoupled weight decay regularization. ICLR 2019.",
    "bbc": "Tsamardinos I, Greasidou E, Borboudakis G. Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation. Machine Learning 107:1895–1922, 2018.",
    "bootstrap": "Efron B, Tibshirani RJ. An introduction to the bootstrap. Chapman & Hall, 1993.",
    "temperature": "Guo C, Pleiss G, Sun Y, Weinberger KQ. On calibration of modern neural networks. ICML 2017.",
    "pedanova": "Watanabe S, Bansal A, Hutter F. PED-ANOVA: efficiently quantifying hyperparameter importance in arbitrary subspaces. IJCAI 2023.",
    "fanova": "Hutter F, Hoos H, Leyton-Brown K. An efficient approach for assessing hyperparameter importance. ICML 2014.",
    "roc": "Fawcett T. An introduction to ROC analysis. Pattern Recognition Letters 27:861–874, 2006.",
}


class _Cited:
    """Numbers references in the order in which they are cited."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def __call__(self, *keys: str) -> str:
        self.keys += [key for key in keys if key not in self.keys]
        return "[" + ",".join(str(self.keys.index(key) + 1) for key in keys) + "]"

    def listed(self) -> list[str]:
        return [f"{place}. {REFERENCES[key]}" for place, key in enumerate(self.keys, start=1)]


def methods(material: Material) -> Section:
    text = "\n\n".join(methods_text(material))
    return Section("methods", "Methods", joined(paragraph("Ready to paste.", kind="note"), Html(f"<pre>{escaped(text)}</pre>")))


def methods_text(material: Material) -> list[str]:
    """Paragraphs, the references last."""
    cite = _Cited()
    parts = [_data(material, cite), _network(material.about["config"], cite)]
    if material.searched:
        parts.append(_search(material, cite))
    parts += [_statistics(material, cite), "References\n" + "\n".join(cite.listed())]
    return parts


def _data(material: Material, cite: _Cited) -> str:
    about, config = material.about, material.about["config"]["data"]
    data, splits = about["data"], about["splits"]
    breakhis = any(slide.startswith("SOB_") for fold in splits["folds"] for slide in fold)
    patients = about.get("sealed_patients")  # earlier versions recorded slides only
    sealed_ones = f"{len(patients)} patients" if patients else f"{len(splits['test'])} slides"
    source = "Synthetic images (no patients)" if data["synthetic"] else f"BreakHis {cite('breakhis')}" if breakhis else "Histology images"
    counts = f": {data['images']} images of {data['slides']} slides of {data['patients']} patients" if "images" in data else ""
    sealed = (
        f"{sealed_ones} were sealed as a test before the search and took no part in it"
        if splits["test"]
        else "No patients were sealed as a test"
    )
    unit = "patient, so that all slides of a patient stand in one part" if splits["grouping"] == "patient" else "slide"
    shown = ", ".join(f"{m}X" for m in config["magnifications"])
    return (
        f"Data. {source}{counts}, magnification {shown}, resized to {config['image_size']} px. {sealed}. The others were dealt into "
        f"{len(splits['folds'])} folds, stratified by class and grouped by {unit} (seed {config['split_seed']})."
    )


def _network(config: dict[str, Any], cite: _Cited) -> str:
    model, optim, loss = config["model"], config["optim"], config["loss"]
    weights = model["weights"]
    start = "with random weights" if weights is None else f"with weights {Path(str(weights)).name}"
    trained = "frozen" if model["frozen"] else "trained"
    library = f" {cite('timm')}" if model["backbone"].startswith("timm:") else ""
    named = f"focal loss {cite('focal')}" if loss["name"] == "focal" else "cross-entropy"
    return (
        f"Network. MMNet fuses one image of each magnification of a patient; the backbone {model['backbone']}{library} ({start}) is {trained}. Base configuration: "
        f"{named}, AdamW {cite('adamw')}, at most {optim['epochs']} epochs, the best epoch by out-of-fold {metric_name(config['metric'])}, common to all folds. "
        "The probability of a patient is the mean over the patient's views, each by the network of the fold that did not train on the patient."
    )


def _search(material: Material, cite: _Cited) -> str:
    settings, rungs = material.about.get("settings", {}), material.about.get("rungs") or []
    searched = len(dict.fromkeys(path for record in material.records for path in record.params))
    share, at = f"the best 1/{settings.get('eta', 3)}", f"at epochs {', '.join(map(str, rungs))}"
    if not rungs:
        stopping = "no trial was stopped early"
    elif settings.get("scheduler") == "promote":
        stopping = f"by asynchronous successive halving {cite('asha')} trials rested {at} and {share} of each went on, at the end at least three"
    else:
        stopping = f"asynchronous successive halving {cite('asha')} stopped all but {share} {at}"
    return (
        f"Search. {len(material.records)} configurations of {searched} parameters (space {settings.get('space', 'unknown')}) were proposed by the tree-structured "
        f"Parzen estimator {cite('tpe')} of Optuna {cite('optuna')} and run by Ray Tune {cite('ray')}, judged by {metric_name(material.metric)} over all folds' out-of-fold "
        f"predictions; {stopping}."
    )


def _statistics(material: Material, cite: _Cited) -> str:
    trust = material.trust
    chosen = ""
    if material.searched and trust["ready"]:
        chosen = (
            f" The score of the chosen configuration was corrected for the choice by {trust['corrected']['method']} {cite('bbc')}. Configurations were called tied by "
            f"{trust['tie_set']['method']}; {trust['recommended']['rule'].rstrip('.')}. Parameter importance is by PED-ANOVA {cite('pedanova')} and fANOVA {cite('fanova')}."
        )
    return (
        f"Statistics. The patient is the unit of every interval: 95 % bootstrap intervals over patients, stratified by class {cite('bootstrap')}.{chosen} Bands of ROC and precision-recall "
        f"curves are pointwise {cite('roc')}. Thresholds and the temperature of calibration {cite('temperature')} were fitted on the other folds."
    )


def versions(material: Material) -> Section:
    about = material.about
    config = Config().with_values(about["config"])
    rows = [[path, _value(path, get_value(config, path))] for path in field_paths()]
    return Section(
        "versions",
        "Versions and seeds",
        joined(
            pairs(reproduction_rows(material)),
            heading("Base configuration"),
            paragraph("What no trial varied; a trial's own values stand in the leaderboard.", kind="note"),
            pairs(rows),
        ),
    )


def reproduction_rows(material: Material) -> list[list[str]]:
    """[what, value] of seeds, fingerprint, settings and versions."""
    about, config = material.about, material.about["config"]
    settings = {name: value for name, value in about.get("settings", {}).items() if value not in (None, []) and name != "members"}
    members = about.get("settings", {}).get("members", {})
    rows = [
        ["study", about["name"]],
        ["begun", about.get("created", "not on record")],
        ["data fingerprint", about["data"]["fingerprint"]],
        ["seed of training and search", str(config["seed"])],
        ["seed of the partition", str(config["data"]["split_seed"])],
        *([name.replace("_", " "), str(value)] for name, value in settings.items()),
        *(
            [f"member {name}", ", ".join(f"{path}={_value(path, value)}" for path, value in params.items()) or "the configuration as it is"]
            for name, params in members.items()
        ),
    ]
    return rows + [[name, str(version)] for name, version in about.get("versions", {}).items()]


def _value(path: str, value: Any) -> str:
    """A value as text; of a file its name only."""
    text = str(text_of(value))
    return Path(text).name if path in ("model.weights", "data.splits") and value is not None else text
