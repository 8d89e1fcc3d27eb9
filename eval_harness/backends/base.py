"""What all backends have in common: requests, answers, and the interface."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from eval_harness.errors import DistillensError
from eval_harness.protocols.protocol import Protocol
from eval_harness.shared.model_folder.identity import ModelFiles
from eval_harness.shared.near import near_names


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; see `protocols.Protocol`.

    Attributes:
        stop_token_ids: what ends an answer beside the model's own end tokens.
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    no_repeat_ngram_size: int
    stop_token_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, protocol: Protocol, stop_token_ids: tuple[int, ...] = ()) -> "Sampling":
        """The sampling part of a protocol."""
        return cls(
            max_new_tokens=protocol.max_new_tokens,
            temperature=protocol.temperature,
            top_p=protocol.top_p,
            top_k=protocol.top_k,
            no_repeat_ngram_size=protocol.no_repeat_ngram_size,
            stop_token_ids=stop_token_ids,
        )


@dataclass(frozen=True)
class Request:
    """One answer to generate: at least one prompt token, and the seed of its random numbers."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        index: of the request in the sequence that was given.
        token_ids: generated tokens without the end token.
        finish_reason: "stop" at an end token, "length" at the limit.
        text: where the backend knows no tokens but these words, which `token_ids` only count.
    """

    index: int
    token_ids: list[int]
    finish_reason: str
    text: str | None = None


@dataclass(frozen=True)
class Continuation:
    """A given continuation of a prompt, whose log-likelihood is asked for; both non-empty."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class LogLikelihood:
    """Natural logarithm of the continuation's probability, summed over its tokens."""

    index: int
    total: float


