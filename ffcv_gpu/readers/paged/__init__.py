"""The reader for files larger than memory: reads pages ahead in the epoch's order, in bounded memory."""

from ffcv_gpu.readers.paged.reader import PagedReader
from ffcv_gpu.readers.paged.schedule import PageSchedule, plan_pages
from ffcv_gpu.readers.paged.storage import JoinedPages, PageFile

__all__ = ["JoinedPages", "PageFile", "PageSchedule", "PagedReader", "plan_pages"]
