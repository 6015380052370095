"""Models with low-rank adapters whose every weight differs from its beginning."""

import torch

from mtdnn.config.settings import RunSettings
from mtdnn.model.multitask import MultiTaskModel, restrict


def with_training(run: RunSettings, **changes) -> RunSettings:
    """The settings of a run with other settings of training, checked as those of a file are."""
    training = {**run.training.model_dump(), **changes}
    return run.model_copy(update={"training": type(run.training).model_validate(training)})


def adapted_model(prepared, batching="auto", **settings) -> MultiTaskModel:
    """A model of a prepared run with adapters, which are not zero; sets the run's settings."""
    prepared.run = with_training(prepared.run, lora=settings)
    model = prepared.model(batching)
    restrict(model, prepared.run)
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or not name.startswith("encoder."):
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model
