"""Files of weights: read without executing anything in them, found under whatever they are nested and named in, and fitted to a network."""

import difflib
import json
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmnet.config import ConfigError

State = dict[str, Tensor]
# what stands beside a backbone in a file and is not needed: classifiers, and what pre-training added
_BESIDE = re.compile(
    r"(heads?[._]|fc\d*\.|classifier|last_linear|decoder|mask_token|aux|proj_|project|predict|prototype|pooler|pre_logits|logit_)",
    re.IGNORECASE,
)
_BETTER = {"teacher", "ema"}  # of two networks that fit alike, the averaged one; of momentum contrast, encoder_q
_QUERY_KEY_VALUE = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
_TRANSFORMERS = (  # Hugging Face transformers' names of a ViT's or DINOv2's parts -> timm's
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.register_tokens", "register_tokens"),
    ("embeddings.", ""),
    ("encoder.layer.", "blocks."),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("layernorm.", "norm."),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("mlp.weights_in", "mlp.w12"),
    ("mlp.weights_out", "mlp.w3"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
)


def read_weights(path: str) -> State:
    """Tensors of a .safetensors file, or of a .pth/.pt/.bin/.ckpt file, by their dotted place in it: `state_dict.module.conv1.weight`.

    Raises ConfigError for a file that is missing, damaged, of something else, or that holds more than tensors and plain values.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"model.weights = {path!r}: no such file; pass imagenet, none, or a .safetensors or .pth file")
    try:
        content = _content(file)
    except Exception as error:  # of pickle, zip and safetensors: they have no common class
        raise ConfigError(f"model.weights = {path!r}: {_fault(file, error)}") from error
    state = dict(_tensors(content, "")) if isinstance(content, Mapping) else {}
    if not state:
        raise ConfigError(
            f"model.weights = {path!r}: expected a dictionary of tensors, got {type(content).__name__}{' without any' * isinstance(content, Mapping)}; pass the state_dict() of a network"
        )
    return state


def _content(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return load_file(file)
    with torch.serialization.safe_globals(_scalars()):
        return torch.load(file, map_location="cpu", weights_only=True)


def _scalars() -> list[Any]:
    """What a pickled numpy number is made of: harmless, and common among the metrics of a checkpoint."""
    make: Any = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"}
    return [make, (make, "numpy.core.multiarray.scalar"), np.dtype, *kinds]


def _fault(file: Path, error: Exception) -> str:
    """Why a file cannot be read, and what to do."""
    try:
        with torch.serialization.safe_globals(_scalars()):
            others = torch.serialization.get_unsafe_globals_in_checkpoint(file) if isinstance(error, pickle.UnpicklingError) else []
    except Exception:  # no zip archive: an old file, or none of torch
        others = []
    if others:
        named = ", ".join(others[:5])
        return f"it holds more than plain tensors: {named}, which only running its code could read; save its state_dict() alone, best as .safetensors"
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"damaged, or more than plain tensors: {reason}; download it again or save it as .safetensors"


def _tensors(content: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield place, content.detach()
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{place}.{key}" if place else str(key))


def load(model: nn.Module, needed: set[str], path: str, backbone: str, convert: Callable[[State], State] | None = None) -> list[str]:
    """Load the `needed` keys of `model` from a file; returns what to tell about it.

    `convert` renames and resamples the tensors of a file that does not fit as it stands, such as position embeddings of another
    image size. Raises ConfigError, in one line, for a file that lacks a needed key, holds an unknown one, or is not finite.
    """
    whole = _as_timm(read_weights(path))
    expected = model.state_dict()
    prefix = _prefix(whole, needed)
    found = {key.removeprefix(prefix): value for key, value in whole.items() if key.startswith(prefix)}
    state, fit = found, compare(found, expected, needed)
    if convert and not fit.right:
        state = _tried(convert, found)
        fit = compare(state, expected, needed)
    if not fit.right:
        raise _misfit(path, backbone, whole, found, needed, fit)
    for key in sorted(needed & state.keys()):
        if not torch.isfinite(state[key]).all():
            raise ConfigError(
                f"model.weights = {path!r}: {prefix}{key} holds NaN or infinity; the training that wrote it failed, pass an earlier file"
            )
    loaded = model.state_dict()  # it also says of which version the layers are
    loaded.update({key: state[key] for key in needed & state.keys()})
    model.load_state_dict(loaded)
    return _notes(path, prefix, whole, fit, [key for key in needed & found.keys() if found[key].shape != expected[key].shape])


def _prefix(state: State, needed: set[str]) -> str:
    """What stands before most of the needed keys: `teacher.backbone.`, `state_dict.module.`, or nothing."""
    counts: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        counts.update(".".join([*parts[:n], ""]) if n else "" for n in range(len(parts)) if ".".join(parts[n:]) in needed)

    def rank(prefix: str) -> tuple[int, bool]:
        return counts[prefix], "encoder_q." in prefix or not _BETTER.isdisjoint(re.split(r"[._]", prefix))

    return max(counts, key=rank, default="")


def _as_timm(state: State) -> State:
    """The same tensors under timm's names, where they are a vision transformer of Hugging Face transformers."""
    mark = next((key for key in state if key.endswith("embeddings.patch_embeddings.projection.weight")), None)
    if mark is None:
        return state
    prefix, renamed = mark.removesuffix("embeddings.patch_embeddings.projection.weight"), {}
    for key, value in state.items():
        name = key.removeprefix(prefix)
        if _QUERY_KEY_VALUE[0] in name:
            value = torch.cat([state[key.replace(_QUERY_KEY_VALUE[0], part)] for part in _QUERY_KEY_VALUE])
            name = name.replace(_QUERY_KEY_VALUE[0], "attn.qkv")
        elif any(part in name for part in _QUERY_KEY_VALUE[1:]):
            continue
        for theirs, ours in _TRANSFORMERS:
            name = name.replace(theirs, ours)
        renamed[name] = value
    return renamed


def _tried(convert: Callable[[State], State], state: State) -> State:
    try:
        return convert(dict(state))
    except Exception:  # made for other files: what does not fit is told of this one as it stands
        return state


class Fit(NamedTuple):
    """How a file's keys fit a network's: sorted names."""

    missing: list[str]
    unknown: list[str]
    misshaped: list[str]
    beside: list[str]  # left out: no part of the backbone

    @property
    def right(self) -> bool:
        return not (self.missing or self.unknown or self.misshaped)


def compare(state: State, expected: Mapping[str, Tensor], needed: set[str]) -> Fit:
    """A file's tensors against a network's, of which the `needed` keys are its backbone."""
    extra = state.keys() - needed
    beside = {key for key in extra if key in expected or _BESIDE.match(key)}
    return Fit(
        sorted(key for key in needed - state.keys() if not key.endswith("num_batches_tracked")),
        sorted(extra - beside),
        sorted(key for key in needed & state.keys() if state[key].shape != expected[key].shape),
        sorted(beside),
    )


def _notes(path: str, prefix: str, whole: State, fit: Fit, resampled: list[str]) -> list[str]:
    outside = [key for key in whole if not key.startswith(prefix)]
    left = Counter(key.partition(".")[0] for key in [*outside, *fit.beside])
    found = f" under {prefix.removesuffix('.')}" if prefix else ""
    notes = []
    if left:
        notes.append(f"model.weights = {path!r}: read{found}; left out: " + ", ".join(f"{name} ({count})" for name, count in left.items()))
    if resampled:
        notes.append(f"model.weights = {path!r}: of another image or patch size, resampled: {', '.join(sorted(resampled)[:3])}")
    return notes


def _misfit(path: str, backbone: str, whole: State, found: State, needed: set[str], fit: Fit) -> ConfigError:
    shown = [
        f"{len(keys)} {kind} (such as {keys[0]})"
        for kind, keys in (("missing", fit.missing), ("unknown", fit.unknown), ("misshaped", fit.misshaped))
        if keys
    ]
    fitting = len(needed & found.keys()) - len(fit.misshaped)
    return ConfigError(
        f"model.weights = {path!r} do not fit {backbone}: {', '.join(shown)}; {fitting} of {len(needed)} keys fit; "
        f"the file holds {_holding(whole)}; {_remedy(whole, found, backbone, fit)}"
    )


def _holding(state: State) -> str:
    """What a file holds, in words."""
    patches = _patches(state)
    depths = [int(found[1]) for key in state if (found := re.search(r"(?:^|\.)blocks\.(\d+)\.attn\.", key))]
    if patches is not None and depths:
        return f"a vision transformer of width {len(patches)}, depth {max(depths) + 1} and patches of {patches.shape[-1]} px"
    key = next(iter(state))
    return f"{len(state)} tensors such as {key} {tuple(state[key].shape)}"


def _patches(state: State) -> Tensor | None:
    """The patch embedding (width, channels, side, side) of a vision transformer, whatever stands before its name."""
    return next((value for key, value in state.items() if key.endswith("patch_embed.proj.weight") and value.dim() == 4), None)


def _remedy(whole: State, state: State, backbone: str, fit: Fit) -> str:
    """What would load a file that does not fit; `state` is its part that was compared."""
    arguments: dict[str, float] = {}
    if any(key.endswith("ls1.gamma") for key in fit.unknown):
        arguments["init_values"] = 1e-5
    if "reg_token" in fit.unknown:
        arguments["reg_tokens"] = state["reg_token"].shape[1]
    if arguments and not fit.missing and {"pos_embed"}.issuperset(fit.misshaped):  # which registers may lengthen
        return f"set model.kwargs = {json.dumps(arguments)} to build the backbone as it was trained"
    name = next((name for name in _candidates(whole, backbone) if _loads(name, whole)), None)
    return f"model.backbone = {name!r} would load it" if name else "pass the weights of this backbone"


def _candidates(state: State, backbone: str) -> list[str]:
    """Networks that may be those of a file, likeliest first: few, since each is built to be compared with it."""
    import timm
    from torchvision import models

    ours, theirs = models.list_models(module=models), timm.list_models()
    patches = _patches(state)
    if patches is not None:
        size = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1408: "giant", 1536: "giant"}.get(len(patches), "*")
        return [f"timm:{name}" for name in timm.list_models([f"vit_{size}_patch{patches.shape[-1]}_*"])[:20]]
    if any(key.endswith("layer1.0.conv1.weight") for key in state):
        return [*(name for name in ours if "resne" in name), *(f"timm:{name}" for name in theirs if name.startswith("resne"))][:40]
    near = difflib.get_close_matches(backbone.removeprefix("timm:"), [*ours, *theirs], n=12, cutoff=0.3)
    return [name for model in near for name in (*((model,) if model in ours else ()), *((f"timm:{model}",) if model in theirs else ()))]


def _loads(name: str, state: State) -> bool:
    """Whether the network of this name, built without memory for its tensors, has the same ones."""
    import timm
    from torchvision import models

    try:
        with torch.device("meta"):
            model: nn.Module = (
                timm.create_model(name[5:], num_classes=0) if name.startswith("timm:") else models.get_model(name, weights=None)
            )
    except Exception:  # not all can be built so
        return False
    expected = model.state_dict()
    needed = {key for key in expected if not _BESIDE.match(key)}
    prefix = _prefix(state, needed)
    fit = compare({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}, expected, needed)
    return not (fit.missing or fit.unknown or set(fit.misshaped) - {"pos_embed"})
