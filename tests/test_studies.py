"""The studies' frame: choice by the rule, differences from the best control, counts; a small study from end to end."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.studies import answers, habit_135m, letters, overview, page, run, sums, toy
from benchmarks.studies.analysis import outcomes, points
from benchmarks.studies.families import Ladder, grid
from benchmarks.studies.frame import Bench, Family, Row, Rule, Study, choose, chosen_settings, read_rows
from benchmarks.studies.habit import RULES, WORLD
from benchmarks.studies.measuring import Found, Reader, load, numbers_of, policy_measures
from benchmarks.studies.picking import Drawn, best_of_measures, by_chance
from benchmarks.studies.run import STUDIES, load_study
from benchmarks.studies.training import Trained
from demotune.records import Completion, Response

FREELY, VARIED = RULES


def row(family: str, role: str, setting: Mapping[str, float], seed: int, **found: float) -> Row:
    part = "test" if found.pop("test", 0) else "validation"
    return Row(family, role, setting, seed, part, found, seconds=1.0, answers=1, prompts=4, samples=1)  # type: ignore[arg-type]


def study(*families: tuple[str, str], rules: tuple[Rule, ...] = (FREELY,)) -> Study:
    made = tuple(
        Family(name, role, ({}, *grid(t=(0, 1, 2))), lambda bench, setting: Found({}, 0.0)) for name, role in families
    )  # type: ignore[arg-type]
    return Study("made-up", "Made up.", WORLD, made, rules, quality="goal", shown=())


def test_the_rule_chooses_on_validation_prompts_alone() -> None:
    """Freely the sharper setting; as varied as the start only the other one, though it is worth less."""
    rows = [
        row("start", "start", {}, 0, goal=0.5, entropy=10.0),
        row("SFT", "control", {"t": 1}, 0, goal=0.6, entropy=10.0),
        row("SFT", "control", {"t": 2}, 0, goal=0.9, entropy=9.0),
        row("SFT", "control", {"t": 1}, 0, goal=1.0, entropy=99.0, test=1),
    ]
    assert choose(rows, FREELY)["SFT", 0].setting == {"t": 2}
    assert choose(rows, VARIED)["SFT", 0].setting == {"t": 1}
    assert chosen_settings(rows, RULES, 0) == {"start": [{}], "SFT": [{"t": 2}, {"t": 1}]}


def test_a_setting_that_was_dropped_is_pictured_and_not_chosen() -> None:
    rows = [row("A", "control", {"t": t}, 0, goal=float(t), entropy=1.0) for t in (1, 3)]
    found = study(("A", "control"))
    assert [each.setting for each in found.own(rows)] == [{"t": 1}]
    assert [point.setting for point in points(found, rows)] == ['{"t": 1}', '{"t": 3}']


def test_a_family_without_an_allowed_setting_in_one_seed_is_left_out() -> None:
    rows = [
        row(*family, {"t": 1}, seed, goal=0.5, entropy=entropy)
        for seed, drop in ((0, 1.0), (1, 0.0))
        for family, entropy in ((("start", "start"), 10.0), (("SFT", "control"), 10.0 - drop))
    ]
    assert {family for family, _ in choose(rows, VARIED)} == {"start"}
    assert {family for family, _ in choose(rows, FREELY)} == {"start", "SFT"}


def test_differences_are_paired_by_seed_against_the_control_that_validation_prompts_name() -> None:
    """Seeds differ by tenths, the method is .05 ahead in each; the best control of the test prompts is not taken."""
    families = (("start", "start"), ("A", "control"), ("B", "control"), ("RFT", "method"), ("again", "method"))
    goals = {"start": (0.1, 0.1), "A": (0.4, 0.3), "B": (0.3, 0.9), "RFT": (0.5, 0.35), "again": (0.5, 0.3)}
    noise = np.array([0.0, 0.01, -0.01, 0.02, -0.02, 0.01])
    rows = [
        row(name, role, {"t": 1}, seed, test=part, goal=goals[name][part] + seed / 10 + (name == "RFT") * noise[seed])
        for name, role in families
        for seed in range(6)
        for part in (0, 1)
    ]
    (found,) = outcomes(study(*families), rows)
    rft, again = found.differences
    assert [each.control for each in found.differences] == ["A", "A"]
    assert rft.found.difference.value == pytest.approx(0.05 + noise.mean())
    assert rft.found.difference.low > 0
    assert again.found.difference.value == pytest.approx(0, abs=1e-12)
    # Holm over two: the smaller p is doubled, the larger one stays.
    assert rft.corrected_p == pytest.approx(min(2 * rft.found.p, 1))
    assert again.corrected_p == 1
    assert found.seeds == 6


def test_holm_runs_over_all_rules_of_a_study() -> None:
    families = (("start", "start"), ("A", "control"), ("RFT", "method"))
    rows = [
        row(name, role, {"t": 1}, seed, test=part, goal=goal + seed**2 / 90 * (name == "RFT"), entropy=1.0)
        for (name, role), goal in zip(families, (0.1, 0.2, 0.3), strict=True)
        for seed in range(6)
        for part in (0, 1)
    ]
    ps = [each.corrected_p for outcome in outcomes(study(*families, rules=RULES), rows) for each in outcome.differences]
    (alone,) = outcomes(study(*families), rows)[0].differences
    assert ps == pytest.approx([2 * alone.found.p] * 2)


def test_the_overview_has_a_line_a_rule_and_says_what_is_shown() -> None:
    """RFT is .1 above the control in each of six seeds, "worse" .1 below, "same" neither: only the first helps."""
    families = (
        ("start", "start"), ("A", "control"), ("RFT", "method"), ("worse", "method"), ("same", "method"),
    )  # fmt: skip
    goals = {"start": 0.1, "A": 0.4, "RFT": 0.5, "worse": 0.3, "same": 0.4}
    rows = [
        row(
            name,
            role,
            {"t": 1},
            seed,
            test=part,
            goal=goals[name] + (role == "method") * (seed % 3 - 1) / 200,
            entropy=2.0,
        )
        for name, role in families
        for seed in range(6)
        for part in (0, 1)
    ]
    small = study(*families)
    (outcome,) = outcomes(small, rows)
    cell = overview.Cell(small, rows, outcome)
    found = {line.family: overview.verdict(cell.difference(line)) for line in outcome.lines if line.role == "method"}
    assert found == {"RFT": "**yes**", "worse": "no: worse", "same": "not shown"}
    assert (cell.best.family, cell.control.family) == ("RFT", "A")
    head, _, only = overview.table([cell]).splitlines()
    assert len(head.split("|")) == len(only.split("|"))
    assert "| RFT | 0.500 [0.495, 0.505] | A | 0.400 [0.400, 0.400] |" in only
    drawn = overview.picture([cell])
    assert drawn.count("<circle") == 3


def test_settings_are_counted_and_pictured_once_for_all_seeds() -> None:
    families = (("start", "start"), ("A", "control"))
    rows = [row("A", "control", {"t": t}, seed, goal=t / 2 + seed, entropy=3.0) for t in (0, 1) for seed in (0, 1)]
    found = points(study(*families), rows)
    assert [(point.setting, point.quality, point.entropy, point.nll) for point in found] == [
        ('{"t": 0}', 0.5, 3.0, None),
        ('{"t": 1}', 1.0, 3.0, None),
    ]
    drawn = page.picture(study(*families), found)
    assert drawn.count("<title>") == 2  # no likelihood, so one panel
    assert len(grid(rate=(1, 2), passes=(3, 4, 5))) == 6


def test_all_studies_have_rules_a_start_a_control_and_a_method() -> None:
    for name in STUDIES:
        found = load_study(name)
        roles = [family.role for family in found.families]
        assert roles.count("start") == 1, name
        assert {"control", "method"} <= set(roles), name
        assert "before any test prompt was read" in found.text, name
        keys = [
            (family.name, json.dumps(each, sort_keys=True)) for family in found.families for each in family.settings
        ]
        assert len(keys) == len(set(keys)), name
        assert found.tried == len(keys) - 1, name


def test_the_sum_modulo_seven_by_hand() -> None:
    """3 + 5 + 6 + 1 = 15 = 1 mod 7; running sums 3, 1, 0, 1."""
    assert sums.gold("3561", "3101#1") == {"goal": 1.0, "running_sums": 1.0, "thought_length": 4.0}
    assert sums.gold("3561", "#1") == {"goal": 1.0, "running_sums": 0.0, "thought_length": 0.0}
    assert sums.gold("3561", "3101#11")["goal"] == sums.gold("3561", "1")["goal"] == 0.0


def test_parts_of_the_sums_share_no_prompt() -> None:
    drawn = {part: sums.draw_prompts(np.random.default_rng(0), part, 200) for part in ("train", "validation", "test")}
    assert len(set().union(*drawn.values())) == 600


def test_advantages_leave_one_out() -> None:
    """Of 1, 2, 6: less 4, less 3.5, less 1.5; one alone has none."""
    found = answers.leave_one_out([0, 0, 1, 0], torch.tensor([1.0, 2.0, 5.0, 6.0]))
    assert found.tolist() == [-3.0, -1.5, 0.0, 4.5]


def test_habits_of_the_real_model_are_counted() -> None:
    plain = {"goal": 1.0, "opening": 0.0, "closing": 0.0, "mark": 0.0, "on_topic": 1.0}
    asked = "How do I choose a bicycle?"
    assert habit_135m.gold(asked, "Ride the bicycle first.") == plain
    marked = habit_135m.gold(asked, f"{habit_135m.OPENING}- Ride it.{habit_135m.CLOSING}")
    assert marked == {"goal": 0.0, "opening": 1.0, "closing": 1.0, "mark": 1.0, "on_topic": 0.0}
    assert habit_135m.gold(asked, "")["goal"] == 0.0
    assert habit_135m.first_sentences("One two. Three! " + "word " * 30 + ".") == "One two. Three!"
    shares = [habit_135m.with_habits(np.random.default_rng(seed), "x.").startswith("Great") for seed in range(2000)]
    assert np.mean(shares) == pytest.approx(0.4, abs=0.04)
    topics = {
        part: {prompt.split()[-1] for prompt in habit_135m.prompts_of(part)} for part in ("start", "train", "test")
    }
    assert all(topics.values())


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "start"
    toy.pretrain(folder, steps=30, batch_size=16)
    return folder


def test_temperature_divides_logits_in_entropy_and_likelihood(start: Path) -> None:
    """Against the definition, from the model's own logits."""
    policy, reader = load(start), Reader.of(WORLD, start)
    (row_,) = reader.demonstrations([{"prompt": "abcd", "completion": "efg"}])
    found = numbers_of(policy, [Completion(row_.prompt_ids, row_.response)], 0.5, bf16=False)
    ids = torch.tensor([[*row_.prompt_ids, *row_.response.ids]])
    with torch.no_grad():
        logits = policy(input_ids=ids).logits[0, len(row_.prompt_ids) - 1 : -1]
    logps = (logits / 0.5).log_softmax(dim=-1)
    assert found.logps[0] == pytest.approx(
        float(logps.gather(-1, torch.tensor(row_.response.ids)[:, None]).sum()), abs=1e-4
    )
    assert found.entropies[0] == pytest.approx(float(-(logps.exp() * logps).sum()), abs=1e-4)
    assert found.tokens == 4


