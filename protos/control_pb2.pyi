from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Report(_message.Message):
    __slots__ = ("hello", "decision", "step_done", "step_failed", "progress", "checkpoint", "cosignature")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    STEP_DONE_FIELD_NUMBER: _ClassVar[int]
    STEP_FAILED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    COSIGNATURE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    decision: Decision
    step_done: StepDone
    step_failed: StepFailed
    progress: StepProgress
    checkpoint: Checkpoint
    cosignature: Cosignature
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ..., step_done: _Optional[_Union[StepDone, _Mapping]] = ..., step_failed: _Optional[_Union[StepFailed, _Mapping]] = ..., progress: _Optional[_Union[StepProgress, _Mapping]] = ..., checkpoint: _Optional[_Union[Checkpoint, _Mapping]] = ..., cosignature: _Optional[_Union[Cosignature, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "party", "software")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    party: str
    software: str
    def __init__(self, protocol: _Optional[int] = ..., party: _Optional[str] = ..., software: _Optional[str] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("job", "statement", "signature")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    job: str
    statement: str
    signature: str
    def __init__(self, job: _Optional[str] = ..., statement: _Optional[str] = ..., signature: _Optional[str] = ...) -> None: ...

class StepDone(_message.Message):
    __slots__ = ("job", "step", "attempt", "round", "transcript_sha256", "seconds", "bytes_sent", "bytes_received", "peak_rss_bytes", "set_size", "intersection", "rows_train", "rows_holdout", "columns", "base_rate", "inner_products", "metrics")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TRANSCRIPT_SHA256_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    PEAK_RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    SET_SIZE_FIELD_NUMBER: _ClassVar[int]
    INTERSECTION_FIELD_NUMBER: _ClassVar[int]
    ROWS_TRAIN_FIELD_NUMBER: _ClassVar[int]
    ROWS_HOLDOUT_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    BASE_RATE_FIELD_NUMBER: _ClassVar[int]
    INNER_PRODUCTS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: str
    attempt: int
    round: int
    transcript_sha256: str
    seconds: float
    bytes_sent: int
    bytes_received: int
    peak_rss_bytes: int
    set_size: int
    intersection: int
    rows_train: int
    rows_holdout: int
    columns: int
    base_rate: str
    inner_products: _containers.RepeatedScalarFieldContainer[float]
    metrics: Metrics
    def __init__(self, job: _Optional[str] = ..., step: _Optional[str] = ..., attempt: _Optional[int] = ..., round: _Optional[int] = ..., transcript_sha256: _Optional[str] = ..., seconds: _Optional[float] = ..., bytes_sent: _Optional[int] = ..., bytes_received: _Optional[int] = ..., peak_rss_bytes: _Optional[int] = ..., set_size: _Optional[int] = ..., intersection: _Optional[int] = ..., rows_train: _Optional[int] = ..., rows_holdout: _Optional[int] = ..., columns: _Optional[int] = ..., base_rate: _Optional[str] = ..., inner_products: _Optional[_Iterable[float]] = ..., metrics: _Optional[_Union[Metrics, _Mapping]] = ...) -> None: ...

class Metrics(_message.Message):
    __slots__ = ("auc", "ks", "log_loss", "base_rate", "rows", "gains")
    AUC_FIELD_NUMBER: _ClassVar[int]
    KS_FIELD_NUMBER: _ClassVar[int]
    LOG_LOSS_FIELD_NUMBER: _ClassVar[int]
    BASE_RATE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    GAINS_FIELD_NUMBER: _ClassVar[int]
    auc: float
    ks: float
    log_loss: float
    base_rate: float
    rows: int
    gains: _containers.RepeatedCompositeFieldContainer[GainsRow]
    def __init__(self, auc: _Optional[float] = ..., ks: _Optional[float] = ..., log_loss: _Optional[float] = ..., base_rate: _Optional[float] = ..., rows: _Optional[int] = ..., gains: _Optional[_Iterable[_Union[GainsRow, _Mapping]]] = ...) -> None: ...

class GainsRow(_message.Message):
    __slots__ = ("decile", "rows", "positives")
    DECILE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    POSITIVES_FIELD_NUMBER: _ClassVar[int]
    decile: int
    rows: int
    positives: int
    def __init__(self, decile: _Optional[int] = ..., rows: _Optional[int] = ..., positives: _Optional[int] = ...) -> None: ...

class StepFailed(_message.Message):
    __slots__ = ("job", "step", "attempt", "round", "code")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: str
    attempt: int
    round: int
    code: str
    def __init__(self, job: _Optional[str] = ..., step: _Optional[str] = ..., attempt: _Optional[int] = ..., round: _Optional[int] = ..., code: _Optional[str] = ...) -> None: ...

class StepProgress(_message.Message):
    __slots__ = ("job", "step", "attempt", "round", "phase", "done", "total")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: str
    attempt: int
    round: int
    phase: str
    done: int
    total: int
    def __init__(self, job: _Optional[str] = ..., step: _Optional[str] = ..., attempt: _Optional[int] = ..., round: _Optional[int] = ..., phase: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("log", "witness", "note", "old_size", "proof")
    LOG_FIELD_NUMBER: _ClassVar[int]
    WITNESS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    OLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    log: str
    witness: str
    note: str
    old_size: int
    proof: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, log: _Optional[str] = ..., witness: _Optional[str] = ..., note: _Optional[str] = ..., old_size: _Optional[int] = ..., proof: _Optional[_Iterable[str]] = ...) -> None: ...

class Cosignature(_message.Message):
    __slots__ = ("log", "witness", "size", "line", "code")
    LOG_FIELD_NUMBER: _ClassVar[int]
    WITNESS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    log: str
    witness: str
    size: int
    line: str
    code: str
    def __init__(self, log: _Optional[str] = ..., witness: _Optional[str] = ..., size: _Optional[int] = ..., line: _Optional[str] = ..., code: _Optional[str] = ...) -> None: ...

class Directive(_message.Message):
    __slots__ = ("welcome", "offer", "approvals", "step_start", "job_end", "checkpoint", "cosignature")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    APPROVALS_FIELD_NUMBER: _ClassVar[int]
    STEP_START_FIELD_NUMBER: _ClassVar[int]
    JOB_END_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    COSIGNATURE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    offer: Offer
    approvals: Approvals
    step_start: StepStart
    job_end: JobEnd
    checkpoint: Checkpoint
    cosignature: Cosignature
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., offer: _Optional[_Union[Offer, _Mapping]] = ..., approvals: _Optional[_Union[Approvals, _Mapping]] = ..., step_start: _Optional[_Union[StepStart, _Mapping]] = ..., job_end: _Optional[_Union[JobEnd, _Mapping]] = ..., checkpoint: _Optional[_Union[Checkpoint, _Mapping]] = ..., cosignature: _Optional[_Union[Cosignature, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "party", "software")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    party: str
    software: str
    def __init__(self, protocol: _Optional[int] = ..., party: _Optional[str] = ..., software: _Optional[str] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("job", "spec")
    JOB_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    job: str
    spec: str
    def __init__(self, job: _Optional[str] = ..., spec: _Optional[str] = ...) -> None: ...

class Approvals(_message.Message):
    __slots__ = ("job", "decisions")
    JOB_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    job: str
    decisions: _containers.RepeatedCompositeFieldContainer[Decision]
    def __init__(self, job: _Optional[str] = ..., decisions: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ...) -> None: ...

class StepStart(_message.Message):
    __slots__ = ("job", "step", "attempt", "round", "coefficients", "lookup_range")
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENTS_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_RANGE_FIELD_NUMBER: _ClassVar[int]
    job: str
    step: str
    attempt: int
    round: int
    coefficients: _containers.RepeatedScalarFieldContainer[float]
    lookup_range: float
    def __init__(self, job: _Optional[str] = ..., step: _Optional[str] = ..., attempt: _Optional[int] = ..., round: _Optional[int] = ..., coefficients: _Optional[_Iterable[float]] = ..., lookup_range: _Optional[float] = ...) -> None: ...

class JobEnd(_message.Message):
    __slots__ = ("job", "outcome", "code")
    JOB_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    job: str
    outcome: str
    code: str
    def __init__(self, job: _Optional[str] = ..., outcome: _Optional[str] = ..., code: _Optional[str] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("spec",)
    SPEC_FIELD_NUMBER: _ClassVar[int]
    spec: str
    def __init__(self, spec: _Optional[str] = ...) -> None: ...

class SubmitReply(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class JobsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class JobsReply(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[JobView]
    def __init__(self, jobs: _Optional[_Iterable[_Union[JobView, _Mapping]]] = ...) -> None: ...

class ShowRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class JobView(_message.Message):
    __slots__ = ("job", "spec", "state", "code", "step", "round", "attempt", "submitted", "updated", "parties", "steps", "base_rate", "converged", "metrics")
    JOB_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    BASE_RATE_FIELD_NUMBER: _ClassVar[int]
    CONVERGED_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    job: str
    spec: str
    state: str
    code: str
    step: str
    round: int
    attempt: int
    submitted: str
    updated: str
    parties: _containers.RepeatedCompositeFieldContainer[PartyView]
    steps: _containers.RepeatedCompositeFieldContainer[StepView]
    base_rate: str
    converged: bool
    metrics: Metrics
    def __init__(self, job: _Optional[str] = ..., spec: _Optional[str] = ..., state: _Optional[str] = ..., code: _Optional[str] = ..., step: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., submitted: _Optional[str] = ..., updated: _Optional[str] = ..., parties: _Optional[_Iterable[_Union[PartyView, _Mapping]]] = ..., steps: _Optional[_Iterable[_Union[StepView, _Mapping]]] = ..., base_rate: _Optional[str] = ..., converged: _Optional[bool] = ..., metrics: _Optional[_Union[Metrics, _Mapping]] = ...) -> None: ...

class PartyView(_message.Message):
    __slots__ = ("party", "attached", "decision", "phase", "done", "total")
    PARTY_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    party: str
    attached: bool
    decision: str
    phase: str
    done: int
    total: int
    def __init__(self, party: _Optional[str] = ..., attached: _Optional[bool] = ..., decision: _Optional[str] = ..., phase: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class StepView(_message.Message):
    __slots__ = ("step", "round", "attempt", "state", "seconds", "decrement", "reports", "reporters", "bytes_relayed")
    STEP_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    DECREMENT_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    REPORTERS_FIELD_NUMBER: _ClassVar[int]
    BYTES_RELAYED_FIELD_NUMBER: _ClassVar[int]
    step: str
    round: int
    attempt: int
    state: str
    seconds: float
    decrement: float
    reports: _containers.RepeatedCompositeFieldContainer[StepDone]
    reporters: _containers.RepeatedScalarFieldContainer[str]
    bytes_relayed: int
    def __init__(self, step: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., state: _Optional[str] = ..., seconds: _Optional[float] = ..., decrement: _Optional[float] = ..., reports: _Optional[_Iterable[_Union[StepDone, _Mapping]]] = ..., reporters: _Optional[_Iterable[str]] = ..., bytes_relayed: _Optional[int] = ...) -> None: ...
