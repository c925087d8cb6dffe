"""The model card: numbers as in the files, users' text never markup, no path of the user's machine."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.report_folders import FIVE, write_evaluation, write_run
from markdown_it import MarkdownIt

from demotune.common.errors import DemotuneError
from demotune.common.files import write_json
from demotune.report.model_card import model_card
from demotune.report.public_names import looks_like_hub_id, public_command, without_paths

HOSTILE = "a|b`` ` <script>alert(1)</script> ![x](http://x/y.png) [z](http://z) **bold** {{7*7}}\n# heading"
HOME = "/home/anna kowalski/secret"


def front_matter(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(front)
    return found


def rendered(card: str) -> str:
    """The body as a Markdown renderer shows it."""
    return str(MarkdownIt("commonmark").enable("table").render(card.split("---\n", 2)[2]))


def snippet(card: str) -> str:
    found = re.search(r"^(`{3,})python\n(.*?)\n\1$", card, re.DOTALL | re.MULTILINE)
    assert found
    return found[2]


def write_judged(root: Path, run_hash: str = "hash-of-result") -> Path:
    """An evaluation of the run's model and of its start model."""
    folder = write_evaluation(root, name="ours")
    file = folder / "evaluation.json"
    record = yaml.safe_load(file.read_text(encoding="utf-8"))
    record["models"] = [{"name": "ours", "hash": run_hash}, {"name": "start", "hash": "other"}]
    record["measures"].append(record["measures"][0] | {"model": "start", "value": -9.87})
    record["data"]["sources"] = [f"{HOME}/test.jsonl"]
    record["warnings"] = ["this reward chose rows of the run /home/anna/secret/irft, it is no impartial judge"]
    write_json(file, record)
    return folder


def test_front_matter_says_what_a_hub_needs(tmp_path: Path) -> None:
    config = {"model": "owner/base-1.4B", "data": ["owner/set", "rows.jsonl"]}
    card = model_card(write_run(tmp_path / "irft", config=config))
    assert front_matter(card) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["demotune", "irft"],
        "base_model": "owner/base-1.4B",
        "datasets": ["owner/set"],
    }


def test_local_names_are_no_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = front_matter(model_card(write_run(tmp_path / "run", config={"model": "/home/anna/start"})))
    assert "base_model" not in card
    assert "datasets" not in card
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/sft").mkdir(parents=True)
    names = ("runs/sft", "data/rows.jsonl", "data/rows.csv.gz", "models/q.gguf", "a/b/c", "gpt2", "../x", "./a")
    assert [name for name in names if looks_like_hub_id(name)] == []
    assert looks_like_hub_id("Qwen/Qwen2.5-0.5B")


def test_the_result_stands_with_interval_and_number_of_prompts(tmp_path: Path) -> None:
    """Gains 2, 1.9, 2, 2, 2 nats on 5 prompts, all likelier; 80 / 50 nats a token before, 70.1 / 50 after."""
    card = model_card(write_run(tmp_path / "run", **FIVE, stages=[(-8.0, -18.1, -28.0, -8.0, -8.0)]))
    assert "nats a token: −1.600 before, −1.402 after." in card
    assert re.search(
        r"\+1\.98 nats a response \(95% interval \+1\.\d+ to \+2\.\d+, paired by prompt, 5 prompts\)", card
    )
    assert "**better**. 100% of the demonstrations became likelier." in card
    assert "That is how well it imitates; how useful its answers are was not judged by it." in card
    assert "in 70% of 3 held-out prompts (95% interval 40% to 90%)." in card
    assert "This is one run with one seed (7)." in card
    assert "Stages: 1 stage; the result is stage 1." in card


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    assert "whether it helped is not known" in model_card(write_run(tmp_path / "bare", start=None))
    few = model_card(write_run(tmp_path / "few"))
    assert "+1.00 nats a response (paired by prompt, 3 prompts): **too few held-out rows to tell**" in few


def test_the_warnings_of_the_gate_are_on_the_card(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    check = yaml.safe_load((run / "stages/00/check.json").read_text(encoding="utf-8"))
    check["gate"]["warnings"] = ["answers repeat themselves: 40% of 4-grams, 2% before"]
    write_json(run / "stages/00/check.json", check)
    assert "* Warning: answers repeat themselves: 40% of 4-grams, 2% before" in model_card(run)


def test_an_evaluation_shows_this_models_numbers_only(tmp_path: Path) -> None:
    card = model_card(write_run(tmp_path / "run"), [write_judged(tmp_path / "ev")])
    assert "| log-likelihood | −1.50 | −1.70 to −1.30 | 3 | nats a token |" in card
    assert "| win rate, by judge | ours over start | 61% | 54% to 68% | 0.004 | 200 |" in card
    assert "9.87" not in card
    assert "3 rows of `test.jsonl` (preferences)" in card


def test_task_scores_are_shown_with_their_error(tmp_path: Path) -> None:
    folder = write_judged(tmp_path / "ev")
    tasks = yaml.safe_load((folder / "tasks.json").read_text(encoding="utf-8"))
    run, line = write_run(tmp_path / "run"), "| arc | acc | 0.500 ± 0.196 | 40 |"
    assert line in model_card(run, [folder])
    tasks["models"] = {"start": tasks["models"]["ours"]}
    write_json(folder / "tasks.json", tasks)
    assert line not in model_card(run, [folder])


def test_an_evaluation_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DemotuneError, match="did not measure the model of run"):
        model_card(write_run(tmp_path / "run"), [write_judged(tmp_path / "ev", run_hash="of another")])


