"""The errors that programs catch, under skate's names and under Ray's.

Imported by users. Every alias *is* the class it stands for, so either name catches either. The
classes live in `skate.errors`; nothing is defined here.
"""

from __future__ import annotations

from skate.errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorError,
    ActorHandleNotFoundError,
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    ActorUnschedulableError,
    AsyncioActorExit,
    AuthenticationError,
    ClusterFailureError,
    GetTimeoutError,
    LocalNodeDiedError,
    NodeDiedError,
    ObjectFetchTimedOutError,
    ObjectFreedError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    OwnerDiedError,
    PendingCallsLimitExceeded,
    ReferenceCountingAssertionError,
    RemoteCodeError,
    RuntimeClosedError,
    RuntimeEnvSetupError,
    SkateError,
    SystemFailureError,
    TaskCancelledError,
    TaskError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    UnserializableException,
    UsageError,
    UserCodeException,
    WorkerCrashedError,
)

RayError = SkateError
RayTaskError = TaskError
RayActorError = ActorError
RaySystemError = SystemFailureError
LocalRayletDiedError = LocalNodeDiedError

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AsyncioActorExit",
    "AuthenticationError",
    "ClusterFailureError",
    "GetTimeoutError",
    "LocalNodeDiedError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "RayActorError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ReferenceCountingAssertionError",
    "RemoteCodeError",
    "RuntimeClosedError",
    "RuntimeEnvSetupError",
    "SkateError",
    "SystemFailureError",
    "TaskCancelledError",
    "TaskError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "UnserializableException",
    "UsageError",
    "UserCodeException",
    "WorkerCrashedError",
]
