"""The configuration of one trial: every default of the project lives here and nowhere else.

A field's path (`loss.gamma`) is its name everywhere: in YAML, in `--set`, in a search space, in the leaderboard.
"""

import difflib
import reprlib
import types
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from data.errors import InputError
from data.table import GROUPINGS, LABELS
from data.views import BALANCES

AUTO = "auto"  # decided when a study starts


class ConfigError(InputError):
    """A configuration that cannot be trained: unknown key, wrong type, value out of range."""


def _require(condition: bool, key: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"configuration {key} = {value!r}: expected {expected}")


def _one_of(key: str, value: object, choices: tuple) -> None:
    _require(value in choices, key, value, "one of " + ", ".join(map(str, choices)))


def _between(key: str, value: float, low: float, high: float) -> None:
    _require(low <= value <= high, key, value, f"{low} to {high}")


@dataclass(frozen=True)
class DataConfig:
    magnifications: tuple[int, ...] = (40, 100, 200, 400)  # in the order in which attention runs through them
    image_size: int = 224  # px, both sides
    grouping: str = "patient"  # what no split divides: patient, or slide (leaks patients; for comparison only)
    folds: int = 5
    test_fraction: float = 0.2  # of the groups, sealed before the search; 0: no sealed test
    splits: str | None = None  # None: generated; official:1 to official:5; or a file
    split_seed: int = 0  # of the partition; apart from `seed`, so that a new training seed keeps the sealed test
    on_bad_file: str = "error"  # error: name them and stop; skip: leave them out
    fit: str = "squash"  # images that are not square: squash both sides, crop to the central square, or pad with white
    label: str = "class"  # what is predicted: class, or subtype (of BreakHis, or a manifest's column)
    classes: tuple[str, ...] | None = None  # only images of these; None: all
    positive: str | None = None  # classes that count as positive against the rest, comma-separated; None: as their names say
    mixed_labels: bool = False  # classes may differ within a patient, and images of one slide may be of several

    def __post_init__(self) -> None:
        _require(
            len(self.magnifications) > 0
            and len(set(self.magnifications)) == len(self.magnifications)
            and min(self.magnifications) > 0
            and list(self.magnifications) == sorted(self.magnifications),
            "data.magnifications",
            self.magnifications,
            "increasing magnifications such as 40,100,200,400",
        )
        _between("data.image_size", self.image_size, 32, 1024)
        _one_of("data.grouping", self.grouping, GROUPINGS)
        _between("data.folds", self.folds, 2, 50)
        _require(0 <= self.test_fraction < 0.9, "data.test_fraction", self.test_fraction, "0 to below 0.9")
        _between("data.split_seed", self.split_seed, 0, 2**31 - 1)
        _one_of("data.on_bad_file", self.on_bad_file, ("error", "skip"))
        _one_of("data.fit", self.fit, ("squash", "crop", "pad"))
        _one_of("data.label", self.label, LABELS)
        _require(self.classes is None or len(self.classes) > 1, "data.classes", self.classes, "at least two classes")


@dataclass(frozen=True)
class SamplingConfig:
    balance: str = "class"  # shares of an epoch's views: none, class, patient, class_patient
    views_per_slide: int | None = None  # views of a slide an epoch; None: as many as show each image once

    def __post_init__(self) -> None:
        _one_of("sampling.balance", self.balance, BALANCES)
        if self.views_per_slide is not None:
            _between("sampling.views_per_slide", self.views_per_slide, 1, 1000)


@dataclass(frozen=True)
class AugmentConfig:
    """Pixels are augmented only where the backbone is trained; mixup and feature noise act on frozen features too."""

    flip: bool = True  # horizontal and vertical
    turn: bool = True  # by 90 degrees
    crop: float = 0.8  # smallest side of a random crop, share of the image; 1: no crop
    rotation: float = 0.0  # degrees either way of a free rotation; 0: none
    color: float = 0.1  # brightness, contrast, saturation factors 1 ± this
    hue: float = 0.0  # turns either way of a shift of the hue
    stain: float = 0.1  # amount of each stain 1 ± this
    blur: float = 0.0  # probability of a Gaussian blur, sigma 0.1 to 2 px
    elastic: float = 0.0  # probability of an elastic deformation of 1.6 px
    erase: float = 0.0  # probability of erasing a rectangle
    mixup: float = 0.0  # alpha of the Beta distribution; 0: off
    feature_noise: float = 0.0  # standard deviation of multiplicative noise on frozen features
    masking: float = 0.0  # probability of hiding each magnification of a view; one always stays

    def __post_init__(self) -> None:
        _between("augment.crop", self.crop, 0.1, 1)
        _between("augment.rotation", self.rotation, 0, 180)
        for name, high in (("color", 0.9), ("hue", 0.5), ("stain", 0.9), ("blur", 1), ("elastic", 1), ("erase", 1), ("mixup", 10), ("feature_noise", 2), ("masking", 0.9)):
            _between(f"augment.{name}", getattr(self, name), 0, high)


