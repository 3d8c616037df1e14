"""Search, read and page over a permitted view, and write the answer's Bundle.

There is no other door to records than the view. docs/search.md says what is
supported and in which order records come.
"""

from fhir_bridge.query.criteria import CONTROLS, MODIFIERS, Criteria, read_criteria
from fhir_bridge.query.cursor import Cursor, open_cursor, seal_cursor
from fhir_bridge.query.duplicates import GROUNDS, Alike, alike, suspects
from fhir_bridge.query.past import HistoryAsked, history_of_record, history_of_view, read_history
from fhir_bridge.query.refusals import QueryRefused
from fhir_bridge.query.render import Frame, frame_searchset, render_entries, render_history, render_searchset
from fhir_bridge.query.search import (
    DEFAULT_PAGE,
    MAX_PAGE,
    NOT_RECORDS,
    SearchResult,
    everything,
    history,
    read,
    search,
    vread,
)
from fhir_bridge.query.shaping import SUMMARIES, Shape, read_shape

__all__ = [
    "CONTROLS",
    "DEFAULT_PAGE",
    "GROUNDS",
    "MAX_PAGE",
    "MODIFIERS",
    "NOT_RECORDS",
    "SUMMARIES",
    "Alike",
    "Criteria",
    "Cursor",
    "Frame",
    "HistoryAsked",
    "QueryRefused",
    "SearchResult",
    "Shape",
    "alike",
    "everything",
    "frame_searchset",
    "history",
    "history_of_record",
    "history_of_view",
    "open_cursor",
    "read",
    "read_criteria",
    "read_history",
    "read_shape",
    "render_entries",
    "render_history",
    "render_searchset",
    "seal_cursor",
    "search",
    "suspects",
    "vread",
]
