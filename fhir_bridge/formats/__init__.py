"""Source formats behind the port ``SourceFormat``: CSV, as small clinics export it.

What an institution's files look like is said in its rule pack (``csv`` of source.yaml, read by
``normalize/csv_choices.py``); what stands here reads them so. HL7 v2 and C-CDA are to come in by the same door.
"""

from __future__ import annotations

from fhir_bridge.formats.csv_format import CSV_TYPE, CsvFormat
from fhir_bridge.formats.csv_table import Column, Constant, Spread, Step, Table
from fhir_bridge.formats.csv_text import CsvText, Dialect, pieces

__all__ = ["CSV_TYPE", "Column", "Constant", "CsvFormat", "CsvText", "Dialect", "Spread", "Step", "Table", "pieces"]
