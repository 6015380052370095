"""Trained models on disk: all tasks together, or one task as a plain Hugging Face model."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PretrainedConfig

from mtdnn.config.layout import DESCRIPTION, WEIGHTS, RunFolder
from mtdnn.config.loading import validate
from mtdnn.config.settings import RunSettings
from mtdnn.data.architectures import read_config
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import read_product, replacing, save_tensors, sha256
from mtdnn.machine.progress import say
from mtdnn.model import lora, owners
from mtdnn.model.heads import HEADS
from mtdnn.model.multitask import MultiTaskModel, add_adapters, add_owners
from mtdnn.model.plain import UNUSED, PlainModel, as_plain, places
from mtdnn.model.pretrained import empty_encoder

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


def save(model: MultiTaskModel, run: RunSettings, encoder: Path, folder: Path) -> None:
    """Write a trained model as a plain Hugging Face model of the target's task family.

    What that model does not have (other heads, often the pooler) is stored next to it in
    `heads.safetensors`. Adapters are merged into the plain model's weights; where each corpus has
    its own, those of the target are, and all of them are stored next to it with the weights that
    they change. Where phases own weights, the plain model has those that the target's last phase
    sees; the owners are stored next to it, with the matrices of which that phase does not see all.
    If no class of transformers has the target's head, the plain model is the encoder alone, and a
    message says so.

    Args:
        model: the trained model.
        run: its settings.
        encoder: folder of the pretrained encoder, whose tokenizer files are copied.
        folder: an existing, empty folder.
    """
    plain = as_plain(model, run, run.target, read_config(encoder))
    if plain is None:
        family = run.corpora[run.target].family
        say(
            f"{folder}: no class of transformers has the head of {run.target} ({family}) on this "
            "encoder; AutoModel opens the encoder without it"
        )
        plain = _encoder_alone(model, run, read_config(encoder))
    moved = _moved(model, run, plain.weights)
    beside = _adapted(model) if model.adapters else set()
    if model.phases:
        beside |= owners.names_beside(model, model.phases[run.target])
    heads = {
        name: value
        for name, value in model.state_dict().items()
        if name in beside or not name.startswith(("encoder.", *moved))
    }
    _write(plain, folder)
    save_tensors(heads, folder / WEIGHTS[1], {"format": "pt"})
    _copy_tokenizer(encoder, folder)


def _encoder_alone(model: MultiTaskModel, run: RunSettings, config: PretrainedConfig) -> PlainModel:
    encoder, _ = model.network(run.target)
    config.architectures = [type(encoder).__name__]
    prefix = encoder.base_model_prefix
    weights = {f"{prefix}.{k}": v for k, v in encoder.state_dict().items()}
    return PlainModel(config, weights)


def _adapted(model: MultiTaskModel) -> set[str]:
    """Names of the encoder's weights that corpora's own adapters change, and of the adapters."""
    return {f"encoder.{name}" for name in lora.adapted(model.encoder)}


def _write(plain: PlainModel, folder: Path) -> None:
    plain.config.dtype = "float32"
    plain.config.save_pretrained(folder)
    save_tensors(plain.weights, folder / WEIGHTS[0], {"format": "pt"})


def _moved(model: MultiTaskModel, run: RunSettings, weights: Iterable[str]) -> dict[str, str]:
    """Prefixes of our names for what a plain model has besides the encoder, to its own prefixes."""
    encoder = model.encoder
    found = places(
        encoder.config.model_type, run.corpora[run.target].family, encoder.base_model_prefix
    )
    ours = {"linear": f"heads.{run.target}.linear"}
    return {
        f"{ours.get(part, part)}.": f"{place}."
        for part, place in found.items()
        if any(name.startswith(f"{place}.") for name in weights)
    }


def load(folder: Path, run: RunSettings) -> MultiTaskModel:
    """Read a model that `save` wrote, on the CPU.

    Raises:
        MtdnnError: a file is missing, damaged or not the one that was trained, or the weights are
            not exactly those that the run's settings require.
    """
    check_weights(folder)
    _check_unchanged(folder)
    model = MultiTaskModel(empty_encoder(folder, run), run)
    if run.training.lora and run.training.lora.per == "corpus":
        add_adapters(model, run)
    if run.prunes:
        add_owners(model, run)
    weights = _weights(folder / WEIGHTS[0])
    moved = _moved(model, run, weights) | {"encoder.": f"{model.encoder.base_model_prefix}."}
    state = {}
    for part, place in moved.items():  # the encoder last: it may have the pooler's place in it
        for name in [name for name in weights if name.startswith(place)]:
            state[part + name.removeprefix(place)] = weights.pop(name)
    state |= {name: value for name, value in weights.items() if not name.startswith(UNUSED)}
    state |= _weights(folder / WEIGHTS[1])
    for name in {lora.plain_name(name) for name in _adapted(model)} - _adapted(model):
        state.pop(name, None)  # merged with an adapter, for plain classes alone
    for name, expected in model.state_dict().items():
        if name in state and state[name].dtype != expected.dtype:  # would be converted silently
            raise MtdnnError(
                f"{folder}: the weights do not fit the run's settings: {name} is of the type "
                f"{state[name].dtype}, not {expected.dtype}; retrain the run"
            )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise MtdnnError(
            f"{folder}: the weights do not fit the run's settings: {reason}; retrain the run"
        ) from None
    return model


def start_from(model: MultiTaskModel, folder: Path) -> None:
    """Set the encoder and the pooler of a new model to those of a trained one that `save` wrote.

    Raises:
        MtdnnError: the trained weights are missing, were changed, or are those of another encoder.
    """
    trained, settings = load_trained(folder)
    network = trained.network(settings.target)
    for ours, theirs in zip((model.encoder, model.pooler), network, strict=True):
        try:
            ours.load_state_dict(theirs.state_dict())
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise MtdnnError(
                f"{folder}: is a model of another encoder: {reason}; retrain that run"
            ) from None


def load_trained(folder: Path) -> tuple[MultiTaskModel, RunSettings]:
    """Return a model that `save` wrote, on the CPU, and the settings with which it was trained.

    Raises:
        MtdnnError: the trained weights are missing or were changed.
    """
    check_weights(folder)
    description = folder / DESCRIPTION
    values = read_product(description)["settings"]
    settings = validate(RunSettings, values, f"{description}: settings")
    return load(folder, settings), settings


def check_weights(folder: Path) -> None:
    """Check that a model's weights were not deleted to save space.

    Raises:
        MtdnnError: a file of weights is missing.
    """
    for name in WEIGHTS:
        if not (folder / name).exists():
            raise MtdnnError(
                f"{folder / name}: no such file; put it back, or delete {DESCRIPTION} next to it "
                "and train again"
            )


def _check_unchanged(folder: Path) -> None:
    description = folder / DESCRIPTION
    if not description.exists():
        return
    for name, expected in (read_product(description).get("files") or {}).items():
        if (folder / name).exists() and sha256(folder / name) != expected:
            raise MtdnnError(
                f"{folder / name}: was cut off or changed since it was trained; put it back, or "
                f"delete {DESCRIPTION} next to it and train again"
            )


def export(run_dir: Path, run: RunSettings, corpus: str, output: Path) -> None:
    """Write one task of a trained run as a plain Hugging Face model.

    This works where transformers' class for the encoder computes what our head does;
    docs/guides/encoders.md has a table.

    Args:
        run_dir: the run's folder.
        run: its settings.
        corpus: the corpus whose head is exported.
        output: the folder to write; replaced if it exists.

    Raises:
        MtdnnError: the run was not trained on the corpus, or the head is a different one.
    """
    if corpus not in run.corpora:
        raise MtdnnError(
            f"{run_dir}: was not trained on {corpus!r} but on {', '.join(run.corpora)}"
        )
    if corpus in run.training.heads:
        raise MtdnnError(
            f"{run_dir}: {corpus} was trained with the head san, which no class of transformers has"
        )
    pooled = HEADS[run.corpora[corpus].family].pooled
    if pooled and run.encoder.pooling != "first":
        raise MtdnnError(
            f"{run_dir}: {corpus} was trained with pooling: {run.encoder.pooling}, which the "
            "classes of transformers do not have; only question answering and token "
            "classification can be exported"
        )
    source = RunFolder(run_dir).model
    config = read_config(source)
    plain = as_plain(load(source, run), run, corpus, config)
    if plain is None:
        found = ", ".join(config.architectures or [])
        raise MtdnnError(
            f"{run_dir}: {corpus} cannot be exported: {found} has another head than ours"
        )
    with replacing(output) as draft:
        draft.mkdir()
        _write(plain, draft)
        _copy_tokenizer(source, draft)


def _copy_tokenizer(source: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise MtdnnError(
            f"{path}: not readable as safetensors: {error}; put it back, or delete {DESCRIPTION} "
            "next to it and train again"
        ) from None
