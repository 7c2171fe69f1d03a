"""Nested dicts, as JSON and YAML hold them, to checked dataclasses."""

import dataclasses
import types
import typing
from typing import Any, TypeVar

from ostinato.utils.errors import UserError, nearest

T = TypeVar("T")


def build(cls: type[T], values: Any, where: str) -> T:
    """Nested dicts -> dataclass `cls`. Raises UserError for unknown, missing or ill-typed keys."""
    if not isinstance(values, dict):
        raise UserError(f"{where or 'config'} should be a section of keys, got {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name, f in fields.items():
        if (old := f.metadata.get("formerly")) in values:  # a name that earlier versions saved
            values = {name: values[old]} | {key: value for key, value in values.items() if key != old}
    for key in values:
        if key not in fields:
            raise UserError(f"unknown key {f'{where}.{key}'.lstrip('.')!r}; {nearest(str(key), list(fields))}")
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UserError(f"the config lacks {f'{where}.{name}'.lstrip('.')!r}; add it or pass --set {name}=...")
    converted = {k: convert(v, hints[k], f"{where}.{k}".lstrip(".")) for k, v in values.items()}
    try:
        return cls(**converted)
    except ValueError as error:
        raise UserError(f"{where or 'config'}: {error}") from error


def convert(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else convert(value, arguments[0], where)
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise UserError(f"{where} should be {len(arguments)} values, got {value!r}")
        return tuple(convert(v, arguments[0], where) for v in value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    name = f"list of {arguments[0].__name__}" if origin is tuple else hint.__name__
    raise UserError(f"{where} should be of type {name}, got {value!r}")
