"""Run folders as the trials of a sweep leave them, without the training."""

from demotune.common.files import write_json
from demotune.config.config_files import save_config
from demotune.config.methods import as_dict
from demotune.runs.manifest import Manifest, write_manifest
from demotune.sweep.trials import Trial

COMMON = {"model": "start", "data": "rows.jsonl"}


def leave_run(trial: Trial, *, finished: bool = True) -> None:
    """A run folder of the trial's config, begun or finished."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    save_config(trial.config, trial.folder / "run.yaml")
    texts = dict.fromkeys(("created", "command", "rows_file", "rows", "model"), "")
    manifest = Manifest(
        version=1, versions={}, hardware={}, parameters=1, config=as_dict(trial.config), data={}, processes=1, **texts
    )
    write_manifest(trial.folder / "manifest.json", manifest)
    if finished:
        write_json(trial.folder / "summary.json", {})
