"""Families that several studies share: SFT and its controls, IRFT, RFT, best of n. A study gives their settings."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.studies.frame import Bench, Family, Role, Setting
from benchmarks.studies.measuring import Found, Reader, load, policy_measures
from benchmarks.studies.picking import Score, best_of_measures, distil
from benchmarks.studies.training import Trained, anchored_sft, best_by_likelihood, irft, rft, sft


def grid(**values: Sequence[Any]) -> tuple[Setting, ...]:
    """All combinations of the values."""
    return tuple(dict(zip(values, each, strict=True)) for each in itertools.product(*values.values()))


@dataclass(frozen=True, slots=True)
class Ladder:
    """SFT's full grid: each rate is trained once, without an end to its schedule, and kept after each of the passes."""

    rates: tuple[float, ...]
    passes: tuple[int, ...]
    temperatures: tuple[float, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of SFTConfig, for every rung."""

    def trained(self, bench: Bench, setting: Setting) -> Trained:
        return sft(bench, setting["rate"], self.passes, **self.fields)[setting["passes"]]

    def start(self, bench: Bench) -> Trained:
        """What the other methods start from."""
        candidates = {
            f"{rate:g} {count}": one
            for rate in self.rates
            for count, one in sft(bench, rate, self.passes, **self.fields).items()
        }
        return best_by_likelihood(bench, candidates)

    def families(self) -> tuple[Family, ...]:
        """The start, at temperature 1; SFT over the grid."""
        return self.start_family(), self.sft()

    def start_family(self) -> Family:
        return Family("SFT start", "start", grid(temperature=(1.0,)), measured(lambda bench, _: self.start(bench)))

    def tempered(self) -> Family:
        """The start at each temperature."""
        settings = grid(temperature=self.temperatures)
        return Family("SFT start, tempered", "control", settings, measured(lambda bench, _: self.start(bench)))

    def sft(self) -> Family:
        settings = grid(rate=self.rates, passes=self.passes, temperature=self.temperatures)
        return Family("SFT", "control", settings, measured(self.trained))

    def lora(self, rates: Sequence[float], passes: tuple[int, ...], temperatures: Sequence[float]) -> Family:
        """SFT of a LoRA adapter."""

        def trained(bench: Bench, setting: Setting) -> Trained:
            return sft(bench, setting["rate"], passes, use_peft=True, lora_r=8, lora_alpha=16)[setting["passes"]]

        return Family(
            "LoRA SFT", "control", grid(rate=rates, passes=passes, temperature=temperatures), measured(trained)
        )

    def with_loss(self, loss: str, rates: Sequence[float], temperatures: Sequence[float]) -> Family:
        """SFT by another of demotune's losses, with the ladder's passes."""

        def trained(bench: Bench, setting: Setting) -> Trained:
            return sft(bench, setting["rate"], self.passes, loss=loss)[setting["passes"]]

        settings = grid(rate=rates, passes=self.passes, temperature=temperatures)
        return Family(f"SFT, loss {loss}", "control", settings, measured(trained))

    def anchored(self, rate: float, weights: Sequence[float], temperatures: Sequence[float]) -> Family:
        """SFT with a KL penalty to the start model."""

        def trained(bench: Bench, setting: Setting) -> Trained:
            return anchored_sft(bench, rate, setting["kl_weight"], self.passes)[setting["passes"]]

        settings = grid(kl_weight=weights, passes=self.passes, temperature=temperatures)
        return Family("SFT + KL", "control", settings, measured(trained))

    def irft(self, settings: Iterable[Setting], temperatures: Sequence[float]) -> Family:
        """IRFT from the start."""

        def trained(bench: Bench, setting: Setting) -> Trained:
            return irft(bench, self.start(bench), **_without_temperature(setting))

        return Family("IRFT", "method", _at_temperatures(settings, temperatures), measured(trained))

    def rft(
        self,
        name: str,
        settings: Iterable[Setting],
        batches: tuple[int, ...],
        temperatures: Sequence[float],
        role: Role = "method",
        **fields: Any,
    ) -> Family:
        """RFT from the start; `backbone: "start"` lets a linear reward read the states of the start model."""

        def trained(bench: Bench, setting: Setting) -> Trained:
            own = {key: value for key, value in setting.items() if key not in ("temperature", "batches", "backbone")}
            if setting.get("backbone") == "start":
                own["reward_model"] = str(bench.start)
            key = "-".join(
                f"{field}-{setting[field]}" for field in sorted(setting) if field not in ("temperature", "batches")
            )
            folder = f"{name.replace(' ', '-').replace(',', '')}-{key}"
            return rft(bench, folder, self.start(bench), batches, **fields, **own)[setting["batches"]]

        each = [{**setting, "batches": count} for setting in settings for count in batches]
        return Family(name, role, _at_temperatures(each, temperatures), measured(trained))

    def best_of(
        self, name: str, role: Role, score: Score, counts: Sequence[int], temperatures: Sequence[float] = (1.0,)
    ) -> Family:
        """Best of n responses of the start by a reward."""

        def measure(bench: Bench, setting: Setting) -> Found:
            start = self.start(bench)
            measures = best_of_measures(bench, start, setting["temperature"], setting["n"], name, score)
            return Found(measures, start.seconds, answers=setting["n"], samples=1, config=start.config)

        return Family(name, role, grid(n=counts, temperature=temperatures), measure)

    def distilled(
        self, reward: str, role: Role, score: Score, settings: Iterable[Setting], temperatures: Sequence[float]
    ) -> Family:
        """SFT of the start on the best of n of its own responses to prompts without demonstrations."""

        def trained(bench: Bench, setting: Setting) -> Trained:
            n, rate, passes = (setting[name] for name in ("n", "rate", "passes"))
            return distil(bench, self.start(bench), reward, score, n=n, rate=rate, passes=passes)

        name = f"SFT on best of n, {reward}"
        return Family(name, role, _at_temperatures(settings, temperatures), measured(trained))


def measured(trained: Callable[[Bench, Setting], Trained]) -> Callable[[Bench, Setting], Found]:
    """How a family measures: make the setting's model, then measure it at the setting's temperature."""

    def measure(bench: Bench, setting: Setting) -> Found:
        one = trained(bench, setting)
        return Found(measure_model(bench, one, setting["temperature"]), one.seconds, config=one.config)

    return measure


def measure_model(bench: Bench, one: Trained, temperature: float) -> dict[str, float]:
    world = bench.world
    if bench.memo.get("loaded") != one.model:  # one model in memory, in the order of the settings
        bench.memo.update(loaded=one.model, policy=load(one.model))
    return policy_measures(
        world,
        bench.memo["policy"],
        Reader.of(world, bench.start),
        world.questions(bench.part),
        seed=bench.seed,
        samples=bench.samples,
        temperature=temperature,
        general=world.general(bench.part) if world.general else (),
        near=world.near(bench.part) if world.near else (),
    )


def _at_temperatures(settings: Iterable[Setting], temperatures: Sequence[float]) -> tuple[Setting, ...]:
    return tuple({**setting, "temperature": each} for setting in settings for each in temperatures)


def _without_temperature(setting: Setting) -> Mapping[str, Any]:
    return {key: value for key, value in setting.items() if key != "temperature"}
