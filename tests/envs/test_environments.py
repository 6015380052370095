"""Every way to install the environment uses the same lock."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ENVS = Path(__file__).parents[2] / "envs"
LOCK = (ENVS / "requirements.lock").read_text().split()
# Not in the lock: fuzzing by coverage is optional, and its package has no wheel for every machine;
# the site is built by few, and its extra has exact versions.
OPTIONAL_EXTRAS = {"crate", "docs", "fuzz"}


def test_the_conda_environment_has_the_pins_of_the_lock():
    environment = yaml.safe_load((ENVS / "environment.yaml").read_text())
    (pip,) = [entry for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip["pip"] == LOCK


def normalised(requirement: str) -> str:
    """Return the name of a requirement as package indexes compare it."""
    name = re.match(r"[\w.-]+", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_pins_versions_and_names_no_build():
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in LOCK)


def test_the_lock_pins_every_requirement_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(ENVS.parent / "setup.cfg", encoding="utf-8")
    lists = [setup["options"]["install_requires"]]
    lists += [
        listed
        for extra, listed in setup["options.extras_require"].items()
        if extra not in OPTIONAL_EXTRAS
    ]
    required = {normalised(line) for listed in lists for line in listed.strip().splitlines()}
    assert {"torch", "snakemake", "mypy", "snakemake-executor-plugin-slurm"} <= required
    assert required | {"setuptools"} <= {normalised(line) for line in LOCK}


def copied_by_docker() -> list[str]:
    """Return what the Docker image is built of, relative to the repository."""
    docker = (ENVS / "Dockerfile").read_text()
    lines = [line.split() for line in docker.splitlines() if line.startswith("COPY")]
    return [name for line in lines for name in line[1:-1]]


def test_the_images_install_the_lock_and_files_that_exist():
    docker = (ENVS / "Dockerfile").read_text()
    copied = copied_by_docker()
    apptainer = (ENVS / "apptainer.def").read_text()
    files = apptainer.split("%files\n")[1].split("\n\n")[0].splitlines()
    assert copied == [line.split()[0] for line in files]
    for name in copied:
        assert (ENVS.parent / name).exists(), name
    for recipe in (docker, apptainer):
        assert "--requirement /opt/mtdnn/envs/requirements.lock" in recipe
        assert "--no-deps --no-build-isolation /opt/mtdnn" in recipe
        assert f"python:{'.'.join(python_of_conda())}-slim" in recipe


def test_the_package_can_be_built_of_what_the_images_copy(tmp_path):
    allowed = (ENVS / "Dockerfile.dockerignore").read_text().splitlines()
    for name in copied_by_docker():
        assert any(f"!{part}" in allowed for part in (name, *map(str, Path(name).parents)))
        origin, place = ENVS.parent / name, tmp_path / "source" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, place, dirs_exist_ok=True)
        else:
            shutil.copy(origin, place)
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", tmp_path / "built"],
        cwd=tmp_path / "source",
        check=True,
    )
    assert (tmp_path / "built/mtdnn/share/workflow/Snakefile").exists()


def python_of_conda() -> tuple[str, ...]:
    """Return major and minor version of Python in the conda environment."""
    environment = yaml.safe_load((ENVS / "environment.yaml").read_text())
    return re.fullmatch(r"python=(\d+)\.(\d+)", environment["dependencies"][0]).groups()
