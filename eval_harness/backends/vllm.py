"""vLLM: all requests go into one engine together, and answers come back as they finish.

Token ids go in and come out: vLLM's tokenizer never runs, so no special token slips in and both
backends decode in the same way. A request's seed determines its random numbers, whatever else is in
the batch. On a GPU the rest of the batch changes logits in the last bits; vLLM's
VLLM_BATCH_INVARIANT=1 prevents that.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from eval_harness.backends.base import (
    Answer,
    Backend,
    Continuation,
    LogLikelihood,
    Request,
    Sampling,
    plan_order,
)
from eval_harness.backends.end_tokens import strip_stop
from eval_harness.backends.vllm_arguments import (
    check_usable,
    checked_arguments,
    cpu_settings,
    engine_config,
)
from eval_harness.backends.vllm_clients import ParallelClient, StepClient
from eval_harness.backends.vllm_layout import LAYOUT_ARGUMENTS, check_heads
from eval_harness.backends.vllm_probe import WeightsProbe
from eval_harness.backends.vllm_sharing import max_lora_rank, sharing_key
from eval_harness.errors import RunFailure
from eval_harness.shared.model_folder.identity import ModelFiles


class VllmBackend(Backend):
    """One vLLM engine, or with data_parallel_size > 1 one per group of GPUs.

    Args:
        facts: from `read_model`.
        max_length: prompt and answer together; keeps the KV cache small for long-context models.
        no_repeat_ngrams: load the n-gram logits processor, which costs speed.
        engine: from `arguments`.
    """

    name = "vllm"
    needs_transformers_model = False  # vLLM has models that transformers lacks
    one_process = (
        "vLLM starts its own processes; start it without a launcher, and give "
        "data_parallel_size=N or tensor_parallel_size=N in --model_args"
    )
    layout_arguments = LAYOUT_ARGUMENTS | {
        "batch_size",
        "disable_log_stats",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_num_batched_tokens",
        "max_num_seqs",
    }

    def __init__(
        self,
        facts: ModelFiles,
        *,
        max_length: int,
        no_repeat_ngrams: bool = False,
        engine: dict[str, Any] | None = None,
    ) -> None:
        self.stop_token_ids = facts.stop_token_ids
        self.no_repeat_ngrams = no_repeat_ngrams
        settings = {**cpu_settings(), **(engine or {})}
        if facts.adapter is not None:
            settings = {"max_lora_rank": max_lora_rank([facts]), **settings, "enable_lora": True}
        in_parallel = settings.get("data_parallel_size", 1) > 1
        try:
            config = engine_config(facts.folder, settings, max_length=max_length)
            if no_repeat_ngrams:
                config.model_config.logits_processors = [_processor_path(config)]
            self._client = ParallelClient(config) if in_parallel else StepClient(config)
        except Exception as error:
            raise RunFailure(_explain(facts, error)) from error
        super().__init__(facts)
        self._max_length, self._dtype = max_length, str(settings.get("dtype", "auto"))
        self._num_adapters = 1
        self._lora_request = _lora_request(facts, self._num_adapters)
        self._probe: WeightsProbe | None = None

    @classmethod
    def sharing_key(
        cls, facts: ModelFiles, arguments: dict[str, Any], *, max_length: int
    ) -> str | None:
        from vllm.platforms import current_platform

        on_cpu = current_platform.is_cpu()
        return sharing_key(facts, arguments, max_length=max_length, on_cpu=on_cpu)

    @classmethod
    def shared_arguments(
        cls, systems: Sequence[ModelFiles], arguments: dict[str, Any]
    ) -> dict[str, Any]:
        if systems[0].adapter is None:
            return arguments
        return {"max_lora_rank": max_lora_rank(systems), **arguments}

    def switch(self, facts: ModelFiles) -> None:
        if facts.adapter is not None:
            # A number of its own, by which vLLM keeps adapters and what it remembers of prompts.
            self._num_adapters += 1
            self._lora_request = _lora_request(facts, self._num_adapters)
        else:
            self._reload(facts)
        self.facts, self.stop_token_ids = facts, facts.stop_token_ids

    def _reload(self, facts: ModelFiles) -> None:
        """Replaces the weights; refuses an engine that has kept any of the old ones."""
        if self._probe is None:
            self._probe = WeightsProbe(self.facts, self._dtype, self._max_length)
            self._probe.calibrate(self._probed(self._probe)[0])
        try:
            self._client.reload_weights(facts.folder)
        except Exception as error:
            raise RunFailure(f"vLLM does not load the weights of {facts.name}: {error}") from error
        self._probe.check(facts, self._probed(self._probe))

    def _probed(self, probe: WeightsProbe) -> list[list[float]]:
        """Of each engine, [T - 1]."""
        try:
            outputs = self._client.ask_each(list(probe.token_ids), _scoring_params())
        except _engine_errors() as error:
            raise RunFailure(f"vLLM failed while it was checked: {_reason(error)}") from error
        return [_log_probabilities(output, probe.token_ids[1:], first=1) for output in outputs]

    @classmethod
    def check_usable(cls) -> None:
        check_usable()

    @classmethod
    def arguments(cls, given: dict[str, Any]) -> dict[str, Any]:
        return checked_arguments(given)

    @classmethod
    def described(cls, facts: ModelFiles, arguments: dict[str, Any]) -> ModelFiles:
        check_heads(arguments, facts)
        return facts

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Of the packages that answers depend on."""
        import torch
        import transformers
        import vllm

        # Not importlib.metadata: the CPU build is distributed under another name.
        return {
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    @classmethod
    def load(
        cls,
        facts: ModelFiles,
        arguments: dict[str, Any],
        *,
        max_length: int,
        no_repeat_ngrams: bool,
        trust_remote_code: bool,
    ) -> "VllmBackend":
        return cls(
            facts,
            max_length=max_length,
            no_repeat_ngrams=no_repeat_ngrams,
            engine={**arguments, "trust_remote_code": trust_remote_code},
        )

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, done: frozenset[int] = frozenset()
    ) -> Iterator[Answer]:
        if sampling.no_repeat_ngram_size and not self.no_repeat_ngrams:
            raise ValueError("the engine was started without the n-gram logits processor")
        asked = [index for index in plan_order(requests) if index not in done]
        prompts = [list(requests[index].prompt_ids) for index in asked]
        params = [self._sampling_params(sampling, requests[index].seed) for index in asked]
        for position, output in self._run(prompts, params):
            completion = output.outputs[0]
            token_ids, reason = strip_stop(
                completion.token_ids, (*self.stop_token_ids, *sampling.stop_token_ids)
            )
            yield Answer(asked[position], token_ids, reason)

    def log_likelihoods(self, continuations: Sequence[Continuation]) -> Iterator[LogLikelihood]:
        prompts = [[*item.prompt_ids, *item.token_ids] for item in continuations]
        for position, output in self._run(prompts, [_scoring_params()] * len(prompts)):
            item = continuations[position]
            scored = _log_probabilities(output, item.token_ids, first=len(item.prompt_ids))
            yield LogLikelihood(position, float(sum(scored)))

    def _sampling_params(self, sampling: Sampling, seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        size = sampling.no_repeat_ngram_size
        return SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=None if sampling.temperature == 0 else seed,
            stop_token_ids=[*self.stop_token_ids, *sampling.stop_token_ids],
            # vLLM would add the end token of the folder's tokenizer, which may not be in use.
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={"no_repeat_ngram_size": size} if size else None,
        )

    def _run(self, prompts: list[list[int]], params: list[Any]) -> Iterator[tuple[int, Any]]:
        try:
            yield from self._client.run(prompts, params, self._lora_request)
        except _engine_errors() as error:
            raise RunFailure(f"vLLM failed while generating: {_reason(error)}") from error

    def close(self) -> None:
        self._client.close()


