"""`distillens cache`: computes the states that a recipe's cache lacks, and stores them."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillens_plugin.data.dataset import InstructionDataset
from distillens_plugin.experiment.data import load_data
from distillens_plugin.recipe.loading import as_typed
from distillens_plugin.recipe.schema.layers import unmeasured
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.teacher_cache.choice import (
    holds_other_states,
    missing_rows,
    refuse_to_complete,
)
from distillens_plugin.teacher_cache.fill.engines import Order, make_engine
from distillens_plugin.teacher_cache.fill.filler import Filler
from distillens_plugin.teacher_cache.fill.rows import Part, fill_rows, layer_numbers
from distillens_plugin.teacher_cache.fingerprint import (
    TRAINING,
    Fingerprint,
    engine_of,
    format_of,
    read_fingerprint,
)
from distillens_plugin.teacher_cache.folder import (
    forget_leftover,
    open_folder,
    write_fingerprint,
)
from distillens_plugin.teacher_cache.identity import make_fingerprint
from distillens_plugin.teacher_cache.model_facts import facts_of
from distillens_plugin.teacher_cache.plan import (
    Plan,
    plan_from_configs,
    shown_size,
    stored_bytes,
)
from distillens_plugin.teacher_cache.shards import delete_shard, delete_unfinished, find_torn
from distillens_plugin.teacher_cache.store import SHARD_BYTES
from eval_harness.errors import DistillensError

# Another fill holds the folder alone for the moments in which it clears up.
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class FillSettings:
    """How a cache is filled.

    Attributes:
        model: hf, vllm or server.
        model_args: for it.
        batch_size: rows at a time, for hf; None is the recipe's.
        part: of the rows.
        trusted: arguments may run code.
        chunk_bytes: about what is computed, checked and written at a time.
    """

    model: str
    model_args: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    part: Part = field(default_factory=Part)
    trusted: bool = False
    chunk_bytes: int = SHARD_BYTES


def fill_cache(recipe: Recipe, settings: FillSettings) -> str:
    """Fills what is missing in the cache of a recipe that has one.

    Returns:
        One line for people.
    Raises:
        DistillensError: recipe, arguments or what lies in the folder do not fit.
        RunFailure: the engine failed, gave wrong states, or the folder reached its limit; what was
            stored before is intact.
    """
    started_at = time.perf_counter()
    if measured := unmeasured(recipe.layer_terms()):
        raise DistillensError(
            f"{recipe.path}: the layers of {measured[0]} are chosen by divergence and not yet "
            "measured, so it is unknown which states to keep; measure them with distillens run "
            f"{as_typed(recipe)} --dry-run, and give what it prints with --set here and in the run"
        )
    _, examples, _ = load_data(recipe)
    assert isinstance(examples, InstructionDataset)  # the schema refuses a stream beside a cache
    facts = facts_of(recipe)
    plan = plan_from_configs(recipe, examples, facts)
    numbers = layer_numbers(plan, facts.teacher.blocks, facts.teacher.num_layers)
    rows = fill_rows(examples, settings.part)
    print(plan.describe(), flush=True)
    with closing(
        open_folder(
            plan.folder,
            plan.where,
            remedy="wait for it (it fills the cache in its first epoch), or name another path",
            patience_s=_PATIENCE_S,
        )
    ) as lock:
        torn = find_torn(plan.folder)
        alone = lock.exclusive
        if alone:
            _clear_up(plan.folder, torn)
            forget_leftover(plan.folder)
            torn = []
        lock.share()
        stored = read_fingerprint(plan.folder)
        own = make_fingerprint(recipe, examples, plan.states, {"engine": settings.model})
        _check_contents(own, stored, plan, settings.model)
        wanted = set(missing_rows(plan.folder, [row.row_id for row in rows]))
        rows = [row for row in rows if row.row_id in wanted]
        if not rows:
            return _closing_line(plan, "nothing was missing")
        refuse_to_complete(plan, stored)
        plan.check_size(stored_bytes(plan.folder))
        last = facts.teacher.num_layers
        order = Order(
            recipe=recipe,
            plan=plan,
            layers=sorted({*numbers.values(), last}),
            longest=max(len(row.input_ids) for row in rows),
            arguments=settings.model_args,
            batch_size=settings.batch_size,
            trusted=settings.trusted,
        )
        with closing(make_engine(settings.model, order)) as engine:
            own = make_fingerprint(recipe, examples, plan.states, engine.identity)

            def claim() -> None:
                _claim(own, plan, settings.model)

            claim()
            filler = Filler(
                plan,
                numbers,
                last,
                engine,
                order.teacher,
                torn=torn,
                chunk_bytes=settings.chunk_bytes,
                claim=claim,
            )
            num_filled = filler.fill(rows, alone=alone)
    seconds = time.perf_counter() - started_at
    done = f"{num_filled:,} computed by {engine.identity['engine']} in {seconds:.0f} s"
    return _closing_line(plan, f"{done}; {filler.check.describe()}")


def _clear_up(folder: Path, torn: Sequence[Path]) -> None:
    delete_unfinished(folder)
    for path in torn:
        delete_shard(path)
        print(
            f"warning: teacher cache: {path} is truncated, damaged or unfinished; its rows will "
            "be computed again",
            flush=True,
        )


def _claim(own: Fingerprint, plan: Plan, model: str) -> None:
    """Makes a folder this engine's, and refuses one that is another's by now."""
    stored = read_fingerprint(plan.folder)
    if stored is None:
        # What another fill has written in this moment stays, and is what is compared.
        stored = write_fingerprint(plan.folder, own.to_json())
    _check_contents(own, stored, plan, model)
    # Rows of this fill must not lack states of the other.
    refuse_to_complete(plan, stored)
    if different := own.engine_differences(stored):
        raise DistillensError(
            f"{plan.where}.path: {plan.folder} was filled by another engine "
            f"({'; '.join(different)}), and two are never mixed; name another path, or delete "
            "that folder"
        )


def _check_contents(own: Fingerprint, stored: object, plan: Plan, model: str) -> None:
    """Refuses a cache of something else, before an engine starts."""
    if stored is None:
        return
    engine = engine_of(stored).get("engine", "")
    if (isinstance(stored, dict) and format_of(stored, plan.place) == 1) or engine == TRAINING:
        raise DistillensError(
            f"{plan.where}.path: {plan.folder} is filled by runs in their first epoch, and two "
            "engines are never mixed; name another path, or delete that folder"
        )
    if different := own.differences(stored):
        raise holds_other_states(plan, different)
    if (engine == "hf") != (model == "hf"):
        raise DistillensError(
            f"{plan.where}.path: {plan.folder} was filled by {engine}, and two engines are never "
            f"mixed; found --model {model}; name another path, or delete that folder"
        )


def _closing_line(plan: Plan, what: str) -> str:
    num_missing = len(missing_rows(plan.folder, plan.row_ids))
    num_rows = len(plan.row_ids)
    full = "; the cache is full" if not num_missing else ""
    return (
        f"teacher cache: {num_rows - num_missing:,} of {num_rows:,} rows are stored in "
        f"{plan.folder} ({shown_size(stored_bytes(plan.folder))}); {what}{full}"
    )
