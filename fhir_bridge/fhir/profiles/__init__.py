"""Profiles of R4 (US Core, IPS and their like) from published packages, judged record by record."""

from fhir_bridge.fhir.profiles.judging import SEVERITIES, Choice, Profiles, load_profiles

__all__ = ["SEVERITIES", "Choice", "Profiles", "load_profiles"]
