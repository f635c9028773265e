"""The training configuration: YAML whose keys are checked before any work starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kinetograph.errors import UserError, nearest
from kinetograph.training.settings import DataSettings, ModelSettings, OptimizerSettings, TrainingSettings


def load_config(path: Path | str, overrides: list[str] | None = None) -> TrainingSettings:
    """A configuration from YAML, with ``section.key=value`` changes on top.

    Relative paths are taken from the current folder.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown (the nearest one is named), or a
            value is missing or out of range.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError("this is a folder, not a configuration file", where=str(path))
    if not path.is_file():
        raise UserError(
            "there is no such configuration file", where=str(path), mend="`kinetograph template` writes one."
        )
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError("the configuration is not valid YAML", where=f"{path}{line}") from error
    if not isinstance(data, dict):
        raise UserError("the configuration must be a mapping of sections", where=str(path))
    for item in overrides or []:
        _override(data, item)
    return check_config(data, f"{path} with {' '.join(overrides)}" if overrides else str(path))


def check_config(data: dict[str, Any], where: str) -> TrainingSettings:
    """Validate plain data as a training configuration; see :func:`load_config`."""
    try:
        return TrainingSettings.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        location = [str(part) for part in first["loc"]]
        key = ".".join(location)
        if first["type"] == "extra_forbidden":
            known = _keys_of(location[:-1])
            raise UserError(
                f"unknown key {key!r}{nearest(location[-1], known)}",
                where=where,
                mend=f"Known: {', '.join(known)}.",
            ) from error
        if first["type"] == "missing":
            raise UserError(f"the key {key!r} is missing", where=where) from error
        raise UserError(
            f"{key}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {first['input']!r}", where=where
        ) from error


def template() -> str:
    """A commented configuration to start from, set for what ``kinetograph generate water`` makes."""
    lines = ["# Every key with its meaning. Change files, cutoff and bond types to those of your system."]
    examples = {
        "cutoff_A": "4.2",
        "max_bond_separation": "2",
        "train": "data/water/train.extxyz",
        "valid": "data/water/valid.extxyz",
    }
    for section, model in (("model", ModelSettings), ("data", DataSettings), ("training", OptimizerSettings)):
        lines.append(f"{section}:")
        for name, field in model.model_fields.items():
            default = examples.get(name)
            if default is None:
                value = yaml.safe_dump(field.default, default_flow_style=True).replace("\n...", "").strip()
                default = value if field.default is not None else ""
            comment = "" if field.default is not None or name in examples else "# "
            lines.append(f"  {comment}{name}: {default}".rstrip().ljust(40) + f"  # {field.description}")
    return "\n".join(lines) + "\n"


def _keys_of(location: list[str]) -> list[str]:
    fields: Any = TrainingSettings.model_fields
    for part in location:
        fields = fields[part].annotation.model_fields
    return list(fields)


def _override(data: dict[str, Any], item: str) -> None:
    key, separator, text = item.partition("=")
    if not separator:
        raise UserError(
            f"{item!r} is not of the form key=value", where="command line", mend="Write training.seed=1."
        )
    *sections, name = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise UserError(f"{section!r} is not a section", where="command line")
    try:
        data[name] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"the value in {item!r} is not valid YAML", where="command line") from error
