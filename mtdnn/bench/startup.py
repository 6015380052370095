"""Start-up time: of `--help`, of the imports for training, of a run of one step.

The peers are bare Python, the imports of Hugging Face's question-answering example, and that
example's first step: a process that loads the same tiny encoder and trains on one padded batch.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtdnn.bench.harness import Options, compare_processes
from mtdnn.bench.material import experiment_of, random_encoder, synthetic_features
from mtdnn.config.layout import FEATURES, MANIFEST, RunFolder, RunId
from mtdnn.config.yaml_files import dump_yaml
from mtdnn.machine.files import write_json, write_text
from mtdnn.training import schedule

ITEMS = 16  # a single batch
IMPORTS = "import torch; from transformers import AutoModelForQuestionAnswering, Trainer"
FIRST_STEP = f"""
{IMPORTS}
model = AutoModelForQuestionAnswering.from_pretrained("ENCODER").train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
ids, places = torch.ones(16, 384, dtype=torch.long), torch.ones(16, dtype=torch.long)
model(input_ids=ids, start_positions=places, end_positions=places).loss.backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
model.save_pretrained("saved")
"""


def cases(options: Options) -> Iterator[dict[str, Any]]:
    """Yield how long users wait at the prompt, and before training begins."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run_dir, encoder = _tiny_run(options, folder)
        mtdnn, python = [sys.executable, "-m", "mtdnn"], [sys.executable, "-c"]
        # Each round trains again; without --force the second would find the run up to date.
        train = [*mtdnn, "train", str(run_dir), "--threads", "1", "--force"]
        for case, peer, ours, theirs in (
            ("help", "bare_python", [*mtdnn, "--help"], [*python, "pass"]),
            (
                "imports",
                "example_imports",
                [*python, "import mtdnn.training.loop"],
                [*python, IMPORTS],
            ),
            (
                "first_step",
                "example_first_step",
                train,
                [*python, FIRST_STEP.replace("ENCODER", str(encoder))],
            ),
        ):
            if case.startswith(options.only):
                yield compare_processes(case, peer, ours, theirs, options.rounds, folder)


def _tiny_run(options: Options, folder: Path) -> tuple[Path, Path]:
    """Prepare a run of a single step for `mtdnn train`; return its folder and its encoder."""
    experiment = experiment_of(options).model_copy(update={"results": str(folder)})
    layout = experiment.layout
    name, mixture = (
        next(iter(experiment.encoders)),
        next(name for name, mixture in experiment.mixtures.items() if mixture.is_alone),
    )
    run_id = RunId(name, mixture, 1.0, "default", experiment.seeds[0])
    run, run_dir = experiment.resolve(run_id), layout.run(run_id)
    run = run.model_copy(update={"training": run.training.model_copy(update={"epochs": 1})})
    encoder = random_encoder(layout.encoder(name), "tiny")
    features = layout.features(name, "default", run.target)
    synthetic_features(features.parent, run.target, "question_answering", ITEMS)
    write_json(features / FEATURES, {"corpus_digest": "made up", "splits": {}})
    write_json(layout.corpus(run.target) / MANIFEST, {"digest": "made up"})
    write_text(RunFolder(run_dir).config, dump_yaml(run))
    schedule.write(run_dir, run)
    return run_dir, encoder
