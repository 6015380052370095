"""A commented experiment to start from: `mtdnn new`."""

import re
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mtdnn.config.settings import CHARACTERS, NAME, Name
from mtdnn.errors import MtdnnError
from mtdnn.machine.files import write_text

TEMPLATE = Path(__file__).with_name("start.yaml")


def write_new(name: str) -> Path:
    """Write `{name}.yaml`, an experiment that runs as it is, and return its path.

    Args:
        name: the experiment's name, after the folder of the file if there is one.

    Raises:
        MtdnnError: the name is not one of an experiment, or the file exists.
    """
    file = Path(f"{name.removesuffix('.yaml')}.yaml")
    try:
        TypeAdapter(Name).validate_python(file.stem)
    except ValidationError:
        raise MtdnnError(
            f"{file}: {file.stem!r} cannot be the name of an experiment; choose one of "
            f"{CHARACTERS[NAME]}"
        ) from None
    if file.exists():
        raise MtdnnError(f"{file}: exists already; choose another name")
    if not file.parent.is_dir():
        raise MtdnnError(f"{file.parent}: no such folder; create it first")
    values = {"{name}": file.stem, "{file}": str(file)}
    text = re.sub(r"\{(?:name|file)\}", lambda found: values[found[0]], TEMPLATE.read_text("utf-8"))
    write_text(file, text)
    return file
