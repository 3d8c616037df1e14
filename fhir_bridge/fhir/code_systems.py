"""Which code systems are everybody's: a code of theirs needs no table, a hospital's own does."""

from __future__ import annotations

_STANDARD = (
    "http://hl7.org/",
    "http://terminology.hl7.org/",
    "http://loinc.org",
    "http://snomed.info/sct",
    "http://www.nlm.nih.gov/research/umls/rxnorm",
    "http://www.ama-assn.org/go/cpt",
    "http://www.whocc.no/atc",
    "http://dicom.nema.org/",
    "http://unitsofmeasure.org",
    "http://nucc.org/",
    "http://varnomen.hgvs.org",
    "http://www.genenames.org",
    "https://www.usps.com/",
    "https://www.iana.org/",
    "http://ihe.net/",
    "http://www.nubc.org/",
    "https://www.nubc.org/",
    "https://bluebutton.cms.gov/",
    "https://www.accessdata.fda.gov/",
    # HL7's own code systems, and those it registers for others.
    "urn:oid:2.16.840.1.113883.5.",
    "urn:oid:2.16.840.1.113883.6.",
    "urn:iso:",
    "urn:ietf:",
    "urn:dicom:",
)
"""Addresses of code systems that somebody publishes for everybody, or what they begin with."""

_BEGINNINGS = tuple(each if each[-1] in "/.:" else f"{each}/" for each in _STANDARD)


def is_standard(system: str) -> bool:
    """Tell whether a code system is published for everybody, by its address; none has the empty one."""
    return system in _STANDARD or system.startswith(_BEGINNINGS)
