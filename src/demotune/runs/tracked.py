"""tracked.json: what the experiment loggers have of a run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tracked:
    """Kept so that a resumed run goes on in the same run of a logger, and logs nothing twice."""

    run_id: str
    phases: tuple[str, ...] = ()
    """Finished phases whose numbers are logged, as STAGE/PHASE."""
    fitting: str = ""
    """The phase whose steps are logged."""
    records: int = 0
    """How many records of its history are."""
