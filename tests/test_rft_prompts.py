"""RFT on further prompts, which have no demonstrations."""

import json
from pathlib import Path

import pytest
from helpers.micro import letter_tokenizer
from helpers.rft_runs import TEMPLATE, config, make_world, read

from demotune import DemotuneError, RunResult, resume, run
from demotune.common.files import read_rows


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("rft"))


@pytest.fixture(scope="module")
def plain(place: Path) -> RunResult:
    return run(config(place, "plain"))


ANSWERED = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def prompt_of(text: str) -> tuple[int, ...]:
    return tuple(letter_tokenizer().encode(TEMPLATE.replace("{prompt}", text), add_special_tokens=False))


def drawn_prompts(folder: Path) -> list[tuple[int, ...]]:
    files = sorted(folder.glob("stages/*/rollouts/*.gz"))
    return [tuple(row["prompt_ids"]) for file in files for row in read_rows(file)]


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_further_prompts_are_answered_each_once_and_never_held_out_ones(
    kind: str, plain: RunResult, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three new prompts, one twice, one too long, and all that have demonstrations, held out or not."""
    known = [json.loads(line)["prompt"] for line in (place / "rows.jsonl").read_text().splitlines()]
    new = ["jjjjjj", "ijijij", "hhgghh"]
    texts = [*known, *new, new[0], "", "a" * 30]
    file = place / f"prompts.{kind}"
    if kind == "txt":
        file.write_text("\n".join(texts), encoding="utf-8")
    else:
        rows = [
            {"prompt": text} if number % 2 else {"prompt": None, "messages": [{"role": "user", "content": text}]}
            for number, text in enumerate(filter(None, texts))
        ]
        file.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    one = config(place, f"prompts-{kind}", prompts=(str(file),), slices="all", stages=1, policy_batches=6)
    folder = run(one).run_folder
    assert "prompts without demonstrations: 3" in capsys.readouterr().out
    samples = read(folder, 0, "samples.jsonl.gz")
    trained_on = {tuple(row["prompt_ids"]) for row in samples if not row["heldout"]}
    drawn = drawn_prompts(folder)
    # 18 prompts in 6 batches of 3: all 15 of the data and the three new ones, each with its two answers.
    assert set(drawn) == trained_on | {prompt_of(text) for text in new}
    assert sorted(drawn) == sorted([*set(drawn)] * 2)
    assert {tuple(row["prompt_ids"]) for row in samples}.isdisjoint({prompt_of(text) for text in new})
    assert json.loads((folder / "manifest.json").read_text())["data"].keys() == {str(place / "rows.jsonl"), str(file)}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.txt", None, r"prompts file .*missing\.txt does not exist"),
        ("empty.txt", "\n \n", r"prompts file .*empty\.txt is empty; write one prompt a line"),
        ("broken.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"broken\.jsonl:2 is no prompt; write"),
        ("number.jsonl", '{"prompt": 3}\n', r"number\.jsonl:1 is no prompt"),
        ("list.jsonl", '["a"]\n', r"list\.jsonl:1 is no prompt"),
        ("other.jsonl", '\n{"text": "a"}\n', r"other\.jsonl:2 is no prompt"),
        (
            "answered.jsonl",
            json.dumps({"messages": ANSWERED}) + "\n",
            r"answered\.jsonl:1 is no prompt.*the user's turn",
        ),
        ("nothing.jsonl", '{"messages": [{"role": "user", "content": null}]}\n', r"nothing\.jsonl:1 is no prompt"),
        ("turns.jsonl", '{"messages": [{"role": "user"}]}\n', r"turns\.jsonl:1 is no prompt"),
        ("latin.txt", b"caf\xe9\n", r"latin\.txt:1 is not UTF-8.*save the file as UTF-8"),
    ],
)
def test_a_bad_prompts_file_stops_the_run_before_anything_is_drawn(
    name: str, text: str | bytes | None, message: str, place: Path
) -> None:
    file = place / name
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DemotuneError, match=message):
        run(config(place, f"bad-{name}", prompts=(str(file),)))
    assert not (place / f"bad-{name}" / "stages").exists()


def test_a_changed_prompts_file_is_refused_on_resume(place: Path) -> None:
    file = place / "changing.txt"
    file.write_text("jj\n", encoding="utf-8")
    folder = run(config(place, "changing", prompts=(str(file),), stages=1)).run_folder
    resume(folder)
    file.write_text("ii\n", encoding="utf-8")
    with pytest.raises(DemotuneError, match=rf"data {file}: .* when it began"):
        resume(folder)
    file.unlink()
    with pytest.raises(DemotuneError, match="does not exist"):
        resume(folder)
