"""What `import medquant` offers."""

from __future__ import annotations

import importlib

import medquant
from medquant.errors import one_of


def test_every_name_is_there() -> None:
    for name in medquant.__all__:
        found = getattr(medquant, name)
        assert found.__name__ == name and found.__module__.startswith("medquant.")


def test_a_submodule_does_not_hide_a_function_of_its_name() -> None:
    for name in ("quantize", "segment"):
        importlib.import_module(f"medquant.{name}")
        assert callable(getattr(medquant, name))


def test_choices_in_words() -> None:
    assert one_of(("fp32", "bf16", "int8")) == "fp32, bf16 or int8"
    assert one_of([8, 4]) == "8 or 4"
    assert one_of(iter(["cpu"])) == "cpu"
