"""Where the time goes: sums of stages, profiles between two moments, and records for other tools."""

from ffcv_gpu.trace.clock import StageClock
from ffcv_gpu.trace.profile import Profile
from ffcv_gpu.trace.statistics import BETRAYS, StageStats, StageTime, betrays
from ffcv_gpu.trace.timeline import Timeline

__all__ = ["BETRAYS", "Profile", "StageClock", "StageStats", "StageTime", "Timeline", "betrays"]
