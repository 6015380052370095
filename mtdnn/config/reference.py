"""The reference of settings as Markdown: the default, meaning and origin of each."""

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
    Anchor,
    Average,
    AveragedRow,
    CAGrad,
    Closed,
    CorpusSettings,
    DecodingSettings,
    Distillation,
    DynamicAverage,
    EncoderSettings,
    FeatureSettings,
    FilesCorpus,
    FilesEncoder,
    GradVac,
    HubCorpus,
    HubEncoder,
    InterferenceSettings,
    Lora,
    NashMTL,
    Phase,
    Proportional,
    San,
    ScheduleSettings,
    StartingRun,
    SyntheticCorpus,
    Teacher,
    Temperature,
    TrainingSettings,
    Uncertainty,
    WheelEncoder,
)

# The sections, in the order in which readers need them.
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
    "schedule.policy, kind: proportional": Proportional,
    "schedule.policy, kind: temperature": Temperature,
    "schedule.phases": Phase,
    "training.heads.NAME, kind: san": San,
    "training.lora": Lora,
    "training.combine, kind: gradvac": GradVac,
    "training.combine, kind: cagrad": CAGrad,
    "training.combine, kind: nash_mtl": NashMTL,
    "training.loss_balancing, kind: uncertainty": Uncertainty,
    "training.loss_balancing, kind: dynamic_average": DynamicAverage,
    "training.start_from": StartingRun,
    "training.anchor": Anchor,
    "training.interference": InterferenceSettings,
    "training.average": Average,
    "training.average.of": AveragedRow,
    "training.distillation": Distillation,
    "training.distillation.teachers.CORPUS": Teacher,
    "variants.NAME": Variant,
    "slices.NAME": Slice,
    "slices.NAME.question_words, context_words, answer_words": WordCount,
    "tables.NAME": Table,
    "tables.NAME.rows": Row,
    "tables.NAME.grid": Grid,
    "figures.NAME": Figure,
}


def ledger() -> str:
    """Return a table of all settings that affect results, with default, origin and meaning."""
    lines = []
    for section, model in DESCRIBED.items():
        lines += [
            f"### {section}",
            "",
            "| setting | default | origin | meaning |",
            "|---|---|---|---|",
        ]
        for name, field in model.model_fields.items():
            cells = (f"`{name}`", _default(field), _origin(field), _meaning(field))
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def reference() -> str:
    """Return a table of all other keys of an experiment's YAML file, with default and meaning."""
    lines = []
    for section, model in STRUCTURE.items():
        lines += [f"### {section}", "", "| key | default | meaning |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            if name != "kind":
                lines.append(f"| `{field.alias or name}` | {_default(field)} | {_meaning(field)} |")
        lines.append("")
    return "\n".join(lines)


def _origin(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["origin"]) if isinstance(extra, dict) else ""


def _meaning(field: FieldInfo) -> str:
    values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    allowed = " (" + ", ".join(f"`{value}`" for value in values) + ")" if values else ""
    return (field.description or "").replace("|", "\\|") + allowed


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, Closed):
        kind = getattr(value, "kind", None)
        place = "see below" if type(value) in STRUCTURE.values() else "see above"
        return f"`{kind}`" if kind else place
    return "–" if value in (None, {}, []) else f"`{value}`"