def _processor_path(config: Any) -> str:
    """The n-gram processor for the model runner that vLLM has chosen; their interfaces differ."""
    kind = "v2" if getattr(config, "use_v2_model_runner", False) else "v1"
    return f"eval_harness.backends.vllm_ngrams_{kind}:NoRepeatNgrams"


def _scoring_params() -> Any:
    from vllm import SamplingParams

    # prompt_logprobs=0 returns the log-probability of each prompt token, and no others.
    return SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)


def _log_probabilities(output: Any, token_ids: Sequence[int], *, first: int) -> list[float]:
    """Of these tokens, which the prompt of `output` has from `first` on."""
    scored = output.prompt_logprobs[first:]
    return [entry[token].logprob for entry, token in zip(scored, token_ids, strict=True)]


def _lora_request(facts: ModelFiles, number: int) -> Any:
    if facts.adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest(f"adapter {number}", number, str(facts.adapter))


def _engine_errors() -> tuple[type[Exception], ...]:
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    return RuntimeError, ValueError, EngineDeadError, EngineGenerateError


def _reason(error: Exception) -> str:
    if "NaNs detected in logits" in str(error):
        return "the model's logits are NaN; try another dtype (float16 overflows in many models)"
    if type(error).__name__ == "EngineDeadError":
        return "its engine has ended; the reason is printed above (logits that are NaN are one)"
    return str(error)


def _explain(facts: ModelFiles, error: Exception) -> str:
    message = f"vLLM does not start with {facts.name}: {error}"
    if "initialization failed" in str(error).lower():
        message += (
            "; the reason is printed above; if the KV cache lacks memory, give "
            "kv_cache_memory_bytes=... or gpu_memory_utilization=... in --model_args"
        )
    return message
