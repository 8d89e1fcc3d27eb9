"""The files of a study's report, and the refusal of a folder where they would replace another's."""

from pathlib import Path

from eval_harness.shared.pages.foreign import (
    refuse_foreign_markdown,
    refuse_foreign_page,
    refuse_foreign_table,
)

PAGE, MARKDOWN, TABLE = "report.html", "report.md", "table.csv"
# The first columns of the table; those of other versions begin with them too.
FIRST_COLUMNS = ("budget", "method", "label", "task", "protocol", "metric")


def check_place(folder: Path) -> None:
    """Refuses a folder with a page, a Markdown file or a table that is none of this project's.

    Raises:
        DistillensError: see above, or one of them cannot be read.
    """
    page = folder / PAGE
    refuse_foreign_page(page, "output_dir")
    # Earlier versions wrote no mark, and their first line is the study's title of then.
    refuse_foreign_markdown(folder / MARKDOWN, page, "output_dir", older="# ")
    refuse_foreign_table(folder / TABLE, "output_dir", start=f"{','.join(FIRST_COLUMNS)},")
