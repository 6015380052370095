"""Messages about settings name the line of the file that sets them."""

import collections

import pytest
import yaml

from mtdnn.config.loading import load
from mtdnn.config.places import naming_lines
from mtdnn.errors import MtdnnError
from mtdnn.workflow.snakefile import load_experiment
from tests.support.factories import small


def refused(read, *arguments) -> list[str]:
    with pytest.raises(MtdnnError) as caught:
        read(*arguments)
    return str(caught.value).splitlines()


def named(path, text: str, message: str) -> str:
    """Return a message about a file with this text, after its line is named."""
    path.write_text(text)
    with pytest.raises(MtdnnError) as caught, naming_lines([path], "x.yaml"):
        raise MtdnnError(message)
    return str(caught.value).replace(str(path), "x.yaml")


def line_of(path, text: str) -> int:
    return [line.strip() for line in path.read_text().splitlines()].index(text) + 1


def test_every_mistake_in_a_file_has_its_line(tmp_path):
    path = tmp_path / "small.yaml"
    changes = {"training__epocs": 3, "tables__table1__rows__1__weight": 1.2, "trainig": {}}
    path.write_text(yaml.safe_dump(small(**changes)))
    assert sorted(refused(load, path)) == sorted(
        [
            f"{path}: line {line_of(path, 'epocs: 3')}: training.epocs: unknown key; did you mean "
            "'epochs'?",
            f"{path}: line {line_of(path, 'weight: 1.2')}: tables.table1.rows.1.weight: must be at "
            "most 1, not 1.2",
            f"{path}: line {line_of(path, 'trainig: {}')}: trainig: unknown key; did you mean "
            "'training'?",
        ]
    )


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("training.epochs: is wrong", 2),
        ("training: epochs: is wrong", 2),
        ("training.batch_size: is missing", 1),  # in the part that starts there
        ("variants.a.b: training.epochs: is wrong", 4),  # a name with a dot
        ("variants.a: is wrong", 5),
        ("seeds.1: is wrong", 8),
        ("seeds.9: is wrong", 6),
        ("copy.rows.0.weight: is wrong", 11),  # merged, from where it is written
        ("copy.label: is wrong", 13),
        ("5: is wrong", 14),
    ],
)
def test_the_line_is_that_of_the_longest_place_in_the_file(tmp_path, message, line):
    text = (
        "training:\n  epochs: 3\nvariants:\n  a.b: {training: {epochs: 3}}\n  a: {}\n"
        "seeds:\n  - 1\n  - 2\n"
        "base: &base\n  rows:\n  - weight: 1\n  label: A\n"
        "copy: {label: B, <<: *base}\n5: a\n"
    )
    expected = f"x.yaml: line {line}: {message}"
    assert named(tmp_path / "x", text, f"x.yaml: {message}") == expected


@pytest.mark.parametrize("message", ["seeds: is missing", "must be a mapping of keys to values"])
def test_what_the_file_does_not_say_has_no_line(tmp_path, message):
    assert named(tmp_path / "x", "training: {}\n", f"x.yaml: {message}") == f"x.yaml: {message}"


@pytest.mark.parametrize("text", ["", "- 1\n", "a: b\n"])
def test_messages_about_other_things_are_left_alone(tmp_path, text):
    assert named(tmp_path / "x", text, "a: no such file\nb") == "a: no such file\nb"


@pytest.fixture
def merged(tmp_path, monkeypatch):
    """Read an experiment from files and from `--config`, as the Snakefile does."""
    monkeypatch.chdir(tmp_path)

    def read(*texts: str, given: str = "{}") -> list[str]:
        whole: dict = {}
        for number, text in enumerate([*texts, given]):
            update(whole, yaml.safe_load(text))
            (tmp_path / f"{number}.yaml").write_text(text)
        files = [tmp_path / f"{number}.yaml" for number in range(len(texts))]
        return refused(load_experiment, whole, files)

    return read


def update(whole, other):
    for key, value in other.items():
        is_mapping = isinstance(value, collections.abc.Mapping)
        whole[key] = update(whole.get(key, {}), value) if is_mapping else value
    return whole


BASE = "training: {epochs: 3}\n" + yaml.safe_dump(small())
ROWS = "tables:\n  table1:\n    rows:\n"


@pytest.mark.parametrize(
    ("overlay", "given", "place"),
    [
        ("training:\n  epochs: 0\n", "{}", "1.yaml: line 2: training.epochs"),
        ("training:\n  seed: 0\n", "{}", "1.yaml: line 2: training.seed"),
        ("title: T\n", "training: {epochs: 0}", "0.yaml + 1.yaml: training.epochs"),
        ("training: {epochs: 2}\n", "training: {epochs: 0}", "0.yaml + 1.yaml: training.epochs"),
        ("title: T\n", "training: {epocs: 0}", "0.yaml + 1.yaml: training.epocs"),
        # A list of a later file replaces the earlier one, which has an encoder.
        (ROWS + "    - {mixture: qa}\n", "{}", "1.yaml: line 4: tables.table1.rows.0.encoder"),
    ],
)
def test_the_line_is_of_the_file_that_sets_the_value(merged, overlay, given, place):
    (line,) = merged(BASE, overlay, given=given)
    assert line.startswith(f"{place}: ")


def test_a_missing_folder_is_named_by_the_line_that_asks_for_it(merged):
    asking = "encoders:\n  tiny:\n    source: {kind: files,\n      path: gone}\n"
    without = small()
    del without["encoders"]["tiny"]["source"]
    assert merged(yaml.safe_dump(without), asking) == [
        "1.yaml: line 4: encoders.tiny.source.path: no such folder: gone"
    ]
