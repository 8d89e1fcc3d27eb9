"""Two ways to drive vLLM: step by step in one engine, or balanced over data-parallel engines."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

# Requests queued in the data-parallel engines: enough to keep all of them busy.
_MOST_IN_FLIGHT = 4096


class StepClient:
    """One engine (over as many GPUs as its tensor-parallel size), stepped until all is finished.

    Args:
        config: a VllmConfig.
    """

    def __init__(self, config: Any) -> None:
        from vllm.v1.engine.llm_engine import LLMEngine

        self._engine = LLMEngine.from_vllm_config(config, disable_log_stats=True)
        self._num_sent = 0

    def run(
        self, prompts: list[list[int]], params: list[Any], lora_request: Any
    ) -> Iterator[tuple[int, Any]]:
        """(position, finished RequestOutput), in the order of finishing."""
        first = self._num_sent
        self._num_sent += len(prompts)
        names = [str(first + position) for position in range(len(prompts))]
        for name, prompt, param in zip(names, prompts, params, strict=True):
            self._engine.add_request(
                name, {"prompt_token_ids": prompt}, param, lora_request=lora_request
            )
        try:
            while self._engine.has_unfinished_requests():
                for output in self._engine.step():
                    if output.finished:
                        yield int(output.request_id) - first, output
        finally:
            # The caller stopped early: unfinished requests must not return in the next call.
            if self._engine.has_unfinished_requests():
                self._engine.abort_request(names)

    def ask_each(self, prompt: list[int], params: Any) -> list[Any]:
        """The RequestOutput of each engine: here of the only one."""
        return [output for _, output in self.run([prompt], [params], None)]

    def reload_weights(self, folder: Path) -> None:
        """Replaces the weights with those of a model folder.

        Raises:
            RuntimeError, ValueError: of vLLM.
        """
        self._engine.collective_rpc(*_reload(folder))
        _check_forgotten(self._engine.reset_prefix_cache())

    def close(self) -> None:
        """Ends the engine."""
        self._engine.engine_core.shutdown()


class ParallelClient:
    """Data-parallel engines behind vLLM's own load balancer, which only its async client has.

    Args:
        config: a VllmConfig with data_parallel_size above 1.
    """

    def __init__(self, config: Any) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM

        async def start() -> Any:
            return AsyncLLM.from_vllm_config(config, disable_log_stats=True)

        # The client belongs to the loop that it was made in.
        self._loop = asyncio.new_event_loop()
        self._engine = self._loop.run_until_complete(start())
        self._num_engines = config.parallel_config.data_parallel_size
        self._num_sent = 0

    def run(
        self, prompts: list[list[int]], params: list[Any], lora_request: Any
    ) -> Iterator[tuple[int, Any]]:
        """(position, finished RequestOutput), in the order of finishing."""
        outputs = self._outputs(prompts, params, lora_request)
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(anext(outputs))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run_until_complete(outputs.aclose())

    async def _outputs(
        self, prompts: list[list[int]], params: list[Any], lora_request: Any
    ) -> AsyncGenerator[tuple[int, Any], None]:
        first = self._num_sent
        self._num_sent += len(prompts)

        async def answer(position: int) -> tuple[int, Any]:
            last = None
            async for output in self._engine.generate(
                {"prompt_token_ids": prompts[position]},
                params[position],
                str(first + position),
                lora_request=lora_request,
            ):
                last = output
            return position, last

        waiting = iter(range(len(prompts)))
        running: set[asyncio.Task[tuple[int, Any]]] = set()
        try:
            while True:
                while len(running) < _MOST_IN_FLIGHT:
                    position = next(waiting, None)
                    if position is None:
                        break
                    running.add(asyncio.ensure_future(answer(position)))
                if not running:
                    return
                finished, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    yield task.result()
        finally:
            await _cancel(running)

    def ask_each(self, prompt: list[int], params: Any) -> list[Any]:
        """The RequestOutput of each engine."""

        async def one(engine: int) -> Any:
            last = None
            async for output in self._engine.generate(
                {"prompt_token_ids": prompt},
                params,
                f"each {self._num_sent} {engine}",
                data_parallel_rank=engine,
            ):
                last = output
            return last

        self._num_sent += 1
        return [self._loop.run_until_complete(one(engine)) for engine in range(self._num_engines)]

    def reload_weights(self, folder: Path) -> None:
        """Replaces the weights of all engines with those of a model folder.

        Raises:
            RuntimeError, ValueError: of vLLM.
        """
        run = self._loop.run_until_complete
        run(self._engine.collective_rpc(*_reload(folder)))
        _check_forgotten(run(self._engine.reset_prefix_cache()))

    def close(self) -> None:
        """Ends the engines and the client's own tasks."""
        self._engine.shutdown()
        self._loop.run_until_complete(_cancel(asyncio.all_tasks(self._loop)))
        self._loop.close()


def _reload(folder: Path) -> tuple[str, None, tuple[()], dict[str, str]]:
    """Method, time limit and arguments of the workers' call."""
    return "reload_weights", None, (), {"weights_path": str(folder.absolute())}


def _check_forgotten(has_forgotten: bool) -> None:
    """What is remembered of earlier prompts was computed with the old weights."""
    if not has_forgotten:
        raise RuntimeError("it cannot clear its cache of prompts while it answers others")


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    others = tasks - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
