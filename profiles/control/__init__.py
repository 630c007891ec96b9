"""The control channel: other terminals of the same user see into running sessions, and change nothing there."""

from profiles.control.client import RunningSession, SessionGone, running_sessions
from profiles.control.server import ControlServer

__all__ = ["ControlServer", "RunningSession", "SessionGone", "running_sessions"]
