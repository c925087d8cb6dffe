"""The oracle of intake: rows rendered one by one, all in memory, with one call of the tokenizer for each text.

Slow and plain. Ids, keys, bad rows, notes and the split of `demotune.data.intake` must be these.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from statistics import fmean
from typing import Any

from demotune.config.methods import AnyConfig
from demotune.data import BadRow, Loaded, load_demonstrations
from demotune.data.intake import reasons
from demotune.data.rendering import Renderer, RenderError, content_key
from demotune.data.rendering.thoughts import split_thought
from demotune.data.rendering.tokens import encode
from demotune.records import Demonstration, RenderedDemonstration, Response

_FEW_ROWS = 10


@dataclass(frozen=True)
class Expected:
    train: tuple[RenderedDemonstration, ...]
    heldout: tuple[RenderedDemonstration, ...]
    bad_rows: tuple[BadRow, ...]
    notes: tuple[str, ...]
    data_hashes: dict[str, str]


@dataclass(frozen=True)
class _Rendered:
    loaded: Loaded[Demonstration]
    rows: tuple[RenderedDemonstration, ...]
    bad_rows: tuple[BadRow, ...]
    truncated: int
    looked_at: int


@dataclass(frozen=True)
class _Split:
    train: tuple[RenderedDemonstration, ...]
    heldout: tuple[RenderedDemonstration, ...]
    note: str


def expected_intake(config: AnyConfig, renderer: Renderer) -> Expected:
    """What `prepare` must give, where it raises no error."""
    remarks: Counter[str] = Counter()
    data = _render_all(_load(config, config.data, config.data_weights), config, renderer, remarks, config.max_rows)
    held = _render_all(_load(config, config.eval_data), config, renderer, remarks) if config.eval_data else None
    parts = [data] if held is None else [data, held]
    bad_rows = tuple(row for part in parts for row in part.bad_rows)
    assert _bad_share(parts) <= config.max_bad_share
    split = _hold_out_share(data.rows, config) if held is None else _hold_out_eval_data(data.rows, held.rows, config)
    counted = (f"{remark}: {count:,} conversation{'s' * (count > 1)}" for remark, count in remarks.items())
    notes = (
        *(note for part in parts for note in part.loaded.notes),
        renderer.description,
        *counted,
        f"train: {_sizes(split.train)}",
        f"held out: {_sizes(split.heldout)}; {split.note}",
        *_notes_on_losses(parts, bad_rows, config),
    )
    hashes = {source: digest for part in parts for source, digest in part.loaded.hashes.items()}
    return Expected(split.train, split.heldout, bad_rows, notes, hashes)


def _load(config: AnyConfig, sources: Sequence[str], weights: Sequence[float] = ()) -> Loaded[Demonstration]:
    loaded = load_demonstrations(sources, columns=config.columns, every_turn=config.every_turn)
    if not weights:
        return loaded
    parts = [[row for row in loaded.rows if row.source.rpartition(":")[0] == source] for source in sources]
    shares = [Fraction(str(weight)) for weight in weights]
    rows_per_share = min(len(part) / share for part, share in zip(parts, shares, strict=True))
    chosen: list[Demonstration] = []
    for index, (part, share) in enumerate(zip(parts, shares, strict=True)):
        size = floor(share * rows_per_share + Fraction(1, 2))
        rows = random.Random(f"mixture {config.seed} {index}").sample(range(len(part)), size)
        chosen += [part[row] for row in sorted(rows)]
    return replace(loaded, rows=tuple(chosen))


def _render_all(
    loaded: Loaded[Demonstration],
    config: AnyConfig,
    renderer: Renderer,
    remarks: Counter[str],
    max_rows: int | None = None,
) -> _Rendered:
    rows: dict[str, RenderedDemonstration] = {}
    bad_rows = list(loaded.bad_rows)
    truncated = looked_at = 0
    for demonstration in loaded.rows:
        if len(rows) == max_rows:
            break
        looked_at += 1
        try:
            whole = render(renderer, demonstration, remarks)
            row = _fit(whole, config, renderer.bos_id)
            if row.key in rows:
                raise RenderError("duplicate", "same prompt and response ids as an earlier row")
        except RenderError as refusal:
            bad_rows.append(BadRow(demonstration.source, refusal.reason, refusal.detail))
        else:
            rows[row.key] = row
            truncated += row is not whole
    return _Rendered(loaded, tuple(rows.values()), tuple(bad_rows), truncated, looked_at)


def render(renderer: Any, demonstration: Demonstration, remarks: Counter[str]) -> RenderedDemonstration:
    """One row, each of its texts tokenised for itself."""
    tokenizer, writer = renderer._tokenizer, renderer._writer
    context = demonstration.context
    texts = [json.dumps(dict(entry), ensure_ascii=False) for entry in (*context.tools, *context.documents)]
    for message in demonstration.prompt:
        content = message["content"]
        texts += _pieces(content) if message["role"] == "assistant" else [content]
        texts.append(message.get("reasoning_content", ""))
    for text in texts:
        _refuse_control_tokens(renderer, text, renderer._specials.keys(), "prompt")
    for text in (demonstration.reasoning, *_pieces(demonstration.response, writer.opens_thought)):
        _refuse_control_tokens(renderer, text, renderer._forbidden_in_response, "response")
    written = writer.write(demonstration)
    own = encode(tokenizer, written.prompt)
    prompt_ids = writer.prefix_ids + own
    if not prompt_ids:
        raise RenderError("empty prompt", "the rendered prompt has no token, so there is nothing to continue")
    ids = _continue(tokenizer, written.prompt, own, written.response)
    if ids[-1:] != (renderer.end_id,):
        raise RenderError("no end token", f"this does not end with the end-of-turn token: {written.response[-40:]!r}")
    if not renderer.stop_ids.isdisjoint(ids[:-1]):
        raise RenderError("control token in response", "sampling would stop inside this response")
    remarks.update(written.remarks)
    key, response = content_key(prompt_ids, ids), Response(ids, finished=True)
    return RenderedDemonstration(prompt_ids, response, key, encode(tokenizer, written.served))


def _pieces(text: str, opened: bool = False) -> tuple[str, ...]:
    thought, answer = split_thought(text, opened=opened)
    return (thought, answer) if thought or answer != text else (text,)


def _refuse_control_tokens(renderer: Any, content: str, forbidden: Iterable[int], where: str) -> None:
    for token_id in set(encode(renderer._tokenizer, content)).intersection(forbidden):
        token = renderer._specials.get(token_id, str(token_id))
        if token_id != renderer._tokenizer.unk_token_id or token in content:
            raise RenderError(f"control token in {where}", f"the text holds {token!r}; remove it from the row")


def _continue(tokenizer: Any, prompt_text: str, prompt_ids: tuple[int, ...], text: str) -> tuple[int, ...]:
    for before, before_ids in ((prompt_text, prompt_ids), ("\n", encode(tokenizer, "\n"))):
        ids = encode(tokenizer, before + text)
        if ids[: len(before_ids)] == before_ids:
            return ids[len(before_ids) :]
    return encode(tokenizer, text)


def _fit(row: RenderedDemonstration, config: AnyConfig, bos_id: int | None) -> RenderedDemonstration:
    """The row itself when it fits into max_length, else cut as config.overlong says. Raises RenderError."""
    prompt_ids, response = row.prompt_ids, row.demo
    if len(prompt_ids) + len(response.ids) <= config.max_length:
        return row
    if config.overlong == "truncate-prompt":
        # A model has hardly seen a text without its first token, so that one stays.
        first = prompt_ids[:1] if prompt_ids[0] == bos_id else ()
        left = config.max_length - len(response.ids) - len(first)
        prompt_ids = first + prompt_ids[-left:] if left > 0 else ()
    elif config.overlong == "truncate-response":
        left = config.max_length - len(prompt_ids)
        response = Response(response.ids[: max(left, 0)], finished=False)
    if not prompt_ids or not response.ids or len(prompt_ids) + len(response.ids) > config.max_length:
        lengths = f"{len(row.prompt_ids)} prompt + {len(row.demo.ids)} response tokens"
        raise RenderError("over-long", f"{lengths}, max_length is {config.max_length}")
    key = content_key(prompt_ids, response.ids)
    return replace(row, prompt_ids=prompt_ids, demo=response, key=key, served_ids=row.question)


def _place(prompt_ids: Sequence[int]) -> float:
    """Where a prompt falls between 0 and 1: evenly spread, and the same in every run and data set."""
    digest = hashlib.sha256(json.dumps(list(prompt_ids)).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _hold_out_share(rows: tuple[RenderedDemonstration, ...], config: AnyConfig) -> _Split:
    places = {row.question: _place(row.question) for row in rows}
    prompts = sorted(places, key=places.__getitem__)
    chosen = [prompt for prompt in prompts if places[prompt] < config.eval_share]
    if config.eval_share > 0 and not chosen and len(rows) >= _FEW_ROWS:
        chosen = prompts[:1]
    if len(chosen) == len(prompts):
        chosen = chosen[:-1]  # something must be left to train on
    candidates = set(chosen)
    heldout = _smallest([row for row in rows if row.question in candidates], config.max_eval_rows)
    kept = {row.key for row in heldout}
    train, dropped = _without_prompts_of(heldout, [row for row in rows if row.key not in kept])
    note = f"chosen by a hash of the prompt (eval_share {config.eval_share:g}, at most {config.max_eval_rows} rows)"
    return _Split(train, heldout, note + dropped)


def _hold_out_eval_data(
    rows: tuple[RenderedDemonstration, ...], eval_rows: tuple[RenderedDemonstration, ...], config: AnyConfig
) -> _Split:
    heldout = _smallest(eval_rows, config.max_eval_rows)
    note = f"{len(heldout)} of {_count(len(eval_rows), 'row')} of eval_data"
    if len(heldout) < len(eval_rows):
        note += f", chosen by a hash of the prompt (max_eval_rows {config.max_eval_rows})"
    train, dropped = _without_prompts_of(eval_rows, rows)
    return _Split(train, heldout, note + dropped)


def _smallest(rows: Sequence[RenderedDemonstration], limit: int) -> tuple[RenderedDemonstration, ...]:
    """At most `limit` rows, those whose prompts have the smallest hash, in the order of `rows`."""
    kept = {row.key for row in sorted(rows, key=lambda row: (_place(row.question), row.key))[:limit]}
    return tuple(row for row in rows if row.key in kept)


def _without_prompts_of(
    heldout: Sequence[RenderedDemonstration], rows: Sequence[RenderedDemonstration]
) -> tuple[tuple[RenderedDemonstration, ...], str]:
    """The rows whose prompt no held-out row has, and a remark on the others."""
    prompts, questions = {row.prompt_ids for row in heldout}, {row.question for row in heldout}
    train = tuple(row for row in rows if row.prompt_ids not in prompts and row.question not in questions)
    dropped = len(rows) - len(train)
    return train, f"; {_count(dropped, 'training row')} dropped because the prompt is held out" if dropped else ""


def _bad_share(parts: Sequence[_Rendered]) -> float:
    """Bad rows among rows read. Where max_rows ended the rendering early, the rest is taken to render alike."""
    bad = 0.0
    for part in parts:
        refused_on_reading = len(part.loaded.bad_rows)
        refused_on_rendering = len(part.bad_rows) - refused_on_reading
        bad += refused_on_reading + refused_on_rendering * len(part.loaded.rows) / max(part.looked_at, 1)
    return bad / max(sum(map(_rows_read, parts)), 1)


def _rows_read(part: _Rendered) -> int:
    """With every_turn a row holds several demonstrations; each of them can be bad, so each counts as a row."""
    return max(part.loaded.rows_read, len(part.loaded.bad_rows) + len(part.loaded.rows))


def _notes_on_losses(parts: Sequence[_Rendered], bad_rows: Sequence[BadRow], config: AnyConfig) -> list[str]:
    notes = [
        f"bad rows: {len(bad_rows)} of {sum(map(_rows_read, parts))} read"
        + (f" ({reasons(bad_rows)})" if bad_rows else "")
    ]
    if truncated := sum(part.truncated for part in parts):
        notes.append(f"{_count(truncated, 'row')} over {config.max_length} tokens cut ({config.overlong})")
    if unused := sum(len(part.loaded.rows) - part.looked_at for part in parts):
        notes.append(f"{_count(unused, 'row')} not used (max_rows {config.max_rows})")
    return notes


def _sizes(rows: Sequence[RenderedDemonstration]) -> str:
    if not rows:
        return "no rows"
    prompts, responses = [len(row.prompt_ids) for row in rows], [len(row.demo.ids) for row in rows]
    return (
        f"{_count(len(rows), 'row')}; prompt tokens mean {fmean(prompts):.1f}, longest {max(prompts)}; "
        f"response tokens mean {fmean(responses):.1f}, longest {max(responses)}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
