"""A finished run's model on the Hugging Face hub, with its card, its report and, for RFT, its reward."""

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from demotune.common.errors import DemotuneError, first_line
from demotune.common.progress import say
from demotune.runs.file_names import CARD, REPORT
from demotune.runs.folder import RunFolder


def push(run: Path, name: str, *, private: bool = False) -> str:
    """Upload a finished run's model to the hub repository `name`, in one commit. Returns its address.

    The repository has the model and its card at its top, `report.html`, `card.json`, and `reward/` of RFT. It is made
    where it is missing, `private` or public. Raises DemotuneError where the run is not finished, or the hub refuses.
    """
    check_can_push(name)
    operations = [CommitOperationAdd(inside, file) for inside, file in _files(RunFolder(run))]
    size = sum(operation.upload_info.size for operation in operations)
    say(f"pushing {len(operations)} files, {size / 1e6:,.1f} MB, to {name}")
    hub = HfApi()
    try:
        # The hub's answer names the user's repository where `name` has no user.
        name = hub.create_repo(name, private=private, exist_ok=True).repo_id
        commit = hub.create_commit(name, operations, commit_message=f"demotune: {run.resolve().name}")
    except Exception as error:  # of the hub, or of the HTTP library that its client happens to use
        raise DemotuneError(
            f"the hub did not take {name}: {first_line(error)}; nothing was changed there. Push again with "
            f"demotune push {run} {name}"
        ) from error
    address = commit.commit_url.partition("/commit/")[0]
    say(f"pushed: {address}")
    return address


def check_can_push(name: str) -> None:
    """Raise DemotuneError where pushing is bound to fail: a name that the hub does not take, or no token."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise DemotuneError(
            f"{name!r} is no name of a hub repository ({first_line(error)}); give USER/MODEL"
        ) from error
    if get_token() is None:
        raise DemotuneError(f"you are not signed in to the hub, so nothing can be pushed to {name}; run: hf auth login")


def _files(folder: RunFolder) -> Iterator[tuple[str, Path]]:
    """Name in the repository -> file."""
    model, reward = folder.finished_model(), folder.reward
    pages = [folder.root / REPORT, folder.root / CARD]
    for base, files in ((model, model.rglob("*")), (folder.root, pages), (folder.root, reward.rglob("*"))):
        for file in sorted(files):
            if file.is_file():
                yield str(file.relative_to(base)), file
