"""What a data set offers, checked against what a job asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from audit.spec import JoinKey
from audit.strict_toml import nearest
from node.config import DatasetConfig
from node.errors import DataError, PolicyError

Role = Literal["label_holder", "feature_holder"]


def check_features(dataset: DatasetConfig, features: Sequence[str], *, role: Role) -> None:
    """Every feature a job asks of this node is a column it offers, and usable in this role.

    Raises:
        PolicyError: ``policy.feature_not_offered`` (names the nearest column), ``policy.feature_is_label``.
        DataError: ``data.woe_needs_label`` for a weight-of-evidence column on the feature holder.
    """
    for name in features:
        column = dataset.columns.get(name)
        if column is None:
            raise PolicyError(
                "policy.feature_not_offered",
                f"The column {name!r} is not offered by the data set {dataset.name!r}.{nearest(name, dataset.features)}",
                remedy=f"Ask for one of its columns ({listed(dataset.features)}), or offer this one under "
                "[dataset.columns] in node.toml.",
            )
        if column.kind == "label":
            raise PolicyError(
                "policy.feature_is_label",
                f"The column {name!r} of the data set {dataset.name!r} is declared as a label and is asked for as a feature.",
                remedy="Leave it out of the features; a label is never used to predict.",
            )
        if column.encoding == "woe" and role != "label_holder":
            raise DataError(
                "data.woe_needs_label",
                f"The column {name!r} of the data set {dataset.name!r} is encoded by weight of evidence, which needs the label.",
                remedy='Set encoding = "one-hot" for it in node.toml: this node holds no label in this job.',
            )


def check_label(dataset: DatasetConfig, label: str) -> None:
    """The label a job asks for is offered as one.

    Raises:
        PolicyError: ``policy.label_not_offered``, ``policy.label_kind``.
    """
    column = dataset.columns.get(label)
    if column is None:
        raise PolicyError(
            "policy.label_not_offered",
            f"The label column {label!r} is not offered by the data set {dataset.name!r}.{nearest(label, dataset.labels)}",
            remedy=f'Ask for one of its labels ({listed(dataset.labels)}), or declare this one with kind = "label" in node.toml.',
        )
    if column.kind != "label":
        raise PolicyError(
            "policy.label_kind",
            f"The column {label!r} of the data set {dataset.name!r} is declared as a {column.kind}, not as a label.",
            remedy='Declare it with kind = "label" in node.toml if it may be predicted.',
        )


def check_keys(dataset: DatasetConfig, keys: Sequence[JoinKey]) -> None:
    """Every key that a job names is one that the data set has, under the same rule.

    Raises:
        PolicyError: ``policy.key_not_offered`` (names the nearest), ``policy.normalise``.
    """
    for key in keys:
        offered = dataset.keys.get(key.name)
        if offered is None:
            raise PolicyError(
                "policy.key_not_offered",
                f"The data set {dataset.name!r} has no key {key.name!r}.{nearest(key.name, list(dataset.keys))}",
                remedy=f"Name one of its keys ({listed(dataset.keys)}) in the job's align.keys, or declare this one under "
                "[dataset.keys] in node.toml.",
            )
        if offered.normalise != key.normalise:
            raise PolicyError(
                "policy.normalise",
                f"The job's key {key.name!r} is normalised by {key.normalise!r}; the data set {dataset.name!r} declares "
                f"{offered.normalise!r}.",
                remedy="Both nodes must declare the rule that the job names: agree on one with the partner.",
            )


def check_present(dataset: DatasetConfig, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Every declared column is in the source, once.

    Raises:
        DataError: ``data.missing_column`` (names the nearest), ``data.duplicate_column``.
    """
    for name in wanted:
        count = list(found).count(name)
        if count == 0:
            identifies = name == dataset.identifier or any(key.column == name for key in dataset.keys.values())
            what = "identifier column" if identifies else "column"
            raise DataError(
                "data.missing_column",
                f"The {what} {name!r} is not in the data set {dataset.name!r}.{nearest(name, found)}",
                remedy=_other_delimiter(dataset, found) or f"Correct the name in node.toml; the source has {listed(found)}.",
            )
        if count > 1:
            raise DataError(
                "data.duplicate_column",
                f"The data set {dataset.name!r} has {count} columns called {name!r}.",
                remedy="Give each column of the source a name of its own.",
            )


def _other_delimiter(dataset: DatasetConfig, found: Sequence[str]) -> str:
    """The remedy for a CSV whose header was read as one column because other characters part its fields; empty for any other."""
    if dataset.source != "csv" or len(found) != 1:
        return ""
    for delimiter, written in ((";", ";"), ("\t", r"\t")):
        if delimiter in found[0]:
            return f'The header is parted by another character: declare delimiter = "{written}" for this data set in node.toml.'
    return ""


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names for an error text, shortened when there are many."""
    names = list(names)
    if not names:
        return "none"
    shown = ", ".join(name[:64] for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
