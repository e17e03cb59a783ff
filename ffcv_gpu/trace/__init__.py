"""Where the time goes: totals per stage, profiles of an interval, and spans for other tools."""

from ffcv_gpu.trace.clock import StageClock
from ffcv_gpu.trace.profile import Profile
from ffcv_gpu.trace.statistics import BETRAYS, StageStats, StageTime, betrays
from ffcv_gpu.trace.timeline import Timeline

__all__ = ["BETRAYS", "Profile", "StageClock", "StageStats", "StageTime", "Timeline", "betrays"]
