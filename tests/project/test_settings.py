"""The table of settings says what the settings classes say."""

from __future__ import annotations

import re

import pytest
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy.settings_table import TABLE, find_settings_classes, render, settings_of
from tests.project.sources import listing, name_of, text_files

# A name that ends in an underscore is a prefix; in a word that goes on it is no variable.
VARIABLE = re.compile(r"\bFRESHET_[A-Z0-9_]*[A-Z0-9]\b(?!\*)")


class ExampleSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="EXAMPLE_")

    bootstrap: str = Field(validation_alias="FRESHET_BOOTSTRAP", description="Where it is.")
    limit: int | None = Field(default=None, description="At most so many.")


class OtherSettings(BaseSettings):
    limit: int = Field(default=3, validation_alias="EXAMPLE_LIMIT", description="Another thing.")


def test_the_table_is_what_make_settings_writes() -> None:
    expected = render(settings_of(find_settings_classes()))
    assert TABLE.read_text() == expected, "run: make settings"


def test_every_setting_says_what_it_means() -> None:
    rows = settings_of(find_settings_classes())
    assert [row.variable for row in rows if not row.meaning] == []


def test_every_variable_the_project_names_is_in_the_table() -> None:
    known = {row.variable for row in settings_of(find_settings_classes())}
    named = {
        (variable, name_of(path))
        for path in text_files()
        if not name_of(path).startswith("tests/")
        for variable in VARIABLE.findall(path.read_text())
    }
    found = sorted(f"{path}: {variable}" for variable, path in named if variable not in known)
    assert not found, listing(found)


def test_aliases_prefixes_and_types_are_read_from_the_class() -> None:
    alias, prefixed = sorted(settings_of([ExampleSettings]), key=lambda row: row.meaning)[::-1]
    assert (alias.variable, alias.default) == ("FRESHET_BOOTSTRAP", "required")
    assert (prefixed.variable, prefixed.type_name, prefixed.default) == (
        "EXAMPLE_LIMIT",
        "int or unset",
        "unset",
    )


def test_one_variable_cannot_mean_two_things() -> None:
    with pytest.raises(ValueError, match="EXAMPLE_LIMIT means two things"):
        settings_of([ExampleSettings, OtherSettings])
