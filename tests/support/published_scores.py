"""A made-up file of published numbers."""

from pathlib import Path

from mtdnn.machine.files import write_text

PUBLISHED = """\
table,encoder,mixture,qa_weight,split,em,f1
table1,bert-base-cased,qa,1.0,dev,73.544,76.18
table1,bert-base-cased,qa_mcc_sc,0.8,dev,74.58,77.15
table1,bert-base-cased,qa_mcc_sc,0.9,dev,73.92,76.47
table3,bert-large-cased,qa,1.0,dev,77.902,80.831
validation,bert-base-cased,qa_mcc_sc,0.8,validation,73.373,76.421
"""


def write_published(folder: Path) -> str:
    """Write the numbers to `published.csv` and return its path, as an experiment names it."""
    write_text(folder / "published.csv", PUBLISHED)
    return str(folder / "published.csv")
