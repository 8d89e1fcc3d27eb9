"""A run of no steps is refused: it would train nothing and say that it is done."""

from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError


def check_enough_rows(recipe: Recipe, num_rows: int, num_processes: int) -> None:
    """Refuses training data that make no whole batch for every process where `drop_last` wants one.

    Needs nothing but the number of rows, or the most that there can be. With a sampler or a batch
    sampler of the recipe's own nothing can be said here.

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
            f"{where}: {num_rows} training rows make no whole batch of {batch_size}{each}, and "
            "drop_last leaves out all others, so that nothing would be trained; lower batch_size "
            "or set drop_last: false"
        )


def check_steps(recipe: Recipe, num_rows: int, num_steps: int) -> None:
    """Refuses a run whose data loader gives no batch.

    Raises:
        DistillensError: see above.
    """
    if num_steps < 1:
        raise DistillensError(
            f"{recipe.where('train.train_data_loader')}: an epoch over {num_rows} training rows "
            "has no batch, so that nothing would be trained; look at its sampler, batch_size and "
            "drop_last"
        )