@dataclass(frozen=True)
class ModelConfig:
    name: str = "mmnet"  # or package.module:function of a network of one's own, see mmnet.build
    params: dict[str, Any] = field(default_factory=dict)  # of a network of one's own; may be searched as model.params.NAME
    backbone: str = "efficientnet_b0"  # a torchvision name, timm:<name>, timm:hf-hub:<name>, or tiny
    weights: str | None = "imagenet"  # imagenet (for timm: its own pretrained ones), a .safetensors or .pth file, None: random
    kwargs: dict[str, Any] = field(default_factory=dict)  # arguments of timm.create_model, as a model card gives them
    mean: tuple[float, ...] | None = None  # of the normalisation, one a channel; None: as the weights' own configuration says
    std: tuple[float, ...] | None = None  # likewise
    frozen: bool = False  # the backbone runs once per image and is not trained
    input_size: int | None = None  # px that the backbone is shown, shrunk on the device; None: data.image_size, as stored
    pooled: bool = False  # frozen features are averaged over positions: faster and smaller, nothing left for model.pool to weigh
    shared: bool = True  # one backbone for all magnifications, or one each
    channel_attention: bool = False  # published: true; off, as it cost much and was not seen to help (bench/RESULTS.md), like pool
    pool: str = "mean"  # positions of a map become one vector by: gate (published), softmax, or mean
    pool_scales: tuple[int, ...] = (1, 2, 4)  # sides, in cells, at which the gate sees a map
    hierarchy: str = "causal"  # attention between magnifications: causal (each to lower ones), bidirectional, none
    importance: bool = True  # learned weight of each magnification; off: equal weights
    cross_attention: bool = True  # fusion branch: self-attention over the weighted magnifications
    concatenation: bool = True  # fusion branch: all magnifications side by side through an MLP
    mixing: str = "learned"  # share of the first branch against the second: learned from 0.5, or equal
    width: int | None = 128  # of a magnification's embedding; None: as many as the maps have channels (published)
    heads: int = 4  # of every attention; divides width (8 published)
    hidden: int | None = None  # units before the last layer (512 published); None: the last layer only

    def __post_init__(self) -> None:
        if self.input_size is not None:
            _between("model.input_size", self.input_size, 32, 1024)
        _one_of("model.pool", self.pool, ("gate", "softmax", "mean"))
        _one_of("model.hierarchy", self.hierarchy, ("causal", "bidirectional", "none"))
        _one_of("model.mixing", self.mixing, ("learned", "equal"))
        _between("model.heads", self.heads, 1, 64)
        if self.width is not None:
            _between("model.width", self.width, 4, 4096)
            _require(self.width % self.heads == 0, "model.heads", self.heads, f"a divisor of model.width = {self.width}")
        if self.hidden is not None:
            _between("model.hidden", self.hidden, 4, 4096)
        right = len(self.pool_scales) > 0 and all(0 < scale <= 64 for scale in self.pool_scales)
        _require(right, "model.pool_scales", self.pool_scales, "sides in cells such as [1, 2, 4]")


@dataclass(frozen=True)
class DropoutConfig:
    classifier: float = 0.75  # before the last layer
    fusion: float = 0.1  # in the embedding and the fusion branches
    attention: float = 0.1  # in channel attention, and on attention weights between magnifications
    path: float = 0.0  # stochastic depth: probability of hiding a whole feature map (0.1 published)

    def __post_init__(self) -> None:
        for item in fields(self):
            _between(f"dropout.{item.name}", getattr(self, item.name), 0, 0.95)


@dataclass(frozen=True)
class LossConfig:
    name: str = "focal"  # focal, or cross_entropy (focal with gamma 0 and alpha 0.5)
    alpha: float = 0.5  # weight of the second of two classes; 1 - alpha weighs the first
    gamma: float = 3.0  # focusing: 0 is cross-entropy
    label_smoothing: float = 0.0  # targets move towards equal ones by this share

    def __post_init__(self) -> None:
        _one_of("loss.name", self.name, ("focal", "cross_entropy"))
        _require(0 < self.alpha < 1, "loss.alpha", self.alpha, "between 0 and 1")
        _between("loss.gamma", self.gamma, 0, 10)
        _between("loss.label_smoothing", self.label_smoothing, 0, 0.5)


