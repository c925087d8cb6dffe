"""A judge model behind an OpenAI-compatible address: vLLM, SGLang, llama.cpp, `transformers serve`, or a company's.

Each contest is asked in both orders, because judge models favour a place (arXiv 2306.05685). Replies go to a journal as
they arrive, so that the same command, given again, asks only what is missing.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

from demotune.common.errors import DemotuneError, shown_error
from demotune.common.files import hash_of
from demotune.common.http_client import EndedError, HttpClient, PassingError, Pause, RefusedError, patiently
from demotune.common.journals import Journal, read_journal
from demotune.evaluation.judges.judges import Advance, Contest, Verdict, identical, refuse_silence
from demotune.evaluation.judges.messages import (
    MOST_BYTES,
    RESULTS,
    TEMPLATE,
    Order,
    Reply,
    UnusableError,
    message_of,
    parsed_reply,
    result_of,
)

AGREED = "the same in both orders"
ORDER_DEPENDENT = "the answer changes with the order"

_ADDRESS = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerJudge:
    """A model that reads a conversation and two responses and says which is better.

    Both orders agree: that is the result. They differ: a tie that depends on the order. A reply that is cut off or
    holds no marker: abstained. Only the judge's own reply is parsed, its last marker counts, and the responses are
    fenced by marker lines that they cannot contain; a response may still talk a weak judge model round.

    Raises DemotuneError for an address that is no plain http(s) one, and for a template that lacks a place or a marker.
    """

    url: str
    """Up to what comes before /chat/completions, usually ending in /v1."""
    model: str
    """As the server calls it."""
    journal: Path
    """Where replies are kept, JSON Lines: key, order, asked (a hash of judge and message), reply, finished."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key that is sent to `url`; local servers need none. It is never written."""
    template: str = TEMPLATE
    """The message, with {prompt}, {first} and {second}; it must ask for [[A]], [[B]] or [[C]]."""
    max_tokens: int = 512
    """Of a reply; models that think before they answer need more."""
    timeout: float = 120.0
    """Seconds until the whole reply must be there."""
    concurrency: int = 8
    """Contests that are asked at the same time."""
    pause: Pause = Event.wait
    """Waits some seconds before a request is repeated, or until the event says that the work has ended."""

    def __post_init__(self) -> None:
        if not (self.url.isascii() and _ADDRESS.fullmatch(self.url)):
            raise DemotuneError(
                "the judge's address must be http(s)://HOST[:PORT]/PATH without user, password or ?query; give it as "
                f"http://localhost:8000/v1, and a key in the environment variable {self.key_variable}"
            )
        missing = [
            part for part in ("{prompt}", "{first}", "{second}", "[[A]]", "[[B]]", "[[C]]") if part not in self.template
        ]
        if missing:
            raise DemotuneError(f"the judge's template lacks {', '.join(missing)}; put it in")

    @property
    def name(self) -> str:
        return f"{self.model} at {self.url}"

    def judge(self, contests: Sequence[Contest], advance: Advance) -> list[Verdict]:
        """One verdict for each contest, in order; `advance` is called with 1 for each that is settled.

        Raises DemotuneError where the server refuses the key or the address, cannot be reached in several attempts, or
        gave no usable reply to any contest. Replies that had arrived are kept.
        """
        session = _Session(self)
        pool = ThreadPoolExecutor(self.concurrency)
        futures = [pool.submit(session.verdict, contest) for contest in contests]
        try:
            for future in as_completed(futures):
                future.result()
                advance(1)
        finally:
            session.ended.set()
            pool.shutdown(cancel_futures=True)
        verdicts = [future.result() for future in futures]
        refuse_silence(
            self.name,
            verdicts,
            f"look at the replies in {self.journal}, and choose another model or give it more tokens",
        )
        return verdicts


