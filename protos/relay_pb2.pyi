from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Sealed(_message.Message):
    __slots__ = ("room", "record")
    ROOM_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    room: Room
    record: bytes
    def __init__(self, room: _Optional[_Union[Room, _Mapping]] = ..., record: _Optional[bytes] = ...) -> None: ...

class Room(_message.Message):
    __slots__ = ("protocol", "job", "step", "round", "attempt", "peer")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    job: str
    step: str
    round: int
    attempt: int
    peer: str
    def __init__(self, protocol: _Optional[int] = ..., job: _Optional[str] = ..., step: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., peer: _Optional[str] = ...) -> None: ...
