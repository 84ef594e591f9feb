"""Flags, --set, spaces, names: what the command line itself can get wrong, before anything is read."""

from pathlib import Path

import pytest

from tests.faults.corpus import Bad, has_remedy, hold

SMALL = "--backbone tiny --weights none --image-size 32 --folds 2 --epochs 4 --set model.width=8 --set model.heads=2"
START = f"--output {{root}}/output --data {{data}} {SMALL}"

# verb, arguments, what the message holds. Which values a field takes is tests/mmnet/test_config.py's; here each kind of mistake stands once.
ROWS: list[tuple[str, ...]] = [
    ("tune", "--folds 1", "data.folds = 1: expected 2 to 50"),
    ("tune", "--folds two", "--folds", "'two'"),
    ("tune", "--folds", "--folds", "expected one argument"),
    ("tune", "--folds 30", "patients of class benign for 30 folds and a sealed test: expected at least 31", "lower --folds"),
    ("tune", "--test-fraction 0.9", "data.test_fraction = 0.9: expected 0 to below 0.9"),
    ("tune", "--test-fraction half", "--test-fraction", "'half'"),
    ("tune", "--test-fraction nan", "data.test_fraction = nan: expected a finite number"),
    ("tune", "--test-fraction 0.85", "1 patients of class benign for 2 folds after 14 are sealed: expected at least 2", "lower --folds or --test-fraction"),
    ("tune", "--epochs 0", "optim.epochs = 0: expected 1 to 10000"),
    ("tune", "--image-size 31", "data.image_size = 31: expected 32 to 1024"),
    ("tune", "--magnifications 40,80", "magnifications 80: the data set {data} has no such image", "pass --magnifications 40,100,200,400"),
    ("tune", "--magnifications 100,40", "data.magnifications = (100, 40): expected increasing"),
    ("tune", "--magnifications ,", "--magnifications", "','", "such as 40,100,200,400"),
    ("tune", "--magnifications 40;100", "--magnifications", "'40;100'"),
    ("tune", "--metric f7", "metric = 'f7': expected one of log_loss"),
    ("tune", "--metric log_loss,euros", "--metric log_loss,euros: unknown objective 'euros': expected one of log_loss"),
    ("tune", "--grouping hospital", "data.grouping = 'hospital': expected one of patient, slide"),
    ("tune", "--backbone resnet19", "model.backbone = 'resnet19' is unknown", "near: resnet18"),
    ("tune", "--backbone timm:resnet9999", "model.backbone = 'timm:resnet9999' is unknown"),
    ("tune", "--weights imagenet", "model.weights = 'imagenet': the tiny backbone has no weights", "pass --weights none"),
    ("tune", "--backbone resnet18 --weights {root}/nowhere.pth", "model.weights = '{root}/nowhere.pth': no such file"),
    ("tune", "--dry-run --weights imagenet", "model.weights = 'imagenet': the tiny backbone has no weights", "pass --weights none"),
    ("tune", "--dry-run --backbone resnet18 --weights {root}/nowhere.pth", "model.weights = '{root}/nowhere.pth': no such file"),
    ("tune", "--seed -1", "seed = -1: expected 0 to 2147483647"),
    ("tune", "--splits official:9", "splits official:9: expected official:1 to official:5"),
    ("tune", "--splits official:1", "splits official:1", "not in the official folds", "leave --splits out"),
    ("tune", "--splits {root}/nowhere.json", "splits {root}/nowhere.json: cannot read it: No such file"),
    ("tune", "--space everything", "--space everything: expected one of ablation, dropout, focal"),
    ("tune", "--space space", "--space space"),
    ("tune", "--space ../full", "--space ../full"),
    ("tune", "--trials 0", "--trials 0: expected at least 1"),
    ("tune", "--time-budget soon", "--time-budget soon: expected a duration such as 90s"),
    ("tune", "--time-budget 0", "--time-budget 0: expected a duration"),
    ("tune", "--time-budget -5m", "--time-budget", "expected one argument"),
    ("tune", "--gpus-per-trial -1", "--gpus-per-trial -1.0: expected a number from 0 on"),
    ("tune", "--gpus-per-trial half", "--gpus-per-trial half: expected a number such as 0.5, or auto"),
    ("tune", "--gpus-per-trial inf", "--gpus-per-trial inf: expected a number from 0 on"),
    ("tune", "--cpus-per-trial 0", "--cpus-per-trial 0.0: expected more than 0"),
    ("tune", "--cpus-per-trial nan", "--cpus-per-trial nan: expected more than 0"),
    ("tune", "--cpus-per-trial inf", "--cpus-per-trial inf"),
    ("tune", "--concurrency 0", "--concurrency 0: expected at least 1"),
    ("tune", "--concurrency all", "--concurrency all: expected a whole number, or auto"),
    ("tune", "--scheduler hyperband", "--scheduler hyperband: expected one of"),
    ("tune", "--eta 1", "--eta 1: expected at least 2"),
    ("tune", "--max-cost 0", "--max-cost 0.0: expected more than 0"),
    ("tune", "--max-failures -1", "--max-failures -1: expected 0 or more"),
    ("tune", "--disk-budget -1", "--disk-budget -1.0: expected 0 or more GiB"),
    ("tune", "--warm-start nothing", "study nothing: no readable study.json"),
    ("tune", "--retry-failed", "--retry-failed: a new study has no failed trials", "pass --resume"),
    ("tune", "--config {root}/nowhere", "--config {root}/nowhere: no such file", "one of published, synthetic"),
    ("tune", "--config {data}", "--config {data}: no YAML file in that folder"),
    ("tune", "--name ../up", "--name ../up: expected letters"),
    ("tune", "--name .hidden", "--name .hidden: expected letters"),
    ("tune", "--name a/b", "--name a/b: expected letters"),
    ("tune", "--name 'a b'", "--name a b: expected letters"),
    ("tune", "--data {root}/nowhere", "data {root}/nowhere: no such folder or file", "pass --data DIR"),
    ("tune", "--data pyproject.toml", "data pyproject.toml: expected a folder, an archive"),
    ("tune", "--output /dev/null", "--output /dev/null: cannot write there: Not a directory", "pass another --output"),
    ("tune", "--output /dev/null/deeper", "--output /dev/null/deeper: cannot write there: Not a directory"),
    ("tune", "--trails 3", "unrecognized arguments: --trails 3"),
    ("tune", "extra", "unrecognized arguments: extra"),
    ("tune", "--resume --name nothing", "study nothing: no readable study.json in {root}/output/nothing"),
    ("tune", "--resume", "no study stands in {root}/output", "pass --output DIR"),
    ("tune", "--data ''", "--data is empty: expected a value"),
    ("tune", "--metric ''", "--metric is empty: expected a value"),
    ("main", "--single-mag 50", "--single-mag 50: expected all or one of 40, 100, 200, 400"),
    ("main", "--single-mag ''", "--single-mag is empty: expected a value"),
    ("main", "--single-mag 40 --magnifications 40", "--single-mag 40", "at least two magnifications"),
    ("main", "--single-mag 40 --magnifications 100,200", "--single-mag 40: expected all or one of 100, 200"),
    ("main", "--nested 1", "--nested 1: expected at least 2 outer folds"),
    ("main", "--nested 30", "--nested 30", "patients of class benign for 30 folds"),
    ("main", "--repeats 1", "--repeats 1: expected at least 2"),
    ("main", "--repeats 3 --again", "--again: nested and repeated cross-validation leave the sealed test closed"),
    ("main", "--again --test-fraction 0", "--again: the study has no sealed test", "leave --again out"),
    ("main", "--single-mag all --nested 3", "--nested", "not allowed with argument --single-mag"),
    ("main", "--resume --name nothing", "study nothing: no readable study.json"),
]
SET = [
    ("loss.gama=1", "unknown configuration key 'loss.gama': did you mean loss.gamma?"),
    ("los.gamma=1", "unknown configuration key 'los': did you mean loss.name?"),
    ("optim.amp=3", "unknown configuration key 'optim.amp'"),  # the name of an earlier version
    ("loss.gamma", "--set loss.gamma: expected key=value"),
    ("=3", "--set =3: expected key=value"),
    ("loss.gamma=", "loss.gamma = None: expected a finite number"),
    ("loss.gamma=-1", "loss.gamma = -1.0: expected 0 to 10"),
    ("loss.gamma=nan", "loss.gamma = 'nan': expected a finite number"),
    ("loss.gamma=.inf", "loss.gamma = inf: expected a finite number"),
    ("loss.gamma=1e999", "loss.gamma = '1e999': expected a finite number"),
    (f"loss.gamma={'9' * 400}", "loss.gamma = 999", "expected a finite number"),
    (f"seed={'9' * 5000}", "--set seed=999", "expected YAML"),
    ("loss.gamma=[1", "--set loss.gamma=[1: expected YAML"),
    ("loss.gamma=2020-13-45", "--set loss.gamma=2020-13-45: expected YAML: month must be"),
    ("seed=2020-01-01", "seed = datetime.date(2020, 1, 1): expected a whole number"),
    ("loss=3", "loss = 3: expected a section with keys name, alpha"),
    ("loss={gama: 1}", "unknown configuration key 'loss.gama'"),
    ("loss={gamma: 1, gamma: 2}", "key 'gamma' stands twice"),
    ("loss.gamma.deep=3", "loss.gamma = {'deep': 3}: expected a finite number"),
    ("loss.name=hinge", "loss.name = 'hinge': expected one of focal, cross_entropy"),
    ("loss.name=3", "loss.name = 3: expected text"),
    ("model.frozen=maybe", "model.frozen = 'maybe': expected true or false"),
    ("model.heads=3", "model.heads = 3: expected a divisor of model.width = 8"),
    ("model.input_size=64", "model.input_size = 64: expected at most data.image_size = 32"),
    ("model.pool_scales=[]", "model.pool_scales = (): expected sides in cells such as [1, 2, 4]"),
    ("model.pool_scales=[0, 2]", "model.pool_scales = (0, 2): expected sides in cells such as [1, 2, 4]"),
    ("model.pool_scales=3", "model.pool_scales = 3: expected a list, each a whole number"),
    ("model.pool_scales=[a]", "model.pool_scales = 'a': expected a whole number"),
    ("model.pool_scales=[&a 1, *a]", "alias (*name), expected the value itself"),
    (f"model.pool_scales={'[' * 1000}", "brackets within brackets"),
    ("loss.gamma=!!python/object/apply:os.getcwd []", "could not determine a constructor"),
]


