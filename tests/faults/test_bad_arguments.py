"""Flags, --set, spaces, names: what the command line itself can get wrong, before anything is read."""

from pathlib import Path

import pytest

from tests.faults.corpus import Bad, hold

pytestmark = pytest.mark.slow  # together; one takes milliseconds
SMALL = "--backbone tiny --weights none --image-size 32 --folds 2 --epochs 4 --set model.width=8 --set model.heads=2"
START = f"--output {{root}}/output --data {{data}} {SMALL}"

# verb, arguments, what the message holds; a pair of the last two where it is the same
ROWS: list[tuple[str, ...]] = [
    ("tune", "--folds 1", "data.folds = 1: expected 2 to 50"),
    ("tune", "--folds 0", "data.folds = 0"),
    ("tune", "--folds -3", "data.folds = -3"),
    ("tune", "--folds 51", "data.folds = 51"),
    ("tune", "--folds two", "--folds", "'two'"),
    ("tune", "--folds 2.5", "--folds", "'2.5'"),
    ("tune", "--folds", "--folds", "expected one argument"),
    ("tune", "--folds 30", "benign cases for 30 folds and a sealed test: expected at least 31", "lower --folds"),
    ("tune", "--test-fraction 0.9", "data.test_fraction = 0.9: expected 0 to below 0.9"),
    ("tune", "--test-fraction -0.1", "data.test_fraction = -0.1"),
    ("tune", "--test-fraction 1", "data.test_fraction = 1.0"),
    ("tune", "--test-fraction half", "--test-fraction", "'half'"),
    ("tune", "--test-fraction nan", "data.test_fraction = nan: expected a finite number"),
    ("tune", "--test-fraction 0.85", "left for 2 folds", "lower --folds or --test-fraction"),
    ("tune", "--epochs 0", "optim.epochs = 0: expected 1 to 10000"),
    ("tune", "--epochs 10001", "optim.epochs = 10001"),
    ("tune", "--epochs 1e3", "--epochs", "'1e3'"),
    ("tune", "--image-size 31", "data.image_size = 31: expected 32 to 1024"),
    ("tune", "--image-size 1025", "data.image_size = 1025"),
    ("tune", "--image-size big", "--image-size", "'big'"),
    ("tune", "--magnifications 40,80", "magnifications 80: the data set {data} has no such image", "pass --magnifications 40,100,200,400"),
    ("tune", "--magnifications 100,40", "data.magnifications = (100, 40): expected increasing"),
    ("tune", "--magnifications 40,40", "data.magnifications = (40, 40)"),
    ("tune", "--magnifications 0", "data.magnifications = (0,)"),
    ("tune", "--magnifications -40", "data.magnifications = (-40,)"),
    ("tune", "--magnifications ,", "--magnifications", "','", "such as 40,100,200,400"),
    ("tune", "--magnifications x", "--magnifications", "'x'"),
    ("tune", "--magnifications 40;100", "--magnifications", "'40;100'"),
    ("tune", "--metric f7", "metric = 'f7': expected one of log_loss"),
    ("tune", "--metric AUC", "metric = 'AUC'"),
    ("tune", "--grouping hospital", "data.grouping = 'hospital': expected one of case, slide"),
    ("tune", "--backbone resnet19", "model.backbone = 'resnet19' is unknown", "near: resnet18"),
    ("tune", "--backbone TINY", "model.backbone = 'TINY' is unknown"),
    ("tune", "--backbone timm:", "model.backbone = 'timm:' is unknown"),
    ("tune", "--backbone timm:resnet9999", "model.backbone = 'timm:resnet9999' is unknown"),
    ("tune", "--weights imagenet", "model.weights = 'imagenet': the tiny backbone has no weights", "pass --weights none"),
    ("tune", "--backbone resnet18 --weights {root}/nowhere.pth", "model.weights = '{root}/nowhere.pth': no such file"),
    ("tune", "--dry-run --backbone resnet19", "model.backbone = 'resnet19' is unknown", "near: resnet18"),
    ("tune", "--dry-run --weights imagenet", "model.weights = 'imagenet': the tiny backbone has no weights", "pass --weights none"),
    ("tune", "--dry-run --backbone resnet18 --weights {root}/nowhere.pth", "model.weights = '{root}/nowhere.pth': no such file"),
    ("tune", "--backbone resnet18 --weights {data}", "model.weights = '{data}': no such file"),
    ("tune", "--seed -1", "seed = -1: expected 0 to 2147483647"),
    ("tune", "--seed 2147483648", "seed = 2147483648"),
    ("tune", "--seed 1.5", "--seed", "'1.5'"),
    ("tune", "--splits official:9", "splits official:9: expected official:1 to official:5"),
    ("tune", "--splits official:1", "splits official:1", "not in the official folds", "leave --splits out"),
    ("tune", "--splits {root}/nowhere.json", "splits {root}/nowhere.json: cannot read it: No such file"),
    ("tune", "--splits {data}", "splits {data}: cannot read it: Is a directory"),
    ("tune", "--space everything", "--space everything: expected one of ablation, dropout, focal"),
    ("tune", "--space space", "--space space"),
    ("tune", "--space ../full", "--space ../full"),
    ("tune", "--trials 0", "--trials 0: expected at least 1"),
    ("tune", "--trials -5", "--trials -5"),
    ("tune", "--trials many", "--trials", "'many'"),
    ("tune", "--time-budget soon", "--time-budget soon: expected a duration such as 90s"),
    ("tune", "--time-budget 0", "--time-budget 0"),
    ("tune", "--time-budget 5w", "--time-budget 5w"),
    ("tune", "--time-budget inf", "--time-budget inf"),
    ("tune", "--time-budget -5m", "--time-budget", "expected one argument"),
    ("tune", "--gpus-per-trial -1", "--gpus-per-trial -1.0: expected a number from 0 on"),
    ("tune", "--gpus-per-trial half", "--gpus-per-trial half"),
    ("tune", "--gpus-per-trial nan", "--gpus-per-trial nan"),
    ("tune", "--gpus-per-trial inf", "--gpus-per-trial inf"),
    ("tune", "--cpus-per-trial 0", "--cpus-per-trial 0.0: expected more than 0"),
    ("tune", "--cpus-per-trial nan", "--cpus-per-trial nan"),
    ("tune", "--cpus-per-trial inf", "--cpus-per-trial inf"),
    ("tune", "--cpus-per-trial x", "--cpus-per-trial", "'x'"),
    ("tune", "--concurrency 0", "--concurrency 0: expected at least 1"),
    ("tune", "--concurrency all", "--concurrency all: expected a whole number, or auto"),
    ("tune", "--concurrency 2.5", "--concurrency 2.5"),
    ("tune", "--scheduler hyperband", "--scheduler hyperband: expected"),
    ("tune", "--eta 1", "--eta 1: expected"),
    ("tune", "--eta 0", "--eta 0: expected"),
    ("tune", "--eta three", "--eta", "'three'"),
    ("tune", "--max-cost -1", "--max-cost -1"),
    ("tune", "--max-cost nan", "--max-cost nan"),
    ("tune", "--max-cost much", "--max-cost", "'much'"),
    ("tune", "--max-failures -1", "--max-failures -1"),
    ("tune", "--max-failures few", "--max-failures", "'few'"),
    ("tune", "--disk-budget -1", "--disk-budget -1"),
    ("tune", "--disk-budget nan", "--disk-budget nan"),
    ("tune", "--disk-budget full", "--disk-budget", "'full'"),
    ("tune", "--warm-start nothing", "study nothing: no readable study.json"),
    ("tune", "--warm-start {data}", "study {data}: no readable study.json"),
    ("tune", "--config {root}/nowhere", "--config {root}/nowhere: no such file", "one of published, synthetic"),
    ("tune", "--config {data}", "--config {data}: no YAML file in that folder"),
    ("tune", "--config /dev/null", "--config /dev/null: no such file"),
    ("tune", "--name ../up", "--name ../up: expected letters"),
    ("tune", "--name .hidden", "--name .hidden"),
    ("tune", "--name a/b", "--name a/b"),
    ("tune", "--name 'a b'", "--name a b"),
    ("tune", "--name [red]", "--name [red]"),
    ("tune", "--data {root}/nowhere", "data {root}/nowhere: no such folder or file", "pass --data DIR"),
    ("tune", "--data /dev/null", "data /dev/null: expected a folder, an archive"),
    ("tune", "--data pyproject.toml", "data pyproject.toml: expected a folder"),
    ("tune", "--data [/red]", "data [/red]: no such folder"),
    ("tune", "--output /dev/null", "/dev/null"),
    ("tune", "--output /dev/null/deeper", "/dev/null/deeper"),
    ("tune", "--trails 3", "unrecognized arguments: --trails 3"),
    ("tune", "extra", "unrecognized arguments: extra"),
    ("tune", "--resume --name nothing", "study nothing: no readable study.json in {root}/output/nothing"),
    ("tune", "--resume", "no study stands in {root}/output", "pass --output DIR"),
    *(
        ("tune", f"--{name} ''", f"--{name} is empty: expected a value")
        for name in "data config name space metric splits backbone weights grouping time-budget gpus-per-trial concurrency address scheduler warm-start".split()
    ),
    ("main", "--single-mag 50", "--single-mag 50: expected all or one of 40, 100, 200, 400"),
    ("main", "--single-mag ''", "--single-mag is empty"),
    ("main", "--single-mag 40 --magnifications 40", "--single-mag 40", "at least two magnifications"),
    ("main", "--nested 1", "--nested 1: expected at least 2 outer folds"),
    ("main", "--nested x", "--nested", "'x'"),
    ("main", "--nested 30", "--nested 30", "benign cases for 30 folds"),
    ("main", "--repeats 1", "--repeats 1: expected at least 2"),
    ("main", "--repeats 3 --again", "--again: nested and repeated cross-validation leave the sealed test closed"),
    ("main", "--again --test-fraction 0", "--again: the study has no sealed test", "leave --again out"),
    ("main", "--single-mag all --nested 3", "--nested", "not allowed with argument --single-mag"),
    ("main", "--resume --name nothing", "study nothing: no readable study.json"),
]
SET = [
    ("loss.gama=1", "unknown configuration key 'loss.gama': did you mean loss.gamma?"),
    ("los.gamma=1", "unknown configuration key 'los': did you mean loss.name?"),
    ("loss.gamma", "--set loss.gamma: expected key=value"),
    ("=3", "--set =3: expected key=value"),
    ("", "--set : expected key=value"),
    ("loss.gamma=", "loss.gamma = None: expected a finite number"),
    ("loss.gamma=-1", "loss.gamma = -1.0: expected 0 to 10"),
    ("loss.gamma=x", "loss.gamma = 'x'"),
    ("loss.gamma=nan", "loss.gamma = 'nan'"),
    ("loss.gamma=.inf", "loss.gamma = inf"),
    ("loss.gamma=1e999", "loss.gamma = '1e999'"),
    (f"loss.gamma={'9' * 400}", "loss.gamma = 999"),
    (f"seed={'9' * 5000}", "--set seed=999", "expected YAML"),
    ("loss.gamma=[1", "--set loss.gamma=[1: expected YAML"),
    ("loss.gamma=2020-13-45", "--set loss.gamma=2020-13-45: expected YAML: month must be"),
    ("seed=2020-01-01", "seed = datetime.date(2020, 1, 1): expected a whole number"),
    ("loss=3", "loss = 3: expected a section with keys name, alpha"),
    ("loss=[1]", "loss = [1]: expected a section"),
    ("loss={gama: 1}", "unknown configuration key 'loss.gama'"),
    ("loss={gamma: 1, gamma: 2}", "key 'gamma' stands twice"),
    ("loss.gamma.deep=3", "loss.gamma = {'deep': 3}"),
    ("loss.alpha=0", "loss.alpha = 0.0: expected between 0 and 1"),
    ("loss.name=hinge", "loss.name = 'hinge': expected one of focal, cross_entropy"),
    ("loss.name=3", "loss.name = 3: expected text"),
    ("loss.label_smoothing=0.6", "loss.label_smoothing = 0.6"),
    ("model.frozen=maybe", "model.frozen = 'maybe': expected true or false"),
    ("model.frozen=1", "model.frozen = 1"),
    ("model.heads=3", "model.heads = 3: expected a divisor of model.width = 8"),
    ("model.heads=0", "model.heads = 0"),
    ("model.width=3", "model.width = 3"),
    ("model.pool_scales=[2]", "model.pool_scales = (2,): expected odd neighbourhood sizes"),
    ("model.pool_scales=3", "model.pool_scales = 3: expected a list, each a whole number"),
    ("model.pool_scales=[a]", "model.pool_scales = 'a'"),
    ("model.pool_scales=[[1]]", "model.pool_scales = [1]"),
    ("model.pool_scales=[&a 1, *a]", "alias (*name), expected the value itself"),
    (f"model.pool_scales={'[' * 2000}", "brackets within brackets"),
    ("model.hierarchy=up", "model.hierarchy = 'up': expected one of causal"),
    ("model.mixing=none", "model.mixing = 'none'"),
    ("model.weights=3", "model.weights = 3: expected text"),
    ("dropout.classifier=1", "dropout.classifier = 1.0: expected 0 to 0.95"),
    ("dropout.path=-0.1", "dropout.path = -0.1"),
    ("optim.lr=0", "optim.lr = 0.0: expected above 0, at most 1"),
    ("optim.lr=2", "optim.lr = 2.0"),
    ("optim.clip=0", "optim.clip = 0.0"),
    ("optim.schedule=linear", "optim.schedule = 'linear'"),
    ("optim.batch_size=0", "optim.batch_size = 0"),
    ("optim.patience=0", "optim.patience = 0"),
    ("optim.precision=float16", "optim.precision = 'float16'"),
    ("optim.warmup=1", "optim.warmup = 1.0"),
    ("optim.amp=3", "unknown configuration key 'optim.amp'"),
    ("data.split_seed=-1", "data.split_seed = -1: expected 0 to 2147483647"),
    ("data.split_seed=99999999999", "data.split_seed = 99999999999"),
    ("data.on_bad_file=ignore", "data.on_bad_file = 'ignore': expected one of error, skip"),
    ("data.folds=null", "data.folds = None: expected a whole number"),
    ("data.magnifications=[]", "data.magnifications = ()"),
    ("data.magnifications={a: 1}", "data.magnifications = {'a': 1}"),
    ("sampling.balance=all", "sampling.balance = 'all'"),
    ("sampling.views_per_patient=0", "sampling.views_per_patient = 0"),
    ("augment.crop=0", "augment.crop = 0.0: expected 0.1 to 1"),
    ("augment.rotation=270", "augment.rotation = 270.0"),
    ("augment.mixup=11", "augment.mixup = 11.0"),
    ("metric.x=1", "metric = {'x': 1}"),
    ("loss.gamma=!!python/object/apply:os.getcwd []", "could not determine a constructor"),
]