@dataclass(frozen=True)
class OptimConfig:
    lr: float = 1e-4  # of AdamW, for the head
    backbone_lr: float = 1.0  # of a trained backbone, as a share of lr
    weight_decay: float = 1e-4
    schedule: str = "plateau"  # plateau (halved after 3 epochs without gain), cosine, constant
    warmup: float = 0.0  # epochs of linearly growing lr, at most one: a first rung must not see a network that has not begun to learn
    clip: float = 1.0  # norm to which gradients are clipped
    batch_size: int | None = None  # views; None: fine-tuning 16 on CUDA, 8 on MPS, 4 on CPU; frozen 32 to 128
    epochs: int = 27  # at most
    patience: int | None = 7  # epochs without a better metric before a run ends; None: never
    precision: str = AUTO  # float32, bfloat16, float16, or auto: bfloat16 where a GPU computes it, float16 on other CUDA, else float32
    compile: bool = False  # torch.compile for a trained backbone

    def __post_init__(self) -> None:
        _require(0 < self.lr <= 1, "optim.lr", self.lr, "above 0, at most 1")
        _between("optim.backbone_lr", self.backbone_lr, 0, 10)
        _between("optim.weight_decay", self.weight_decay, 0, 1)
        _one_of("optim.precision", self.precision, (AUTO, "float32", "bfloat16", "float16"))
        _one_of("optim.schedule", self.schedule, ("plateau", "cosine", "constant"))
        _between("optim.warmup", self.warmup, 0, 1)
        _require(self.clip > 0, "optim.clip", self.clip, "above 0")
        if self.batch_size is not None:
            _between("optim.batch_size", self.batch_size, 1, 4096)
        _between("optim.epochs", self.epochs, 1, 10_000)
        if self.patience is not None:
            _between("optim.patience", self.patience, 1, 10_000)


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of one trial, given the data."""

    seed: int = 0  # of initialisation, sampling, augmentation and dropout
    metric: str = "log_loss"  # what search, best epoch, plateau and early stopping follow; see mmnet.metrics
    data: DataConfig = field(default_factory=DataConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        from mmnet.metrics import METRICS  # here, so that metrics may grow without importing the configuration

        _between("seed", self.seed, 0, 2**31 - 1)
        _one_of("metric", self.metric, tuple(METRICS))
        stored = self.data.image_size
        _require(
            self.input_size <= stored, "model.input_size", self.input_size, f"at most data.image_size = {stored}: images are only shrunk"
        )

    @property
    def input_size(self) -> int:
        """Side of the images that a backbone is shown, px."""
        return self.model.input_size or self.data.image_size

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries and lists, for YAML and JSON."""
        return _plain(asdict(self))

    def with_values(self, values: dict[str, Any]) -> "Config":
        """A copy with some fields set by path. Raises ConfigError for unknown paths, wrong types, values out of range."""
        nested: dict[str, Any] = {}
        for path, value in values.items():
            place = nested
            *sections, name = path.split(".")
            for depth, section in enumerate(sections, start=1):
                if ".".join(sections[:depth]) in values:
                    raise ConfigError(f"configuration {path}: {section} is set as a whole and by its fields; expected one of the two")
                place = place.setdefault(section, {})
            place[name] = value
        return _merge(self, nested, "")


class _Loader(yaml.SafeLoader):
    """Plain values only: no objects, no aliases (a few lines of them can spell out to gigabytes), and no key twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name), expected the value itself")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise yaml.YAMLError(f"key {twice!r} stands twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def _read_yaml(text: str, source: str) -> Any:
    """Raises ConfigError with the reason in one line."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506, the loader above is a safe one
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or a number that is none
        reason = " ".join(str(error).split()) if not isinstance(error, RecursionError) else "brackets within brackets without end"
        raise ConfigError(f"{source}: expected YAML: {reason}") from error