def started(verb: str, arguments: str) -> str:
    """A command that would start a study; `--resume` is given no configuration."""
    shared = "--output {root}/output" if "--resume" in arguments else START
    return f"{verb} {shared} {arguments}"


CORPUS = [Bad(started(verb, arguments), tuple(words)) for verb, arguments, *words in ROWS]
CORPUS += [Bad(started("tune", f"--set '{assignment}'"), tuple(words)) for assignment, *words in SET]
CORPUS += [
    Bad(command, tuple(words))
    for command, *words in (
        ("eval --output {root}", "no study stands in {root}"),
        ("eval --output {root} --study nothing", "study nothing: no readable study.json in {root}/nothing"),
        ("eval --output {root} --nonsense", "unrecognized arguments: --nonsense"),
        ("analysis", "the following arguments are required: VERB"),
        ("analysis report", "the following arguments are required: STUDY"),
        ("analysis compare x", "the following arguments are required: STUDY"),
        ("analysis dance x", "'dance'", "'report', 'compare'"),
        ("analysis best x --n many", "--n", "'many'"),
        ("analysis report nothing --output {root}", "study nothing: no readable study.json"),
    )
]


@pytest.mark.parametrize("bad", CORPUS, ids=lambda bad: bad.name)
def test_a_bad_argument_is_one_clear_line(bad: Bad, tmp_path: Path, data: Path, monkeypatch, capfd):
    hold(bad, tmp_path, data, monkeypatch, capfd)
    assert not list(tmp_path.iterdir())  # and nothing was begun


@pytest.mark.parametrize(
    "said",
    [
        "--folds 1: not allowed",
        "--folds 1: expected",
        "--name s: it is in use",
        "--set loss.gama=1: the key is set, but unknown",
        "data set /x has no such image",
        "data /x: not what was expected",
        "data /x: unexpected files, so the check failed",
        "data /x: make sure next time",
        "study s: run failed, start failed; see there",
        "study s: name unknown; did you mean ?",
        "cache /x: free space is 0 MiB, use is 100 %",
        "model.weights = '/x': let us know",
        "pass --folds 2",  # which thing has which value is not said
        "[Errno 2] No such file or directory: '/x'",
        "invalid literal for int() with base 10: 'two'",
        "argument --folds: invalid int value: 'two'; --help",
    ],
)
def test_a_line_without_a_way_out_is_told_from_a_clear_one(said: str):
    """The rule that the tables hold every message to."""
    assert not has_remedy(f"error: {said}\n")
