"""The ledger of settings: each one's default, meaning and origin, as Markdown."""

from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from mtdnn.config.experiment import (
    Experiment,
    Figure,
    Grid,
    Mixture,
    Row,
    Slice,
    Table,
    Variant,
    WordCount,
)
from mtdnn.config.settings import (
    Closed,
    CorpusSettings,
    DecodingSettings,
    EncoderSettings,
    FeatureSettings,
    FilesCorpus,
    FilesEncoder,
    HubCorpus,
    HubEncoder,
    ScheduleSettings,
    SyntheticCorpus,
    TrainingSettings,
    WheelEncoder,
)

# Titles of the sections, in the order in which a reader meets the settings.
DESCRIBED: dict[str, type[Closed]] = {
    "features": FeatureSettings,
    "schedule": ScheduleSettings,
    "training": TrainingSettings,
    "decoding": DecodingSettings,
}
STRUCTURE: dict[str, type[Closed]] = {
    "The experiment": Experiment,
    "encoders.NAME": EncoderSettings,
    "encoders.NAME.source, kind: hub": HubEncoder,
    "encoders.NAME.source, kind: wheel": WheelEncoder,
    "encoders.NAME.source, kind: files": FilesEncoder,
    "corpora.NAME": CorpusSettings,
    "corpora.NAME.source, kind: hub": HubCorpus,
    "corpora.NAME.source, kind: files": FilesCorpus,
    "corpora.NAME.source, kind: synthetic": SyntheticCorpus,
    "mixtures.NAME": Mixture,
    "variants.NAME": Variant,
    "slices.NAME": Slice,
    "slices.NAME.question_words, context_words, answer_words": WordCount,
    "tables.NAME": Table,
    "tables.NAME.rows": Row,
    "tables.NAME.grid": Grid,
    "figures.NAME": Figure,
}


def ledger() -> str:
    """Every setting that acts on results: its default, its meaning, and where it comes from."""
    lines = []
    for section, model in DESCRIBED.items():
        lines += [
            f"### {section}",
            "",
            "| setting | default | origin | meaning |",
            "|---|---|---|---|",
        ]
        for name, field in model.model_fields.items():
            origin = (field.json_schema_extra or {})["origin"]
            lines.append(f"| `{name}` | {_default(field)} | {origin} | {_meaning(field)} |")
        lines.append("")
    return "\n".join(lines)


def reference() -> str:
    """Every key of an experiment's YAML file that names, places or arranges something."""
    lines = []
    for section, model in STRUCTURE.items():
        lines += [f"### {section}", "", "| key | default | meaning |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            if name != "kind":
                lines.append(f"| `{name}` | {_default(field)} | {_meaning(field)} |")
        lines.append("")
    return "\n".join(lines)


def _meaning(field: FieldInfo) -> str:
    values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    allowed = " (" + ", ".join(f"`{value}`" for value in values) + ")" if values else ""
    return (field.description or "").replace("|", "\\|") + allowed


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, Closed):
        return "see above"
    return "–" if value in (None, {}, []) else f"`{value}`"