def test_an_unfinished_run_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(DemotuneError, match="demotune resume"):
        model_card(write_run(tmp_path / "run", finished=False))


def test_no_path_of_the_machine_is_on_the_card(tmp_path: Path) -> None:
    command = f"demotune irft --model {HOME}/start --data={HOME}/rows.jsonl --output ~/anna/out --seed 7"
    config = {
        "model": f"{HOME}/start",
        "data": [f"{HOME}/rows.jsonl", r"C:\Users\anna\more.jsonl"],
        "prompts": [f"{HOME}/prompts.txt"],
        "reward_model": f"{HOME}/reward",
    }
    manifest = {"command": command, "data": {f"{HOME}/rows.jsonl": "hash-of-rows"}}
    refused = [{"source": f"{HOME}/rows.jsonl:3", "reason": "over-long", "detail": "d"}]
    run = write_run(tmp_path / "run", method="rft", config=config, manifest=manifest, refused=refused)
    card = model_card(run, [write_judged(tmp_path / "ev")])
    assert not re.search(r"anna|kowalski|secret|Users|/home|~/", card)
    assert str(tmp_path) not in card
    assert "`demotune irft --model start --data=rows.jsonl --output out --seed 7`" in card
    assert "`rows.jsonl`, `more.jsonl`; 1 row refused (over-long 1)" in card
    assert "| `prompts` | `prompts.txt` |" in card
    assert "chose rows of the run irft, it is no impartial judge" in card


def test_users_text_is_never_markup(tmp_path: Path) -> None:
    config = {"model": HOSTILE, "data": [HOSTILE], "template": HOSTILE + "```{prompt}", "optim": HOSTILE}
    manifest = {"command": f"demotune irft --template {HOSTILE}", "versions": {HOSTILE: HOSTILE}}
    refused = [{"source": "s", "reason": HOSTILE, "detail": "d"}]
    run = write_run(tmp_path / "a <b> *c* [d](e)", config=config, manifest=manifest, refused=refused)
    folder = write_judged(tmp_path / "ev")
    record = yaml.safe_load((folder / "evaluation.json").read_text(encoding="utf-8"))
    record["measures"][0]["judge"] = record["comparisons"][0]["judge"] = HOSTILE
    record["warnings"] = [HOSTILE]
    write_json(folder / "evaluation.json", record)
    card = model_card(run, [folder])
    hostile = rendered(card)
    plain = rendered(model_card(write_run(tmp_path / "plain"), [write_judged(tmp_path / "ev2")]))
    assert not re.search(r"<script|<img|<a |<b>|<em>", hostile)
    for element in ("<h1>", "<h2>", "<table>", "<tr>", "<strong>", "<pre>"):
        assert hostile.count(element) == plain.count(element) + (element == "<tr>")  # the setting `optim`
    assert set(front_matter(card)) == {"library_name", "pipeline_tag", "tags"}
    ast.parse(snippet(card))


@pytest.mark.parametrize("template", [None, "### {prompt}\n```\n'quoted' \"twice\""])
def test_the_snippet_is_python(tmp_path: Path, template: str | None) -> None:
    code = snippet(model_card(write_run(tmp_path / "run", config={"template": template})))
    names = {node.module for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)}
    assert names == {"transformers"}
    assert ("apply_chat_template" in code) == (template is None)
    if template is not None:
        assert repr(template) in code


def test_an_adapter_is_loaded_with_peft_and_names_its_base(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", config={"use_peft": True, "lora_r": 16, "lora_alpha": 32})
    write_json(run / "model/adapter_config.json", {"base_model_name_or_path": "owner/base"})
    card = model_card(run)
    assert (front_matter(card)["library_name"], front_matter(card)["base_model"]) == ("peft", "owner/base")
    assert "from peft import AutoPeftModelForCausalLM" in snippet(card)
    assert "A LoRA adapter for `owner/base`" in card
    assert "| `lora_r` | `16` |" in card


def test_hub_ids_stay_whole_in_a_command() -> None:
    command = "demotune sft --model owner/base --data /a b/rows.jsonl --merge-adapter"
    assert (
        public_command(command, {"owner/base"}) == "demotune sft --model owner/base --data rows.jsonl --merge-adapter"
    )
    assert public_command("demotune resume /home/anna k/run", set()) == "demotune resume run"


def test_sentences_lose_paths_and_keep_fractions() -> None:
    text = "5 nats/token in /home/anna/runs/a, ~/b/c.jsonl:3 and ../up/d; stages/00/x stays"
    assert without_paths(text) == "5 nats/token in a, c.jsonl:3 and d; stages/00/x stays"


def test_the_card_names_hashes_versions_and_the_paper(tmp_path: Path) -> None:
    card = model_card(write_run(tmp_path / "run"))
    for told in ("hash-of-start", "hash-of-rows", "hash-of-row-keys", "hash-of-result", "torch 2.0", "2405.17888"):
        assert told in card
