"""The entrance for people and systems: FHIR over HTTP, tokens, health; holds no decisions of its own."""