def order_dependent_share(verdicts: Sequence[Verdict]) -> float | None:
    """Share of the contests answered in both orders whose answer changed with the order; None where there are none."""
    answered = [verdict.reason for verdict in verdicts if verdict.reason in {AGREED, ORDER_DEPENDENT}]
    return answered.count(ORDER_DEPENDENT) / len(answered) if answered else None


class _Session:
    """One call of `ServerJudge.judge`: the connection, and what is known already."""

    def __init__(self, judge: ServerJudge) -> None:
        self.ended = Event()
        self._judge, self._http = judge, HttpClient(judge.key_variable, MOST_BYTES)
        self._address = f"{judge.url.rstrip('/')}/chat/completions"
        judge.journal.parent.mkdir(parents=True, exist_ok=True)
        self._journal, self._writing = Journal(judge.journal), Lock()
        rows = read_journal(judge.journal) if judge.journal.exists() else []
        self._known = {(row["key"], row["order"], row["asked"]): Reply(row["reply"], row["finished"]) for row in rows}

    def verdict(self, contest: Contest) -> Verdict:
        """Of both orders together."""
        tie = identical(contest)
        if tie is not None:
            return tie
        try:
            results = {result_of(order, self._reply(contest, order)) for order in RESULTS}
        except UnusableError as why:
            return Verdict(contest.key, None, str(why))
        except DemotuneError:
            self.ended.set()  # at once: the next contest would begin before the main thread hears of it
            raise
        if len(results) > 1:
            return Verdict(contest.key, 0.5, ORDER_DEPENDENT)
        return Verdict(contest.key, results.pop(), AGREED)

    def _reply(self, contest: Contest, order: Order) -> Reply:
        """From the journal, else from the server and into the journal."""
        message = message_of(self._judge.template, contest, order)
        asked = hash_of([self._judge.name, self._judge.max_tokens, message])
        known = self._known.get((contest.key, order, asked))
        if known is not None:
            return known
        reply = self._ask(message)
        row = {"key": contest.key, "order": order, "asked": asked, "reply": reply.text, "finished": reply.finished}
        with self._writing:
            self._journal.append([row])
        return reply

    def _ask(self, message: str) -> Reply:
        """Send a message, again and again where that may help."""
        try:
            return patiently(lambda: self._post(message), self._judge.pause, self.ended)
        except EndedError:
            raise UnusableError("not asked") from None  # seen by nobody: another contest's failure ended the work
        except PassingError as failure:
            raise DemotuneError(
                f"the judge at {self._address} gives no answer ({failure}); see that the server runs, then give the "
                f"same command again: replies so far are kept in {self._judge.journal} and only the rest is asked"
            ) from failure

    def _post(self, message: str) -> Reply:
        """One request. Raises PassingError, UnusableError, or DemotuneError where no request will ever succeed."""
        body = {
            "model": self._judge.model,
            "messages": [{"role": "user", "content": message}],
            "temperature": 0,
            "max_tokens": self._judge.max_tokens,
        }
        try:
            return parsed_reply(self._http.ask(self._address, body, self._judge.timeout, self.ended))
        except RefusedError as refusal:
            raise self._failure(refusal) from refusal
        except (ValueError, RecursionError) as error:
            raise DemotuneError(
                f"{self._address} answers, but not as an OpenAI-compatible server does ({shown_error(error)}); "
                "check the address, which usually ends in /v1"
            ) from error

    def _failure(self, refusal: RefusedError) -> Exception:
        """What a refusal means."""
        if refusal.code in {401, 403}:
            return DemotuneError(
                f"{self._address} refuses the key ({refusal.code}); put the right one into the environment variable "
                f"{self._judge.key_variable}"
            )
        if refusal.code in {400, 413, 422}:  # this message, one too long for instance; others may pass
            return UnusableError(f"the server refused the message ({refusal})")
        return DemotuneError(
            f"{self._address} answers {refusal}; check the address, which usually ends in /v1, and the name of the "
            f"model, {self._judge.model}"
        )
