"""Time by stage, compilation apart from steady work."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

import jax

# What JAX reports of a compilation, one event each; tracing is nested and so would count twice.
_COMPILE_EVENTS = frozenset(
    {
        "/jax/core/compile/jaxpr_to_mlir_module_duration",
        "/jax/core/compile/backend_compile_duration",
    }
)


@dataclasses.dataclass
class StageTime:
    """Seconds and items of one stage.

    Attributes:
        total_s: wall time of the stage, compilation included.
        compile_s: of it, lowering and compilation by JAX.
        compiles: programs compiled.
        items: things done in the stage (images, texts, queries), skipped ones not counted.
        skipped: things found done by an earlier run.
        busy_s: of the time, that in which a batch was on the devices; 0 where that is not measured.
        real_tokens: tokens of images that went through the model.
        computed_tokens: tokens that the devices computed, padding included.
    """

    total_s: float = 0.0
    compile_s: float = 0.0
    compiles: int = 0
    items: int = 0
    skipped: int = 0
    busy_s: float = 0.0
    real_tokens: int = 0
    computed_tokens: int = 0

    @property
    def steady_s(self) -> float:
        """Seconds without compilation."""
        return self.total_s - self.compile_s

    def device_facts(self) -> dict[str, float]:
        """Shares, where measured: of real tokens among the computed ones (`fill_rate`), and of the
        steady time in which no batch was on the devices (`device_idle_share`).
        """
        facts = {}
        if self.computed_tokens:
            facts["fill_rate"] = self.real_tokens / self.computed_tokens
        if self.busy_s and self.steady_s > 0:
            facts["device_idle_share"] = max(0.0, 1 - self.busy_s / self.steady_s)
        return facts


_running: list[StageTime] = []


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    if _running and event in _COMPILE_EVENTS:
        _running[-1].compile_s += duration_secs
        _running[-1].compiles += event.endswith("backend_compile_duration")


jax.monitoring.register_event_duration_secs_listener(_listen)


class Timings:
    """Collects the times of a run's stages, in the order in which they ran."""

    def __init__(self) -> None:
        self.stages: dict[str, StageTime] = {}
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[StageTime]:
        """Times a stage; a name used again adds up. Compilations go to the innermost stage."""
        stage = self.stages.setdefault(name, StageTime())
        start = time.perf_counter()
        _running.append(stage)
        try:
            yield stage
        finally:
            _running.pop()
            stage.total_s += time.perf_counter() - start

    def to_dict(self) -> dict[str, object]:
        """JSON form: seconds by stage, steady time and rate without compilation."""
        stages = {}
        for name, stage in self.stages.items():
            steady = stage.steady_s
            stages[name] = {
                "compile_s": stage.compile_s,
                "compiles": stage.compiles,
                "steady_s": steady,
                "items": stage.items,
                "skipped": stage.skipped,
                "items_per_s": stage.items / steady if stage.items and steady > 0 else None,
                **stage.device_facts(),
            }
        return {"stages": stages, "total_s": time.perf_counter() - self._start}
