"""Pages for people: one self-contained HTML file that opens offline."""

from kinetograph.report.page import write_evaluation_page, write_report
from kinetograph.report.record import RunRecord, read_run
from kinetograph.report.view import Scene, scene_of

__all__ = ["RunRecord", "Scene", "read_run", "scene_of", "write_evaluation_page", "write_report"]
