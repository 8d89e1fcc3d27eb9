"""Where a fill begins: with the longest rows, unless somebody else has begun with them."""

from cached_run import cached_recipe

from distillens_plugin.experiment.data import load_data
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.teacher_cache.fill import engines
from distillens_plugin.teacher_cache.fill.filling import FillSettings, fill_cache
from distillens_plugin.teacher_cache.fill.transformers_engine import TransformersEngine
from eval_harness.errors import RunFailure
from eval_harness.shared.files.lock import FolderLock


class Asked(RunFailure):
    """Ends a fill, and says for what it has asked first."""

    def __init__(self, rows):
        super().__init__("asked")
        self.longest = max(len(row.input_ids) for row in rows)


class FirstQuestion(TransformersEngine):
    def states(self, rows, layers):
        raise Asked(rows)
        yield


def first_asked(recipe):
    """Tokens of the longest row of the first chunk."""
    try:
        fill_cache(recipe, FillSettings("hf", chunk_bytes=40_000))
    except Asked as asked:
        return asked.longest


def test_the_first_to_fill_begins_with_the_longest_rows(tmp_path, monkeypatch):
    monkeypatch.setitem(
        engines.ENGINES, "hf", lambda order: FirstQuestion(order.recipe, {}, batch_size=8)
    )
    monkeypatch.setattr("random.randrange", lambda count: count - 1)
    recipe = load_recipe(str(cached_recipe(tmp_path)))
    lengths = load_data(recipe)[1].lengths
    assert first_asked(recipe) == max(lengths)
    other = FolderLock(tmp_path / "cache", name="lock")
    other.acquire()
    other.share()
    assert first_asked(recipe) < max(lengths)
    other.close()
