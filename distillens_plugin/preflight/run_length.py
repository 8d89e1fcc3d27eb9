"""A run without steps is refused: it would train nothing and report success."""

from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError


def check_enough_rows(recipe: Recipe, num_rows: int, num_processes: int) -> None:
    """Refuses training data too few for a whole batch per process if `drop_last` asks for one.

    Needs only the number of rows, or an upper bound of it. Does not judge a recipe that has its own
    sampler or batch sampler.

    Raises:
        DistillensError: see above.
    """
    loader = recipe.train.train_data_loader
    batch_size = loader.kwargs.batch_size
    if not loader.kwargs.drop_last or loader.sampler or loader.batch_sampler:
        return
    if num_rows // batch_size < num_processes:
        where = recipe.where("train.train_data_loader.kwargs.drop_last")
        each = f" for each of {num_processes} processes" if num_processes > 1 else ""
        raise DistillensError(
            f"{where}: {num_rows} training rows do not fill a batch of {batch_size}{each}, and "
            "drop_last drops incomplete batches, so nothing would be trained; lower batch_size or "
            "set drop_last: false"
        )


def check_steps(recipe: Recipe, num_rows: int, num_steps: int) -> None:
    """Refuses a run whose data loader gives no batch.

    Raises:
        DistillensError: see above.
    """
    if num_steps < 1:
        raise DistillensError(
            f"{recipe.where('train.train_data_loader')}: an epoch over {num_rows} training rows "
            "has no batch, so nothing would be trained; check sampler, batch_size and drop_last"
        )
