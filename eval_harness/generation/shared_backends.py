"""One backend in memory at a time for many models, which takes the next one's weights if it can."""

from collections.abc import Sequence
from dataclasses import dataclass

from eval_harness.backends.base import Backend
from eval_harness.errors import DistillensError
from eval_harness.generation.engine import Engine
from eval_harness.generation.task import say
from eval_harness.shared.model_folder.identity import ModelFiles


@dataclass(frozen=True)
class Group:
    """Models that one loaded backend can serve, in turn.

    Attributes:
        systems: at least one.
        max_length: of the longest prompt and answer of all of them, in tokens.
    """

    systems: tuple[ModelFiles, ...]
    max_length: int


class SharedBackends:
    """Lends a backend to each of several evaluations.

    Args:
        engines: of the evaluations;  lengths: positions that each of them needs.
    """

    def __init__(self, engines: Sequence[Engine], lengths: Sequence[int]) -> None:
        keys = [
            engine.backend.sharing_key(engine.facts, engine.arguments, max_length=length)
            for engine, length in zip(engines, lengths, strict=True)
        ]
        # Without a key, a system is a group of its own.
        self._keys = [key or f"alone {place}" for place, key in enumerate(keys)]
        self._groups: dict[str, Group] = {}
        for key, engine, length in zip(self._keys, engines, lengths, strict=True):
            known = self._groups.get(key, Group((), 0))
            systems = (*known.systems, engine.facts)
            self._groups[key] = Group(systems, max(known.max_length, length))
        self._held: tuple[str, Backend] | None = None

    def order(self) -> list[int]:
        """Places of the evaluations: groups one after the other, as their first ones stand."""
        groups = list(self._groups)
        return sorted(range(len(self._keys)), key=lambda place: groups.index(self._keys[place]))

    def borrow(
        self, place: int, engine: Engine, *, max_length: int, no_repeat_ngrams: bool
    ) -> Backend:
        """A backend with the weights of the evaluation at `place`, which must not close it.

        Raises:
            RunFailure: it does not load.
        """
        key = self._keys[place]
        group = self._groups[key]
        if self._held is not None and self._held[0] == key:
            try:
                self._held[1].switch(engine.facts)
                return self._held[1]
            except DistillensError as error:
                say(f"{error}; starting another one for {engine.facts.name}")
        self.close()
        backend = engine.backend.load(
            engine.facts,
            engine.backend.shared_arguments(group.systems, engine.arguments),
            max_length=max(max_length, group.max_length),
            no_repeat_ngrams=no_repeat_ngrams,
            trust_remote_code=engine.trust_remote_code,
        )
        self._held = key, backend
        return backend

    def close(self) -> None:
        """Closes the backend that is in memory, if there is one."""
        held, self._held = self._held, None
        if held is not None:
            held[1].close()
