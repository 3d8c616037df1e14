"""FHIR in, consented FHIR out: the bridge between institutions that need not trust each other."""

__version__ = "0.1.0"
