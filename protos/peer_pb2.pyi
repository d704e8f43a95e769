from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Frame(_message.Message):
    __slots__ = ("open", "data", "abort", "ack", "fin")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    FIN_FIELD_NUMBER: _ClassVar[int]
    open: Open
    data: Data
    abort: Abort
    ack: Ack
    fin: Fin
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., data: _Optional[_Union[Data, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., fin: _Optional[_Union[Fin, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("protocol", "party", "job", "step", "attempt", "round", "session", "received", "resumed")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    party: str
    job: str
    step: str
    attempt: int
    round: int
    session: bytes
    received: int
    resumed: bool
    def __init__(self, protocol: _Optional[int] = ..., party: _Optional[str] = ..., job: _Optional[str] = ..., step: _Optional[str] = ..., attempt: _Optional[int] = ..., round: _Optional[int] = ..., session: _Optional[bytes] = ..., received: _Optional[int] = ..., resumed: _Optional[bool] = ...) -> None: ...

class Data(_message.Message):
    __slots__ = ("type", "seq", "payload", "taken", "more")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    type: str
    seq: int
    payload: bytes
    taken: int
    more: bool
    def __init__(self, type: _Optional[str] = ..., seq: _Optional[int] = ..., payload: _Optional[bytes] = ..., taken: _Optional[int] = ..., more: _Optional[bool] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("taken",)
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    taken: int
    def __init__(self, taken: _Optional[int] = ...) -> None: ...

class Fin(_message.Message):
    __slots__ = ("taken",)
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    taken: int
    def __init__(self, taken: _Optional[int] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("code",)
    CODE_FIELD_NUMBER: _ClassVar[int]
    code: str
    def __init__(self, code: _Optional[str] = ...) -> None: ...

class PsiStart(_message.Message):
    __slots__ = ("elements",)
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    elements: int
    def __init__(self, elements: _Optional[int] = ...) -> None: ...

class MaskedPoints(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class DoublyMasked(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class SortedDoublyMasked(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class IntersectionSize(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class BasePoint(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class BaseChoices(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class TreeSums(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class StoreColumns(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class ItemTags(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class SharedMarks(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class CommonOrder(_message.Message):
    __slots__ = ("share",)
    SHARE_FIELD_NUMBER: _ClassVar[int]
    share: bytes
    def __init__(self, share: _Optional[bytes] = ...) -> None: ...

class FilterAsk(_message.Message):
    __slots__ = ("reuse_days", "key", "version", "digest", "renew")
    REUSE_DAYS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    reuse_days: int
    key: bytes
    version: int
    digest: bytes
    renew: bool
    def __init__(self, reuse_days: _Optional[int] = ..., key: _Optional[bytes] = ..., version: _Optional[int] = ..., digest: _Optional[bytes] = ..., renew: _Optional[bool] = ...) -> None: ...

class FilterState(_message.Message):
    __slots__ = ("key", "version", "digest", "prefix_bits", "base", "removed", "added", "reusable")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PREFIX_BITS_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REUSABLE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    version: int
    digest: bytes
    prefix_bits: int
    base: int
    removed: int
    added: int
    reusable: bool
    def __init__(self, key: _Optional[bytes] = ..., version: _Optional[int] = ..., digest: _Optional[bytes] = ..., prefix_bits: _Optional[int] = ..., base: _Optional[int] = ..., removed: _Optional[int] = ..., added: _Optional[int] = ..., reusable: _Optional[bool] = ...) -> None: ...

class FilterQueries(_message.Message):
    __slots__ = ("elements",)
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    elements: int
    def __init__(self, elements: _Optional[int] = ...) -> None: ...

class FilterIndex(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class FilterRemainders(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class FilterRemoved(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class FilterAdded(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class BlindedPoints(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class EvaluatedPoints(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class SharedCount(_message.Message):
    __slots__ = ("elements",)
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    elements: int
    def __init__(self, elements: _Optional[int] = ...) -> None: ...

class SharedValues(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class SharedConfirmed(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class PaillierKey(_message.Message):
    __slots__ = ("bits", "modulus", "h_s")
    BITS_FIELD_NUMBER: _ClassVar[int]
    MODULUS_FIELD_NUMBER: _ClassVar[int]
    H_S_FIELD_NUMBER: _ClassVar[int]
    bits: int
    modulus: bytes
    h_s: bytes
    def __init__(self, bits: _Optional[int] = ..., modulus: _Optional[bytes] = ..., h_s: _Optional[bytes] = ...) -> None: ...

class JobFigures(_message.Message):
    __slots__ = ("rows", "columns", "base_rate")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    BASE_RATE_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    base_rate: str
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ..., base_rate: _Optional[str] = ...) -> None: ...

class RowMasks(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class RowProducts(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class ColumnMasks(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class ColumnProducts(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class PreconditionerMasks(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class PreconditionerProducts(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class MaskedWeights(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class MaskedResiduals(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class FirstResiduals(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class MaskedGradients(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class BaseOtChoices(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class BaseOtReplies(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class OtColumns(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class LookupTables(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class DirectiveEcho(_message.Message):
    __slots__ = ("coefficients", "lookup_range")
    COEFFICIENTS_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_RANGE_FIELD_NUMBER: _ClassVar[int]
    coefficients: _containers.RepeatedScalarFieldContainer[float]
    lookup_range: float
    def __init__(self, coefficients: _Optional[_Iterable[float]] = ..., lookup_range: _Optional[float] = ...) -> None: ...

class DotOperands(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class DotResults(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class InnerProductParts(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class WeightShares(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class BandTables(_message.Message):
    __slots__ = ("first", "count", "values")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    values: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class Aggregates(_message.Message):
    __slots__ = ("auc", "ks", "log_loss", "base_rate", "rows")
    AUC_FIELD_NUMBER: _ClassVar[int]
    KS_FIELD_NUMBER: _ClassVar[int]
    LOG_LOSS_FIELD_NUMBER: _ClassVar[int]
    BASE_RATE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    auc: str
    ks: str
    log_loss: str
    base_rate: str
    rows: int
    def __init__(self, auc: _Optional[str] = ..., ks: _Optional[str] = ..., log_loss: _Optional[str] = ..., base_rate: _Optional[str] = ..., rows: _Optional[int] = ...) -> None: ...

class StepReceipt(_message.Message):
    __slots__ = ("digest", "signature")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    signature: bytes
    def __init__(self, digest: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...