def started(verb: str, arguments: str) -> str:
    """A command that would start a study; `--resume` is given no configuration."""
    shared = "--output {root}/output" if "--resume" in arguments else START
    return f"{verb} {shared} {arguments}"


CORPUS = [Bad(started(verb, arguments), words) for verb, arguments, *words in ROWS]
CORPUS += [Bad(started("tune", f"--set '{assignment}'"), tuple(words)) for assignment, *words in SET]
CORPUS += [
    Bad(f"eval --output {{root}} {arguments}", tuple(words))
    for arguments, *words in (
        ("", "no study stands in {root}"),
        ("--study nothing", "study nothing: no readable study.json in {root}/nothing"),
        ("--study ''", "--study is empty"),
        ("--study {data}", "study {data}: no readable study.json"),
        ("--nonsense", "unrecognized arguments: --nonsense"),
        ("--predict", "no study stands in {root}"),
    )
]
CORPUS += [
    Bad(f"analysis {arguments}", tuple(words))
    for arguments, *words in (
        ("", "the following arguments are required: VERB"),
        ("report", "the following arguments are required: STUDY"),
        ("dance x", "'dance'", "'report', 'compare'"),
        ("best x --n many", "--n", "'many'"),
        ("compare x", "the following arguments are required: STUDY"),
        *((f"{verb} nothing --output {{root}}", "study nothing: no readable study.json") for verb in ("report", "best", "export", "watch")),
        ("compare nothing else --output {root}", "study nothing"),
    )
]


@pytest.mark.parametrize("bad", CORPUS, ids=lambda bad: bad.name)
def test_a_bad_argument_is_one_clear_line(bad: Bad, tmp_path: Path, data: Path, cache: Path, monkeypatch, capfd):
    monkeypatch.setenv("MMNET_CACHE", str(cache))
    hold(bad, tmp_path, data, monkeypatch, capfd)
    assert not list(tmp_path.iterdir())  # and nothing was begun
