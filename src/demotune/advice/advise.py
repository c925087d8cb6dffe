"""`demotune advise`, the story: model and rows, measurements, the rule that holds, the command to run next; files."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any

from demotune.advice.measure import Drawn, Found, measure
from demotune.advice.measurements import Advice, AdviceRecord, Measurements
from demotune.advice.next_command import next_command, other_command
from demotune.advice.rules import decide
from demotune.advice.subject import Subject, prepare_subject
from demotune.common.errors import DemotuneError
from demotune.common.files import write_json, write_rows
from demotune.common.json_records import as_json
from demotune.common.progress import say
from demotune.config.commands import AdviseConfig
from demotune.models.reward import save_reward_model
from demotune.models.reward_facts import FACTS
from demotune.records import Completion
from demotune.rewards.card import linear_reward_card
from demotune.rewards.linear import LinearReward
from demotune.runs.file_names import ADVICE, PARTIAL, QUARANTINE, REWARD, SAMPLES
from demotune.runs.folder import RunFolder


def advise(config: AdviseConfig) -> AdviceRecord:
    """Measure and recommend; with `config.output` also write advice.json, the samples and, for best of n, the reward.

    Raises DemotuneError for anything the user can mend. The same config, files and machine give the same record.
    """
    if config.output is None:
        with tempfile.TemporaryDirectory(prefix="demotune-advise-") as folder:
            record, _, _ = _advise(config, Path(folder), None)
        return record
    if config.output.exists() and not config.output.is_dir():
        raise DemotuneError(f"output {config.output} is a file; name a folder for the advice with --output")
    if RunFolder(config.output).holds_run:
        raise DemotuneError(f"output {config.output} holds a run; name another folder for the advice with --output")
    config.output.mkdir(parents=True, exist_ok=True)
    record, subject, found = _advise(config, config.output, config.output / QUARANTINE)
    write_rows(config.output / SAMPLES, _sample_rows(subject, found))
    if (config.output / REWARD / FACTS).is_file():  # of an earlier advice
        rmtree(config.output / REWARD)
    if record.advice.action == "best-of-n" and found.reward is not None:
        save_reward(subject, found.reward, config.output / REWARD)
    write_json(config.output / ADVICE, as_json(record))
    for journal in config.output.glob(f"*{PARTIAL}"):
        journal.unlink()
    return record


def advice_from(measured: Measurements, config: AdviseConfig) -> Advice:
    """What the rules say to these measurements."""
    rule = decide(measured)
    return Advice(
        action=rule.action,
        rule=rule.name,
        reason=rule.reason(measured),
        command=next_command(rule.action, config),
        otherwise=other_command(rule.action, config),
        basis=(
            f"A recommendation from {measured.train_rows} of {measured.demonstrations} training rows and "
            f"{measured.heldout_rows} held-out rows, one seed. It is no promise."
        ),
    )


def _advise(config: AdviseConfig, journals: Path, quarantine: Path | None) -> tuple[AdviceRecord, Subject, Found]:
    say(f"demotune advise: {config.model} on {', '.join(config.data)}")
    subject = prepare_subject(config, quarantine)
    found = measure(subject, journals)
    record = AdviceRecord(
        model=config.model,
        model_hash=subject.hash,
        data=config.data,
        data_hashes=subject.data_hashes,
        seed=config.seed,
        measurements=found.measurements,
        advice=advice_from(found.measurements, config),
    )
    return record, subject, found


def _sample_rows(subject: Subject, found: Found) -> Iterator[dict[str, Any]]:
    """Each response with where its prompt is from, as text, and its reward where there is one."""
    decode = subject.renderer.decode
    for source, kind, completion in _named(found.drawn):
        response = completion.response
        row: dict[str, Any] = {"source": source, "kind": kind, "prompt": decode(completion.prompt_ids)}
        row |= {"response": decode(response.ids), "tokens": len(response.ids), "finished": response.finished}
        if found.reward is not None:
            row["reward"] = float(found.reward.score(found.states.table[completion][None])[0])
        yield row


def _named(drawn: Drawn) -> Iterator[tuple[str, str, Completion]]:
    """(where the prompt is from, whose response it is, the response)."""
    for source, answers in (("train", drawn.train), ("heldout", drawn.heldout)):
        for one in answers:
            kinds = ["demonstration", *["sample"] * len(one.samples), *([] if one.greedy is None else ["greedy"])]
            yield from ((source, kind, own) for kind, own in zip(kinds, one.completions, strict=True))
    yield from (("prompts", "greedy", own) for own in drawn.prompts)


def save_reward(subject: Subject, reward: LinearReward, folder: Path) -> None:
    """The linear reward as a sequence classifier with one label, on the model's own weights, which it takes."""
    facts, config = reward.facts(subject.config.template), subject.config
    card = linear_reward_card(config.model, "`demotune advise`", ", ".join(config.data), reward.pairs, facts)
    model = reward.as_head(subject.policy, subject.pad_id)
    save_reward_model(model, subject.tokenizer, facts, folder, card)