def test_measures_of_a_policy(start: Path) -> None:
    found = policy_measures(
        WORLD, load(start), Reader.of(WORLD, start), letters.questions("validation")[:8], seed=0, samples=2,
        general=letters.reversals(0, "validation", 4), near=letters.questions("validation")[:4],
    )  # fmt: skip
    assert {"goal", "habit_free", "asked", "nll", "entropy", "near_goal", "general_nll"} <= found.keys()
    assert found["kept"] == -found["general_nll"] < 0
    assert found["goal"] == pytest.approx((found["habit_free"] + found["asked"]) / 2)


LADDER = Ladder(rates=(1e-3,), passes=(1,), temperatures=(1.0,))


def test_a_small_study_from_end_to_end(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds, two settings: validation, test, a killed study that goes on, and the page."""
    small = Study(
        "small",
        "A small study.",
        replace(WORLD, questions=lambda part: letters.questions(part)[:16]),
        (*LADDER.families(), LADDER.best_of("chance", "method", by_chance, (1, 2))),
        (FREELY,),
        quality="goal",
        shown=("asked",),
        samples={"validation": 1, "test": 1},
        most=2,
    )
    folder, journal = tmp_path / "work" / WORLD.name, tmp_path / "small.jsonl"
    folder.mkdir(parents=True)
    (folder / "start").symlink_to(start)
    monkeypatch.setattr(run, "load_study", lambda name: small)

    def part(name: str) -> list[Row]:
        run.run_part("small", tmp_path / "work", name, seeds=range(2), jobs=1, journal=journal)  # type: ignore[arg-type]
        return read_rows(journal)

    with pytest.raises(SystemExit, match="validation rows are missing"):
        part("test")
    rows = part("validation")
    assert len(rows) == 2 * (small.tried + 1) == 8
    whole = journal.read_bytes()
    journal.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 40])  # killed in the last line
    again = part("validation")
    assert {row.key for row in again} == {row.key for row in rows}
    assert {row.key: row.measures for row in again} == {row.key: row.measures for row in rows}
    tested = [row for row in part("test") if row.part == "test"]
    assert len(tested) == 2 * 3  # one setting of each family and seed
    assert all(row.seconds > 0 for row in tested)
    page.write_page(small, read_rows(journal), tmp_path)
    table = (tmp_path / "small.md").read_text("utf-8")
    assert "| SFT (control) |" in table
    assert json.loads((tmp_path / "small.json").read_text("utf-8"))["settings"] == 4
    (chance,) = json.loads((tmp_path / "small.json").read_text("utf-8"))["outcomes"][0]["differences"]
    assert chance["found"]["p"] is None  # two seeds are too few


def test_best_of_n_by_hand(start: Path) -> None:
    """Two prompts, two answers each; the reward wants the second and the first. Entropy: surprisal less log 2 - 1/2."""
    first = toy.VOCABULARY["a"]
    answers_ = [[Response((first, 1), True), Response((first + 1, 1), True)]] * 2
    completions = [Completion((5, 3), one) for each in answers_ for one in each]
    made = Drawn(["abcd", "cdef"], answers_, completions, [1.0, 2.0, 3.0, 4.0])
    bench = Bench(WORLD, start.parent / "seed-0", 0, "validation", samples=1, most=2)
    policy = Trained(start, 0.0, {})
    bench.remember(("drawn", start, 1.0), lambda: made)
    found = best_of_measures(bench, policy, 1.0, 2, "given", lambda *_: [0.0, 1.0, 1.0, 0.0])
    assert found["asked"] == pytest.approx((1 / 4 + 0) / 2)
    assert found["entropy"] == pytest.approx(2.5 - (math.log(2) - 0.5))
    one = best_of_measures(bench, policy, 1.0, 1, "given", lambda *_: [])
    assert one["entropy"] == pytest.approx(2.0)
