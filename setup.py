"""Put the workflow's files into the wheel; everything else about the package is in setup.cfg."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# From their places in the repository to their places below mtdnn/share. Snakemake finds profiles
# next to the Snakefile by itself.
SHARED = {
    "workflow": "workflow",
    "profiles": "workflow/profiles",
    "config": "config",
    "envs": "envs",
    "results/published": "results/published",
}


class BuildWithWorkflow(build_py):
    """Copy the workflow's files, too, unless the install is editable and finds them here."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for origin, place in SHARED.items():
            target = Path(self.build_lib, "mtdnn", "share", place)
            shutil.copytree(origin, target, dirs_exist_ok=True)
        for name in ("LICENSE", "CITATION.cff"):  # crates of experiments hold them
            shutil.copy(name, Path(self.build_lib, "mtdnn", "share", name))


setup(cmdclass={"build_py": BuildWithWorkflow})