def load_config(path: Path, base: Config | None = None) -> Config:
    """Read a YAML file over `base` (default: the defaults). Raises ConfigError naming the file and the key."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path}: cannot read it: {error}; pass a YAML file to --config") from error
    content = _read_yaml(text, f"configuration file {path}")
    if not isinstance(content, dict):
        raise ConfigError(f"configuration file {path}: expected sections such as model: and optim:, got {type(content).__name__}")
    try:
        return _merge(base or Config(), content, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def save_config(config: Config, path: Path, comment: str = "") -> None:
    """Write the whole configuration as YAML, with comment lines above."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    path.write_text(head + yaml.safe_dump(config.to_dict(), sort_keys=False))


def parse_assignment(text: str) -> tuple[str, Any]:
    """`loss.gamma=2` -> ("loss.gamma", 2): the value is YAML, so lists, null and booleans work."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {text}: expected key=value, such as --set loss.gamma=2")
    return path.strip(), _read_yaml(value, f"--set {text}")


def field_paths(config: Any = None, prefix: str = "") -> list[str]:
    """Every path that can be set: seed, metric, data.folds, … and what stands in a dictionary, such as model.params.depth."""
    config = config or Config()
    paths = []
    for item in fields(config):
        value, path = getattr(config, item.name), prefix + item.name
        if is_dataclass(value):
            paths += field_paths(value, f"{path}.")
        else:
            paths += [f"{path}.{name}" for name in value] if isinstance(value, dict) and value else [path]
    return paths


def get_value(config: Config, path: str) -> Any:
    """The value at a path. Raises ConfigError when there is none."""
    value: Any = config
    for name in path.split("."):
        if isinstance(value, dict):
            value = value.get(name)
        elif is_dataclass(value) and hasattr(value, name):
            value = getattr(value, name)
        else:
            raise _unknown(path)
    return value


def text_of(value: Any) -> Any:
    """A value as samplers, tables and people are shown it: lists as text, `1,3,5` or `none`; all else as it is."""
    return ",".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else value


def _unknown(path: str) -> ConfigError:
    near = difflib.get_close_matches(path, field_paths(), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "see mmnet/config.py for all keys"
    return ConfigError(f"unknown configuration key {path!r}: {hint}")


def _merge(base: Any, values: dict, prefix: str) -> Any:
    kinds = get_type_hints(type(base))
    changes = {}
    for name, value in _renamed(values, prefix).items():
        path = f"{prefix}{name}"
        if name not in kinds:
            raise _unknown(path)
        current = getattr(base, name)
        if is_dataclass(current):
            if not isinstance(value, dict):
                raise ConfigError(
                    f"configuration {path} = {value!r}: expected a section with keys {', '.join(get_type_hints(type(current)))}"
                )
            changes[name] = _merge(current, value, f"{path}.")
        elif isinstance(current, dict):
            if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
                raise ConfigError(f"configuration {path} = {reprlib.repr(value)}: expected a section of names and values")
            changes[name] = current | value
        else:
            changes[name] = _typed(path, value, kinds[name])
    return replace(base, **changes)


def _renamed(values: dict, prefix: str) -> dict:
    """Values by today's names: earlier studies say `optim.amp`, leave `optim.compile` open, and call a patient case, a slide patient."""
    if prefix == "optim." and isinstance(values.get("amp"), bool):
        values = {"precision": AUTO if values["amp"] else "float32"} | values
        return {name: value for name, value in values.items() if name != "amp"}
    if prefix == "optim." and "compile" in values and values["compile"] is None:
        return values | {"compile": False}
    if prefix == "data." and values.get("grouping") == "case":
        return values | {"grouping": "patient"}
    if prefix == "sampling." and "views_per_patient" in values:
        return {{"views_per_patient": "views_per_slide"}.get(name, name): value for name, value in values.items()}
    return values


KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def _typed(path: str, value: Any, kind: Any) -> Any:
    """The value in the field's type; YAML's `1e-4` (a string) and whole-number floats are understood."""
    if get_origin(kind) in (Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        kind = next(option for option in get_args(kind) if option is not types.NoneType)
    if get_origin(kind) is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_typed(path, item, get_args(kind)[0]) for item in value)
    elif kind is bool:
        if isinstance(value, bool):
            return value
    elif kind is str:
        if isinstance(value, str):
            return value
    elif not isinstance(value, bool) and isinstance(value, (int, float, str)):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = float("nan")
        if kind is int and number.is_integer():
            return int(number)
        if kind is float and number == number and abs(number) != float("inf"):
            return number
    expected = KINDS.get(kind) or f"a list, each {KINDS[get_args(kind)[0]]}"
    raise ConfigError(f"configuration {path} = {reprlib.repr(value)}: expected {expected}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
