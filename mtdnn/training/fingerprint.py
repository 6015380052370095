"""The identity of a trained model, and whether a run's folder already holds that model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mtdnn.config.dependencies import code_of
from mtdnn.config.layout import FEATURES, MANIFEST, Layout, RunFolder
from mtdnn.config.settings import MAX_GPUS, RunSettings
from mtdnn.data.logits import weights_digest
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import digest, read_product
from mtdnn.machine.staging import is_half_published
from mtdnn.model.fast import plain, trials


@dataclass(frozen=True)
class Fingerprint:
    """Everything that determines a trained model, in parts and as one digest.

    Attributes:
        config_digest: digest of the settings that matter to training.
        corpora: digest of the rows of each corpus.
        encoder: digest of the encoder's files.
        code: digest of the code that trains, the fast paths that are turned off, and the trial
            paths that are turned on.
        start: digest of the trained weights that it starts with or averages; None without such.
        teachers: digests of the trained weights that teach each corpus; None without teachers.
    """

    config_digest: str
    corpora: dict[str, str]
    encoder: str
    code: str
    start: str | None = None
    teachers: dict[str, str] | None = None

    @classmethod
    def of(cls, layout: Layout, run: RunSettings) -> "Fingerprint":
        """Return the fingerprint that a run has if it is trained now.

        Raises:
            MtdnnError: its encoder or its features are missing, or a run that it needs is not
                trained yet.
        """
        features = {
            name: layout.features(run.encoder_name, run.features_variant, name)
            for name in run.corpora
        }
        return cls(
            config_digest=digest(run.determining()),
            corpora={
                name: read_product(folder / FEATURES)["corpus_digest"]
                for name, folder in features.items()
            },
            encoder=read_product(layout.encoder(run.encoder_name) / MANIFEST)["digest"],
            code=trained_code(),
            start=start_digest(layout, run),
            teachers=teachers_digests(layout, run),
        )

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> "Fingerprint":
        """Return the fingerprint whose parts are in a run's description, ignoring its digest."""
        parts: dict[str, Any] = {part: record.get(part) for part in cls.__dataclass_fields__}
        return cls(**parts)

    @cached_property
    def digest(self) -> str:
        """One digest of all parts, 32 hexadecimal digits."""
        return digest(self._parts())[:32]

    def _parts(self) -> dict[str, Any]:
        without = ("start", "teachers")
        return {name: part for name, part in asdict(self).items() if part or name not in without}

    def record(self) -> dict[str, Any]:
        """Return the parts and their digest, as they are written in a run's description."""
        return {"fingerprint": self.digest, **self._parts()}

    def is_made_in(self, run_dir: Path) -> bool:
        """Return whether a run's folder holds a model trained with this fingerprint, and its log.

        It does not while files that belong to them wait to take their places: see `staging`.
        """
        files = RunFolder(run_dir)
        if is_half_published(run_dir) or not (files.description.exists() and files.log.exists()):
            return False
        return bool(read_product(files.description).get("fingerprint") == self.digest)


def start_digest(layout: Layout, run: RunSettings) -> str | None:
    """Return the digest of the trained weights that a run starts with or averages, if it does.

    Raises:
        MtdnnError: they are not trained yet.
    """
    if run.training.average:
        return digest([weights_digest(layout, source) for source in run.sources])
    return weights_digest(layout, run.start) if run.start else None


def teachers_digests(layout: Layout, run: RunSettings) -> dict[str, str] | None:
    """Return the digest of the trained weights that teach each corpus of a run, if any do.

    Raises:
        MtdnnError: they are not trained yet.
    """
    return {name: weights_digest(layout, each) for name, each in run.teachers.items()} or None


def starts_elsewhere(layout: Layout, run: RunSettings, recorded: Mapping[str, Any]) -> bool:
    """Return whether a run needed other weights than those that are here, if all are.

    Args:
        layout: the experiment's paths.
        run: the run's settings.
        recorded: its description.
    """
    if not all(RunFolder(layout.run(source)).description.exists() for source in run.sources):
        return False
    needed = (start_digest(layout, run), teachers_digests(layout, run))
    return needed != (recorded.get("start"), recorded.get("teachers"))


def trained_code() -> str:
    """Return the digest of the code that trains a run, with the paths that are turned off or on.

    Reference paths draw other dropout masks, so a run resumes only with the paths that it
    started with. Trial paths have a plus sign.
    """
    return "-".join([code_of("train"), *plain(), *(f"+{path}" for path in trials())])


def is_ours(code: str | None) -> bool:
    """Return whether a run was trained by this code, with any choice of paths."""
    return (code or "").split("-")[0] == code_of("train")


def is_finished(run_dir: Path, run: RunSettings) -> bool:
    """Return whether a run's folder holds what training the run now would produce.

    Raises:
        MtdnnError: its encoder or its features are missing.
    """
    return Fingerprint.of(Layout.of_run(run_dir), run).is_made_in(run_dir)


def check_gpus(layout: Layout, run: RunSettings, fingerprint: Fingerprint) -> None:
    """Refuse to repeat a run that was started on another number of GPUs.

    Another order of sums and other dropout masks would give a different result.

    Raises:
        MtdnnError: the same run has a checkpoint written on another number of GPUs.
    """
    gpus = run.training.gpus
    for other in range(1, MAX_GPUS + 1):
        training = run.training.model_copy(update={"gpus": other})
        settings = digest(run.model_copy(update={"training": training}).determining())
        state = layout.state(replace(fingerprint, config_digest=settings).digest)
        if other != gpus and any(state.glob("step*")):
            raise MtdnnError(
                f"{state}: the run was started with training.gpus: {other}, and {gpus} would not "
                f"give the same result; resume with {other}, or delete this folder to start over"
            )
