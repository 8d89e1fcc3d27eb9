"""Files that an attached lens's terms read and that were made on one teacher: is it this one?"""

from distillens_plugin.attached.side import Side
from distillens_plugin.lens.probe import unwrap
from distillens_plugin.losses.term import Term
from eval_harness.errors import DistillensError


def check_teacher_files(term: Term, teacher: Side) -> None:
    """Refuses a term's file of another teacher, as a recipe's is refused.

    Where the teacher was loaded from is all that is known of it: an adapter may have been merged
    in since, so that of a file made on one the base alone is compared. Nothing is where an
    unmerged adapter is on the teacher, and the file's teacher had none: it may be the merged one.

    Raises:
        DistillensError: other sizes, other weights in the folder, or another name on the Hub.
    """
    name = str(getattr(teacher.plain, "name_or_path", None) or "")
    adapted = any(
        getattr(each, "peft_config", None) for each in (unwrap(teacher.model), teacher.plain)
    )
    for parameter, info in term.teacher_files().items():
        where = f"{term.where}.{parameter}"
        info.check((), teacher.lens.num_layers, teacher.lens.anatomy.width, where)
        if not name or (adapted and info.adapter is None):
            continue
        try:
            info.check_base(name, where)
        except DistillensError as error:
            raise DistillensError(
                f"{error}, or load the teacher from where it was when they were {info.kind.past}"
            ) from error
