"""Pages as notebooks, by jupytext: a bash or Python block is a cell, and all else is text."""

import json
import re
from pathlib import Path

import jupytext
from pages import BLOCK, NOT_IN_NOTEBOOKS

PICTURE = re.compile(r"^!\[[^]]*\]\((?:\.\./)*(?:tutorial/)?images/([\w-]+\.png)\)$", re.MULTILINE)
TRAINING = re.compile(r"^chatformer train (?:[^\n]|\\\n)*?--output-dir \S+", re.MULTILINE)
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)

# Else the language of the first block would be the notebook's.
LANGUAGE = "---\njupyter:\n  kernelspec:\n    display_name: Python 3\n    language: python\n    name: python3\n---\n\n"
FOLDER = """\
import os
from pathlib import Path

# The commands are for the folder with the project's files, and a notebook begins in its own. On a machine of the cloud,
# get the files first: !git clone their repository, and %cd into it.
for folder in (Path.cwd(), *Path.cwd().parents):
    if (folder / "benchmarks" / "faq.csv").exists():
        os.chdir(folder)
        break
"""
SET_UP = """\
%%bash
python -c "import chatformer" 2>/dev/null || pip install -q ".[metrics,plots]"
test -d chatformer-quickstart || chatformer quickstart < /dev/null
"""


def notebook_of(text: str) -> str:
    """The notebook of a page, as JSON."""
    text = FOLDED.sub(lambda match: match[0].replace("```python\n", "```py\n").replace("```bash\n", "```shell\n"), text)
    text = BLOCK.sub(text_unless_it_runs, text)
    # The commands above have drawn the picture.
    text = PICTURE.sub(r'```python\nfrom IPython.display import Image\n\nImage("\1")\n```', text)
    notebook = jupytext.reads(LANGUAGE + text, "md")
    first = ({"cell_type": "code", "source": source.rstrip("\n")} for source in (FOLDER, SET_UP))
    cells = [*first, *notebook.cells]
    made = {
        "cells": [
            {
                "cell_type": cell["cell_type"],
                "id": f"cell-{number}",
                "metadata": {},
                **({"execution_count": None, "outputs": []} if cell["cell_type"] == "code" else {}),
                "source": cell["source"].splitlines(keepends=True),
            }
            for number, cell in enumerate(cells)
        ],
        "metadata": {"kernelspec": notebook.metadata["kernelspec"]},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(made, ensure_ascii=False, indent=1) + "\n"


def text_unless_it_runs(block: re.Match[str]) -> str:
    """The block, under a name that makes no cell if it does not end, or is the project's source and runs not alone."""
    if block["marker"]:
        return block[0].replace("```python\n", "```py\n")
    if NOT_IN_NOTEBOOKS.search(block["code"]):
        return block[0].replace("```bash\n", "```shell\n")
    # A notebook is run again, and a training does not replace an earlier one unless it is told to.
    text = TRAINING.sub(r"\g<0> --overwrite-output-dir", block[0])
    # A doctor who has found a problem ends with status 1, at which a notebook would stop.
    return re.sub(r"^chatformer doctor \S+$", r"\g<0> || true", text, flags=re.MULTILINE)


def notebook_file(page: Path) -> Path:
    return page.with_suffix(".ipynb")
