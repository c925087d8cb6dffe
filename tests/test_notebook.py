"""The notebook runs from its first cell to its last, on a tiny model in place of the one of the hub."""

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from helpers.tiny import tiny_model, tiny_tokenizer
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The executed cells of code."""
    folder = tmp_path_factory.mktemp("notebook")
    model = tiny_model()
    model.config.max_position_embeddings = 2048
    model.save_pretrained(folder / "start")
    tiny_tokenizer().save_pretrained(folder / "start")
    shutil.copy(EXAMPLES / "library.csv", folder)
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    notebook.cells[1].source = notebook.cells[1].source.replace(MODEL, str(folder / "start"))
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown_by(cells: list[Any], last_line: str) -> dict[str, str]:
    """What the cell that ends so shows, by kind."""
    (cell,) = [cell for cell in cells if cell.source.endswith(last_line)]
    (shown,) = [output for output in cell.outputs if output.output_type == "execute_result"]
    return dict(shown.data)


@pytest.mark.parametrize(
    ("last_line", "caption"),
    [
        ("\nsft", "demotune sft"),
        ("\nirft", "demotune irft"),
        ("load_run(irft.run_folder)", "irft run runs/irft, finished"),
        ("compare([sft, irft])", "compared on the"),
    ],
)
def test_results_are_tables(cells: list[Any], last_line: str, caption: str) -> None:
    assert f"<table><caption>{caption}" in shown_by(cells, last_line)["text/html"]


def test_the_reward_ranks_and_the_report_is_written(cells: list[Any]) -> None:
    assert "both.html" in shown_by(cells, '"runs/both.html")')["text/plain"]
    scores = shown_by(cells, '"Bicycle."])')["text/plain"]
    assert len(scores.split(",")) == 2


def test_it_is_kept_with_the_tables_of_a_real_run_and_nothing_of_the_machine() -> None:
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert MODEL in notebook.cells[1].source
    kept = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert {output.output_type for output in kept} == {"execute_result"}
    assert sum("text/html" in output.data for output in kept) == 4
    assert "/home/" not in str(kept)
    assert "/tmp/" not in str(kept)
