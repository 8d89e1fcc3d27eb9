"""The files of a report, and the refusal of a folder where they would replace another's."""

from pathlib import Path

from eval_harness.shared.pages.foreign import refuse_foreign_markdown, refuse_foreign_page

PAGE, MARKDOWN = "report.html", "report.md"
TITLE = "# Evaluation"


def check_place(folder: Path) -> None:
    """Refuses a folder with a page or a Markdown file that is none of this project's.

    Raises:
        DistillensError: see above, or one of them cannot be read.
    """
    refuse_foreign_page(folder / PAGE, "--output_path")
    refuse_foreign_markdown(
        folder / MARKDOWN, folder / PAGE, "--output_path", older=f"{TITLE}\n\n## "
    )
