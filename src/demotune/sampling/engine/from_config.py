"""From the settings of a command to the engine that they name."""

from pathlib import Path

from demotune.common.processes import this_device
from demotune.config.sampler import IN_PROCESS, STARTED, HasSampler, addresses_of
from demotune.models.policy import tokenizer_folder
from demotune.runs.names import ENGINE, ENGINE_LOG
from demotune.sampling.engine.engine import Engine
from demotune.sampling.engine.process import ServerSettings, StartedServer


def engine_for(
    chosen: HasSampler,
    folder: Path,
    *,
    model: Path,
    lora_rank: int | None,
    longest: int | None,
    rows: int,
    bf16: bool,
) -> Engine | None:
    """The engine for policies that began as `model`; None where this process draws. Nothing is started or asked yet.

    `lora_rank` is that of policies that are adapters. `rows` are drawn together on one server. The folder gets the log
    of a server that is started, and weights on their way. Raises DemotuneError where one is to be started and there is
    no vllm.
    """
    if chosen.sampler == IN_PROCESS:
        return None
    servers: tuple[str, ...] | StartedServer = addresses_of(chosen.sampler)
    if chosen.sampler == STARTED:
        settings = ServerSettings(
            tokenizer=tokenizer_folder(model),
            bf16=bf16,
            longest=longest,
            rows=rows,
            lora_rank=lora_rank,
            on_gpu=this_device().type != "cpu",
        )
        servers = StartedServer(chosen.vllm_python, settings, folder / ENGINE_LOG)
    return Engine(servers, folder / ENGINE, in_flight=rows)
