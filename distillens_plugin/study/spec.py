"""The keys of a study file: types, ranges, defaults, a line of description each; no torch."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from distillens_plugin.recipe.schema.base import (
    Count,
    KeyPath,
    NonNegativeInt,
    PathKey,
    PathName,
    Positive,
    Strict,
    complain,
    did_you_mean,
    problem,
)
from distillens_plugin.study.short_keys import check_arguments, check_keys

# A file beside the study, whether or not it begins with ./
FileName = Annotated[str, PathKey(always=True)]
# Where a method is its fragments alone, a list.
SHORT_METHOD: KeyPath = ("methods", "*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Generate(Strict):
    """SeqKD: how the teacher answers the training prompts."""

    model: Literal["vllm", "hf", "server"] = Field(default="vllm", description="its backend")
    model_args: str = Field(default="", description="K=V,... as for distillens generate")
    gen_kwargs: str = Field(default="", description="K=V,... as for distillens generate")


class Method(Strict):
    """One row of the table: fragments put over the recipe, then keys set."""

    label: str | None = Field(default=None, description="name in the report; the key if not given")
    fragments: list[FileName] = Field(
        default_factory=list, description="files put over the recipe, from the study's folder"
    )
    set: dict[str, Any] = Field(default_factory=dict, description="recipe keys and their values")
    tune: list[dict[str, list[Any]]] = Field(
        default_factory=list,
        description="values to try for recipe keys: all combinations; a list of such grids is "
        "searched one after the other, each with the best of the one before",
    )
    compare_to: list[str] | None = Field(
        default=None, description="methods to compare with; those of the study if not given"
    )
    generate: Generate | None = Field(
        default=None, description="train on the teacher's answers, generated first (SeqKD)"
    )

    @field_validator("tune", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> Any:
        return [value] if isinstance(value, dict) else value

    @field_validator("set")
    @classmethod
    def _set_keys(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_keys(value)

    @field_validator("tune")
    @classmethod
    def _tune_keys(cls, grids: list[dict[str, list[Any]]]) -> list[dict[str, list[Any]]]:
        for index, grid in enumerate(grids):
            try:
                check_keys(grid)
            except Exception as error:
                context = getattr(error, "context", None) or {}
                complain(context.get("text", str(error)), at=(index, *context.get("at", ())))
            for key, values in grid.items():
                if not values:
                    complain("found an empty list, expected values to try", at=(index, key))
        return grids


class Tune(Strict):
    """Runs that choose settings; their seeds are not those of the final runs."""

    seeds: list[NonNegativeInt] = Field(description="training seeds of the search")
    set: dict[str, Any] = Field(
        default_factory=dict, description="recipe keys of these runs only, such as fewer steps"
    )

    @field_validator("set")
    @classmethod
    def _set_keys(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_keys(value)


class EqualCompute(Strict):
    """A second comparison, in which each method may train as long as the clock method did."""

    clock: str = Field(description="the method whose measured training time all others get")
    methods: list[str] | None = Field(
        default=None, description="methods that get that time; all without a lens if not given"
    )


class Budget(Strict):
    """What is held equal. Final runs have equal steps, unless a method sets its own."""

    equal_compute: EqualCompute | None = Field(
        default=None, description="compare at equal training time as well"
    )


class Evaluation(Strict):
    """eval-harness run on the model of each final run."""

    tasks: list[str] = Field(description="benchmarks, see eval-harness ls")
    protocols: list[str] = Field(
        default=["default", "greedy"], description="default (sampled), greedy, minillm"
    )
    seeds: list[NonNegativeInt] | None = Field(
        default=None, description="of sampling; the protocol's if not given"
    )
    limit: Positive | None = Field(default=None, description="rows of each task, or their share")
    template: str | None = Field(
        default=None, description="of the prompts; that of datasets.train if not given"
    )
    data: dict[str, PathName] = Field(default_factory=dict, description="task: file or folder")
    gen_kwargs: dict[str, Any] = Field(default_factory=dict, description="max_new_tokens and so on")
    max_prompt_tokens: Count | None = Field(default=None, description="longest prompt, in tokens")
    # Not a server, which has one model, while each run has its own.
    model: Literal["hf", "vllm"] = Field(default="hf", description="backend of eval_harness")
    model_args: dict[str, Any] = Field(default_factory=dict, description="for the backend")
    batch_size: Count | None = Field(default=None, description="rows in flight")
    together: bool | None = Field(
        default=None, description="several runs in one process; with vllm true if not given"
    )
    rouge_tokenizer: Literal["default", "unicode"] = Field(
        default="default", description="unicode: also ROUGE-L of words in any script"
    )
    checkpoint: Literal["best", "last"] = Field(
        default="best", description="which model of a run is evaluated and compared"
    )

    @field_validator("model_args", "gen_kwargs")
    @classmethod
    def _arguments(cls, values: dict[str, Any]) -> dict[str, Any]:
        return check_arguments(values)


class Paper(Strict):
    """Published numbers that stand beside ours."""

    source: str = Field(description="where they come from")
    metric: str = Field(default="ROUGE-L, mean of the tasks", description="what they are")
    scores: dict[str, float] = Field(description="method: number")
    teacher: float | None = Field(default=None, description="the teacher's own number")


class Study(Strict):
    """A whole study, checked."""

    title: str = Field(description="of the report")
    recipe: FileName = Field(description="what all methods change; a path from the study's folder")
    set: dict[str, Any] = Field(default_factory=dict, description="recipe keys of every run")
    methods: dict[str, Method] = Field(
        description="name: its fragments (a list), or fragments, set, tune and label"
    )
    seeds: list[NonNegativeInt] = Field(description="training seeds of the final runs")
    compare_to: list[str] = Field(description="methods to compare all others with: SFT, plain KD")
    tune: Tune | None = Field(default=None, description="runs that choose settings; needs grids")
    budget: Budget = Field(default_factory=Budget, description="what is held equal")
    evaluation: Evaluation | None = Field(
        default=None, description="benchmarks; only the validation loss is compared without it"
    )
    paper: Paper | None = Field(default=None, description="published numbers")
    output_dir: PathName = Field(description="where everything is written")

    _source: Any = PrivateAttr(default=None)
    _trust: bool = PrivateAttr(default=False)

    @field_validator("methods", mode="before")
    @classmethod
    def _short_form(cls, value: object) -> Any:
        if not isinstance(value, dict):
            return value
        methods = {name: method for name, method in value.items() if method is not None}
        for name in methods:
            if not _NAME.fullmatch(str(name)):
                complain("a method's name is letters, digits and . _ -", at=(name,))
        return {n: {"fragments": m} if isinstance(m, list) else m for n, m in methods.items()}

    @field_validator("set")
    @classmethod
    def _set_keys(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_keys(value)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if not seeds or len(set(seeds)) < len(seeds):
            problem(seeds, "at least one seed, each once")
        return seeds

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        if not self.methods:
            complain("found no method, expected at least one", at=("methods",))
        self._check_names(self.compare_to, ("compare_to",))
        for name, method in self.methods.items():
            self._check_names(method.compare_to or [], ("methods", name, "compare_to"))
            if method.tune and self.tune is None:
                complain(
                    "a grid needs tune: {seeds: [...]} at the top of the study; add it",
                    at=("methods", name, "tune"),
                )
        if self.tune is not None:
            if not self.tune.seeds or set(self.tune.seeds) & set(self.seeds):
                complain(
                    f"found {self.tune.seeds} beside the final seeds {self.seeds}, expected other "
                    "seeds: settings chosen on a seed would flatter that seed's final run",
                    at=("tune", "seeds"),
                )
            if not any(method.tune for method in self.methods.values()):
                complain(
                    "no method has a grid (tune) to search; add one or delete it", at=("tune",)
                )
        clock = self.budget.equal_compute
        if clock is not None:
            at = ("budget", "equal_compute")
            self._check_names([clock.clock], (*at, "clock"), indexed=False)
            self._check_names(clock.methods or [], (*at, "methods"))
            if clock.clock in (clock.methods or []):
                complain(
                    f"found {clock.clock}, which is the clock: its final runs are compared; delete "
                    "it here",
                    at=(*at, "methods"),
                )
        if self.paper is not None:
            self._check_names(list(self.paper.scores), ("paper", "scores"), by_key=True)
        return self

    def _check_names(
        self, names: list[str], at: Any, *, indexed: bool = True, by_key: bool = False
    ) -> None:
        for index, name in enumerate(names):
            if name not in self.methods:
                known = ", ".join(self.methods)
                hint = did_you_mean(name, self.methods) or f"expected one of {known}"
                place = (*at, name) if by_key else (*at, index) if indexed else at
                complain(f"found {name!r}, which is not a method of this study; {hint}", at=place)

    @property
    def is_trusted(self) -> bool:
        """Whether --trust-recipe was given, on the command line that names the study."""
        return self._trust

    @property
    def path(self) -> str:
        """The study file's name as it was given."""
        return self._source.name if self._source is not None else "study"

    def where(self, *keys: str | int) -> str:
        """`study.yaml:12: methods.sft`, as errors about a key begin."""
        return self._source.describe(tuple(keys)) if self._source is not None else str(keys)

    def label(self, name: str) -> str:
        """What the report calls a method."""
        return self.methods[name].label or name

    def references(self, name: str) -> list[str]:
        """The methods that one is compared with, without itself."""
        chosen = self.methods[name].compare_to
        return [other for other in (self.compare_to if chosen is None else chosen) if other != name]
