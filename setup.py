"""What pyproject.toml cannot say: recipes/ stays at the top level, and is data of the package."""

from setuptools import find_packages, setup

RECIPES = "distillens_plugin.recipes"

setup(
    packages=[*find_packages(include=["distillens_plugin*", "eval_harness*"]), RECIPES],
    package_dir={RECIPES: "recipes"},
)
