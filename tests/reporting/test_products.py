"""The list of products is cheap to import, and follows its templates."""

import subprocess
import sys

from mtdnn.reporting import products


def test_the_snakefile_imports_nothing_heavy_with_it():
    heavy = ("torch", "matplotlib", "pandas", "scipy", "jinja2", "numpy", "pyarrow")
    code = f"import sys, mtdnn.reporting.products; print(set({heavy}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_digest_of_templates_follows_them(monkeypatch):
    before = products.templates_digest()
    assert before == products.templates_digest()
    monkeypatch.setattr(products, "sha256", lambda path: "other")
    assert products.templates_digest() != before