class Backend(ABC):
    """A loaded model.

    A backend of your own needs `generate`, and a name given with `register_backend`. Its
    initialiser gets the facts and, by name, `dtype` and those of `--model_args` that it knows
    (`known_arguments`).

    Args:
        facts: of the model.
        arguments: from the class's `arguments`.

    Attributes:
        name: what logs call it.
        known_arguments: of `--model_args`, besides those that every backend takes.
        layout_arguments: those that only change how the work is arranged, and so at most the last
            bits: they are left out of the fingerprint.
        needs_transformers_model: refuse an architecture that transformers lacks.
        needs_weights: refuse a folder without weights, and download them from the Hub.
        has_signature: its `signature` is compared even where no answer lacks.
        one_process: why it cannot run in each process of a launcher, and what to do instead; ""
            if it can (see `plan` and `take_device`).
    """

    name: str
    known_arguments: ClassVar[tuple[str, ...]] = ()
    layout_arguments: ClassVar[frozenset[str]] = frozenset()
    needs_transformers_model: ClassVar[bool] = True
    needs_weights: ClassVar[bool] = True
    has_signature: ClassVar[bool] = False
    one_process: ClassVar[str] = "it runs in one process; start it without a launcher"

    def __init__(self, facts: ModelFiles, **arguments: Any) -> None:
        self.facts = facts

    @classmethod  # noqa: B027
    def check_usable(cls) -> None:
        """Refuses an environment in which it cannot run.

        Raises:
            DistillensError: says what is missing and how to install it.
        """

    @classmethod
    def arguments(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Its own arguments among --model_args, checked.

        Args:
            given: without those that every backend takes; `dtype` may be "auto".
        Raises:
            DistillensError: an unknown key, or a wrong value.
        """
        check_arguments(cls.name, given, ("dtype", *cls.known_arguments))
        return dict(given)

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Versions of the packages that answers depend on, for the fingerprint."""
        return {}

    @classmethod
    def sampled_on(cls, arguments: dict[str, Any]) -> str:
        """The kind of device that draws random numbers, for the fingerprint of sampled answers.

        "": it does not matter, or is in the versions.
        """
        return ""

    @classmethod
    def described(cls, facts: ModelFiles, arguments: dict[str, Any]) -> ModelFiles:
        """The facts, with what only the backend knows of the model.

        Args:
            facts: from the model's files.
            arguments: from `arguments`.
        Raises:
            DistillensError: the backend cannot have this model.
        """
        return facts

    @classmethod  # noqa: B027
    def take_device(
        cls, model_args: Mapping[str, Any], *, local_rank: int, local_size: int
    ) -> None:
        """Chooses this process's device, where a launcher has started one for each.

        Args:
            model_args: as given, not checked yet.
            local_rank, local_size: of this process on its machine.
        Raises:
            DistillensError: there is no device for it.
        """

    @classmethod
    def load(
        cls,
        facts: ModelFiles,
        arguments: dict[str, Any],
        *,
        max_length: int,
        no_repeat_ngrams: bool,
        trust_remote_code: bool,
    ) -> "Backend":
        """The backend with its weights.

        Args:
            facts: of the model.
            arguments: from `arguments`; `dtype` is float32, bfloat16 or float16.
            max_length: longest prompt and answer together, in tokens.
            no_repeat_ngrams: whether `Sampling.no_repeat_ngram_size` will be above 0.
            trust_remote_code: allow code that comes with the model.
        Raises:
            RunFailure: it does not load.
        """
        return cls(facts, **arguments)

    @classmethod
    def sharing_key(
        cls, facts: ModelFiles, arguments: dict[str, Any], *, max_length: int
    ) -> str | None:
        """What models have in common that one loaded backend serves one after the other.

        Their answers must be those of a backend of their own. None: it serves this one alone.
        """
        return None

    @classmethod
    def shared_arguments(
        cls, systems: Sequence[ModelFiles], arguments: dict[str, Any]
    ) -> dict[str, Any]:
        """The arguments of a backend that is to serve all these models, of one `sharing_key`."""
        return arguments

    def switch(self, facts: ModelFiles) -> None:
        """Goes on with another model of its `sharing_key`.

        Raises:
            RunFailure: it cannot, and is not usable any more; a backend of its own may serve it.
        """
        raise NotImplementedError

    @abstractmethod
    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, done: frozenset[int] = frozenset()
    ) -> Iterator[Answer]:
        """Answers in any order, each as soon as it is finished.

        Args:
            requests: all of the run's requests, including those in `done`: batches are planned over
                all of them, so that a resumed run repeats the batches of an uninterrupted one.
            sampling: the same for all.
            done: indices that need no answer.
        Raises:
            RunFailure: the backend fails.
        """

    def signature(self) -> tuple[float, ...] | None:
        """Log-probabilities by which a model is known again whose weights cannot be seen.

        None: they are in the fingerprint, or cannot be had.
        """
        return None

    def check_log_likelihoods(self) -> None:
        """Refuses --loglikelihood before any answers are generated.

        Raises:
            DistillensError: the backend has none.
        """
        if type(self).log_likelihoods is Backend.log_likelihoods:
            self.log_likelihoods(())

    def plan(self, requests: Sequence[Request]) -> list[list[int]]:
        """The batches of `generate`: indices of requests that are answered together.

        Several processes divide them, and give `generate` as `done` what is not theirs. By default
        no answer depends on another one.

        Args:
            requests: all of the run's requests.
        """
        return [[index] for index in plan_order(requests)]

    def plan_log_likelihoods(self, continuations: Sequence[Continuation]) -> list[list[int]]:
        """The batches of `log_likelihoods`: whole ones, in this order, are planned the same again.

        Args:
            continuations: all of the run's.
        """
        return [[index] for index in range(len(continuations))]

    def log_likelihoods(self, continuations: Sequence[Continuation]) -> Iterator[LogLikelihood]:
        """Log-likelihoods in any order.

        Raises:
            DistillensError: the backend has none.
        """
        raise DistillensError(
            f"the backend {self.name} computes no log-likelihoods; drop --loglikelihood"
        )

    def close(self) -> None:  # noqa: B027
        """Frees the model's memory."""


def plan_order(requests: Sequence[Request]) -> list[int]:
    """Indices by prompt length, equal prompts (the seeds of one row) side by side."""
    return sorted(
        range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), requests[i].prompt_ids, i)
    )


def check_arguments(backend: str, given: dict[str, Any], known: Sequence[str]) -> None:
    """Refuses --model_args keys that a backend does not know; suggests near names."""
    for key in given:
        if key not in known:
            near = near_names(key, known) or f"; it knows {', '.join(sorted(known)[:12])} ..."
            raise DistillensError(f"--model_args {key}: --model {backend} does not know it{near}")
