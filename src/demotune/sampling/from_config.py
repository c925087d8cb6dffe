"""From the settings of a command to what draws: this process, or the engine that they name.

Which names there are is in `config/sampler.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from demotune.common.processes import this_device
from demotune.config.sampler import IN_PROCESS, STARTED, HasSampler, addresses_of
from demotune.models.adapters import adapter_rank
from demotune.models.policy import Policy
from demotune.models.tokenizers import tokenizer_folder
from demotune.runs.file_names import ENGINE, ENGINE_LOG
from demotune.sampling.engine.engine import Engine
from demotune.sampling.engine.process import ServerSettings, StartedServer
from demotune.sampling.engine.sampler import EngineSampler
from demotune.sampling.in_process.sampler import InProcessSampler
from demotune.sampling.options import SamplingOptions
from demotune.sampling.protocol import Sampler


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


def choose_sampler(engine: Engine | None, policy: Callable[[], Policy], name: str, *, slots: int) -> Sampler:
    """What draws from a policy, which is loaded when something is to be drawn; `name` is for messages."""
    return InProcessSampler(policy, slots=slots) if engine is None else EngineSampler(policy, engine, name)


@contextmanager
def sampler_for(
    policy: Callable[[], Policy],
    name: str,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    *,
    chosen: HasSampler,
    folder: Path,
    model: Path,
    slots: int,
) -> Iterator[Sampler]:
    """What answers these prompts by the model in the folder `model`, which `policy` loads.

    A server that it started ends with it.
    """
    engine = engine_for(
        chosen,
        folder,
        model=model,
        lora_rank=adapter_rank(model),
        longest=max((len(prompt) + options.limit(len(prompt)) for prompt in prompts), default=None),
        rows=slots,
        bf16=options.bf16 or chosen.dtype != "float32",
    )
    with nullcontext() if engine is None else closing(engine):
        yield choose_sampler(engine, policy, name, slots=slots)
