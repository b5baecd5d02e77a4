"""``ray.actor``: names that programs import from there."""

from __future__ import annotations

from skate.api.actor_handle import ActorClass, ActorHandle, ActorMethod
from skate.worker.worker_main import exit_actor

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "exit_actor"]
