"""The public names: exactly these, each there, each documented with an example that runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tiny import tiny_model, tiny_tokenizer, write_rows

import demotune

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
NAMES = {
    "DemotuneError", "EvaluationConfig", "IRFTConfig", "IRFTTrainer", "ImplicitReward", "RFTConfig", "RFTTrainer",
    "Reward", "RunResult", "SFTConfig", "SFTTrainer", "SPINConfig", "SPINTrainer", "ScalarReward", "advise",
    "as_reward_func", "best_of", "compare", "estimate_run", "evaluate", "generate", "learn_reward", "load_reward",
    "load_run", "losses",
    "resume", "run", "write_report",
}  # fmt: skip


def test_these_are_the_public_names() -> None:
    assert set(demotune.__all__) == NAMES
    assert set(dir(demotune)) == NAMES | {"__version__"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_can_be_imported(name: str) -> None:
    found = getattr(demotune, name)
    assert found.__doc__
    assert found.__name__.rpartition(".")[2] == name


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module demotune has no attribute 'nothing'"):
        _ = demotune.nothing


def test_each_is_documented_once_under_a_heading() -> None:
    headings = re.findall(r"^### (.*)$", PAGE, flags=re.MULTILINE)
    documented = [name for heading in headings for name in re.findall(r"`(\w+)`", heading)]
    assert sorted(documented) == sorted(NAMES)


def examples() -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL))


def test_each_is_used_in_an_example() -> None:
    used = set(re.findall(r"\w+", examples()))
    assert NAMES - used - {"RunResult", "RFTTrainer", "SPINTrainer"} == set()  # a result is returned; of four, two


def test_import_is_instant() -> None:
    """Neither torch nor pandas nor anything else that takes its time."""
    code = "import sys, demotune; dir(demotune); print(len([n for n in sys.modules if n.startswith('demotune')]))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "1"


def test_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, on a tiny model in place of the one of the hub."""
    model = tiny_model()
    model.config.max_position_embeddings = 2048
    model.save_pretrained(tmp_path / "start")
    tiny_tokenizer().save_pretrained(tmp_path / "start")
    write_rows(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    code = examples().replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(tmp_path / "start"))
    code = code.replace(
        'output="runs/rft"', 'output="runs/rft", finished_only=False'
    )  # random weights seldom end a turn
    exec(compile(code, "python.md", "exec"), {"__name__": "page"})
    assert {file.name for file in (tmp_path / "runs").iterdir()} >= {"irft", "sft", "spin", "rft", "both.html", "eval"}
