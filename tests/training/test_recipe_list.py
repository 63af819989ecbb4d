"""Recipes that are compared on the tuning replications: the list is valid, and the rule chooses as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.training.recipes import FAMILIES, RECIPES, SEEDS, Project, best


def outcome(median: float, *, pca: float = 10.0, minutes: float = 35.0) -> dict[str, Any]:
    """A finished recipe."""
    return {"median": median, "families": {"PCA": {"gain": pca}}, "minutes": {"all": minutes}}


def test_every_recipe_is_a_scale_of_its_own(tmp_path: Path) -> None:
    project = Project(tmp_path, "laptop")
    scales = [project.study(recipe).scale for recipe in RECIPES]
    assert len(set(map(repr, scales))) == len(RECIPES) <= 16
    assert project.study(RECIPES[0]).seeds["pca"] == SEEDS
    places = {job.place for job in project.graph(RECIPES[0]).jobs_for(FAMILIES.values())}
    assert "probe/mae_b/seed100" in places
    assert not any(place.startswith(("finetune", "judge")) for place in places)


def test_only_recipes_that_change_the_results_have_another_identity(tmp_path: Path) -> None:
    project = Project(tmp_path, "laptop")
    before = [project.identity(recipe) for recipe in RECIPES]
    assert len(set(before)) == len(RECIPES)
    study = project.folder / "config.yaml"
    study.write_text(study.read_text().replace("label: patch-wise PCA", "label: another name"))
    assert [project.identity(recipe) for recipe in RECIPES] == before
    study.write_text(study.read_text().replace("pretrain: ", "pretrain: 1"))
    assert not set(before) & {project.identity(recipe) for recipe in RECIPES}


def test_the_largest_median_wins_if_pca_gains_no_less_than_today() -> None:
    recipes = {"today": outcome(3.0), "steps_650": outcome(6.0, pca=9.9), "narrow": outcome(5.0)}
    assert best(recipes) == "narrow"


def test_of_equal_medians_the_cheaper_recipe_wins() -> None:
    recipes = {"today": outcome(3.0), "steps_650": outcome(5.2, minutes=39), "narrow": outcome(5.0, minutes=38)}
    assert best(recipes) == "narrow"
    recipes["steps_650"] = outcome(5.3, minutes=39)
    assert best(recipes) == "steps_650"


def test_nothing_is_chosen_before_todays_recipe_has_finished() -> None:
    assert best({"today": {"minutes": {"all": 35.0}}, "narrow": outcome(5.0)}) is None
