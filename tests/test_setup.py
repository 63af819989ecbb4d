from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    named = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): version for name, version in named}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [Requirement(line) for line in listed]


def test_every_dependency_is_pinned_within_its_range() -> None:
    pinned = pins()
    for requirement in requirements("dev"):
        assert requirement.specifier.contains(pinned[canonical(requirement.name)]), requirement


def test_the_conda_environment_has_the_same_pins() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    found = {canonical(Requirement(line).name): line.partition("==")[2] for line in pip}
    pinned = pins()
    assert found == {canonical(r.name): pinned[canonical(r.name)] for r in requirements()}


def test_the_profile_that_loads_itself_overrides_nothing_of_the_slurm_profile() -> None:
    """Snakemake lets `workflow/profiles/default` win over the profile that a user names."""
    default, slurm = (
        yaml.safe_load((ROOT / file).read_text())
        for file in ("workflow/profiles/default/config.yaml", "slurm/config.v9+.yaml")
    )
    assert default
    assert {key: slurm.get(key, value) for key, value in default.items()} == default
