"""`demotune annotate`: people choose between two answers on a local page; their votes join the evaluation."""

from collections.abc import Callable

from demotune.common.errors import DemotuneError
from demotune.common.progress import say
from demotune.config.interactive import AnnotateConfig
from demotune.evaluation.annotation.items import contest_of
from demotune.evaluation.annotation.server import AnnotationServer
from demotune.evaluation.annotation.session import Session
from demotune.evaluation.annotation.votes import join_votes, show_votes
from demotune.runs.annotations import check_rater, open_journal, read_votes
from demotune.runs.evaluation import read_evaluation


def annotate(config: AnnotateConfig, ready: Callable[[str], object] = lambda _: None) -> None:
    """Serve the page until the rater finishes or Ctrl-C, then show what the votes say; with `results` only show it.

    `ready` gets the page's address. Raises DemotuneError for a folder without answers of two models.
    """
    check_rater(config.rater)
    contest = contest_of(read_evaluation(config.evaluation))
    if not contest.items:
        raise DemotuneError(
            f"{config.evaluation} has no answers of two models to compare; write them with: demotune evaluate "
            "--model M --baseline B --data TEST --output FOLDER"
        )
    if not config.results:
        with open_journal(config.evaluation, config.rater) as journal:
            votes = read_votes(config.evaluation).get(config.rater, [])
            session = Session(contest, config.rater, config.seed, journal, votes)
            if session.asked:
                _serve(session, config, ready)
            else:
                say("all answers are identical to the baseline's; there is nothing to choose")
    join_votes(config.evaluation)
    show_votes(config.evaluation)


def _serve(session: Session, config: AnnotateConfig, ready: Callable[[str], object]) -> None:
    with AnnotationServer(session, config.port) as server:
        say(f"{config.rater}: {session.rated} of {session.asked} pairs of answers rated")
        say(f"open {server.url}")
        say("votes are kept as they are cast; Finish on the page, or Ctrl-C here, ends and shows what they say")
        ready(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say()
        say(f"{config.rater}: {session.rated} of {session.asked} pairs of answers rated")
