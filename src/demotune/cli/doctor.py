"""`demotune doctor`: what is here and what a run would use."""

from rich.table import Table

from demotune.common.files import cache_folder
from demotune.common.machine import hardware, has_fast_bf16, package_versions
from demotune.common.processes import this_device
from demotune.common.progress import console
from demotune.config.config_files import accelerate_configs, shipped_configs


def examine() -> None:
    """Print versions, hardware and the automatic choices of a run."""
    bf16 = has_fast_bf16(this_device())
    choices = {
        "precision": "bfloat16 autocast, float32 weights" if bf16 else "float32 (no fast bfloat16 here)",
        "attention": "our own, without padding; sdpa or eager for architectures that do not carry it",
        "cache": str(cache_folder()),
        "shipped configs": ", ".join(sorted(shipped_configs())),
        "configs for accelerate": "\n".join(sorted(map(str, accelerate_configs()))),
    }
    for title, rows in (("installed", package_versions()), ("machine", hardware()), ("a run would use", choices)):
        table = Table(title=title, title_justify="left", show_header=False, min_width=60)
        for name, value in rows.items():
            table.add_row(name, value)
        console.print(table)
